//! The stage ahead of the handler: takes what the reader brings, decodes it and looks up which events are
//! known, while the handler is still at the batch before.
//!
//! ```text
//! reader ──> intake: chunk → prepare → decode → known ──> owner: lease → handle → flush ──> committer
//!               (one batch ahead)                               (one batch)
//! ```
//!
//! # Invariants
//!
//! - *It has no effects.* What it has made ready is forgotten with it, when the partition is lost or a stop is
//!   requested; position, dead letters and commits are the owner's alone.
//! - *In order, one batch ahead.* Its queue holds one batch, and nothing is decoded before that has space for
//!   it. So memory is bounded, and what it asked `known` about lacks the ids of one batch at most: those of the
//!   batch that the owner is at, which adds them ([`Recent`](super::recent::Recent)).
//! - *What has to be had from elsewhere first holds up nothing before it*: where preparing a record fails, those before
//!   it are passed on, and the partition waits, with a reason that is shown. Such a wait is not a hang: the lease is
//!   renewed, since a standby would wait for the same.
//! - *It is watched as the handler is*: a lookup that hangs ends the renewals of the lease.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use uuid::Uuid;

use super::activity::{Activity, Stage};
use super::chunks::{Chunks, Item};
use super::handler::{Decoder, HandlerError};
use super::status::Status;
use super::trouble::Trouble;
use crate::backoff::Backoff;
use crate::event::Malformed;
use crate::kafka::{Fetched, Jump, KafkaError, PartitionReader, ReadEvent};
use crate::offsets::Slot;
use crate::redrive;

/// Batches that are ready before the owner takes them.
const AHEAD: usize = 1;

/// What the owner has to do next.
pub(super) enum Step<M> {
    Batch(Batch<M>),
    /// The log goes on elsewhere.
    Jumped(Jump),
    /// Reading fails at present.
    Failing(KafkaError),
}

/// Records of one answer, ready to be handled.
pub(super) struct Batch<M> {
    /// What the answer says beside its records, which are not in here.
    pub(super) answer: Fetched,
    pub(super) events: Vec<Ready<M>>,
    /// No more records of the answer follow.
    pub(super) is_last: bool,
}

/// A record, ready to be handled.
pub(super) struct Ready<M> {
    pub(super) item: Item,
    /// None of what cannot be read, and of what is redriven for another group.
    pub(super) message: Option<Result<M, Malformed>>,
    pub(super) is_wanted: bool,
    /// Under which a repeat is known; none where it is not wanted.
    pub(super) id: Option<Uuid>,
    pub(super) is_known: bool,
}

/// The task that works ahead. Ends with this value.
pub(super) struct Intake<M> {
    steps: mpsc::Receiver<Step<M>>,
    task: JoinHandle<()>,
}

impl<M: Send + Sync + 'static> Intake<M> {
    pub(super) fn start<D: Decoder<Message = M>>(
        reader: PartitionReader,
        decoder: D,
        slot: &Slot,
        status: &Status,
        activity: Arc<Activity>,
    ) -> Self {
        let (sender, steps) = mpsc::channel(AHEAD);
        let trouble = Trouble::new(status, slot.partition, "lookup");
        let unprepared = Trouble::new(status, slot.partition, "prepare");
        let slot = slot.clone();
        let worker = Worker { reader, decoder, slot, activity, trouble, unprepared, steps: sender };
        Self { steps, task: tokio::spawn(worker.run()) }
    }

    /// What is to be done next. Safe to cancel.
    pub(super) async fn next(&mut self) -> Step<M> {
        if let Some(step) = self.steps.recv().await {
            return step;
        }
        match (&mut self.task).await {
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The process ends.
            _ => std::future::pending().await,
        }
    }
}

impl<M> Drop for Intake<M> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Worker<D: Decoder> {
    reader: PartitionReader,
    decoder: D,
    slot: Slot,
    activity: Arc<Activity>,
    /// What lookups wait for.
    trouble: Trouble,
    /// What a record waits for before it can be decoded.
    unprepared: Trouble,
    steps: mpsc::Sender<Step<D::Message>>,
}

impl<D: Decoder> Worker<D> {
    /// Ends when nobody takes the steps.
    async fn run(mut self) {
        loop {
            let passed_on = match self.reader.next().await {
                ReadEvent::Fetched(fetched) => self.fetched(fetched).await,
                ReadEvent::Jumped(jump) => self.steps.send(Step::Jumped(jump)).await.ok(),
                ReadEvent::Failing(error) => self.steps.send(Step::Failing(error)).await.ok(),
            };
            if passed_on.is_none() {
                return;
            }
        }
    }

    /// Makes the records of one answer ready.
    async fn fetched(&mut self, mut fetched: Fetched) -> Option<()> {
        let batches = std::mem::take(&mut fetched.batches);
        let mut chunks = Chunks::new(batches, self.reader.answer_bytes());
        loop {
            let mut place = self.steps.clone().reserve_owned().await.ok()?;
            let (rest, mut items) = chunks.next().await;
            chunks = rest;
            let is_last = chunks.is_at_end();
            let mut backoff = Backoff::for_kafka();
            while let Err((ready, error)) = self.prepare(&items).await {
                self.unprepared.report(&format!("{} is blocked, will try again: {error}", self.slot));
                if ready == 0 {
                    sleep(backoff.next_delay()).await;
                    continue;
                }
                let waiting = items.split_off(ready);
                let events = self.make_ready(std::mem::replace(&mut items, waiting)).await;
                place.send(Step::Batch(Batch { answer: fetched.clone(), events, is_last: false }));
                place = self.steps.clone().reserve_owned().await.ok()?;
            }
            self.unprepared.over(&format!("{} continues", self.slot));
            let events = self.make_ready(items).await;
            let answer = fetched.clone();
            place.send(Step::Batch(Batch { answer, events, is_last }));
            if is_last {
                return Some(());
            }
        }
    }

    /// Has all of the records prepared that need it. An error: so many are, and the next one is not.
    async fn prepare(&self, items: &[Item]) -> Result<(), (usize, HandlerError)> {
        for (ready, item) in items.iter().enumerate() {
            if let Ok(record) = item
                && self.decoder.needs(record)
            {
                self.decoder.prepare(record).await.map_err(|error| (ready, error))?;
            }
        }
        Ok(())
    }

    async fn make_ready(&mut self, items: Vec<Item>) -> Vec<Ready<D::Message>> {
        let (decoder, group) = (&self.decoder, &self.slot.group);
        let decode = |item: Item| {
            let ours = item.as_ref().ok().filter(|record| redrive::is_for(&record.headers, group));
            let message = ours.map(|record| decoder.decode(record));
            let decoded = message.as_ref().and_then(|message| message.as_ref().ok());
            let wanted = decoded.filter(|message| decoder.wants(message));
            let (is_wanted, id) = (wanted.is_some(), wanted.and_then(|message| decoder.dedup_id(message)));
            Ready { item, message, is_wanted, id, is_known: false }
        };
        let mut events: Vec<_> = items.into_iter().map(decode).collect();
        let asked: Vec<Uuid> = events.iter().filter_map(|event| event.id).collect();
        if !asked.is_empty() {
            let known = self.known(&asked).await;
            let with_id = events.iter_mut().filter(|event| event.id.is_some());
            for (event, is_known) in with_id.zip(known) {
                event.is_known = is_known;
            }
        }
        events
    }

    /// Which of the ids were flushed before, however long it takes to find that out.
    async fn known(&mut self, ids: &[Uuid]) -> Vec<bool> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            let lookup = self.activity.begin(Stage::Intake, "looking up known events");
            let known = self.decoder.known(ids).await;
            drop(lookup);
            match known {
                Ok(known) => {
                    self.trouble.over(&format!("{} continues", self.slot));
                    return known;
                }
                Err(error) => {
                    self.trouble.report(&format!("{} is blocked, will try again: {error}", self.slot));
                    sleep(backoff.next_delay()).await;
                }
            }
        }
    }
}
