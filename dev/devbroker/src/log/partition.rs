//! One partition: a list of segments, the last of which takes appends.
//!
//! Appends, rolls, syncs and truncations happen on the writer thread only ([`super::writer`], in
//! `append.rs`). Readers (`read.rs`) see a batch once it is on disk: publishing the active
//! segment's extent and then the high watermark is the last step of an append.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use tokio::sync::watch;

use super::compaction_state::CompactionState;
use super::epochs::{EpochEnd, Epochs};
use super::producers::{Aborted, Producers};
use super::segment::{Extent, Segment};
use crate::config::TopicConfig;
use crate::durable;

/// How soon a partition that a fault made hang notices that this is over.
const HANG_CHECK_INTERVAL: Duration = Duration::from_millis(20);
const LOG_START_FILE: &str = "log-start-offset";
/// Segments being written by compaction are kept here until they replace their originals.
pub(crate) const COMPACTING_DIR: &str = "compacting";

/// What a waiting fetch watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The offset after the last durable record that every replica has.
    pub high_watermark: i64,
    /// Below it every transaction has ended; never above the high watermark.
    pub last_stable: i64,
    /// The offset after the last durable record.
    pub log_end: i64,
    /// Bytes appended since the start of the process, to tell whether `min_bytes` may be there.
    pub appended_bytes: u64,
    pub leader_epoch: i32,
}

/// How far a reader may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// A replica, or a tool that debugs one.
    LogEnd,
    Uncommitted,
    Committed,
}

impl Progress {
    /// The end of what a reader may see.
    pub fn end(&self, isolation: Isolation) -> i64 {
        match isolation {
            Isolation::LogEnd => self.log_end,
            Isolation::Uncommitted => self.high_watermark,
            Isolation::Committed => self.last_stable,
        }
    }
}

/// A timestamp, its offset, and the leader epoch of that record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimedOffset {
    pub timestamp: i64,
    pub offset: i64,
    pub leader_epoch: i32,
}

/// The answer to an append.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Appended {
    pub base_offset: i64,
    /// The offset after its last record.
    pub next_offset: i64,
    /// -1 unless the topic stamps the broker's time.
    pub log_append_time: i64,
}

/// One partition of a topic.
#[derive(Debug)]
pub(crate) struct Partition {
    pub topic: String,
    pub index: i32,
    pub(super) dir: PathBuf,
    pub(super) config: RwLock<Arc<TopicConfig>>,
    pub(super) segments: RwLock<Vec<Arc<Segment>>>,
    pub(super) log_start: AtomicI64,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) writer: Mutex<Writer>,
    /// Locked for moments only, also while the writer is; never the other way round.
    pub(super) producers: Mutex<Producers>,
    pub(super) leadership: RwLock<Leadership>,
    /// Held by whoever removes or replaces closed segments: compaction, retention, DeleteRecords.
    pub(super) maintenance: Mutex<CompactionState>,
    pub(super) deleted: AtomicBool,
    /// Whether the last fetch was throttled, where a fault throttles every second one.
    pub(super) throttled: AtomicBool,
}

/// What the writer thread knows beyond what readers see.
#[derive(Debug)]
pub(super) struct Writer {
    pub written: Extent,
    pub dirty: bool,
    /// Set for good after a failed sync: what the disk then holds is unknown.
    pub failed: bool,
    pub active_since_ms: i64,
}

/// The leader epoch, which rises at each start of the broker as it would by an election.
#[derive(Debug)]
pub(super) struct Leadership {
    pub epoch: i32,
    /// The number of the broker's start less the epoch.
    pub base: i32,
    /// The log's end when the epoch began.
    pub start_offset: i64,
    pub epochs: Epochs,
}

impl Partition {
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn config(&self) -> Arc<TopicConfig> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_config(&self, config: Arc<TopicConfig>) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        // A held high watermark may have been let go.
        self.publish(&self.writer());
    }

    /// The segments now, oldest first.
    pub fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the segment list in one step, from what it is at that moment.
    pub fn change_segments(&self, change: impl FnOnce(&mut Vec<Arc<Segment>>)) {
        change(&mut self.segments.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// How far the log has come.
    pub fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    pub fn log_start(&self) -> i64 {
        self.log_start.load(Ordering::Acquire)
    }

    /// Wakes when records come, a transaction ends, or the partition changes its leader or goes.
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub fn leader_epoch(&self) -> i32 {
        self.progress().leader_epoch
    }

    /// Kafka's rule for the epoch that a client believes in: an older one is fenced, a newer one
    /// is not known here yet. -1 says nothing.
    pub fn check_leader_epoch(&self, believed: i32) -> Result<(), ResponseError> {
        let epoch = self.leader_epoch();
        match believed {
            ..0 => Ok(()),
            _ if believed < epoch => Err(ResponseError::FencedLeaderEpoch),
            _ if believed > epoch => Err(ResponseError::UnknownLeaderEpoch),
            _ => Ok(()),
        }
    }

    /// Where a leader epoch ends in this log; `None` for one that it does not know.
    pub fn epoch_end(&self, epoch: i32) -> Option<EpochEnd> {
        let log_end = self.progress().log_end;
        self.read_leadership(|leadership| leadership.epochs.end_of(epoch, log_end))
    }

    /// The leader epoch that the record at `offset` has or will have; -1 when it is unknown.
    pub fn epoch_at(&self, offset: i64) -> i32 {
        self.read_leadership(|leadership| leadership.epochs.at(offset)).unwrap_or(-1)
    }

    /// The log's end when the present epoch began.
    pub fn epoch_start(&self) -> i64 {
        self.read_leadership(|leadership| leadership.start_offset)
    }

    fn read_leadership<T>(&self, read: impl FnOnce(&Leadership) -> T) -> T {
        read(&self.leadership.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn producers(&self) -> MutexGuard<'_, Producers> {
        self.producers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The aborted transactions that have records in `from..until`.
    pub fn aborted(&self, from: i64, until: i64) -> Vec<Aborted> {
        self.producers().aborted(from, until)
    }

    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// How long the client of this fetch is to be throttled, by the fault of that name.
    pub fn fetch_throttle(&self) -> Duration {
        let throttle = self.config().faults.fetch_throttle;
        let is_due = !throttle.is_zero() && !self.throttled.fetch_xor(true, Ordering::Relaxed);
        if is_due { throttle } else { Duration::ZERO }
    }

    /// The error of a partition that a fault has taken offline.
    pub fn check_online(&self) -> Result<(), ResponseError> {
        match self.config().faults.offline.contains(self.index) {
            true => Err(ResponseError::NotLeaderOrFollower),
            false => Ok(()),
        }
    }

    /// Returns at once, unless a fault makes the partition hang: then when that is over.
    pub async fn until_it_answers(&self) {
        while self.config().faults.hang.contains(self.index) && !self.is_deleted() {
            tokio::time::sleep(HANG_CHECK_INTERVAL).await;
        }
    }

    /// Refuses, or again allows, everything that changes files. The caller holds the maintenance
    /// lock; with the writer's taken here, no change is under way when this returns.
    pub fn set_deleted(&self, deleted: bool) {
        let _idle = self.writer();
        self.deleted.store(deleted, Ordering::Release);
        // Wakes the waiting fetches.
        self.progress.send_modify(|_| {});
    }

    /// Keeps compaction, retention and DeleteRecords away for as long as it lives.
    pub fn lock_maintenance(&self) -> MutexGuard<'_, CompactionState> {
        self.maintenance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long ago the active segment got its first batch, in milliseconds.
    pub fn active_age_ms(&self, now_ms: i64) -> i64 {
        now_ms.saturating_sub(self.writer().active_since_ms)
    }

    /// Moves the log start to `offset`, durably, and deletes closed segments wholly below it.
    /// Blocking. Returns the log start after it.
    pub fn delete_before(&self, offset: i64) -> io::Result<i64> {
        let _alone = self.lock_maintenance();
        self.delete_before_locked(offset)
    }

    /// As [`Self::delete_before`], for who holds the maintenance lock.
    pub fn delete_before_locked(&self, offset: i64) -> io::Result<i64> {
        if offset <= self.log_start() || self.is_deleted() {
            return Ok(self.log_start());
        }
        durable::replace(&self.dir.join(LOG_START_FILE), offset.to_string().as_bytes())?;
        self.log_start.store(offset, Ordering::Release);
        let mut gone = Vec::new();
        self.change_segments(|segments| {
            while let [first, second, ..] = segments.as_slice()
                && second.base_offset <= offset
            {
                gone.push(first.clone());
                segments.remove(0);
            }
        });
        self.leadership.write().unwrap_or_else(PoisonError::into_inner).epochs.truncate_start(offset);
        self.producers().forget_before(offset);
        for segment in gone {
            segment.remove_files()?;
        }
        Ok(offset)
    }
}

pub(super) fn read_log_start(dir: &Path) -> io::Result<i64> {
    match fs::read_to_string(dir.join(LOG_START_FILE)) {
        Ok(text) => text.trim().parse().map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}
