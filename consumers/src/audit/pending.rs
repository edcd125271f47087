//! The lines of a partition that wait to be written, as one run of bytes.

use std::borrow::Cow;
use std::ops::Range;

use chrono::Utc;
use task_events::escape::escape_control;
use task_events::event::Event;
use task_events::logging::{CORRELATION_ID, Field};
use task_events::time::format_time;
use uuid::Uuid;

use super::line;

/// An event as it is made ready while the lines before it are being written.
#[derive(Debug, Clone)]
pub struct Entry {
    event_id: Uuid,
    correlation_id: Uuid,
    /// The start of its line, and behind it what is logged once the line is on disk.
    text: Vec<u8>,
    line_bytes: usize,
    /// Of that, the name of the type as it is logged.
    type_bytes: usize,
}

/// What comes before the type, and between it and the task, in what is logged.
const NOTICE: &[u8] = b"AUDIT: ";
const NOTICE_TASK: &[u8] = b" - task_id=";

impl Entry {
    /// Of an event whose record has that key.
    pub(super) fn new(event: &Event<'_>, key: Option<&[u8]>) -> serde_json::Result<Self> {
        let mut text = Vec::with_capacity(event.data.get().len() + event.metadata.get().len() + ENTRY_BYTES);
        line::start(event, &mut text)?;
        let line_bytes = text.len();
        text.extend_from_slice(NOTICE);
        let event_type = escape_control(&event.event_type);
        text.extend_from_slice(event_type.as_bytes());
        text.extend_from_slice(NOTICE_TASK);
        text.extend_from_slice(escape_control(&line::task_id(event, key)).as_bytes());
        let (event_id, correlation_id) = (event.event_id, event.correlation_id);
        Ok(Self { event_id, correlation_id, text, line_bytes, type_bytes: event_type.len() })
    }
}

/// What an entry takes beside data and metadata, as a rule.
const ENTRY_BYTES: usize = 256;

/// The lines of one batch of a partition.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    topic: String,
    partition: i32,
    bytes: Vec<u8>,
    notices: Vec<u8>,
    lines: Vec<PendingLine>,
    /// What all lines have between the entry and the offset.
    middle: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct PendingLine {
    event_id: Uuid,
    correlation_id: Uuid,
    offset: i64,
    type_bytes: usize,
    /// Where its bytes, and its notice, end.
    end: usize,
    notice_end: usize,
}

impl Pending {
    /// None yet.
    pub(super) fn new(topic: &str, partition: i32) -> Self {
        let topic = topic.to_owned();
        let (bytes, notices, lines, middle) = Default::default();
        Self { topic, partition, bytes, notices, lines, middle }
    }

    /// None yet, with the memory for as many as these.
    pub(super) fn like(&self) -> Self {
        Self {
            topic: self.topic.clone(),
            partition: self.partition,
            bytes: Vec::with_capacity(self.bytes.len()),
            notices: Vec::with_capacity(self.notices.len()),
            lines: Vec::with_capacity(self.lines.len()),
            middle: Vec::new(),
        }
    }

    /// Adds the line of an entry. All lines have the time at which the first was added.
    pub(super) fn push(&mut self, entry: &Entry, offset: i64) {
        if self.lines.is_empty() {
            self.middle = line::middle(&format_time(Utc::now()), &self.topic, self.partition);
        }
        let (start, notice) = entry.text.split_at_checked(entry.line_bytes).unwrap_or_default();
        self.bytes.extend_from_slice(start);
        self.bytes.extend_from_slice(&self.middle);
        line::end(offset, &mut self.bytes);
        self.notices.extend_from_slice(notice);
        let (end, notice_end) = (self.bytes.len(), self.notices.len());
        let Entry { event_id, correlation_id, type_bytes, .. } = *entry;
        self.lines.push(PendingLine { event_id, correlation_id, offset, type_bytes, end, notice_end });
    }

    /// The number of lines.
    pub(super) fn len(&self) -> u64 {
        self.lines.len() as u64
    }

    /// Their bytes together.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// All of the lines.
    #[cfg(test)]
    pub(super) fn all(&self) -> Part<'_> {
        Part { pending: self, lines: 0..self.lines.len() }
    }

    /// The lines in parts of no more than that many bytes, or of one line.
    pub(super) fn parts(&self, limit: u64) -> impl Iterator<Item = Part<'_>> {
        let mut from = 0;
        std::iter::from_fn(move || {
            let rest = self.lines.get(from..).filter(|rest| !rest.is_empty())?;
            let limit = self.end(from) as u64 + limit;
            let count = rest.iter().take_while(|line| line.end as u64 <= limit).count().max(1);
            let lines = from..from + count;
            from = lines.end;
            Some(Part { pending: self, lines })
        })
    }

    /// Where the bytes before that line end.
    fn end(&self, line: usize) -> usize {
        line.checked_sub(1).and_then(|before| self.lines.get(before)).map_or(0, |line| line.end)
    }

    fn notice_end(&self, line: usize) -> usize {
        line.checked_sub(1).and_then(|before| self.lines.get(before)).map_or(0, |line| line.notice_end)
    }
}

/// Some of the lines of a batch, one after the other.
#[derive(Debug, Clone)]
pub(super) struct Part<'a> {
    pending: &'a Pending,
    lines: Range<usize>,
}

impl<'a> Part<'a> {
    pub(super) fn bytes(&self) -> &'a [u8] {
        let Range { start, end } = self.lines;
        self.pending.bytes.get(self.pending.end(start)..self.pending.end(end)).unwrap_or_default()
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = Line<'a>> + use<'a> {
        let pending = self.pending;
        let lines = pending.lines.get(self.lines.clone()).unwrap_or_default().iter();
        lines.zip(self.lines.clone()).map(move |(line, number)| Line {
            event_id: line.event_id,
            correlation_id: line.correlation_id,
            type_bytes: line.type_bytes,
            topic: &pending.topic,
            partition: pending.partition,
            offset: line.offset,
            bytes: pending.bytes.get(pending.end(number)..line.end).unwrap_or_default(),
            notice: pending.notices.get(pending.notice_end(number)..line.notice_end).unwrap_or_default(),
        })
    }
}

/// A line that is to be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    pub(super) event_id: Uuid,
    pub(super) topic: &'a str,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) bytes: &'a [u8],
    notice: &'a [u8],
    type_bytes: usize,
    correlation_id: Uuid,
}

impl<'a> Line<'a> {
    /// What is logged once the line is on disk.
    pub(super) fn notice(&self) -> &'a str {
        // It was made of text.
        str::from_utf8(self.notice).unwrap_or_default()
    }

    /// The fields of that.
    pub(super) fn fields(&self) -> [Field<'a>; 7] {
        let notice = self.notice().get(NOTICE.len()..).unwrap_or_default();
        let (event_type, rest) = notice.split_at_checked(self.type_bytes).unwrap_or_default();
        let task_id = rest.get(NOTICE_TASK.len()..).unwrap_or_default();
        [
            Field::new(CORRELATION_ID, self.correlation_id),
            Field::new("event_id", self.event_id),
            Field::new("event_type", event_type),
            Field::new("task_id", task_id),
            Field::new("topic", self.topic),
            Field::new("partition", self.partition),
            Field::new("offset", self.offset),
        ]
    }
}

/// The lines of some parts whose events are not in the log.
pub(super) struct NewLines<'a> {
    pub(super) lines: Vec<Line<'a>>,
    /// How many they are of each part.
    pub(super) counts: Vec<u64>,
    /// Their bytes, one after the other.
    pub(super) bytes: Cow<'a, [u8]>,
}

impl<'a> NewLines<'a> {
    /// Those lines of which `is_new`, asked for each in order, says so.
    pub(super) fn of(parts: &[Part<'a>], mut is_new: impl FnMut(&Line<'a>) -> bool) -> Self {
        let all: usize = parts.iter().map(|part| part.lines.len()).sum();
        let (mut lines, mut counts) = (Vec::with_capacity(all), Vec::with_capacity(parts.len()));
        for part in parts {
            let before = lines.len();
            lines.extend(part.lines().filter(|line| is_new(line)));
            counts.push((lines.len() - before) as u64);
        }
        let bytes = match parts {
            [part] if lines.len() == all => Cow::Borrowed(part.bytes()),
            _ => Cow::Owned(lines.iter().flat_map(|line| line.bytes).copied().collect()),
        };
        Self { lines, counts, bytes }
    }
}
