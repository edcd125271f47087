//! The dead letters of the DLQ, and what became of each.
//!
//! Read whole, since a note about a letter comes after it; what is kept of a letter is bounded, its event is not
//! kept.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use task_events::dlq::{DlqRecord, ErrorInfo, Source};
use task_events::event::Malformed;
use task_events::kafka::ConsumerRecord;
use task_events::redrive::{DlqEntry, Place, RedriveNote};
use uuid::Uuid;

use crate::progress::Progress;
use crate::scan::{readable, scan};
use crate::{Context, Error, LogRange};

/// Most dead letters that are looked at: some 500 bytes each.
const MAX_LETTERS: usize = 1_000_000;
/// Longest key that is kept, in bytes: a task's id has 36.
const MAX_KEY: usize = 256;

/// Where a dead letter is in the DLQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterId {
    pub partition: i32,
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
    pub id: LetterId,
    /// The key of the event, which is its task's id.
    pub key: Option<Vec<u8>>,
    /// Of its event, where that can be read so far.
    pub event_id: Option<Uuid>,
    pub event_type: Option<String>,
    pub group: String,
    pub error: ErrorInfo,
    pub retry_count: u32,
    pub source: Source,
    pub failed_at: DateTime<Utc>,
    /// The last time it was redriven.
    pub redriven: Option<RedriveNote>,
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
        let (event_id, event_type) = head.map(|head| (head.event_id, head.event_type)).unzip();
        Self {
            id,
            key: record.key.as_ref().filter(|key| key.len() <= MAX_KEY).map(|key| key.to_vec()),
            event_id,
            event_type: event_type.flatten(),
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

/// Reads all dead letters, in the order of the DLQ.
pub async fn read_all(context: &Context) -> Result<Vec<Letter>, Error> {
    let topic = &context.topics.dlq_topic;
    let mut letters = BTreeMap::<LetterId, Letter>::new();
    let mut notes = HashMap::<LetterId, RedriveNote>::new();
    let mut progress = Progress::new("reading the DLQ", 0, "records");
    for partition in 0..context.kafka.partition_count(topic).await? {
        let range = readable(&context.kafka, topic, partition).await?;
        progress.add_total(u64::try_from(range.end - range.start).unwrap_or(0));
        let each = |record: ConsumerRecord| {
            let id = LetterId { partition, offset: record.offset };
            match DlqEntry::decode(record.value.as_deref()) {
                Ok(DlqEntry::Letter(letter)) if letters.len() < MAX_LETTERS => {
                    letters.insert(id, Letter::new(id, &record, *letter));
                }
                Ok(DlqEntry::Letter(_)) => {}
                Ok(DlqEntry::Note(note)) => {
                    let of = LetterId { partition: note.redriven.partition, offset: note.redriven.offset };
                    notes.insert(of, note);
                }
                Err(malformed) => log::warn!("{topic}/{id} is no dead letter: {malformed}"),
            }
        };
        scan(&context.kafka, topic, partition, range, &mut progress, each).await?;
    }
    if letters.len() >= MAX_LETTERS {
        log::warn!("only the first {MAX_LETTERS} dead letters of {topic} are shown");
    }
    for (id, note) in notes {
        if let Some(letter) = letters.get_mut(&id) {
            letter.redriven = Some(note);
        }
    }
    Ok(letters.into_values().collect())
}

/// Reads one dead letter with its event, and the record that holds it. `None`: it was deleted, or is no dead letter.
pub async fn read_one(context: &Context, id: LetterId) -> Result<Option<(ConsumerRecord, DlqRecord)>, Error> {
    let topic = &context.topics.dlq_topic;
    let range = LogRange { start: id.offset, end: id.offset + 1 };
    let mut progress = Progress::new("reading the DLQ", 1, "records");
    let mut found = None;
    scan(&context.kafka, topic, id.partition, range, &mut progress, |record| found = Some(record)).await?;
    Ok(found.and_then(|record| {
        let letter = DlqRecord::decode(record.value.as_deref()).ok()?;
        Some((record, letter))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

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
