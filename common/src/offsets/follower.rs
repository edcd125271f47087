//! Reads the offsets topic from its start and follows it.
//!
//! It reads uncommitted: the records of this system are in no transaction, so that the last stable offset,
//! which an open transaction of anybody holds back, means nothing here. Records of transactions, batches
//! that cannot be read and records of another form are skipped with a warning. Nothing that is in the topic
//! stops it.
//!
//! When the topic was created again, lost its end or its start, what was read counts no longer: the fold
//! starts again from the first record, and [`View::lives`] rises.
//!
//! What is said of an owner's or a member's silence keeps the invariant of [`contact`](super::contact).

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::contact::Contact;
use super::fold::{Fold, ForeignCommit, SlotState};
use super::member::Member;
use super::record::{OffsetsRecord, Slot, parse};
use crate::kafka::{
    Batch, ConsumerRecord, Fetched, Isolation, JumpReason, Kafka, KafkaError, OffsetAt, Position, ReadEvent,
    TopicReader,
};
use crate::log_once::LogOnce;

/// How soon the start of the topic is asked for again.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Members that are remembered: more than a topic sees in the life of a process.
const MAX_REMEMBERED: usize = 10_000;

/// What was seen of a member.
#[derive(Debug, Clone, Copy, Default)]
struct MemberSigns {
    /// Its last record, if it was written while the topic was followed.
    seen: Option<Instant>,
    /// When its last record was read, whenever it was written.
    read: Option<Instant>,
    /// When it last left a partition unclaimed that it was given.
    refused: Option<Instant>,
}

/// Whether a member lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberLife {
    /// It renewed its record within its lease.
    Alive,
    /// It has not had the time to, since this process follows the topic.
    Unknown,
    /// It has not, or has left.
    Dead,
}

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
    members: HashMap<(String, Uuid), MemberSigns>,
    /// Members that renewed their record since this process follows the topic, dead ones too.
    were_alive: HashSet<(String, Uuid)>,
    /// The end of the topic when it was first read: what is below it may be of the dead.
    history_end: Option<i64>,
    contact: Contact,
}

impl View {
    /// The slot, if any record spoke of it.
    pub fn slot(&self, slot: &Slot) -> Option<&SlotState> {
        self.fold.slot(slot)
    }

    /// Since when the slot's owner has given no sign of life, as far as this process could have seen one:
    /// silence while it read nothing does not count. `None` if nobody owns the slot, or if this process reads nothing
    /// now, so that nothing can be said.
    pub fn silent_since(&self, slot: &Slot, now: Instant) -> Option<Instant> {
        let contact = self.contact_since(self.slot(slot)?.owner()?.claim.lease(), now)?;
        Some(self.seen.get(slot).map_or(contact, |seen| contact.max(*seen)))
    }

    /// When the slot's owner, or the instance that released it, gave its last sign of life, if it gave any.
    pub fn seen(&self, slot: &Slot) -> Option<Instant> {
        self.seen.get(slot).copied()
    }

    /// Whether the records of the member say that it lives. What was written before this process followed the
    /// topic says so only until it could have been renewed.
    pub fn member_life(&self, group: &str, instance_id: Uuid, lease: Duration, now: Instant) -> MemberLife {
        let signs = self.signs(group, instance_id);
        let Some(read) = signs.read else { return MemberLife::Dead };
        match self.contact_since(lease, now) {
            Some(contact) if now >= contact.max(read) + lease => MemberLife::Dead,
            _ if signs.seen.is_some() => MemberLife::Alive,
            _ => MemberLife::Unknown,
        }
    }

    /// Whether the member was alive at any time since this process follows the topic.
    pub fn member_was_seen(&self, group: &str, instance_id: Uuid) -> bool {
        self.were_alive.contains(&(group.to_owned(), instance_id))
    }

    /// When the member last left a partition unclaimed that it was given.
    pub fn refused(&self, group: &str, instance_id: Uuid) -> Option<Instant> {
        self.signs(group, instance_id).refused
    }

    /// How long ago the last record of the member was read.
    pub fn member_silence(
        &self,
        group: &str,
        instance_id: Uuid,
        lease: Duration,
        now: Instant,
    ) -> Option<Duration> {
        let contact = self.contact_since(lease, now)?;
        let read = self.signs(group, instance_id).read?;
        Some(now.saturating_duration_since(contact.max(read)))
    }

    /// Whether the topic can be read now.
    pub fn is_in_touch(&self) -> bool {
        self.contact.was_made() && self.failure.is_none()
    }

    fn contact_since(&self, lease: Duration, now: Instant) -> Option<Instant> {
        self.contact.since(lease, now).filter(|_| self.failure.is_none())
    }

    fn signs(&self, group: &str, instance_id: Uuid) -> MemberSigns {
        self.members.get(&(group.to_owned(), instance_id)).copied().unwrap_or_default()
    }

    fn apply(&mut self, fetched: Fetched, topic: &str) {
        let now = Instant::now();
        self.touched(now, fetched.high_watermark);
        for batch in &fetched.batches {
            self.apply_batch(batch, topic, now);
        }
        self.next_offset = fetched.next_offset;
    }

    /// The topic answered, and ended there.
    pub(crate) fn touched(&mut self, now: Instant, end: i64) {
        self.contact.answered(now);
        self.failure = None;
        self.history_end.get_or_insert(end);
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
                if let Err(foreign) = self.apply_parsed(offset, parsed, now) {
                    log::warn!("ignored in {topic}: {foreign}");
                }
            }
            Err(why) => log::warn!("skipped the record at {topic}/0 offset {offset}: {why}"),
        }
    }

    /// Takes the record that is stored at `offset`, and what it says of who lives.
    pub(crate) fn apply_parsed(
        &mut self,
        offset: i64,
        record: OffsetsRecord,
        now: Instant,
    ) -> Result<(), ForeignCommit> {
        let (slot, token) = match &record {
            OffsetsRecord::Claim(slot, claim) => {
                if let Some(claim) = claim {
                    self.note_refusal(slot, claim.instance_id, now);
                }
                (slot.clone(), offset)
            }
            OffsetsRecord::Commit(slot, token, _) => (slot.clone(), *token),
            OffsetsRecord::Member(group, instance_id, member) => {
                self.note_member(offset, (group.clone(), *instance_id), member.as_ref(), now);
                return self.fold.apply(offset, record);
            }
        };
        let applied = self.fold.apply(offset, record);
        let owner = self.fold.slot(&slot).and_then(|state| state.owner());
        if owner.is_some_and(|owner| owner.token == token) {
            self.seen.insert(slot, now);
        }
        applied
    }

    fn note_member(&mut self, offset: i64, id: (String, Uuid), member: Option<&Member>, now: Instant) {
        let Some(member) = member else {
            self.members.remove(&id);
            return;
        };
        let before = self.fold.members(&id.0).find(|(other, _)| *other == id.1).map(|(_, before)| before);
        let has_rejoined = before.is_some_and(|before| before.joined_at != member.joined_at);
        let is_recent = self.history_end.is_some_and(|end| offset >= end);
        if is_recent && self.were_alive.len() < MAX_REMEMBERED {
            self.were_alive.insert(id.clone());
        }
        let signs = self.members.entry(id).or_default();
        signs.read = Some(now);
        signs.seen = Some(now).filter(|_| is_recent).or(signs.seen);
        if has_rejoined {
            signs.refused = None;
        }
    }

    /// A claim by another than the one that was named, and not in the moment after the release: an instance that
    /// knows no names claims then.
    fn note_refusal(&mut self, slot: &Slot, claimed_by: Uuid, now: Instant) {
        let Some(state) = self.fold.slot(slot) else { return };
        let (Some(named), Some(owner)) = (state.released_to(), state.owner()) else { return };
        let had_time = self.seen.get(slot).is_some_and(|released| now >= *released + owner.claim.lease() / 4);
        if named != claimed_by && had_time {
            self.members.entry((slot.group.clone(), named)).or_default().refused = Some(now);
        }
    }

    /// The topic was created again or lost records: what was known of it counts no longer.
    pub(crate) fn forget(&mut self, next_offset: i64) {
        self.fold = Fold::default();
        self.seen.clear();
        self.members.clear();
        self.history_end = None;
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
