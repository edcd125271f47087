//! Reads the tiles of a tree.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::frontier::Frontier;
use crate::hash::{Hash, node_hash, tile_root};
use crate::rows::Rows;
use crate::tile::{TILE, Tile};

/// The tiles of a tree of some size, in a folder.
#[derive(Debug)]
pub struct Tiles {
    folder: PathBuf,
    size: u64,
    /// The tile of level 0 that was read last, and of the others.
    last: Vec<Option<(Tile, Vec<Hash>)>>,
}

impl Tiles {
    /// Those of the first `size` entries of the tree in that folder.
    pub fn new(folder: &Path, size: u64) -> Self {
        Self { folder: folder.to_owned(), size, last: vec![None; 8] }
    }

    /// The number of entries.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The leaf of an entry.
    pub fn leaf(&mut self, index: u64) -> io::Result<Hash> {
        let number = index / TILE;
        let tile = Tile { level: 0, number, width: TILE.min(self.size.saturating_sub(number * TILE)) };
        let within = usize::try_from(index % TILE).unwrap_or(0);
        let leaf = self.read(tile)?.get(within).copied();
        leaf.ok_or_else(|| io::Error::other(format!("entry {index} is not in the tree")))
    }

    /// The end of the tree, from its partial tiles.
    pub fn rows(&mut self) -> io::Result<Rows> {
        let mut rows = Vec::new();
        for tile in Tile::partials(self.size) {
            rows.resize(tile.level, Vec::new());
            rows.push(self.read(tile)?.to_vec());
        }
        Rows::restore(self.size, rows)
            .ok_or_else(|| io::Error::other("its partial tiles do not fit its size"))
    }

    /// The root of the first `size` entries.
    pub fn root_at(&mut self, size: u64) -> io::Result<Hash> {
        let mut frontier = Frontier::default();
        let mut start = 0;
        for level in (0..u64::BITS as usize).rev().filter(|level| size >> level & 1 == 1) {
            frontier.push_at(level, self.node(level, start >> level)?, &mut |_, _| {});
            start += 1 << level;
        }
        Ok(frontier.root())
    }

    /// The hashes that lead from an entry to the root of the whole tree (RFC 6962, section 2.1.1).
    pub fn inclusion(&mut self, index: u64) -> io::Result<Vec<Hash>> {
        if index >= self.size {
            return Err(io::Error::other(format!("entry {index} of {}", self.size)));
        }
        let (mut start, mut end) = (0, self.size);
        let mut path = Vec::new();
        while end - start > 1 {
            let middle = start + (end - start).next_power_of_two() / 2;
            if index < middle {
                path.push(self.range(middle, end)?);
                end = middle;
            } else {
                path.push(self.range(start, middle)?);
                start = middle;
            }
        }
        path.reverse();
        Ok(path)
    }

    /// The hashes that show that the tree of the first `old` entries is the beginning of this one (RFC 6962, section 2.1.2).
    pub fn consistency(&mut self, old: u64) -> io::Result<Vec<Hash>> {
        if old > self.size {
            return Err(io::Error::other(format!("{old} entries of {}", self.size)));
        }
        let (mut start, mut end) = (0, self.size);
        let mut path = Vec::new();
        // Down to the subtree that ends where the old tree does.
        while old > 0 && end > old {
            let middle = start + (end - start).next_power_of_two() / 2;
            if old <= middle {
                path.push(self.range(middle, end)?);
                end = middle;
            } else {
                path.push(self.range(start, middle)?);
                start = middle;
            }
        }
        // The whole old tree is known to whoever asks.
        if start > 0 {
            path.push(self.range(start, end)?);
        }
        path.reverse();
        Ok(path)
    }

    /// The root of some entries, which are a subtree or the end of one.
    fn range(&mut self, start: u64, end: u64) -> io::Result<Hash> {
        let count = end - start;
        if count.is_power_of_two() {
            let level = count.trailing_zeros();
            return self.node(level as usize, start >> level);
        }
        let middle = start + count.next_power_of_two() / 2;
        let (left, right) = (self.range(start, middle)?, self.range(middle, end)?);
        Ok(node_hash(&left, &right))
    }

    /// The node of that level with that number.
    fn node(&mut self, level: usize, number: u64) -> io::Result<Hash> {
        let (tile_level, within) = (level / 8, level % 8);
        let first = number << within;
        let hashes = self.size.checked_shr(8 * tile_level as u32).unwrap_or(0);
        let tile = Tile { level: tile_level, number: first / TILE, width: TILE };
        let width = TILE.min(hashes.saturating_sub(tile.number * TILE));
        let from = usize::try_from(first % TILE).unwrap_or(0);
        let row = self.read(Tile { width, ..tile })?;
        let part = row.get(from..from + (1 << within)).and_then(tile_root);
        part.ok_or_else(|| io::Error::other(format!("node {number} of level {level} is not in the tree")))
    }

    /// The hashes of a tile. Of a partial one those of a later state serve as well.
    fn read(&mut self, tile: Tile) -> io::Result<&[Hash]> {
        let cached =
            self.last.get(tile.level).and_then(Option::as_ref).is_some_and(|(last, _)| *last == tile);
        if !cached {
            let hashes = read_tile(&self.folder, tile)?;
            if let Some(place) = self.last.get_mut(tile.level) {
                *place = Some((tile, hashes));
            }
        }
        let hashes = self.last.get(tile.level).and_then(Option::as_ref).map(|(_, hashes)| hashes.as_slice());
        hashes.ok_or_else(|| io::Error::other(format!("no tile has level {}", tile.level)))
    }
}

/// Reads the hashes of a tile: that many of the full one, or of a partial one that has them.
fn read_tile(folder: &Path, tile: Tile) -> io::Result<Vec<Hash>> {
    let width = usize::try_from(tile.width).unwrap_or(0);
    let mut paths = vec![tile.path(folder), tile.full().path(folder)];
    if let Some(beside) = paths.first().and_then(|path| path.parent()).filter(|_| tile.width < TILE) {
        // What the service has written since.
        let names = fs::read_dir(beside).into_iter().flatten().flatten();
        let widths = names.filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
        paths.extend(
            widths.filter(|width| *width > tile.width).map(|width| Tile { width, ..tile }.path(folder)),
        );
    }
    for path in &paths {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                continue;
            }
            Err(error) => return Err(named(path, &error)),
        };
        let (hashes, rest) = bytes.as_chunks::<32>();
        return match hashes.get(..width) {
            Some(hashes) if rest.is_empty() => Ok(hashes.to_vec()),
            _ => Err(named(
                path,
                &io::Error::other(format!("it has {} bytes, not {} or more", bytes.len(), 32 * width)),
            )),
        };
    }
    let missing = io::Error::from(io::ErrorKind::NotFound);
    Err(named(&tile.path(folder), &missing))
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("tile {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Proof, leaf_hash};

    fn write(folder: &Path, tile: Tile, hashes: &[Hash]) {
        let path = tile.path(folder);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, hashes.concat()).unwrap();
    }

    /// The check of RFC 9162, section 2.1.4.2.
    fn is_consistent(
        (first, first_root): (u64, Hash),
        (second, second_root): (u64, Hash),
        path: &[Hash],
    ) -> bool {
        if first == second || first == 0 {
            return path.is_empty() && (first == 0 || first_root == second_root);
        }
        let whole: Vec<Hash> = if first.is_power_of_two() { vec![first_root] } else { Vec::new() }
            .into_iter()
            .chain(path.to_vec())
            .collect();
        let (mut number, mut last) = (first - 1, second - 1);
        while number & 1 == 1 {
            (number, last) = (number >> 1, last >> 1);
        }
        let Some((start, rest)) = whole.split_first() else { return false };
        let (mut old, mut new) = (*start, *start);
        for hash in rest {
            if last == 0 {
                return false;
            }
            if number & 1 == 1 || number == last {
                (old, new) = (node_hash(hash, &old), node_hash(hash, &new));
                while number & 1 == 0 && number != 0 {
                    (number, last) = (number >> 1, last >> 1);
                }
            } else {
                new = node_hash(&new, hash);
            }
            (number, last) = (number >> 1, last >> 1);
        }
        last == 0 && old == first_root && new == second_root
    }

    #[test]
    fn every_earlier_tree_is_shown_to_be_the_beginning_of_this_one() {
        for size in [1_u64, 2, 3, 7, 8, 255, 256, 257, 600] {
            let folder = tempfile::tempdir().unwrap();
            let mut rows = Rows::default();
            let mut roots = vec![rows.root()];
            for entry in 0..size {
                rows.push(leaf_hash(&entry.to_be_bytes()), &mut |tile, hashes| {
                    write(folder.path(), tile, hashes)
                });
                roots.push(rows.root());
            }
            rows.partials().for_each(|(tile, hashes)| write(folder.path(), tile, hashes));
            let mut tiles = Tiles::new(folder.path(), size);
            let new = (size, rows.root());
            for old in 0..=size {
                let path = tiles.consistency(old).unwrap();
                let root = roots[old as usize];
                assert!(is_consistent((old, root), new, &path), "{old} of {size}");
                if old > 0 {
                    assert!(!is_consistent((old, [9; 32]), new, &path), "{old} of {size}");
                    assert!(!is_consistent((old, root), (size, [9; 32]), &path), "{old} of {size}");
                }
            }
            assert!(tiles.consistency(size + 1).is_err());
        }
    }

    #[test]
    fn every_entry_is_proved_and_every_earlier_root_is_known_around_the_borders_of_tiles() {
        let leaf = |entry: u64| leaf_hash(&entry.to_be_bytes());
        for size in [1_u64, 2, 3, 255, 256, 257, 65_535, 65_536, 65_537, 66_000] {
            let folder = tempfile::tempdir().unwrap();
            let mut rows = Rows::default();
            let mut roots = vec![rows.root()];
            for entry in 0..size {
                rows.push(leaf(entry), &mut |tile, hashes| write(folder.path(), tile, hashes));
                roots.push(rows.root());
            }
            rows.partials().for_each(|(tile, hashes)| write(folder.path(), tile, hashes));
            let mut tiles = Tiles::new(folder.path(), size);
            assert_eq!(tiles.rows().unwrap(), rows);
            let near = [0, 1, 2, 63, 64, 65, 127, 128, 254, 255, 256, 257, 511, 512, 65_534, 65_535, 65_536];
            let ends = [size / 2, size - 1];
            for index in near.into_iter().chain(ends).filter(|index| *index < size) {
                assert_eq!(tiles.leaf(index).unwrap(), leaf(index), "{index} of {size}");
                let path = tiles.inclusion(index).unwrap();
                let proof = Proof { index, path };
                assert_eq!(proof.root(size, leaf(index)), Some(rows.root()), "{index} of {size}");
                assert_ne!(proof.root(size, leaf(index + 1)), Some(rows.root()));
                assert_eq!(tiles.root_at(index + 1).unwrap(), roots[index as usize + 1], "{index} of {size}");
            }
            assert_eq!(tiles.root_at(0).unwrap(), roots[0]);
            assert!(
                tiles.inclusion(size).is_err()
                    && tiles.leaf(size).is_err()
                    && tiles.root_at(size + 1).is_err()
            );
        }
    }

    #[test]
    fn a_tile_that_is_missing_short_or_unreadable_is_an_error_and_a_later_one_serves() {
        let folder = tempfile::tempdir().unwrap();
        let hashes: Vec<Hash> = (0..9_u8).map(|entry| leaf_hash(&[entry])).collect();
        let tile = |width| Tile { level: 0, number: 0, width };
        let missing = Tiles::new(folder.path(), 7).leaf(0).unwrap_err();
        assert!(
            missing.kind() == io::ErrorKind::NotFound && missing.to_string().contains("tile/0/000.p/7"),
            "{missing}"
        );
        write(folder.path(), tile(9), &hashes);
        assert_eq!(Tiles::new(folder.path(), 7).leaf(6).unwrap(), hashes[6]);
        fs::write(tile(9).path(folder.path()), &hashes.concat()[..100]).unwrap();
        assert!(Tiles::new(folder.path(), 7).leaf(0).unwrap_err().to_string().contains("100 bytes"));
    }
}
