//! The transaction coordinator: for each `transactional.id` its producer, its epoch, and the
//! transaction that is open.
//!
//! A change is on disk before it is answered. A transaction ends in three steps, each of which can
//! be repeated: the outcome is stored, every partition gets its marker, the end is stored. While
//! it ends, and after a crash in between until [`Transactions::unfinished`] was worked off, the id
//! answers CONCURRENT_TRANSACTIONS. Fencing: whoever initialises the id gets a higher epoch, and
//! an abort by time-out raises it too, so that the former producer is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kafka_protocol::error::ResponseError;
use serde::{Deserialize, Serialize};

use crate::groups::offsets::{Committed, TopicPartition};
use crate::journal::{self, Journal};
use crate::log::marker::Outcome;

/// Kafka's `transaction.max.timeout.ms`.
const MAX_TIMEOUT_MS: i32 = 900_000;
/// The last epoch that a producer id can have; then comes a new id.
const LAST_EPOCH: i16 = i16::MAX - 1;

/// A producer at its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Producer {
    pub id: i64,
    pub epoch: i16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    /// No transaction since the id was initialised.
    Empty,
    Open,
    /// The outcome is decided; markers are being written.
    Ending(Outcome),
    Ended(Outcome),
}

/// Offsets that a transaction commits, by group: topic, partition, offset.
type Offsets = BTreeMap<String, Vec<(TopicPartition, Committed)>>;

/// One transactional id; the line of the journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Transaction {
    transactional_id: String,
    producer: Producer,
    /// The epoch that the present one followed when its producer asked for a new one.
    former_epoch: Option<i16>,
    timeout_ms: i32,
    state: State,
    started_ms: i64,
    partitions: BTreeSet<TopicPartition>,
    offsets: Offsets,
    /// Whether somebody is writing the markers.
    #[serde(skip)]
    being_ended: bool,
}

/// A transaction whose outcome is stored: what is left to do.
#[derive(Debug, Clone)]
pub(crate) struct Ending {
    pub transactional_id: String,
    pub producer: Producer,
    pub outcome: Outcome,
    pub partitions: Vec<TopicPartition>,
    pub offsets: Offsets,
}

/// What InitProducerId leads to.
#[derive(Debug)]
pub(crate) enum Initialised {
    Producer(Producer),
    /// A transaction was open: it has to be aborted first.
    Abort(Ending),
}

/// All transactional ids. Every method but the queries (`check_produce`, `has_pending_offset`)
/// may block.
#[derive(Debug)]
pub(crate) struct Transactions {
    /// Locked for moments only.
    by_id: Mutex<BTreeMap<String, Transaction>>,
    /// Whoever changes a transaction holds it from its look at the present state on.
    journal: Mutex<Journal>,
}

impl Transactions {
    pub fn open(file: &Path) -> io::Result<Self> {
        let lines = journal::read::<Transaction>(file)?;
        let by_id: BTreeMap<_, _> =
            lines.into_iter().map(|line| (line.transactional_id.clone(), line)).collect();
        let journal = Journal::rewrite(file, by_id.values())?;
        Ok(Self { by_id: Mutex::new(by_id), journal: Mutex::new(journal) })
    }

    fn by_id(&self) -> MutexGuard<'_, BTreeMap<String, Transaction>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_changes(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// InitProducerId: a producer with an epoch above all before it. `known` is what the client
    /// believes to be, when it recovers from an error. `new_id` makes a producer id.
    pub fn initialise(
        &self,
        transactional_id: &str,
        timeout_ms: i32,
        known: Option<Producer>,
        new_id: impl FnOnce() -> io::Result<i64>,
    ) -> Result<Initialised, ResponseError> {
        if transactional_id.is_empty() {
            return Err(ResponseError::InvalidRequest);
        }
        if !(1..=MAX_TIMEOUT_MS).contains(&timeout_ms) {
            return Err(ResponseError::InvalidTransactionTimeout);
        }
        let mut journal = self.lock_changes();
        let present = self.by_id().get(transactional_id).cloned();
        let mut next = match present {
            None => Transaction {
                transactional_id: transactional_id.to_owned(),
                producer: Producer { id: new_id().map_err(storage_error)?, epoch: -1 },
                former_epoch: None,
                timeout_ms,
                state: State::Empty,
                started_ms: 0,
                partitions: BTreeSet::new(),
                offsets: Offsets::new(),
                being_ended: false,
            },
            Some(mut next) => {
                next.check_recovery(known)?;
                match next.state {
                    State::Ending(_) => return Err(ResponseError::ConcurrentTransactions),
                    State::Open => {
                        next.fence();
                        return self.decide(&mut journal, next, Outcome::Abort).map(Initialised::Abort);
                    }
                    State::Empty | State::Ended(_) if next.producer.epoch >= LAST_EPOCH => {
                        next.producer = Producer { id: new_id().map_err(storage_error)?, epoch: -1 };
                    }
                    State::Empty | State::Ended(_) => {}
                }
                next
            }
        };
        let repeated = known.is_some_and(|known| next.former_epoch == Some(known.epoch));
        if !repeated {
            next.former_epoch = known.map(|known| known.epoch);
            next.producer.epoch += 1;
        }
        next.timeout_ms = timeout_ms;
        next.state = State::Empty;
        let producer = next.producer;
        self.store(&mut journal, next)?;
        Ok(Initialised::Producer(producer))
    }

    /// AddPartitionsToTxn, or what else a transaction begins with.
    pub fn add_partitions(
        &self,
        transactional_id: &str,
        producer: Producer,
        partitions: Vec<TopicPartition>,
        now_ms: i64,
    ) -> Result<(), ResponseError> {
        let mut journal = self.lock_changes();
        let mut next = self.of_producer(transactional_id, producer)?;
        let is_open = next.state == State::Open;
        if is_open && partitions.iter().all(|partition| next.partitions.contains(partition)) {
            return Ok(());
        }
        next.begin(now_ms)?;
        next.partitions.extend(partitions);
        self.store(&mut journal, next)
    }

    /// TxnOffsetCommit: the offsets count once the transaction commits.
    pub fn add_offsets(
        &self,
        transactional_id: &str,
        producer: Producer,
        group: &str,
        offsets: Vec<(TopicPartition, Committed)>,
    ) -> Result<(), ResponseError> {
        let mut journal = self.lock_changes();
        let mut next = self.of_producer(transactional_id, producer)?;
        if next.state != State::Open {
            return Err(ResponseError::InvalidTxnState);
        }
        let pending = next.offsets.entry(group.to_owned()).or_default();
        pending.retain(|(entry, _)| !offsets.iter().any(|(newer, _)| newer == entry));
        pending.extend(offsets);
        self.store(&mut journal, next)
    }

    /// EndTxn: decides the outcome. `None` when it was ended so already.
    pub fn end(
        &self,
        transactional_id: &str,
        producer: Producer,
        outcome: Outcome,
    ) -> Result<Option<Ending>, ResponseError> {
        let mut journal = self.lock_changes();
        let next = self.of_producer(transactional_id, producer)?;
        match next.state {
            State::Open => self.decide(&mut journal, next, outcome).map(Some),
            State::Ended(decided) if decided == outcome => Ok(None),
            State::Ending(decided) if decided == outcome => Err(ResponseError::ConcurrentTransactions),
            State::Empty | State::Ending(_) | State::Ended(_) => Err(ResponseError::InvalidTxnState),
        }
    }

    /// The markers are in the log and the offsets are committed.
    pub fn ended(&self, ending: &Ending) -> Result<(), ResponseError> {
        let mut journal = self.lock_changes();
        let present = self.by_id().get(&ending.transactional_id).cloned();
        let Some(mut next) = present else { return Ok(()) };
        next.state = State::Ended(ending.outcome);
        next.partitions.clear();
        next.offsets.clear();
        next.being_ended = false;
        self.store(&mut journal, next)
    }

    /// A marker could not be written: somebody else has to try again.
    pub fn not_ended(&self, ending: &Ending) {
        self.release(&ending.transactional_id);
    }

    /// What nobody works on: endings that a crash or an error cut short, and the abort of
    /// transactions that are open for longer than their time-out.
    pub fn unfinished(&self, now_ms: i64) -> Vec<Ending> {
        let mut journal = self.lock_changes();
        let is_late = |transaction: &Transaction| {
            let age = now_ms.saturating_sub(transaction.started_ms);
            transaction.state == State::Open && age >= i64::from(transaction.timeout_ms)
        };
        let late: Vec<_> =
            self.by_id().values().filter(|transaction| is_late(transaction)).cloned().collect();
        for mut transaction in late {
            log::info!(
                "transaction {} is open for longer than {} ms and is aborted",
                transaction.transactional_id.escape_debug(),
                transaction.timeout_ms
            );
            transaction.fence();
            if let Ok(ending) = self.decide(&mut journal, transaction, Outcome::Abort) {
                self.release(&ending.transactional_id);
            }
        }
        let mut by_id = self.by_id();
        let idle = by_id.values_mut().filter(|transaction| !transaction.being_ended);
        idle.filter_map(Transaction::take_ending).collect()
    }

    /// Whether a produce may write to a partition in the open transaction of its producer.
    pub fn check_produce(
        &self,
        transactional_id: Option<&str>,
        producer: Producer,
        partition: &TopicPartition,
    ) -> Result<(), ResponseError> {
        let transactional_id = transactional_id.ok_or(ResponseError::InvalidTxnState)?;
        let transaction = self.of_producer(transactional_id, producer);
        let transaction = transaction.map_err(|error| match error {
            ResponseError::ProducerFenced => ResponseError::InvalidProducerEpoch,
            other => other,
        })?;
        let is_in = transaction.state == State::Open && transaction.partitions.contains(partition);
        if is_in { Ok(()) } else { Err(ResponseError::InvalidTxnState) }
    }

    /// Whether an open transaction has offsets for a partition of a group.
    pub fn has_pending_offset(&self, group: &str, topic: &str, partition: i32) -> bool {
        let is_it = |(entry, _): &(TopicPartition, Committed)| entry.0 == topic && entry.1 == partition;
        let by_id = self.by_id();
        let mut pending = by_id.values().filter_map(|transaction| transaction.offsets.get(group));
        pending.any(|offsets| offsets.iter().any(is_it))
    }

    fn of_producer(&self, transactional_id: &str, producer: Producer) -> Result<Transaction, ResponseError> {
        let by_id = self.by_id();
        let known = by_id.get(transactional_id).ok_or(ResponseError::InvalidProducerIdMapping)?;
        if known.producer.id != producer.id {
            return Err(ResponseError::InvalidProducerIdMapping);
        }
        if known.producer.epoch != producer.epoch {
            return Err(ResponseError::ProducerFenced);
        }
        Ok(known.clone())
    }

    fn decide(
        &self,
        journal: &mut Journal,
        mut next: Transaction,
        outcome: Outcome,
    ) -> Result<Ending, ResponseError> {
        next.state = State::Ending(outcome);
        let ending = next.take_ending().ok_or(ResponseError::InvalidTxnState)?;
        self.store(journal, next)?;
        Ok(ending)
    }

    fn release(&self, transactional_id: &str) {
        if let Some(transaction) = self.by_id().get_mut(transactional_id) {
            transaction.being_ended = false;
        }
    }

    fn store(&self, journal: &mut Journal, next: Transaction) -> Result<(), ResponseError> {
        journal.append(std::iter::once(&next)).map_err(storage_error)?;
        journal.sync().map_err(storage_error)?;
        let mut by_id = self.by_id();
        by_id.insert(next.transactional_id.clone(), next);
        if journal.is_stale() {
            *journal = Journal::rewrite(journal.path(), by_id.values()).map_err(storage_error)?;
        }
        Ok(())
    }
}

impl Transaction {
    /// A client that recovers must be the present producer, or the one that it was made from.
    fn check_recovery(&self, known: Option<Producer>) -> Result<(), ResponseError> {
        let Some(known) = known else { return Ok(()) };
        let is_present = known.epoch == self.producer.epoch || Some(known.epoch) == self.former_epoch;
        if known.id == self.producer.id && is_present { Ok(()) } else { Err(ResponseError::ProducerFenced) }
    }

    /// Shuts the present producer out.
    fn fence(&mut self) {
        self.producer.epoch = self.producer.epoch.saturating_add(1);
        self.former_epoch = None;
    }

    fn begin(&mut self, now_ms: i64) -> Result<(), ResponseError> {
        match self.state {
            State::Ending(_) => Err(ResponseError::ConcurrentTransactions),
            State::Open => Ok(()),
            State::Empty | State::Ended(_) => {
                self.state = State::Open;
                self.started_ms = now_ms;
                Ok(())
            }
        }
    }

    /// What is left to do; the caller does it.
    fn take_ending(&mut self) -> Option<Ending> {
        let State::Ending(outcome) = self.state else { return None };
        self.being_ended = true;
        Some(Ending {
            transactional_id: self.transactional_id.clone(),
            producer: self.producer,
            outcome,
            partitions: self.partitions.iter().cloned().collect(),
            offsets: self.offsets.clone(),
        })
    }
}

fn storage_error(error: io::Error) -> ResponseError {
    log::error!("cannot store a transaction: {error}");
    ResponseError::CoordinatorNotAvailable
}
