//! Compares the lines of a log, one after the other, with the tree beside it: whether all fits. What does not is named by
//! [`diagnosis`](super::diagnosis), which needs more time.
//!
//! # Invariants
//!
//! 1. *It fits only if all does*: the tiles are those of the lines' leaves and no longer or shorter, the root is the
//!    checkpoint's, and that of every anchor; whichever tree it is of.
//! 2. *Memory and time for each line do not grow with the log*: of the tree one tile of each level is held, of the lines
//!    none.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use audit_tree::{Checkpoint, Hash, Rows, Tiles, Verifier};
use serde::Deserialize;

use super::anchors::{Anchor, KAFKA};
use super::diagnosis::{Diagnosis, diagnose};
use super::findings::{Findings, Kind, hex};
use super::on_disk::OnDisk;
use super::order::sort_by_tree;
use super::witnessed::Cosigned;
use crate::log_files::LogFile;

/// The tree's state, as far as it helps to find where a file belongs. Nothing is proved by it.
#[derive(Debug, Default, Deserialize)]
struct State {
    files: Vec<u64>,
}

/// The tree of a log, while its lines are compared with it.
pub(super) struct TreeCheck {
    folder: PathBuf,
    pub(super) checkpoint: Checkpoint,
    on_disk: OnDisk,
    rows: Rows,
    starts: Vec<u64>,
    /// What Kafka has of this tree and of others of the group, and a witness: all, and those not compared yet, smallest
    /// first.
    anchors: Vec<Anchor>,
    to_compare: VecDeque<Anchor>,
    /// Something does not fit.
    differs: bool,
    /// Lines behind the checkpoint.
    uncovered: u64,
    first_uncovered: Option<String>,
    /// Anchors that were compared.
    compared: u64,
    newest_anchor: u64,
    /// What a witness has cosigned, where that was asked for.
    pub(super) cosigned: Option<Cosigned>,
    pub(super) findings: Findings,
}

/// Opens the tree in a folder. `None`: there is none. The checkpoint is verified if there is a key. So many findings of each kind
/// are kept.
pub(super) fn open(
    folder: &Path,
    verifier: Option<&Verifier>,
    anchors: Vec<Anchor>,
    findings: usize,
) -> io::Result<Option<TreeCheck>> {
    if !fs::exists(folder)? {
        return Ok(None);
    }
    let path = folder.join("checkpoint");
    let named = |error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", path.display()));
    let note = fs::read_to_string(&path).map_err(|error| named(&error))?;
    let mut findings = Findings::new(findings);
    let checkpoint = Checkpoint::read(&note).map_err(|error| named(&error))?;
    if let Some(verifier) = verifier
        && let Err(error) = Checkpoint::open(&note, verifier)
    {
        findings.add(Kind::Root, || format!("{}: {error}", path.display()));
    }
    let starts = fs::read(folder.join("state.json")).ok();
    let starts =
        starts.and_then(|state| serde_json::from_slice::<State>(&state).ok()).unwrap_or_default().files;
    let mut anchors = anchors;
    anchors.sort_by_key(|anchor| anchor.size);
    let is_own = |anchor: &&Anchor| anchor.by == KAFKA && anchor.origin == checkpoint.origin;
    let own = anchors.iter().rev().find(is_own);
    let newest_anchor = own.map_or(0, |anchor| anchor.size);
    let on_disk = OnDisk::new(folder)?;
    let rows = Rows::default();
    let differs = checkpoint.size == 0 && checkpoint.root != rows.root();
    let mut tree = TreeCheck {
        folder: folder.to_owned(),
        checkpoint,
        on_disk,
        rows,
        starts,
        to_compare: anchors.clone().into(),
        anchors,
        differs,
        uncovered: 0,
        first_uncovered: None,
        compared: 0,
        newest_anchor,
        cosigned: None,
        findings,
    };
    tree.compare_anchors();
    Ok(Some(tree))
}

/// What the comparison has found.
pub(super) struct Finished {
    pub(super) checkpoint: Checkpoint,
    pub(super) found: Diagnosis,
    pub(super) newest_anchor: u64,
    pub(super) cosigned: Option<Cosigned>,
    pub(super) findings: Findings,
}

impl TreeCheck {
    /// Compares the log with what a witness has cosigned, too. Before the first line.
    pub(super) fn compare_with(&mut self, anchor: Anchor) {
        let at = self.to_compare.partition_point(|other| other.size <= anchor.size);
        self.to_compare.insert(at, anchor.clone());
        self.anchors.push(anchor);
        self.compare_anchors();
    }

    /// Sorts the files of the log by where the tree has their lines.
    pub(super) fn sort(&self, files: &mut [LogFile]) -> io::Result<()> {
        sort_by_tree(files, &mut Tiles::new(&self.folder, self.checkpoint.size), &self.starts)
    }

    /// The next line of the log: its leaf, and where it is.
    pub(super) fn take(&mut self, leaf: Hash, place: impl FnOnce() -> String) {
        if self.differs {
            return;
        }
        if self.rows.size() >= self.checkpoint.size {
            self.uncovered += 1;
            self.first_uncovered.get_or_insert_with(place);
        }
        self.push(leaf);
    }

    /// All lines were taken. If something does not fit, the files are read once more, for what it is.
    pub(super) fn finish(self, files: &[LogFile]) -> io::Result<Finished> {
        let Self { folder, checkpoint, on_disk, rows, anchors, to_compare, mut findings, .. } = self;
        let (newest_anchor, cosigned) = (self.newest_anchor, self.cosigned);
        let fits = !self.differs && rows.size() >= checkpoint.size && to_compare.is_empty();
        let found = match on_disk.finish() && fits {
            true => Diagnosis {
                uncovered: self.uncovered,
                first_uncovered: self.first_uncovered,
                compared: self.compared,
            },
            false => diagnose(files, &folder, &checkpoint, &anchors, &mut findings)?,
        };
        Ok(Finished { checkpoint, found, newest_anchor, cosigned, findings })
    }

    /// Adds a leaf, and compares what is complete by then.
    fn push(&mut self, leaf: Hash) {
        let Self { rows, on_disk, checkpoint, differs, .. } = self;
        rows.push(leaf, &mut |tile, hashes| {
            let end = (tile.number + 1) << (8 * (tile.level + 1));
            if end <= checkpoint.size {
                on_disk.compare(tile, hashes);
                *differs |= on_disk.differs();
            }
        });
        if rows.size() == checkpoint.size {
            *differs |= rows.root() != checkpoint.root;
            rows.partials().for_each(|(tile, hashes)| on_disk.compare(tile, hashes));
        }
        self.compare_anchors();
    }

    /// Compares the anchors of as many lines as there are by now.
    fn compare_anchors(&mut self) {
        while self.to_compare.front().is_some_and(|anchor| anchor.size <= self.rows.size()) {
            let Some(anchor) = self.to_compare.pop_front() else { break };
            self.compared += u64::from(anchor.by == KAFKA);
            self.differs |= hex(&self.rows.root()) != anchor.root;
        }
    }
}
