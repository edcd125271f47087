//! Reads partitions of a topic, each on its own, as Kafka's consumer does, with what a consumer group would
//! add left to the caller: where to start, and what to commit.
//!
//! A [`TopicReader`] has one connection to each broker that leads one of its partitions, and one Fetch in
//! flight on it for all of them. A [`PartitionReader`] is a bounded queue that a task fills: it
//! finds the leader, follows it when it moves, notices that the log was cut or the topic created again, and
//! retries whatever fails, for ever. Memory: [`AHEAD`] answers for each partition, of [`PARTITION_BYTES`](super::fetchers::PARTITION_BYTES) at
//! most (or one batch, where that is larger), less where there are many partitions.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Kafka;
use super::fetch::Isolation;
use super::fetchers::{AHEAD, Fetchers, MIN_PARTITION_BYTES};
use super::follow::{Follow, ReadEvent};
use super::position::Position;

/// Reads partitions of one topic.
#[derive(Debug, Clone)]
pub struct TopicReader {
    fetchers: Arc<Fetchers>,
}

impl TopicReader {
    /// A reader of committed records, and of those of no transaction.
    pub fn new(kafka: &Kafka, topic: &str) -> Self {
        Self::with_isolation(kafka, topic, Isolation::Committed)
    }

    /// A reader of the records of `isolation`.
    pub fn with_isolation(kafka: &Kafka, topic: &str, isolation: Isolation) -> Self {
        Self { fetchers: Arc::new(Fetchers::new(kafka, topic, isolation)) }
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.fetchers.topic
    }

    /// Starts to read a partition.
    pub fn partition(&self, partition: i32, position: Position) -> PartitionReader {
        let (sender, events) = mpsc::channel(AHEAD);
        self.fetchers.partitions.fetch_add(1, Ordering::Relaxed);
        let follow = Follow::new(Arc::clone(&self.fetchers), partition, position, sender);
        PartitionReader {
            events,
            partition,
            fetchers: Arc::clone(&self.fetchers),
            task: tokio::spawn(follow.run()),
        }
    }
}

/// What is read of one partition, in order. Reading ends with it.
#[derive(Debug)]
pub struct PartitionReader {
    events: mpsc::Receiver<ReadEvent>,
    partition: i32,
    fetchers: Arc<Fetchers>,
    task: JoinHandle<()>,
}

impl PartitionReader {
    /// The topic.
    pub fn topic(&self) -> &str {
        &self.fetchers.topic
    }

    /// The partition's number.
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// How much an answer has, about, with the partitions that are read now.
    pub fn answer_bytes(&self) -> usize {
        usize::try_from(self.fetchers.partition_bytes()).unwrap_or(MIN_PARTITION_BYTES)
    }

    /// What comes next. Where nothing is new, that is said about twice a second, by an event without
    /// batches. Safe to cancel.
    pub async fn next(&mut self) -> ReadEvent {
        match self.events.recv().await {
            Some(event) => event,
            // The task ends with this value, or with the process.
            None => std::future::pending().await,
        }
    }
}

impl Drop for PartitionReader {
    fn drop(&mut self) {
        self.task.abort();
        self.fetchers.partitions.fetch_sub(1, Ordering::Relaxed);
    }
}
