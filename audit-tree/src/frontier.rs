//! The right edge of a tree: of each power of two in its size the root of that many entries. All that its root needs.

use crate::hash::{Hash, empty_root, node_hash};

/// The right edge of a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// By level: the root of 2^level entries where the size has that bit.
    roots: Vec<Option<Hash>>,
}

impl Frontier {
    /// The number of entries.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds an entry.
    pub fn push(&mut self, leaf: Hash) {
        self.push_at(0, leaf, &mut |_, _| {});
    }

    /// Adds 2^level entries with that root; the size has to be a multiple of so many. Each root above it is given to
    /// `above`, with its level.
    pub(crate) fn push_at(&mut self, level: usize, root: Hash, above: &mut impl FnMut(usize, &Hash)) {
        self.size += 1 << level;
        let (mut level, mut root) = (level, root);
        loop {
            if self.roots.len() <= level {
                self.roots.resize(level + 1, None);
            }
            let Some(place) = self.roots.get_mut(level) else { return };
            match place.take() {
                Some(left) => {
                    (root, level) = (node_hash(&left, &root), level + 1);
                    above(level, &root);
                }
                None => {
                    *place = Some(root);
                    return;
                }
            }
        }
    }

    /// The root of the tree.
    pub fn root(&self) -> Hash {
        let roots = self.roots.iter().flatten();
        roots
            .fold(None, |right, left| Some(right.map_or(*left, |right| node_hash(left, &right))))
            .unwrap_or_else(empty_root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leaf_hash;

    /// The definition of RFC 6962.
    fn root_of(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                node_hash(&root_of(left), &root_of(right))
            }
        }
    }

    #[test]
    fn the_root_is_that_of_the_definition() {
        let leaves: Vec<Hash> = (0..300_u32).map(|entry| leaf_hash(&entry.to_be_bytes())).collect();
        let mut frontier = Frontier::default();
        for size in 0..=leaves.len() {
            assert_eq!((frontier.root(), frontier.size()), (root_of(&leaves[..size]), size as u64), "{size}");
            if let Some(leaf) = leaves.get(size) {
                frontier.push(*leaf);
            }
        }
    }

    #[test]
    fn hashes_are_those_that_others_publish() {
        // From the test vectors of certificate-transparency.
        let hex = |hash: Hash| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(empty_root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(hex(leaf_hash(b"")), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
        let mut frontier = Frontier::default();
        frontier.push(leaf_hash(b""));
        frontier.push(leaf_hash(&[0]));
        assert_eq!(hex(frontier.root()), "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125");
    }
}
