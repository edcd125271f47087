//! The record batch (magic 2): what a producer sends, what lies on disk and what a fetch returns
//! are the same bytes. Only the base offset and the leader epoch are rewritten, which the CRC
//! does not cover.

use std::io::Read;

use bytes::Buf;
use kafka_protocol::error::ResponseError;

/// Bytes of a batch before its first record.
pub(crate) const HEADER_BYTES: usize = 61;
/// Bytes before the part that `length` counts: base offset and the length itself.
pub(crate) const PREFIX_BYTES: usize = 12;
/// The CRC covers everything from the attributes on.
const CRC_FROM: usize = 21;
/// Most bytes one compressed batch may unfold to. Guards against decompression bombs.
const MAX_UNFOLDED_BYTES: u64 = 128 << 20;
/// Most bytes that one of snappy can unfold to: a copy of 64 bytes takes 3.
const MAX_SNAPPY_RATIO: usize = 22;

const LOG_APPEND_TIME: i16 = 1 << 3;
pub(crate) const TRANSACTIONAL: i16 = 1 << 4;
pub(crate) const CONTROL: i16 = 1 << 5;
const DELETE_HORIZON: i16 = 1 << 6;

/// Why a batch cannot be read or taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BatchError {
    #[error("checksum or length do not fit the bytes")]
    Corrupt,
    #[error("records do not fit the batch header")]
    Invalid,
    #[error("compression codec is not supported here")]
    Codec,
}

impl From<BatchError> for ResponseError {
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::Corrupt => ResponseError::CorruptMessage,
            BatchError::Invalid => ResponseError::InvalidRecord,
            BatchError::Codec => ResponseError::UnsupportedCompressionType,
        }
    }
}

/// The fixed fields of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub base_offset: i64,
    /// Bytes after the prefix.
    pub length: i32,
    pub leader_epoch: i32,
    pub magic: i8,
    pub crc: u32,
    pub attributes: i16,
    pub last_offset_delta: i32,
    /// Milliseconds; with a delete horizon, the horizon.
    pub first_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub count: i32,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`; `None` when it is short or says an impossible length.
    pub fn parse(mut bytes: &[u8]) -> Option<Self> {
        let base_offset = bytes.try_get_i64().ok()?;
        let length = bytes.try_get_i32().ok()?;
        let header = Self {
            base_offset,
            length,
            leader_epoch: bytes.try_get_i32().ok()?,
            magic: bytes.try_get_i8().ok()?,
            crc: bytes.try_get_u32().ok()?,
            attributes: bytes.try_get_i16().ok()?,
            last_offset_delta: bytes.try_get_i32().ok()?,
            first_timestamp: bytes.try_get_i64().ok()?,
            max_timestamp: bytes.try_get_i64().ok()?,
            producer_id: bytes.try_get_i64().ok()?,
            producer_epoch: bytes.try_get_i16().ok()?,
            base_sequence: bytes.try_get_i32().ok()?,
            count: bytes.try_get_i32().ok()?,
        };
        let long_enough = usize::try_from(length).ok()? >= HEADER_BYTES - PREFIX_BYTES;
        (long_enough && header.last_offset_delta >= 0 && base_offset >= 0).then_some(header)
    }

    /// Bytes of the whole batch.
    pub fn size(&self) -> usize {
        PREFIX_BYTES + usize::try_from(self.length).unwrap_or(0)
    }

    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }

    pub fn next_offset(&self) -> i64 {
        self.last_offset().saturating_add(1)
    }

    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// The time, in milliseconds, from which compaction may drop this batch's tombstones.
    pub fn delete_horizon(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON != 0).then_some(self.first_timestamp)
    }

    fn codec(&self) -> i16 {
        self.attributes & 7
    }

    /// Whether this broker can read the records inside (none, gzip, snappy).
    pub fn is_readable(&self) -> bool {
        self.codec() <= 2
    }

    pub fn is_compressed(&self) -> bool {
        self.codec() != 0
    }

    /// The timestamp of a record as a consumer sees it.
    pub fn timestamp_of(&self, record: &Record<'_>) -> i64 {
        if self.attributes & LOG_APPEND_TIME != 0 {
            self.max_timestamp
        } else {
            self.first_timestamp.saturating_add(record.timestamp_delta)
        }
    }

    /// The offset of a record.
    pub fn offset_of(&self, record: &Record<'_>) -> i64 {
        self.base_offset.saturating_add(i64::from(record.offset_delta))
    }
}

/// Whether the CRC of the batch, which is exactly `batch`, is right.
pub(crate) fn crc_matches(header: &BatchHeader, batch: &[u8]) -> bool {
    batch.get(CRC_FROM..).is_some_and(|covered| crc32c::crc32c(covered) == header.crc)
}

/// Writes base offset and leader epoch into a batch; the CRC stays right.
pub(crate) fn set_place(batch: &mut [u8], base_offset: i64, leader_epoch: i32) {
    put(batch, 0, &base_offset.to_be_bytes());
    put(batch, PREFIX_BYTES, &leader_epoch.to_be_bytes());
}

/// Stamps a batch with the broker's time, as `message.timestamp.type=LogAppendTime` wants.
pub(crate) fn set_log_append_time(batch: &mut [u8], attributes: i16, now_ms: i64) {
    put(batch, 21, &(attributes | LOG_APPEND_TIME).to_be_bytes());
    put(batch, 35, &now_ms.to_be_bytes());
    set_crc(batch);
}

pub(crate) fn set_crc(batch: &mut [u8]) {
    let crc = crc32c::crc32c(batch.get(CRC_FROM..).unwrap_or_default());
    put(batch, 17, &crc.to_be_bytes());
}

fn put(batch: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(slot) = batch.get_mut(at..at + bytes.len()) {
        slot.copy_from_slice(bytes);
    }
}

/// One record inside a batch. `rest` is everything from the key on, kept raw for rewriting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'a> {
    pub attributes: u8,
    pub timestamp_delta: i64,
    pub offset_delta: i32,
    pub key: Option<&'a [u8]>,
    pub is_tombstone: bool,
    rest: &'a [u8],
}

/// The records' bytes, unfolded when they are compressed.
pub(crate) fn unfold<'a>(
    header: &BatchHeader,
    batch: &'a [u8],
) -> Result<std::borrow::Cow<'a, [u8]>, BatchError> {
    let body = batch.get(HEADER_BYTES..).ok_or(BatchError::Corrupt)?;
    match header.codec() {
        0 => Ok(body.into()),
        1 => {
            let mut unfolded = Vec::new();
            flate2::read::MultiGzDecoder::new(body)
                .take(MAX_UNFOLDED_BYTES)
                .read_to_end(&mut unfolded)
                .map_err(|_| BatchError::Corrupt)?;
            Ok(unfolded.into())
        }
        2 => Ok(unfold_snappy(body)?.into()),
        _ => Err(BatchError::Codec),
    }
}

/// Java clients frame snappy in their own way (xerial); others send it bare.
fn unfold_snappy(body: &[u8]) -> Result<Vec<u8>, BatchError> {
    const XERIAL: &[u8] = &[0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
    let bare = |bytes: &[u8]| {
        let size = snap::raw::decompress_len(bytes).map_err(|_| BatchError::Corrupt)?;
        // The size is what the bytes claim: memory is reserved only for one that they can hold.
        if size as u64 > MAX_UNFOLDED_BYTES || size / MAX_SNAPPY_RATIO > bytes.len() {
            return Err(BatchError::Corrupt);
        }
        snap::raw::Decoder::new().decompress_vec(bytes).map_err(|_| BatchError::Corrupt)
    };
    let Some(framed) = body.strip_prefix(XERIAL) else {
        return bare(body);
    };
    let mut chunks = framed.get(8..).ok_or(BatchError::Corrupt)?;
    let mut unfolded = Vec::new();
    while !chunks.is_empty() {
        let size = chunks.try_get_u32().map_err(|_| BatchError::Corrupt)? as usize;
        let (chunk, rest) = chunks.split_at_checked(size).ok_or(BatchError::Corrupt)?;
        unfolded.extend_from_slice(&bare(chunk)?);
        if unfolded.len() as u64 > MAX_UNFOLDED_BYTES {
            return Err(BatchError::Corrupt);
        }
        chunks = rest;
    }
    Ok(unfolded)
}

/// Splits unfolded bytes into `count` records; an error when they do not fit exactly.
pub(crate) fn records(unfolded: &[u8], count: i32) -> Result<Vec<Record<'_>>, BatchError> {
    let mut bytes = unfolded;
    let mut found = Vec::new();
    for _ in 0..count {
        found.push(record(&mut bytes).ok_or(BatchError::Invalid)?);
    }
    if bytes.is_empty() { Ok(found) } else { Err(BatchError::Invalid) }
}

fn record<'a>(bytes: &mut &'a [u8]) -> Option<Record<'a>> {
    let size = usize::try_from(varint(bytes)?).ok()?;
    let (mut body, after) = bytes.split_at_checked(size)?;
    *bytes = after;
    let attributes = body.try_get_u8().ok()?;
    let timestamp_delta = varint(&mut body)?;
    let offset_delta = i32::try_from(varint(&mut body)?).ok()?;
    let rest = body;
    let key = nullable(&mut body)?;
    let value = nullable(&mut body)?;
    let headers = varint(&mut body)?;
    for _ in 0..headers {
        nullable(&mut body)??;
        nullable(&mut body)?;
    }
    (headers >= 0 && body.is_empty()).then_some(Record {
        attributes,
        timestamp_delta,
        offset_delta,
        key,
        is_tombstone: value.is_none(),
        rest,
    })
}

/// A byte string with a varint length, -1 for null. The outer `None` is a malformed one.
fn nullable<'a>(bytes: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let size = varint(bytes)?;
    if size == -1 {
        return Some(None);
    }
    let (value, rest) = bytes.split_at_checked(usize::try_from(size).ok()?)?;
    *bytes = rest;
    Some(Some(value))
}

/// A zigzag varint of up to 64 bits.
fn varint(bytes: &mut &[u8]) -> Option<i64> {
    let mut raw = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = bytes.try_get_u8().ok()?;
        raw |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed());
        }
    }
    None
}

fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut raw = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while raw >= 0x80 {
        out.push((raw & 0x7f) as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

/// Writes the batch again with only the records in `kept`. Offsets stay: base offset and last
/// offset delta are those of the original, as in Kafka. `delete_horizon` marks when the
/// tombstones in it may go.
pub(crate) fn rewrite(
    header: &BatchHeader,
    original: &[u8],
    kept: &[Record<'_>],
    delete_horizon: Option<i64>,
) -> Result<Vec<u8>, BatchError> {
    let own = kept.first().map_or(0, |first| header.first_timestamp.saturating_add(first.timestamp_delta));
    let first_timestamp = delete_horizon.unwrap_or(own);
    let mut body = Vec::new();
    let mut record = Vec::new();
    for entry in kept {
        let timestamp = header.first_timestamp.saturating_add(entry.timestamp_delta);
        record.clear();
        record.push(entry.attributes);
        put_varint(&mut record, timestamp.saturating_sub(first_timestamp));
        put_varint(&mut record, i64::from(entry.offset_delta));
        record.extend_from_slice(entry.rest);
        put_varint(&mut body, record.len() as i64);
        body.extend_from_slice(&record);
    }
    let body = fold(header.codec(), body)?;

    let mut batch = original.get(..HEADER_BYTES).ok_or(BatchError::Corrupt)?.to_vec();
    batch.extend_from_slice(&body);
    let length = i32::try_from(batch.len() - PREFIX_BYTES).map_err(|_| BatchError::Invalid)?;
    let count = i32::try_from(kept.len()).map_err(|_| BatchError::Invalid)?;
    let attributes = match delete_horizon {
        Some(_) => header.attributes | DELETE_HORIZON,
        None => header.attributes & !DELETE_HORIZON,
    };
    let max_timestamp =
        kept.iter().map(|entry| header.timestamp_of(entry)).max().unwrap_or(header.max_timestamp);
    put(&mut batch, 8, &length.to_be_bytes());
    put(&mut batch, 21, &attributes.to_be_bytes());
    put(&mut batch, 27, &first_timestamp.to_be_bytes());
    put(&mut batch, 35, &max_timestamp.to_be_bytes());
    put(&mut batch, 57, &count.to_be_bytes());
    set_crc(&mut batch);
    Ok(batch)
}

fn fold(codec: i16, body: Vec<u8>) -> Result<Vec<u8>, BatchError> {
    match codec {
        0 => Ok(body),
        1 => {
            let mut folded = Vec::new();
            flate2::bufread::GzEncoder::new(body.as_slice(), flate2::Compression::default())
                .read_to_end(&mut folded)
                .map_err(|_| BatchError::Invalid)?;
            Ok(folded)
        }
        2 => snap::raw::Encoder::new().compress_vec(&body).map_err(|_| BatchError::Invalid),
        _ => Err(BatchError::Codec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snappy_is_read_as_java_frames_it_and_bare() {
        let folded = |bytes: &[u8]| snap::raw::Encoder::new().compress_vec(bytes).unwrap();
        let mut framed = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
        for chunk in [b"some ".as_slice(), b"records"] {
            let chunk = folded(chunk);
            framed.extend_from_slice(&u32::try_from(chunk.len()).unwrap().to_be_bytes());
            framed.extend_from_slice(&chunk);
        }
        assert_eq!(unfold_snappy(&framed).unwrap(), b"some records");
        assert_eq!(unfold_snappy(&folded(b"some records")).unwrap(), b"some records");
        assert_eq!(unfold_snappy(&framed[..framed.len() - 1]), Err(BatchError::Corrupt));
    }

    #[test]
    fn varints_come_back() {
        for value in [0, -1, 1, 63, -64, 64, i64::from(i32::MAX), i64::MAX, i64::MIN] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            assert_eq!(varint(&mut bytes.as_slice()), Some(value));
        }
        assert_eq!(varint(&mut [0xff; 11].as_slice()), None);
    }
}
