//! What is known of the schemas that records name, and the reader of events of either format.
//!
//! # Invariants
//!
//! - *A record is read by what it is*: Avro by its first byte, else JSON. So one topic may hold both.
//! - *A schema is asked for once*: first in memory, then on disk, then at the registry. What cannot be read with it is
//!   known as well, and not looked into again.
//! - *An unreachable registry gives up no event*: [`EventReader::fetch`] says that it is temporary, and whoever asks
//!   waits. Only the registry's own answer that an id does not exist makes a record malformed, and that answer is asked
//!   for again after [`MISSING_FOR`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use crate::avro::{Plan, Schema, TASK_EVENT, Wire};
use crate::event::{Event, MAX_EVENT_BYTES, Malformed};
use crate::registry::{Registry, RegistryError, SchemaCache};
use crate::runtime::HandlerError;

/// For how long the registry's answer that it has no such id is believed.
const MISSING_FOR: Duration = Duration::from_secs(10);
/// For how long a registry that did not answer is not asked for what is only shown.
const UNREACHABLE_FOR: Duration = Duration::from_secs(5);
/// Ids that are remembered as missing, beyond which those that are no longer believed are forgotten.
const MAX_MISSING: usize = 1_000;

/// Reads events, JSON and Avro. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct EventReader(Option<Arc<Schemas>>);

/// The schemas of one registry.
#[derive(Debug)]
struct Schemas {
    registry: Registry,
    cache: Option<SchemaCache>,
    /// What events are read as.
    reader: Schema,
    known: RwLock<HashMap<u32, Known>>,
    /// When the registry did not answer last, and why.
    failed: Mutex<Option<(Instant, String)>>,
}

/// What is known of an id.
#[derive(Debug, Clone)]
enum Known {
    Readable(Arc<Plan>),
    /// No event can be read by it.
    Unusable(Arc<str>),
    /// The registry had none then.
    Missing(Instant),
}

impl EventReader {
    /// A reader of JSON alone: an Avro record is malformed.
    pub fn json() -> Self {
        Self::default()
    }

    /// A reader of both, with the schemas that it has seen kept in the cache.
    pub fn new(registry: Registry, cache: Option<SchemaCache>) -> Self {
        // Ours can be read: a test sees to it.
        match Schema::parse(TASK_EVENT) {
            Ok(reader) => Self::with_schema(registry, cache, reader),
            Err(_) => Self::json(),
        }
    }

    /// The same, as another version of this program would read.
    pub fn with_schema(registry: Registry, cache: Option<SchemaCache>, reader: Schema) -> Self {
        Self(Some(Arc::new(Schemas {
            registry,
            cache,
            reader,
            known: RwLock::default(),
            failed: Mutex::default(),
        })))
    }

    /// The id of the schema that has to be fetched before the value can be read.
    pub fn wants(&self, value: Option<&[u8]>) -> Option<u32> {
        let Wire::Avro(id, _) = Wire::of(value?) else { return None };
        let known = self.0.as_ref()?.known(id);
        let is_old = |since: Instant| since.elapsed() >= MISSING_FOR;
        match known {
            None => Some(id),
            Some(Known::Missing(since)) if is_old(since) => Some(id),
            Some(_) => None,
        }
    }

    /// Gets to know a schema, from the disk or the registry. An error: nothing is known, and it should be tried again.
    pub async fn fetch(&self, id: u32) -> Result<(), RegistryError> {
        match &self.0 {
            Some(schemas) => schemas.fetch(id).await,
            None => Ok(()),
        }
    }

    /// Reads an event. The schema that it names has been fetched, if it [`wants`](Self::wants) one.
    pub fn read<'a>(&self, value: Option<&'a [u8]>) -> Result<Event<'a>, Malformed> {
        let (id, data) = match value.map(Wire::of) {
            Some(Wire::Avro(id, data)) => (id, data),
            Some(Wire::Cut) => {
                return Err(Malformed::Avro("the data ends within the schema's id".to_owned()));
            }
            Some(Wire::Other) | None => return Event::decode(value),
        };
        if data.len() > MAX_EVENT_BYTES {
            return Err(Malformed::TooLarge { size: data.len() });
        }
        let Some(schemas) = &self.0 else { return Err(Malformed::NoRegistry(id)) };
        match schemas.known(id) {
            Some(Known::Readable(plan)) => {
                plan.read(id, data).map_err(|why| Malformed::Avro(format!("of schema {id}: {why}")))
            }
            Some(Known::Unusable(why)) => {
                Err(Malformed::Avro(format!("schema {id} is not one of task events: {why}")))
            }
            Some(Known::Missing(_)) => Err(Malformed::UnknownSchema(id)),
            None => Err(Malformed::Avro(format!("schema {id} was not fetched"))),
        }
    }

    /// Fetches the schema that a value names, as a step of the runtime.
    pub async fn prepare(&self, value: Option<&[u8]>) -> Result<(), HandlerError> {
        match self.wants(value) {
            Some(id) => self
                .fetch(id)
                .await
                .map_err(|error| HandlerError::new("schema", format!("schema {id}: {error}"))),
            None => Ok(()),
        }
    }

    /// Reads an event, fetching its schema at most once. For whoever shows events and waits for nothing: where the
    /// registry does not answer, it is not asked for each of them.
    pub async fn read_now<'a>(&self, value: Option<&'a [u8]>) -> Result<Event<'a>, Malformed> {
        if let (Some(id), Some(schemas)) = (self.wants(value), &self.0) {
            let unreachable = |why: &str| Malformed::Avro(format!("schema {id}: {why}"));
            if let Some((at, why)) = schemas.failed().as_ref()
                && at.elapsed() < UNREACHABLE_FOR
            {
                return Err(unreachable(why));
            }
            if let Err(error) = schemas.fetch(id).await {
                let why = error.to_string();
                let malformed = unreachable(&why);
                *schemas.failed() = Some((Instant::now(), why));
                return Err(malformed);
            }
        }
        self.read(value)
    }
}

impl Schemas {
    fn failed(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, id: u32) -> Option<Known> {
        // Each change is one insertion.
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    async fn fetch(&self, id: u32) -> Result<(), RegistryError> {
        if let Some(cache) = &self.cache
            && let Some(text) = cache.schema(id).await
        {
            self.insert(id, self.plan(&text));
            return Ok(());
        }
        let known = match self.registry.schema(id).await {
            Ok(text) => {
                if let Some(cache) = &self.cache {
                    cache.keep_schema(id, &text).await;
                }
                self.plan(&text)
            }
            Err(error) if error.is_not_found() => Known::Missing(Instant::now()),
            Err(RegistryError::Kind { kind, .. }) => {
                Known::Unusable(format!("it is {kind}, not AVRO").into())
            }
            Err(error) => return Err(error),
        };
        self.insert(id, known);
        Ok(())
    }

    fn plan(&self, text: &str) -> Known {
        let plan = Schema::parse(text).map_err(|error| error.to_string());
        match plan.and_then(|writer| Plan::new(&writer, &self.reader)) {
            Ok(plan) => Known::Readable(Arc::new(plan)),
            Err(why) => Known::Unusable(why.chars().take(1_000).collect::<String>().into()),
        }
    }

    fn insert(&self, id: u32, what: Known) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let is_missing = |known: &Known| matches!(known, Known::Missing(_));
        if is_missing(&what) && known.values().filter(|known| is_missing(known)).count() >= MAX_MISSING {
            known
                .retain(|_, known| !matches!(known, Known::Missing(since) if since.elapsed() >= MISSING_FOR));
        }
        known.insert(id, what);
    }
}
