//! The tiles of a tree as they are on disk, each read where it is needed.
//!
//! # Invariants
//!
//! 1. *A tile that is short, long or missing is an error, and named*; of a partial tile, one that a later state has left
//!    serves as well.
//! 2. *Memory is bounded*: [`KEPT`] tiles are kept.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use audit_tree::{Hash, TILE, Tile};

/// Tiles that are kept: those around a place of level 0, and the way up from it.
const KEPT: usize = 16;

/// The hashes of a tile, or what is wrong with it.
pub(in super::super) type Row = Result<Vec<Hash>, String>;

/// The tiles of the first `size` entries of a tree.
pub(super) struct Stored {
    folder: PathBuf,
    pub(super) size: u64,
    /// The one that was used last is the last.
    kept: VecDeque<(Tile, Row)>,
}

impl Stored {
    pub(super) fn new(folder: PathBuf, size: u64) -> Self {
        Self { folder, size, kept: VecDeque::with_capacity(KEPT) }
    }

    /// The tile with that number of that level; its width is 0 where the tree has none.
    pub(super) fn tile(&self, level: usize, number: u64) -> Tile {
        let hashes = u32::try_from(8 * level).ok().and_then(|bits| self.size.checked_shr(bits)).unwrap_or(0);
        Tile { level, number, width: TILE.min(hashes.saturating_sub(number.saturating_mul(TILE))) }
    }

    /// Its path, for people.
    pub(super) fn name(&self, tile: Tile) -> String {
        format!("tile {}", tile.path(&self.folder).display())
    }

    /// Its hashes. An error names the tile.
    pub(super) fn row(&mut self, tile: Tile) -> Result<&[Hash], &str> {
        if self.kept.back().is_none_or(|(kept, _)| *kept != tile) {
            let row = match self.kept.iter().position(|(kept, _)| *kept == tile) {
                Some(at) => self.kept.remove(at).map(|(_, row)| row),
                None => None,
            };
            let row = row.unwrap_or_else(|| self.read(tile));
            if self.kept.len() >= KEPT {
                self.kept.pop_front();
            }
            self.kept.push_back((tile, row));
        }
        match self.kept.back() {
            Some((_, Ok(row))) => Ok(row),
            Some((_, Err(why))) => Err(why),
            None => Err("no tile"),
        }
    }

    /// The leaf of an entry of the tree. `None`: its tile cannot be read.
    pub(super) fn leaf(&mut self, entry: u64) -> Option<Hash> {
        let within = usize::try_from(entry % TILE).ok()?;
        let tile = self.tile(0, entry / TILE);
        self.row(tile).ok()?.get(within).copied()
    }

    /// Gives all leaves that can be read to `take`, with their numbers.
    pub(super) fn for_each_leaf(&mut self, mut take: impl FnMut(u64, &Hash)) {
        for number in 0..self.size.div_ceil(TILE) {
            let tile = self.tile(0, number);
            if let Ok(row) = self.read(tile) {
                row.iter().zip(number * TILE..).for_each(|(hash, entry)| take(entry, hash));
            }
        }
    }

    fn read(&self, tile: Tile) -> Row {
        read_tile(&self.folder, tile)
    }
}

/// The hashes of a tile, from its own file or, of a partial one, from one that a later state has left.
pub(in super::super) fn read_tile(folder: &Path, tile: Tile) -> Row {
    let path = tile.path(folder);
    let failed = |why: String| Err(format!("tile {}: {why}", path.display()));
    if tile.width == 0 {
        return failed("the tree has no such tile".to_owned());
    }
    let mut widths = vec![tile.width];
    if let Some(beside) = path.parent().filter(|_| tile.width < TILE) {
        let names = fs::read_dir(beside).into_iter().flatten().flatten();
        let wider = names.filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
        widths.push(TILE);
        widths.extend(wider.filter(|width| *width > tile.width && *width < TILE));
    }
    for width in widths {
        let bytes = match fs::read(Tile { width, ..tile }.path(folder)) {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                continue;
            }
            Err(error) => return failed(error.to_string()),
        };
        let (hashes, rest) = bytes.as_chunks::<32>();
        if hashes.len() as u64 != width || !rest.is_empty() {
            return failed(format!("it has {} bytes, not {}", bytes.len(), 32 * width));
        }
        return Ok(hashes.iter().take(usize::try_from(tile.width).unwrap_or(0)).copied().collect());
    }
    failed("it is missing".to_owned())
}
