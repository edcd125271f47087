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
//! - Logs of its number and higher are part of the store. Where ids are kept for ever, runs and logs together hold
//!   those numbered from 0, each once; those of a log are higher than those of runs.
//! - That of an older version can be read, and means the same.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use super::{Failure, files};
use crate::disk::{self, Disk};

/// The version that this code writes.
const VERSION: u32 = 2;
/// One in which each run has one piece.
const WITHOUT_PIECES: u32 = 1;

/// The end of the only bucket where ids are kept for ever.
pub(super) const FOR_EVER: u64 = u64::MAX;

/// A run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listed {
    pub(super) number: u64,
    /// All ids were recorded before, in ms since 1970.
    pub(super) until: u64,
    /// No id has a lower number.
    pub(super) first: u64,
    /// In the order in which they were written; at least one.
    pub(super) pieces: Vec<Piece>,
}

/// Entries that were written to a run at once. In the file, two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64)", into = "(u64, u64)")]
pub(super) struct Piece {
    pub(super) ids: u64,
    /// All ids have lower numbers, and those of later pieces have not.
    pub(super) end: u64,
}

impl From<(u64, u64)> for Piece {
    fn from((ids, end): (u64, u64)) -> Self {
        Self { ids, end }
    }
}

impl From<Piece> for (u64, u64) {
    fn from(piece: Piece) -> Self {
        (piece.ids, piece.end)
    }
}

impl Listed {
    pub(super) fn ids(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.ids).sum()
    }

    /// All ids have lower numbers.
    pub(super) fn end(&self) -> u64 {
        self.pieces.last().map_or(self.first, |last| last.end)
    }
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

    /// Puts a run in the place of others, where the first of them is.
    pub(super) fn replace(&mut self, inputs: &[u64], run: Option<Listed>) {
        let is_input = |listed: &Listed| inputs.contains(&listed.number);
        let place = self.runs.iter().position(is_input).unwrap_or(self.runs.len());
        self.runs.retain(|listed| !is_input(listed));
        if let Some(run) = run {
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
        let another_form = |error: serde_json::Error| damaged(&error.to_string());
        let Version { v } = serde_json::from_str(json).map_err(another_form)?;
        match v {
            VERSION => serde_json::from_str(json).map_err(another_form),
            WITHOUT_PIECES => serde_json::from_str(json).map(Self::with_pieces).map_err(another_form),
            _ => Err(damaged("it is of another version")),
        }
    }

    /// As of this version. Of a window it is not known which numbers are where.
    fn with_pieces(old: WithoutPieces) -> Self {
        let WithoutPieces { is_numbered, next_run, log, total, mark, runs } = old;
        let mut next = 0;
        let list = |run: RunWithoutPieces| {
            let first = next;
            next += run.ids;
            let (first, end) = if is_numbered { (first, next) } else { (0, u64::MAX) };
            let pieces = vec![Piece { ids: run.ids, end }];
            Listed { number: run.number, until: run.until, first, pieces }
        };
        let runs = runs.into_iter().map(list).collect();
        Self { v: VERSION, is_numbered, next_run, log, total, mark, runs }
    }

    /// Makes this the manifest.
    pub(super) fn save(&self, disk: &dyn Disk, path: &Path) -> Result<(), Failure> {
        let json = serde_json::to_string(self).map_err(std::io::Error::from)?;
        let text = format!("{json}\n{}\n", checksum_of(&json));
        disk::replace(disk, path, &files::new_manifest(path), text.as_bytes())?;
        Ok(())
    }
}

#[derive(Deserialize)]
struct Version {
    v: u32,
}

/// A manifest of the version before: its runs hold ids numbered from 0, in their order.
#[derive(Deserialize)]
struct WithoutPieces {
    is_numbered: bool,
    next_run: u64,
    log: u64,
    total: u64,
    mark: Option<String>,
    runs: Vec<RunWithoutPieces>,
}

#[derive(Deserialize)]
struct RunWithoutPieces {
    number: u64,
    ids: u64,
    until: u64,
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
        let pieces = vec![Piece { ids: 5, end: 5 }, Piece { ids: 2, end: 9 }];
        manifest.replace(&[], Some(Listed { number: 1, until: FOR_EVER, first: 0, pieces }));
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
    #[test]
    fn a_manifest_of_the_version_before_is_read() {
        let read = |is_numbered: bool| {
            let json = format!(
                r#"{{"v":1,"is_numbered":{is_numbered},"next_run":9,"log":4,"total":12,"mark":null,"runs":[{{"number":3,"ids":7,"until":99}},{{"number":8,"ids":5,"until":99}}]}}"#
            );
            let text = format!("{json}\n{}\n", checksum_of(&json));
            Manifest::from_bytes(Path::new("dedup"), text.as_bytes()).unwrap()
        };
        let run =
            |number, first, ids, end| Listed { number, until: 99, first, pieces: vec![Piece { ids, end }] };
        let runs = vec![run(3, 0, 7, 7), run(8, 7, 5, 12)];
        let expected = Manifest { next_run: 9, log: 4, total: 12, runs, ..Manifest::new(true) };
        assert_eq!(read(true), expected);
        assert_eq!(read(false).runs, [run(3, 0, 7, u64::MAX), run(8, 0, 5, u64::MAX)]);
    }
}
