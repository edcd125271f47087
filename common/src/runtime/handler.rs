//! What a service gives to the runtime: a [`Service`] that makes one [`Handler`] for each partition that
//! this instance owns.
//!
//! # Contract
//!
//! - A handler belongs to one ownership of one partition. It is opened before the claim and dropped when
//!   the ownership ends; handlers of different partitions run at the same time, and one that hangs holds up
//!   no other. What they share (a log writer, a database) the service shares among them.
//! - Dropping a handler forgets its work since the last flush. Dropping one of its futures, which happens
//!   when another instance has claimed the partition or a stop is requested, may leave the work of that
//!   call done or not done, but never half visible to another handler.
//! - Calls must not block the thread: file work goes to `spawn_blocking`. A call may take as long as the
//!   lease. One that hangs longer ends the renewals of the lease, and a standby takes over.
//! - For a batch of records the order is: `needs` and, where it says so, `prepare` for each; then `decode`, `dedup_id` and `wants` for each and `known` once, all by
//!   the [`Decoder`]; then `handle` for each event in the order of offsets, and `flush` once. Only then is the
//!   position committed.
//! - A handler may only take an event in `handle`, and end it later: then `first_pending` holds the position that is
//!   committed, and `ended` tells of its end. `flush` of such a handler only remembers what has ended, so it is called for
//!   that without a valid lease, too; and before such a handler is dropped in order, it is closed.
//! - The decoder works ahead: on the next batch while the handler is at this one. So it has no effects, and
//!   what `known` says may lack the ids of the batch that the handler is at. The runtime adds those.

use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::Notify;
use uuid::Uuid;

use super::lease::Lease;
use crate::event::Malformed;
use crate::kafka::{ConsumerRecord, Position};

/// Makes the handlers of one service.
pub trait Service: Send + Sync + 'static {
    /// What handles the events of one partition.
    type Handler: Handler;

    /// Opens the handler of a partition that this instance is about to claim. After an error, or while it
    /// hangs, nothing is claimed: an instance whose disk is broken leaves the partition to others.
    fn open(
        &self,
        topic: &str,
        partition: i32,
    ) -> impl Future<Output = Result<Self::Handler, HandlerError>> + Send;

    /// Why no partition could be handled now, where that is known before one is owned: this instance is then given
    /// none.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// What a commit of a partition keeps beside its offset, where the last one kept what `before` gives. Nothing,
    /// unless a service says otherwise. Called for each commit, so it must not block.
    fn commit_meta(
        &self,
        _topic: &str,
        _partition: i32,
        _before: impl FnOnce() -> Map<String, Value>,
    ) -> Map<String, Value> {
        Map::new()
    }
}

/// What a group takes from the records of one partition. It changes nothing, in memory or elsewhere.
pub trait Decoder: Send + Sync + 'static {
    /// An event, decoded.
    type Message: Send + Sync + 'static;

    /// Whether [`prepare`](Self::prepare) has to be called before the record can be decoded.
    fn needs(&self, _record: &ConsumerRecord) -> bool {
        false
    }

    /// Gets from elsewhere what decoding the record needs. While it fails, the partition waits before this record, and
    /// the runtime calls it again.
    fn prepare(&self, _record: &ConsumerRecord) -> impl Future<Output = Result<(), HandlerError>> + Send {
        async { Ok(()) }
    }

    /// Decodes a record. What is malformed goes straight to the DLQ.
    fn decode(&self, record: &ConsumerRecord) -> Result<Self::Message, Malformed>;

    /// Whether this group wants the event at all.
    fn wants(&self, message: &Self::Message) -> bool;

    /// The id under which a repeat of this event is known. `None`: the runtime looks for no repeats.
    fn dedup_id(&self, _message: &Self::Message) -> Option<Uuid> {
        None
    }

    /// Which of the ids were flushed before; an answer for each, in the same order. Repeats within one batch,
    /// and of the batch before it, are found by the runtime.
    fn known(&self, ids: &[Uuid]) -> impl Future<Output = Result<Vec<bool>, HandlerError>> + Send {
        let none = vec![false; ids.len()];
        async move { Ok(none) }
    }
}

/// What a group does with the events of one partition.
pub trait Handler: Send + Sync + 'static {
    /// What decodes the records of the partition.
    type Decoder: Decoder;

    /// The decoder, which is used beside the handler. Asked for once.
    fn decoder(&self) -> Self::Decoder;

    /// Why nothing can be handled now, where that is known before an event is there. It is shown meanwhile.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Handles one event. An error is retried, then given up to the DLQ.
    fn handle(
        &mut self,
        delivery: &Delivery<'_, <Self::Decoder as Decoder>::Message>,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send;

    /// Makes the work of all events since the last flush durable, then remembers their ids. Nothing is
    /// committed before it succeeds: the runtime calls it again until it does, so a call after a failure
    /// has to do the whole of it.
    ///
    /// It is also called where no event was handled (duplicates, dead letters, events that are not
    /// wanted), so that a service with a position of its own can keep `done.position`.
    ///
    /// Returns how many of the events were repeats after all, which a service knows that finds them itself.
    fn flush(&mut self, _done: &Done<'_>) -> impl Future<Output = Result<u64, HandlerError>> + Send {
        async { Ok(0) }
    }

    /// How far this partition's work is done as the service's own durable state says, read when the handler
    /// was opened. Reading starts at the lower of this and the committed position: what a restored backup
    /// lacks is handled again, and so is what an operator moved the group back to.
    fn own_position(&self) -> OwnPosition {
        OwnPosition::NotKept
    }

    /// The partition is this instance's from here on, under that lease. For a handler that begins work later than it
    /// takes an event: it does so under a valid lease alone.
    fn owned(&mut self, _lease: Lease) {}

    /// Told when events have ended that [`handle`](Self::handle) had only taken; `flush` is called then, also where no
    /// record comes. Asked for once.
    fn ended(&self) -> Option<Arc<Notify>> {
        None
    }

    /// The offset of the first event that was taken and has not ended. Nothing from there on is committed, whatever
    /// `flush` returned.
    fn first_pending(&self) -> Option<i64> {
        None
    }

    /// Events that were taken and are given up. Each goes to the DLQ, and is pending until [`Self::is_dead_letter`].
    fn take_given_up(&mut self) -> Vec<GivenUp> {
        Vec::new()
    }

    /// The DLQ has acknowledged the event.
    fn is_dead_letter(&mut self, _given_up: &GivenUp) {}

    /// The partition is to be another instance's, or a stop is requested: nothing more is begun of what was taken, and
    /// what is in flight may end, within what the halt allows. Whether nothing is in flight any more; asked again each
    /// time that [`ended`](Self::ended) tells, and only of a handler that has it. `flush` is called after each answer.
    fn close(&mut self) -> bool {
        true
    }

    /// Returns when the own position has moved back, because the service's durable state was changed by
    /// another hand. The runtime then drops this handler, opens another, and reads from its position.
    fn superseded(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}

/// An event that a handler had taken, and could not handle.
#[derive(Debug, Clone)]
pub struct GivenUp {
    /// Its id.
    pub event_id: Uuid,
    /// The record that it came in.
    pub record: ConsumerRecord,
    /// The kind of error.
    pub kind: &'static str,
    /// The error, for people.
    pub message: String,
    /// Tries after the first.
    pub retry_count: u32,
}

/// What has been done since the last flush.
#[derive(Debug, Clone, Copy)]
pub struct Done<'a> {
    /// All below it has ended: handled, a duplicate, not wanted, or acknowledged by the DLQ.
    pub position: Position,
    /// The ids of the events that were handled since the last flush.
    pub ids: &'a [Uuid],
}

/// A service's own durable position in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnPosition {
    /// The service keeps none: the committed one alone counts.
    NotKept,
    /// The service keeps one, and has done nothing of this partition: reading starts at the earliest
    /// record, whatever was committed.
    Empty,
    /// All below it is done and durable.
    At(Position),
}

/// An event, and where it is stored: its offset and time are those of the record.
#[derive(Debug)]
pub struct Delivery<'a, M> {
    /// The event.
    pub message: &'a M,
    /// The record that it came in.
    pub record: &'a ConsumerRecord,
    /// Its topic.
    pub topic: &'a str,
    /// Its partition.
    pub partition: i32,
}

/// Why an event was not handled, or its work not made durable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct HandlerError {
    /// The kind of error, for counting.
    pub kind: &'static str,
    /// The error, for people.
    pub message: String,
}

impl HandlerError {
    /// The kind of an error of a handler that is superseded: nothing is tried again with it.
    pub const SUPERSEDED: &str = "superseded";

    /// An error of that kind.
    pub fn new(kind: &'static str, message: impl ToString) -> Self {
        Self { kind, message: message.to_string() }
    }
}
