//! `partition-state.json`: what the batches of a partition add up to, as of one offset, so that
//! only those after it are read at start. It is written when a partition is made, when a segment
//! is closed (before the next one begins) and after a truncation. When it is missing, every batch
//! header is read once.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::epochs::Epochs;
use super::producers::Producers;
use crate::durable;

const STATE_FILE: &str = "partition-state.json";

/// The content of the file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredState {
    /// The leader epoch is the number of the broker's start less this.
    pub epoch_base: i32,
    /// Batches below this offset are in `producers` already.
    pub until: i64,
    pub epochs: Epochs,
    pub producers: Producers,
}

impl StoredState {
    /// `None` when there is none, or none that can be read: it is then made from the batches.
    pub fn load(dir: &Path) -> io::Result<Option<Self>> {
        let path = dir.join(STATE_FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let parsed = serde_json::from_slice(&text);
        if let Err(error) = &parsed {
            log::warn!("{}: {error}; it is rebuilt from the batches", path.display());
        }
        Ok(parsed.ok())
    }

    pub fn store(&self, dir: &Path) -> io::Result<()> {
        durable::replace(&dir.join(STATE_FILE), &serde_json::to_vec(self)?)
    }
}
