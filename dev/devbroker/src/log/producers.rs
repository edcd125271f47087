//! What a partition remembers of producers: the last batches of the idempotent ones, to answer a
//! retry with the offset that the first try got, and the transactions that are open or aborted.
//!
//! Invariants: all of it follows from the batches in their order, so it is the same after a
//! restart; a producer with an open transaction is never forgotten; every offset at or above the
//! last stable one belongs to, or comes after, a transaction whose end no consumer can see yet.

use std::collections::{HashMap, VecDeque};

use kafka_protocol::error::ResponseError;
use serde::{Deserialize, Serialize};
use task_events::kafka::records::BatchHeader;

use super::marker::Outcome;

/// Kafka remembers the last five batches of an idempotent producer to answer retries.
const REMEMBERED_BATCHES: usize = 5;
/// Producers remembered for one partition; the least recently used is forgotten first.
const REMEMBERED_PRODUCERS: usize = 1000;

/// The producers of one partition.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Producers {
    known: HashMap<i64, Producer>,
    clock: u64,
    /// In the order of their markers, from the log start on.
    aborted: Vec<Aborted>,
    /// Ended transactions whose marker is not below the high watermark yet.
    #[serde(skip)]
    ended: Vec<Ended>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Producer {
    epoch: i16,
    batches: VecDeque<SequencedBatch>,
    used: u64,
    /// The first offset of its open transaction.
    open_from: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct SequencedBatch {
    first: i32,
    last: i32,
    base_offset: i64,
}

/// An aborted transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Aborted {
    pub producer_id: i64,
    pub first_offset: i64,
    /// That of the marker.
    pub last_offset: i64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Ended {
    first_offset: i64,
    marker_offset: i64,
}

impl Producers {
    /// Kafka's rules for sequence numbers and transactions. `Some(offset)` for a batch that is
    /// there already.
    pub fn check(&self, header: &BatchHeader) -> Result<Option<i64>, ResponseError> {
        // A producer that is not known (forgotten, or new) may start anywhere, as in Kafka.
        let Some(known) = self.known.get(&header.producer_id) else {
            return Ok(None);
        };
        if header.producer_epoch < known.epoch {
            return Err(ResponseError::InvalidProducerEpoch);
        }
        if header.is_control() {
            return Ok(None);
        }
        if known.open_from.is_some() && !header.is_transactional() {
            return Err(ResponseError::InvalidTxnState);
        }
        if header.producer_epoch > known.epoch {
            return match header.base_sequence {
                0 => Ok(None),
                _ => Err(ResponseError::OutOfOrderSequenceNumber),
            };
        }
        let last = sequence_after(header.base_sequence, header.last_offset_delta);
        let same = |seen: &&SequencedBatch| seen.first == header.base_sequence && seen.last == last;
        if let Some(repeated) = known.batches.iter().find(same) {
            return Ok(Some(repeated.base_offset));
        }
        let expected = known.batches.back().map_or(0, |latest| sequence_after(latest.last, 1));
        match header.base_sequence == expected {
            true => Ok(None),
            false => Err(ResponseError::OutOfOrderSequenceNumber),
        }
    }

    /// Takes note of a batch that is in the log at its base offset; `outcome` is that of a marker.
    pub fn remember(&mut self, header: &BatchHeader, outcome: Option<Outcome>) {
        if header.producer_id < 0 {
            return;
        }
        self.clock += 1;
        if self.known.len() >= REMEMBERED_PRODUCERS && !self.known.contains_key(&header.producer_id) {
            let idle = self.known.iter().filter(|(_, producer)| producer.open_from.is_none());
            let oldest = idle.min_by_key(|(_, producer)| producer.used);
            if let Some(id) = oldest.map(|(id, _)| *id) {
                self.known.remove(&id);
            }
        }
        let producer = self.known.entry(header.producer_id).or_insert(Producer {
            epoch: header.producer_epoch,
            batches: VecDeque::new(),
            used: 0,
            open_from: None,
        });
        if producer.epoch != header.producer_epoch {
            producer.epoch = header.producer_epoch;
            producer.batches.clear();
        }
        producer.used = self.clock;
        if header.is_control() {
            if let (Some(outcome), Some(first_offset)) = (outcome, producer.open_from.take()) {
                self.end(header, outcome, first_offset);
            }
            return;
        }
        if header.is_transactional() {
            producer.open_from.get_or_insert(header.base_offset);
        }
        if producer.batches.len() == REMEMBERED_BATCHES {
            producer.batches.pop_front();
        }
        producer.batches.push_back(SequencedBatch {
            first: header.base_sequence,
            last: sequence_after(header.base_sequence, header.last_offset_delta),
            base_offset: header.base_offset,
        });
    }

    fn end(&mut self, marker: &BatchHeader, outcome: Outcome, first_offset: i64) {
        self.ended.push(Ended { first_offset, marker_offset: marker.base_offset });
        if outcome == Outcome::Abort {
            self.aborted.push(Aborted {
                producer_id: marker.producer_id,
                first_offset,
                last_offset: marker.base_offset,
            });
        }
    }

    /// The offset below which every transaction has ended, for a log whose consumers see what is
    /// below `high_watermark`.
    pub fn last_stable(&mut self, high_watermark: i64) -> i64 {
        self.ended.retain(|ended| ended.marker_offset >= high_watermark);
        let open = self.known.values().filter_map(|producer| producer.open_from);
        let unseen = self.ended.iter().map(|ended| ended.first_offset);
        open.chain(unseen).fold(high_watermark, i64::min)
    }

    /// The aborted transactions that have records in `from..until`, in the order of their markers.
    pub fn aborted(&self, from: i64, until: i64) -> Vec<Aborted> {
        let touches = |aborted: &&Aborted| aborted.last_offset >= from && aborted.first_offset < until;
        self.aborted.iter().filter(touches).copied().collect()
    }

    /// Forgets the aborted transactions that ended before `log_start`.
    pub fn forget_before(&mut self, log_start: i64) {
        self.aborted.retain(|aborted| aborted.last_offset >= log_start);
    }

    /// Forgets the aborted transactions whose markers are at these offsets. Whether there were any.
    pub fn forget_markers(&mut self, gone: &[i64]) -> bool {
        let before = self.aborted.len();
        self.aborted.retain(|aborted| !gone.contains(&aborted.last_offset));
        self.aborted.len() < before
    }
}

/// Sequence numbers wrap from `i32::MAX` to 0.
fn sequence_after(sequence: i32, steps: i32) -> i32 {
    let wrapped = (i64::from(sequence) + i64::from(steps)) % (i64::from(i32::MAX) + 1);
    i32::try_from(wrapped).unwrap_or(0)
}
