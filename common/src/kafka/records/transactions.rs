//! What `read_committed` leaves out: the records of aborted transactions, and the markers that end
//! transactions. Works as Kafka's own consumer does, on the batches of one fetch answer in their order.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};

use super::batch::Batch;

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
