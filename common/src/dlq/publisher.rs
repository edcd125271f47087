//! Writes to the DLQ.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::letter::{DeadLetter, Failure};
use super::record::DlqRecord;
use crate::kafka::{Compression, Kafka, KafkaError, Producer, partition_for_key};

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
                let offset = letter.first_offset();
                log::warn!(
                    group = failure.group, topic = failure.topic, partition = failure.partition, offset;
                    "the event at {}/{} offset {offset} is too large for {}: the DLQ record goes by its source alone; raise the topic's max.message.bytes",
                    failure.topic,
                    failure.partition,
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
        partition.cloned().ok_or_else(|| self.kafka.unknown_topic(&self.topic))
    }
}
