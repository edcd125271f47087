//! A Merkle tree over the lines of an audit log: hashed as RFC 6962 says, stored as C2SP tlog-tiles, its size and root
//! signed as a C2SP checkpoint (a signed note, Ed25519).
//!
//! # Invariants
//!
//! 1. *An entry is a line without its line end.* Its leaf is `SHA-256(0x00 ‖ line)`, a node `SHA-256(0x01 ‖ left ‖ right)`.
//! 2. *A full tile is never changed*: it has 256 hashes, and what they are of is in the log.
//! 3. *A checkpoint is written after the tiles that it needs*: whoever reads it finds them.
//! 4. *What cannot be read is an error, what is not there is `None`*: neither is taken for the other.
//!
//! docs/audit-proof.md describes the format for somebody who has only the files.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod checkpoint;
mod cosignature;
mod frontier;
mod hash;
mod key;
mod proof;
mod rows;
mod tile;
mod tiles;

pub use checkpoint::{Checkpoint, Invalid};
pub use cosignature::Witness;
pub use frontier::Frontier;
pub use hash::{Hash, leaf_hash, node_hash, tile_root};
pub use key::{KeyError, Signer, Verifier};
pub use proof::Proof;
pub use rows::Rows;
pub use tile::{TILE, Tile};
pub use tiles::Tiles;
