//! A tree that grows: the hashes of each level that are in no full tile yet, and the tiles that get full.

use crate::frontier::Frontier;
use crate::hash::Hash;
use crate::tile::{TILE, Tile};

/// The end of a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    frontier: Frontier,
    rows: Vec<Vec<Hash>>,
}

impl Rows {
    /// The number of entries.
    pub fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// The root of the tree.
    pub fn root(&self) -> Hash {
        self.frontier.root()
    }

    /// The end of a tree of that size whose partial tiles have these hashes, by level. `None`: they are not as many as
    /// it has.
    pub fn restore(size: u64, rows: Vec<Vec<Hash>>) -> Option<Self> {
        let mut frontier = Frontier::default();
        for (level, row) in rows.iter().enumerate().rev() {
            row.iter().for_each(|hash| frontier.push_at(8 * level, *hash, &mut |_, _| {}));
        }
        (frontier.size() == size && rows.iter().all(|row| (row.len() as u64) < TILE))
            .then_some(Self { frontier, rows })
    }

    /// Adds an entry. Each tile that it fills is given to `full`, with its hashes.
    pub fn push(&mut self, leaf: Hash, full: &mut impl FnMut(Tile, &[Hash])) {
        let Self { frontier, rows } = self;
        let (mut level, mut entries) = (0, frontier.size() + 1);
        let mut push = |hash: &Hash| {
            if rows.len() <= level {
                rows.push(Vec::with_capacity(256));
            }
            let Some(row) = rows.get_mut(level) else { return };
            row.push(*hash);
            if (row.len() as u64) == TILE {
                entries /= TILE;
                full(Tile { level, number: entries - 1, width: TILE }, row);
                row.clear();
                level += 1;
            }
        };
        push(&leaf);
        // The root of a full tile is an entry of the row above.
        frontier.push_at(0, leaf, &mut |at, root| {
            if at % 8 == 0 {
                push(root);
            }
        });
    }

    /// The tiles that are not full, with their hashes.
    pub fn partials(&self) -> impl Iterator<Item = (Tile, &[Hash])> {
        let tiles = Tile::partials(self.size());
        tiles.filter_map(|tile| Some((tile, self.rows.get(tile.level)?.as_slice())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leaf_hash;

    #[test]
    fn tiles_fill_up_and_the_end_is_restored_from_the_partial_ones() {
        let mut rows = Rows::default();
        let mut tiles = Vec::new();
        for entry in 0..65_600_u32 {
            rows.push(leaf_hash(&entry.to_be_bytes()), &mut |tile, hashes| {
                assert_eq!(hashes.len(), 256);
                tiles.push(tile);
            });
            let size = rows.size();
            if [1, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 65_600].contains(&size) {
                let mut kept = vec![Vec::new(); 4];
                for (tile, hashes) in rows.partials() {
                    assert_eq!(hashes.len() as u64, tile.width, "{size}: {tile:?}");
                    kept[tile.level] = hashes.to_vec();
                }
                let restored = Rows::restore(size, kept.clone()).unwrap();
                assert_eq!((restored.root(), restored.size()), (rows.root(), size));
                assert_eq!(Rows::restore(size + 1, kept), None);
            }
        }
        assert_eq!(tiles.len(), 256 + 1);
        assert_eq!(tiles[0], Tile { level: 0, number: 0, width: 256 });
        assert_eq!(
            tiles[255..],
            [Tile { level: 0, number: 255, width: 256 }, Tile { level: 1, number: 0, width: 256 }]
        );
    }
}
