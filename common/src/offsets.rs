//! Consumer offsets and ownership in a compacted Kafka topic.
//!
//! Every instance of a group reads this topic from its start and follows it. What it knows of a partition
//! is a fold over the records ([`fold`]), the same for all who read as far.
//!
//! | record | key | value |
//! | --- | --- | --- |
//! | claim | `{group}/{topic}/{partition}/claim` | [`Claim`] |
//! | commit | `{group}/{topic}/{partition}/commit/{token}` | [`Commit`] |
//! | member | `{group}/member/{instance_id}` | [`Member`] |
//!
//! **The token** of an owner is the Kafka offset of its claim: unique, rising, given by the broker. The
//! claim with the highest offset owns the partition; a newer claim fences the older ones.
//!
//! # Invariants
//!
//! 1. *One owner.* All who have read to the same offset name the same owner, compacted or not: the latest
//!    claim is the latest record of its key, which compaction keeps.
//! 2. *Nothing is skipped.* The position is the last commit of the highest token that has one. A commit
//!    says that all work below it is done, whoever did it; a late commit of a fenced owner is under the
//!    old token's key and so can neither replace nor, by compaction, remove the new owner's.
//! 3. *Nothing is lost with the old.* An owner tombstones the commits of older tokens only after a commit
//!    of its own is acknowledged, which is before the tombstones in the log.
//! 4. *A start from the end.* A reader acts only on what it knows after it read to the high watermark: a
//!    prefix of a compacted log may lack what a later record says.
//!
//! # Leases
//!
//! An owner renews its lease with each commit, idle or not. It handles events only while a commit (or its
//! claim) that it *sent* less than a lease ago was acknowledged. A standby claims when it has itself seen
//! no record of the owner for a lease, in which it would have seen one: a time in which it read nothing does not count
//! (`contact`). Both count on their own monotonic clock, and the owner's count
//! starts before the standby's: the record is sent before it is seen. So when the standby's has run out,
//! the owner's has too.
//!
//! # Sharing
//!
//! The members of a group share its partitions. Each computes the same target from the same records
//! ([`assignor`], [`roster`]).
//!
//! 5. *The owner gives, nobody takes from the living.* An owner whose partition is to be another's releases it to
//!    that one by name, once who lives has not changed for a while. A free partition is claimed by the named one,
//!    or else by the target, at once; by the others in turn, a third of a lease apart.
//! 6. *A view decides when, never whether.* Instances that see other members, or the same ones later, may move a
//!    partition once more than needed or claim it both; claims, tokens and positions are as they are without.

pub mod assignor;
mod contact;
pub mod fold;
mod follower;
mod log;
mod member;
mod record;
pub mod roster;

pub use follower::{Follower, MemberLife, View};
pub use log::{Claimed, OffsetsLog};
pub use member::{ASSIGNOR, Member};
pub use record::{Claim, Commit, DoneBy, Key, MAX_LEASE_MS, OffsetsRecord, Slot, parse, render_key};
