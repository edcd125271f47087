//! What a partition remembers of idempotent producers, to answer a retry with the offset that the
//! first try got. It is kept in memory and filled from the last segment at start, so after a
//! restart a retry of a batch in an older segment is not recognised.

use std::collections::{HashMap, VecDeque};

use kafka_protocol::error::ResponseError;

use super::batch::BatchHeader;

/// Kafka remembers the last five batches of an idempotent producer to answer retries.
const REMEMBERED_BATCHES: usize = 5;
/// Producers remembered for one partition; the least recently used is forgotten first.
const REMEMBERED_PRODUCERS: usize = 1000;

/// The idempotent producers of one partition.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    known: HashMap<i64, Producer>,
    clock: u64,
}

#[derive(Debug)]
struct Producer {
    epoch: i16,
    batches: VecDeque<SequencedBatch>,
    used: u64,
}

#[derive(Debug, Clone, Copy)]
struct SequencedBatch {
    first: i32,
    last: i32,
    base_offset: i64,
}

impl Producers {
    /// Kafka's rules for sequence numbers. `Some(offset)` for a batch that is there already.
    pub fn check(&self, header: &BatchHeader) -> Result<Option<i64>, ResponseError> {
        // A producer that is not known (forgotten, or new) may start anywhere, as in Kafka.
        let Some(known) = self.known.get(&header.producer_id) else {
            return Ok(None);
        };
        if header.producer_epoch < known.epoch {
            return Err(ResponseError::InvalidProducerEpoch);
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
        match known.batches.back() {
            Some(latest) if sequence_after(latest.last, 1) != header.base_sequence => {
                Err(ResponseError::OutOfOrderSequenceNumber)
            }
            _ => Ok(None),
        }
    }

    /// Takes note of a batch that was appended at its base offset.
    pub fn remember(&mut self, header: &BatchHeader) {
        if header.producer_id < 0 {
            return;
        }
        self.clock += 1;
        if self.known.len() >= REMEMBERED_PRODUCERS && !self.known.contains_key(&header.producer_id) {
            let oldest = self.known.iter().min_by_key(|(_, producer)| producer.used);
            if let Some(id) = oldest.map(|(id, _)| *id) {
                self.known.remove(&id);
            }
        }
        let producer = self.known.entry(header.producer_id).or_insert(Producer {
            epoch: header.producer_epoch,
            batches: VecDeque::new(),
            used: 0,
        });
        if producer.epoch != header.producer_epoch {
            producer.epoch = header.producer_epoch;
            producer.batches.clear();
        }
        producer.used = self.clock;
        if producer.batches.len() == REMEMBERED_BATCHES {
            producer.batches.pop_front();
        }
        producer.batches.push_back(SequencedBatch {
            first: header.base_sequence,
            last: sequence_after(header.base_sequence, header.last_offset_delta),
            base_offset: header.base_offset,
        });
    }
}

/// Sequence numbers wrap from `i32::MAX` to 0.
fn sequence_after(sequence: i32, steps: i32) -> i32 {
    let wrapped = (i64::from(sequence) + i64::from(steps)) % (i64::from(i32::MAX) + 1);
    i32::try_from(wrapped).unwrap_or(0)
}
