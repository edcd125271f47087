//! The dead letters of the DLQ, and what became of each.
//!
//! A note about a letter comes after it, so what became of a letter is known once the DLQ is read to its end. What
//! is kept of a letter is bounded; its event is not kept.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Progress;
use super::scan::{LogRange, readable, scan};
use crate::dlq::{DlqRecord, ErrorInfo, Source};
use crate::event::{ID_HEADER, Malformed, TYPE_HEADER};
use crate::kafka::{ConsumerRecord, Kafka, KafkaError};
use crate::redrive::{DlqEntry, Place, RedriveNote};
use crate::time::format_time;

/// Most dead letters that are looked at: some 500 bytes each.
const MAX_LETTERS: usize = 1_000_000;
/// Longest key that is kept, in bytes: a task's id has 36.
const MAX_KEY: usize = 256;
/// Longest text that is kept, in bytes: what this system writes is shorter.
const MAX_TEXT: usize = 8_192;

/// Where a dead letter is in the DLQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterId {
    /// The partition of the DLQ.
    pub partition: i32,
    /// The offset in it.
    pub offset: i64,
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.partition, self.offset)
    }
}

/// How a person names dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetterName {
    /// By where it is: `PARTITION/OFFSET`, or `OFFSET` in partition 0.
    Id(LetterId),
    /// By its event, which several groups may have failed.
    Event(Uuid),
}

impl LetterName {
    /// Whether it means this letter.
    pub fn means(&self, letter: &Letter) -> bool {
        match self {
            Self::Id(id) => *id == letter.id,
            Self::Event(event_id) => letter.event_id == Some(*event_id),
        }
    }
}

impl fmt::Display for LetterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Event(event_id) => event_id.fmt(f),
        }
    }
}

impl FromStr for LetterName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(event_id) = text.parse() {
            return Ok(Self::Event(event_id));
        }
        let (partition, offset) = text.split_once('/').unwrap_or(("0", text));
        match (partition.parse::<u32>().map(i32::try_from), offset.parse::<u64>().map(i64::try_from)) {
            (Ok(Ok(partition)), Ok(Ok(offset))) => Ok(Self::Id(LetterId { partition, offset })),
            _ => Err(format!(
                "'{text}' is not PARTITION/OFFSET, as `taskctl dlq list` shows it, nor an event id"
            )),
        }
    }
}

/// A dead letter without its event.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Where it is.
    pub id: LetterId,
    /// The key of the event, which is its task's id.
    pub key: Option<Vec<u8>>,
    /// Of its event, where that can be read so far.
    pub event_id: Option<Uuid>,
    /// The same of its type.
    pub event_type: Option<String>,
    /// The group that failed it.
    pub group: String,
    /// Why.
    pub error: ErrorInfo,
    /// How often it was tried again.
    pub retry_count: u32,
    /// Where the event is.
    pub source: Source,
    /// When the group gave up.
    pub failed_at: DateTime<Utc>,
    /// The last time it was redriven.
    pub redriven: Option<RedriveNote>,
}

/// A dead letter as it is listed.
#[derive(Debug, Serialize)]
pub struct LetterRow {
    /// Where it is in the DLQ.
    pub id: String,
    /// When the group gave up, RFC 3339.
    pub failed_at: String,
    /// The group that failed it.
    pub group: String,
    /// The kind of the error.
    pub kind: String,
    /// Its message.
    pub message: String,
    /// How often it was tried again.
    pub retry_count: u32,
    /// Where the event is.
    pub source: String,
    /// The task of the event.
    pub task_id: Option<String>,
    /// The event, where it can be read so far.
    pub event_id: Option<String>,
    /// The same of its type.
    pub event_type: Option<String>,
    /// Where its copy is, if it was redriven.
    pub redriven_to: Option<String>,
    /// When that was, RFC 3339.
    pub redriven_at: Option<String>,
}

impl LetterRow {
    /// The row of a letter.
    pub fn new(letter: &Letter) -> Self {
        Self {
            id: letter.id.to_string(),
            failed_at: format_time(letter.failed_at),
            group: letter.group.clone(),
            kind: letter.error.kind.clone(),
            message: letter.error.message.clone(),
            retry_count: letter.retry_count,
            source: letter.place().to_string(),
            task_id: letter.task(),
            event_id: letter.event_id.map(|id| id.to_string()),
            event_type: letter.event_type.clone(),
            redriven_to: letter.redriven.as_ref().map(|note| note.to.to_string()),
            redriven_at: letter.redriven.as_ref().map(|note| format_time(note.redriven_at)),
        }
    }
}

impl Letter {
    fn new(id: LetterId, record: &ConsumerRecord, letter: DlqRecord) -> Self {
        #[derive(Deserialize)]
        struct Head {
            event_id: Uuid,
            event_type: Option<String>,
        }
        let head =
            letter.original_event.as_ref().and_then(|event| serde_json::from_str::<Head>(event.get()).ok());
        // Of what is not JSON, the headers tell: each event of ours has them.
        let header = |name: &str| {
            let header = letter.original_headers.iter().rfind(|header| header.name == name);
            header.and_then(|header| header.value.clone())
        };
        let by_headers =
            || Some(Head { event_id: header(ID_HEADER)?.parse().ok()?, event_type: header(TYPE_HEADER) });
        let head = head.or_else(by_headers);
        let (event_id, event_type) = head.map(|head| (head.event_id, head.event_type)).unzip();
        let mut letter = letter;
        let texts =
            [&mut letter.group, &mut letter.error.kind, &mut letter.error.message, &mut letter.source.topic];
        texts.into_iter().for_each(cut);
        let event_type = event_type.flatten().map(|mut text| {
            cut(&mut text);
            text
        });
        Self {
            id,
            key: record.key.as_ref().filter(|key| key.len() <= MAX_KEY).map(|key| key.to_vec()),
            event_id,
            event_type,
            group: letter.group,
            error: letter.error,
            retry_count: letter.retry_count,
            source: letter.source,
            failed_at: letter.failed_at,
            redriven: None,
        }
    }

    /// The task, as a person reads it.
    pub fn task(&self) -> Option<String> {
        self.key.as_ref().map(|key| String::from_utf8_lossy(key).into_owned())
    }

    /// Where the event was when the group failed it.
    pub fn place(&self) -> Place {
        Place::of(&self.source)
    }

    /// Whether the event is not one that this version can read: handling it again ends the same way.
    pub fn is_malformed(&self) -> bool {
        Malformed::is_kind(&self.error.kind)
    }
}

/// Keeps the start of a text that another system wrote.
fn cut(text: &mut String) {
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    text.shrink_to_fit();
}

/// The dead letters of a DLQ, as far as it has been read.
#[derive(Debug, Default)]
pub struct Letters {
    letters: BTreeMap<LetterId, Letter>,
    dropped: u64,
}

impl Letters {
    /// Takes the next record of a partition of the DLQ. Of more than `most` letters the first ones are dropped.
    pub fn apply(&mut self, partition: i32, record: &ConsumerRecord, most: usize) -> Result<(), Malformed> {
        let id = LetterId { partition, offset: record.offset };
        match DlqEntry::decode(record.value.as_deref())? {
            DlqEntry::Letter(letter) => {
                self.letters.insert(id, Letter::new(id, record, *letter));
                while self.letters.len() > most {
                    self.letters.pop_first();
                    self.dropped += 1;
                }
            }
            // It comes after its letter, in the same partition.
            DlqEntry::Note(note) => {
                let of = LetterId { partition: note.redriven.partition, offset: note.redriven.offset };
                if let Some(letter) = self.letters.get_mut(&of) {
                    letter.redriven = Some(note);
                }
            }
        }
        Ok(())
    }

    /// All that are kept, in the order of each partition.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Letter> {
        self.letters.values()
    }

    /// How many were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// Reads all dead letters, in the order of the DLQ.
pub async fn read_all(
    kafka: &Kafka,
    dlq_topic: &str,
    progress: &mut dyn Progress,
) -> Result<Vec<Letter>, KafkaError> {
    read_named(kafka, dlq_topic, &[], progress).await
}

/// Reads at least the dead letters of these names; all where there are none. Where each is named by its place, from
/// the first of them on: what became of a letter follows it.
pub async fn read_named(
    kafka: &Kafka,
    dlq_topic: &str,
    names: &[LetterName],
    progress: &mut dyn Progress,
) -> Result<Vec<Letter>, KafkaError> {
    let mut letters = Letters::default();
    progress.begin("reading the DLQ", "records");
    for partition in 0..kafka.partition_count(dlq_topic).await? {
        let Some(first) = first_named(names, partition) else { continue };
        let mut range = readable(kafka, dlq_topic, partition).await?;
        range.start = range.start.max(first).min(range.end);
        progress.add_total(range.len());
        let each = |record: ConsumerRecord| {
            if let Err(malformed) = letters.apply(partition, &record, MAX_LETTERS) {
                log::warn!("{dlq_topic}/{partition}/{} is no dead letter: {malformed}", record.offset);
            }
        };
        scan(kafka, dlq_topic, partition, range, progress, each).await?;
    }
    if letters.dropped() > 0 {
        log::warn!("only {MAX_LETTERS} dead letters of {dlq_topic} are shown");
    }
    Ok(letters.letters.into_values().collect())
}

/// The first offset of the partition at which one of these may be; `None` where none is there.
fn first_named(names: &[LetterName], partition: i32) -> Option<i64> {
    let offsets = names.iter().map(|name| match name {
        LetterName::Id(id) if id.partition == partition => Some(id.offset),
        LetterName::Id(_) => None,
        LetterName::Event(_) => Some(0),
    });
    if names.is_empty() { Some(0) } else { offsets.flatten().min() }
}

/// Reads one dead letter with its event, and the record that holds it. `None`: it was deleted, or is no dead letter.
pub async fn read_one(
    kafka: &Kafka,
    dlq_topic: &str,
    id: LetterId,
) -> Result<Option<(ConsumerRecord, DlqRecord)>, KafkaError> {
    let kept = readable(kafka, dlq_topic, id.partition).await?;
    let range = LogRange { start: id.offset.max(kept.start), end: (id.offset + 1).min(kept.end) };
    let mut found = None;
    scan(kafka, dlq_topic, id.partition, range, &mut (), |record| found = Some(record)).await?;
    Ok(found.and_then(|record| {
        let letter = DlqRecord::decode(record.value.as_deref()).ok()?;
        Some((record, letter))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dlq_is_read_from_the_first_letter_that_is_named_by_its_place() {
        let names = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<_>>();
        assert_eq!(first_named(&[], 3), Some(0));
        let by_place = names(&["1/70", "1/7", "2/9"]);
        assert_eq!([0, 1, 2].map(|partition| first_named(&by_place, partition)), [None, Some(7), Some(9)]);
        let by_event = names(&["1/70", &Uuid::now_v7().to_string()]);
        assert_eq!([0, 1].map(|partition| first_named(&by_event, partition)), [Some(0), Some(0)]);
    }

    #[test]
    fn a_letter_is_named_by_its_place_or_its_event() {
        let id = |partition, offset| Ok(LetterName::Id(LetterId { partition, offset }));
        assert_eq!("7".parse(), id(0, 7));
        assert_eq!("2/7".parse(), id(2, 7));
        let event = Uuid::now_v7();
        assert_eq!(event.to_string().parse(), Ok(LetterName::Event(event)));
        for wrong in ["", "a", "1/", "/1", "-1", "0/-1", "1/2/3", "99999999999/1", "18446744073709551615"] {
            assert!(wrong.parse::<LetterName>().is_err(), "{wrong}");
        }
    }
}
