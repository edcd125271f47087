//! `compaction.json`: how far the compaction of a partition is.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::durable;

const STATE_FILE: &str = "compaction.json";

/// How far compaction came, kept on disk so that a restart does not begin from the start.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CompactionState {
    /// The first offset that no run has mapped yet.
    pub(super) clean_until: i64,
    /// When the next tombstone may go, in milliseconds.
    pub(super) next_horizon: Option<i64>,
}

impl CompactionState {
    /// What was stored; the beginning when there is nothing.
    pub fn load(dir: &Path) -> Self {
        // A lost state only costs work: everything counts as dirty once more.
        let text = fs::read(dir.join(STATE_FILE)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Nothing from `end` on has been seen, durably.
    pub fn truncate(&mut self, dir: &Path, end: i64) -> io::Result<()> {
        if self.clean_until <= end {
            return Ok(());
        }
        self.clean_until = end;
        self.store(dir)
    }

    /// Stores it, durably.
    pub(super) fn store(&self, dir: &Path) -> io::Result<()> {
        durable::replace(&dir.join(STATE_FILE), &serde_json::to_vec(self)?)
    }
}
