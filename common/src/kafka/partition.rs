//! One partition: what is produced to it, and where it begins and ends.

use std::time::Duration;

use rskafka::client::partition::Compression;
use rskafka::record::Record;

use super::list_offsets::OffsetAt;
use super::producer::Producer;
use super::{Kafka, KafkaError};

/// A handle to one partition.
#[derive(Debug)]
pub struct Partition {
    kafka: Kafka,
    topic: String,
    partition: i32,
    producer: Producer,
}

impl Partition {
    pub(super) fn new(kafka: Kafka, topic: &str, partition: i32) -> Self {
        let producer = Producer::new(kafka.clone(), topic, partition);
        Self { kafka, topic: topic.to_owned(), partition, producer }
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The partition's number.
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// See [`Producer::produce`].
    pub async fn produce(
        &self,
        records: &[Record],
        compression: Compression,
    ) -> Result<Vec<i64>, KafkaError> {
        self.producer.produce(records, compression).await
    }

    /// See [`Producer::produce_within`].
    pub async fn produce_within(
        &self,
        records: &[Record],
        compression: Compression,
        limit: Duration,
    ) -> Result<Vec<i64>, KafkaError> {
        self.producer.produce_within(records, compression, limit).await
    }

    /// An offset of the partition, asked of its leader: see [`Kafka::list_offset`].
    pub async fn offset(&self, at: OffsetAt) -> Result<i64, KafkaError> {
        self.kafka.list_offset(&self.topic, self.partition, at).await
    }
}
