//! A line of an audit log, as verifying reads it.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use task_events::config::MAX_TOPIC_NAME;
use task_events::escape::cut;
use uuid::Uuid;

use super::plain::{self, At, Line};

/// Characters of a reason, at most: some quote what they are about, which may be all of a line, and one for each line of many
/// is kept.
const MAX_REASON: usize = 160;

#[derive(Deserialize)]
#[allow(dead_code, reason = "read to see that they are there")]
struct Fields<'a> {
    event_id: Uuid,
    #[serde(borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    occurred_at: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow)]
    metadata: &'a RawValue,
    #[serde(borrow)]
    audited_at: Cow<'a, str>,
    #[serde(borrow)]
    kafka: At<'a>,
}

pub(super) fn parse(bytes: &[u8]) -> Result<Line<'_>, String> {
    let line =
        bytes.strip_suffix(b"\n").ok_or("it has no end; a service that starts with this log cuts it off")?;
    let read = match plain::parse(line) {
        Some(line) => line,
        None => parse_any(line).map_err(|error| cut(&error.to_string(), MAX_REASON))?,
    };
    match read.kafka.topic.len() {
        ..=MAX_TOPIC_NAME => Ok(read),
        length => {
            Err(format!("its topic has {length} characters, and no topic has more than {MAX_TOPIC_NAME}"))
        }
    }
}

/// Reads a line in any form of JSON.
pub(super) fn parse_any(line: &[u8]) -> serde_json::Result<Line<'_>> {
    let Fields { event_id, kafka, .. } = serde_json::from_slice(line)?;
    Ok(Line { event_id, kafka })
}

/// The id that a line begins with, as the audit service writes it. The rest of the line may be anything.
pub(super) fn first_id(bytes: &[u8]) -> Option<Uuid> {
    let id = bytes.strip_prefix(br#"{"event_id":""#)?.get(..36)?;
    Uuid::try_parse_ascii(id).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_quotes_the_line_is_cut() {
        for junk in ["\u{7f}", "ü", "x"] {
            let why = parse(format!("\"{}\"\n", junk.repeat(100_000)).as_bytes()).unwrap_err();
            assert!(why.starts_with("invalid type: string ") && why.ends_with('…'), "{why}");
            assert!(why.len() < 1_000 && why.capacity() < 1_000, "{}", why.capacity());
        }
        assert_eq!(parse(b"{}\n").unwrap_err(), "missing field `event_id` at line 1 column 2");
    }

    #[test]
    fn a_topic_that_kafka_cannot_have_is_none() {
        let line = |topic: &str| {
            format!(
                r#"{{"event_id":"01a219de-0000-7000-a78e-000000000000","event_type":"t","occurred_at":"t","data":{{}},"metadata":{{}},"audited_at":"t","kafka":{{"topic":"{topic}","partition":0,"offset":7}}}}"#
            ) + "\n"
        };
        assert!(parse(line(&"t".repeat(MAX_TOPIC_NAME)).as_bytes()).is_ok());
        // As it is written, and in another form.
        for line in [line(&"t".repeat(MAX_TOPIC_NAME + 1)), line(&"\\u0074".repeat(70_000))] {
            let why = parse(line.as_bytes()).unwrap_err();
            assert!(why.starts_with("its topic has ") && why.len() < 100, "{why}");
        }
    }
}
