//! A disk in memory that records what is written, and brings back every state that a power cut may leave.
//!
//! # The form of a power-cut test
//!
//! 1. Run a workload on a [`SimDisk`], and note with [`SimDisk::now`] at which moment of the recording something was
//!    promised. What was promised, and by when, is the test's [`Subject`].
//! 2. [`SimDisk::cut_everywhere`] cuts the power at each moment. For each state that a cut may leave, the subject is
//!    opened on it, the power is cut once more in the middle of what opening did, and the subject checks whether all
//!    that had been promised by then holds. The first state in which it does not fails the test, and is kept.
//! 3. [`SimDisk::kill_everywhere`] kills the process first, and cuts the power while the next one works.
//! 4. A planted bug, in the program or as a disk [that lies](SimDisk::that_lies_about), is found by
//!    [`SimDisk::cut_until_found`], or the test fails: its checks find nothing.
//!
//! # What a power cut may leave
//!
//! What was synced is there. Of what was not synced, any part may be there: nothing, all, the first
//! operations, all but one, one alone, and a choice for each sector of 512 bytes of how much of what was
//! written to it arrived (drawn by chance, from a seed). One write may be torn, at a sector or at any byte.
//! A file's length may be there before the bytes are: then these are zeros. Files are independent of each
//! other, and so are names of contents: a new, moved or removed name is durable once its folder was synced.
//!
//! States are made for the moments before each sync and for the end. All others are among them: what may be
//! lost between two syncs only grows, and each prefix of what was written is one of the states.
//!
//! # What is assumed of the disk
//!
//! What redb assumes ("Assumptions about underlying media" in its `docs/design.md`): a byte is written whole
//! or not at all, what was synced stays, and a write changes no byte outside of its range. Nothing here is
//! kinder than that.

mod cuts;
mod disk;
mod image;
mod subject;
#[cfg(test)]
mod tests;

pub use cuts::{Cut, Found, Tried};
pub use disk::{SimDisk, SimFile};
pub use redb::StorageBackend;
pub use subject::Subject;
