//! The dead-letter queue: the record of an event that a group could not handle, and its publisher.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::Mutex;

use crate::event::{Malformed, serialize_time};
use crate::kafka::records::Header;
use crate::kafka::{
    Compression, ConsumerRecord, Kafka, KafkaError, Producer, ProducerRecord, Unreadable, partition_for_key,
};
use crate::redrive::is_redrive_header;

/// Longest error message that is kept, in characters.
const MAX_MESSAGE: usize = 2_000;
/// Longest key, in bytes, of a record that goes by its source alone.
const MAX_KEY_BY_SOURCE: usize = 1_024;

/// The value of a DLQ record. Its key is the key of the original.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DlqRecord {
    /// The value of the original, byte for byte, where it is JSON that can stand here so: with no space
    /// around it, which would be lost, and not `null`, which would read as if nothing stood here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_event: Option<Box<RawValue>>,
    /// The value of the original otherwise; null where there was none.
    #[serde(default, skip_serializing_if = "Original::is_elsewhere")]
    pub original_value_base64: Original,
    /// Why it could not be handled.
    pub error: ErrorInfo,
    /// How often handling was tried again after the first time.
    pub retry_count: u32,
    /// The consumer group that could not handle it.
    pub group: String,
    /// Where the original is stored.
    pub source: Source,
    /// The headers of the original in their order, with repeated names and null values. Kafka's own headers
    /// on the DLQ record hold them as well, but of a repeated name only the last, and no null values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub original_headers: Vec<OriginalHeader>,
    /// When the group gave up.
    #[serde(serialize_with = "serialize_time")]
    pub failed_at: DateTime<Utc>,
}

/// The bytes of an original that does not stand in the record as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Original {
    /// Base64 of the value.
    Base64(String),
    /// The original has no value (a tombstone).
    NoValue,
    /// The value is JSON, or too large to be carried along: then it stands only at its source.
    #[default]
    #[serde(skip)]
    Elsewhere,
}

impl Original {
    fn is_elsewhere(&self) -> bool {
        *self == Self::Elsewhere
    }
}

/// Why an event could not be handled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorInfo {
    /// The sort of error, for counting.
    pub kind: String,
    /// The error, for people.
    pub message: String,
}

/// One header of the original.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginalHeader {
    /// Its name.
    pub name: String,
    /// Its value as text, where it is UTF-8. Neither this nor `value_base64`: the value is null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Its value otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
}

impl OriginalHeader {
    fn of(header: &Header<'_>) -> Self {
        let text = header.value.map(std::str::from_utf8);
        Self {
            name: header.name_lossy().into_owned(),
            value: text.and_then(Result::ok).map(str::to_owned),
            value_base64: header
                .value
                .filter(|_| matches!(text, Some(Err(_))))
                .map(|value| STANDARD.encode(value)),
        }
    }

    /// The bytes of its value; `None` where it is null, or was not written by this system.
    pub(crate) fn value_bytes(&self) -> Option<Vec<u8>> {
        let text = self.value.as_ref().map(|text| text.as_bytes().to_vec());
        text.or_else(|| STANDARD.decode(self.value_base64.as_ref()?).ok())
    }
}

/// Where the original is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset; the first one of a range that could not be read.
    pub offset: i64,
    /// The last offset of such a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_offset: Option<i64>,
    /// Its timestamp.
    #[serde(serialize_with = "serialize_time")]
    pub timestamp: DateTime<Utc>,
}

/// What a group has to say of an event that it gives up.
#[derive(Debug, Clone)]
pub struct Failure<'a> {
    /// The group.
    pub group: &'a str,
    /// Where the original stands.
    pub topic: &'a str,
    /// Where the original stands.
    pub partition: i32,
    /// The sort of error.
    pub kind: &'a str,
    /// The error.
    pub message: &'a str,
    /// How often handling was tried again after the first time.
    pub retry_count: u32,
}

/// What a group gives up.
#[derive(Debug, Clone, Copy)]
pub enum DeadLetter<'a> {
    /// A record.
    Record(&'a ConsumerRecord),
    /// Offsets that cannot be read: nothing of them can be carried along but where they are.
    Unreadable(&'a Unreadable),
}

impl<'a> DeadLetter<'a> {
    /// Its first offset.
    pub fn first_offset(self) -> i64 {
        match self {
            Self::Record(record) => record.offset,
            Self::Unreadable(range) => range.first_offset,
        }
    }

    fn record(self) -> Option<&'a ConsumerRecord> {
        match self {
            Self::Record(record) => Some(record),
            Self::Unreadable(_) => None,
        }
    }

    /// Milliseconds since 1970.
    fn timestamp(self) -> i64 {
        match self {
            Self::Record(record) => record.timestamp,
            Self::Unreadable(range) => range.timestamp,
        }
    }

    fn last_offset(self) -> Option<i64> {
        match self {
            Self::Record(_) => None,
            Self::Unreadable(range) => Some(range.last_offset),
        }
    }
}

impl DlqRecord {
    pub(crate) fn new(failure: &Failure<'_>, letter: DeadLetter<'_>) -> Self {
        let value = letter.record().map(|record| record.value.as_deref());
        let json = value.flatten().and_then(as_json);
        let base64 = match value {
            Some(None) => Original::NoValue,
            Some(Some(value)) if json.is_none() => Original::Base64(STANDARD.encode(value)),
            _ => Original::Elsewhere,
        };
        let headers = letter.record().into_iter().flat_map(|record| record.headers.iter());
        Self {
            original_event: json,
            original_value_base64: base64,
            original_headers: headers.map(|header| OriginalHeader::of(&header)).collect(),
            error: ErrorInfo {
                kind: failure.kind.to_owned(),
                message: failure.message.chars().take(MAX_MESSAGE).collect(),
            },
            retry_count: failure.retry_count,
            group: failure.group.to_owned(),
            source: Source {
                topic: failure.topic.to_owned(),
                partition: failure.partition,
                offset: letter.first_offset(),
                last_offset: letter.last_offset(),
                // A writer may set any time, also one that no calendar has; the header keeps it as it is.
                timestamp: DateTime::from_timestamp_millis(letter.timestamp()).unwrap_or_default(),
            },
            failed_at: Utc::now(),
        }
    }

    /// Reads the value of a DLQ record.
    pub fn decode(value: Option<&[u8]>) -> Result<Self, Malformed> {
        serde_json::from_slice(value.ok_or(Malformed::NoValue)?).map_err(|error| Malformed::from_json(&error))
    }

    /// The value of the original, byte for byte, if the record carries it; the inner `None`: it had none.
    pub fn original_value(&self) -> Result<Option<Option<Vec<u8>>>, Malformed> {
        if let Some(json) = &self.original_event {
            return Ok(Some(Some(json.get().as_bytes().to_vec())));
        }
        match &self.original_value_base64 {
            Original::Base64(text) => match STANDARD.decode(text) {
                Ok(bytes) => Ok(Some(Some(bytes))),
                Err(error) => Err(Malformed::Field(format!("original_value_base64: {error}"))),
            },
            Original::NoValue => Ok(Some(None)),
            Original::Elsewhere => Ok(None),
        }
    }

    /// The record without anything of the original that has no bound: its source says where that is.
    fn by_source_alone(&self) -> Self {
        Self {
            original_event: None,
            original_value_base64: Original::Elsewhere,
            original_headers: Vec::new(),
            ..self.clone()
        }
    }

    /// The headers, under the names that Spring Kafka's DeadLetterPublishingRecoverer gives them, and with
    /// text as values. Those of the original are kept as far as the client can write them, but not those of a
    /// redrive, by which the DLQ's own readers would pass the dead letter over.
    fn headers(&self, letter: DeadLetter<'_>, with_original: bool) -> BTreeMap<String, Vec<u8>> {
        let original = letter.record().filter(|_| with_original);
        let original = original.into_iter().flat_map(|record| record.headers.iter());
        let original = original.filter(|header| !is_redrive_header(header.name));
        let mut headers: BTreeMap<String, Vec<u8>> = original
            .filter_map(|header| Some((header.name_lossy().into_owned(), header.value?.to_vec())))
            .collect();
        let mut set = |name: &str, value: String| headers.insert(name.to_owned(), value.into_bytes());
        set("content-type", "application/json".to_owned());
        set("kafka_dlt-original-topic", self.source.topic.clone());
        set("kafka_dlt-original-partition", self.source.partition.to_string());
        set("kafka_dlt-original-offset", self.source.offset.to_string());
        set("kafka_dlt-original-timestamp", letter.timestamp().to_string());
        set("kafka_dlt-original-consumer-group", self.group.clone());
        set("kafka_dlt-exception-fqcn", self.error.kind.clone());
        set("kafka_dlt-exception-message", self.error.message.clone());
        headers
    }

    /// The record to produce, whole.
    pub(crate) fn into_record(self, letter: DeadLetter<'_>) -> Result<ProducerRecord, KafkaError> {
        self.render(letter, true)
    }

    fn render(self, letter: DeadLetter<'_>, with_original: bool) -> Result<ProducerRecord, KafkaError> {
        let key = letter.record().and_then(|record| record.key.as_deref());
        let key = key.filter(|key| with_original || key.len() <= MAX_KEY_BY_SOURCE);
        Ok(ProducerRecord {
            key: key.map(<[u8]>::to_vec),
            headers: self.headers(letter, with_original),
            value: Some(
                serde_json::to_vec(&self)
                    .map_err(|error| KafkaError::failed("encode a DLQ record", error))?,
            ),
            timestamp: self.failed_at,
        })
    }
}

/// The value as a field of a JSON record that gives it back byte for byte, if there is one.
fn as_json(value: &[u8]) -> Option<Box<RawValue>> {
    let json: Box<RawValue> = serde_json::from_slice(value).ok()?;
    (json.get().as_bytes() == value && value != b"null").then_some(json)
}

/// Writes to the DLQ.
#[derive(Debug)]
pub struct DlqPublisher {
    kafka: Kafka,
    topic: String,
    /// One handle a partition, made on first use and again after a failure.
    partitions: Mutex<Vec<Arc<Producer>>>,
}

impl DlqPublisher {
    /// A publisher to the topic.
    pub fn new(kafka: Kafka, topic: &str) -> Self {
        Self { kafka, topic: topic.to_owned(), partitions: Mutex::default() }
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Writes the record and returns once it is acknowledged. After an error it may be stored all the same; a
    /// repeat makes a second one, which names the same source.
    ///
    /// The batch is compressed, so that an event of the largest size still fits with what is said of it.
    /// Where it does not, the record goes by its source alone, which says where the original is.
    pub async fn publish(&self, failure: &Failure<'_>, letter: DeadLetter<'_>) -> Result<(), KafkaError> {
        let outcome = self.publish_once(failure, letter).await;
        if outcome.is_err() {
            self.partitions.lock().await.clear();
        }
        outcome
    }

    async fn publish_once(&self, failure: &Failure<'_>, letter: DeadLetter<'_>) -> Result<(), KafkaError> {
        let key = letter.record().and_then(|record| record.key.as_deref());
        let partition = self.partition(key).await?;
        let whole = DlqRecord::new(failure, letter);
        let by_source = whole.by_source_alone();
        match partition.produce(&[whole.into_record(letter)?], Compression::Gzip).await {
            Err(KafkaError::MessageTooLarge { .. }) => {
                let by_source = [by_source.render(letter, false)?];
                let produced = partition.produce(&by_source, Compression::Gzip).await;
                produced.map_err(|error| self.with_remedy(error))?;
                log::warn!(
                    "the event at {}/{} offset {} is too large for {}: the DLQ record goes by its source alone; raise the topic's max.message.bytes",
                    failure.topic,
                    failure.partition,
                    letter.first_offset(),
                    self.topic
                );
                Ok(())
            }
            outcome => outcome.map(|_| ()).map_err(|error| self.with_remedy(error)),
        }
    }

    /// Adds what to do about a DLQ that takes no record at all.
    fn with_remedy(&self, error: KafkaError) -> KafkaError {
        let remedy = match &error {
            KafkaError::MessageTooLarge { .. } => "max.message.bytes to 4194304",
            // A record without a key, in a topic that is compacted.
            KafkaError::Refused { reason, .. } if reason.ends_with("InvalidRecord") => {
                "cleanup.policy to delete"
            }
            _ => return error,
        };
        let what = format!("nothing can be written to {}; set its {remedy}", self.topic);
        KafkaError::failed(error.to_string(), what)
    }

    async fn partition(&self, key: Option<&[u8]>) -> Result<Arc<Producer>, KafkaError> {
        let mut partitions = self.partitions.lock().await;
        if partitions.is_empty() {
            let count = self.kafka.partition_count(&self.topic).await?;
            partitions.extend((0..count).map(|number| Arc::new(self.kafka.producer(&self.topic, number))));
        }
        let count = i32::try_from(partitions.len()).unwrap_or(i32::MAX);
        let number = key.map_or(0, |key| partition_for_key(key, count));
        let partition = usize::try_from(number).ok().and_then(|number| partitions.get(number));
        partition.cloned().ok_or_else(|| KafkaError::unknown_topic(&self.topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::records::UnreadableReason;
    use bytes::Bytes;

    fn original(value: Option<&[u8]>) -> ConsumerRecord {
        let header = |name: &str, value: Option<&[u8]>| (name.to_owned(), value.map(<[u8]>::to_vec));
        ConsumerRecord {
            offset: 42,
            timestamp: 1_700_000_000_000,
            leader_epoch: 0,
            key: Some(Bytes::from_static(b"key")),
            value: value.map(Bytes::copy_from_slice),
            headers: [
                header("traceparent", Some(b"00-1")),
                header("hop", Some(b"a")),
                header("hop", Some(&[0xff])),
                header("empty", None),
            ]
            .into_iter()
            .collect(),
        }
    }

    fn failure(kind: &str) -> Failure<'_> {
        Failure {
            group: "audit-service",
            topic: "task-events",
            partition: 0,
            kind,
            message: "why",
            retry_count: 4,
        }
    }

    fn dead_letter(value: Option<&[u8]>) -> (serde_json::Value, ProducerRecord) {
        let (failure, original) = (failure("invalid_json"), original(value));
        let letter = DeadLetter::Record(&original);
        let record = DlqRecord::new(&failure, letter).into_record(letter).unwrap();
        (serde_json::from_slice(record.value.as_deref().unwrap()).unwrap(), record)
    }

    #[test]
    fn headers_are_kept_with_repeated_names_and_null_values() {
        let (json, record) = dead_letter(Some(b"{}"));
        assert_eq!(
            json["original_headers"],
            serde_json::json!([
                {"name": "traceparent", "value": "00-1"},
                {"name": "hop", "value": "a"},
                {"name": "hop", "value_base64": "/w=="},
                {"name": "empty"},
            ])
        );
        assert_eq!(record.headers["hop"], [0xff], "the last one counts, as in Kafka");
        assert!(!record.headers.contains_key("empty"));
        assert_eq!(record.headers["kafka_dlt-original-timestamp"], b"1700000000000");
    }

    #[test]
    fn the_headers_of_a_redrive_are_kept_for_people_and_not_for_the_readers_of_the_dlq() {
        let redriven = [(crate::redrive::GROUP_HEADER, Some(b"audit-service"))].into_iter().collect();
        let original = ConsumerRecord { headers: redriven, ..original(Some(b"{}")) };
        let letter = DeadLetter::Record(&original);
        let record = DlqRecord::new(&failure("k"), letter);
        assert_eq!(record.original_headers[0].value.as_deref(), Some("audit-service"));
        assert!(!record.into_record(letter).unwrap().headers.contains_key(crate::redrive::GROUP_HEADER));
    }

    #[test]
    fn a_range_that_cannot_be_read_goes_by_its_source_alone() {
        let range = Unreadable {
            first_offset: 7,
            last_offset: 9,
            timestamp: i64::MAX,
            leader_epoch: 0,
            reason: UnreadableReason::Checksum,
        };
        let letter = DeadLetter::Unreadable(&range);
        let record = DlqRecord::new(&failure("corrupt"), letter).into_record(letter).unwrap();
        let read = DlqRecord::decode(record.value.as_deref()).unwrap();
        assert_eq!((read.source.offset, read.source.last_offset), (7, Some(9)));
        assert_eq!(read.original_value(), Ok(None));
        assert_eq!(record.headers["kafka_dlt-original-timestamp"], i64::MAX.to_string().as_bytes());
    }

    #[test]
    fn what_is_too_large_goes_without_anything_unbounded() {
        let original =
            ConsumerRecord { key: Some(vec![b'k'; 1 << 20].into()), ..original(Some(&[0xff; 1 << 20])) };
        let letter = DeadLetter::Record(&original);
        let by_source = DlqRecord::new(&failure("k"), letter).by_source_alone();
        let record = by_source.render(letter, false).unwrap();
        assert!(record.key.is_none() && record.value.unwrap().len() < 4_096);
        assert!(!record.headers.contains_key("hop"));
    }

    #[test]
    fn json_stays_json_to_the_byte() {
        let (json, record) = dead_letter(Some(br#"{"b": 1.0,  "a":[1e3]}"#));
        assert_eq!(json["original_event"]["b"], 1.0);
        assert!(json.get("original_value_base64").is_none());
        let text = String::from_utf8(record.value.unwrap()).unwrap();
        assert!(text.contains(r#"{"b": 1.0,  "a":[1e3]}"#), "{text}");
        assert_eq!(json["source"]["offset"], 42);
        assert_eq!(json["retry_count"], 4);
        assert_eq!(record.key.as_deref(), Some(b"key".as_slice()));
        assert_eq!(record.headers["kafka_dlt-original-offset"], b"42");
        assert_eq!(record.headers["traceparent"], b"00-1");
    }

    #[test]
    fn what_is_not_json_is_base64_and_nothing_is_null() {
        assert_eq!(dead_letter(Some(&[0xff, 0])).0["original_value_base64"], "/wA=");
        assert_eq!(dead_letter(Some(b"")).0["original_value_base64"], "");
        let (json, _) = dead_letter(None);
        assert!(json["original_value_base64"].is_null() && json.get("original_value_base64").is_some());
        assert!(json.get("original_event").is_none());
    }

    #[test]
    fn a_record_reads_back_as_it_was_written_and_gives_the_original_back() {
        let values: [&[u8]; 7] = [b"{}", b"x", b"", b"null", b" {}", b"{ \"a\":\n1}\n", b"\xff"];
        for value in values.into_iter().map(Some).chain([None]) {
            let (_, record) = dead_letter(value);
            let read = DlqRecord::decode(record.value.as_deref()).unwrap();
            assert_eq!(read.original_value(), Ok(Some(value.map(<[u8]>::to_vec))));
            assert_eq!((read.group.as_str(), read.source.offset), ("audit-service", 42));
        }
        assert_eq!(DlqRecord::decode(None).unwrap_err(), Malformed::NoValue);
        assert!(DlqRecord::decode(Some(b"{}")).is_err());
    }
}
