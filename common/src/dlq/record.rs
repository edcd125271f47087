//! The record of an event that a group could not handle.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::letter::{DeadLetter, Failure};
use crate::event::{self, Malformed};
use crate::kafka::records::Header;
use crate::kafka::{KafkaError, ProducerRecord};
use crate::redrive::is_redrive_header;
use crate::time::serialize_time;

/// Longest error message that is kept, in characters.
const MAX_MESSAGE: usize = 2_000;
/// Longest key, in bytes, of a record that goes by its source alone.
const MAX_KEY_BY_SOURCE: usize = 1_024;

/// The value of a DLQ record. Its key is the key of the original.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DlqRecord {
    /// The value of the original, byte for byte, where it is JSON that can be stored here so: with no space
    /// around it, which would be lost, and not `null`, which would read as if there were nothing.
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

/// The bytes of an original that is not in the record as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Original {
    /// Base64 of the value.
    Base64(String),
    /// The original has no value (a tombstone).
    NoValue,
    /// The value is JSON, or too large to be carried along: then it is only at its source.
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

    /// The correlation id of the original, if the record carries it and it has one.
    pub fn correlation_id(&self) -> Option<Uuid> {
        event::correlation_id(self.original_value().ok()??.as_deref())
    }

    /// The record without anything of the original that has no bound: its source says where that is.
    pub(super) fn by_source_alone(&self) -> Self {
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

    pub(super) fn render(
        self,
        letter: DeadLetter<'_>,
        with_original: bool,
    ) -> Result<ProducerRecord, KafkaError> {
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
