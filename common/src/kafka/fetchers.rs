//! The fetchers of a reader, one for each broker that leads a partition of it, and how much memory they may use.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::Kafka;
use super::fetch::Isolation;
use super::fetcher::{Fetcher, Led};
use super::leader::Leader;

/// Answers of a partition that wait to be taken.
pub(super) const AHEAD: usize = 2;
/// Most bytes of one answer for one partition; some 1,500 events.
pub(super) const PARTITION_BYTES: usize = 1024 * 1024;
/// The least, with however many partitions.
pub(super) const MIN_PARTITION_BYTES: usize = 64 * 1024;
/// Bytes of answers that all partitions of a reader together hold at most, about. With what a service makes of
/// them, and what the allocator holds back, that takes five times as much memory.
const READER_BYTES: usize = 6 * 1024 * 1024;
/// Answers of a partition that were taken: one that is made ready, and one that is handled.
const TAKEN: usize = 2;

/// What the partitions of a reader share.
#[derive(Debug)]
pub(super) struct Fetchers {
    pub(super) kafka: Kafka,
    pub(super) topic: String,
    pub(super) isolation: Isolation,
    pub(super) partitions: AtomicUsize,
    by_address: Mutex<HashMap<Arc<str>, Weak<Fetcher>>>,
}

impl Fetchers {
    /// None yet.
    pub(super) fn new(kafka: &Kafka, topic: &str, isolation: Isolation) -> Self {
        Self {
            kafka: kafka.clone(),
            topic: topic.to_owned(),
            isolation,
            partitions: AtomicUsize::default(),
            by_address: Mutex::default(),
        }
    }

    /// The fetcher of the partition's leader.
    pub(super) fn of(&self, leader: &Leader) -> Led {
        let mut fetchers = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
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
