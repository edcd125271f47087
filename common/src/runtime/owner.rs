//! An owner at work: takes what the intake made ready, in order, and moves the position along.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::batch::{Batch, MessageOf, Outcome};
use super::handler::{Handler, Service};
use super::intake::{self, Intake, Step};
use super::ownership::Ownership;
use super::recent::Recent;
use super::shared::Shared;
use super::trouble::Trouble;
use crate::error_code::Code;
use crate::kafka::{Jump, JumpReason, PartitionReader, Position};
use crate::offsets::Slot;

/// A transaction that is open for less time is nothing to report.
const HELD_FOR: Duration = Duration::from_secs(1);

/// Returns when it is told; never without anybody who could.
async fn told(ended: Option<&Notify>) {
    match ended {
        Some(ended) => ended.notified().await,
        None => std::future::pending().await,
    }
}

pub(super) struct Owner<'a, S: Service> {
    shared: &'a Arc<Shared<S>>,
    slot: &'a Slot,
    pub(super) handler: S::Handler,
    pub(super) ownership: Ownership<S>,
    /// All below it is handled, or pending with the handler.
    reached: Position,
    /// The handler ends events later than it takes them, and is closed for that.
    ends_later: bool,
    /// What was handled and could not be made durable before the end.
    unfinished: Option<Outcome>,
    /// What was handled of late.
    recent: Recent,
    trouble: Trouble,
    reading: Trouble,
    held: Option<Held>,
}

/// The group is held by an open transaction of another producer.
struct Held {
    at: i64,
    since: Instant,
    is_logged: bool,
}

impl<'a, S: Service> Owner<'a, S> {
    pub(super) fn new(
        shared: &'a Arc<Shared<S>>,
        slot: &'a Slot,
        handler: S::Handler,
        ownership: Ownership<S>,
    ) -> Self {
        let trouble = |cause| Trouble::new(&shared.status, slot.partition, cause);
        let (trouble, reading) = (trouble("work"), trouble("read"));
        let reached = ownership.position();
        Self {
            shared,
            slot,
            handler,
            ownership,
            reached,
            ends_later: false,
            unfinished: None,
            recent: Recent::default(),
            trouble,
            reading,
            held: None,
        }
    }

    /// Handles what the reader brings, until halted, fenced or superseded.
    pub(super) async fn run(&mut self, reader: PartitionReader) {
        self.handler.owned(self.ownership.lease());
        let ended = self.handler.ended();
        self.ends_later = ended.is_some();
        self.take(reader, ended.as_deref()).await;
        if let Some(ended) = ended
            && self.ownership.is_halted()
        {
            self.close(&ended).await;
        }
    }

    async fn take(&mut self, reader: PartitionReader, ended: Option<&Notify>) {
        let (shared, slot) = (self.shared, self.slot);
        let (decoder, activity) = (self.handler.decoder(), self.ownership.activity());
        let mut intake = Intake::start(reader, decoder, slot, &shared.status, activity);
        loop {
            let step = tokio::select! {
                biased;
                () = self.ownership.halted() => return,
                () = self.handler.superseded() => return,
                () = told(ended) => {
                    if self.remember().await.is_none() {
                        return;
                    }
                    continue;
                }
                step = intake.next() => step,
            };
            let goes_on = match step {
                Step::Batch(batch) => {
                    self.reading.over(&format!("{slot} can be read again"));
                    match self.handler.trouble() {
                        Some(why) => {
                            self.trouble.report(&format!("{slot} is blocked, will try again: {why}"))
                        }
                        None => self.trouble.over(&format!("{slot} continues")),
                    }
                    self.ready(&batch).await
                }
                Step::Jumped(jump) => self.jumped(&jump).await,
                Step::Failing(error) => {
                    self.reading.report(&format!("{slot} cannot be read, will try again: {error}"));
                    Some(())
                }
            };
            if goes_on.is_none() {
                return;
            }
        }
    }

    /// Handles a batch. `None` when it has to end.
    async fn ready(&mut self, batch: &intake::Batch<MessageOf<S>>) -> Option<()> {
        let (status, partition) = (&self.shared.status, self.slot.partition);
        let answer = &batch.answer;
        if let Some(Ok(first)) = batch.events.first().map(|event| &event.item) {
            status.set_in_flight(partition, first.offset, first.timestamp);
        }
        status.set_log_end(partition, answer.high_watermark);
        let before = self.reached;
        let end = Position {
            offset: answer.next_offset,
            leader_epoch: answer.leader_epoch.or(before.leader_epoch),
            topic_id: answer.topic_id.or(before.topic_id),
        };
        // The topic's id is known from the first answer on, for all commits to come.
        self.advance(Position { topic_id: end.topic_id, ..before }, false);
        self.recent.next_batch();
        let mut left = batch.events.as_slice();
        while !left.is_empty() {
            self.ownership.lease_is_valid().await?;
            let begun = Instant::now();
            let Some(outcome) = self.batch().handle(left).await else {
                if self.ownership.is_halted() {
                    return None;
                }
                // The lease ran out before the first event.
                continue;
            };
            let count = outcome.count;
            self.finish(outcome).await?;
            status.stats().batches.record(begun.elapsed());
            // All of the batch, unless the lease ran out in its middle.
            left = left.get(count..).unwrap_or_default();
        }
        if !batch.is_last {
            return Some(());
        }
        // Past what holds no records: markers, aborted batches, and what compaction left empty.
        match self.reached.offset == end.offset {
            true => self.advance(end, false),
            false => self.finish(Outcome::at(end)).await?,
        }
        let is_held =
            answer.last_stable_offset < answer.high_watermark && end.offset >= answer.last_stable_offset;
        self.set_held(is_held.then_some(end.offset));
        Some(())
    }

    /// The log goes on elsewhere, and the position with it, also backwards.
    async fn jumped(&mut self, jump: &Jump) -> Option<()> {
        let slot = self.slot;
        let (Slot { group, topic, partition }, from, to) = (slot, jump.from, jump.to);
        match jump.reason {
            JumpReason::Retention | JumpReason::Recreated => {
                log::error!(group, topic, partition, from, to; "LOST: {slot}: {jump} {}", Code::EventsLost);
            }
            JumpReason::Truncated | JumpReason::BeyondEnd => {
                log::warn!(group, topic, partition, from, to; "{slot}: {jump}");
            }
        }
        let position = Position { offset: jump.to, leader_epoch: None, topic_id: jump.topic_id };
        self.finish(Outcome::at(position)).await
    }

    /// Makes durable what was handled, and lets it be committed.
    async fn finish(&mut self, outcome: Outcome) -> Option<()> {
        // The process may have been stopped for an hour with the batch in flight.
        if self.ownership.lease_is_valid().await.is_none() || !self.batch().make_durable(&outcome).await {
            self.unfinished = Some(outcome);
            return None;
        }
        self.move_on(&outcome).await
    }

    /// Makes durable what has ended of that which the handler had only taken. It has, whatever the lease: Kafka may be
    /// unreachable for hours.
    async fn remember(&mut self) -> Option<()> {
        let outcome = Outcome::at(self.reached);
        if !self.batch().make_durable(&outcome).await {
            return None;
        }
        self.ownership.lease_is_valid().await?;
        self.move_on(&outcome).await
    }

    async fn move_on(&mut self, outcome: &Outcome) -> Option<()> {
        let is_given_up = self.batch().give_up().await;
        self.advance(outcome.position, outcome.has_handled());
        (is_given_up && !self.ownership.is_halted()).then_some(())
    }

    /// Lets end what the handler has in flight, remembers what has ended, and moves the position as far as that is true:
    /// what is not remembered is done again by the next owner.
    async fn close(&mut self, ended: &Notify) {
        let mut outcome = self.unfinished.take().unwrap_or_else(|| Outcome::at(self.reached));
        let mut is_valid = true;
        loop {
            let is_idle = self.handler.close();
            if !self.batch().make_durable(&outcome).await {
                return;
            }
            // A lease that ran out before is not renewed any more.
            is_valid = is_valid && self.ownership.lease_is_valid().await.is_some();
            if is_valid {
                self.move_on(&outcome).await;
            }
            outcome = Outcome::at(outcome.position);
            if is_idle || self.ownership.unless_abandoned(ended.notified()).await.is_none() {
                return;
            }
        }
    }

    fn batch(&mut self) -> Batch<'_, S> {
        Batch {
            shared: self.shared,
            slot: self.slot,
            ownership: &self.ownership,
            handler: &mut self.handler,
            recent: &mut self.recent,
            reached: self.reached,
            ends_later: self.ends_later,
            trouble: &mut self.trouble,
        }
    }

    /// All below the position is handled, or pending with the handler: the first that is pending holds what is committed.
    fn advance(&mut self, position: Position, has_handled: bool) {
        self.reached = position;
        let pending = self.handler.first_pending().filter(|first| *first < position.offset);
        let done = match pending {
            // Its own epoch is not known here.
            Some(offset) => Position { offset, leader_epoch: None, ..position },
            None => position,
        };
        self.ownership.advance(done, has_handled);
        self.shared.status.set_position(self.slot.partition, done.offset);
    }

    /// Logs once that an open transaction holds the group, and once that it no longer does.
    fn set_held(&mut self, at: Option<i64>) {
        let slot = self.slot;
        self.shared.status.set_held(slot.partition, at);
        match (&mut self.held, at) {
            (Some(held), Some(at)) if held.at == at => {
                if !held.is_logged && held.since.elapsed() >= HELD_FOR {
                    log::info!("{slot} is held at offset {at} by an open transaction of another producer");
                    held.is_logged = true;
                }
            }
            (held, at) => {
                if let Some(before) = held.take_if(|held| held.is_logged) {
                    let seconds = before.since.elapsed().as_secs_f32();
                    log::info!("{slot} continues at offset {}, held for {seconds:.1} s", before.at);
                }
                *held = at.map(|at| Held { at, since: Instant::now(), is_logged: false });
            }
        }
    }
}
