//! The bytes of an event of ours, by `common/schemas/task-event.avsc`.

use uuid::Uuid;

use super::{MAGIC, TASK_EVENT};
use crate::event::{EventType, TaskEvent};

/// Which schema of ours [`encode`] writes. A change of the schema is a new revision; the schemas of former ones stay, so
/// that events that were stored before an update can still be read.
pub const REVISION: u8 = 2;

/// Revision 1, without `metadata.actor`.
const TASK_EVENT_1: &str = include_str!("../../schemas/task-event-1.avsc");

/// The schema of a revision, if there is one.
pub fn revision_schema(revision: u8) -> Option<&'static str> {
    match revision {
        1 => Some(TASK_EVENT_1),
        REVISION => Some(TASK_EVENT),
        _ => None,
    }
}

/// What an event takes beside its texts.
const EVENT_BYTES: usize = 220;

/// The value of the record of an event. An error: a status that the schema does not have.
pub fn encode(event: &TaskEvent, schema_id: u32) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(event.data.title.len() + EVENT_BYTES);
    out.push(MAGIC);
    out.extend(schema_id.to_be_bytes());
    uuid(event.event_id, &mut out);
    out.push(zigzag_byte(match event.event_type {
        EventType::Created => 1,
        EventType::Updated => 2,
        EventType::Completed => 3,
        EventType::Deleted => 4,
    }));
    long(event.occurred_at.timestamp_micros(), &mut out);
    uuid(event.data.task_id, &mut out);
    text(&event.data.title, &mut out);
    out.push(zigzag_byte(match event.data.status.as_str() {
        "pending" => 1,
        "in_progress" => 2,
        "completed" => 3,
        other => return Err(format!("the Avro schema has no status {other}")),
    }));
    match event.data.owner_id {
        None => out.push(zigzag_byte(0)),
        Some(owner) => {
            out.push(zigzag_byte(1));
            uuid(owner, &mut out);
        }
    }
    uuid(event.metadata.correlation_id, &mut out);
    text(&event.metadata.source, &mut out);
    match &event.metadata.actor {
        None => out.push(zigzag_byte(0)),
        Some(actor) => {
            out.push(zigzag_byte(1));
            text(actor, &mut out);
        }
    }
    Ok(out)
}

/// A number below 64.
fn zigzag_byte(number: u8) -> u8 {
    number << 1
}

fn long(number: i64, out: &mut Vec<u8>) {
    let mut left = ((number << 1) ^ (number >> 63)) as u64;
    while left >= 0x80 {
        out.push((left as u8 & 0x7f) | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

fn text(text: &str, out: &mut Vec<u8>) {
    long(i64::try_from(text.len()).unwrap_or(i64::MAX), out);
    out.extend_from_slice(text.as_bytes());
}

fn uuid(id: Uuid, out: &mut Vec<u8>) {
    let mut buffer = Uuid::encode_buffer();
    text(id.hyphenated().encode_lower(&mut buffer), out);
}
