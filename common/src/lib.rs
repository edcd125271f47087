//! The consumer runtime that rskafka lacks, and what the services of task-events share.
//!
//! The parts, in the order in which an event meets them:
//!
//! - [`event`]: the events of a task, as JSON on the wire.
//! - [`kafka`]: a reader and admin client of our own, and rskafka for producing; every call is bounded in time.
//! - [`offsets`]: consumer offsets, ownership and leases in a compacted Kafka topic.
//! - [`dedup`]: the ids of handled events, on disk.
//! - [`runtime`]: reads, decodes, deduplicates, handles, dead-letters and commits. You write a [`runtime::Service`].
//! - [`dlq`]: the record of an event that could not be handled.
//! - [`topics`]: the three topics and their configs.
//! - [`disk`]: what durable state asks of a file system.
//! - [`output`]: lines on stdout that block nobody.
//! - [`config`], [`logging`], [`log_once`], [`metrics`], [`shutdown`], [`state_dir`], [`terminal`],
//!   [`time`]: what every process needs.
//!
//! No crate below this one compiles or links C.

pub mod config;
pub mod dedup;
pub mod disk;
pub mod dlq;
pub mod event;
pub mod kafka;
pub mod log_once;
pub mod logging;
pub mod metrics;
pub mod offsets;
pub mod output;
#[cfg(any(test, fuzzing))]
pub mod properties;
pub mod redrive;
pub mod runtime;
pub mod shutdown;
pub mod state_dir;
pub mod terminal;
pub mod time;
pub mod topics;
