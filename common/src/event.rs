//! The events of a task: how they are made, what they are on the wire, and how a reader takes them.
//!
//! Writers make a [`TaskEvent`]. Readers decode an [`Event`], which keeps `data` and `metadata` as they
//! came, so that fields of a newer writer are not lost on the way to the audit log.

mod malformed;
mod reader;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::time::{Rfc3339, serialize_time};

pub use malformed::{MAX_EVENT_BYTES, Malformed};
pub use reader::{Event, JsonText, Task, correlation_id};

/// The value of `metadata.source` and, with a slash before it, of the header `ce_source`.
pub const SOURCE: &str = "task-api";
const CE_SOURCE: &str = "/task-api";
/// The `content-type` header of a JSON event.
pub const JSON_CONTENT_TYPE: &str = "application/json";
/// The header that names an event, whatever its value is.
pub const ID_HEADER: &str = "ce_id";
/// The header that names its type.
pub const TYPE_HEADER: &str = "ce_type";

/// What happened to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventType {
    /// `task.created`
    #[serde(rename = "task.created")]
    Created,
    /// `task.updated`
    #[serde(rename = "task.updated")]
    Updated,
    /// `task.completed`
    #[serde(rename = "task.completed")]
    Completed,
    /// `task.deleted`
    #[serde(rename = "task.deleted")]
    Deleted,
}

impl EventType {
    /// All that this version knows.
    pub const ALL: [Self; 4] = [Self::Created, Self::Updated, Self::Completed, Self::Deleted];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "task.created",
            Self::Updated => "task.updated",
            Self::Completed => "task.completed",
            Self::Deleted => "task.deleted",
        }
    }

    /// The type of that name, if this version knows it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == name)
    }
}

/// The task after the change; after a deletion, as it was before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskData {
    /// The task.
    pub task_id: Uuid,
    /// Its title.
    pub title: String,
    /// `pending`, `in_progress` or `completed`; a newer writer may know more.
    pub status: String,
    /// Its owner. The field must be there, but may be null.
    #[serde(deserialize_with = "Option::deserialize")]
    pub owner_id: Option<Uuid>,
}

/// Where an event comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Ties the event to the request that caused it.
    pub correlation_id: Uuid,
    /// The service that wrote it.
    pub source: String,
    /// Who asked for the change, where callers have identities.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "text_or_none")]
    pub actor: Option<String>,
}

/// Of another producer's `actor`, which may be anything, only a text is taken: no other one makes an event malformed.
fn text_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let value: Box<RawValue> = Deserialize::deserialize(deserializer)?;
    Ok(serde_json::from_str(value.get()).ok())
}

/// An event as its writer makes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskEvent {
    /// Unique; version 7, so that it sorts by time.
    pub event_id: Uuid,
    /// What happened.
    pub event_type: EventType,
    /// When, with microseconds, in UTC.
    #[serde(serialize_with = "serialize_time")]
    pub occurred_at: DateTime<Utc>,
    /// The task after the change; of a deleted one, as it was before.
    pub data: TaskData,
    /// Where the event comes from.
    pub metadata: Metadata,
}

impl TaskEvent {
    /// A task came to be.
    pub fn task_created(data: TaskData, correlation_id: Uuid) -> Self {
        Self::new(EventType::Created, data, correlation_id)
    }

    /// A task changed.
    pub fn task_updated(data: TaskData, correlation_id: Uuid) -> Self {
        Self::new(EventType::Updated, data, correlation_id)
    }

    /// A task was completed.
    pub fn task_completed(data: TaskData, correlation_id: Uuid) -> Self {
        Self::new(EventType::Completed, data, correlation_id)
    }

    /// A task was deleted.
    pub fn task_deleted(data: TaskData, correlation_id: Uuid) -> Self {
        Self::new(EventType::Deleted, data, correlation_id)
    }

    fn new(event_type: EventType, data: TaskData, correlation_id: Uuid) -> Self {
        let metadata = Metadata { correlation_id, source: SOURCE.to_owned(), actor: None };
        Self { event_id: Uuid::now_v7(), event_type, occurred_at: Utc::now(), data, metadata }
    }

    /// The same, asked for by that caller.
    pub fn by(mut self, actor: Option<&str>) -> Self {
        self.metadata.actor = actor.map(str::to_owned);
        self
    }

    /// The Kafka headers: CloudEvents 1.0 in binary mode, and the W3C trace context if there is one.
    pub fn headers(&self, content_type: &str, traceparent: Option<&str>) -> BTreeMap<String, Vec<u8>> {
        let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        let mut id = Uuid::encode_buffer();
        let mut subject = Uuid::encode_buffer();
        let mut headers = BTreeMap::from([
            header(ID_HEADER, self.event_id.hyphenated().encode_lower(&mut id)),
            header("ce_source", CE_SOURCE),
            header("ce_specversion", "1.0"),
            header("ce_subject", self.data.task_id.hyphenated().encode_lower(&mut subject)),
            header("ce_time", Rfc3339::new(self.occurred_at).as_str()),
            header(TYPE_HEADER, self.event_type.as_str()),
            header("content-type", content_type),
        ]);
        headers.extend(traceparent.map(|traceparent| header("traceparent", traceparent)));
        headers
    }
}
