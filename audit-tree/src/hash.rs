//! The hashes of RFC 6962, section 2.1.

use sha2::{Digest, Sha256};

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// The hash of an entry.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(entry).finalize().into()
}

/// The hash of what is above two hashes.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    // In one piece, which is hashed without a copy of its first block.
    let mut bytes = [1; 65];
    if let Some((_, hashes)) = bytes.split_first_mut() {
        let (to_left, to_right) = hashes.split_at_mut(32);
        to_left.copy_from_slice(left);
        to_right.copy_from_slice(right);
    }
    Sha256::digest(bytes).into()
}

/// The root of a tree without entries.
pub(crate) fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// What is above a power of two hashes. `None` of another number.
pub fn tile_root(hashes: &[Hash]) -> Option<Hash> {
    if !hashes.len().is_power_of_two() {
        return None;
    }
    let mut row = hashes.to_vec();
    while row.len() > 1 {
        row = row.chunks_exact(2).filter_map(|pair| Some(node_hash(pair.first()?, pair.last()?))).collect();
    }
    row.first().copied()
}
