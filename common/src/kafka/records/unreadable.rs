//! A range of offsets that cannot be read, and why. It takes the place of the records: what is done about it
//! (a retry, a dead letter) is the caller's decision.

use std::fmt;

/// Offsets of a partition whose records cannot be handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The first offset of the range.
    pub first_offset: i64,
    /// The last offset of the range, at least the first.
    pub last_offset: i64,
    /// Milliseconds: the record's time where it is known, else the latest in its batch, -1 for none.
    pub timestamp: i64,
    /// The leader epoch of the batch, -1 where it is not known.
    pub leader_epoch: i32,
    /// Why.
    pub reason: UnreadableReason,
}

/// Why records cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnreadableReason {
    /// One record is larger than [`Limits::record_bytes`](super::Limits::record_bytes).
    #[error("the record has {bytes} bytes, more than the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: usize,
    },
    /// The batch decompresses to more than [`Limits::batch_bytes`](super::Limits::batch_bytes).
    #[error("the batch decompresses to more than the limit of {limit} bytes")]
    BatchTooLarge {
        /// The limit.
        limit: u64,
    },
    /// The CRC-32C does not match the bytes: damaged on the way or on the broker's disk.
    #[error("the checksum of the batch does not match its bytes")]
    Checksum,
    /// The checksum matches or there is none, but the content contradicts itself.
    #[error("the batch is malformed: {0}")]
    Malformed(&'static str),
    /// The compressed bytes cannot be decompressed.
    #[error("the batch cannot be decompressed with {codec}: {message}")]
    Decompression {
        /// The codec that the batch names.
        codec: super::Codec,
        /// What the decompressor found.
        message: String,
    },
    /// A codec that Kafka did not have when this was written.
    #[error("the batch is compressed with the unknown codec {codec}")]
    UnknownCodec {
        /// Its number.
        codec: u8,
    },
    /// A message set from before Kafka 0.11. Kafka 4 no longer has them.
    #[error("the messages have the format {magic} of Kafka before 0.11")]
    OldFormat {
        /// 0 or 1.
        magic: i8,
    },
    /// A format that Kafka did not have when this was written.
    #[error("the batch has the unknown format {magic}")]
    UnknownFormat {
        /// Its number.
        magic: i8,
    },
}

impl UnreadableReason {
    /// Whether the same fetch may bring sound bytes: only then they do not say themselves what they are.
    pub fn may_be_transient(&self) -> bool {
        matches!(self, Self::Checksum | Self::Malformed(_) | Self::UnknownFormat { .. })
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first_offset, last_offset, reason, .. } = self;
        if first_offset == last_offset {
            write!(f, "offset {first_offset} cannot be read: {reason}")
        } else {
            write!(f, "offsets {first_offset} to {last_offset} cannot be read: {reason}")
        }
    }
}

impl std::error::Error for Unreadable {}
