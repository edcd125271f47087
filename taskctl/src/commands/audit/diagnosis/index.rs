//! Which entry a hash is the leaf of, over the whole tree.
//!
//! # Invariants
//!
//! 1. *Memory is bounded*: of a small tree every leaf is in it, of a large one those whose hash ends in so many zero bits.
//!    Which those are, the line says as well as the leaf: of a block of lines that is elsewhere, some are found.
//! 2. *What it answers is so*: a leaf is compared in full.

use audit_tree::Hash;

use super::stored::Stored;

/// Leaves that are kept at most, but for chance.
pub(super) const SAMPLES: u64 = 256 * 1024;

/// Some or all leaves of a tree.
#[derive(Default)]
pub(super) struct Index {
    /// Bits that are zero in the hashes that it has.
    bits: u32,
    /// The first bytes of each hash, and its entry.
    leaves: Vec<(u64, u64)>,
}

fn prefix(hash: &Hash) -> u64 {
    hash.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

impl Index {
    /// Reads all tiles.
    pub(super) fn new(stored: &mut Stored, samples: u64) -> Self {
        let bits = stored.size.div_ceil(samples.max(1)).max(1).next_power_of_two().trailing_zeros();
        let mut leaves = Vec::new();
        stored.for_each_leaf(|entry, hash| {
            if prefix(hash).trailing_zeros() >= bits {
                leaves.push((prefix(hash), entry));
            }
        });
        leaves.sort_unstable();
        Self { bits, leaves }
    }

    /// Whether it has every leaf.
    pub(super) fn is_whole(&self) -> bool {
        self.bits == 0
    }

    /// The first entry with that leaf, if it is one that it has.
    pub(super) fn entry(&self, stored: &mut Stored, hash: &Hash) -> Option<u64> {
        let wanted = prefix(hash);
        if wanted.trailing_zeros() < self.bits {
            return None;
        }
        let first = self.leaves.partition_point(|(prefix, _)| *prefix < wanted);
        let same = self.leaves.iter().skip(first).take_while(|(prefix, _)| *prefix == wanted);
        same.map(|(_, entry)| *entry).find(|entry| stored.leaf(*entry) == Some(*hash))
    }
}
