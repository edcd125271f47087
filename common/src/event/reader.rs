//! How a reader takes an event: borrowed from the record, and no field of a newer writer lost.

use std::borrow::Cow;
use std::fmt;

use chrono::DateTime;
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::malformed::{MAX_EVENT_BYTES, Malformed};
use super::{EventType, TaskData, TaskEvent};

/// An event as a reader takes it: a view of the record's value, of which nothing is copied that need not be.
#[derive(Debug, Clone)]
pub struct Event<'a> {
    /// Unique.
    pub event_id: Uuid,
    /// The name of its type, which this version may not know.
    pub event_type: Cow<'a, str>,
    /// RFC 3339, as it came.
    pub occurred_at: Cow<'a, str>,
    /// As it came, on one line; of an Avro event as `avro/value.rs` maps it.
    pub data: JsonText<'a>,
    /// The same.
    pub metadata: JsonText<'a>,
    /// The request that it comes from, as its metadata says.
    pub correlation_id: Uuid,
    /// `data`, decoded, where this version knows the type.
    pub task: Option<Task<'a>>,
    /// Of an Avro event, the id of its writer's schema.
    pub schema_id: Option<u32>,
}

/// The text of a JSON value, on one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonText<'a>(Cow<'a, str>);

impl JsonText<'_> {
    /// The text.
    pub fn get(&self) -> &str {
        &self.0
    }

    fn into_owned(self) -> JsonText<'static> {
        JsonText(Cow::Owned(self.0.into_owned()))
    }
}

impl From<String> for JsonText<'_> {
    /// Of a text that is known to be JSON on one line.
    fn from(json: String) -> Self {
        Self(Cow::Owned(json))
    }
}

impl fmt::Display for JsonText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.get())
    }
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
            data: one_line(envelope.data),
            metadata: one_line(envelope.metadata),
            correlation_id: metadata.correlation_id,
            task,
            schema_id: None,
        })
    }

    /// The type, if this version knows it.
    pub fn known_type(&self) -> Option<EventType> {
        EventType::from_name(&self.event_type)
    }

    /// The whole event as JSON on one line, by the names of its fields.
    pub fn to_json(&self) -> String {
        let text = |text: &str| serde_json::Value::from(text);
        format!(
            r#"{{"event_id":"{}","event_type":{},"occurred_at":{},"data":{},"metadata":{}}}"#,
            self.event_id,
            text(&self.event_type),
            text(&self.occurred_at),
            self.data,
            self.metadata
        )
    }

    /// The event as its writer made it. `None`: it is of a type that this version does not know.
    pub fn to_task_event(&self) -> Option<TaskEvent> {
        let task = self.task.as_ref()?;
        Some(TaskEvent {
            event_id: self.event_id,
            event_type: self.known_type()?,
            occurred_at: DateTime::parse_from_rfc3339(&self.occurred_at).ok()?.to_utc(),
            data: TaskData {
                task_id: task.task_id,
                title: task.title.clone().into_owned(),
                status: task.status.clone().into_owned(),
                owner_id: task.owner_id,
            },
            metadata: serde_json::from_str(self.metadata.get()).ok()?,
        })
    }

    /// The same without what it borrows.
    pub fn into_owned(self) -> Event<'static> {
        Event {
            event_id: self.event_id,
            event_type: self.event_type.into_owned().into(),
            occurred_at: self.occurred_at.into_owned().into(),
            data: self.data.into_owned(),
            metadata: self.metadata.into_owned(),
            correlation_id: self.correlation_id,
            task: self.task.map(Task::into_owned),
            schema_id: self.schema_id,
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
fn one_line(raw: &RawValue) -> JsonText<'_> {
    // No early end: so the compiler looks at many bytes at once.
    let has_breaks = raw.get().bytes().fold(false, |found, byte| found | (byte == b'\n') | (byte == b'\r'));
    JsonText(if has_breaks {
        Cow::Owned(raw.get().replace(['\n', '\r'], " "))
    } else {
        Cow::Borrowed(raw.get())
    })
}

#[cfg(test)]
mod tests {
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
