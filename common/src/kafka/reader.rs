//! Reads partitions of a topic, each on its own, as Kafka's consumer does, with what a consumer group would
//! add left to the caller: where to start, and what to commit.
//!
//! A [`TopicReader`] has one connection to each broker that leads one of its partitions, and one Fetch in
//! flight on it for all of them. A [`PartitionReader`] is a bounded queue that a task fills: it
//! finds the leader, follows it when it moves, notices that the log was cut or the topic created again, and
//! retries whatever fails, for ever. Memory: [`AHEAD`] answers for each partition, of [`PARTITION_BYTES`] at
//! most (or one batch, where that is larger), less where there are many partitions.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::fetch::{Fetched, Isolation};
use super::fetcher::{Fetcher, Led};
use super::follow::Follow;
use super::leader::Leader;
use super::position::{Jump, Position};
use super::{Kafka, KafkaError};

/// Answers of a partition that wait to be taken.
const AHEAD: usize = 2;
/// Most bytes of one answer for one partition; some 1,500 events.
const PARTITION_BYTES: usize = 1024 * 1024;
/// The least, with however many partitions.
const MIN_PARTITION_BYTES: usize = 64 * 1024;
/// Bytes of answers that all partitions of a reader together hold at most, about. With what a service makes of
/// them, and what the allocator holds back, that takes five times as much memory.
const READER_BYTES: usize = 6 * 1024 * 1024;
/// Answers of a partition that were taken: one that is made ready, and one that is handled.
const TAKEN: usize = 2;

/// What a reader of a partition brings.
#[derive(Debug, Clone)]
pub enum ReadEvent {
    /// Records, or the present end of the log without any.
    Fetched(Fetched),
    /// The log does not go on at the position: reading goes on elsewhere.
    Jumped(Jump),
    /// Reading fails at present, and is tried again. The next [`Fetched`](Self::Fetched) says that it no
    /// longer does.
    Failing(KafkaError),
}

/// Reads partitions of one topic.
#[derive(Debug, Clone)]
pub struct TopicReader {
    shared: Arc<Shared>,
}

/// What the partitions of a reader have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) kafka: Kafka,
    pub(super) topic: String,
    pub(super) isolation: Isolation,
    partitions: AtomicUsize,
    fetchers: Mutex<HashMap<Arc<str>, Weak<Fetcher>>>,
}

impl TopicReader {
    /// A reader of committed records, and of those of no transaction.
    pub fn new(kafka: &Kafka, topic: &str) -> Self {
        Self::with_isolation(kafka, topic, Isolation::Committed)
    }

    /// A reader of the records of `isolation`.
    pub fn with_isolation(kafka: &Kafka, topic: &str, isolation: Isolation) -> Self {
        let shared = Shared {
            kafka: kafka.clone(),
            topic: topic.to_owned(),
            isolation,
            partitions: AtomicUsize::default(),
            fetchers: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.shared.topic
    }

    /// Starts to read a partition.
    pub fn partition(&self, partition: i32, position: Position) -> PartitionReader {
        let (sender, events) = mpsc::channel(AHEAD);
        self.shared.partitions.fetch_add(1, Ordering::Relaxed);
        let follow = Follow::new(Arc::clone(&self.shared), partition, position, sender);
        PartitionReader {
            events,
            partition,
            shared: Arc::clone(&self.shared),
            task: tokio::spawn(follow.run()),
        }
    }
}

impl Shared {
    /// The fetcher of the partition's leader.
    pub(super) fn fetcher(&self, leader: &Leader) -> Led {
        let mut fetchers = self.fetchers.lock().unwrap_or_else(PoisonError::into_inner);
        fetchers.retain(|_, fetcher| fetcher.strong_count() > 0);
        let fetcher = fetchers.get(&leader.address).and_then(Weak::upgrade).unwrap_or_else(|| {
            let fetcher = Fetcher::spawn(&self.kafka, &leader.address, &self.topic, self.isolation);
            let fetcher = Arc::new(fetcher);
            fetchers.insert(Arc::clone(&leader.address), Arc::downgrade(&fetcher));
            fetcher
        });
        Led::new(fetcher)
    }

    /// How much a partition asks for at once.
    pub(super) fn partition_bytes(&self) -> i32 {
        let held = self.partitions.load(Ordering::Relaxed).max(1) * (AHEAD + TAKEN);
        i32::try_from((READER_BYTES / held).clamp(MIN_PARTITION_BYTES, PARTITION_BYTES)).unwrap_or(i32::MAX)
    }
}

/// What is read of one partition, in order. Reading ends with it.
#[derive(Debug)]
pub struct PartitionReader {
    events: mpsc::Receiver<ReadEvent>,
    partition: i32,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl PartitionReader {
    /// The topic.
    pub fn topic(&self) -> &str {
        &self.shared.topic
    }

    /// The partition's number.
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// How much an answer has, about, with the partitions that are read now.
    pub fn answer_bytes(&self) -> usize {
        usize::try_from(self.shared.partition_bytes()).unwrap_or(MIN_PARTITION_BYTES)
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
        self.shared.partitions.fetch_sub(1, Ordering::Relaxed);
    }
}
