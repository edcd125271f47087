//! What a consumer is doing, for its health endpoint, its metrics and its last log line.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use tokio::sync::watch;

/// Shared by the runtime, which writes it, and whoever reports it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Status {
    report: Arc<watch::Sender<StatusReport>>,
    stats: Arc<Stats>,
}

/// What a consumer is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StatusReport {
    /// What the consumer as a whole waits for, if anything.
    pub waiting: Option<String>,
    /// What each partition does.
    pub partitions: BTreeMap<i32, PartitionState>,
}

/// What a partition's worker does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum PartitionState {
    /// It finds out who owns the partition.
    Starting,
    /// Another instance owns it.
    Standby {
        /// Where the owner runs.
        owner: String,
    },
    /// This instance owns it and handles events.
    Active {
        /// The fencing token.
        token: i64,
        /// The offset to read next.
        position: i64,
        /// The end of the log, as far as it is known.
        high_watermark: i64,
    },
    /// This instance cannot go on by itself, or not yet.
    Blocked {
        /// What it waits for.
        why: String,
    },
}

/// How events ended, since the process started.
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

impl Default for Status {
    fn default() -> Self {
        let report = StatusReport { waiting: Some("starting".to_owned()), ..StatusReport::default() };
        Self { report: Arc::new(watch::Sender::new(report)), stats: Arc::default() }
    }
}

impl Status {
    /// How events ended.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// What the consumer is doing.
    pub fn report(&self) -> StatusReport {
        self.report.borrow().clone()
    }

    /// Ready: it handles events, or would as soon as the owner is gone.
    pub fn is_ready(&self) -> bool {
        let report = self.report.borrow();
        let fine = |state: &PartitionState| {
            matches!(state, PartitionState::Active { .. } | PartitionState::Standby { .. })
        };
        report.waiting.is_none() && !report.partitions.is_empty() && report.partitions.values().all(fine)
    }

    pub(super) fn set_waiting(&self, waiting: Option<String>) {
        self.report.send_modify(|report| report.waiting = waiting);
    }

    pub(super) fn set(&self, partition: i32, state: PartitionState) {
        self.report.send_modify(|report| {
            report.partitions.insert(partition, state);
        });
    }

    /// The partitions that this instance owns, with their positions.
    pub(super) fn positions(&self) -> Vec<(i32, i64)> {
        let report = self.report.borrow();
        let active = report.partitions.iter().filter_map(|(partition, state)| match state {
            PartitionState::Active { position, .. } => Some((*partition, *position)),
            _ => None,
        });
        active.collect()
    }

    pub(super) fn count(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }
}
