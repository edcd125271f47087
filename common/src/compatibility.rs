//! Why a schema cannot follow those of its subject, in words that name the field: registries answer with places in the
//! schema's text, or with nothing.

use crate::avro::{Schema, breaks};
use crate::registry::{Registry, RegistryError};

/// Versions that are compared, the newest ones.
const MAX_VERSIONS: usize = 100;

/// What keeps the schema from following, for each version of the subject that it breaks with. It may be empty where the
/// registry has a rule of its own.
pub async fn obstacles(
    registry: &Registry,
    subject: &str,
    schema: &Schema,
    level: Option<&str>,
) -> Result<Vec<String>, RegistryError> {
    let level = level.unwrap_or("BACKWARD");
    let mut versions = registry.versions(subject).await?;
    if !level.ends_with("_TRANSITIVE") {
        versions = versions.split_off(versions.len().saturating_sub(1));
    }
    let mut found = Vec::new();
    for version in versions.into_iter().rev().take(MAX_VERSIONS) {
        let registered = registry.version(subject, version).await?;
        let other = match Schema::parse(&registered.schema) {
            Ok(other) => other,
            Err(error) => {
                found.push(format!("version {version}: {error}"));
                continue;
            }
        };
        if level.starts_with("BACKWARD") || level.starts_with("FULL") {
            found.extend(named(version, "what it wrote cannot be read", &breaks(&other, schema)));
        }
        if level.starts_with("FORWARD") || level.starts_with("FULL") {
            found.extend(named(version, "it cannot read what is written", &breaks(schema, &other)));
        }
    }
    Ok(found)
}

fn named(version: u32, what: &str, breaks: &[String]) -> Vec<String> {
    breaks.iter().map(|one| format!("version {version}, {what}: {one}")).collect()
}

/// The refusal of a registration with what breaks added to it; the same error where it is another one.
pub async fn explained(
    registry: &Registry,
    subject: &str,
    text: &str,
    refusal: RegistryError,
) -> RegistryError {
    let RegistryError::Refused { call, status: 409, code, message } = refusal else { return refusal };
    let level = registry.level(subject).await.ok().flatten();
    let found = match Schema::parse(text) {
        Ok(schema) => obstacles(registry, subject, &schema, level.as_deref()).await.unwrap_or_default(),
        Err(error) => vec![error.to_string()],
    };
    let message =
        if found.is_empty() { message } else { format!("{}; it says: {message}", found.join("; ")) };
    RegistryError::Refused { call, status: 409, code, message }
}
