//! One batch of records: decode, dedup, handle, then make durable.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rskafka::record::RecordAndOffset;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::committer::Lease;
use super::retry::TRIES;
use super::{Backoff, Delivery, Done, Handler, HandlerError, PartitionState, Said, Service, Shared, Status};
use crate::dlq::Failure;
use crate::kafka::Position;
use crate::offsets::Slot;

/// Turns true when handling has to end: another owner, or a stop.
pub(super) type Halt = watch::Receiver<bool>;

/// A batch in flight. What is handled of it is forgotten with the handler unless it is made durable.
pub(super) struct Batch<'a, S: Service> {
    pub(super) shared: &'a Arc<Shared<S>>,
    pub(super) slot: &'a Slot,
    pub(super) halt: &'a Halt,
    pub(super) lease: &'a Lease,
    pub(super) handler: &'a mut S::Handler,
}

/// A message of the service's handler.
type MessageOf<S> = <<S as Service>::Handler as Handler>::Message;

/// What was handled of a batch.
pub(super) struct Outcome {
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

impl<S: Service> Batch<'_, S> {
    /// Whether handling has to end: a halt, or a lease that ran out. The process may have been stopped for
    /// an hour between any two events, and another instance may have handled the next.
    fn must_end(&self) -> bool {
        *self.halt.borrow() || Instant::now() >= *self.lease.borrow()
    }

    /// Handles the records in order, as many as it may. `None` if there is nothing to make durable.
    pub(super) async fn handle(&mut self, records: &[RecordAndOffset]) -> Option<Outcome> {
        let shared = Arc::clone(self.shared);
        let stats = shared.status.stats();
        let messages: Vec<_> = records.iter().map(|record| self.handler.decode(&record.record)).collect();
        let id_of = |message: &Result<MessageOf<S>, _>| {
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
        done.map(|offset| Outcome { offset, handled, ids: handled_ids })
    }

    /// Which of the ids were handled before. `None` if handling was halted before that is known.
    async fn known(&mut self, ids: &[Option<Uuid>]) -> Option<Vec<bool>> {
        let asked: Vec<Uuid> = ids.iter().copied().flatten().collect();
        let mut known = Vec::new().into_iter();
        if !asked.is_empty() {
            let mut retries = Retries::new(flush_backoff());
            known = loop {
                match self.handler.known(&asked).await {
                    Ok(known) => break known.into_iter(),
                    Err(error) => retries.wait(self, &error).await?,
                }
            };
        }
        Some(ids.iter().map(|id| id.is_some() && known.next().unwrap_or(false)).collect())
    }

    /// Handles one event, with retries; gives it up to the DLQ after the last.
    async fn handle_one(&mut self, record: &RecordAndOffset, message: &MessageOf<S>) -> Ended {
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
            let mut retries = Retries::new(Backoff::for_kafka());
            while let Err(error) = dlq.publish(&failure, record).await {
                if retries.wait(self, &HandlerError::new("dlq", error)).await.is_none() {
                    return false;
                }
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

    /// Flushes the handler. False if a halt came before it succeeded.
    pub(super) async fn make_durable(self, outcome: &Outcome) -> bool {
        let done = Done { position: Position::at(outcome.offset), ids: &outcome.ids };
        let mut retries = Retries::new(flush_backoff());
        while let Err(error) = self.handler.flush(&done).await {
            if retries.wait(&self, &error).await.is_none() {
                return false;
            }
        }
        Status::count(&self.shared.status.stats().handled, outcome.handled);
        true
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

/// The tries of work that has to succeed before anything else can be done.
struct Retries {
    backoff: Backoff,
    said: Said,
}

impl Retries {
    fn new(backoff: Backoff) -> Self {
        Self { backoff, said: Said::default() }
    }

    /// Reports the failure and waits for the next try. `None` if handling was halted.
    async fn wait<S: Service>(&mut self, batch: &Batch<'_, S>, error: &HandlerError) -> Option<()> {
        batch.blocked(&mut self.said, error);
        (!batch.halted_within(self.backoff.next_delay()).await).then_some(())
    }
}

fn flush_backoff() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(5))
}
