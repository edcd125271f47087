//! Compares the lines of a log, one after the other, with the tree beside it.
//!
//! # Invariants
//!
//! 1. *The tree is held against its checkpoint, and the lines against the tree*: the root is computed from the leaves in
//!    the tiles, so where it fits, a line that differs from its leaf was changed, and not the tree.
//! 2. *Every entry is accounted for*: as a line that has its leaf, or in a finding.
//! 3. *Memory does not grow with the log*: of the tree one tile of each level is held, of the lines none.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use audit_tree::{Checkpoint, Hash, Rows, Tile, Tiles, Verifier, leaf_hash};
use serde::Deserialize;

use super::anchors::Anchor;
use super::findings::{Findings, hex};

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
    /// What Kafka has of this tree, smallest first.
    anchors: VecDeque<Anchor>,
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
    let mut anchors: Vec<_> =
        anchors.into_iter().filter(|anchor| anchor.origin == checkpoint.origin).collect();
    anchors.sort_by_key(|anchor| anchor.size);
    let newest_anchor = anchors.last().map_or(0, |anchor| anchor.size);
    let tiles = Tiles::new(folder, checkpoint.size);
    let (rows, missing, anchors) = (Rows::default(), VecDeque::new(), anchors.into());
    let (folder, strangers, first_stranger, uncovered, first_uncovered) =
        (folder.to_owned(), 0, None, 0, None);
    Ok(Some(TreeCheck {
        folder,
        checkpoint,
        tiles,
        rows,
        starts,
        anchors,
        strangers,
        first_stranger,
        missing,
        uncovered,
        compared: 0,
        newest_anchor,
        first_uncovered,
        findings,
    }))
}

impl TreeCheck {
    /// The first line of a file: where it belongs.
    pub(super) fn begin_file(&mut self, first: &Leaf) -> io::Result<()> {
        let next = self.rows.size() + self.strangers;
        if next >= self.checkpoint.size || self.leaf_at(next)? == Some(first.hash) {
            return Ok(());
        }
        let starts: Vec<u64> =
            self.starts.iter().copied().filter(|start| *start > self.rows.size()).collect();
        for start in starts {
            if self.leaf_at(start)? == Some(first.hash) {
                self.end_strangers(start)?;
                let missing = self.rows.size();
                if missing < start {
                    self.findings.add(|| {
                        format!(
                            "entries {missing} to {} are in no file before {}: a segment is missing",
                            start - 1,
                            first.file
                        )
                    });
                    self.skip_to(start)?;
                }
                return Ok(());
            }
        }
        Ok(())
    }

    /// The next line of the log.
    pub(super) fn take(&mut self, line: &Leaf) -> io::Result<()> {
        let next = self.rows.size();
        if next >= self.checkpoint.size {
            self.uncovered += 1;
            self.first_uncovered.get_or_insert_with(|| line.place());
            return self.push(line.hash);
        }
        if self.strangers == 0 && self.leaf_at(next)? == Some(line.hash) {
            return self.push(line.hash);
        }
        let end = (next + self.strangers + WINDOW).min(self.checkpoint.size);
        for entry in next..end {
            if self.leaf_at(entry)? == Some(line.hash) {
                self.resume_at(entry, line)?;
                return self.push(line.hash);
            }
        }
        if let Some((_, entry)) = self.missing.iter().find(|(hash, _)| *hash == line.hash) {
            let entry = *entry;
            self.findings
                .add(|| format!("{} is entry {entry}, which was before: lines were swapped", line.place()));
            return Ok(());
        }
        self.strangers += 1;
        self.first_stranger.get_or_insert_with(|| line.clone());
        Ok(())
    }

    /// A line that is the entry of that number: what is between it and the line before?
    fn resume_at(&mut self, entry: u64, line: &Leaf) -> io::Result<()> {
        self.end_strangers(entry)?;
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
            self.skip_to(entry)?;
        }
        Ok(())
    }

    /// Lines that are no entries end before that entry.
    fn end_strangers(&mut self, entry: u64) -> io::Result<()> {
        let Some(first) = self.first_stranger.take() else { return Ok(()) };
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
        self.skip_to(entry)
    }

    /// All lines were taken.
    pub(super) fn finish(mut self) -> io::Result<Self> {
        let size = self.checkpoint.size;
        if self.strangers > 0 {
            let end = (self.rows.size() + self.strangers).min(size);
            self.end_strangers(end)?;
        }
        let next = self.rows.size();
        if next < size {
            self.findings.add(|| format!("entries {next} to {} have no line at the end of the log: it was truncated, or restored from an older copy", size - 1));
            self.skip_to(size)?;
        }
        for (tile, hashes) in Rows::partials(&self.rows).filter(|_| self.uncovered == 0) {
            compare(&self.folder, tile, hashes, &mut self.findings)?;
        }
        let last = self.rows.size();
        for anchor in std::mem::take(&mut self.anchors) {
            self.findings.add(|| {
                format!("Kafka has an anchor of {} lines, and the log has {last}: it was truncated, or restored from an older copy", anchor.size)
            });
        }
        Ok(self)
    }

    fn leaf_at(&mut self, entry: u64) -> io::Result<Option<Hash>> {
        if entry < self.checkpoint.size { self.tiles.leaf(entry).map(Some) } else { Ok(None) }
    }

    /// Adds the leaves of entries whose lines are not there as they were.
    fn skip_to(&mut self, entry: u64) -> io::Result<()> {
        while self.rows.size() < entry {
            let next = self.rows.size();
            let Some(leaf) = self.leaf_at(next)? else { return Ok(()) };
            if self.missing.len() as u64 >= WINDOW {
                self.missing.pop_front();
            }
            self.missing.push_back((leaf, next));
            self.push(leaf)?;
        }
        Ok(())
    }

    /// Adds a leaf, and compares what is complete by then.
    fn push(&mut self, leaf: Hash) -> io::Result<()> {
        let Self { rows, folder, checkpoint, findings, .. } = self;
        let mut compared = Ok(());
        rows.push(leaf, &mut |tile, hashes| {
            let end = (tile.number + 1) << (8 * (tile.level + 1));
            if end <= checkpoint.size && compared.is_ok() {
                compared = compare(folder, tile, hashes, findings);
            }
        });
        compared?;
        let size = rows.size();
        if size == checkpoint.size && rows.root() != checkpoint.root {
            findings.add(|| {
                format!("the root of the first {size} entries is not that of the checkpoint: {} was changed, or its tiles were", folder.join("checkpoint").display())
            });
        }
        while self.anchors.front().is_some_and(|anchor| anchor.size <= size) {
            let Some(anchor) = self.anchors.pop_front() else { break };
            self.compared += 1;
            let root = if anchor.size == size {
                hex(&self.rows.root())
            } else {
                hex(&self.tiles.root_at(anchor.size)?)
            };
            if root != anchor.root {
                self.findings.add(|| {
                    format!(
                        "Kafka has another root of the first {} lines ({}): log and tree were rewritten",
                        anchor.size, anchor.place
                    )
                });
            }
        }
        Ok(())
    }
}

/// Compares a tile on disk with what it has to be.
fn compare(folder: &Path, tile: Tile, hashes: &[Hash], findings: &mut Findings) -> io::Result<()> {
    let path = tile.path(folder);
    match fs::read(&path) {
        Ok(bytes) if bytes == hashes.concat() => {}
        // A later state has it, in a wider one or in the full one.
        Err(error) if error.kind() == io::ErrorKind::NotFound && tile.width < audit_tree::TILE => {}
        Ok(_) => findings.add(|| format!("tile {} was changed", path.display())),
        Err(error) => return Err(io::Error::new(error.kind(), format!("tile {}: {error}", path.display()))),
    }
    Ok(())
}

/// The leaf of a line without its end.
pub(super) fn leaf(file: &Arc<str>, number: u64, at: u64, line: &[u8]) -> Leaf {
    let entry = line.strip_suffix(b"\n").unwrap_or(line);
    Leaf { file: Arc::clone(file), number, at, hash: leaf_hash(entry) }
}
