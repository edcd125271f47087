//! Reads the offsets topic from its start and follows it.

use std::collections::HashMap;
use std::time::Duration;

use rskafka::record::RecordAndOffset;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::fold::{Fold, SlotState};
use super::record::{OffsetsRecord, Slot, parse};
use crate::kafka::{Fetched, Kafka, KafkaError, OffsetAt, Partition};

/// How long a fetch waits at the broker where there is nothing new.
const POLL: Duration = Duration::from_millis(500);
/// After this long without an answer, what the follower knows may be old.
const CONTACT_GAP: Duration = Duration::from_secs(2);
const FETCH_BYTES: i32 = 1024 * 1024;
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_millis(500);

/// What is known of the offsets topic.
#[derive(Debug, Default)]
pub struct View {
    /// The fold over all records below [`next_offset`](Self::next_offset).
    pub fold: Fold,
    /// The offset to read next.
    pub next_offset: i64,
    /// What the last fetch failed with, until one succeeds.
    pub failure: Option<KafkaError>,
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
        if self.last_contact.is_none_or(|last| now - last > POLL + CONTACT_GAP) {
            self.contact_since = Some(now);
        }
        self.last_contact = Some(now);
        self.failure = None;
        for record in fetched.records {
            self.apply_record(record, topic, now);
        }
        self.next_offset = fetched.next_offset;
    }

    fn apply_record(
        &mut self,
        RecordAndOffset { record, offset }: RecordAndOffset,
        topic: &str,
        now: Instant,
    ) {
        match parse(record.key.as_deref(), record.value.as_deref()) {
            Ok(parsed) => {
                let (slot, token) = match &parsed {
                    OffsetsRecord::Claim(slot, _) => (slot.clone(), offset),
                    OffsetsRecord::Commit(slot, token, _) => (slot.clone(), *token),
                };
                self.fold.apply(offset, parsed);
                let owner = self.fold.slot(&slot).and_then(|state| state.owner());
                if owner.is_some_and(|owner| owner.token == token) {
                    self.seen.insert(slot, now);
                }
            }
            Err(why) => log::warn!("skipped the record at {topic}/0 offset {offset}: {why}"),
        }
    }

    /// The topic was made anew or lost its start: what was known of it counts no longer.
    fn forget(&mut self) {
        self.fold = Fold::default();
        self.seen.clear();
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
        let task = tokio::spawn(follow(kafka.partition(topic, 0), sender));
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

async fn follow(reader: Partition, view: watch::Sender<View>) {
    let mut position: Option<i64> = None;
    let mut backoff = FIRST_BACKOFF;
    loop {
        match read(&reader, position).await {
            Ok(fetched) => {
                position = Some(fetched.next_offset);
                backoff = FIRST_BACKOFF;
                view.send_modify(|view| view.apply(fetched, reader.topic()));
            }
            Err(KafkaError::OffsetOutOfRange { .. }) => {
                log::warn!("the start of topic {} has moved: reading it anew", reader.topic());
                position = None;
                view.send_modify(View::forget);
            }
            Err(error) => {
                if view.borrow().failure.is_none() {
                    log::warn!("cannot follow the offsets topic, will try again: {error}");
                }
                view.send_modify(|view| view.failure = Some(error));
                sleep(backoff).await;
                backoff = (backoff * 2).min(MAX_BACKOFF);
            }
        }
    }
}

async fn read(reader: &Partition, position: Option<i64>) -> Result<Fetched, KafkaError> {
    let position = match position {
        Some(position) => position,
        None => reader.offset(OffsetAt::Earliest).await?,
    };
    reader.fetch(position, FETCH_BYTES, POLL).await
}
