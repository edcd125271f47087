//! Writing batches: for the dev broker, which compacts and stamps them, and for tests that play other
//! producers.

use std::io;

use super::compression::{Codec, compress};
use super::header::{
    BatchHeader, CONTROL, CRC_AT, CRC_FROM, DELETE_HORIZON, HEADER_BYTES, LOG_APPEND_TIME, MAGIC,
    PREFIX_BYTES, TRANSACTIONAL,
};
use super::marker::Marker;
use super::record::{ConsumerRecord, Headers, put_nullable};
use super::varint;

/// Why a batch could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// Lengths and numbers of a batch have 31 bits.
    #[error("the batch is too large for its format")]
    TooLarge,
    /// Offsets of a batch rise, and span at most 31 bits.
    #[error("the record with offset {0} is out of order or too far from the first")]
    Offset(i64),
    /// A codec that is not known here.
    #[error("the batch is compressed with the unknown codec {0}")]
    UnknownCodec(u8),
    /// The compressor failed.
    #[error("the batch cannot be compressed: {0}")]
    Compression(#[from] io::Error),
}

/// An idempotent or transactional producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerState {
    /// Its id.
    pub id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// The sequence number of the first record.
    pub sequence: i32,
}

/// Collects records and writes them as one batch.
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    header: BatchHeader,
    codec: Codec,
    records: Vec<ConsumerRecord>,
    last_offset: Option<i64>,
    max_timestamp: Option<i64>,
}

impl BatchBuilder {
    /// An empty batch whose first record has this offset: 0 for one that is sent to a broker.
    pub fn new(base_offset: i64, codec: Codec) -> Self {
        let header = BatchHeader {
            base_offset,
            length: 0,
            leader_epoch: -1,
            magic: MAGIC,
            crc: 0,
            attributes: 0,
            last_offset_delta: 0,
            base_timestamp: -1,
            max_timestamp: -1,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            count: 0,
        };
        Self { header, codec, records: Vec::new(), last_offset: None, max_timestamp: None }
    }

    /// A batch with other records in place of its own. Its offsets, producer and flags stay, as when Kafka
    /// compacts; the delete horizon is set again.
    pub fn replacing(header: &BatchHeader, delete_horizon: Option<i64>) -> Result<Self, EncodeError> {
        let codec = header.codec().map_err(EncodeError::UnknownCodec)?;
        let last_offset = Some(header.last_offset());
        let max_timestamp = header.is_log_append_time().then_some(header.max_timestamp);
        let builder = Self { header: *header, codec, records: Vec::new(), last_offset, max_timestamp };
        Ok(builder.delete_horizon(delete_horizon))
    }

    /// The time from which compaction may remove tombstones.
    #[must_use]
    pub fn delete_horizon(mut self, horizon: Option<i64>) -> Self {
        self.header.attributes &= !DELETE_HORIZON;
        if let Some(horizon) = horizon {
            self.header.attributes |= DELETE_HORIZON;
            self.header.base_timestamp = horizon;
        }
        self
    }

    /// Written by an idempotent producer.
    #[must_use]
    pub fn producer(mut self, producer: ProducerState) -> Self {
        self.header.producer_id = producer.id;
        self.header.producer_epoch = producer.epoch;
        self.header.base_sequence = producer.sequence;
        self
    }

    /// Part of a transaction.
    #[must_use]
    pub fn transactional(mut self) -> Self {
        self.header.attributes |= TRANSACTIONAL;
        self
    }

    /// Written under this leader epoch.
    #[must_use]
    pub fn leader_epoch(mut self, epoch: i32) -> Self {
        self.header.leader_epoch = epoch;
        self
    }

    /// Stamped by the broker: every record has this time.
    #[must_use]
    pub fn log_append_time(mut self, timestamp: i64) -> Self {
        self.header.attributes |= LOG_APPEND_TIME;
        self.max_timestamp = Some(timestamp);
        self
    }

    /// The last offset, where compaction has removed the last record.
    #[must_use]
    pub fn last_offset(mut self, offset: i64) -> Self {
        self.last_offset = Some(offset);
        self
    }

    /// A control batch with one marker, as a transaction coordinator writes it.
    #[must_use]
    pub fn marker(mut self, marker: Marker, timestamp: i64, coordinator_epoch: i32) -> Self {
        self.header.attributes |= CONTROL | TRANSACTIONAL;
        let kind: i16 = match marker {
            Marker::Abort => 0,
            Marker::Commit => 1,
            Marker::Other(kind) => kind,
        };
        let version = 0i16.to_be_bytes();
        let key = [version, kind.to_be_bytes()].concat();
        let value = [version.as_slice(), &coordinator_epoch.to_be_bytes()].concat();
        self.record(timestamp, Some(&key), Some(&value), Headers::default())
    }

    /// One more record, at the next offset.
    #[must_use]
    pub fn record(
        mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: Headers,
    ) -> Self {
        let next = self.records.last().map(|last| last.offset.saturating_add(1));
        self.records.push(ConsumerRecord {
            offset: next.unwrap_or(self.header.base_offset),
            timestamp,
            leader_epoch: self.header.leader_epoch,
            key: key.map(|key| key.to_vec().into()),
            value: value.map(|value| value.to_vec().into()),
            headers,
        });
        self
    }

    /// One more record, at its own offset.
    pub fn push(&mut self, record: ConsumerRecord) {
        self.records.push(record);
    }

    /// The batch.
    pub fn build(&self) -> Result<Vec<u8>, EncodeError> {
        let mut header = self.header;
        if header.delete_horizon().is_none() {
            header.base_timestamp = self.records.first().map_or(-1, |first| first.timestamp);
        }
        let latest = self.records.iter().map(|record| record.timestamp).max();
        header.max_timestamp = self.max_timestamp.or(latest).unwrap_or(header.max_timestamp);
        let mut payload = Vec::new();
        let mut next_delta = 0;
        for record in &self.records {
            let delta = record.offset.saturating_sub(header.base_offset);
            if delta < next_delta || delta > i64::from(i32::MAX) {
                return Err(EncodeError::Offset(record.offset));
            }
            next_delta = delta + 1;
            put_record(&mut payload, record, record.timestamp.saturating_sub(header.base_timestamp), delta);
        }
        let last_offset = self.last_offset.unwrap_or(header.base_offset + (next_delta - 1).max(0));
        let last_delta = last_offset.saturating_sub(header.base_offset);
        if last_delta < next_delta - 1 {
            return Err(EncodeError::Offset(last_offset));
        }
        header.last_offset_delta = i32::try_from(last_delta).map_err(|_| EncodeError::Offset(last_offset))?;
        header.count = i32::try_from(self.records.len()).map_err(|_| EncodeError::TooLarge)?;
        header.attributes |= self.codec.number();

        let payload = compress(self.codec, &payload)?;
        let length = HEADER_BYTES - PREFIX_BYTES + payload.len();
        header.length = i32::try_from(length).map_err(|_| EncodeError::TooLarge)?;
        let mut batch = Vec::with_capacity(HEADER_BYTES + payload.len());
        put_header(&mut batch, &header);
        batch.extend_from_slice(&payload);
        seal(&mut batch);
        Ok(batch)
    }
}

fn put_record(out: &mut Vec<u8>, record: &ConsumerRecord, timestamp_delta: i64, offset_delta: i64) {
    let mut body = vec![0];
    varint::write(&mut body, timestamp_delta);
    varint::write(&mut body, offset_delta);
    put_nullable(&mut body, record.key.as_deref());
    put_nullable(&mut body, record.value.as_deref());
    varint::write(&mut body, i64::try_from(record.headers.len()).unwrap_or(i64::MAX));
    body.extend_from_slice(record.headers.encoded());
    put_nullable(out, Some(&body));
}

fn put_header(out: &mut Vec<u8>, header: &BatchHeader) {
    out.extend_from_slice(&header.base_offset.to_be_bytes());
    out.extend_from_slice(&header.length.to_be_bytes());
    out.extend_from_slice(&header.leader_epoch.to_be_bytes());
    out.extend_from_slice(&header.magic.to_be_bytes());
    out.extend_from_slice(&header.crc.to_be_bytes());
    out.extend_from_slice(&header.attributes.to_be_bytes());
    out.extend_from_slice(&header.last_offset_delta.to_be_bytes());
    out.extend_from_slice(&header.base_timestamp.to_be_bytes());
    out.extend_from_slice(&header.max_timestamp.to_be_bytes());
    out.extend_from_slice(&header.producer_id.to_be_bytes());
    out.extend_from_slice(&header.producer_epoch.to_be_bytes());
    out.extend_from_slice(&header.base_sequence.to_be_bytes());
    out.extend_from_slice(&header.count.to_be_bytes());
}

/// Writes base offset and leader epoch into a batch, as a broker does that appends it. The CRC stays right.
pub fn set_place(batch: &mut [u8], base_offset: i64, leader_epoch: i32) {
    put(batch, 0, &base_offset.to_be_bytes());
    put(batch, PREFIX_BYTES, &leader_epoch.to_be_bytes());
}

/// Stamps a batch with the broker's time, as `message.timestamp.type=LogAppendTime` demands.
pub fn set_log_append_time(batch: &mut [u8], attributes: i16, now_ms: i64) {
    put(batch, CRC_FROM, &(attributes | LOG_APPEND_TIME).to_be_bytes());
    put(batch, 35, &now_ms.to_be_bytes());
    seal(batch);
}

/// Writes the length and the CRC that fit the bytes of a batch.
pub fn seal(batch: &mut [u8]) {
    let length = i32::try_from(batch.len().saturating_sub(PREFIX_BYTES)).unwrap_or(i32::MAX);
    put(batch, PREFIX_BYTES - 4, &length.to_be_bytes());
    let crc = crc32c::crc32c(batch.get(CRC_FROM..).unwrap_or_default());
    put(batch, CRC_AT, &crc.to_be_bytes());
}

fn put(batch: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(slot) = batch.get_mut(at..at + bytes.len()) {
        slot.copy_from_slice(bytes);
    }
}
