//! The id of our schema in the registry, which every Avro event names.
//!
//! # Invariants
//!
//! - *Without the id nothing is accepted*: an event's bytes are fixed when it is stored, and the id is among them.
//! - *Once it was known, no start waits for the registry*: the id is on disk. It is compared where the registry answers,
//!   since one that was set up again may give another.
//! - *A refusal ends the start*: a schema that cannot follow the others would be written to nobody's use.

use std::time::Duration;

use task_events::avro::TASK_EVENT;
use task_events::backoff::Backoff;
use task_events::compatibility::explained;
use task_events::log_once::LogOnce;
use task_events::registry::{Registry, RegistryError, SchemaCache};
use tokio::time::{sleep, timeout};

/// Time for the registry to answer where the id is known already.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(2);

/// How the id is found.
#[derive(Debug)]
pub(crate) struct Registration {
    pub(crate) registry: Registry,
    pub(crate) cache: SchemaCache,
    pub(crate) subject: String,
    /// Whether the schema is registered where it is not yet.
    pub(crate) registers: bool,
}

impl Registration {
    /// The id. Waits for it as long as it takes, unless it was known before.
    pub(crate) async fn schema_id(&self) -> Result<u32, RegistryError> {
        let known = self.cache.registration(&self.subject, TASK_EVENT).await;
        let mut log = LogOnce::new(module_path!());
        let mut backoff = Backoff::for_kafka();
        loop {
            let asked = match known {
                Some(_) => timeout(COMPARE_TIMEOUT, self.ask()).await.unwrap_or_else(|_| {
                    let limit = COMPARE_TIMEOUT.as_secs();
                    Err(RegistryError::Unreachable(format!("no answer within {limit} s")))
                }),
                None => self.ask().await,
            };
            let why = match (asked, known) {
                (Ok(id), _) => {
                    log.over("the Schema Registry has given the schema its id");
                    self.keep(id, known).await;
                    return Ok(id);
                }
                (Err(error), _) if error.is_incompatible() => {
                    return Err(explained(&self.registry, &self.subject, TASK_EVENT, error).await);
                }
                (Err(error @ RegistryError::NotFound { .. }), _) if !self.registers => format!(
                    "the schema of this version is not registered under {}: run `taskctl schema register`, or set SCHEMA_AUTO_REGISTER=true ({error})",
                    self.subject
                ),
                (Err(error), Some(id)) => {
                    log::warn!("{error}; events are written with schema id {id}, which was given before");
                    return Ok(id);
                }
                (Err(error), None) if error.is_temporary() => error.to_string(),
                (Err(error), None) => return Err(error),
            };
            log.warn(&format!(
                "events cannot be written as Avro yet, no request is answered until then: {why}"
            ));
            sleep(backoff.next_delay()).await;
        }
    }

    async fn ask(&self) -> Result<u32, RegistryError> {
        if self.registers {
            return self.registry.register(&self.subject, TASK_EVENT).await;
        }
        self.registry.find(&self.subject, TASK_EVENT).await.map(|registered| registered.id)
    }

    async fn keep(&self, id: u32, known: Option<u32>) {
        log::info!("events are written as Avro, schema id {id} of {}", self.subject);
        if known == Some(id) {
            return;
        }
        if let Some(before) = known {
            log::warn!(
                "the id of the schema was {before}: the Schema Registry is another one, or was set up again"
            );
        }
        self.cache.keep_schema(id, TASK_EVENT).await;
        self.cache.keep_registration(&self.subject, TASK_EVENT, id).await;
    }
}
