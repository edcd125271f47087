//! Control batches: the marker that ends a transaction in a partition.

use bytes::{Buf, BufMut};
use serde::{Deserialize, Serialize};

use super::batch::{self, BatchHeader, CONTROL, HEADER_BYTES, PREFIX_BYTES, TRANSACTIONAL};

/// How a transaction ended; the numbers are those in the marker's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Abort = 0,
    Commit = 1,
}

/// What a control batch says; `None` for a data batch, and for a kind of marker that is not known.
pub(crate) fn outcome(header: &BatchHeader, bytes: &[u8]) -> Option<Outcome> {
    if !header.is_control() {
        return None;
    }
    let records = batch::records(bytes.get(HEADER_BYTES..)?, header.count).ok()?;
    let mut key = records.first()?.key?;
    let _version = key.try_get_i16().ok()?;
    match key.try_get_i16().ok()? {
        0 => Some(Outcome::Abort),
        1 => Some(Outcome::Commit),
        _ => None,
    }
}

/// A marker, with its header. The log gives it its offset.
#[allow(dead_code, reason = "the transaction coordinator is the next step")]
pub(crate) fn build(
    producer_id: i64,
    producer_epoch: i16,
    outcome: Outcome,
    now_ms: i64,
) -> (Vec<u8>, BatchHeader) {
    let mut record = Vec::new();
    record.put_slice(&[0, 0, 0]); // attributes, timestamp delta, offset delta
    record.put_u8(4 << 1);
    record.put_i16(0);
    record.put_i16(outcome as i16);
    record.put_u8(6 << 1);
    record.put_i16(0);
    record.put_i32(0); // the coordinator's epoch
    record.put_u8(0);

    let size = HEADER_BYTES + 1 + record.len();
    let mut bytes = Vec::with_capacity(size);
    bytes.put_i64(0);
    bytes.put_i32(i32::try_from(size - PREFIX_BYTES).unwrap_or(i32::MAX));
    bytes.put_i32(0);
    bytes.put_i8(2);
    bytes.put_u32(0);
    bytes.put_i16(TRANSACTIONAL | CONTROL);
    bytes.put_i32(0);
    bytes.put_i64(now_ms);
    bytes.put_i64(now_ms);
    bytes.put_i64(producer_id);
    bytes.put_i16(producer_epoch);
    bytes.put_i32(-1);
    bytes.put_i32(1);
    // A record of less than 64 bytes: its length is one zigzag byte.
    bytes.put_u8((record.len() as u8) << 1);
    bytes.put_slice(&record);
    batch::set_crc(&mut bytes);
    let header = BatchHeader {
        base_offset: 0,
        length: i32::try_from(size - PREFIX_BYTES).unwrap_or(i32::MAX),
        leader_epoch: 0,
        magic: 2,
        crc: 0,
        attributes: TRANSACTIONAL | CONTROL,
        last_offset_delta: 0,
        first_timestamp: now_ms,
        max_timestamp: now_ms,
        producer_id,
        producer_epoch,
        base_sequence: -1,
        count: 1,
    };
    (bytes, header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_a_batch_that_says_its_outcome() {
        for expected in [Outcome::Abort, Outcome::Commit] {
            let (bytes, header) = build(7, 3, expected, 1_000);
            let read = BatchHeader::parse(&bytes).unwrap();
            assert_eq!(BatchHeader { crc: 0, ..read }, header);
            assert!(batch::crc_matches(&read, &bytes) && read.size() == bytes.len());
            assert_eq!(outcome(&read, &bytes), Some(expected));
        }
    }
}
