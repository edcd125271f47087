//! Compares the lines of a log, one after the other, with the tree beside it.
//!
//! # Invariants
//!
//! 1. *The tree is held against its checkpoint, and the lines against the tree*: the root is computed from the leaves in
//!    the tiles, so where it fits, a line that differs from its leaf was changed, and not the tree.
//! 2. *Every entry is accounted for*: as a line that has its leaf, or in a finding.
//! 3. *Memory and time for each line do not grow with the log*: of the tree one tile of each level is held, of the lines
//!    none; a line that is not where it should be is looked for in two windows.
//! 4. *A tile that cannot be read ends nothing*: it is a finding, and the lines take the place of its leaves.
//! 5. *Every anchor is accounted for*: the log fits it, or it is a finding, whichever tree it is of.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use audit_tree::{Checkpoint, Hash, Rows, TILE, Tile, Tiles, Verifier};
use serde::Deserialize;

use super::anchors::{Anchor, KAFKA};
use super::findings::{Findings, hex};
use super::witnessed::Cosigned;

/// Tiles that could not be read and are remembered, so that each is reported once.
const UNREADABLE: usize = 8;
/// Entries in which a line is looked for that is not where it should be.
const WINDOW: u64 = 64;

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
    /// What Kafka has of this tree and of others of the group, smallest first.
    anchors: VecDeque<Anchor>,
    /// Tiles of leaves that could not be read, the last ones.
    unreadable: VecDeque<u64>,
    /// Entries are missing whose leaves cannot be read: nothing behind them is compared.
    gave_up: bool,
    /// Lines that are no entry at this place, the first of them, and the number of the first entry that is missing.
    strangers: u64,
    first_stranger: Option<Leaf>,
    /// Entries that were missing where they should be.
    missing: VecDeque<(Hash, u64)>,
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

/// Opens the tree in a folder. `None`: there is none. The checkpoint is verified if there is a key.
pub(super) fn open(
    folder: &Path,
    verifier: Option<&Verifier>,
    anchors: Vec<Anchor>,
) -> io::Result<Option<TreeCheck>> {
    if !fs::exists(folder)? {
        return Ok(None);
    }
    let path = folder.join("checkpoint");
    let named = |error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", path.display()));
    let note = fs::read_to_string(&path).map_err(|error| named(&error))?;
    let mut findings = Findings::default();
    let checkpoint = Checkpoint::read(&note).map_err(|error| named(&error))?;
    if let Some(verifier) = verifier
        && let Err(error) = Checkpoint::open(&note, verifier)
    {
        findings.add(|| format!("{}: {error}", path.display()));
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
    let (rows, missing, anchors, unreadable) =
        (Rows::default(), VecDeque::new(), anchors.into(), VecDeque::new());
    let (folder, strangers, first_stranger, uncovered, first_uncovered) =
        (folder.to_owned(), 0, None, 0, None);
    let mut tree = TreeCheck {
        folder,
        checkpoint,
        tiles,
        rows,
        starts,
        anchors,
        unreadable,
        gave_up: false,
        strangers,
        first_stranger,
        missing,
        uncovered,
        compared: 0,
        newest_anchor,
        first_uncovered,
        cosigned: None,
        findings,
    };
    tree.compare_anchors();
    Ok(Some(tree))
}

impl TreeCheck {
    /// Compares the log with what a witness has cosigned, too. Before the first line.
    pub(super) fn compare_with(&mut self, anchor: Anchor) {
        let at = self.anchors.partition_point(|other| other.size <= anchor.size);
        self.anchors.insert(at, anchor);
        self.compare_anchors();
    }

    /// The first line of a file: where it belongs.
    pub(super) fn begin_file(&mut self, first: &Leaf) {
        let next = self.rows.size() + self.strangers;
        if self.gave_up || next >= self.checkpoint.size || self.leaf_at(next) == Some(first.hash) {
            return;
        }
        let starts: Vec<u64> =
            self.starts.iter().copied().filter(|start| *start > self.rows.size()).collect();
        let Some(start) = starts.into_iter().find(|start| self.leaf_at(*start) == Some(first.hash)) else {
            return;
        };
        self.end_strangers(start);
        let missing = self.rows.size();
        if missing < start {
            self.findings.add(|| {
                format!(
                    "entries {missing} to {} are in no file before {}: a segment is missing",
                    start - 1,
                    first.file
                )
            });
            self.skip_to(start);
        }
    }

    /// The next line of the log.
    pub(super) fn take(&mut self, line: &Leaf) {
        if self.gave_up {
            return;
        }
        let (next, size) = (self.rows.size(), self.checkpoint.size);
        if next >= size {
            self.uncovered += 1;
            self.first_uncovered.get_or_insert_with(|| line.place());
            return self.push(line.hash);
        }
        if self.strangers == 0 && self.leaf_at(next) == Some(line.hash) {
            return self.push(line.hash);
        }
        let here = next + self.strangers;
        if here < size && self.leaf_at(here).is_none() {
            self.end_strangers(here);
            return self.push(line.hash);
        }
        let near = next..(next + WINDOW).min(size);
        let far = here.saturating_sub(WINDOW).max(near.end)..(here + WINDOW).min(size);
        for entry in near.chain(far) {
            if self.leaf_at(entry) == Some(line.hash) {
                self.resume_at(entry, line);
                return self.push(line.hash);
            }
        }
        if let Some((_, entry)) = self.missing.iter().find(|(hash, _)| *hash == line.hash) {
            let entry = *entry;
            return self
                .findings
                .add(|| format!("{} is entry {entry}, which was before: lines were swapped", line.place()));
        }
        self.strangers += 1;
        self.first_stranger.get_or_insert_with(|| line.clone());
    }

    /// A line that is the entry of that number: what is between it and the line before?
    fn resume_at(&mut self, entry: u64, line: &Leaf) {
        self.end_strangers(entry);
        let missing = self.rows.size();
        if missing < entry {
            self.findings.add(|| match entry - missing {
                1 => {
                    format!("entry {missing} is missing before {}: a line was deleted or moved", line.place())
                }
                count => format!(
                    "entries {missing} to {} are missing before {}: {count} lines were deleted or moved",
                    entry - 1,
                    line.place()
                ),
            });
            self.skip_to(entry);
        }
    }

    /// Lines that are no entries end before that entry.
    fn end_strangers(&mut self, entry: u64) {
        let Some(first) = self.first_stranger.take() else { return };
        let (lines, next) = (std::mem::take(&mut self.strangers), self.rows.size());
        let entries = entry - next;
        self.findings.add(|| match (lines, entries) {
            (_, 0) => format!("{} and {} more lines are no entries of the tree: they were inserted", first.place(), lines - 1),
            (1, 1) => format!("{} is not what entry {next} was: the line was changed", first.place()),
            _ if lines == entries => {
                format!("{} and {} lines behind it are not what entries {next} to {} were: they were changed", first.place(), lines - 1, entry - 1)
            }
            _ => format!("from {} on {lines} lines are in the place of {entries} entries from {next} on: lines were changed, merged, inserted or deleted", first.place()),
        });
        self.skip_to(entry);
    }

    /// All lines were taken.
    pub(super) fn finish(mut self) -> Self {
        let size = self.checkpoint.size;
        if self.strangers > 0 {
            let end = (self.rows.size() + self.strangers).min(size);
            self.end_strangers(end);
        }
        let next = self.rows.size();
        if next < size && !self.gave_up {
            self.findings.add(|| format!("entries {next} to {} have no line at the end of the log: it was truncated, or restored from an older copy", size - 1));
            self.skip_to(size);
        }
        if self.uncovered == 0 && !self.gave_up {
            for (tile, hashes) in self.rows.partials() {
                compare(&self.folder, tile, hashes, &mut self.findings);
            }
        }
        let (last, gave_up) = (self.rows.size(), self.gave_up);
        for anchor in std::mem::take(&mut self.anchors) {
            let Anchor { origin, size, place, by, .. } = &anchor;
            self.findings.add(|| match (gave_up, *origin == self.checkpoint.origin) {
                (true, _) => format!("{by} has an anchor of {size} lines of {origin} ({place}), and it cannot be compared"),
                (_, true) => {
                    format!("{by} has an anchor of {size} lines, and the log has {last}: it was truncated, or restored from an older copy")
                }
                _ => format!("{by} has an anchor of {size} lines of another tree, {origin} ({place}), and the log has {last}: {ANOTHER}"),
            });
        }
        self
    }

    /// The leaf of an entry. `None`: its tile cannot be read, which is a finding, or the checkpoint has it not.
    fn leaf_at(&mut self, entry: u64) -> Option<Hash> {
        let tile = entry / TILE;
        if entry >= self.checkpoint.size || self.unreadable.contains(&tile) {
            return None;
        }
        match self.tiles.leaf(entry) {
            Ok(leaf) => Some(leaf),
            Err(error) => {
                let end = ((tile + 1) * TILE).min(self.checkpoint.size);
                self.findings
                    .add(|| format!("the tree lacks entries {} to {}: {error}", tile * TILE, end - 1));
                if self.unreadable.len() >= UNREADABLE {
                    self.unreadable.pop_front();
                }
                self.unreadable.push_back(tile);
                None
            }
        }
    }

    /// Adds the leaves of entries whose lines are not there as they were.
    fn skip_to(&mut self, entry: u64) {
        while self.rows.size() < entry && !self.gave_up {
            let next = self.rows.size();
            let Some(leaf) = self.leaf_at(next) else {
                self.gave_up = true;
                return self.findings.add(|| {
                    format!("entry {next} has neither line nor leaf: nothing from there on is compared")
                });
            };
            if self.missing.len() as u64 >= WINDOW {
                self.missing.pop_front();
            }
            self.missing.push_back((leaf, next));
            self.push(leaf);
        }
    }

    /// Adds a leaf, and compares what is complete by then.
    fn push(&mut self, leaf: Hash) {
        let Self { rows, folder, checkpoint, findings, .. } = self;
        rows.push(leaf, &mut |tile, hashes| {
            let end = (tile.number + 1) << (8 * (tile.level + 1));
            if end <= checkpoint.size {
                compare(folder, tile, hashes, findings);
            }
        });
        let size = rows.size();
        if size == checkpoint.size && rows.root() != checkpoint.root {
            findings.add(|| {
                format!("the root of the first {size} entries is not that of the checkpoint: {} was changed, or its tiles were", folder.join("checkpoint").display())
            });
        }
        self.compare_anchors();
    }

    /// Compares the anchors of as many lines as there are by now.
    fn compare_anchors(&mut self) {
        while self.anchors.front().is_some_and(|anchor| anchor.size <= self.rows.size()) {
            let Some(Anchor { origin, size, root, place, by }) = self.anchors.pop_front() else { break };
            self.compared += u64::from(by == KAFKA);
            if hex(&self.rows.root()) == root {
                continue;
            }
            self.findings.add(|| match origin == self.checkpoint.origin {
                true => format!(
                    "{by} has another root of the first {size} lines ({place}): log and tree were rewritten"
                ),
                false => format!(
                    "{by} has another root of the first {size} lines by another tree, {origin} ({place}): {ANOTHER}"
                ),
            });
        }
    }
}

/// What an anchor of another tree says that the log does not fit.
const ANOTHER: &str = "lines were changed, or lost and written again, before this tree began; or that is the tree of another instance's log: then give --accept-origin with its name";

/// Compares a tile on disk with what it has to be.
fn compare(folder: &Path, tile: Tile, hashes: &[Hash], findings: &mut Findings) {
    let path = tile.path(folder);
    match fs::read(&path) {
        Ok(bytes) if bytes == hashes.concat() => {}
        // A later state has it, in a wider one or in the full one.
        Err(error) if error.kind() == io::ErrorKind::NotFound && tile.width < TILE => {}
        Ok(_) => findings.add(|| format!("tile {} was changed", path.display())),
        Err(error) => findings.add(|| format!("tile {} cannot be read: {error}", path.display())),
    }
}
