//! Reads lines into the index, and tells a torn line from damage.
//!
//! # What is a torn line, and what is damage
//!
//! A write that a crash cut short leaves a line without its end, or zeros. Bytes of another kind are damage,
//! and so is anything in front of valid lines, unless it lies behind what the index names (that was synced)
//! and within what may be unsynced. Damage is left as it is, and the service refuses to start.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use task_events::dedup::{Dedup, DedupError};
use uuid::Uuid;

use super::file::{Lines, MAX_UNSYNCED};
use super::line;
use super::mark::Mark;
use super::{AuditError, Damage, segments};

/// Ids that are added to the index at once.
const CHUNK: usize = 4_096;

/// What is known of the part of a file that is read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tail {
    /// This service wrote it, and a crash may have left part of it.
    Unsynced,
    /// Whoever wrote it, up to this byte it was on disk as a whole.
    SyncedTo(u64),
    /// Nothing.
    Foreign,
}

/// How far a scan came.
pub(super) struct Scan {
    /// The log up to the first invalid line.
    pub(super) mark: Mark,
    /// The ids of its last lines, which are not in the index yet.
    pub(super) ids: Vec<Uuid>,
    /// The log as far as it is in the index.
    pub(super) recorded: Mark,
    pub(super) invalid: Option<Invalid>,
    /// Lines that were read.
    pub(super) lines: u64,
}

/// Bytes that are not a whole line.
pub(super) struct Invalid {
    /// Where they start.
    pub(super) at: u64,
    /// The first of them, up to a line's end.
    pub(super) first: Vec<u8>,
    pub(super) why: String,
    /// Each invalid line has zeros in it or is the end of the file.
    looks_torn: bool,
    /// Where the last valid line after them starts.
    last_valid: Option<u64>,
}

impl Invalid {
    fn add(&mut self, bytes: &[u8]) {
        let is_unfinished = !bytes.ends_with(b"\n");
        self.looks_torn &= bytes.contains(&0) || is_unfinished;
    }

    pub(super) fn is_torn(&self, tail: Tail, length: u64) -> bool {
        let may_be = match tail {
            Tail::SyncedTo(end) => self.at >= end && self.last_valid.is_none(),
            Tail::Foreign => self.last_valid.is_none(),
            // Whole lines of the same unsynced write may follow.
            Tail::Unsynced => self.last_valid.is_none() || length.saturating_sub(self.at) <= MAX_UNSYNCED,
        };
        self.looks_torn && may_be
    }

    pub(super) fn is_whole_but_for_its_end(&self, length: u64) -> bool {
        let whole = [self.first.as_slice(), b"\n"].concat();
        self.at + self.first.len() as u64 == length && line::parse(&whole).is_some()
    }
}

/// Why a scan failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScanError {
    #[error(transparent)]
    Log(#[from] io::Error),
    #[error(transparent)]
    Index(#[from] DedupError),
    /// A segment that is needed.
    #[error("segment {} is damaged at {damage}", path.display())]
    Damaged { path: PathBuf, damage: Damage },
}

impl ScanError {
    pub(super) fn of_segment(self, path: &Path) -> Self {
        match self {
            Self::Log(error) => Self::Log(segments::named(path, error)),
            error => error,
        }
    }

    pub(super) fn at_start(self, path: &Path) -> AuditError {
        match self {
            Self::Log(source) => AuditError::Recover { path: path.to_owned(), source },
            Self::Index(error) => AuditError::Index(error),
            Self::Damaged { path, damage } => AuditError::Damaged { path, damage },
        }
    }
}

/// Reads lines to their end, and adds their ids to the index in chunks, each with its mark. Those of lines
/// that start at `unsynced_from` or later are only returned: they may not be on disk.
pub(super) fn scan<R: Read>(
    lines: &mut Lines<R>,
    start: Mark,
    unsynced_from: u64,
    index: &Dedup,
) -> Result<Scan, ScanError> {
    let mut scan = Scan {
        recorded: start.clone(),
        mark: start,
        ids: Vec::with_capacity(CHUNK),
        invalid: None,
        lines: 0,
    };
    while let Some((at, bytes)) = lines.next()? {
        match (line::parse(bytes), &mut scan.invalid) {
            (Some(line), None) => {
                if scan.ids.len() >= CHUNK && at < unsynced_from {
                    let mark = &mut scan.mark;
                    mark.ids = index.append(&scan.ids, false, |ids| mark.to_bytes(ids))?;
                    scan.recorded = scan.mark.clone();
                    scan.ids.clear();
                }
                scan.mark.add_found(line.event_id, &line.kafka, bytes.len());
                scan.ids.push(line.event_id);
                scan.lines += 1;
            }
            (Some(_), Some(invalid)) => invalid.last_valid = Some(at),
            (None, None) => {
                let why = line::what_is_wrong(bytes);
                let first = bytes.to_vec();
                let mut invalid = Invalid { at, first, why, looks_torn: true, last_valid: None };
                invalid.add(bytes);
                scan.invalid = Some(invalid);
            }
            (None, Some(invalid)) => invalid.add(bytes),
        }
    }
    Ok(scan)
}
