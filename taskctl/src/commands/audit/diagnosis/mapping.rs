//! Which entry of the tree each line of a log is, whatever was deleted, inserted, moved or copied, and however much of it.
//!
//! # Invariants
//!
//! 1. *A line is an entry if it has its leaf*; where the tile of that leaf cannot be read, the line that comes in its turn
//!    is presumed to be it, until the tile's own hash shows whether it is.
//! 2. *Memory is bounded*: lines that follow each other, as their entries do, are one run. Of runs, of lines that wait to
//!    be placed, and of lines that have no entry, so many are kept; beyond the runs the rest of the log is left out, and that
//!    is said.
//! 3. *A line is looked for everywhere*: where it should be, near it, in the index of the tree, and once more in all of
//!    the tree if the index has not every leaf.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use audit_tree::{Hash, TILE, tile_root};

use super::index::Index;
use super::stored::Stored;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Leaves in the index.
    pub(super) samples: u64,
    /// Lines that wait to be placed, so that those behind them can tell where they belong.
    pub(super) pending: usize,
    pub(super) runs: usize,
    /// Lines without an entry whose hashes are kept.
    pub(super) unknown: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { samples: super::index::SAMPLES, pending: 4_096, runs: 32_768, unknown: 65_536 }
    }
}

/// A line of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) file: usize,
    pub(super) number: u64,
    pub(super) at: u64,
    pub(super) hash: Hash,
}

/// What the lines of a run are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// Entries from that one on.
    Entries(u64),
    /// In the place of these entries, whose leaves cannot be read.
    Presumed(u64),
    /// No entries. Hash and byte of the first of them, as far as they are kept.
    Unknown(Vec<(Hash, u64)>),
}

/// Lines of a file that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) file: usize,
    /// The first line, and its byte.
    pub(super) number: u64,
    pub(super) at: u64,
    pub(super) lines: u64,
    pub(super) what: What,
}

impl Run {
    /// The first entry, if it has one.
    pub(super) fn entry(&self) -> Option<u64> {
        match self.what {
            What::Entries(entry) | What::Presumed(entry) => Some(entry),
            What::Unknown(_) => None,
        }
    }
}

/// Where a line is in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Entry(u64),
    Presumed(u64),
}

impl Found {
    fn next(self) -> u64 {
        match self {
            Self::Entry(entry) | Self::Presumed(entry) => entry + 1,
        }
    }
}

/// The lines of a log, as they are placed.
pub(super) struct Mapping<'a> {
    pub(super) stored: &'a mut Stored,
    limits: Limits,
    index: Option<Index>,
    pub(super) runs: Vec<Run>,
    /// Where runs begin and end, and the first of it behind the start of the last run: there a run is split, so that of
    /// entries that have two lines each is known apart.
    borders: BTreeSet<u64>,
    border: u64,
    /// The entry that the next line should be, and how many lines before it are none.
    expected: u64,
    strangers: u64,
    pending: Vec<Line>,
    kept: usize,
    /// Of tiles that cannot be read: the hashes of the lines in their place, as they come.
    row: (u64, Vec<Hash>),
    /// The rows of such tiles, if an anchor may ask for them, and the roots of the others.
    wanted: BTreeSet<u64>,
    pub(super) rows: BTreeMap<u64, Vec<Hash>>,
    pub(super) roots: BTreeMap<u64, Hash>,
    /// The line from which on nothing is placed any more.
    pub(super) left_out: Option<(usize, u64)>,
}

impl<'a> Mapping<'a> {
    /// `wanted`: the tiles whose rows are kept.
    pub(super) fn new(stored: &'a mut Stored, wanted: BTreeSet<u64>, limits: Limits) -> Self {
        let (rows, roots) = (BTreeMap::new(), BTreeMap::new());
        Self {
            stored,
            limits,
            index: None,
            runs: Vec::new(),
            borders: BTreeSet::new(),
            border: u64::MAX,
            expected: 0,
            strangers: 0,
            pending: Vec::new(),
            kept: 0,
            row: (0, Vec::new()),
            wanted,
            rows,
            roots,
            left_out: None,
        }
    }

    /// Takes the next line.
    pub(super) fn take(&mut self, line: Line) {
        if self.left_out.is_some() {
            return;
        }
        if self.pending.is_empty()
            && self.strangers == 0
            && self.stored.leaf(self.expected) == Some(line.hash)
        {
            return self.push(&line, Some(Found::Entry(self.expected)));
        }
        self.pending.push(line);
        if self.pending.len() >= self.limits.pending {
            self.place();
        }
    }

    /// All lines were taken.
    pub(super) fn finish(&mut self) {
        self.place();
        self.look_everywhere();
    }

    /// Places the lines that wait.
    fn place(&mut self) {
        let lines = std::mem::take(&mut self.pending);
        let mut index = self.index.take().unwrap_or_else(|| Index::new(self.stored, self.limits.samples));
        let near = if index.is_whole() { HashMap::new() } else { self.near() };
        let mut places: Vec<Option<Found>> = Vec::with_capacity(lines.len());
        let (mut expected, mut strangers) = (self.expected, self.strangers);
        for (number, line) in lines.iter().enumerate() {
            let found = self.find(line, expected, strangers, &mut index, &near);
            places.push(found);
            let Some(found) = found else {
                strangers += 1;
                continue;
            };
            (expected, strangers) = (found.next(), 0);
            // Those before it, which are in no index, are found from here.
            let Found::Entry(entry) = found else { continue };
            let before = places.iter_mut().zip(&lines).take(number).rev();
            for ((place, line), entry) in before.zip((0..entry).rev()) {
                if place.is_some() || self.stored.leaf(entry) != Some(line.hash) {
                    break;
                }
                *place = Some(Found::Entry(entry));
            }
        }
        self.index = Some(index);
        for (line, found) in lines.iter().zip(places) {
            self.push(line, found);
        }
        (self.expected, self.strangers) = (expected, strangers);
        // The room is used again.
        self.pending = lines;
        self.pending.clear();
    }

    /// The leaves around the line that is expected, where the index has only some.
    fn near(&mut self) -> HashMap<Hash, u64> {
        let around = 2 * self.limits.pending as u64;
        let near = self.expected.saturating_sub(around)..(self.expected + around).min(self.stored.size);
        near.filter_map(|entry| Some((self.stored.leaf(entry)?, entry))).collect()
    }

    fn find(
        &mut self,
        line: &Line,
        expected: u64,
        strangers: u64,
        index: &mut Index,
        near: &HashMap<Hash, u64>,
    ) -> Option<Found> {
        // Lines before it were changed, or inserted.
        let guesses = [expected + strangers, expected];
        for entry in guesses {
            if self.stored.leaf(entry) == Some(line.hash) {
                return Some(Found::Entry(entry));
            }
        }
        let elsewhere = index.entry(self.stored, &line.hash).or_else(|| near.get(&line.hash).copied());
        if let Some(entry) = elsewhere {
            return Some(Found::Entry(entry));
        }
        let [entry, _] = guesses;
        let is_presumed = entry < self.stored.size && self.stored.leaf(entry).is_none();
        is_presumed.then_some(Found::Presumed(entry))
    }

    /// The next line, and where it is.
    fn push(&mut self, line: &Line, found: Option<Found>) {
        if let Some(found) = found {
            self.expected = found.next();
        }
        if let Some(Found::Presumed(entry)) = found {
            self.presume(entry, line.hash);
        }
        if let Some(run) = self.runs.last_mut()
            && run.file == line.file
            && run.number + run.lines == line.number
        {
            let lines = run.lines;
            let goes_on = match (&mut run.what, found) {
                (What::Entries(first), Some(Found::Entry(entry)))
                | (What::Presumed(first), Some(Found::Presumed(entry))) => {
                    *first + lines == entry && entry != self.border
                }
                (What::Unknown(kept), None) => {
                    if kept.len() as u64 == lines && self.kept < self.limits.unknown {
                        kept.push((line.hash, line.at));
                        self.kept += 1;
                    }
                    true
                }
                _ => false,
            };
            if goes_on {
                run.lines += 1;
                return;
            }
        }
        if self.runs.len() >= self.limits.runs {
            self.left_out.get_or_insert((line.file, line.number));
            return;
        }
        if let Some(run) = self.runs.last()
            && let Some(entry) = run.entry()
        {
            self.borders.extend([entry, entry + run.lines]);
        }
        let what = match found {
            Some(Found::Entry(entry)) => What::Entries(entry),
            Some(Found::Presumed(entry)) => What::Presumed(entry),
            None if self.kept < self.limits.unknown => {
                self.kept += 1;
                What::Unknown(vec![(line.hash, line.at)])
            }
            None => What::Unknown(Vec::new()),
        };
        let run = Run { file: line.file, number: line.number, at: line.at, lines: 1, what };
        let behind = run.entry().and_then(|entry| self.borders.range(entry + 1..).next().copied());
        self.border = behind.unwrap_or(u64::MAX);
        self.runs.push(run);
    }

    /// A line in the place of an entry whose tile cannot be read.
    fn presume(&mut self, entry: u64, hash: Hash) {
        let tile = entry / TILE;
        if entry.is_multiple_of(TILE) {
            self.row = (tile, Vec::new());
        }
        let (number, row) = &mut self.row;
        if *number != tile || row.len() as u64 != entry % TILE {
            return;
        }
        row.push(hash);
        let width = self.stored.tile(0, tile).width;
        if row.len() as u64 == width {
            if let Some(root) = tile_root(row).filter(|_| width == TILE) {
                self.roots.insert(tile, root);
            }
            if width < TILE || self.wanted.contains(&tile) {
                self.rows.insert(tile, std::mem::take(row));
            }
        }
    }

    /// Looks for the lines that have no entry in all of the tree, where the index has not all of it.
    fn look_everywhere(&mut self) {
        if self.kept == 0 || self.index.take().is_none_or(|index| index.is_whole()) {
            return;
        }
        let unknown = self.runs.iter().filter_map(|run| match &run.what {
            What::Unknown(kept) => Some(kept),
            _ => None,
        });
        let mut entries: HashMap<Hash, Option<u64>> =
            unknown.flatten().map(|(hash, _)| (*hash, None)).collect();
        self.stored.for_each_leaf(|entry, hash| {
            if let Some(place) = entries.get_mut(hash) {
                place.get_or_insert(entry);
            }
        });
        let runs = std::mem::take(&mut self.runs);
        // The last line was found just now: what follows it may belong to it.
        let mut is_new = false;
        for run in runs {
            let What::Unknown(kept) = &run.what else {
                match self.runs.last_mut() {
                    Some(last) if is_new && is_followed(last, &run) => last.lines += run.lines,
                    _ => self.runs.push(run),
                }
                is_new = false;
                continue;
            };
            is_new = false;
            let found = |hash: &Hash| entries.get(hash).copied().flatten();
            if kept.iter().all(|(hash, _)| found(hash).is_none()) {
                self.runs.push(run);
                continue;
            }
            let end = run.number + kept.len() as u64;
            let left = run.lines - kept.len() as u64;
            for ((hash, at), number) in kept.iter().zip(run.number..) {
                let line = Line { file: run.file, number, at: *at, hash: *hash };
                self.add(&line, found(hash));
                is_new = found(hash).is_some();
            }
            if left > 0 {
                // Where its first line begins is not known: at the byte of the last one that is.
                let at = kept.last().map_or(run.at, |(_, at)| *at);
                let what = What::Unknown(Vec::new());
                self.runs.push(Run { file: run.file, number: end, at, lines: left, what });
            }
        }
    }

    /// Adds a line that was looked for.
    fn add(&mut self, line: &Line, entry: Option<u64>) {
        let Line { file, number, at, hash } = *line;
        if let Some(run) = self.runs.last_mut()
            && run.file == file
            && run.number + run.lines == number
        {
            match (&mut run.what, entry) {
                (What::Entries(first), Some(entry)) if *first + run.lines == entry => return run.lines += 1,
                (What::Unknown(kept), None) if kept.len() as u64 == run.lines => {
                    kept.push((hash, at));
                    return run.lines += 1;
                }
                _ => {}
            }
        }
        let what = entry.map_or_else(|| What::Unknown(vec![(hash, at)]), What::Entries);
        self.runs.push(Run { file, number, at, lines: 1, what });
    }
}

/// Whether the lines and entries of a run go on in the next.
fn is_followed(run: &Run, next: &Run) -> bool {
    let entries = match (&run.what, &next.what) {
        (What::Entries(first), What::Entries(entry)) => first + run.lines == *entry,
        _ => false,
    };
    entries && run.file == next.file && run.number + run.lines == next.number
}
