//! One partition: produce, fetch and offsets, each call bounded in time and tried once.

use std::sync::Arc;
use std::time::Duration;

use rskafka::client::error::Error as ClientError;
use rskafka::client::partition::{Compression, PartitionClient, UnknownTopicHandling};
use rskafka::record::{Record, RecordAndOffset};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::list_offsets::OffsetAt;
use super::presence::GRACE;
use super::producer::Producer;
use super::{CONNECT_TIMEOUT, Kafka, KafkaError, REQUEST_TIMEOUT};

/// How much is fetched to find the end of batches without records, 61 bytes each.
const EMPTY_BATCHES_BYTES: i32 = 1024 * 1024;

/// A handle to one partition, with one connection, made on first use and again after a failure.
///
/// Calls on one handle share its connection and wait for each other at the broker: use a second handle to
/// produce while a fetch waits.
#[derive(Debug)]
pub struct Partition {
    kafka: Kafka,
    topic: String,
    partition: i32,
    client: Mutex<Option<Arc<PartitionClient>>>,
    producer: Producer,
}

/// What a fetch brought.
#[derive(Debug)]
pub struct Chunk {
    /// The records from the offset on, in order; their offsets may have gaps.
    pub records: Vec<RecordAndOffset>,
    /// The offset after the last record that all replicas have.
    pub high_watermark: i64,
    /// Where to read next.
    pub next_offset: i64,
}

impl Partition {
    pub(super) fn new(kafka: Kafka, topic: &str, partition: i32) -> Self {
        let producer = Producer::new(kafka.clone(), topic, partition);
        Self { kafka, topic: topic.to_owned(), partition, client: Mutex::new(None), producer }
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

    /// Reads from `offset` on, at most about `max_bytes`, though at least one batch. Where there is nothing
    /// yet, the broker waits up to `max_wait` for something to come.
    ///
    /// [`KafkaError::Undecodable`] is about the batch that stands at `offset`: what can be read before one
    /// that cannot is returned first.
    pub async fn fetch(&self, offset: i64, max_bytes: i32, max_wait: Duration) -> Result<Chunk, KafkaError> {
        match self.fetch_once(offset, max_bytes, max_wait).await {
            // rskafka gives up the whole answer: so one batch alone.
            Err(KafkaError::Undecodable { .. }) => self.fetch_once(offset, 1, max_wait).await,
            outcome => outcome,
        }
    }

    async fn fetch_once(&self, offset: i64, max_bytes: i32, max_wait: Duration) -> Result<Chunk, KafkaError> {
        let wait_ms = i32::try_from(max_wait.as_millis()).unwrap_or(i32::MAX);
        let (records, high_watermark) = self
            .call("fetch from", max_wait + REQUEST_TIMEOUT, GRACE, |client| async move {
                client.fetch_records(offset, 1..max_bytes.saturating_add(1), wait_ms).await
            })
            .await?;
        let next_offset = match records.last() {
            Some(last) => last.offset + 1,
            None if offset < high_watermark => {
                // Compaction left a batch without records here. Its header says where the next one starts.
                self.offset_after_batches(offset, EMPTY_BATCHES_BYTES).await?
            }
            None => offset,
        };
        Ok(Chunk { records, high_watermark, next_offset })
    }

    /// The offset after the one batch that stands at `offset`, whatever is in it. For those who can do
    /// without a batch that cannot be decoded.
    pub async fn offset_after_batch(&self, offset: i64) -> Result<i64, KafkaError> {
        self.offset_after_batches(offset, 1).await
    }

    async fn offset_after_batches(&self, offset: i64, max_bytes: i32) -> Result<i64, KafkaError> {
        self.kafka.admin().offset_after_batches(&self.topic, self.partition, offset, max_bytes).await
    }

    /// An offset of the partition, asked of its leader on a connection of its own.
    pub async fn offset(&self, at: OffsetAt) -> Result<i64, KafkaError> {
        self.kafka.list_offset(&self.topic, self.partition, at).await
    }

    /// Runs one call on the connection. A failure that leaves its state unknown drops it. Should Kafka be
    /// away and come back meanwhile, it has `grace` to answer.
    async fn call<T, F>(
        &self,
        verb: &str,
        limit: Duration,
        grace: Duration,
        call: impl FnOnce(Arc<PartitionClient>) -> F,
    ) -> Result<T, KafkaError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let client = self.connected().await?;
        let name = || format!("{verb} {}/{}", self.topic, self.partition);
        let answered = tokio::select! {
            biased;
            answered = timeout(limit, call(Arc::clone(&client))) => Some(answered),
            () = self.kafka.returned(grace) => None,
        };
        let error = match answered {
            Some(Ok(Ok(value))) => return Ok(value),
            Some(Ok(Err(error))) => KafkaError::from_client(name(), &self.topic, &error),
            Some(Err(_)) => KafkaError::Timeout { call: name(), after: limit },
            None => KafkaError::lost(name()),
        };
        if !error.connection_is_good() {
            self.drop_connection(&client).await;
        }
        Err(error)
    }

    async fn connected(&self) -> Result<Arc<PartitionClient>, KafkaError> {
        let mut slot = self.client.lock().await;
        if let Some(client) = slot.as_ref() {
            return Ok(Arc::clone(client));
        }
        let client = Arc::new(self.connect().await?);
        *slot = Some(Arc::clone(&client));
        Ok(client)
    }

    async fn connect(&self) -> Result<PartitionClient, KafkaError> {
        let name = || format!("connect to {} for {}/{}", self.kafka.bootstrap(), self.topic, self.partition);
        let connect = async {
            let client = self.kafka.client().await?;
            // Asking for this topic by name would create it where the broker permits that; asking for all
            // topics never does.
            let topics = client.list_topics().await?;
            let known = topics.iter().find(|topic| topic.name == self.topic);
            if !known.is_some_and(|topic| topic.partitions.contains(&self.partition)) {
                return Ok(None);
            }
            client.partition_client(&self.topic, self.partition, UnknownTopicHandling::Error).await.map(Some)
        };
        let connected = tokio::select! {
            biased;
            connected = timeout(CONNECT_TIMEOUT, connect) => connected,
            () = self.kafka.returned(GRACE) => return Err(KafkaError::lost(name())),
        };
        match connected {
            Ok(Ok(Some(client))) => Ok(client),
            Ok(Ok(None)) => Err(KafkaError::unknown_topic(&self.topic)),
            Ok(Err(error)) => Err(match KafkaError::from_client(name(), &self.topic, &error) {
                // What cannot be read here is an answer about the cluster, and no batch of the topic.
                KafkaError::Undecodable { call, detail } => KafkaError::failed(call, detail),
                error => error,
            }),
            Err(_) => Err(KafkaError::Timeout { call: name(), after: CONNECT_TIMEOUT }),
        }
    }

    /// Drops the connection, unless another call has replaced it already.
    async fn drop_connection(&self, failed: &Arc<PartitionClient>) {
        let mut slot = self.client.lock().await;
        if slot.as_ref().is_some_and(|current| Arc::ptr_eq(current, failed)) {
            *slot = None;
        }
    }
}
