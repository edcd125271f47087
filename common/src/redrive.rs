//! Redriving a dead letter: its event is written to its topic again, for the group that failed it.
//!
//! # Invariants
//!
//! - *One group handles it.* The copy names its group in the header [`GROUP_HEADER`]; the runtime of every other
//!   group passes it over before it is decoded, so that it cannot be dead-lettered there either.
//! - *It is handled once*, however often it is redriven: the copy has the event's id, which the group's
//!   deduplication knows from the first copy on. A group that starts over reads the original first.
//! - *The DLQ says what became of it.* A [`RedriveNote`] follows the copy, in the DLQ itself, so that it lives
//!   as long as the dead letter. Without the note (the process died in between) the dead letter counts as not
//!   redriven, and a second copy is a duplicate.
//! - A copy that fails again is a dead letter of its own. Kafka's headers of that one do not name the group, so
//!   that the DLQ's readers do not pass it over.

mod headers;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use uuid::Uuid;

use crate::config::topic_name;
use crate::dlq::{DlqRecord, OriginalHeader, Source};
use crate::event::{self, Malformed};
use crate::kafka::{
    Compression, ConsumerRecord, Kafka, KafkaError, OffsetAt, Producer, ProducerRecord, REQUEST_TIMEOUT,
    partition_for_key,
};
use crate::time::serialize_time;

pub(crate) use headers::is_redrive_header;
pub use headers::{GROUP_HEADER, LETTER_HEADER, is_for};

/// Time to read an original that its dead letter does not carry.
const READ_TIMEOUT: Duration = REQUEST_TIMEOUT;

/// Where a record is stored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
}

impl Place {
    /// Where the original of a dead letter is, or the first of its range.
    pub fn of(source: &Source) -> Self {
        let Source { topic, partition, offset, .. } = source;
        Self { topic: topic.clone(), partition: *partition, offset: *offset }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

/// The value of a record in the DLQ which says that a dead letter of the same topic was redriven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedriveNote {
    /// The dead letter.
    pub redriven: Place,
    /// The group that failed it.
    pub group: String,
    /// Where its copy is.
    pub to: Place,
    /// When.
    #[serde(serialize_with = "serialize_time")]
    pub redriven_at: DateTime<Utc>,
    /// The correlation id of the event, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<Uuid>,
}

/// What a record of the DLQ is.
#[derive(Debug)]
pub enum DlqEntry {
    /// An event that a group could not handle.
    Letter(Box<DlqRecord>),
    /// What became of one.
    Note(RedriveNote),
}

impl DlqEntry {
    /// Reads the value of a record of the DLQ.
    pub fn decode(value: Option<&[u8]>) -> Result<Self, Malformed> {
        DlqRecord::decode(value).map(|record| Self::Letter(Box::new(record))).or_else(|malformed| {
            let note = value.and_then(|value| serde_json::from_slice(value).ok());
            note.map(Self::Note).ok_or(malformed)
        })
    }
}

/// Why a dead letter was not redriven.
#[derive(Debug, thiserror::Error)]
pub enum RedriveError {
    /// A call to Kafka failed. A copy may have been written; redriving again does no harm.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The event is not there to be written again.
    #[error("the event of {letter} cannot be redriven: {why}")]
    NoEvent {
        /// The dead letter.
        letter: Place,
        /// What is in the way.
        why: String,
    },
}

/// Redrives dead letters of one DLQ, one after the other.
#[derive(Debug)]
pub struct Redriver {
    kafka: Kafka,
    dlq_topic: String,
    /// By topic and partition.
    producers: HashMap<(String, i32), Producer>,
}

impl Redriver {
    /// For the dead letters in `dlq_topic`.
    pub fn new(kafka: Kafka, dlq_topic: &str) -> Self {
        Self { kafka, dlq_topic: dlq_topic.to_owned(), producers: HashMap::new() }
    }

    /// Writes a copy of the event to its topic, then a note to the DLQ, and returns the note. `stored` is the
    /// record of the DLQ that `letter` was read from, in that partition.
    pub async fn redrive(
        &mut self,
        partition: i32,
        stored: &ConsumerRecord,
        letter: &DlqRecord,
    ) -> Result<RedriveNote, RedriveError> {
        let place = Place { topic: self.dlq_topic.clone(), partition, offset: stored.offset };
        let original = self.original(&place, stored, letter).await?;
        let topic = letter.source.topic.clone();
        let no_topic = |why| RedriveError::NoEvent { letter: place.clone(), why };
        // Anybody may have written the letter: a name that no topic can have ends nothing but this letter.
        topic_name(&topic).map_err(no_topic)?;
        let count = match self.kafka.partition_count(&topic).await {
            Err(error @ KafkaError::UnknownTopic { .. }) => return Err(no_topic(error.to_string())),
            count => count?,
        };
        let source = letter.source.partition;
        let target = match original.key.as_deref() {
            // Where the task's events are now.
            Some(key) => partition_for_key(key, count),
            None if source < count => source,
            None => 0,
        };
        let mut headers = original.headers;
        headers.insert(GROUP_HEADER.to_owned(), letter.group.clone().into_bytes());
        headers.insert(LETTER_HEADER.to_owned(), place.to_string().into_bytes());
        let copy =
            ProducerRecord { key: original.key, value: original.value, headers, timestamp: Utc::now() };
        let key = copy.key.clone();
        let correlation_id = event::correlation_id(copy.value.as_deref());
        let offset = self.produce(&topic, target, copy).await?;
        let note = RedriveNote {
            redriven: place,
            group: letter.group.clone(),
            to: Place { topic, partition: target, offset },
            redriven_at: Utc::now(),
            correlation_id,
        };
        let value = serde_json::to_vec(&note).map_err(|error| KafkaError::failed("encode a note", error))?;
        let dlq_topic = self.dlq_topic.clone();
        let record = ProducerRecord {
            key,
            value: Some(value),
            headers: BTreeMap::from([("content-type".to_owned(), b"application/json".to_vec())]),
            timestamp: note.redriven_at,
        };
        self.produce(&dlq_topic, partition, record).await?;
        Ok(note)
    }

    /// The event as it was: from the dead letter, or from its source where the letter does not carry it.
    async fn original(
        &self,
        place: &Place,
        stored: &ConsumerRecord,
        letter: &DlqRecord,
    ) -> Result<Original, RedriveError> {
        let no_event = |why: String| RedriveError::NoEvent { letter: place.clone(), why };
        if let Some(value) = letter.original_value().map_err(|error| no_event(error.to_string()))? {
            let key = stored.key.as_ref().map(|key| key.to_vec());
            let headers = letter.original_headers.iter().filter_map(header).collect();
            return Ok(Original { key, value, headers });
        }
        let source = &letter.source;
        let at = Place::of(source);
        if source.last_offset.is_some() {
            return Err(no_event(format!("what is at {at} cannot be read")));
        }
        let reading = timeout(READ_TIMEOUT, self.record_at(&source.topic, source.partition, source.offset));
        let record = reading
            .await
            .map_err(|_| KafkaError::Timeout { call: format!("read {at}"), after: READ_TIMEOUT })??
            .ok_or_else(|| no_event(format!("the letter has only its source, and {at} is not there")))?;
        let text = |(name, value): (String, Option<&[u8]>)| Some((name, value?.to_vec()));
        Ok(Original {
            key: record.key.as_ref().map(|key| key.to_vec()),
            value: record.value.as_ref().map(|value| value.to_vec()),
            headers: record
                .headers
                .iter()
                .filter_map(|header| text((header.name_lossy().into_owned(), header.value)))
                .collect(),
        })
    }

    async fn record_at(
        &self,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> Result<Option<ConsumerRecord>, KafkaError> {
        let start = self.kafka.list_offset(topic, partition, OffsetAt::Earliest).await?;
        let end = self.kafka.list_offset(topic, partition, OffsetAt::LastStable).await?;
        if !(start..end).contains(&offset) {
            return Ok(None);
        }
        let mut range = self.kafka.read_range(topic, partition, offset, offset + 1);
        while let Some(fetched) = range.next().await {
            // A failure is tried again, for as long as the caller waits.
            let Ok(fetched) = fetched else { continue };
            let mut records = fetched.batches.iter().flat_map(|batch| batch.records()).flatten();
            if let Some(record) = records.find(|record| record.offset == offset) {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    async fn produce(
        &mut self,
        topic: &str,
        partition: i32,
        record: ProducerRecord,
    ) -> Result<i64, KafkaError> {
        let at = (topic.to_owned(), partition);
        let kafka = &self.kafka;
        let producer = self.producers.entry(at).or_insert_with(|| kafka.producer(topic, partition));
        // As large as the DLQ took it, compressed.
        let offsets = producer.produce(&[record], Compression::Gzip).await?;
        offsets.first().copied().ok_or_else(|| KafkaError::failed("produce", "the broker gave no offset"))
    }
}

/// What is written again.
struct Original {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: BTreeMap<String, Vec<u8>>,
}

/// A header that the client can write: of a repeated name the last, and no null value.
fn header(header: &OriginalHeader) -> Option<(String, Vec<u8>)> {
    Some((header.name.clone(), header.value_bytes()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::Headers;

    fn headers(of: &[(&str, Option<&str>)]) -> Headers {
        of.iter().map(|(name, value)| (*name, value.map(str::as_bytes))).collect()
    }

    #[test]
    fn a_record_that_names_a_group_is_for_that_group_alone() {
        assert!(is_for(&Headers::default(), "g"));
        assert!(is_for(&headers(&[("ce_id", Some("x"))]), "g"));
        let redriven = headers(&[("ce_id", Some("x")), (GROUP_HEADER, Some("g"))]);
        assert!(is_for(&redriven, "g"));
        assert!(!is_for(&redriven, "h"));
        assert!(!is_for(&headers(&[(GROUP_HEADER, None)]), "g"), "for nobody");
    }

    #[test]
    fn an_entry_of_the_dlq_is_a_letter_or_a_note() {
        let place = |offset| Place { topic: "t".to_owned(), partition: 0, offset };
        let note = RedriveNote {
            redriven: place(3),
            group: "g".to_owned(),
            to: place(9),
            redriven_at: Utc::now(),
            correlation_id: None,
        };
        let json = serde_json::to_vec(&note).unwrap();
        let Ok(DlqEntry::Note(read)) = DlqEntry::decode(Some(&json)) else { panic!("a note") };
        assert_eq!((read.redriven, read.to), (note.redriven, note.to));
        assert!(DlqEntry::decode(Some(b"{}")).is_err());
        assert_eq!(DlqEntry::decode(None).unwrap_err(), Malformed::NoValue);
    }
}
