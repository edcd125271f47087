//! The records of one batch, decoded one by one.
//!
//! Records are cut out of a chunk of bytes: that of the fetch answer, or one that was decompressed. A record
//! that its chunk does not hold whole is moved to the front of the next chunk. A chunk grows only with the
//! bytes that are really there, whatever lengths are announced.

use std::fmt;
use std::io::{self, Read};

use bytes::Bytes;

use super::Limits;
use super::compression::{Codec, Decompressor};
use super::header::BatchHeader;
use super::record::{ConsumerRecord, Content, MAX_PREFIX_BYTES, RecordPrefix};
use super::unreadable::{Unreadable, UnreadableReason};
use super::varint::{self, VarintError};

/// How much is decompressed at once. Who keeps one record keeps its chunk.
const CHUNK_BYTES: usize = 64 << 10;
/// The same for a small batch: a fresh chunk is zeroed.
const MIN_CHUNK_BYTES: usize = 4 << 10;

/// Iterates over the records of a batch. What cannot be read is returned as [`Unreadable`], with the records
/// behind it as far as they can be found. Offsets rise strictly.
pub struct Records {
    /// None once there is nothing more to decode.
    reader: Option<Reader>,
    /// What is returned last.
    rest: Option<Unreadable>,
}

impl Records {
    pub(super) fn new(header: &BatchHeader, payload: Bytes, first_offset: i64, limits: Limits) -> Self {
        let mut reader = Reader {
            header: *header,
            limits,
            first_offset,
            next_offset: header.base_offset,
            left: header.count,
            chunk: Bytes::new(),
            at: 0,
            source: None,
        };
        match header.codec() {
            Ok(Codec::None) => reader.chunk = payload,
            // Compaction may leave a batch without records, and without a compressed stream.
            Ok(_) if payload.is_empty() => {}
            Ok(codec) => reader.source = Some(Source::new(codec, payload, limits.batch_bytes)),
            Err(codec) => {
                let rest = reader.rest(UnreadableReason::UnknownCodec { codec });
                return Self { reader: None, rest };
            }
        }
        Self { reader: Some(reader), rest: None }
    }

    pub(super) fn unreadable(unreadable: Unreadable) -> Self {
        Self { reader: None, rest: Some(unreadable) }
    }
}

impl Iterator for Records {
    type Item = Result<ConsumerRecord, Unreadable>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(reader) = &mut self.reader {
            match reader.step() {
                Ok(Some(Step::Item(item))) => return Some(item),
                Ok(Some(Step::Passed)) => {}
                Ok(None) => self.reader = None,
                Err(reason) => {
                    self.rest = reader.rest(reason);
                    self.reader = None;
                }
            }
        }
        self.rest.take().map(Err)
    }
}

impl std::iter::FusedIterator for Records {}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let next_offset = self.reader.as_ref().map(|reader| reader.next_offset);
        f.debug_struct("Records").field("next_offset", &next_offset).field("rest", &self.rest).finish()
    }
}

struct Reader {
    header: BatchHeader,
    limits: Limits,
    /// Records below are passed.
    first_offset: i64,
    /// The lowest offset that the next record may have.
    next_offset: i64,
    /// Records that are still announced.
    left: i32,
    chunk: Bytes,
    /// Where the next record starts in the chunk.
    at: usize,
    /// Where the next chunk comes from; none for an uncompressed batch.
    source: Option<Source>,
}

/// What a step brought, of which the rest of the batch is not affected.
enum Step {
    Item(Result<ConsumerRecord, Unreadable>),
    /// A record that is not of interest, or more bytes.
    Passed,
}

/// What is at the current place of the chunk.
enum Frame {
    /// A record between two places.
    Whole { start: usize, end: usize },
    /// The start of a record that takes so many bytes, as far as they are known.
    Cut { bytes: usize },
    /// The start of a record that is larger than what is held.
    TooLarge { start: usize, bytes: usize },
}

impl Reader {
    /// Decodes one record. None after the last; an error when nothing more can be found.
    fn step(&mut self) -> Result<Option<Step>, UnreadableReason> {
        if self.left == 0 {
            // Offsets behind the last record are those of records that compaction removed, or not.
            let is_more = self.next_offset <= self.header.last_offset()
                && (self.at < self.chunk.len() || self.fill(1)?);
            return if is_more {
                Err(UnreadableReason::Malformed("it holds more records than it announces"))
            } else {
                Ok(None)
            };
        }
        match self.frame()? {
            Frame::Whole { start, end } => {
                self.left -= 1;
                self.at = end;
                self.record(start, end).map(Some)
            }
            Frame::TooLarge { start, bytes } => {
                let wanted = MAX_PREFIX_BYTES.min(bytes);
                if self.chunk.len() - start < wanted && self.fill(start - self.at + wanted)? {
                    return Ok(Some(Step::Passed));
                }
                self.left -= 1;
                self.too_large(start, bytes).map(Some)
            }
            Frame::Cut { bytes } => {
                if self.fill(bytes)? {
                    return Ok(Some(Step::Passed));
                }
                Err(UnreadableReason::Malformed("it ends before the number of records that it announces"))
            }
        }
    }

    fn frame(&self) -> Result<Frame, UnreadableReason> {
        let mut bytes = self.chunk.get(self.at..).unwrap_or_default();
        let size = match varint::read(&mut bytes) {
            Ok(size) => size,
            Err(VarintError::Short) => return Ok(Frame::Cut { bytes: 1 }),
            Err(VarintError::Overflow) => {
                return Err(UnreadableReason::Malformed("the length of a record exceeds 64 bits"));
            }
        };
        let Some(size) = i32::try_from(size).ok().and_then(|size| usize::try_from(size).ok()) else {
            return Err(UnreadableReason::Malformed("the length of a record is negative or exceeds 31 bits"));
        };
        let start = self.chunk.len() - bytes.len();
        Ok(if size > self.limits.record_bytes {
            Frame::TooLarge { start, bytes: size }
        } else if size > bytes.len() {
            Frame::Cut { bytes: start - self.at + size }
        } else {
            Frame::Whole { start, end: start + size }
        })
    }

    /// The record that is exactly between two places of the chunk.
    fn record(&mut self, start: usize, end: usize) -> Result<Step, UnreadableReason> {
        let mut body = self.chunk.get(start..end).unwrap_or_default();
        let prefix = RecordPrefix::read(&mut body);
        let content = Content::read(body, &self.chunk);
        let Some((offset, timestamp)) = self.place(prefix)? else {
            return Ok(Step::Passed);
        };
        let leader_epoch = self.header.leader_epoch;
        Ok(Step::Item(match content {
            Ok(Content { key, value, headers }) => {
                Ok(ConsumerRecord { offset, timestamp, leader_epoch, key, value, headers })
            }
            Err(what) => Err(self.one(offset, timestamp, UnreadableReason::Malformed(what))),
        }))
    }

    /// Passes a record without holding it.
    fn too_large(&mut self, start: usize, bytes: usize) -> Result<Step, UnreadableReason> {
        let mut body = self.chunk.get(start..).unwrap_or_default();
        let held = body.len().min(bytes);
        let place = self.place(RecordPrefix::read(&mut body))?;
        self.at = start + held;
        if let Some(source) = &mut self.source {
            source.skip((bytes - held) as u64);
        }
        Ok(match place {
            None => Step::Passed,
            Some((offset, timestamp)) => {
                let limit = self.limits.record_bytes;
                let reason = UnreadableReason::TooLarge { bytes: bytes as u64, limit };
                Step::Item(Err(self.one(offset, timestamp, reason)))
            }
        })
    }

    /// Offset and timestamp of the next record; none when it is not of interest.
    fn place(&mut self, prefix: Option<RecordPrefix>) -> Result<Option<(i64, i64)>, UnreadableReason> {
        let prefix = prefix.ok_or(UnreadableReason::Malformed("a record ends before its offset"))?;
        let offset = self.header.base_offset.saturating_add(prefix.offset_delta);
        if offset < self.next_offset || offset > self.header.last_offset() {
            return Err(UnreadableReason::Malformed("the offset of a record is out of order"));
        }
        self.next_offset = offset.saturating_add(1);
        let timestamp = self.header.timestamp(prefix.timestamp_delta);
        Ok((offset >= self.first_offset).then_some((offset, timestamp)))
    }

    fn one(&self, offset: i64, timestamp: i64, reason: UnreadableReason) -> Unreadable {
        let leader_epoch = self.header.leader_epoch;
        Unreadable { first_offset: offset, last_offset: offset, timestamp, leader_epoch, reason }
    }

    /// The offsets of which nothing was returned yet, if any.
    fn rest(&self, reason: UnreadableReason) -> Option<Unreadable> {
        let first_offset = self.next_offset.max(self.first_offset);
        let last_offset = self.header.last_offset();
        (first_offset <= last_offset).then_some(Unreadable {
            first_offset,
            last_offset,
            timestamp: self.header.max_timestamp,
            leader_epoch: self.header.leader_epoch,
            reason,
        })
    }

    /// Moves what is left of the chunk to the front of a new one and adds to it; false when there is nothing
    /// to add. `bytes`: how many would be useful, as far as is known.
    fn fill(&mut self, bytes: usize) -> Result<bool, UnreadableReason> {
        let Some(source) = &mut self.source else {
            return Ok(false);
        };
        let tail = self.chunk.get(self.at..).unwrap_or_default();
        // At most twice what is there: memory follows the bytes and not what they announce.
        let added = bytes.saturating_sub(tail.len()).min(tail.len()).max(source.chunk_bytes);
        let mut chunk = Vec::with_capacity(tail.len() + added);
        chunk.extend_from_slice(tail);
        let is_more = source.read(added as u64, &mut chunk)?;
        self.chunk = chunk.into();
        self.at = 0;
        Ok(is_more)
    }
}

/// A compressed payload on its way to chunks.
struct Source {
    codec: Codec,
    decompressor: Decompressor,
    /// Least bytes that are worth a chunk.
    chunk_bytes: usize,
    /// What is left of [`Limits::batch_bytes`], and the whole of it.
    budget: u64,
    limit: u64,
    /// Bytes that are not wanted, before those that are.
    skipped: u64,
    /// Reported once the bytes before it were used.
    failure: Option<UnreadableReason>,
}

impl Source {
    fn new(codec: Codec, payload: Bytes, limit: u64) -> Self {
        let chunk_bytes = payload.len().saturating_mul(4).clamp(MIN_CHUNK_BYTES, CHUNK_BYTES);
        let decompressor = Decompressor::new(codec, payload);
        Self { codec, decompressor, chunk_bytes, budget: limit, limit, skipped: 0, failure: None }
    }

    fn skip(&mut self, bytes: u64) {
        self.skipped += bytes;
    }

    /// Appends up to `bytes` to a chunk; false when there are none.
    fn read(&mut self, bytes: u64, chunk: &mut Vec<u8>) -> Result<bool, UnreadableReason> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if self.skipped >= self.budget {
            return Err(UnreadableReason::BatchTooLarge { limit: self.limit });
        }
        let skipped = io::copy(&mut self.decompressor.by_ref().take(self.skipped), &mut io::sink());
        let skipped = skipped.map_err(|error| self.failed(&error))?;
        self.budget -= skipped;
        if skipped < std::mem::take(&mut self.skipped) {
            return Ok(false);
        }
        let before = chunk.len();
        let wanted = bytes.min(self.budget);
        if let Err(error) = self.decompressor.by_ref().take(wanted).read_to_end(chunk) {
            self.failure = Some(self.failed(&error));
        }
        let read = chunk.len() - before;
        self.budget -= read as u64;
        match self.failure.take_if(|_| read == 0) {
            Some(failure) => Err(failure),
            None => Ok(read > 0),
        }
    }

    fn failed(&self, error: &io::Error) -> UnreadableReason {
        UnreadableReason::Decompression { codec: self.codec, message: error.to_string() }
    }
}
