//! Reads the offsets topic from its start and follows it.
//!
//! It reads uncommitted: the records of this system are in no transaction, so that the last stable offset,
//! which an open transaction of anybody holds back, means nothing here. Records of transactions, batches
//! that cannot be read and records of another form are skipped with a warning. Nothing that is in the topic
//! stops it.
//!
//! When the topic was created again, lost its end or its start, what was read counts no longer: the fold
//! starts again from the first record, and [`View::lives`] rises.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::fold::{Fold, SlotState};
use super::record::{OffsetsRecord, Slot, parse};
use crate::kafka::{
    Batch, ConsumerRecord, Fetched, Isolation, JumpReason, Kafka, KafkaError, OffsetAt, Position, ReadEvent,
    TopicReader,
};
use crate::log_once::LogOnce;

/// After this long without an answer, what the follower knows may be old. One comes each half second.
const CONTACT_GAP: Duration = Duration::from_millis(2_500);
/// How soon the start of the topic is asked for again.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// What is known of the offsets topic.
#[derive(Debug, Default)]
pub struct View {
    /// The fold over all records below [`next_offset`](Self::next_offset).
    pub fold: Fold,
    /// The offset to read next.
    pub next_offset: i64,
    /// What the last fetch failed with, until one succeeds.
    pub failure: Option<KafkaError>,
    /// The id of the topic, as far as known.
    pub topic_id: Option<Uuid>,
    /// How often the topic turned out to be another one, or to have lost records that were read: every claim
    /// of before is void.
    pub lives: u64,
    seen: HashMap<Slot, Instant>,
    contact_since: Option<Instant>,
    last_contact: Option<Instant>,
}

impl View {
    /// The slot, if any record spoke of it.
    pub fn slot(&self, slot: &Slot) -> Option<&SlotState> {
        self.fold.slot(slot)
    }

    /// Since when the slot's owner has given no sign of life, as far as this process could have seen one:
    /// silence while Kafka could not be reached does not count. `None` if it cannot be reached now.
    pub fn silent_since(&self, slot: &Slot) -> Option<Instant> {
        let contact = self.contact_since.filter(|_| self.failure.is_none())?;
        Some(self.seen.get(slot).map_or(contact, |seen| contact.max(*seen)))
    }

    fn apply(&mut self, fetched: Fetched, topic: &str) {
        let now = Instant::now();
        if self.last_contact.is_none_or(|last| now - last > CONTACT_GAP) {
            self.contact_since = Some(now);
        }
        self.last_contact = Some(now);
        self.failure = None;
        for batch in &fetched.batches {
            self.apply_batch(batch, topic, now);
        }
        self.next_offset = fetched.next_offset;
    }

    fn apply_batch(&mut self, batch: &Batch, topic: &str, now: Instant) {
        let (first, last) = (batch.first_offset(), batch.last_offset());
        if batch.header().is_some_and(|header| header.is_transactional()) {
            log::warn!(
                "skipped offsets {first} to {last} of {topic}/0: written in a transaction, so not by this system"
            );
            return;
        }
        for record in batch.records() {
            match record {
                Ok(record) => self.apply_record(&record, topic, now),
                Err(unreadable) => log::warn!("skipped in {topic}/0: {unreadable}"),
            }
        }
    }

    fn apply_record(&mut self, record: &ConsumerRecord, topic: &str, now: Instant) {
        let offset = record.offset;
        match parse(record.key.as_deref(), record.value.as_deref()) {
            Ok(parsed) => {
                let (slot, token) = match &parsed {
                    OffsetsRecord::Claim(slot, _) => (slot.clone(), offset),
                    OffsetsRecord::Commit(slot, token, _) => (slot.clone(), *token),
                };
                if let Err(foreign) = self.fold.apply(offset, parsed) {
                    log::warn!("ignored in {topic}: {foreign}");
                }
                let owner = self.fold.slot(&slot).and_then(|state| state.owner());
                if owner.is_some_and(|owner| owner.token == token) {
                    self.seen.insert(slot, now);
                }
            }
            Err(why) => log::warn!("skipped the record at {topic}/0 offset {offset}: {why}"),
        }
    }

    /// The topic was created again or lost records: what was known of it counts no longer.
    fn forget(&mut self, next_offset: i64) {
        self.fold = Fold::default();
        self.seen.clear();
        self.next_offset = next_offset;
        self.lives += 1;
    }
}

/// A task that follows the topic. It ends with the value.
#[derive(Debug)]
pub struct Follower {
    view: watch::Receiver<View>,
    task: JoinHandle<()>,
}

impl Follower {
    /// Starts to read the topic.
    pub fn spawn(kafka: &Kafka, topic: &str) -> Self {
        let (sender, view) = watch::channel(View::default());
        let task = tokio::spawn(follow(kafka.clone(), topic.to_owned(), sender));
        Self { view, task }
    }

    /// What is known now, and word of what comes.
    pub fn view(&self) -> watch::Receiver<View> {
        self.view.clone()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(kafka: Kafka, topic: String, view: watch::Sender<View>) {
    let mut failing = LogOnce::new(module_path!());
    loop {
        let start = first_offset(&kafka, &topic, &view, &mut failing).await;
        let position = Position { topic_id: view.borrow().topic_id, ..Position::at(start) };
        let mut reader =
            TopicReader::with_isolation(&kafka, &topic, Isolation::Uncommitted).partition(0, position);
        loop {
            match reader.next().await {
                ReadEvent::Fetched(fetched) => {
                    failing.over("the offsets topic is followed again");
                    view.send_modify(|view| {
                        view.topic_id = fetched.topic_id.or(view.topic_id);
                        view.apply(fetched, &topic);
                    });
                }
                ReadEvent::Failing(error) => failed(&view, &mut failing, error),
                ReadEvent::Jumped(jump) => {
                    log::warn!("{topic}/0: {jump}; every claim and commit that was read before is void");
                    view.send_modify(|view| {
                        view.topic_id = jump.topic_id;
                        view.forget(jump.to);
                    });
                    // Reading goes on where the log was cut: what is before has to be read again.
                    if matches!(jump.reason, JumpReason::Truncated) {
                        break;
                    }
                }
            }
        }
    }
}

async fn first_offset(kafka: &Kafka, topic: &str, view: &watch::Sender<View>, failing: &mut LogOnce) -> i64 {
    loop {
        match kafka.list_offset(topic, 0, OffsetAt::Earliest).await {
            Ok(offset) => return offset,
            Err(error) => failed(view, failing, error),
        }
        sleep(RETRY_AFTER).await;
    }
}

fn failed(view: &watch::Sender<View>, failing: &mut LogOnce, error: KafkaError) {
    failing.warn(&format!("cannot follow the offsets topic, will try again: {error}"));
    view.send_modify(|view| view.failure = Some(error));
}
