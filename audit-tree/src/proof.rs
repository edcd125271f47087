//! That an entry is in a tree (RFC 9162, section 2.1.3).

use crate::hash::{Hash, node_hash};

/// The way from an entry to the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The entry's number; the first is 0.
    pub index: u64,
    /// The hashes beside the way.
    pub path: Vec<Hash>,
}

impl Proof {
    /// The root to which the way leads in a tree of that size. `None`: no way in such a tree looks like this.
    pub fn root(&self, size: u64, leaf: Hash) -> Option<Hash> {
        if self.index >= size {
            return None;
        }
        let (mut number, mut last, mut hash) = (self.index, size - 1, leaf);
        for beside in &self.path {
            if last == 0 {
                return None;
            }
            if number & 1 == 1 || number == last {
                hash = node_hash(beside, &hash);
                while number & 1 == 0 && number != 0 {
                    (number, last) = (number >> 1, last >> 1);
                }
            } else {
                hash = node_hash(&hash, beside);
            }
            (number, last) = (number >> 1, last >> 1);
        }
        (last == 0).then_some(hash)
    }
}
