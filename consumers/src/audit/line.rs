//! One line of the audit log.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use task_events::event::Event;
use uuid::Uuid;

/// The longest line, in bytes. An event has 256 KiB at most.
pub const MAX_LINE: usize = 1024 * 1024;

/// An event as it is in the log, without the line's end.
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
    /// Of an Avro event, the id of its writer's schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_id: Option<u32>,
    /// When this service took it.
    #[serde(borrow)]
    pub audited_at: Cow<'a, str>,
    /// Where the event is.
    #[serde(borrow)]
    pub kafka: At<'a>,
}

/// Where an event is in Kafka.
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

impl At<'_> {
    /// The same without what it borrows.
    pub(super) fn into_owned(self) -> At<'static> {
        At { topic: self.topic.into_owned().into(), partition: self.partition, offset: self.offset }
    }
}

/// The line of an event, with its end.
pub fn render(event: &Event<'_>, audited_at: &str, at: At<'_>) -> serde_json::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    start(event, &mut bytes)?;
    bytes.extend_from_slice(&middle(audited_at, &at.topic, at.partition));
    end(at.offset, &mut bytes);
    Ok(bytes)
}

/// Appends what a line says of the event itself.
pub(super) fn start(event: &Event<'_>, bytes: &mut Vec<u8>) -> serde_json::Result<()> {
    let mut field = |name: &str, value: &str| {
        bytes.extend_from_slice(name.as_bytes());
        serde_json::to_writer(&mut *bytes, value)
    };
    let mut id = Uuid::encode_buffer();
    field(r#"{"event_id":"#, event.event_id.hyphenated().encode_lower(&mut id))?;
    field(r#","event_type":"#, &event.event_type)?;
    field(r#","occurred_at":"#, &event.occurred_at)?;
    for (name, json) in [(r#","data":"#, &event.data), (r#","metadata":"#, &event.metadata)] {
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(json.get().as_bytes());
    }
    if let Some(id) = event.schema_id {
        bytes.extend_from_slice(br#","schema_id":"#);
        serde_json::to_writer(&mut *bytes, &id)?;
    }
    Ok(())
}

/// What comes next: the same for all events of a partition that are taken together.
pub(super) fn middle(audited_at: &str, topic: &str, partition: i32) -> Vec<u8> {
    let string = serde_json::Value::from;
    let (audited_at, topic) = (string(audited_at), string(topic));
    format!(r#","audited_at":{audited_at},"kafka":{{"topic":{topic},"partition":{partition},"offset":"#)
        .into_bytes()
}

/// Appends the end of a line.
pub(super) fn end(offset: i64, bytes: &mut Vec<u8>) {
    // A number always serialises, and memory takes it.
    let _ = serde_json::to_writer(&mut *bytes, &offset);
    bytes.extend_from_slice(b"}}\n");
}

/// Reads a line, its end included. `None`: it is not a whole line of an audit log, or not as it was written.
pub fn parse(bytes: &[u8]) -> Option<Line<'_>> {
    let json = bytes.strip_suffix(b"\n")?;
    let as_written = json.starts_with(b"{") && json.ends_with(b"}");
    as_written.then(|| serde_json::from_slice(json).ok()).flatten()
}

/// What is wrong with bytes that are not a line, in a few words, and what a line there needs.
pub(super) fn what_is_wrong(bytes: &[u8]) -> String {
    let zeros = bytes.iter().filter(|byte| **byte == 0).count();
    let json = bytes.strip_suffix(b"\n");
    match bytes {
        [0x1f, 0x8b, ..] => "the file is compressed with gzip: decompress it".to_owned(),
        [0xef, 0xbb, 0xbf, ..] => {
            "the line starts with a byte order mark: remove these three bytes".to_owned()
        }
        [0xfe, 0xff, ..] | [0xff, 0xfe, ..] => "the text is UTF-16: convert it to UTF-8".to_owned(),
        _ if zeros > 0 => format!(
            "there are {zeros} zero bytes, as a log that was truncated while it was written, or a lost write"
        ),
        _ if bytes.ends_with(b"\r\n") => {
            "the line ends in CR LF: convert the ends of all lines to LF".to_owned()
        }
        _ if bytes.len() >= MAX_LINE && json.is_none() => format!("the line is longer than {MAX_LINE} bytes"),
        _ => match (json, serde_json::from_slice::<Line<'_>>(json.unwrap_or(bytes))) {
            (Some(json), _) if json.trim_ascii().is_empty() => "the line is empty: remove it".to_owned(),
            (None, _) => "the line has no end".to_owned(),
            (Some(json), Ok(_)) if json.len() > json.trim_ascii().len() => {
                "the line has spaces around its object: remove them".to_owned()
            }
            (_, Ok(_)) => "the line is not as this service writes it".to_owned(),
            (Some(json), Err(_)) if !json.starts_with(b"{") && json.ends_with(b"}") => {
                "the start of the line is missing".to_owned()
            }
            (_, Err(error)) => format!("the line is not an event of an audit log: {error}"),
        },
    }
}

/// The task that an event is about: as its data says, else its key.
pub fn task_id<'a>(event: &'a Event<'_>, key: Option<&'a [u8]>) -> Cow<'a, str> {
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

    fn event(data: &str) -> Event<'static> {
        let json = format!(
            r#"{{"event_id":"01900000-0000-7000-8000-000000000001","event_type":"task.\u0061rchived","occurred_at":"2026-01-15T10:30:00Z",
            "data":{data},"metadata":{{"correlation_id":"7a4b6f2e-3a3b-4f4c-9d52-0d4d5f0f9d10","source":"task-api","new": 1.0}}}}"#
        );
        Event::decode(Some(json.as_bytes())).unwrap().into_owned()
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
    fn a_line_that_was_changed_is_none_and_what_is_wrong_is_named() {
        let bytes = render(&event("{}"), "2026-01-15T10:30:01.000000Z", at()).unwrap();
        let json = &bytes[..bytes.len() - 1];
        let cases: [(Vec<u8>, &str); 10] = [
            ([json, b"\r\n"].concat(), "CR LF"),
            ([b"\xef\xbb\xbf", bytes.as_slice()].concat(), "byte order mark"),
            ([b"\x1f\x8b\x08", bytes.as_slice()].concat(), "gzip"),
            ([&[0; 9], bytes.as_slice()].concat(), "are 9 zero bytes"),
            (b"\n".to_vec(), "empty"),
            ([b" ", bytes.as_slice()].concat(), "spaces"),
            (bytes[7..].to_vec(), "start of the line is missing"),
            (json[..json.len() - 7].to_vec(), "no end"),
            (b"{\"event_id\":7}\n".to_vec(), "not an event of an audit log"),
            (vec![b'x'; MAX_LINE], "longer than"),
        ];
        for (bytes, why) in cases {
            assert!(parse(&bytes).is_none(), "{why}");
            let wrong = what_is_wrong(&bytes);
            assert!(wrong.contains(why) && !wrong.contains('\n'), "{wrong}");
        }
    }

    #[test]
    fn the_task_is_named_by_the_data_else_by_the_key() {
        assert_eq!(task_id(&event(r#"{"task_id":"t\n"}"#), Some(b"k")), "t\n");
        assert_eq!(task_id(&event(r#"{"task_id":7}"#), Some(b"k")), "k");
        assert_eq!(task_id(&event("[]"), None), "-");
    }
}
