//! What a consumer counts: how events ended, and how long the steps of a batch took.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::metrics::Histogram;

/// Since the process started. Counted once a batch, or where something is out of the ordinary.
#[derive(Debug, Default)]
pub struct Stats {
    /// Handled.
    pub handled: AtomicU64,
    /// Seen before.
    pub duplicates: AtomicU64,
    /// Not wanted by this group.
    pub not_of_interest: AtomicU64,
    /// Sent to the DLQ.
    pub dead_lettered: AtomicU64,
    /// Tries after the first.
    pub retries: AtomicU64,
    /// Batches, from the first event being handled until all are durable.
    pub batches: Histogram,
    /// Flushes that succeeded: a batch made durable.
    pub flushes: Histogram,
    /// Commits that were acknowledged.
    pub commits: Histogram,
    /// Commits that were not.
    pub failed_commits: AtomicU64,
    /// Partitions that were claimed.
    pub claimed: AtomicU64,
    /// Partitions that were given to another instance.
    pub given: AtomicU64,
    /// Partitions that another instance claimed without being given them.
    pub lost: AtomicU64,
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        write!(
            f,
            "{} handled, {} duplicates, {} not of interest, {} dead-lettered",
            count(&self.handled),
            count(&self.duplicates),
            count(&self.not_of_interest),
            count(&self.dead_lettered)
        )
    }
}
