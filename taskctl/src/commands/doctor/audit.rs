//! The audit log: whether its end is whole, and is an event of the topic that is there now.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use serde::Deserialize;
use task_events::kafka::OffsetAt;
use uuid::Uuid;

use super::findings::Findings;
use super::state;
use crate::Context;

/// Longest line, in bytes: an event has 256 KiB at most.
const MAX_LINE: u64 = 1024 * 1024;

#[derive(Debug, Deserialize)]
struct Line {
    event_id: Uuid,
    kafka: At,
}

#[derive(Debug, Deserialize)]
struct At {
    topic: String,
    partition: i32,
    offset: i64,
}

/// What a log ends with.
enum End {
    Empty,
    Line(Line),
    /// Bytes without a line's end: a line that is being written, or a torn one.
    Torn,
    NoEvent,
}

pub(super) async fn examine(context: &Context, path: &Path, findings: &mut Findings) {
    let subject = format!("audit log {}", path.display());
    let end = match File::open(path).and_then(|mut file| end_of(&mut file)) {
        Ok(end) => end,
        Err(error) => {
            let remedy =
                "run this where audit-service runs, and as its user, or name the log with --audit-log-path";
            return findings.unreadable(subject, &error, remedy);
        }
    };
    state::disk(&subject, path, findings);
    match end {
        End::Empty => findings.ok(subject, "it is empty"),
        End::Torn => findings.warn(
            subject,
            "its last line has no end",
            "look again: it may be being written; audit-service cuts a torn line off at its start, and keeps it aside",
        ),
        End::NoEvent => findings.fail(
            subject,
            "its last line is no audit line",
            "find the damage with `taskctl audit verify`, and restore the log from a backup: what is missing is read again while Kafka has it",
        ),
        End::Line(line) => compare(context, &subject, &line, findings).await,
    }
}

/// Whether the event of the last line is where the line says.
async fn compare(context: &Context, subject: &str, line: &Line, findings: &mut Findings) {
    let At { topic, partition, offset } = &line.kafka;
    let place = format!("{topic}/{partition} offset {offset}");
    let earliest = context.kafka.list_offset(topic, *partition, OffsetAt::Earliest).await;
    let end = context.kafka.list_offset(topic, *partition, OffsetAt::Latest).await;
    let (Ok(earliest), Ok(end)) = (earliest, end) else {
        return findings.warn(
            subject,
            format!("it ends with {place}, and that partition does not answer"),
            "look at the topic's checks above",
        );
    };
    if *offset < earliest {
        let missing = earliest - offset - 1;
        if missing == 0 {
            return findings
                .ok(subject, format!("it ends with {place}, just before the first that Kafka keeps"));
        }
        return findings.fail(
            subject,
            format!("it ends with {place}; the {missing} offsets after it were deleted by retention"),
            "restore a newer backup of the log: Kafka no longer has these events",
        );
    }
    match event_at(context, topic, *partition, *offset).await {
        Some(id) if id == line.event_id => {
            findings.ok(subject, format!("it ends with {place}, {} before the end of the topic", end - offset - 1));
        }
        _ => findings.warn(
            subject,
            format!("it ends with {place}, where the topic has another event or none: the topic was truncated or created again"),
            "audit-service reads such a topic from its start and writes what is missing; what was only in the old topic is only in the log",
        ),
    }
}

async fn event_at(context: &Context, topic: &str, partition: i32, offset: i64) -> Option<Uuid> {
    let mut range = context.kafka.read_range(topic, partition, offset, offset + 1);
    while let Some(Ok(fetched)) = range.next().await {
        for record in fetched.batches.into_iter().flat_map(|batch| batch.records()).flatten() {
            if record.offset == offset {
                let event = context.events.read_now(record.value.as_deref()).await;
                return event.ok().map(|event| event.event_id);
            }
        }
    }
    None
}

fn end_of(file: &mut File) -> io::Result<End> {
    let length = file.seek(SeekFrom::End(0))?;
    if length == 0 {
        return Ok(End::Empty);
    }
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_LINE)))?;
    let mut bytes = Vec::new();
    file.take(MAX_LINE).read_to_end(&mut bytes)?;
    let Some(whole) = bytes.strip_suffix(b"\n") else { return Ok(End::Torn) };
    let line = whole.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(serde_json::from_slice(line).map_or(End::NoEvent, End::Line))
}
