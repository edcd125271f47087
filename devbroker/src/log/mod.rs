//! The log: batches in segments in partitions, written by one thread, read by position.

pub(crate) mod batch;
pub(crate) mod compaction;
pub(crate) mod partition;
mod producers;
pub(crate) mod retention;
pub(crate) mod segment;
pub(crate) mod writer;
