//! Flags and environment variables of the Schema Registry.

use std::fs;
use std::path::Path;

use clap::Args;

use crate::config::password;
use crate::kafka::Password;
use crate::registry::{Address, Registry, SchemaCache};
use crate::schemas::EventReader;

/// How to reach the Schema Registry.
#[derive(Debug, Clone, Args)]
pub struct RegistryArgs {
    /// Schema Registry: http://host:port, with a path where its API has one; several addresses of one registry with
    /// commas. Without one, only JSON events are read
    #[arg(long, env = "SCHEMA_REGISTRY_URL", value_delimiter = ',', value_parser = clap::value_parser!(Address))]
    pub schema_registry_url: Vec<Address>,
    /// User to log in as at the Schema Registry; without one, nobody logs in
    #[arg(long, env = "SCHEMA_REGISTRY_USERNAME")]
    pub schema_registry_username: Option<String>,
    /// The user's password
    #[arg(long, env = "SCHEMA_REGISTRY_PASSWORD", hide_env_values = true, requires = "schema_registry_username", value_parser = password)]
    pub schema_registry_password: Option<Password>,
    /// File that holds the user's password
    #[arg(long, env = "SCHEMA_REGISTRY_PASSWORD_FILE", value_name = "FILE", conflicts_with = "schema_registry_password", requires = "schema_registry_username", value_parser = password_in_file)]
    pub schema_registry_password_file: Option<Password>,
}

impl RegistryArgs {
    /// The registry, if one is configured.
    pub fn registry(&self) -> Option<Registry> {
        if self.schema_registry_url.is_empty() {
            return None;
        }
        let password = self.schema_registry_password.as_ref().or(self.schema_registry_password_file.as_ref());
        let password = password.map_or("", |Password(text)| text.as_str());
        let user = self.schema_registry_username.as_deref().map(|name| (name, password));
        Some(Registry::new(self.schema_registry_url.clone(), user))
    }

    /// The registry's schemas on disk, in a service's state folder.
    pub fn cache(&self, state_dir: &Path) -> SchemaCache {
        SchemaCache::new(state_dir, &self.schema_registry_url)
    }

    /// A reader of events that keeps what it has seen in a service's state folder, if it has one.
    pub fn reader(&self, state_dir: Option<&Path>) -> EventReader {
        let cache = state_dir.map(|state_dir| self.cache(state_dir));
        self.registry().map_or_else(EventReader::json, |registry| EventReader::new(registry, cache))
    }
}

/// The first line of a file, which an editor may have ended.
fn password_in_file(path: &str) -> Result<Password, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("the file cannot be read: {error}"))?;
    Ok(Password(text.trim_end_matches(['\r', '\n']).to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        registry: RegistryArgs,
    }

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once(&"x").chain(args))
    }

    #[test]
    fn several_addresses_are_separated_by_commas_and_none_is_no_registry() {
        let cli = parse(&["--schema-registry-url", "http://a:1,http://b:2/x"]).unwrap();
        assert_eq!(cli.registry.registry().unwrap().addresses(), "http://a:1,http://b:2/x");
        assert!(parse(&[]).unwrap().registry.registry().is_none());
        let wrong = parse(&["--schema-registry-url", "http://a:1,"]).unwrap_err().to_string();
        assert!(wrong.contains("comma too many"), "{wrong}");
    }

    #[test]
    fn a_password_comes_from_the_variable_or_from_a_file_and_is_never_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "hush\n").unwrap();
        let path = file.path().to_str().unwrap();
        let user = ["--schema-registry-url", "http://a:1", "--schema-registry-username", "me"];
        let in_file = [&user[..], &["--schema-registry-password-file", path]].concat();
        let cli = parse(&in_file).unwrap();
        assert_eq!(cli.registry.schema_registry_password_file.as_ref().unwrap().0, "hush");
        assert!(!format!("{cli:?} {:?}", cli.registry.registry()).contains("hush"));
        let both = [&in_file[..], &["--schema-registry-password", "x"]].concat();
        assert!(parse(&both).is_err());
        assert!(parse(&["--schema-registry-password", "x"]).is_err(), "of nobody");
        let missing = [&user[..], &["--schema-registry-password-file", "/nowhere"]].concat();
        assert!(parse(&missing).unwrap_err().to_string().contains("cannot be read"));
    }
}
