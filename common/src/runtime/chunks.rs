//! Cuts what a fetch brought into chunks of bounded number and size, decoded as they are needed.
//!
//! Decompression is work of its own: that of compressed batches runs where it may take its time.

use tokio::task::spawn_blocking;

use crate::kafka::records::{Limits, Records};
use crate::kafka::{Batch, ConsumerRecord, Position, Unreadable};

/// Records in a chunk: what bounds it where they are tiny.
const CHUNK_RECORDS: usize = 8_192;
/// A record that is larger could not be republished to the DLQ either: its range goes there by its source.
const LIMITS: Limits = Limits { record_bytes: 4 << 20, batch_bytes: 256 << 20 };

/// A record, or a range of offsets that cannot be read.
pub(super) type Item = Result<ConsumerRecord, Unreadable>;

/// Where reading goes on after the item.
pub(super) fn position_after(item: &Item, before: Position) -> Position {
    let (last_offset, epoch) = match item {
        Ok(record) => (record.offset, record.leader_epoch),
        Err(unreadable) => (unreadable.last_offset, unreadable.leader_epoch),
    };
    let leader_epoch = Some(epoch).filter(|epoch| *epoch >= 0).or(before.leader_epoch);
    Position { offset: last_offset + 1, leader_epoch, ..before }
}

/// The batches of one fetch.
pub(super) struct Chunks {
    batches: std::vec::IntoIter<Batch>,
    records: Option<Records>,
    is_compressed: bool,
    /// Bytes of keys and values in a chunk, beyond which it ends.
    chunk_bytes: usize,
}

impl Chunks {
    /// Chunks of about `chunk_bytes`: as much as a fetch brings uncompressed, so that each write and each sync
    /// of a service is for some 2,000 events when there are that many.
    pub(super) fn new(batches: Vec<Batch>, chunk_bytes: usize) -> Self {
        let is_compressed =
            batches.iter().any(|batch| batch.header().is_some_and(|header| header.is_compressed()));
        Self { batches: batches.into_iter(), records: None, is_compressed, chunk_bytes }
    }

    /// Whether nothing more follows. A chunk without records may follow where this is false.
    pub(super) fn is_at_end(&self) -> bool {
        self.records.is_none() && self.batches.as_slice().is_empty()
    }

    /// The next chunk; empty at the end.
    pub(super) async fn next(mut self) -> (Self, Vec<Item>) {
        if !self.is_compressed {
            let items = self.take();
            return (self, items);
        }
        let taken = spawn_blocking(move || {
            let items = self.take();
            (self, items)
        });
        match taken.await {
            Ok(taken) => taken,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The process ends.
                Err(_) => std::future::pending().await,
            },
        }
    }

    fn take(&mut self) -> Vec<Item> {
        let (mut items, mut bytes) = (Vec::new(), 0);
        while items.len() < CHUNK_RECORDS && bytes < self.chunk_bytes {
            let Some(records) = &mut self.records else {
                match self.batches.next() {
                    Some(batch) => self.records = Some(batch.records_within(LIMITS)),
                    None => break,
                }
                continue;
            };
            match records.next() {
                Some(item) => {
                    bytes += item.as_ref().map_or(0, |record| {
                        let length =
                            |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, bytes::Bytes::len);
                        length(&record.key) + length(&record.value)
                    });
                    items.push(item);
                }
                None => self.records = None,
            }
        }
        items
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::records::{BatchBuilder, Codec};

    fn batch(base_offset: i64, count: i64, value: &[u8]) -> Batch {
        let mut builder = BatchBuilder::new(base_offset, Codec::None);
        for n in 0..count {
            builder.push(ConsumerRecord {
                offset: base_offset + n,
                timestamp: 0,
                leader_epoch: 3,
                key: None,
                value: Some(value.to_vec().into()),
                headers: Default::default(),
            });
        }
        Batch::of(builder.leader_epoch(3).build().unwrap().into()).unwrap()
    }

    #[tokio::test]
    async fn chunks_are_bounded_by_number_and_by_size_and_cross_batches() {
        let small = (0..100).map(|n| batch(n * 100, 100, b"x"));
        let large = batch(10_000, 6, &vec![0; 1 << 19]);
        let mut chunks = Chunks::new(small.chain([large]).collect(), 1 << 20);
        let mut sizes = Vec::new();
        let mut position = Position::at(0);
        loop {
            let (rest, items) = chunks.next().await;
            chunks = rest;
            if items.is_empty() {
                break;
            }
            position = position_after(items.last().unwrap(), position);
            sizes.push(items.len());
        }
        assert!(chunks.is_at_end());
        assert_eq!(sizes, [8_192, 1_808 + 2, 2, 2]);
        assert_eq!((position.offset, position.leader_epoch), (10_006, Some(3)));
    }
}
