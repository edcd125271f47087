//! How a store is kept: where, for how long, in how much memory.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::failure::DedupError;
use super::manifest::FOR_EVER;
use crate::disk::Disk;

/// Buckets of a window.
const BUCKETS: u64 = 4;

/// How long ids are kept, and how safely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// Ids older than this are forgotten; each batch is on disk when [`Dedup::record`](super::Dedup::record) returns.
    Window(Duration),
    /// All ids are kept, and numbered: the owner adds them with [`Dedup::append`](super::Dedup::append). A crash, or an I/O error,
    /// may take the last batches with it. The owner has them elsewhere: after either it compares the mark
    /// with what it knows, and adds again what is missing.
    ForeverRebuildable,
}

/// What memory is used for, and when runs are made.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    /// Ids of one log; at most two logs are in memory, at 33 bytes an id.
    pub ids_in_memory: usize,
    /// Bytes for filters of runs. What is not in memory is read, 64 bytes for each look-up in a run.
    pub filter_bytes: u64,
    /// Whether a thread of its own makes and merges runs; else the caller does, for tests that have to do the
    /// same each time.
    pub in_background: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        // 7/8 of a power of two: what a table holds before it grows; 2.2 MB for each of the two. And filters of
        // 12 million ids: beyond them, a look-up of a random id costs half a microsecond more.
        Self { ids_in_memory: 57_344, filter_bytes: 16 << 20, in_background: true }
    }
}

/// What stays the same when a store is opened again.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) path: PathBuf,
    pub(super) retention: Retention,
    pub(super) tuning: Tuning,
}

impl Config {
    /// Whether ids have numbers that stay.
    pub(super) fn is_numbered(&self) -> bool {
        self.retention == Retention::ForeverRebuildable
    }

    /// The end of the bucket of that time, in ms since 1970.
    pub(super) fn bucket(&self, now: u64) -> u64 {
        match self.retention {
            Retention::ForeverRebuildable => FOR_EVER,
            Retention::Window(window) => {
                let length = (millis(window) / BUCKETS).max(1);
                (now / length).saturating_add(1).saturating_mul(length)
            }
        }
    }

    /// Whether all ids of the bucket that ends then are older than the window.
    pub(super) fn is_expired(&self, until: u64, now: u64) -> bool {
        match self.retention {
            Retention::ForeverRebuildable => false,
            Retention::Window(window) => until <= now.saturating_sub(millis(window)),
        }
    }

    /// The error for callers.
    pub(super) fn error(&self, detail: impl ToString) -> DedupError {
        DedupError { path: self.path.display().to_string(), detail: detail.to_string() }
    }
}

/// In milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
