//! The 61 bytes before a batch's records. The CRC covers everything from the attributes on, so a broker can
//! assign the base offset and the leader epoch without computing it again.

use bytes::Buf;

use super::compression::Codec;
use super::unreadable::UnreadableReason;

/// Bytes of a batch before its first record.
pub const HEADER_BYTES: usize = 61;
/// Bytes before the part that the length field counts: base offset and the length itself.
pub const PREFIX_BYTES: usize = 12;
/// The format that this module reads.
pub(super) const MAGIC: i8 = 2;
/// Where the CRC is, and what it covers.
pub(super) const CRC_AT: usize = 17;
pub(super) const CRC_FROM: usize = 21;

const CODEC_MASK: i16 = 0b111;
pub(super) const LOG_APPEND_TIME: i16 = 1 << 3;
pub(super) const TRANSACTIONAL: i16 = 1 << 4;
pub(super) const CONTROL: i16 = 1 << 5;
pub(super) const DELETE_HORIZON: i16 = 1 << 6;

/// The fixed fields of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// The offset of the first record that the producer put in.
    pub base_offset: i64,
    /// Bytes after the prefix.
    pub length: i32,
    /// The epoch of the leader that appended the batch, -1 for none.
    pub leader_epoch: i32,
    /// The format.
    pub magic: i8,
    /// The checksum, CRC-32C.
    pub crc: u32,
    /// Codec, timestamp type and flags; see the methods.
    pub attributes: i16,
    /// The last offset, relative to the base. Compaction keeps it when it removes the last record.
    pub last_offset_delta: i32,
    /// Milliseconds, from which the records' deltas count; with a delete horizon, the horizon.
    pub base_timestamp: i64,
    /// Milliseconds.
    pub max_timestamp: i64,
    /// The idempotent or transactional producer, -1 for none.
    pub producer_id: i64,
    /// The producer's epoch.
    pub producer_epoch: i16,
    /// The sequence number of the first record.
    pub base_sequence: i32,
    /// Number of records.
    pub count: i32,
}

impl BatchHeader {
    /// The header at the start of `bytes`; `None` when it is cut or is none.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        Self::read(bytes).filter(|header| header.check().is_ok())
    }

    /// The fields as they are.
    pub(super) fn read(mut bytes: &[u8]) -> Option<Self> {
        Some(Self {
            base_offset: bytes.try_get_i64().ok()?,
            length: bytes.try_get_i32().ok()?,
            leader_epoch: bytes.try_get_i32().ok()?,
            magic: bytes.try_get_i8().ok()?,
            crc: bytes.try_get_u32().ok()?,
            attributes: bytes.try_get_i16().ok()?,
            last_offset_delta: bytes.try_get_i32().ok()?,
            base_timestamp: bytes.try_get_i64().ok()?,
            max_timestamp: bytes.try_get_i64().ok()?,
            producer_id: bytes.try_get_i64().ok()?,
            producer_epoch: bytes.try_get_i16().ok()?,
            base_sequence: bytes.try_get_i32().ok()?,
            count: bytes.try_get_i32().ok()?,
        })
    }

    /// Whether the fields are those of a batch.
    pub(super) fn check(&self) -> Result<(), UnreadableReason> {
        let malformed = |what| Err(UnreadableReason::Malformed(what));
        match self.magic {
            MAGIC => {}
            magic @ (0 | 1) => return Err(UnreadableReason::OldFormat { magic }),
            magic => return Err(UnreadableReason::UnknownFormat { magic }),
        }
        if self.size() < HEADER_BYTES {
            return malformed("its length is below that of its header");
        }
        if self.base_offset < 0 || self.last_offset_delta < 0 {
            return malformed("an offset is negative");
        }
        if self.last_offset() == i64::MAX {
            return malformed("its last offset exceeds 64 bits");
        }
        Ok(())
    }

    /// Whether its offsets are enough for its records.
    pub(super) fn check_count(&self) -> Result<(), UnreadableReason> {
        if self.count < 0 || i64::from(self.count) > i64::from(self.last_offset_delta) + 1 {
            return Err(UnreadableReason::Malformed("the number of records does not fit its offsets"));
        }
        Ok(())
    }

    /// Bytes of the whole batch; below those of a header when the length is wrong.
    pub fn size(&self) -> usize {
        PREFIX_BYTES + usize::try_from(self.length).unwrap_or(0)
    }

    /// The last offset of the batch, which may hold no record any more.
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }

    /// Where the next batch may start.
    pub fn next_offset(&self) -> i64 {
        self.last_offset().saturating_add(1)
    }

    /// How the records are compressed; the number of a codec that is not known.
    pub fn codec(&self) -> Result<Codec, u8> {
        let number = (self.attributes & CODEC_MASK) as u8;
        Codec::from_number(number).ok_or(number)
    }

    /// Whether the records have to be decompressed.
    pub fn is_compressed(&self) -> bool {
        self.codec() != Ok(Codec::None)
    }

    /// Whether the broker's time replaced the producer's: every record then has the largest timestamp.
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }

    /// Whether the records belong to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Whether the batch holds markers of the broker and no records of a producer.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// The time, in milliseconds, from which compaction may remove this batch's tombstones.
    pub fn delete_horizon(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON != 0).then_some(self.base_timestamp)
    }

    /// The timestamp of a record with this delta, as a consumer sees it.
    pub(super) fn timestamp(&self, delta: i64) -> i64 {
        if self.is_log_append_time() { self.max_timestamp } else { self.base_timestamp.saturating_add(delta) }
    }
}

/// Whether the CRC of the batch, which is exactly `batch`, is right.
pub fn crc_matches(header: &BatchHeader, batch: &[u8]) -> bool {
    batch.get(CRC_FROM..).is_some_and(|covered| crc32c::crc32c(covered) == header.crc)
}
