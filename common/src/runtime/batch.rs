//! One batch of records: decode, dedup, handle, then make durable.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rskafka::record::RecordAndOffset;
use tokio::sync::{MutexGuard, watch};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::committer::Lease;
use super::retry::TRIES;
use super::{Backoff, Delivery, Handler, HandlerError, PartitionState, Said, Shared, Status};
use crate::dlq::Failure;
use crate::offsets::Slot;

/// Turns true when handling has to end: another owner, or a stop.
pub(super) type Halt = watch::Receiver<bool>;

/// A batch in hand. The handler is held until the batch is durable or discarded, so that the work of two
/// partitions does not mix.
pub(super) struct Batch<'a, H: Handler> {
    shared: &'a Arc<Shared<H>>,
    slot: &'a Slot,
    halt: &'a Halt,
    lease: &'a Lease,
    handler: MutexGuard<'a, H>,
}

/// What was handled of a batch.
pub(super) struct Done {
    /// The offset below which all work is done, though not yet durable.
    pub(super) offset: i64,
    handled: u64,
    ids: Vec<Uuid>,
}

/// How one event ended.
enum Ended {
    Handled,
    GivenUp,
    /// Not at all: handling was halted before.
    Halted,
}

impl<'a, H: Handler> Batch<'a, H> {
    pub(super) async fn begin(
        shared: &'a Arc<Shared<H>>,
        slot: &'a Slot,
        halt: &'a Halt,
        lease: &'a Lease,
    ) -> Self {
        Self { shared, slot, halt, lease, handler: shared.handler.lock().await }
    }

    /// Whether handling has to end: a halt, or a lease that ran out. The process may have been stopped for
    /// an hour between any two events, and another instance may have handled the next.
    fn must_end(&self) -> bool {
        *self.halt.borrow() || Instant::now() >= *self.lease.borrow()
    }

    /// Handles the records in order, as many as it may. `None` if there is nothing to make durable.
    pub(super) async fn handle(&mut self, records: &[RecordAndOffset]) -> Option<Done> {
        let stats = self.shared.status.stats();
        let messages: Vec<_> = records.iter().map(|record| self.handler.decode(&record.record)).collect();
        let id_of = |message: &Result<H::Message, _>| {
            message.as_ref().ok().and_then(|message| self.handler.dedup_id(message))
        };
        let ids: Vec<Option<Uuid>> = messages.iter().map(id_of).collect();
        let known = self.known(&ids).await?;
        let mut seen: HashSet<Uuid> = HashSet::new();
        let mut done = None;
        let (mut handled, mut handled_ids) = (0, Vec::new());
        for (((record, message), id), known) in records.iter().zip(messages).zip(ids).zip(known) {
            if self.must_end() {
                break;
            }
            match message {
                Err(malformed) => {
                    let why = malformed.to_string();
                    log::error!(
                        "{why} ({}/{} offset {})",
                        self.slot.topic,
                        self.slot.partition,
                        record.offset
                    );
                    if !self.dead_letter(record, malformed.kind(), &why, 0).await {
                        break;
                    }
                }
                Ok(_) if known || id.is_some_and(|id| seen.contains(&id)) => {
                    Status::count(&stats.duplicates, 1)
                }
                Ok(message) if !self.handler.wants(&message) => Status::count(&stats.not_of_interest, 1),
                Ok(message) => match self.handle_one(record, &message).await {
                    Ended::Handled => {
                        handled += 1;
                        seen.extend(id);
                        handled_ids.extend(id);
                    }
                    Ended::GivenUp => {}
                    Ended::Halted => break,
                },
            }
            done = Some(record.offset + 1);
        }
        done.map(|offset| Done { offset, handled, ids: handled_ids })
    }

    /// Gives the work up: another owner does it.
    pub(super) fn discard(mut self) {
        self.handler.discard();
    }

    async fn known(&self, ids: &[Option<Uuid>]) -> Option<Vec<bool>> {
        let Some(dedup) = &self.shared.dedup else {
            return Some(vec![false; ids.len()]);
        };
        // A nil id stands for "none": it is never recorded, so it is never known.
        let asked: Vec<Uuid> = ids.iter().map(|id| id.unwrap_or_default()).collect();
        self.until_done(flush_backoff(), || async {
            dedup.known(asked.clone()).await.map_err(|error| HandlerError::new("dedup", error))
        })
        .await
    }

    /// Handles one event, with retries; gives it up to the DLQ after the last.
    async fn handle_one(&mut self, record: &RecordAndOffset, message: &H::Message) -> Ended {
        let delivery = Delivery {
            message,
            record: &record.record,
            topic: &self.slot.topic,
            partition: self.slot.partition,
            offset: record.offset,
            timestamp: record.record.timestamp,
        };
        let mut backoff = Backoff::between_tries();
        let mut tries = 1;
        loop {
            let error = match self.handler.handle(&delivery).await {
                Ok(()) => return Ended::Handled,
                Err(error) => error,
            };
            let at = format!("{}/{} offset {}", self.slot.topic, self.slot.partition, record.offset);
            if tries == TRIES {
                log::error!("gave up the event at {at} after {tries} tries: {error}");
                let given_up = self.dead_letter(record, error.kind, &error.message, tries - 1).await;
                return if given_up { Ended::GivenUp } else { Ended::Halted };
            }
            log::warn!("try {tries} of {TRIES} to handle the event at {at} failed: {error}");
            Status::count(&self.shared.status.stats().retries, 1);
            if self.halted_within(backoff.next_delay()).await || self.must_end() {
                return Ended::Halted;
            }
            tries += 1;
        }
    }

    /// Writes the record to the DLQ, however long that takes. False if handling was halted before.
    async fn dead_letter(
        &self,
        record: &RecordAndOffset,
        kind: &str,
        message: &str,
        retry_count: u32,
    ) -> bool {
        let (topic, partition) = (self.slot.topic.as_str(), self.slot.partition);
        if let Some(dlq) = &self.shared.dlq {
            let failure = Failure { group: &self.slot.group, topic, partition, kind, message, retry_count };
            let publish = || async {
                dlq.publish(&failure, record).await.map_err(|error| HandlerError::new("dlq", error))
            };
            if self.until_done(Backoff::for_kafka(), publish).await.is_none() {
                return false;
            }
            log::warn!(
                "sent the event at {topic}/{partition} offset {} to {} ({kind})",
                record.offset,
                dlq.topic()
            );
        }
        Status::count(&self.shared.status.stats().dead_lettered, 1);
        true
    }

    /// Flushes the handler, then records the ids. False if a halt came before it succeeded.
    pub(super) async fn make_durable(mut self, done: Done) -> bool {
        let Done { handled, ids, .. } = done;
        let mark;
        let mut backoff = flush_backoff();
        let mut said = Said::default();
        loop {
            match self.handler.flush().await {
                Ok(flushed) => {
                    mark = flushed;
                    Status::count(&self.shared.status.stats().handled, handled);
                    break;
                }
                Err(error) => {
                    self.blocked(&mut said, &error);
                    if self.halted_within(backoff.next_delay()).await {
                        // Else the next flush, of another partition even, would write it.
                        self.handler.discard();
                        return false;
                    }
                }
            }
        }
        let Some(dedup) = self.shared.dedup.as_ref().filter(|_| !ids.is_empty() || mark.is_some()) else {
            return true;
        };
        let record = || async {
            dedup.record(ids.clone(), mark.clone()).await.map_err(|error| HandlerError::new("dedup", error))
        };
        self.until_done(flush_backoff(), record).await.is_some()
    }

    /// Repeats the work until it succeeds. `None` if it was halted before.
    async fn until_done<T, F>(&self, mut backoff: Backoff, mut work: impl FnMut() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, HandlerError>>,
    {
        let mut said = Said::default();
        loop {
            match work().await {
                Ok(value) => return Some(value),
                Err(error) => {
                    self.blocked(&mut said, &error);
                    if self.halted_within(backoff.next_delay()).await {
                        return None;
                    }
                }
            }
        }
    }

    fn blocked(&self, said: &mut Said, error: &HandlerError) {
        let why = format!("{} cannot go on, will try again: {error}", self.slot);
        said.warn(&why);
        self.shared.status.set(self.slot.partition, PartitionState::Blocked { why });
    }

    /// Waits, and says whether a halt came meanwhile.
    async fn halted_within(&self, delay: Duration) -> bool {
        let mut halt = self.halt.clone();
        timeout(delay, halt.wait_for(|halt| *halt)).await.is_ok()
    }
}

fn flush_backoff() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(5))
}
