//! Events: what writers write, readers read.

use chrono::DateTime;
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::event::{Event, EventType, Malformed, TaskData, TaskEvent};

/// A decoded event keeps what its writer wrote, unknown fields as well, on one line each; one that this
/// version knows is read alike by both readers.
pub fn event(bytes: &[u8]) {
    writer_and_reader_agree(&String::from_utf8_lossy(bytes));
    views_and_copies_agree(bytes);
    let Ok(event) = Event::decode(Some(bytes)) else { return };
    for raw in [&event.data, &event.metadata] {
        assert!(!raw.get().contains(['\n', '\r']), "on one line: {raw}");
    }
    // None where it is nested too deeply to be looked at so; it is passed on all the same.
    if let Ok(whole) = serde_json::from_slice::<Value>(bytes) {
        let value = |raw: &str| serde_json::from_str::<Value>(raw).unwrap();
        assert_eq!(value(event.data.get()), whole["data"]);
        assert_eq!(value(event.metadata.get()), whole["metadata"]);
        assert_eq!(event.event_type, whole["event_type"].as_str().unwrap());
    }
    assert_eq!(event.task.is_some(), event.known_type().is_some());
    if let (Some(task), Ok(known)) = (&event.task, serde_json::from_slice::<TaskEvent>(bytes)) {
        assert_eq!(known.event_id, event.event_id);
        assert_eq!(*task, known.data);
    }
}

/// A view of an event holds what a copy of it would, and what is malformed is so for the same reason, in the
/// same words.
fn views_and_copies_agree(bytes: &[u8]) {
    #[derive(serde::Deserialize)]
    struct Envelope {
        event_id: Uuid,
        event_type: String,
        occurred_at: String,
        data: Box<RawValue>,
        metadata: Box<RawValue>,
    }
    // What `metadata.actor` is, is no matter of whether it is an event.
    #[derive(serde::Deserialize)]
    struct Metadata {
        #[allow(dead_code, reason = "it is enough that it is there")]
        correlation_id: Uuid,
        #[allow(dead_code, reason = "it is enough that it is there")]
        source: String,
    }
    let copy = || -> Result<(Envelope, Option<TaskData>), Malformed> {
        let field = |name: &str, error: serde_json::Error| Malformed::Field(format!("{name}: {error}"));
        let copy: Envelope = serde_json::from_slice(bytes).map_err(|error| Malformed::from_json(&error))?;
        DateTime::parse_from_rfc3339(&copy.occurred_at)
            .map_err(|error| Malformed::Field(format!("occurred_at is not RFC 3339: {error}")))?;
        let metadata = serde_json::from_str::<Metadata>(copy.metadata.get());
        metadata.map_err(|error| field("metadata", error))?;
        let is_known = EventType::from_name(&copy.event_type).is_some();
        let task = is_known.then(|| serde_json::from_str(copy.data.get())).transpose();
        let task = task.map_err(|error| field("data", error))?;
        Ok((copy, task))
    };
    if bytes.len() > crate::event::MAX_EVENT_BYTES {
        return;
    }
    match (Event::decode(Some(bytes)), copy()) {
        (Ok(view), Ok((copy, task))) => {
            let line = |raw: &RawValue| raw.get().replace(['\n', '\r'], " ");
            assert_eq!(view.event_id, copy.event_id);
            assert_eq!((&*view.event_type, &*view.occurred_at), (&*copy.event_type, &*copy.occurred_at));
            assert_eq!((view.data.get(), view.metadata.get()), (&*line(&copy.data), &*line(&copy.metadata)));
            assert_eq!(view.task.is_some(), task.is_some());
            view.task.zip(task).into_iter().for_each(|(view, copy)| assert_eq!(view, copy));
        }
        (view, copy) => assert_eq!(view.map(drop).unwrap_err(), copy.map(drop).unwrap_err()),
    }
}

fn writer_and_reader_agree(title: &str) {
    let data = TaskData {
        task_id: Uuid::nil(),
        title: title.to_owned(),
        status: title.chars().take(9).collect(),
        owner_id: title.is_empty().then(Uuid::nil),
    };
    let event = TaskEvent::task_updated(data, Uuid::nil());
    let json = serde_json::to_vec(&event).unwrap();
    match Event::decode(Some(&json)) {
        Ok(read) => {
            assert_eq!(read.event_id, event.event_id);
            assert_eq!(read.task.unwrap(), event.data);
        }
        Err(malformed) => assert!(json.len() > crate::event::MAX_EVENT_BYTES, "{malformed}"),
    }
}
