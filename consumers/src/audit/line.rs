//! One line of the audit log.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use task_events::event::Event;
use uuid::Uuid;

/// The longest line, in bytes. An event has 256 KiB at most.
pub const MAX_LINE: usize = 1024 * 1024;

/// An event as it stands in the log, without the line's end.
#[derive(Debug, Serialize, Deserialize)]
pub struct Line<'a> {
    /// Unique in the log.
    pub event_id: Uuid,
    /// The name of its type.
    #[serde(borrow)]
    pub event_type: Cow<'a, str>,
    /// When it happened, as it came.
    #[serde(borrow)]
    pub occurred_at: Cow<'a, str>,
    /// As it came.
    #[serde(borrow)]
    pub data: &'a RawValue,
    /// As it came.
    #[serde(borrow)]
    pub metadata: &'a RawValue,
    /// When this service took it.
    #[serde(borrow)]
    pub audited_at: Cow<'a, str>,
    /// Where the event stands.
    #[serde(borrow)]
    pub kafka: At<'a>,
}

/// Where an event stands in Kafka.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct At<'a> {
    /// Its topic.
    #[serde(borrow)]
    pub topic: Cow<'a, str>,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
}

/// The line of an event, with its end.
pub fn render(event: &Event, audited_at: &str, at: At<'_>) -> serde_json::Result<Vec<u8>> {
    let line = Line {
        event_id: event.event_id,
        event_type: event.event_type.as_str().into(),
        occurred_at: event.occurred_at.as_str().into(),
        data: &event.data,
        metadata: &event.metadata,
        audited_at: audited_at.into(),
        kafka: at,
    };
    let mut bytes = serde_json::to_vec(&line)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Reads a line, its end included. `None`: it is not a whole line of an audit log.
pub fn parse(bytes: &[u8]) -> Option<Line<'_>> {
    serde_json::from_slice(bytes.strip_suffix(b"\n")?).ok()
}

/// The task that an event is about: as its data says, else its key.
pub fn task_id<'a>(event: &'a Event, key: Option<&'a [u8]>) -> Cow<'a, str> {
    #[derive(Deserialize)]
    struct Data<'a> {
        #[serde(borrow)]
        task_id: Cow<'a, str>,
    }
    if let Some(task) = &event.task {
        return task.task_id.to_string().into();
    }
    match serde_json::from_str::<Data<'_>>(event.data.get()) {
        Ok(data) => data.task_id,
        Err(_) => key.map_or("-".into(), String::from_utf8_lossy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(data: &str) -> Event {
        let json = format!(
            r#"{{"event_id":"01900000-0000-7000-8000-000000000001","event_type":"task.\u0061rchived","occurred_at":"2026-01-15T10:30:00Z",
            "data":{data},"metadata":{{"correlation_id":"7a4b6f2e-3a3b-4f4c-9d52-0d4d5f0f9d10","source":"task-api","new": 1.0}}}}"#
        );
        Event::decode(Some(json.as_bytes())).unwrap()
    }

    fn at() -> At<'static> {
        At { topic: "task-events".into(), partition: 1, offset: 7 }
    }

    #[test]
    fn a_line_holds_the_event_as_it_came() {
        let bytes = render(&event(r#"{"b": 1e3, "a":"x"}"#), "2026-01-15T10:30:01.000000Z", at()).unwrap();
        let text = std::str::from_utf8(&bytes).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"event_id":"01900000-0000-7000-8000-000000000001","event_type":"task.archived","#,
                r#""occurred_at":"2026-01-15T10:30:00Z","data":{"b": 1e3, "a":"x"},"#,
                r#""metadata":{"correlation_id":"7a4b6f2e-3a3b-4f4c-9d52-0d4d5f0f9d10","source":"task-api","new": 1.0},"#,
                r#""audited_at":"2026-01-15T10:30:01.000000Z","#,
                r#""kafka":{"topic":"task-events","partition":1,"offset":7}}"#,
                "\n"
            )
        );
        let line = parse(&bytes).unwrap();
        assert_eq!((line.event_type.as_ref(), line.kafka), ("task.archived", at()));
    }

    #[test]
    fn no_cut_line_and_no_line_with_zeros_is_taken_for_a_whole_one() {
        let bytes = render(&event(r#"{"a":"x"}"#), "2026-01-15T10:30:01.000000Z", at()).unwrap();
        for n in 0..bytes.len() {
            assert!(parse(&bytes[..n]).is_none(), "cut at {n}");
            let mut zeroed = bytes.clone();
            zeroed[n] = 0;
            assert!(parse(&zeroed).is_none(), "a zero at {n}");
        }
    }

    #[test]
    fn the_task_is_named_by_the_data_else_by_the_key() {
        assert_eq!(task_id(&event(r#"{"task_id":"t\n"}"#), Some(b"k")), "t\n");
        assert_eq!(task_id(&event(r#"{"task_id":7}"#), Some(b"k")), "k");
        assert_eq!(task_id(&event("[]"), None), "-");
    }
}
