//! What a consumer is doing, for its health endpoint, its metrics and its last log line.
//!
//! A problem that ends is shown for [`CALM`] longer, so that readiness does not flap with each retry.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

/// Time without a failure after which a problem counts as over.
const CALM: Duration = Duration::from_secs(1);

/// Shared by the runtime, which writes it, and whoever reports it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Status {
    inner: Arc<Mutex<Inner>>,
    stats: Arc<Stats>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: Problems,
    partitions: BTreeMap<i32, Partition>,
}

#[derive(Debug, Default)]
struct Partition {
    role: Role,
    position: Option<i64>,
    log_end: Option<i64>,
    held_at: Option<i64>,
    problems: Problems,
}

/// What a partition's worker does while it has no problem.
#[derive(Debug, Clone, Default)]
pub(super) enum Role {
    #[default]
    Starting,
    Standby {
        owner: String,
    },
    Active {
        token: i64,
    },
}

/// By cause: why, and since when it is over.
type Problems = BTreeMap<&'static str, (String, Option<Instant>)>;

/// What a consumer is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StatusReport {
    /// What the consumer as a whole waits for, if anything.
    pub waiting: Option<String>,
    /// What each partition does.
    pub partitions: BTreeMap<i32, PartitionReport>,
}

/// What is known of a partition, also while this instance does not own it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionReport {
    /// What its worker does.
    #[serde(flatten)]
    pub state: PartitionState,
    /// The offset to read next: this instance's, or as standby the one that the owner committed.
    pub position: Option<i64>,
    /// The end of the log as last fetched.
    pub high_watermark: Option<i64>,
    /// The offset at which an open transaction of another producer holds the group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_by_transaction_at: Option<i64>,
}

impl PartitionReport {
    /// Records that the group has yet to read, as far as known.
    pub fn lag(&self) -> Option<i64> {
        Some((self.high_watermark? - self.position?).max(0))
    }
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
        let waiting = Problems::from([("start", ("starting".to_owned(), None))]);
        let inner = Inner { waiting, partitions: BTreeMap::new() };
        Self { inner: Arc::new(Mutex::new(inner)), stats: Arc::default() }
    }
}

impl Status {
    /// How events ended.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// What the consumer is doing.
    pub fn report(&self) -> StatusReport {
        let (inner, now) = (self.lock(), Instant::now());
        let report = |partition: &Partition| PartitionReport {
            state: match (current(&partition.problems, now), partition.role.clone()) {
                (Some(why), _) => PartitionState::Blocked { why },
                (None, Role::Starting) => PartitionState::Starting,
                (None, Role::Standby { owner }) => PartitionState::Standby { owner },
                (None, Role::Active { token }) => PartitionState::Active { token },
            },
            position: partition.position,
            high_watermark: partition.log_end.max(partition.position.filter(|_| partition.log_end.is_some())),
            held_by_transaction_at: partition.held_at,
        };
        StatusReport {
            waiting: current(&inner.waiting, now),
            partitions: inner.partitions.iter().map(|(number, one)| (*number, report(one))).collect(),
        }
    }

    /// Ready: it handles events, or would as soon as the owner is gone.
    pub fn is_ready(&self) -> bool {
        let report = self.report();
        let fine = |partition: &PartitionReport| {
            matches!(partition.state, PartitionState::Active { .. } | PartitionState::Standby { .. })
        };
        report.waiting.is_none() && !report.partitions.is_empty() && report.partitions.values().all(fine)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each change is one assignment: a panic elsewhere leaves nothing half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, partition: i32, change: impl FnOnce(&mut Partition)) {
        change(self.lock().partitions.entry(partition).or_default());
    }

    /// The topics are there, and the workers start.
    pub(super) fn started(&self) {
        self.lock().waiting.remove("start");
    }

    pub(super) fn set_role(&self, partition: i32, role: Role) {
        self.with(partition, |one| {
            if !matches!(role, Role::Active { .. }) {
                one.held_at = None;
            }
            one.role = role;
        });
    }

    pub(super) fn set_position(&self, partition: i32, position: i64) {
        self.with(partition, |one| one.position = Some(position));
    }

    pub(super) fn set_log_end(&self, partition: i32, log_end: i64) {
        self.with(partition, |one| one.log_end = Some(log_end));
    }

    /// Where an open transaction holds the group, if one does.
    pub(super) fn set_held(&self, partition: i32, held_at: Option<i64>) {
        self.with(partition, |one| one.held_at = held_at);
    }

    /// The partition is no more.
    pub(super) fn forget(&self, partition: i32) {
        self.lock().partitions.remove(&partition);
    }

    /// The partitions that this instance does not read now.
    pub(super) fn not_read(&self) -> Vec<i32> {
        let inner = self.lock();
        let not_read = inner.partitions.iter().filter(|(_, one)| !matches!(one.role, Role::Active { .. }));
        not_read.map(|(number, _)| *number).collect()
    }

    pub(super) fn insert_problem(&self, partition: Option<i32>, cause: &'static str, why: &str) {
        let mut inner = self.lock();
        let problems = match partition {
            Some(partition) => &mut inner.partitions.entry(partition).or_default().problems,
            None => &mut inner.waiting,
        };
        problems.insert(cause, (why.to_owned(), None));
    }

    pub(super) fn end_problem(&self, partition: Option<i32>, cause: &'static str) {
        let mut inner = self.lock();
        let problems = match partition {
            Some(partition) => inner.partitions.get_mut(&partition).map(|one| &mut one.problems),
            None => Some(&mut inner.waiting),
        };
        if let Some((_, over)) = problems.and_then(|problems| problems.get_mut(cause)) {
            over.get_or_insert_with(Instant::now);
        }
    }

    pub(super) fn count(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }
}

fn current(problems: &Problems, now: Instant) -> Option<String> {
    let lasts = |over: &Option<Instant>| over.is_none_or(|over| now < over + CALM);
    problems.values().find(|(_, over)| lasts(over)).map(|(why, _)| why.clone())
}

#[cfg(test)]
mod tests {
    use super::super::trouble::Trouble;
    use super::*;

    #[test]
    fn a_problem_is_shown_until_there_was_calm_for_a_moment() {
        let status = Status::default();
        assert!(!status.is_ready(), "starting");
        status.started();
        status.set_role(0, Role::Active { token: 1 });
        assert!(status.is_ready());
        let mut trouble = Trouble::new(&status, 0, "commit");
        for _ in 0..20 {
            trouble.report("cannot commit");
            assert!(!status.is_ready());
            trouble.over("commits again");
            assert!(!status.is_ready(), "readiness does not flap");
        }
        let inner = status.lock();
        let problems = &inner.partitions[&0].problems;
        assert_eq!(current(problems, Instant::now() + CALM), None);
    }

    #[test]
    fn a_blocked_partition_keeps_what_is_known_of_it() {
        let status = Status::default();
        status.started();
        status.set_role(0, Role::Active { token: 1 });
        status.set_position(0, 7);
        status.set_log_end(0, 10);
        let mut trouble = Trouble::new(&status, 0, "flush");
        trouble.report("the disk hangs");
        let report = status.report().partitions.remove(&0).unwrap();
        assert_eq!(report.state, PartitionState::Blocked { why: "the disk hangs".to_owned() });
        assert_eq!(report.lag(), Some(3));
    }
}
