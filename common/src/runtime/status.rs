//! What a consumer is doing, for its health endpoint, its metrics and its last log line.
//!
//! A problem that ends is shown for [`CALM`] longer, so that readiness does not flap with each retry.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::Utc;
use serde::Serialize;
use tokio::time::Instant;

use super::log_ends::LogEnds;
use super::stats::Stats;

/// An end of the log that was fetched longer ago than this is asked for, also by the partition's owner: it may be
/// blocked, and not fetch. One that fetches hears of it with each answer, twice a second at least.
const END_IS_OLD: Duration = Duration::from_secs(3);
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
    sharing: Sharing,
}

/// How the partitions are shared, as this instance sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sharing {
    /// Instances of the group that live and share, this one included.
    pub members: usize,
    /// Partitions that this instance owns.
    pub owned: usize,
    /// Partitions that it is to own.
    pub target: usize,
}

#[derive(Debug, Default)]
struct Partition {
    role: Role,
    position: Option<i64>,
    log_end: Option<i64>,
    /// When the end was fetched, and where it was before.
    fetched: Option<Instant>,
    ends: LogEnds,
    /// The first record of the batch in flight: its offset and its time, in milliseconds since 1970.
    in_flight: Option<(i64, i64)>,
    /// Until when this instance may handle, if it owns the partition.
    lease_until: Option<Instant>,
    held_at: Option<i64>,
    problems: Problems,
}

impl Partition {
    /// See [`PartitionReport::lag_seconds`]. A record in flight may be older than this process has known of it.
    fn lag_seconds(&self, now: Instant) -> Option<f64> {
        let (position, log_end) = (self.position?, self.log_end?);
        if log_end <= position {
            return Some(0.0);
        }
        let seen = self.ends.behind_since(position).map_or(Duration::ZERO, |since| now - since);
        let in_flight = self.in_flight.filter(|(offset, _)| *offset >= position);
        let age_ms = in_flight.map_or(0, |(_, timestamp)| Utc::now().timestamp_millis() - timestamp);
        let age = Duration::from_millis(u64::try_from(age_ms).unwrap_or(0));
        Some(seen.max(age).as_secs_f64())
    }
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

/// The cause of a problem: a call into the service does not return.
pub(super) const HANG: &str = "hang";

/// By cause: why, and since when it is over.
type Problems = BTreeMap<&'static str, (String, Option<Instant>)>;

/// What a consumer is doing.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StatusReport {
    /// What the consumer as a whole waits for, if anything.
    pub waiting: Option<String>,
    /// How the group shares its partitions.
    pub sharing: Sharing,
    /// What each partition does.
    pub partitions: BTreeMap<i32, PartitionReport>,
}

/// What is known of a partition, also while this instance does not own it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartitionReport {
    /// What its worker does.
    #[serde(flatten)]
    pub state: PartitionState,
    /// The offset to read next: this instance's, or as standby the one that the owner committed.
    pub position: Option<i64>,
    /// The end of the log as last fetched.
    pub high_watermark: Option<i64>,
    /// For how long the first of the records that the group has yet to handle has waited; zero where there is none.
    pub lag_seconds: Option<f64>,
    /// For how long this instance may still handle without another renewal, where it owns the partition.
    #[serde(skip)]
    pub lease_remaining: Option<Duration>,
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
    /// This instance cannot go on without help, or not yet.
    Blocked {
        /// What it waits for.
        why: String,
    },
}

impl Default for Status {
    fn default() -> Self {
        let waiting = Problems::from([("start", ("starting".to_owned(), None))]);
        let inner = Inner { waiting, ..Inner::default() };
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
            lag_seconds: partition.lag_seconds(now),
            lease_remaining: partition.lease_until.map(|until| until.saturating_duration_since(now)),
            held_by_transaction_at: partition.held_at,
        };
        StatusReport {
            waiting: current(&inner.waiting, now),
            sharing: inner.sharing,
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
                (one.held_at, one.in_flight, one.lease_until) = (None, None, None);
            }
            one.role = role;
        });
    }

    pub(super) fn set_position(&self, partition: i32, position: i64) {
        self.with(partition, |one| {
            one.position = Some(position);
            one.ends.reached(position);
        });
    }

    pub(super) fn set_log_end(&self, partition: i32, log_end: i64) {
        let now = Instant::now();
        self.with(partition, |one| {
            (one.log_end, one.fetched) = (Some(log_end), Some(now));
            one.ends.saw(log_end, now);
        });
    }

    /// A batch is to be handled, which begins with a record of that offset and time.
    pub(super) fn set_in_flight(&self, partition: i32, offset: i64, timestamp: i64) {
        self.with(partition, |one| one.in_flight = Some((offset, timestamp)));
    }

    /// The lease of the partition was renewed until then.
    pub(super) fn set_lease(&self, partition: i32, until: Instant) {
        self.with(partition, |one| one.lease_until = Some(until));
    }

    /// Where an open transaction holds the group, if one does.
    pub(super) fn set_held(&self, partition: i32, held_at: Option<i64>) {
        self.with(partition, |one| one.held_at = held_at);
    }

    /// How the group shares its partitions now.
    pub(super) fn set_sharing(&self, sharing: Sharing) {
        self.lock().sharing = sharing;
    }

    /// Whether no partition has a problem: an instance that has one is given no more.
    pub(super) fn makes_progress(&self) -> bool {
        let (inner, now) = (self.lock(), Instant::now());
        inner.partitions.values().all(|one| current(&one.problems, now).is_none())
    }

    /// Whether a call into the service hangs in the partition.
    pub(super) fn hangs(&self) -> bool {
        let inner = self.lock();
        let lasts = |one: &Partition| one.problems.get(HANG).is_some_and(|(_, over)| over.is_none());
        inner.partitions.values().any(lasts)
    }

    /// The partition is no more.
    pub(super) fn forget(&self, partition: i32) {
        self.lock().partitions.remove(&partition);
    }

    /// The partitions that this instance does not read now: it is not their owner, or it is blocked.
    pub(super) fn not_read(&self) -> Vec<i32> {
        let (inner, now) = (self.lock(), Instant::now());
        let is_read = |one: &Partition| {
            let is_fresh = one.fetched.is_some_and(|fetched| now < fetched + END_IS_OLD);
            matches!(one.role, Role::Active { .. }) && is_fresh
        };
        let not_read = inner.partitions.iter().filter(|(_, one)| !is_read(one));
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
mod tests;
