//! The readers' side of a partition: batches by offset, offsets by time. All of it is blocking.

use std::io;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use task_events::kafka::records::{Batch, BatchHeader};

use super::partition::{Isolation, Partition, TimedOffset};

impl Partition {
    /// Reads whole batches from the one that holds `offset` on, at most `max_bytes`; the first
    /// batch comes back even when it is larger if `at_least_one`.
    ///
    /// The error is OFFSET_OUT_OF_RANGE outside of log start and log end. Between the end of what
    /// the reader may see and the log's end there is nothing to read, and no error, as in Kafka.
    pub fn read(
        &self,
        offset: i64,
        max_bytes: usize,
        at_least_one: bool,
        isolation: Isolation,
    ) -> Result<Vec<u8>, ResponseError> {
        let progress = self.progress();
        if offset < self.log_start() || offset > progress.log_end {
            return Err(ResponseError::OffsetOutOfRange);
        }
        let end = progress.end(isolation);
        if offset >= end {
            return Ok(Vec::new());
        }
        self.try_read(offset, end, max_bytes, at_least_one).map_err(|error| {
            log::error!("cannot read {} at {offset}: {error}", self.dir.display());
            ResponseError::KafkaStorageError
        })
    }

    fn try_read(&self, offset: i64, end: i64, max_bytes: usize, at_least_one: bool) -> io::Result<Vec<u8>> {
        let segments = self.segments();
        let from = segments.partition_point(|segment| segment.base_offset <= offset).saturating_sub(1);
        // After compaction a segment may hold nothing from `offset` on: then the next one does.
        for segment in segments.iter().skip(from) {
            let Some(position) = segment.position_of(offset)? else {
                continue;
            };
            let Some(first) = segment.header_at(position)? else {
                continue;
            };
            if first.base_offset >= end || (first.size() > max_bytes && !at_least_one) {
                return Ok(Vec::new());
            }
            let visible = usize::try_from(segment.extent().size - position).unwrap_or(usize::MAX);
            let size = max_bytes.max(first.size()).min(visible);
            let mut bytes = segment.read(position, size)?;
            bytes.truncate(whole_batches(&bytes, end));
            return Ok(bytes);
        }
        Ok(Vec::new())
    }

    /// The first record with a timestamp of at least `timestamp`.
    pub fn offset_at_time(&self, timestamp: i64) -> io::Result<Option<TimedOffset>> {
        let log_start = self.log_start();
        for segment in self.segments() {
            let extent = segment.extent();
            if extent.max_timestamp < timestamp || extent.next_offset <= log_start {
                continue;
            }
            let Some((mut position, _)) = segment.batch_at_time(timestamp)? else {
                continue;
            };
            while let Some(header) = segment.header_at(position)? {
                if header.max_timestamp >= timestamp {
                    let bytes = segment.read(position, header.size())?;
                    let wanted =
                        |found: &TimedOffset| found.timestamp >= timestamp && found.offset >= log_start;
                    if let Some(found) = timed_offsets(&header, &bytes).into_iter().find(wanted) {
                        return Ok(Some(found));
                    }
                }
                position += header.size() as u64;
            }
        }
        Ok(None)
    }

    /// The first record with the largest timestamp.
    pub fn max_timestamp(&self) -> io::Result<Option<TimedOffset>> {
        let largest = self.segments().iter().map(|segment| segment.extent().max_timestamp).max();
        match largest {
            Some(timestamp) if timestamp >= 0 => self.offset_at_time(timestamp),
            _ => Ok(None),
        }
    }
}

/// Bytes of the whole batches at the start of `bytes` that lie below the offset `end`.
fn whole_batches(bytes: &[u8], end: i64) -> usize {
    let mut size = 0;
    while let Some(header) = bytes.get(size..).and_then(BatchHeader::parse)
        && header.base_offset < end
        && size + header.size() <= bytes.len()
    {
        size += header.size();
    }
    size
}

/// Timestamp and offset of each record; of the batch as a whole when it cannot be read.
fn timed_offsets(header: &BatchHeader, bytes: &[u8]) -> Vec<TimedOffset> {
    let at = |timestamp, offset| TimedOffset { timestamp, offset, leader_epoch: header.leader_epoch };
    Batch::of(Bytes::copy_from_slice(bytes))
        .and_then(|batch| {
            let each = batch.records().map(|record| record.map(|record| at(record.timestamp, record.offset)));
            each.collect::<Result<_, _>>().ok()
        })
        .unwrap_or_else(|| vec![at(header.max_timestamp, header.base_offset)])
}
