//! What `read_committed` leaves out: the records of aborted transactions, and the markers that end
//! transactions. Works as Kafka's own consumer does, on the batches of one fetch answer in their order.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};

use bytes::Buf;

use super::batch::Batch;

/// What a control batch says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlMarker {
    /// The format of the marker.
    pub version: i16,
    /// What it marks.
    pub marker: Marker,
    /// The producer whose transaction ends, -1 for none.
    pub producer_id: i64,
    /// The producer's epoch.
    pub producer_epoch: i16,
}

/// The kind of a control record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    /// The transaction was aborted.
    Abort,
    /// The transaction was committed.
    Commit,
    /// Of another part of Kafka, as its quorum controller.
    Other(i16),
}

impl ControlMarker {
    /// The marker is in the key of the only record.
    pub(super) fn of(batch: &Batch) -> Option<Self> {
        let header = batch.header()?;
        let record = batch.records().next()?.ok()?;
        let mut key = record.key?;
        let version = key.try_get_i16().ok()?;
        let marker = match key.try_get_i16().ok()? {
            0 => Marker::Abort,
            1 => Marker::Commit,
            other => Marker::Other(other),
        };
        let (producer_id, producer_epoch) = (header.producer_id, header.producer_epoch);
        Some(Self { version, marker, producer_id, producer_epoch })
    }
}

/// Tells the batches of a consumer apart from aborted ones and markers.
///
/// Made for each fetch answer from its list of aborted transactions, which names all that reach into it.
#[derive(Debug, Default)]
pub struct AbortedTransactions {
    /// First offset and producer of those that no batch has reached yet.
    ahead: BinaryHeap<Reverse<(i64, i64)>>,
    /// Producers whose current transaction is an aborted one.
    current: HashSet<i64>,
}

impl AbortedTransactions {
    /// The list of a fetch answer: producer id and first offset of each.
    pub fn new(aborted: impl IntoIterator<Item = (i64, i64)>) -> Self {
        let ahead =
            aborted.into_iter().map(|(producer_id, first_offset)| Reverse((first_offset, producer_id)));
        Self { ahead: ahead.collect(), current: HashSet::new() }
    }

    /// Whether the batch is for the consumer. Asked once for each batch of the answer, in order.
    ///
    /// A range that cannot be read is: nobody knows what it holds.
    pub fn admits(&mut self, batch: &Batch) -> bool {
        let Some(header) = batch.header() else {
            return true;
        };
        while let Some(Reverse((first_offset, producer_id))) = self.ahead.peek().copied() {
            if first_offset > header.last_offset() {
                break;
            }
            self.current.insert(producer_id);
            self.ahead.pop();
        }
        if header.is_control() {
            // Whichever marker it is, the transaction ends here.
            self.current.remove(&header.producer_id);
            return false;
        }
        !(header.is_transactional() && self.current.contains(&header.producer_id))
    }
}
