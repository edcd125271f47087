//! The log: batches in segments in partitions, written by one thread, read by position.

mod append;
pub(crate) mod compaction;
mod compaction_state;
pub(crate) mod epochs;
pub(crate) mod marker;
pub(crate) mod partition;
pub(crate) mod producers;
mod read;
mod recovery;
pub(crate) mod retention;
pub(crate) mod segment;
mod state;
mod truncate;
pub(crate) mod writer;
