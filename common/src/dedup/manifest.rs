//! What the store consists of: one small file, replaced whole.
//!
//! A line of JSON, and its CRC-32C in hexadecimal on the next. It has the name of the store; runs and logs have
//! that name and a number behind it. A file of theirs that it does not name is none of the store: a crash left
//! it, and the next start removes it.
//!
//! # Invariants
//!
//! - It is written under another name, synced, and then given its own; what it names is durable before that,
//!   with its names, and what it does not name any more is removed after that.
//! - Logs of its number and higher are part of the store. Runs and logs together hold the ids numbered from 0,
//!   in the order in which they are named, each its own part.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use super::{Failure, files};
use crate::disk::{self, Disk};

/// The version that this code writes and reads.
const VERSION: u32 = 1;

/// The end of the only bucket where ids are kept for ever.
pub(super) const FOR_EVER: u64 = u64::MAX;

/// A run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listed {
    pub(super) number: u64,
    pub(super) ids: u64,
    /// All ids were recorded before, in ms since 1970.
    pub(super) until: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    v: u32,
    /// Ids are kept for ever, and numbered; otherwise for a window.
    pub(super) is_numbered: bool,
    /// The number of the next run.
    pub(super) next_run: u64,
    /// The oldest log.
    pub(super) log: u64,
    /// Ids that were recorded before that log was begun.
    pub(super) total: u64,
    /// The owner's mark when that log was begun, in base64.
    mark: Option<String>,
    /// The oldest first.
    pub(super) runs: Vec<Listed>,
}

impl Manifest {
    pub(super) fn new(is_numbered: bool) -> Self {
        Self { v: VERSION, is_numbered, next_run: 1, log: 1, total: 0, mark: None, runs: Vec::new() }
    }

    pub(super) fn mark(&self) -> Option<Vec<u8>> {
        self.mark.as_ref().and_then(|mark| BASE64_STANDARD.decode(mark).ok())
    }

    pub(super) fn set_mark(&mut self, mark: Option<&[u8]>) {
        self.mark = mark.map(|mark| BASE64_STANDARD.encode(mark));
    }

    /// Takes the next number for a run.
    pub(super) fn take_run(&mut self) -> u64 {
        self.next_run += 1;
        self.next_run - 1
    }

    /// Puts a run in the place of others, where the first of them is; it may have no ids.
    pub(super) fn replace(&mut self, inputs: &[u64], run: Listed) {
        let is_input = |listed: &Listed| inputs.contains(&listed.number);
        let place = self.runs.iter().position(is_input).unwrap_or(self.runs.len());
        self.runs.retain(|listed| !is_input(listed));
        if run.ids > 0 {
            self.runs.insert(place.min(self.runs.len()), run);
        }
    }

    /// Reads the file.
    pub(super) fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, Failure> {
        let damaged = |why: &str| Failure::damaged(path, why.to_owned());
        let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is not a list of runs"))?;
        let (json, checksum) = text.split_once('\n').ok_or_else(|| damaged("it is not a list of runs"))?;
        if checksum.trim_end() != checksum_of(json) {
            return Err(damaged("it has another checksum"));
        }
        let manifest: Self = serde_json::from_str(json).map_err(|error| damaged(&error.to_string()))?;
        if manifest.v == VERSION { Ok(manifest) } else { Err(damaged("it is of another version")) }
    }

    /// Makes this the manifest.
    pub(super) fn save(&self, disk: &dyn Disk, path: &Path) -> Result<(), Failure> {
        let json = serde_json::to_string(self).map_err(std::io::Error::from)?;
        let text = format!("{json}\n{}\n", checksum_of(&json));
        disk::replace(disk, path, &files::new_manifest(path), text.as_bytes())?;
        Ok(())
    }
}

fn checksum_of(json: &str) -> String {
    format!("{:08x}", crc32c::crc32c(json.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_of_the_manifest_counts() {
        let mut manifest = Manifest::new(true);
        manifest.set_mark(Some(b"mark"));
        manifest.replace(&[], Listed { number: 1, ids: 5, until: FOR_EVER });
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dedup");
        manifest.save(&crate::disk::FileSystem, &path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(Manifest::from_bytes(&path, &bytes).unwrap(), manifest);
        assert_eq!(manifest.mark().unwrap(), b"mark");
        for at in 0..bytes.len() - 1 {
            let mut changed = bytes.clone();
            changed[at] ^= 4;
            assert!(Manifest::from_bytes(&path, &changed).is_err(), "byte {at}");
        }
    }
}
