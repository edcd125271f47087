//! Which leader epoch began at which offset, as Kafka's leader epoch cache: so that a client can
//! tell whether what it read last is still in the log.
//!
//! Invariant: epochs and offsets both rise from entry to entry.

use serde::{Deserialize, Serialize};

/// The first offset of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EpochStart {
    pub epoch: i32,
    pub offset: i64,
}

/// The end of an epoch: the largest epoch that is not larger than the one asked for, and the
/// first offset after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EpochEnd {
    pub epoch: i32,
    pub offset: i64,
}

/// The epochs of one log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Epochs(Vec<EpochStart>);

impl Epochs {
    /// The last epoch.
    pub fn latest(&self) -> Option<i32> {
        self.0.last().map(|last| last.epoch)
    }

    /// Takes note of an epoch that begins at `offset`. One that left no record before it is
    /// forgotten; one that is not newer than the last changes nothing.
    pub fn begin(&mut self, epoch: i32, offset: i64) {
        if self.latest().is_some_and(|latest| latest >= epoch) {
            return;
        }
        self.truncate_end(offset);
        self.0.push(EpochStart { epoch, offset });
    }

    /// The epoch of the record at `offset`.
    pub fn at(&self, offset: i64) -> Option<i32> {
        self.0.iter().rev().find(|start| start.offset <= offset).map(|start| start.epoch)
    }

    /// Where `epoch` ends in a log that ends at `log_end`; `None` for one that the log does not know.
    pub fn end_of(&self, epoch: i32, log_end: i64) -> Option<EpochEnd> {
        if self.latest() == Some(epoch) {
            return Some(EpochEnd { epoch, offset: log_end });
        }
        let next = self.0.iter().find(|start| start.epoch > epoch)?;
        let known = self.0.iter().rev().find(|start| start.epoch <= epoch);
        Some(EpochEnd { epoch: known.map_or(epoch, |start| start.epoch), offset: next.offset })
    }

    /// Forgets the epochs that begin at or after `log_end`.
    pub fn truncate_end(&mut self, log_end: i64) {
        self.0.retain(|start| start.offset < log_end);
    }

    /// The first epoch that is left begins at `log_start`.
    pub fn truncate_start(&mut self, log_start: i64) {
        let before = self.0.partition_point(|start| start.offset <= log_start);
        if let Some(last) = before.checked_sub(1) {
            self.0.drain(..last);
            if let Some(first) = self.0.first_mut() {
                first.offset = log_start;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_epoch_is_where_the_next_one_begins() {
        let mut epochs = Epochs::default();
        assert_eq!(epochs.end_of(0, 0), None);
        for (epoch, offset) in [(2, 0), (3, 10), (3, 12), (1, 15), (5, 20), (6, 30), (7, 30)] {
            epochs.begin(epoch, offset);
        }
        let end = |epoch, offset| Some(EpochEnd { epoch, offset });
        assert_eq!(epochs.end_of(1, 40), end(1, 0));
        assert_eq!(epochs.end_of(2, 40), end(2, 10));
        assert_eq!(epochs.end_of(4, 40), end(3, 20));
        assert_eq!(epochs.end_of(6, 40), end(5, 30), "epoch 6 left no record");
        assert_eq!(epochs.end_of(7, 40), end(7, 40));
        assert_eq!(epochs.end_of(8, 40), None);
        assert_eq!([0, 9, 10, 29, 30].map(|offset| epochs.at(offset)), [2, 2, 3, 5, 7].map(Some));

        epochs.truncate_start(15);
        assert_eq!(epochs.end_of(2, 40), end(2, 15));
        assert_eq!((epochs.at(14), epochs.at(15)), (None, Some(3)));
        epochs.truncate_end(20);
        assert_eq!(epochs.latest(), Some(3));
    }
}
