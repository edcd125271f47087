//! A client of a Schema Registry, by the REST API that Confluent's has and others (Apicurio, Karapace, Redpanda) offer.
//!
//! # Invariants
//!
//! - *Every call is bounded*: each address in time, and its answer in bytes. A call asks the address that answered last,
//!   then the others; it is not repeated here.
//! - *"It is not there" is said by the registry alone*: 404 with a code of its own in JSON, by every address that
//!   answers. A page of a proxy, a wrong path, an error of the server are temporary: no event is given up for them.
//! - *Passwords are in no message.*

mod address;
mod cache;
mod error;
mod http;
mod login;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

pub use address::Address;
pub use cache::SchemaCache;
pub use error::RegistryError;
pub use login::Login;

use crate::tls::Tls;
use http::{Answer, Method, Request};
use login::basic;

/// Time for an address to answer a question about an id: a look into memory. Within it and the backoff, a partition
/// goes on two seconds after the registry is back.
const LOOKUP_TIMEOUT: Duration = Duration::from_millis(1_000);
/// Time for an address to answer anything else: it may have to write.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// "Schema not found" and "Subject not found", "Version not found".
const NOT_FOUND: [i64; 3] = [40_403, 40_401, 40_402];

/// The registry. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    addresses: Vec<Address>,
    login: Option<Login>,
    tls: Option<Tls>,
    /// The address that answered last.
    first: AtomicUsize,
}

/// Whether a schema may follow those that are registered.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Compatibility {
    /// It may.
    pub is_compatible: bool,
    /// Why not, as Confluent's registry says it.
    #[serde(default)]
    pub messages: Vec<String>,
    /// The same, as Apicurio's does.
    #[serde(default)]
    pub reason: Option<String>,
}

/// A schema as it is registered.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Registered {
    /// Its id, which is in each record.
    pub id: u32,
    /// Its version within the subject.
    #[serde(default)]
    pub version: u32,
    /// Its text.
    pub schema: String,
}

impl Registry {
    /// A registry that is reached at any of these addresses. With a user, it is asked with basic authentication.
    pub fn new(addresses: Vec<Address>, login: Option<Login>) -> Self {
        Self(Arc::new(Inner { addresses, login, tls: None, first: AtomicUsize::new(0) }))
    }

    /// The same, with TLS for its https addresses.
    pub fn with_tls(self, tls: Option<Tls>) -> Self {
        let Inner { addresses, login, first, .. } = &*self.0;
        let (addresses, login) = (addresses.clone(), login.clone());
        let first = AtomicUsize::new(first.load(Ordering::Relaxed));
        Self(Arc::new(Inner { addresses, login, tls, first }))
    }

    /// Its addresses, as a person reads them.
    pub fn addresses(&self) -> String {
        self.0.addresses.iter().map(Address::to_string).collect::<Vec<_>>().join(",")
    }

    /// The text of the schema of that id.
    pub async fn schema(&self, id: u32) -> Result<String, RegistryError> {
        #[derive(Deserialize)]
        struct Found {
            schema: String,
            #[serde(rename = "schemaType")]
            kind: Option<String>,
        }
        let call = format!("GET /schemas/ids/{id}");
        let found: Found =
            self.call(Method::Get, &format!("/schemas/ids/{id}"), None, LOOKUP_TIMEOUT).await?;
        match found.kind.as_deref() {
            None | Some("AVRO") => Ok(found.schema),
            Some(kind) => Err(RegistryError::Kind { call, kind: kind.chars().take(20).collect() }),
        }
    }

    /// Registers a schema under a subject, if it is not registered yet.
    pub async fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        #[derive(Deserialize)]
        struct Id {
            id: u32,
        }
        let path = format!("/subjects/{}/versions", encoded(subject));
        let id: Id = self.call(Method::Post, &path, Some(json!({"schema": schema})), CALL_TIMEOUT).await?;
        Ok(id.id)
    }

    /// What a schema is registered as.
    pub async fn find(&self, subject: &str, schema: &str) -> Result<Registered, RegistryError> {
        let path = format!("/subjects/{}", encoded(subject));
        self.call(Method::Post, &path, Some(json!({"schema": schema})), CALL_TIMEOUT).await
    }

    /// The versions of a subject.
    pub async fn versions(&self, subject: &str) -> Result<Vec<u32>, RegistryError> {
        self.call(Method::Get, &format!("/subjects/{}/versions", encoded(subject)), None, CALL_TIMEOUT).await
    }

    /// One version of a subject.
    pub async fn version(&self, subject: &str, version: u32) -> Result<Registered, RegistryError> {
        let path = format!("/subjects/{}/versions/{version}", encoded(subject));
        self.call(Method::Get, &path, None, CALL_TIMEOUT).await
    }

    /// Whether a schema may follow those of a subject, by the subject's level.
    pub async fn check(&self, subject: &str, schema: &str) -> Result<Compatibility, RegistryError> {
        let path = format!("/compatibility/subjects/{}/versions?verbose=true", encoded(subject));
        self.call(Method::Post, &path, Some(json!({"schema": schema})), CALL_TIMEOUT).await
    }

    /// The compatibility level of a subject, if it has one of its own.
    pub async fn level(&self, subject: &str) -> Result<Option<String>, RegistryError> {
        let path = format!("/config/{}", encoded(subject));
        let answer: Result<Value, _> = self.call(Method::Get, &path, None, CALL_TIMEOUT).await;
        match answer {
            Ok(answer) => {
                let level = answer.get("compatibilityLevel").or_else(|| answer.get("compatibility"));
                Ok(level.and_then(Value::as_str).map(str::to_owned))
            }
            // 40408: the subject has no level of its own.
            Err(error) if error.is_not_found() => Ok(None),
            Err(RegistryError::Refused { status: 404, code: 40_408, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets it.
    pub async fn set_level(&self, subject: &str, level: &str) -> Result<(), RegistryError> {
        let path = format!("/config/{}", encoded(subject));
        let body = Some(json!({"compatibility": level}));
        self.call::<Value>(Method::Put, &path, body, CALL_TIMEOUT).await.map(drop)
    }

    /// Asks one address after the other until one answers, or refuses.
    async fn call<T: for<'de> Deserialize<'de>>(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        limit: Duration,
    ) -> Result<T, RegistryError> {
        let Inner { addresses, login, tls, first } = &*self.0;
        let body = body.map(|body| body.to_string());
        let start = first.load(Ordering::Relaxed);
        let (mut failures, mut refusal) = (Vec::new(), None);
        let login = login.as_ref().filter(|_| addresses.iter().any(|address| address.user().is_none()));
        let common = match login {
            Some(login) => Some(login.authorization(limit).await.map_err(RegistryError::Unreachable)?),
            None => None,
        };
        for n in 0..addresses.len() {
            let at = (start + n) % addresses.len();
            let Some(address) = addresses.get(at) else { continue };
            let own = address.user().map(basic);
            let request = Request {
                method,
                path,
                body: body.as_deref(),
                authorization: own.as_deref().or(common.as_deref()),
            };
            let call = || format!("{method} {address}{path}");
            let failure = match http::exchange(address, tls.as_ref(), &request, limit).await {
                Err(why) => format!("{address}: {why}"),
                Ok(answer) => match read(&answer, call) {
                    Ok(value) => {
                        first.store(at, Ordering::Relaxed);
                        return Ok(value);
                    }
                    // Another address may know it already.
                    Err(error) if error.is_not_found() => {
                        refusal = Some(error);
                        continue;
                    }
                    Err(RegistryError::Unreachable(why)) => format!("{address}: {why}"),
                    Err(error) => return Err(error),
                },
            };
            failures.push(failure);
        }
        // Of several, one that was not asked might have it.
        match refusal {
            Some(refusal) if failures.is_empty() => Err(refusal),
            _ => Err(RegistryError::Unreachable(failures.join("; "))),
        }
    }
}

/// What an answer says. Whatever does not look like a registry's is temporary.
fn read<T: for<'de> Deserialize<'de>>(
    answer: &Answer,
    call: impl Fn() -> String,
) -> Result<T, RegistryError> {
    #[derive(Deserialize)]
    struct Refusal {
        error_code: i64,
        #[serde(default)]
        message: String,
    }
    let start = || String::from_utf8_lossy(&answer.body).chars().take(100).collect::<String>();
    if (200..300).contains(&answer.status) {
        return serde_json::from_slice(&answer.body).map_err(|error| {
            RegistryError::Unreachable(format!("the answer is not a registry's ({error}): {:?}", start()))
        });
    }
    let status = answer.status;
    match serde_json::from_slice::<Refusal>(&answer.body) {
        Ok(Refusal { error_code, message }) if matches!(status, 400..=428 | 430..=499) => {
            let message: String = message.chars().take(2_000).collect();
            if status == 404 && NOT_FOUND.contains(&error_code) {
                return Err(RegistryError::NotFound { call: call(), message });
            }
            Err(RegistryError::Refused { call: call(), status, code: error_code, message })
        }
        _ if matches!(status, 401 | 403) => Err(RegistryError::Refused {
            call: call(),
            status,
            code: i64::from(status),
            message: "set SCHEMA_REGISTRY_USERNAME and SCHEMA_REGISTRY_PASSWORD of a user who may".to_owned(),
        }),
        Ok(Refusal { message, .. }) => {
            let message: String = message.chars().take(200).collect();
            Err(RegistryError::Unreachable(format!("it answers {status}: {message}")))
        }
        Err(_) => Err(RegistryError::Unreachable(format!(
            "it answers {status}, and not as a registry: {:?}",
            start()
        ))),
    }
}

/// The subject of a topic's values: Confluent's TopicNameStrategy.
pub fn subject_of(topic: &str) -> String {
    format!("{topic}-value")
}

/// A subject as a part of a path.
fn encoded(subject: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    let encode = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    subject.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::{Password, Secret};

    fn refused(status: u16, body: &str) -> RegistryError {
        let answer = Answer { status, body: body.as_bytes().to_vec().into() };
        read::<Value>(&answer, || "GET x".to_owned()).unwrap_err()
    }

    #[test]
    fn only_the_registry_says_that_something_is_not_there() {
        let unknown = r#"{"error_code":40403,"message":"Schema not found"}"#;
        assert!(refused(404, unknown).is_not_found());
        for (status, body) in [
            (404, "<html>no such page"),
            (404, r#"{"error_code":404,"message":"HTTP 404 Not Found"}"#),
            (500, unknown),
            (502, ""),
            (429, unknown),
            (200, "garbage"),
            (200, ""),
            (301, ""),
        ] {
            assert!(!refused(status, body).is_not_found(), "{status} {body}");
        }
        assert!(refused(500, unknown).is_temporary() && refused(200, "garbage").is_temporary());
        assert!(!refused(409, r#"{"error_code":409,"message":"incompatible"}"#).is_temporary());
        assert!(refused(401, "").to_string().contains("SCHEMA_REGISTRY_USERNAME"));
    }

    #[test]
    fn a_subject_is_encoded_and_no_output_shows_a_password() {
        assert_eq!(encoded("a/b c-value"), "a%2Fb%20c-value");
        let login = Login::new("me".to_owned(), Secret::Value(Password("hush".to_owned())));
        let registry = Registry::new(vec!["http://h:1".parse().unwrap()], Some(login));
        let shown = format!("{registry:?}");
        assert!(!shown.contains("hush") && !shown.contains(&basic("me:hush")), "{shown}");
    }
}
