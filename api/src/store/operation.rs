//! What a frame of the log says, as bytes.
//!
//! Numbers are little-endian; a text or a value is preceded by its length as a u32. An optional one has a byte
//! before it, 0 or 1. An event is its bytes, flags (a trace context; how it is encoded), and the trace context. A
//! version that knows JSON alone refuses a log with events in Avro, or keeps them as unreadable.
//!
//! | kind | what |
//! | --- | --- |
//! | 0 | nothing: the log can be written |
//! | 1 | a change: flags, task, answer under a key, number of its first event, events |
//! | 2 | delivered: topic id, partitions, partition, position, sequence numbers |
//! | 3 | where events go from now on: topic id, partitions |
//! | 4 | an event that waited in the outbox table of a former version: number, task id, event |
//! | 5 | a deletion: as a change, with the task as it was; a version that does not know deletions refuses the log |

use std::sync::Arc;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::delivery::{Delivered, OutboxEntry, PublishedTopic};
use super::mutation::Answer;
use crate::event_format::Encoding;
use crate::task::{Task, TaskStatus};

const NOTHING: u8 = 0;
const CHANGE: u8 = 1;
const DELIVERED: u8 = 2;
const PUBLISH_TO: u8 = 3;
const MOVED: u8 = 4;
const DELETION: u8 = 5;

/// The task has this version now.
const IS_STORED: u8 = 1;
const HAS_ANSWER: u8 = 2;

/// Of an event. The bits above are the number of its encoding, 0 for JSON.
const HAS_TRACEPARENT: u8 = 1;

/// What a frame says.
#[derive(Debug, PartialEq)]
pub(super) enum Operation<'a> {
    Nothing,
    Change(Change<'a>),
    Delivered(Delivered),
    PublishTo(PublishedTopic),
    Moved { seq: u64, task: Uuid, event: EventBytes<'a> },
}

/// What a change makes of the stored task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TaskWrite {
    /// It stays as it is: the task is only what was answered.
    None,
    /// It has this version now.
    Put,
    /// It is no more: this is the last that it was.
    Delete,
}

#[derive(Debug, PartialEq)]
pub(super) struct Change<'a> {
    pub(super) task: Arc<Task>,
    pub(super) write: TaskWrite,
    pub(super) answer: Option<(Box<str>, Answer)>,
    /// The sequence number of the first event.
    pub(super) first_event: u64,
    pub(super) events: Vec<EventBytes<'a>>,
}

/// An event as it goes to Kafka.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct EventBytes<'a> {
    pub(super) payload: &'a [u8],
    pub(super) encoding: Encoding,
    pub(super) traceparent: Option<&'a str>,
}

impl Operation<'_> {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Nothing => out.push(NOTHING),
            Self::Change(change) => {
                out.push(if change.write == TaskWrite::Delete { DELETION } else { CHANGE });
                change.write(out);
            }
            Self::Delivered(delivered) => {
                out.push(DELIVERED);
                write_delivered(out, delivered);
            }
            Self::PublishTo(topic) => {
                out.push(PUBLISH_TO);
                write_topic(out, *topic);
            }
            Self::Moved { seq, task, event } => {
                out.push(MOVED);
                out.extend(seq.to_le_bytes());
                out.extend(task.as_bytes());
                event.write(out);
            }
        }
    }
}

impl<'a> Operation<'a> {
    /// `None` where this program cannot have written it.
    pub(super) fn read(payload: &'a [u8]) -> Option<Self> {
        let mut bytes = Bytes(payload);
        let operation = match bytes.u8()? {
            NOTHING => Self::Nothing,
            kind @ (CHANGE | DELETION) => Self::Change(Change::read(&mut bytes, kind == DELETION)?),
            DELIVERED => Self::Delivered(read_delivered(&mut bytes)?),
            PUBLISH_TO => Self::PublishTo(read_topic(&mut bytes)?),
            MOVED => {
                Self::Moved { seq: bytes.u64()?, task: bytes.uuid()?, event: EventBytes::read(&mut bytes)? }
            }
            _ => return None,
        };
        bytes.0.is_empty().then_some(operation)
    }
}

impl<'a> Change<'a> {
    fn write(&self, out: &mut Vec<u8>) {
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        out.push(flag(self.write == TaskWrite::Put, IS_STORED) | flag(self.answer.is_some(), HAS_ANSWER));
        write_task(out, &self.task);
        if let Some((key, answer)) = &self.answer {
            write_bytes(out, key.as_bytes());
            write_bytes(out, &answer.fingerprint);
            out.extend(answer.expires_ms.to_le_bytes());
        }
        out.extend(self.first_event.to_le_bytes());
        out.push(u8::try_from(self.events.len()).unwrap_or(u8::MAX));
        self.events.iter().for_each(|event| event.write(out));
    }

    fn read(bytes: &mut Bytes<'a>, is_deletion: bool) -> Option<Self> {
        let flags = bytes.u8()?;
        let write = match flags & IS_STORED != 0 {
            _ if is_deletion => TaskWrite::Delete,
            true => TaskWrite::Put,
            false => TaskWrite::None,
        };
        let task = Arc::new(read_task(bytes)?);
        let answer = if flags & HAS_ANSWER != 0 {
            let key = bytes.text()?.into();
            let fingerprint = bytes.bytes()?.into();
            Some((key, Answer { fingerprint, expires_ms: bytes.u64()?, task: Arc::clone(&task) }))
        } else {
            None
        };
        let first_event = bytes.u64()?;
        let count = bytes.u8()?;
        let events = (0..count).map(|_| EventBytes::read(bytes)).collect::<Option<_>>()?;
        Some(Self { task, write, answer, first_event, events })
    }
}

impl<'a> EventBytes<'a> {
    pub(super) fn of(entry: &'a OutboxEntry) -> Self {
        let OutboxEntry { payload, encoding, traceparent, .. } = entry;
        Self { payload, encoding: *encoding, traceparent: traceparent.as_deref() }
    }

    fn write(&self, out: &mut Vec<u8>) {
        write_bytes(out, self.payload);
        out.push(self.encoding.number() << 1 | u8::from(self.traceparent.is_some()));
        if let Some(traceparent) = self.traceparent {
            write_bytes(out, traceparent.as_bytes());
        }
    }

    fn read(bytes: &mut Bytes<'a>) -> Option<Self> {
        let payload = bytes.bytes()?;
        let flags = bytes.u8()?;
        let traceparent = if flags & HAS_TRACEPARENT == 0 { None } else { Some(bytes.text()?) };
        Some(Self { payload, encoding: Encoding::from_number(flags >> 1), traceparent })
    }
}

/// A task as it is in the log, and in the answers under idempotency keys.
pub(super) fn write_task(out: &mut Vec<u8>, task: &Task) {
    out.extend(task.id.as_bytes());
    out.push(task.status.code());
    out.push(u8::from(task.owner_id.is_some()));
    if let Some(owner) = task.owner_id {
        out.extend(owner.as_bytes());
    }
    out.extend(task.version.to_le_bytes());
    out.extend(task.created_at.timestamp_micros().to_le_bytes());
    out.extend(task.updated_at.timestamp_micros().to_le_bytes());
    write_bytes(out, task.title.as_bytes());
}

pub(super) fn read_task(bytes: &mut Bytes<'_>) -> Option<Task> {
    let id = bytes.uuid()?;
    let code = bytes.u8()?;
    let status = TaskStatus::ALL.into_iter().find(|status| status.code() == code)?;
    let owner_id = if bytes.u8()? == 0 { None } else { Some(bytes.uuid()?) };
    let version = bytes.u64()?;
    let (created_at, updated_at) = (bytes.time()?, bytes.time()?);
    Some(Task { id, title: bytes.text()?.to_owned(), status, owner_id, version, created_at, updated_at })
}

fn write_topic(out: &mut Vec<u8>, topic: PublishedTopic) {
    out.extend(topic.topic_id.as_bytes());
    out.extend(topic.partitions.to_le_bytes());
}

fn read_topic(bytes: &mut Bytes<'_>) -> Option<PublishedTopic> {
    Some(PublishedTopic { topic_id: bytes.uuid()?, partitions: bytes.i32()? })
}

fn write_delivered(out: &mut Vec<u8>, delivered: &Delivered) {
    write_topic(out, delivered.topic);
    out.extend(delivered.partition.to_le_bytes());
    out.push(u8::from(delivered.position.is_some()));
    if let Some(position) = delivered.position {
        out.extend(position.to_le_bytes());
    }
    write_seqs(out, &delivered.seqs);
    write_seqs(out, &delivered.scattered);
}

fn read_delivered(bytes: &mut Bytes<'_>) -> Option<Delivered> {
    Some(Delivered {
        topic: read_topic(bytes)?,
        partition: bytes.i32()?,
        position: if bytes.u8()? == 0 { None } else { Some(bytes.i64()?) },
        seqs: read_seqs(bytes)?,
        scattered: read_seqs(bytes)?,
    })
}

/// As differences, which are small: seven bits a byte.
fn write_seqs(out: &mut Vec<u8>, seqs: &[u64]) {
    out.extend(u32::try_from(seqs.len()).unwrap_or(u32::MAX).to_le_bytes());
    let mut before = 0_u64;
    for seq in seqs {
        let mut left = seq.wrapping_sub(before);
        before = *seq;
        while left >= 0x80 {
            out.push((left as u8 & 0x7f) | 0x80);
            left >>= 7;
        }
        out.push(left as u8);
    }
}

fn read_seqs(bytes: &mut Bytes<'_>) -> Option<Vec<u64>> {
    let count = usize::try_from(bytes.u32()?).ok().filter(|count| *count <= bytes.0.len())?;
    let mut seqs = Vec::with_capacity(count);
    let mut before = 0_u64;
    for _ in 0..count {
        let (mut difference, mut shift) = (0_u64, 0);
        loop {
            let byte = bytes.u8()?;
            difference |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
        }
        before = before.wrapping_add(difference);
        seqs.push(before);
    }
    Some(seqs)
}

pub(super) fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// What is still to be read.
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    fn uuid(&mut self) -> Option<Uuid> {
        self.array().map(Uuid::from_bytes)
    }

    fn time(&mut self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_micros(self.i64()?)
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = usize::try_from(self.u32()?).ok()?;
        self.take(count)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        str::from_utf8(self.bytes()?).ok()
    }
}

#[cfg(test)]
mod tests;
