//! The write-ahead log: a change is on disk here before it is confirmed, read or published.
//!
//! The log is a row of segments, files of one size that are written from front to back. A group of changes is one
//! write and one fdatasync. The database behind the log takes the changes in bulk, later; and the outbox is the
//! log itself: events are read from it until they are delivered.
//!
//! # Format
//!
//! `tasks.log-N` is segment number N, `tasks.log-spare` one that is free. All numbers are little-endian.
//!
//! | segment, offset | bytes | what |
//! | --- | --- | --- |
//! | 0 | 8 | `tasklog1` |
//! | 8 | 16 | id of the store |
//! | 24 | 8 | number of the segment; it is its generation, too |
//! | 32 | 4 | CRC-32C of the 32 bytes before |
//! | 4096 | | frames, one after the other, each at a multiple of 8 |
//!
//! | frame, offset | bytes | what |
//! | --- | --- | --- |
//! | 0 | 4 | length of the payload; 0 where no frame is |
//! | 4 | 4 | CRC-32C of both numbers and the payload, seeded with that of the segment's header |
//! | 8 | 8 | sequence number |
//! | 16 | 8 | sequence number of the first frame of its group |
//! | 24 | | payload: an [operation](super::operation) |
//!
//! # Invariants
//!
//! 1. *Disk first.* What a group says is answered, read and published only after the fdatasync that follows its
//!    write. The order of frames is that of sequence numbers, of versions, of events, and of what is sent to a partition.
//! 2. *What counts.* A frame counts if its length, its checksum and its number, the one after the last, hold. The
//!    first that does not ends the log. Whole frames of the same group may follow: the disk kept the end of a write
//!    and not its beginning. They never count. A whole frame of a later group was written after the missing one was
//!    on disk: that is damage, and the store is not opened. After a start the log goes on in a fresh segment.
//! 3. *A segment has its name once it is whole*: zeroed, with its header, synced; and it is written to once the name
//!    is durable. Its space is used again only when the database has all of it and all its events are delivered.
//!    Numbers only rise, so that frames of a former use never count.
//! 4. *One database.* It holds exactly the changes up to the position that is stored in the same transaction.
//!    A start replays what is after it: at most [`Limits::unapplied_bytes`], however much is stored.
//! 5. *Nothing after a failure.* After a write or fdatasync that failed, nothing more is written to that segment: the
//!    system may call pages clean that are not on disk. The log goes on in another one, from the same sequence
//!    number: frames of the former that have it, or a later one, do not count: none of them was acknowledged.
//! 6. *Read is durable.* What a start finds, it syncs before anybody can read it: the process before may have been
//!    killed between write and sync.

pub(super) mod appender;
pub(super) mod files;
pub(super) mod frame;
pub(super) mod recovery;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use task_events::dedup::Tuning;

/// Where a frame is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) offset: u64,
}

/// Up to where the log was read or applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// The last frame's number; 0 before the first.
    pub(super) seq: u64,
    /// Behind that frame.
    pub(super) end: Place,
}

/// What is bounded, and by how much. Tests have smaller ones.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes of a segment. Making one ahead of time must not keep a disk busy for long, and a start may have to.
    pub(super) segment_bytes: u64,
    /// A group of so many bytes takes no more changes.
    pub(super) group_bytes: usize,
    /// Log that goes into the database as one transaction, in bytes: some 7,000 changes.
    pub(super) generation_bytes: usize,
    /// Log that the database does not have, at most, in bytes; then the writer waits for it. Reading so much back
    /// takes some 20 ms.
    pub(super) unapplied_bytes: usize,
    /// What the index of idempotency keys may use.
    pub(super) answers: Tuning,
    /// A mistake that the power-cut tests have to find.
    #[cfg(test)]
    pub(super) planted: Option<Planted>,
}

/// Mistakes that tests plant.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Planted {
    /// Groups are not synced.
    NoSync,
    /// A segment gets its name before it is synced.
    NameFirst,
    /// Checksums are not looked at.
    AnyFrame,
    /// The position is stored in a transaction of its own, before the changes.
    PositionApart,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            segment_bytes: 4 << 20,
            group_bytes: 1 << 20,
            generation_bytes: 4 << 20,
            unapplied_bytes: 16 << 20,
            answers: Tuning::default(),
            #[cfg(test)]
            planted: None,
        }
    }
}

#[cfg(test)]
impl Limits {
    pub(super) fn plants(&self, mistake: Planted) -> bool {
        self.planted == Some(mistake)
    }
}
