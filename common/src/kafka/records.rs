//! Kafka's record batch (magic 2): read from a fetch answer, filtered by transaction, written by tests and by
//! the dev broker. The bytes that a producer sends, a broker stores and a fetch returns are the same.
//!
//! - [`Batches`] walks a fetch answer and checks each batch; [`Batch::records`] decodes its records one by one.
//! - [`AbortedTransactions`] leaves out what Kafka's own consumer leaves out with `read_committed`.
//! - [`BatchBuilder`] writes batches, in all five codecs.
//!
//! Invariants:
//! - Bytes from the network never panic, never loop for ever, and never allocate what they merely announce.
//! - Every offset of a batch is returned as a record, reported as [`Unreadable`], or known to hold no record.
//!   Offsets rise strictly.
//! - Records of an uncompressed batch are slices of the answer. A compressed batch is decompressed as a stream:
//!   memory is bounded by [`Limits::record_bytes`] and the codec's window, work by [`Limits::batch_bytes`].

mod batch;
mod compression;
mod encode;
mod header;
mod marker;
mod reader;
mod record;
mod snappy;
mod transactions;
mod unreadable;
mod varint;
mod zstd;

pub use batch::{Batch, Batches, CutBatch};
pub use compression::Codec;
pub use encode::{BatchBuilder, EncodeError, ProducerState, seal, set_log_append_time, set_place};
pub use header::{BatchHeader, HEADER_BYTES, PREFIX_BYTES, crc_matches};
pub use marker::{ControlMarker, Marker};
pub use reader::Records;
pub use record::{ConsumerRecord, Header, Headers};
pub use transactions::AbortedTransactions;
pub use unreadable::{Unreadable, UnreadableReason};

/// How far back compressed bytes may refer. zstd's specification asks every decoder for 8 MiB; the windows of
/// Kafka's clients are smaller (zstd 2 MiB at its usual level, snappy 64 KiB).
const MAX_WINDOW_BYTES: usize = 8 << 20;

/// What decoding one batch may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of one record. A larger one is skipped without being held in memory.
    pub record_bytes: usize,
    /// Most bytes that one batch is decompressed to. What lies behind is not read.
    pub batch_bytes: u64,
}

impl Default for Limits {
    /// A broker takes 1 MiB batches unless configured, 10 MiB in the larger installations; a record of 16 MiB
    /// is read from all of those. 256 MiB is a 1 MiB batch compressed to 0.4 %, and below a second of work.
    fn default() -> Self {
        Self { record_bytes: 16 << 20, batch_bytes: 256 << 20 }
    }
}
