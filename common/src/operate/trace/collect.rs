//! Reads what Kafka has of an id: the topic, the offsets, the DLQ.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use memchr::memmem::Finder;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::config::TopicArgs;
use crate::error_code::{Code, Coded};
use crate::kafka::{ConsumerRecord, Kafka, KafkaError, OffsetAt};
use crate::operate::Progress;
use crate::operate::letters::{Letter, read_all};
use crate::operate::positions::Positions;
use crate::operate::scan::{LogRange, readable, scan};
use crate::redrive::{GROUP_HEADER, Place};
use crate::schemas::EventReader;

/// Most records of the topic that are shown: a task has some ten events.
const MAX_RECORDS: usize = 500;
/// How much earlier than the id's own time its record may be, by clocks that differ.
const CLOCK_DOUBT: Duration = Duration::from_secs(3_600);

/// What Kafka has of an id.
#[derive(Debug, Default)]
pub struct Found {
    /// The id.
    pub id: Uuid,
    /// The records that have to do with it, in the order of each partition.
    pub records: Vec<Record>,
    /// How many more there are than are shown.
    pub more_records: usize,
    /// What the topic kept when it was read, for each partition.
    pub ranges: Vec<LogRange>,
    /// How far each group is.
    pub positions: Positions,
    /// The dead letters that have to do with it.
    pub letters: Vec<Letter>,
    /// What could not be read of that, and why.
    pub unseen: Vec<Unseen>,
}

/// A part of a trace that is not known.
#[derive(Debug)]
pub struct Unseen {
    /// Which.
    pub part: Part,
    /// Why.
    pub error: KafkaError,
}

/// What a trace reads from Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    All,
    /// The events.
    Events,
    /// The dead letters.
    DeadLetters,
    /// How far each group is.
    Groups,
}

impl Found {
    /// The task of the id: its own, where no event names one, in the topic or of those that wait for it.
    pub fn task_id(&self, waiting: &[EventHead]) -> Uuid {
        let in_topic = self.records.iter().filter_map(|record| record.event.as_ref());
        in_topic.chain(waiting).find_map(|event| event.task_id).unwrap_or(self.id)
    }

    /// Whether the events of the topic were read.
    pub(super) fn has_events(&self) -> bool {
        !self.unseen.iter().any(|unseen| matches!(unseen.part, Part::All | Part::Events))
    }

    /// Notes what could not be read. False where nothing else can be read either.
    fn without(&mut self, part: Part, error: KafkaError) -> bool {
        let is_down = matches!(error.code(), Code::KafkaUnreachable | Code::KafkaTls | Code::KafkaLogin);
        let part = if is_down && self.unseen.is_empty() { Part::All } else { part };
        self.unseen.push(Unseen { part, error });
        !is_down
    }
}

/// A record of the topic that has to do with the id.
#[derive(Debug, Clone)]
pub struct Record {
    /// Where it is.
    pub place: Place,
    /// When it was appended.
    pub timestamp: DateTime<Utc>,
    /// `None`: it is no event.
    pub event: Option<EventHead>,
    /// Redriven for this group alone.
    pub only_for: Option<String>,
}

/// What is shown of an event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventHead {
    /// Its id.
    pub event_id: Uuid,
    /// Its type.
    pub event_type: String,
    /// When, RFC 3339.
    pub occurred_at: String,
    /// Its task.
    pub task_id: Option<Uuid>,
    /// The request that caused it.
    pub correlation_id: Option<Uuid>,
}

/// Reads what Kafka has of an id. The topic is read from `since` on, or from when the id was made; of an id that does
/// not say when, all of it. What cannot be read is in [`Found::unseen`].
pub async fn collect(
    kafka: &Kafka,
    topics: &TopicArgs,
    events: &EventReader,
    id: Uuid,
    since: Option<DateTime<Utc>>,
    progress: &mut dyn Progress,
) -> Found {
    let mut found = Found { id, ..Found::default() };
    let since = since.or_else(|| made_at(id));
    match candidates(kafka, &topics.task_events_topic, id, since, progress).await {
        Ok((candidates, ranges)) => {
            let mut records = Vec::new();
            for (record, place) in candidates {
                records.extend(read(&record, place, events, id).await);
            }
            found.more_records = records.len().saturating_sub(MAX_RECORDS);
            records.truncate(MAX_RECORDS);
            (found.records, found.ranges) = (records, ranges);
        }
        Err(error) => {
            if !found.without(Part::Events, error) {
                return found;
            }
        }
    }
    match read_all(kafka, &topics.dlq_topic, progress).await {
        Ok(mut letters) => {
            letters.retain(|letter| is_about(letter, id, &found.records));
            found.letters = letters;
        }
        Err(error) => {
            if !found.without(Part::DeadLetters, error) {
                return found;
            }
        }
    }
    match Positions::read(kafka, &topics.offsets_topic).await {
        Ok(positions) => found.positions = positions,
        Err(error) => {
            found.without(Part::Groups, error);
        }
    }
    found
}

fn is_about(letter: &Letter, id: Uuid, records: &[Record]) -> bool {
    letter.event_id == Some(id)
        || letter.task() == Some(id.to_string())
        || records.iter().any(|record| record.place == letter.place())
}

/// The records that may have to do with the id, since they hold it as text, as Avro does too; and what each partition
/// keeps.
async fn candidates(
    kafka: &Kafka,
    topic: &str,
    id: Uuid,
    since: Option<DateTime<Utc>>,
    progress: &mut dyn Progress,
) -> Result<(Vec<(ConsumerRecord, Place)>, Vec<LogRange>), KafkaError> {
    let text = id.to_string();
    let finder = Finder::new(&text);
    let (mut records, mut ranges) = (Vec::new(), Vec::new());
    progress.begin("reading the events", "records");
    for partition in 0..kafka.partition_count(topic).await? {
        let kept = readable(kafka, topic, partition).await?;
        ranges.push(kept);
        let mut range = kept;
        if let Some(since) = since {
            let at = OffsetAt::Time(since.timestamp_millis().max(0));
            let start = kafka.list_offset(topic, partition, at).await?;
            // Negative where no record is as late.
            range.start = if start < 0 { range.end } else { start.clamp(range.start, range.end) };
        }
        progress.add_total(range.len());
        let each = |mut record: ConsumerRecord| {
            let is_in = |bytes: Option<&[u8]>| bytes.is_some_and(|bytes| finder.find(bytes).is_some());
            if is_in(record.key.as_deref()) || is_in(record.value.as_deref()) {
                let place = Place { topic: topic.to_owned(), partition, offset: record.offset };
                // Not with the whole fetch that it is a part of.
                record.value = record.value.as_deref().map(Bytes::copy_from_slice);
                records.push((record, place));
            }
        };
        scan(kafka, topic, partition, range, progress, each).await?;
    }
    Ok((records, ranges))
}

/// The record, if it has to do with the id: another id may just have it in its title.
async fn read(record: &ConsumerRecord, place: Place, events: &EventReader, id: Uuid) -> Option<Record> {
    let event = events.read_now(record.value.as_deref()).await.ok().map(|event| EventHead {
        event_id: event.event_id,
        event_type: event.event_type.clone().into_owned(),
        occurred_at: event.occurred_at.clone().into_owned(),
        task_id: event.task.as_ref().map(|task| task.task_id).or_else(|| id_in(event.data.get(), "task_id")),
        correlation_id: id_in(event.metadata.get(), "correlation_id"),
    });
    let has_key = record.key.as_deref() == Some(id.to_string().as_bytes());
    let is_about = event.as_ref().is_some_and(|event| {
        event.event_id == id || event.task_id == Some(id) || event.correlation_id == Some(id)
    });
    let only_for = record.headers.last(GROUP_HEADER).and_then(|header| header.value);
    (has_key || is_about).then(|| Record {
        place,
        timestamp: DateTime::from_timestamp_millis(record.timestamp).unwrap_or_default(),
        event,
        only_for: only_for.map(|group| String::from_utf8_lossy(group).into_owned()),
    })
}

fn id_in(json: &str, field: &str) -> Option<Uuid> {
    let value: Value = serde_json::from_str(json).ok()?;
    value.get(field)?.as_str()?.parse().ok()
}

/// When an id of version 7 was made, with a margin for clocks that differ.
fn made_at(id: Uuid) -> Option<DateTime<Utc>> {
    let (seconds, nanos) = id.get_timestamp().filter(|_| id.get_version_num() == 7)?.to_unix();
    let made = DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos)?;
    Some(made - CLOCK_DOUBT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_of_version_7_say_when_they_were_made() {
        let made = made_at(Uuid::now_v7()).unwrap();
        let age = Utc::now() - made;
        assert!((3_590..3_700).contains(&age.num_seconds()), "{age}");
        assert_eq!(made_at(Uuid::new_v4()), None);
    }
}
