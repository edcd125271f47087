//! One batch of events that are ready: handle, then make durable.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::chunks::position_after;
use super::handler::{Decoder, Delivery, Done, GivenUp, Handler, HandlerError, Service};
use super::intake::Ready;
use super::ownership::Ownership;
use super::recent::Recent;
use super::shared::Shared;
use super::status::Status;
use super::trouble::Trouble;
use crate::backoff::Backoff;
use crate::dlq::{DeadLetter, Failure};
use crate::error_code::Code;
use crate::event;
use crate::kafka::records::UnreadableReason;
use crate::kafka::{ConsumerRecord, Position};
use crate::offsets::Slot;

/// Tries of one event, the first included.
const TRIES: u32 = 5;

/// A batch in flight. What is handled of it is forgotten with the handler unless it is made durable.
pub(super) struct Batch<'a, S: Service> {
    pub(super) shared: &'a Arc<Shared<S>>,
    pub(super) slot: &'a Slot,
    pub(super) ownership: &'a Ownership<S>,
    pub(super) handler: &'a mut S::Handler,
    pub(super) recent: &'a mut Recent,
    /// All below it is handled, or pending with the handler.
    pub(super) reached: Position,
    /// The handler is closed at a halt, and flushed then.
    pub(super) ends_later: bool,
    /// What the partition waits for while a step is tried again.
    pub(super) trouble: &'a mut Trouble,
}

/// A message of the service's handlers.
pub(super) type MessageOf<S> = <<<S as Service>::Handler as Handler>::Decoder as Decoder>::Message;

/// What was handled of a batch.
pub(super) struct Outcome {
    /// All below it is done, though not yet durable.
    pub(super) position: Position,
    /// The items that were taken.
    pub(super) count: usize,
    handled: u64,
    ids: Vec<Uuid>,
}

impl Outcome {
    /// Nothing but a position: what is between offers no records (markers, aborted or compacted ones), or
    /// the log goes on elsewhere.
    pub(super) fn at(position: Position) -> Self {
        Self { position, count: 0, handled: 0, ids: Vec::new() }
    }

    /// Whether any event was handled.
    pub(super) fn has_handled(&self) -> bool {
        self.handled > 0
    }
}

/// How one event ended.
enum Ended {
    Handled,
    GivenUp,
    /// Not at all: handling was halted before.
    Halted,
}

impl<S: Service> Batch<'_, S> {
    /// Handles the events in order, as many as it may. `None` if there is nothing to make durable.
    pub(super) async fn handle(&mut self, events: &[Ready<MessageOf<S>>]) -> Option<Outcome> {
        let shared = Arc::clone(self.shared);
        let stats = shared.status.stats();
        let (mut position, mut count) = (self.reached, 0);
        let (mut handled, mut ids, mut duplicates, mut not_of_interest) = (0, Vec::new(), 0, 0);
        for Ready { item, message, is_wanted, id, is_known } in events {
            if self.ownership.must_pause() {
                break;
            }
            match (item, message) {
                (Err(unreadable), _) => {
                    let Slot { group, topic, partition } = self.slot;
                    log::error!(
                        group, topic, partition, offset = unreadable.first_offset;
                        "{}: {unreadable} {}", self.slot, Code::UnreadableRecord
                    );
                    let letter = DeadLetter::Unreadable(unreadable);
                    let (kind, why) = (kind_of(&unreadable.reason), unreadable.to_string());
                    if !self.dead_letter(letter, kind, &why, 0).await {
                        break;
                    }
                }
                (Ok(_), None) => not_of_interest += 1,
                (Ok(record), Some(Err(malformed))) => {
                    let why = malformed.to_string();
                    let Slot { group, topic, partition } = self.slot;
                    let (offset, kind) = (record.offset, malformed.kind());
                    log::error!(
                        correlation_id = correlation_id(record).as_deref(), group, topic, partition, offset, kind;
                        "{why} ({topic}/{partition} offset {offset}) {}", Code::MalformedEvent
                    );
                    if !self.dead_letter(DeadLetter::Record(record), malformed.kind(), &why, 0).await {
                        break;
                    }
                }
                (Ok(_), Some(Ok(_))) if *is_known || id.is_some_and(|id| self.recent.contains(id)) => {
                    duplicates += 1;
                }
                (Ok(_), Some(Ok(_))) if !is_wanted => not_of_interest += 1,
                (Ok(record), Some(Ok(message))) => match self.handle_one(record, message).await {
                    Ended::Handled => {
                        handled += 1;
                        if let Some(id) = *id {
                            self.recent.add(id);
                            ids.push(id);
                        }
                    }
                    Ended::GivenUp => {}
                    Ended::Halted => break,
                },
            }
            position = position_after(item, position);
            count += 1;
        }
        Status::count(&stats.duplicates, duplicates);
        Status::count(&stats.not_of_interest, not_of_interest);
        (count > 0).then_some(Outcome { position, count, handled, ids })
    }

    /// Handles one event, with retries; gives it up to the DLQ after the last.
    async fn handle_one(&mut self, record: &ConsumerRecord, message: &MessageOf<S>) -> Ended {
        let delivery = Delivery { message, record, topic: &self.slot.topic, partition: self.slot.partition };
        let mut backoff = backoff_between_tries();
        let mut tries = 1;
        loop {
            let outcome = {
                let mut handling = std::pin::pin!(self.handler.handle(&delivery));
                // Most handlers only remember the event. What is done at once need not be watched.
                match poll_fn(|context| Poll::Ready(handling.as_mut().poll(context))).await {
                    Poll::Ready(outcome) => Some(outcome),
                    Poll::Pending => self.ownership.call("handling an event", handling).await,
                }
            };
            let error = match outcome {
                None => return Ended::Halted,
                Some(Ok(())) => return Ended::Handled,
                Some(Err(error)) => error,
            };
            let Slot { group, topic, partition } = self.slot;
            let (offset, kind, correlation_id) = (record.offset, error.kind, correlation_id(record));
            if tries == TRIES {
                log::error!(
                    correlation_id = correlation_id.as_deref(), group, topic, partition, offset, kind, tries;
                    "gave up the event at {topic}/{partition} offset {offset} after {tries} tries: {error} {}",
                    Code::GaveUp
                );
                let given_up =
                    self.dead_letter(DeadLetter::Record(record), error.kind, &error.message, tries - 1).await;
                return if given_up { Ended::GivenUp } else { Ended::Halted };
            }
            log::warn!(
                correlation_id = correlation_id.as_deref(), group, topic, partition, offset, kind, tries;
                "try {tries} of {TRIES} to handle the event at {topic}/{partition} offset {offset} failed: {error}"
            );
            Status::count(&self.shared.status.stats().retries, 1);
            if self.ownership.halted_within(backoff.next_delay()).await || self.ownership.must_pause() {
                return Ended::Halted;
            }
            tries += 1;
        }
    }

    /// Writes the record to the DLQ, however long that takes. False if handling was halted before.
    async fn dead_letter(
        &mut self,
        letter: DeadLetter<'_>,
        kind: &str,
        message: &str,
        retry_count: u32,
    ) -> bool {
        let slot = self.slot;
        let (topic, partition) = (slot.topic.as_str(), slot.partition);
        let shared = Arc::clone(self.shared);
        if let Some(dlq) = &shared.dlq {
            let failure = Failure { group: &slot.group, topic, partition, kind, message, retry_count };
            let mut backoff = Backoff::for_kafka();
            loop {
                match self.ownership.unless_abandoned(dlq.publish(&failure, letter)).await {
                    None => return false,
                    Some(Ok(())) => break,
                    Some(Err(error)) => {
                        if self.wait(&mut backoff, &HandlerError::new("dlq", error)).await.is_none() {
                            return false;
                        }
                    }
                }
            }
            self.works_again();
            let (offset, group, dlq) = (letter.first_offset(), &slot.group, dlq.topic());
            let correlation_id = letter.record().and_then(correlation_id);
            log::warn!(
                correlation_id = correlation_id.as_deref(), group, topic, partition, offset, kind, dlq;
                "sent the event at {topic}/{partition} offset {offset} to {dlq} ({kind})"
            );
        }
        Status::count(&self.shared.status.stats().dead_lettered, 1);
        true
    }

    /// Puts what the handler has given up into the DLQ. False if a halt came before.
    pub(super) async fn give_up(&mut self) -> bool {
        for given_up in self.handler.take_given_up() {
            let GivenUp { event_id, record, kind, message, retry_count } = &given_up;
            let (Slot { group, topic, partition }, offset, tries) =
                (self.slot, record.offset, retry_count + 1);
            log::error!(
                correlation_id = correlation_id(record).as_deref(), group, topic, partition, offset, kind, tries;
                "gave up the event at {topic}/{partition} offset {offset} after {tries} tries: {message} {}",
                Code::GaveUp
            );
            if !self.dead_letter(DeadLetter::Record(record), kind, message, *retry_count).await {
                return false;
            }
            // Redriven, it is no repeat.
            self.recent.remove(*event_id);
            self.handler.is_dead_letter(&given_up);
        }
        true
    }

    /// Flushes the handler. False if a halt came before it succeeded, or if the handler is superseded.
    pub(super) async fn make_durable(mut self, outcome: &Outcome) -> bool {
        let done = Done { position: outcome.position, ids: &outcome.ids };
        let mut backoff = flush_backoff();
        let shared = self.shared;
        let stats = shared.status.stats();
        let repeats = loop {
            let begun = Instant::now();
            match self.ownership.call("making events durable", self.handler.flush(&done)).await {
                None => return false,
                Some(Ok(repeats)) => {
                    stats.flushes.record(begun.elapsed());
                    break repeats.min(outcome.handled);
                }
                Some(Err(error)) if error.kind == HandlerError::SUPERSEDED => return false,
                Some(Err(error)) => {
                    let delay = backoff.next_delay();
                    self.blocked(&error);
                    let ends = match self.ends_later {
                        true => self.ownership.halted_within(delay).await,
                        false => !self.ownership.tries_again(delay).await,
                    };
                    if ends {
                        return false;
                    }
                }
            }
        };
        self.works_again();
        Status::count(&stats.handled, outcome.handled - repeats);
        Status::count(&stats.duplicates, repeats);
        true
    }

    /// Reports the failure and waits for the next try. `None` if handling was halted.
    async fn wait(&mut self, backoff: &mut Backoff, error: &HandlerError) -> Option<()> {
        self.blocked(error);
        (!self.ownership.halted_within(backoff.next_delay()).await).then_some(())
    }

    fn blocked(&mut self, error: &HandlerError) {
        self.trouble.report(&format!("{} is blocked, will try again: {error}", self.slot));
    }

    fn works_again(&mut self) {
        self.trouble.over(&format!("{} continues", self.slot));
    }
}

/// The correlation id of a record's event, if it has one: what ties its lines together.
fn correlation_id(record: &ConsumerRecord) -> Option<String> {
    event::correlation_id(record.value.as_deref()).map(|id| id.to_string())
}

fn kind_of(reason: &UnreadableReason) -> &'static str {
    match reason {
        UnreadableReason::TooLarge { .. } | UnreadableReason::BatchTooLarge { .. } => "too_large",
        UnreadableReason::UnknownCodec { .. } => "unknown_codec",
        UnreadableReason::OldFormat { .. } | UnreadableReason::UnknownFormat { .. } => "unknown_format",
        _ => "corrupt",
    }
}

fn backoff_between_tries() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(5)).with_factor(4)
}

fn flush_backoff() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(5))
}
