//! How a reader takes an event: borrowed from the record, and no field of a newer writer lost.

use std::borrow::Cow;

use chrono::DateTime;
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{EventType, TaskData};

/// The largest event that a reader takes, in bytes. The API writes at most some 4 KiB.
pub const MAX_EVENT_BYTES: usize = 256 * 1024;

/// An event as a reader takes it: a view of the record's value, of which nothing is copied that need not be.
#[derive(Debug, Clone)]
pub struct Event<'a> {
    /// Unique.
    pub event_id: Uuid,
    /// The name of its type, which this version may not know.
    pub event_type: Cow<'a, str>,
    /// RFC 3339, as it came.
    pub occurred_at: Cow<'a, str>,
    /// As it came, on one line.
    pub data: Cow<'a, RawValue>,
    /// As it came, on one line.
    pub metadata: Cow<'a, RawValue>,
    /// The request that it comes from, as its metadata says.
    pub correlation_id: Uuid,
    /// `data`, decoded, where this version knows the type.
    pub task: Option<Task<'a>>,
}

/// The task of an event as a reader takes it; see [`TaskData`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task<'a> {
    /// The task.
    pub task_id: Uuid,
    /// Its title.
    pub title: Cow<'a, str>,
    /// Its status, which this version may not know.
    pub status: Cow<'a, str>,
    /// Its owner.
    pub owner_id: Option<Uuid>,
}

impl Task<'_> {
    /// The same without what it borrows.
    pub fn into_owned(self) -> Task<'static> {
        Task {
            task_id: self.task_id,
            title: self.title.into_owned().into(),
            status: self.status.into_owned().into(),
            owner_id: self.owner_id,
        }
    }
}

impl PartialEq<TaskData> for Task<'_> {
    fn eq(&self, other: &TaskData) -> bool {
        let TaskData { task_id, title, status, owner_id } = other;
        self.task_id == *task_id
            && self.title == *title
            && self.status == *status
            && self.owner_id == *owner_id
    }
}

/// Why a record is not an event. No retry can mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The record has no value.
    #[error("Invalid event: the record has no value")]
    NoValue,
    /// The value is not JSON.
    #[error("Invalid JSON in message: {0}")]
    Json(String),
    /// The value is JSON, but a known field is missing or has another type.
    #[error("Invalid event: {0}")]
    Field(String),
    /// The value is larger than [`MAX_EVENT_BYTES`].
    #[error("Invalid event: {size} bytes, the limit is {MAX_EVENT_BYTES}")]
    TooLarge {
        /// The size of the value in bytes.
        size: usize,
    },
}

impl Malformed {
    /// The name of the kind, as a DLQ record stores it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoValue => "no_value",
            Self::Json(_) => "invalid_json",
            Self::Field(_) => "invalid_event",
            Self::TooLarge { .. } => "too_large",
        }
    }

    /// Whether that is the name of a kind.
    pub fn is_kind(name: &str) -> bool {
        ["no_value", "invalid_json", "invalid_event", "too_large"].contains(&name)
    }

    /// Sorts a JSON error into syntax and shape.
    pub fn from_json(error: &serde_json::Error) -> Self {
        if error.is_data() { Self::Field(error.to_string()) } else { Self::Json(error.to_string()) }
    }
}

/// What is read from the wire, with borrowed fields. The names are those of the types that writers serialise:
/// they are part of what an error says.
mod borrowed {
    use std::borrow::Cow;

    use serde::Deserialize;
    use serde_json::value::RawValue;
    use uuid::Uuid;

    #[derive(Deserialize)]
    pub(super) struct Envelope<'a> {
        pub(super) event_id: Uuid,
        #[serde(borrow)]
        pub(super) event_type: Cow<'a, str>,
        #[serde(borrow)]
        pub(super) occurred_at: Cow<'a, str>,
        #[serde(borrow)]
        pub(super) data: &'a RawValue,
        #[serde(borrow)]
        pub(super) metadata: &'a RawValue,
    }

    #[derive(Deserialize)]
    pub(super) struct TaskData<'a> {
        pub(super) task_id: Uuid,
        #[serde(borrow)]
        pub(super) title: Cow<'a, str>,
        #[serde(borrow)]
        pub(super) status: Cow<'a, str>,
        #[serde(deserialize_with = "Option::deserialize")]
        pub(super) owner_id: Option<Uuid>,
    }

    #[derive(Deserialize)]
    pub(super) struct Metadata<'a> {
        pub(super) correlation_id: Uuid,
        #[serde(borrow)]
        #[allow(dead_code, reason = "it is enough that it is there")]
        source: Cow<'a, str>,
    }
}

impl<'a> Event<'a> {
    /// Reads an event. Unknown fields and unknown event types are fine; a known field that is missing or
    /// of another type is not.
    pub fn decode(value: Option<&'a [u8]>) -> Result<Self, Malformed> {
        let value = value.ok_or(Malformed::NoValue)?;
        if value.len() > MAX_EVENT_BYTES {
            return Err(Malformed::TooLarge { size: value.len() });
        }
        let envelope: borrowed::Envelope<'a> =
            serde_json::from_slice(value).map_err(|error| Malformed::from_json(&error))?;
        DateTime::parse_from_rfc3339(&envelope.occurred_at)
            .map_err(|error| Malformed::Field(format!("occurred_at is not RFC 3339: {error}")))?;
        let field = |name: &str, error: serde_json::Error| Malformed::Field(format!("{name}: {error}"));
        let metadata: borrowed::Metadata<'a> =
            serde_json::from_str(envelope.metadata.get()).map_err(|error| field("metadata", error))?;
        let task = match EventType::from_name(&envelope.event_type) {
            Some(_) => {
                let task = serde_json::from_str(envelope.data.get());
                let task: borrowed::TaskData<'a> = task.map_err(|error| field("data", error))?;
                let borrowed::TaskData { task_id, title, status, owner_id } = task;
                Some(Task { task_id, title, status, owner_id })
            }
            None => None,
        };
        Ok(Self {
            event_id: envelope.event_id,
            event_type: envelope.event_type,
            occurred_at: envelope.occurred_at,
            data: one_line(envelope.data)?,
            metadata: one_line(envelope.metadata)?,
            correlation_id: metadata.correlation_id,
            task,
        })
    }

    /// The type, if this version knows it.
    pub fn known_type(&self) -> Option<EventType> {
        EventType::from_name(&self.event_type)
    }

    /// The same without what it borrows.
    pub fn into_owned(self) -> Event<'static> {
        Event {
            event_id: self.event_id,
            event_type: self.event_type.into_owned().into(),
            occurred_at: self.occurred_at.into_owned().into(),
            data: Cow::Owned(self.data.into_owned()),
            metadata: Cow::Owned(self.metadata.into_owned()),
            correlation_id: self.correlation_id,
            task: self.task.map(Task::into_owned),
        }
    }
}

/// The correlation id of what may be no event, if it has one: for the lines about it.
pub fn correlation_id(value: Option<&[u8]>) -> Option<Uuid> {
    #[derive(Deserialize)]
    struct Envelope {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        correlation_id: Uuid,
    }
    let value = value.filter(|value| value.len() <= MAX_EVENT_BYTES)?;
    serde_json::from_slice::<Envelope>(value).ok().map(|envelope| envelope.metadata.correlation_id)
}

/// A JSON value without line breaks between its tokens (inside a string JSON allows none).
fn one_line(raw: &RawValue) -> Result<Cow<'_, RawValue>, Malformed> {
    // No early end: so the compiler looks at many bytes at once.
    let has_breaks = raw.get().bytes().fold(false, |found, byte| found | (byte == b'\n') | (byte == b'\r'));
    if !has_breaks {
        return Ok(Cow::Borrowed(raw));
    }
    let one_line = RawValue::from_string(raw.get().replace(['\n', '\r'], " "));
    one_line.map(Cow::Owned).map_err(|error| Malformed::from_json(&error))
}

#[cfg(test)]
mod tests {
    use super::super::TaskEvent;
    use super::*;

    fn sample() -> TaskEvent {
        TaskEvent::task_created(
            TaskData {
                task_id: Uuid::now_v7(),
                title: "Write \"tests\"\n".to_owned(),
                status: "pending".to_owned(),
                owner_id: None,
            },
            Uuid::new_v4(),
        )
    }

    fn change(event: &TaskEvent, edit: impl Fn(&mut serde_json::Value)) -> Vec<u8> {
        let mut value = serde_json::to_value(event).unwrap();
        edit(&mut value);
        serde_json::to_vec(&value).unwrap()
    }

    #[test]
    fn an_event_reads_back_as_it_was_written() {
        let event = sample();
        let bytes = serde_json::to_vec(&event).unwrap();
        let read = Event::decode(Some(&bytes)).unwrap();
        assert_eq!(read.event_id, event.event_id);
        assert_eq!(read.task.unwrap(), event.data);
        assert!(read.occurred_at.ends_with('Z') && read.occurred_at.len() == 27, "{}", read.occurred_at);
        assert_eq!(serde_json::from_slice::<TaskEvent>(&bytes).unwrap().metadata, event.metadata);
        assert_eq!(read.correlation_id, event.metadata.correlation_id);
    }

    #[test]
    fn the_correlation_id_of_a_malformed_event_is_found_where_it_has_one() {
        let event = sample();
        let id = event.metadata.correlation_id;
        let ill_typed = change(&event, |v| v["event_type"] = 7.into());
        assert!(Event::decode(Some(&ill_typed)).is_err());
        assert_eq!(correlation_id(Some(&ill_typed)), Some(id));
        let without = change(&event, |v| v["metadata"] = serde_json::json!({"correlation_id": "none"}));
        for none in [None, Some(without.as_slice()), Some(b"{"), Some(b"")] {
            assert_eq!(correlation_id(none), None);
        }
    }

    #[test]
    fn a_newer_writer_does_not_break_an_older_reader() {
        let added = change(&sample(), |v| {
            v["new_field"] = 1.into();
            v["data"]["priority"] = "high".into();
        });
        let read = Event::decode(Some(&added)).unwrap();
        assert!(read.data.get().contains("priority"), "unknown fields reach the audit log");

        let unknown = change(&sample(), |v| {
            v["event_type"] = "task.archived".into();
            v["data"] = serde_json::json!({"anything": [1, 2]});
        });
        let read = Event::decode(Some(&unknown)).unwrap();
        assert!(read.known_type().is_none() && read.task.is_none());
    }

    #[test]
    fn a_missing_or_ill_typed_known_field_is_malformed() {
        for field in ["event_id", "event_type", "occurred_at", "data", "metadata"] {
            let missing = change(&sample(), |v| {
                v.as_object_mut().unwrap().remove(field);
            });
            assert!(matches!(Event::decode(Some(&missing)), Err(Malformed::Field(_))), "{field}");
            let ill_typed = change(&sample(), |v| v[field] = 7.into());
            assert!(matches!(Event::decode(Some(&ill_typed)), Err(Malformed::Field(_))), "{field}");
        }
        for (outer, field) in [("data", "title"), ("data", "owner_id"), ("metadata", "correlation_id")] {
            let missing = change(&sample(), |v| {
                v[outer].as_object_mut().unwrap().remove(field);
            });
            assert!(matches!(Event::decode(Some(&missing)), Err(Malformed::Field(_))), "{field}");
        }
    }

    #[test]
    fn what_is_not_an_event_says_why() {
        assert_eq!(Event::decode(None).unwrap_err(), Malformed::NoValue);
        let empty = Event::decode(Some(b"")).unwrap_err();
        assert!(empty.to_string().starts_with("Invalid JSON in message: "), "{empty}");
        let cut = Event::decode(Some(b"{\"event_id\": ")).unwrap_err();
        assert!(cut.to_string().starts_with("Invalid JSON in message: "), "{cut}");
        assert!(matches!(Event::decode(Some(&[0xff, 0xfe])), Err(Malformed::Json(_))));
        assert!(matches!(
            Event::decode(Some(&vec![b'['; MAX_EVENT_BYTES])),
            Err(Malformed::Json(_) | Malformed::Field(_))
        ));
        let large = vec![b' '; MAX_EVENT_BYTES + 1];
        assert!(matches!(Event::decode(Some(&large)), Err(Malformed::TooLarge { .. })));
    }

    #[test]
    fn pretty_printed_data_is_kept_on_one_line() {
        let bytes = serde_json::to_vec_pretty(&sample()).unwrap();
        let read = Event::decode(Some(&bytes)).unwrap();
        assert!(!read.data.get().contains('\n'));
        assert!(serde_json::from_str::<TaskData>(read.data.get()).is_ok());
    }
}
