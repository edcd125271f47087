//! The consumer runtime: one loop a partition that reads, decodes, deduplicates, handles, dead-letters
//! and commits, as owner or as hot standby. What is done with an event is a [`Handler`], which a [`Service`]
//! makes for each partition: partitions share no lock, and one that waits holds up no other.
//!
//! ```text
//! standby ── claim ──> own:  reader ──> intake: decode → dedup ──> handle (retries) → flush ──> committer
//!    ^                         |            (one batch ahead)         └─ malformed, given up ─> DLQ │
//!    └── fenced, released <────┘                                              offsets topic <───────┘
//! ```
//!
//! # Invariants
//!
//! - *An offset is committed after its work.* A batch ends with [`Handler::flush`], which keeps work and
//!   dedup state, then the progress that the committer may write. What failed is acknowledged by the DLQ before.
//! - *Only what has no effects runs ahead*: the next batch is read, decoded and looked up while one is handled
//!   and made durable ([`intake`]); it is handled when that is done, and forgotten where the partition is lost.
//! - *Every event ends as one of four*: handled, a duplicate, not wanted by this group, or in the DLQ.
//! - *Only an owner with a valid lease handles*, checked before each event and before what was done is made
//!   durable; it stops as well once it sees a newer claim. What it then has in flight is not committed.
//! - *An owner that makes no progress loses its partition*: what hangs is not renewed ([`ownership`]).
//! - *Partitions are shared by giving*: an owner releases what is to be another's to that one, after the event in
//!   flight, and claims nothing that is another's before that one had its turn ([`membership`], [`claims`]).
//! - *A stop leaves nothing claimed*: a claim on its way is waited for, and what is unreleased is released ([`release`]).

mod abort;
mod acknowledged;
mod activity;
mod batch;
mod chunks;
mod claims;
mod committer;
mod consumer;
mod for_each;
mod handler;
mod intake;
mod lease;
mod log_ends;
mod lost_part;
mod member;
mod membership;
mod mirror;
mod opening;
mod own_part;
mod owner;
mod owner_id;
mod ownership;
mod recent;
mod release;
mod shared;
#[cfg(test)]
mod sharing_model;
mod standby;
mod start;
mod stats;
mod status;
mod topics;
mod trouble;
mod twin;
mod worker;

pub use consumer::run;
pub use for_each::{ForEach, for_each};
pub use handler::{Decoder, Delivery, Done, GivenUp, Handler, HandlerError, OwnPosition, Service};
pub use lease::Lease;
pub use shared::ConsumerConfig;
pub use stats::Stats;
pub use status::{PartitionReport, PartitionState, Sharing, Status, StatusReport};
