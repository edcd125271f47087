//! Whether a tile is what it was, or what is below or above it: each tile is held against the hash that the tile above it
//! has of it, from the checkpoint's root down.
//!
//! # Invariants
//!
//! 1. *What leads to the root is right*: a tile that does; else the one that does with what its lines, or the tiles below
//!    it, have in the places where they differ. So a changed tile is distinguished from a changed line.
//! 2. *Where nothing leads there, it is said*, and what is stored is gone on with.
//! 3. *Memory is bounded*: of tiles that are right as they are stored nothing is kept; of others, above the leaves, their rows,
//!    and of leaves those that an anchor may ask for.

use std::collections::{BTreeMap, BTreeSet};

use audit_tree::{Hash, Rows, TILE, Tile, tile_root};

use super::stored::Stored;

/// Ways in which a tile is put together from what is stored and what is below it, before it is given up.
const MAX_WAYS: usize = 256;

/// What the lines say of the tiles of level 0.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Entries that have a line in their place, which is not their leaf.
    pub(super) other: BTreeMap<u64, Hash>,
    /// Of tiles that cannot be read: the hashes of the lines in their place, or what is above these.
    pub(super) rows: BTreeMap<u64, Vec<Hash>>,
    pub(super) roots: BTreeMap<u64, Hash>,
}

/// What is wrong with a tile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// Hashes of it are not what they were: these.
    Changed(Vec<u64>),
    /// It cannot be read, and what is below it is right.
    Unreadable(String),
    /// It does not lead to what is above it, nor does what is below it.
    Unfit,
    /// It cannot be read, and what is below it is not what it was, or not known.
    Lost(String),
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// What is above all is not the checkpoint's root.
    pub(super) root_differs: bool,
    pub(super) tiles: Vec<(Tile, Fault)>,
    /// Entries whose line is right, and whose leaf was changed.
    pub(super) right: BTreeSet<u64>,
    rows: BTreeMap<Tile, Vec<Hash>>,
    /// Tiles of leaves that are not known.
    unknown: BTreeSet<u64>,
}

/// Holds a tree against its checkpoint's root, and against lines. Rows of leaves are kept of the tiles that are wanted.
pub(super) fn judge(stored: &mut Stored, root: &Hash, lines: &Lines, wanted: &BTreeSet<u64>) -> Verdict {
    let mut judge = Judge { stored, lines, wanted, verdict: Verdict::default() };
    judge.partial_tiles(root);
    judge.verdict
}

struct Judge<'a> {
    stored: &'a mut Stored,
    lines: &'a Lines,
    wanted: &'a BTreeSet<u64>,
    verdict: Verdict,
}

impl Judge<'_> {
    /// The tiles that the root is computed from, all at once, and what is below them.
    fn partial_tiles(&mut self, root: &Hash) {
        let size = self.stored.size;
        let tiles: Vec<Tile> = Tile::partials(size).collect();
        let rows = |hashes: &[Hash]| {
            let (mut rows, mut rest) = (Vec::new(), hashes);
            for tile in &tiles {
                let (row, behind) = rest.split_at_checked(usize::try_from(tile.width).ok()?)?;
                rows.resize(tile.level, Vec::new());
                rows.push(row.to_vec());
                rest = behind;
            }
            Some(rows)
        };
        let leads_to_root = |hashes: &[Hash]| {
            rows(hashes).and_then(|rows| Rows::restore(size, rows)).is_some_and(|rows| rows.root() == *root)
        };
        let stored: Vec<Option<Hash>> = tiles.iter().flat_map(|tile| self.row_or_none(*tile)).collect();
        let below = |judge: &mut Self| tiles.iter().flat_map(|tile| judge.below(*tile)).collect();
        let right = self.reconcile(&stored, below, leads_to_root);
        self.verdict.root_differs = right.is_err();
        let right = right.unwrap_or_else(|guess| guess);
        let mut rest = right.as_slice();
        for tile in &tiles {
            let width = usize::try_from(tile.width).unwrap_or(0).min(rest.len());
            let (row, behind) = rest.split_at(width);
            rest = behind;
            // Where nothing leads to the root, a tile that can be read is not blamed for it.
            self.settle(*tile, row, !self.verdict.root_differs);
        }
    }

    /// A tile whose row is known by now, and what is below it. `is_sure`: it leads to what is above it.
    fn settle(&mut self, tile: Tile, right: &[Hash], is_sure: bool) {
        let fault = match self.stored.row(tile) {
            Ok(stored) => {
                let differ = stored.iter().zip(right).zip(0..).filter(|((stored, right), _)| stored != right);
                let differ: Vec<u64> = differ.map(|(_, number)| number).collect();
                (!differ.is_empty()).then_some(Fault::Changed(differ))
            }
            Err(why) if is_sure => Some(Fault::Unreadable(why.to_owned())),
            Err(why) => Some(Fault::Lost(why.to_owned())),
        };
        if let Some(fault) = fault {
            if tile.level == 0
                && let Fault::Changed(numbers) = &fault
            {
                self.verdict.right.extend(numbers.iter().map(|number| tile.number * TILE + number));
            }
            if tile.level == 0 && matches!(fault, Fault::Lost(_)) {
                self.verdict.unknown.insert(tile.number);
            }
            if tile.level > 0 || tile.width < TILE || self.wanted.contains(&tile.number) {
                self.verdict.rows.insert(tile, right.to_vec());
            }
            self.verdict.tiles.push((tile, fault));
        }
        if let Some(level) = tile.level.checked_sub(1) {
            for (hash, number) in right.iter().zip(tile.number * TILE..) {
                self.full_tile(Tile { level, number, width: TILE }, hash);
            }
        }
    }

    /// A full tile, of which the tile above it has that hash.
    fn full_tile(&mut self, tile: Tile, above: &Hash) {
        let leads_there = |row: &[Hash]| tile_root(row).as_ref() == Some(above);
        if tile.level > 0
            || self.lines.other.range(tile.number * TILE..(tile.number + 1) * TILE).next().is_some()
        {
            let stored = self.row_or_none(tile);
            return match self.reconcile(&stored, |judge| judge.below(tile), leads_there) {
                Ok(right) => self.settle(tile, &right, true),
                Err(guess) => self.unfit(tile, &guess),
            };
        }
        match self.stored.row(tile) {
            Ok(row) if leads_there(row) => {}
            Ok(row) => {
                let row = row.to_vec();
                self.unfit(tile, &row);
            }
            Err(_) => {
                let row = self.lines.rows.get(&tile.number).cloned();
                if self.lines.roots.get(&tile.number) == Some(above) {
                    return self.settle(tile, &row.unwrap_or_default(), true);
                }
                self.unfit(tile, &row.unwrap_or_default());
            }
        }
    }

    /// A tile that does not lead to what is above it, whatever is put in it.
    fn unfit(&mut self, tile: Tile, guess: &[Hash]) {
        if self.stored.row(tile).is_ok() {
            self.verdict.tiles.push((tile, Fault::Unfit));
            if tile.level == 0 {
                self.verdict.unknown.insert(tile.number);
                return;
            }
        }
        self.settle(tile, guess, false);
    }

    fn row_or_none(&mut self, tile: Tile) -> Vec<Option<Hash>> {
        match self.stored.row(tile) {
            Ok(row) => row.iter().copied().map(Some).collect(),
            Err(_) => vec![None; usize::try_from(tile.width).unwrap_or(0)],
        }
    }

    /// For each hash of a tile what it has to be by what is below it: nothing, if that is not known.
    fn below(&mut self, tile: Tile) -> Vec<Vec<Hash>> {
        let numbers = tile.number * TILE..tile.number * TILE + tile.width;
        match tile.level.checked_sub(1) {
            Some(level) => numbers.map(|number| self.roots(Tile { level, number, width: TILE })).collect(),
            None => {
                let row = self.lines.rows.get(&tile.number);
                let in_row = |entry: u64| row?.get(usize::try_from(entry % TILE).ok()?);
                let of_line = |entry: u64| self.lines.other.get(&entry).or_else(|| in_row(entry));
                numbers.map(|entry| of_line(entry).copied().into_iter().collect()).collect()
            }
        }
    }

    /// What may be above a full tile.
    fn roots(&mut self, tile: Tile) -> Vec<Hash> {
        let stored = self.stored.row(tile).ok().and_then(tile_root);
        let from_below = if tile.level == 0 {
            let below = self.lines.other.range(tile.number * TILE..(tile.number + 1) * TILE);
            let mut row = self.stored.row(tile).map(<[Hash]>::to_vec).unwrap_or_default();
            let mut differs = false;
            for (entry, hash) in below {
                if let Some(place) = usize::try_from(entry % TILE).ok().and_then(|place| row.get_mut(place)) {
                    (*place, differs) = (*hash, true);
                }
            }
            let root = self.lines.roots.get(&tile.number).copied();
            root.or_else(|| tile_root(&row).filter(|_| differs))
        } else if stored.is_none() {
            let row: Option<Vec<Hash>> =
                self.below(tile).iter().map(|known| known.first().copied()).collect();
            row.and_then(|row| tile_root(&row))
        } else {
            None
        };
        stored.into_iter().chain(from_below).collect()
    }

    /// The hashes that lead to where they have to: what is stored, or with what is below in places where it differs.
    /// If none do: what is stored, as far as it can be read.
    fn reconcile(
        &mut self,
        stored: &[Option<Hash>],
        below: impl FnOnce(&mut Self) -> Vec<Vec<Hash>>,
        leads_there: impl Fn(&[Hash]) -> bool,
    ) -> Result<Vec<Hash>, Vec<Hash>> {
        if let Some(row) = stored.iter().copied().collect::<Option<Vec<Hash>>>()
            && leads_there(&row)
        {
            return Ok(row);
        }
        let below = below(self);
        // Of each place what may be in it, what is stored before the others.
        let choices = stored.iter().zip(below).map(|(stored, below)| match stored {
            Some(stored) if below.contains(stored) => vec![*stored],
            _ => stored.iter().copied().chain(below).collect(),
        });
        let choices: Vec<Vec<Hash>> = choices.collect();
        let first: Vec<Hash> = choices.iter().map(|of| of.first().copied().unwrap_or_default()).collect();
        if choices.iter().any(Vec::is_empty) {
            return Err(first);
        }
        let open: Vec<(usize, &Vec<Hash>)> =
            choices.iter().enumerate().filter(|(_, of)| of.len() > 1).collect();
        let ways = open.iter().try_fold(1_usize, |ways, (_, of)| ways.checked_mul(of.len()));
        if let Some(ways) = ways.filter(|ways| *ways <= MAX_WAYS) {
            for way in 0..ways {
                let (mut row, mut way) = (first.clone(), way);
                for (place, of) in &open {
                    let hash = of.get(way % of.len()).copied();
                    way /= of.len();
                    if let (Some(place), Some(hash)) = (row.get_mut(*place), hash) {
                        *place = hash;
                    }
                }
                if leads_there(&row) {
                    return Ok(row);
                }
            }
            return Err(first);
        }
        // Too many: all as it is below.
        let last: Vec<Hash> = choices.iter().map(|of| of.last().copied().unwrap_or_default()).collect();
        if leads_there(&last) { Ok(last) } else { Err(first) }
    }
}

impl Verdict {
    /// The row of a tile, as it is right.
    fn row(&self, stored: &mut Stored, tile: Tile) -> Option<Vec<Hash>> {
        if tile.level == 0 && self.unknown.contains(&tile.number) {
            return None;
        }
        let known = self.rows.get(&tile).filter(|row| row.len() as u64 == tile.width).cloned();
        known.or_else(|| stored.row(tile).ok().map(<[Hash]>::to_vec))
    }

    /// The end of the tree.
    pub(super) fn end(&self, stored: &mut Stored) -> Option<Rows> {
        let size = stored.size;
        let mut rows = Vec::new();
        for tile in Tile::partials(size) {
            rows.resize(tile.level, Vec::new());
            rows.push(self.row(stored, tile)?);
        }
        Rows::restore(size, rows)
    }

    /// The root of the first entries. `None`: it is not known.
    pub(super) fn root_at(&self, stored: &mut Stored, size: u64) -> Option<Hash> {
        let mut rows = Vec::new();
        for level in 0..8 {
            let hashes = size.checked_shr(8 * u32::try_from(level).ok()?).unwrap_or(0);
            let mut row = Vec::new();
            if !hashes.is_multiple_of(TILE) {
                row = self.row(stored, stored.tile(level, hashes / TILE))?;
                row.truncate(usize::try_from(hashes % TILE).ok()?);
            }
            rows.push(row);
        }
        Some(Rows::restore(size, rows)?.root())
    }
}
