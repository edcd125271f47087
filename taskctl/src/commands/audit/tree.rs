//! Compares the lines of a log, one after the other, with the tree beside it: whether all fits. What does not is named by
//! [`diagnosis`](super::diagnosis), which needs more time.
//!
//! # Invariants
//!
//! 1. *It fits only if all does*: every line is its entry's leaf in the tiles, the tiles are those of the leaves and no
//!    longer or shorter, the root is the checkpoint's, and that of every anchor; whichever tree it is of.
//! 2. *Memory and time for each line do not grow with the log*: of the tree one tile of each level is held, of the lines
//!    none.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use audit_tree::{Checkpoint, Hash, Rows, TILE, Tile, Tiles, Verifier};
use serde::Deserialize;

use super::anchors::{Anchor, KAFKA};
use super::diagnosis::{Diagnosis, diagnose, read_tile};
use super::findings::{Findings, Kind, hex};
use super::order::sort_by_tree;
use super::witnessed::Cosigned;
use crate::log_files::LogFile;

/// The tree's state, as far as it helps to find where a file belongs. Nothing is proved by it.
#[derive(Debug, Default, Deserialize)]
struct State {
    files: Vec<u64>,
}

/// A line's place, and its leaf.
#[derive(Debug, Clone)]
pub(super) struct Leaf {
    pub(super) file: Arc<str>,
    pub(super) number: u64,
    pub(super) at: u64,
    pub(super) hash: Hash,
}

impl Leaf {
    pub(super) fn place(&self) -> String {
        format!("{}:{} (byte {})", self.file, self.number, self.at)
    }
}

/// The tree of a log, while its lines are compared with it.
pub(super) struct TreeCheck {
    folder: PathBuf,
    pub(super) checkpoint: Checkpoint,
    tiles: Tiles,
    rows: Rows,
    starts: Vec<u64>,
    /// What Kafka has of this tree and of others of the group, and a witness: all, and those not compared yet, smallest
    /// first.
    anchors: Vec<Anchor>,
    to_compare: VecDeque<Anchor>,
    /// Something does not fit.
    differs: bool,
    /// Lines behind the checkpoint.
    pub(super) uncovered: u64,
    /// Anchors that were compared.
    pub(super) compared: u64,
    pub(super) newest_anchor: u64,
    pub(super) first_uncovered: Option<String>,
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
    let tiles = Tiles::new(folder, checkpoint.size);
    let rows = Rows::default();
    let differs = checkpoint.size == 0 && checkpoint.root != rows.root();
    let mut tree = TreeCheck {
        folder: folder.to_owned(),
        checkpoint,
        tiles,
        rows,
        starts,
        to_compare: anchors.clone().into(),
        anchors,
        differs,
        uncovered: 0,
        compared: 0,
        newest_anchor,
        first_uncovered: None,
        cosigned: None,
        findings,
    };
    tree.compare_anchors();
    Ok(Some(tree))
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

    /// The next line of the log.
    pub(super) fn take(&mut self, line: &Leaf) {
        if self.differs {
            return;
        }
        let next = self.rows.size();
        if next >= self.checkpoint.size {
            self.uncovered += 1;
            self.first_uncovered.get_or_insert_with(|| line.place());
        } else if self.tiles.leaf(next).ok() != Some(line.hash) {
            self.differs = true;
            return;
        }
        self.push(line.hash);
    }

    /// All lines were taken. If something does not fit, the files are read once more, for what it is.
    pub(super) fn finish(mut self, files: &[LogFile]) -> io::Result<Self> {
        if !self.differs && self.rows.size() >= self.checkpoint.size && self.to_compare.is_empty() {
            return Ok(self);
        }
        let Self { folder, checkpoint, anchors, findings, .. } = &mut self;
        let Diagnosis { uncovered, first_uncovered, compared } =
            diagnose(files, folder, checkpoint, anchors, findings)?;
        Ok(Self { uncovered, first_uncovered, compared, ..self })
    }

    /// Adds a leaf, and compares what is complete by then.
    fn push(&mut self, leaf: Hash) {
        let Self { rows, folder, checkpoint, differs, .. } = self;
        rows.push(leaf, &mut |tile, hashes| {
            let end = (tile.number + 1) << (8 * (tile.level + 1));
            if end <= checkpoint.size {
                *differs |= !is_stored(folder, tile, hashes);
            }
        });
        if rows.size() == checkpoint.size {
            *differs |= rows.root() != checkpoint.root;
            *differs |= !rows.partials().all(|(tile, hashes)| is_stored(folder, tile, hashes));
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

/// Whether a tile on disk is what it has to be. In the place of a partial one, what a later state has left serves as well.
fn is_stored(folder: &Path, tile: Tile, hashes: &[Hash]) -> bool {
    match fs::read(tile.path(folder)) {
        Ok(bytes) => bytes == hashes.concat(),
        Err(error) if error.kind() == io::ErrorKind::NotFound && tile.width < TILE => {
            read_tile(folder, tile).is_ok_and(|row| row == hashes)
        }
        Err(_) => false,
    }
}
