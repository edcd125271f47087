//! Consumer groups.

pub(crate) mod offsets;

use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use offsets::CommittedOffsets;

/// Every group of this broker, which coordinates them all.
#[derive(Debug)]
pub(crate) struct Groups {
    offsets: Mutex<CommittedOffsets>,
}

impl Groups {
    /// Reads the committed offsets. Blocking.
    pub fn open(file: &Path) -> io::Result<Self> {
        Ok(Self { offsets: Mutex::new(CommittedOffsets::open(file)?) })
    }

    pub fn offsets(&self) -> MutexGuard<'_, CommittedOffsets> {
        self.offsets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes committed offsets survive a power cut; a kill of the process they survive anyway.
    /// Blocking.
    pub fn sync_offsets(&self) -> io::Result<()> {
        self.offsets().sync()
    }
}
