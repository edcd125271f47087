//! The dead-letter queue: the record of an event that a group could not handle, and its publisher.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use rskafka::record::RecordAndOffset;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::Mutex;

use crate::event::{Malformed, serialize_time};
use crate::kafka::{Compression, Kafka, KafkaError, Partition, Record, partition_for_key};

/// Longest error message that is kept, in characters.
const MAX_MESSAGE: usize = 2_000;

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
    /// Where the original stands.
    pub source: Source,
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

/// Where the original stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
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

impl DlqRecord {
    pub(crate) fn new(failure: &Failure<'_>, original: &RecordAndOffset) -> Self {
        let json = original.record.value.as_deref().and_then(as_json);
        let base64 = match &original.record.value {
            None => Original::NoValue,
            Some(_) if json.is_some() => Original::Elsewhere,
            Some(value) => Original::Base64(STANDARD.encode(value)),
        };
        Self {
            original_event: json,
            original_value_base64: base64,
            error: ErrorInfo {
                kind: failure.kind.to_owned(),
                message: failure.message.chars().take(MAX_MESSAGE).collect(),
            },
            retry_count: failure.retry_count,
            group: failure.group.to_owned(),
            source: Source {
                topic: failure.topic.to_owned(),
                partition: failure.partition,
                offset: original.offset,
                timestamp: original.record.timestamp,
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

    /// The headers, under the names that Spring Kafka's DeadLetterPublishingRecoverer gives them, and
    /// with text as values. Headers of the original are kept.
    fn headers(&self, original: &RecordAndOffset) -> BTreeMap<String, Vec<u8>> {
        let mut headers = original.record.headers.clone();
        let mut set = |name: &str, value: String| headers.insert(name.to_owned(), value.into_bytes());
        set("content-type", "application/json".to_owned());
        set("kafka_dlt-original-topic", self.source.topic.clone());
        set("kafka_dlt-original-partition", self.source.partition.to_string());
        set("kafka_dlt-original-offset", self.source.offset.to_string());
        set("kafka_dlt-original-timestamp", self.source.timestamp.timestamp_millis().to_string());
        set("kafka_dlt-original-consumer-group", self.group.clone());
        set("kafka_dlt-exception-fqcn", self.error.kind.clone());
        set("kafka_dlt-exception-message", self.error.message.clone());
        headers
    }

    pub(crate) fn into_record(self, original: &RecordAndOffset) -> Result<Record, KafkaError> {
        Ok(Record {
            key: original.record.key.clone(),
            headers: self.headers(original),
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
    partitions: Mutex<Vec<Arc<Partition>>>,
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

    /// Writes the record and returns once it is acknowledged. After an error it may stand there all the
    /// same; a repeat makes a second one, which names the same source.
    ///
    /// The batch is compressed, so that an event of the largest size still fits with what is said of it.
    /// Where it does not, the record goes without the original's bytes: its source says where they are.
    pub async fn publish(&self, failure: &Failure<'_>, original: &RecordAndOffset) -> Result<(), KafkaError> {
        let outcome = self.publish_once(failure, original).await;
        if outcome.is_err() {
            self.partitions.lock().await.clear();
        }
        outcome
    }

    async fn publish_once(
        &self,
        failure: &Failure<'_>,
        original: &RecordAndOffset,
    ) -> Result<(), KafkaError> {
        let partition = self.partition(original.record.key.as_deref()).await?;
        let whole = DlqRecord::new(failure, original);
        let without =
            DlqRecord { original_event: None, original_value_base64: Original::Elsewhere, ..whole.clone() };
        match partition.produce(&[whole.into_record(original)?], Compression::Gzip).await {
            Err(KafkaError::MessageTooLarge { .. }) => {
                log::warn!(
                    "the event at {}/{} offset {} is too large for {}: the DLQ record goes without its bytes; raise the topic's max.message.bytes",
                    failure.topic,
                    failure.partition,
                    original.offset,
                    self.topic
                );
                partition.produce(&[without.into_record(original)?], Compression::Gzip).await.map(|_| ())
            }
            outcome => outcome.map(|_| ()),
        }
    }

    async fn partition(&self, key: Option<&[u8]>) -> Result<Arc<Partition>, KafkaError> {
        let mut partitions = self.partitions.lock().await;
        if partitions.is_empty() {
            let count = self.kafka.partition_count(&self.topic).await?;
            partitions.extend((0..count).map(|number| Arc::new(self.kafka.partition(&self.topic, number))));
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

    fn original(value: Option<&[u8]>) -> RecordAndOffset {
        let record = Record {
            key: Some(b"key".to_vec()),
            value: value.map(<[u8]>::to_vec),
            headers: BTreeMap::from([("traceparent".to_owned(), b"00-1".to_vec())]),
            timestamp: Utc::now(),
        };
        RecordAndOffset { record, offset: 42 }
    }

    fn dead_letter(value: Option<&[u8]>) -> (serde_json::Value, Record) {
        let failure = Failure {
            group: "audit-service",
            topic: "task-events",
            partition: 0,
            kind: "invalid_json",
            message: "why",
            retry_count: 4,
        };
        let original = original(value);
        let record = DlqRecord::new(&failure, &original).into_record(&original).unwrap();
        (serde_json::from_slice(record.value.as_deref().unwrap()).unwrap(), record)
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
