//! Follows one partition: whoever leads it, through elections, outages, truncation and recreation.
//!
//! # Invariants
//!
//! 1. *Only batch headers move the position*, or a [`Jump`] that is reported with its range.
//! 2. *The same log.* Before a leader of another epoch is read from, it is asked where the epoch of the last
//!    record ended; a Fetch carries that epoch too. An end before the position is a truncation.
//! 3. *The same topic.* Fetch names the topic by its id. Where the broker cannot (before Kafka 3.1), the
//!    topic's id is asked for every [`ID_CHECK`]; where it has none (before 2.8), that is logged once.
//! 4. *Out of range is asked about twice* before it is believed: a broker that was just elected may not
//!    know its own end yet.
//! 5. *A leader that does not answer is left* as soon as another one is elected, and one that answers
//!    although it no longer leads within [`LEADER_CHECK`].

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::KafkaError;
use super::fetch::{self, Fetched, Outcome, Wanted};
use super::fetcher::{Led, MAX_WAIT};
use super::fetchers::Fetchers;
use super::leader::{Leader, is_worth_another_try, refused};
use super::list_offsets::OffsetAt;
use super::position::{Jump, JumpReason, Position};
use crate::backoff::Backoff;

/// Time between tries, at first and at most, where a broker returns nothing although there is something: it is
/// busy with it.
const EMPTY_DELAYS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How often damaged bytes are fetched again, each time through a new connection.
const DAMAGED_TRIES: u32 = 3;
/// How often the topic's id is asked for where Fetch does not carry it.
const ID_CHECK: Duration = Duration::from_secs(5);
/// How often the leader is asked for where Fetch is by id.
const LEADER_CHECK: Duration = Duration::from_secs(30);
/// Topic ids of the past that are remembered, to tell an old answer from a new topic.
const MAX_RETIRED: usize = 16;

/// What a reader of a partition brings.
#[derive(Debug, Clone)]
pub enum ReadEvent {
    /// Records, or the present end of the log without any.
    Fetched(Fetched),
    /// The log does not go on at the position: reading goes on elsewhere.
    Jumped(Jump),
    /// Reading fails at present, and is tried again. The next [`Fetched`](Self::Fetched) says that it no
    /// longer does.
    Failing(KafkaError),
}

/// The task that reads one partition.
pub(super) struct Follow {
    fetchers: Arc<Fetchers>,
    partition: i32,
    events: mpsc::Sender<ReadEvent>,
    position: Position,
    /// Ids that the topic had before.
    retired: HashSet<Uuid>,
    /// The leader epoch against which the position was checked.
    checked: Option<i32>,
    led: Option<(Leader, Led)>,
    looked_around: Instant,
    is_without_ids: bool,
    fetches_by_id: bool,
    backoff: Backoff,
    failing: Option<KafkaError>,
    /// Answers in a row that were damaged, empty below the end, or out of range.
    damaged: u32,
    empty: u32,
    out_of_range: u32,
    /// The size of a batch that exceeds what is asked for usually.
    large_batch: Option<usize>,
}

impl Follow {
    pub(super) fn new(
        fetchers: Arc<Fetchers>,
        partition: i32,
        position: Position,
        events: mpsc::Sender<ReadEvent>,
    ) -> Self {
        Self {
            fetchers,
            partition,
            events,
            position: Position { topic_id: position.topic_id.filter(|id| !id.is_nil()), ..position },
            retired: HashSet::new(),
            checked: None,
            led: None,
            looked_around: Instant::now(),
            is_without_ids: false,
            fetches_by_id: false,
            backoff: Backoff::for_kafka(),
            failing: None,
            damaged: 0,
            empty: 0,
            out_of_range: 0,
            large_batch: None,
        }
    }

    /// Reads until nobody takes what is read.
    pub(super) async fn run(mut self) {
        while !self.events.is_closed() {
            if let Err(error) = self.step().await {
                self.fail(error).await;
            }
        }
    }

    /// One fetch, or what has to come before it.
    async fn step(&mut self) -> Result<(), KafkaError> {
        let Some((leader, led)) = self.led.take() else {
            return self.find_leader().await;
        };
        if self.checked != Some(leader.epoch) {
            self.check_epoch(&leader).await?;
            self.checked = Some(leader.epoch);
        }
        self.look_around(&leader).await?;
        // Nothing is fetched that the queue has no place for.
        let events = self.events.clone();
        let Ok(place) = events.reserve().await else { return Ok(()) };
        let wanted = self.wanted(&leader);
        let answer = tokio::select! {
            biased;
            answer = led.fetch(wanted.clone()) => answer?,
            () = self.leader_changed(&leader) => {
                let why = format!("{} does not answer, and another broker leads now", leader.address);
                return Err(KafkaError::failed(self.name(), why));
            }
        };
        self.fetches_by_id = answer.by_topic_id;
        let take_damaged = self.damaged >= DAMAGED_TRIES;
        match fetch::read(answer.data, &wanted, self.fetchers.isolation, take_damaged) {
            Outcome::Fetched(fetched) => {
                let is_empty = fetched.next_offset == wanted.offset;
                let end = match self.fetchers.isolation {
                    fetch::Isolation::Committed => fetched.last_stable_offset,
                    fetch::Isolation::Uncommitted => fetched.high_watermark,
                };
                let is_below_end = is_empty && fetched.next_offset < end;
                self.fetched(&fetched);
                place.send(ReadEvent::Fetched(fetched));
                self.led = Some((leader, led));
                if is_below_end {
                    self.wait_for_records().await;
                } else {
                    self.empty = 0;
                }
                Ok(())
            }
            Outcome::Cut { bytes } => {
                self.large_batch = Some(bytes);
                self.led = Some((leader, led));
                Ok(())
            }
            Outcome::Damaged(why) => {
                self.damaged += 1;
                led.reconnect();
                self.led = Some((leader, led));
                Err(KafkaError::failed(self.name(), format!("{why}; reading it again")))
            }
            Outcome::Diverged { epoch, end_offset } => {
                drop(place);
                log::debug!("{}: the log diverged after epoch {epoch}, at offset {end_offset}", self.name());
                self.truncated(end_offset).await
            }
            Outcome::Refused(ResponseError::OffsetOutOfRange) => {
                drop(place);
                self.out_of_range(&leader).await
            }
            Outcome::Refused(code) => {
                let error = refused(&self.name(), &self.fetchers.topic, code);
                // Asking for the leader again is the remedy of most; the others are tried again as they are.
                if !is_worth_another_try(code) {
                    self.led = Some((leader, led));
                }
                Err(error)
            }
        }
    }

    fn name(&self) -> String {
        format!("fetch from {}/{}", self.fetchers.topic, self.partition)
    }

    fn wanted(&self, leader: &Leader) -> Wanted {
        let usual = self.fetchers.partition_bytes();
        let large = self.large_batch.and_then(|bytes| i32::try_from(bytes).ok());
        Wanted {
            partition: self.partition,
            topic_id: leader.topic_id,
            offset: self.position.offset,
            leader_epoch: leader.epoch,
            last_epoch: self.position.leader_epoch.unwrap_or(-1),
            max_bytes: large.map_or(usual, |large| large.max(usual)),
        }
    }

    fn fetched(&mut self, fetched: &Fetched) {
        if fetched.next_offset > self.position.offset {
            self.large_batch = None;
            self.damaged = 0;
        }
        self.position.offset = fetched.next_offset;
        self.position.leader_epoch =
            fetched.leader_epoch.filter(|epoch| *epoch >= 0).or(self.position.leader_epoch);
        self.out_of_range = 0;
        self.backoff = Backoff::for_kafka();
        self.failing = None;
    }

    /// A broker with a remote tier answers so while it is fetching from there.
    async fn wait_for_records(&mut self) {
        // Once may be because other partitions have filled the answer.
        if self.empty > 0 {
            let (first, most) = EMPTY_DELAYS;
            sleep(first.saturating_mul(1 << self.empty.min(10)).min(most)).await;
        }
        self.empty += 1;
    }

    /// Asks the cluster who leads, and whether the topic is still the one that was read.
    async fn find_leader(&mut self) -> Result<(), KafkaError> {
        let leader = self.fetchers.kafka.leader(&self.fetchers.topic, self.partition).await?;
        let (old, new) = (self.position.topic_id, Some(leader.topic_id).filter(|id| !id.is_nil()));
        match (old, new) {
            (_, None) => {
                if !std::mem::replace(&mut self.is_without_ids, true) {
                    log::warn!(
                        "topic {} has no id, as with brokers before Kafka 2.8: if it is deleted and created again, that cannot be noticed",
                        self.fetchers.topic
                    );
                }
            }
            (None, Some(_)) => self.position.topic_id = new,
            (Some(old), Some(new)) if old == new => {}
            (Some(_), Some(new)) if self.retired.contains(&new) => {
                let why = "the broker still knows the topic as it was before it was created again";
                return Err(KafkaError::failed(self.name(), why));
            }
            (Some(old), Some(_)) => {
                let start = self.earliest().await?;
                if self.retired.len() < MAX_RETIRED {
                    self.retired.insert(old);
                }
                self.position.topic_id = new;
                self.jump(start, JumpReason::Recreated).await;
            }
        }
        self.looked_around = Instant::now();
        let led = self.fetchers.of(&leader);
        self.led = Some((leader, led));
        Ok(())
    }

    /// Asks the cluster from time to time whether all is as it was: a leader that is cut off from the others
    /// does not know that it no longer leads, nor does a Fetch by name notice another topic.
    async fn look_around(&mut self, leader: &Leader) -> Result<(), KafkaError> {
        let every = if self.fetches_by_id { LEADER_CHECK } else { ID_CHECK };
        if self.looked_around.elapsed() < every {
            return Ok(());
        }
        self.looked_around = Instant::now();
        // Who leads still answers, whatever becomes of this question.
        let Ok(topic) = self.fetchers.kafka.topic_within(&self.fetchers.topic, ID_CHECK).await else {
            return Ok(());
        };
        let epoch = topic.partition(self.partition).map_or(-1, |partition| partition.leader_epoch);
        if self.position.topic_id.is_some_and(|id| !topic.id.is_nil() && id != topic.id) {
            return Err(KafkaError::failed(self.name(), "the topic has another id now"));
        }
        if epoch > leader.epoch {
            return Err(KafkaError::failed(self.name(), "another broker leads now"));
        }
        Ok(())
    }

    /// Asks the leader where the epoch of the last record ended: before the position, if the log was cut.
    async fn check_epoch(&mut self, leader: &Leader) -> Result<(), KafkaError> {
        let Some(epoch) = self.position.leader_epoch.filter(|epoch| *epoch >= 0 && leader.epoch >= 0) else {
            return Ok(());
        };
        let end = self.fetchers.kafka.epoch_end(&self.fetchers.topic, self.partition, epoch).await?;
        match end {
            Some(end) if end.end_offset >= self.position.offset => Ok(()),
            Some(end) => self.truncated(end.end_offset).await,
            None => self.beyond_end().await,
        }
    }

    async fn truncated(&mut self, end_offset: i64) -> Result<(), KafkaError> {
        let start = self.earliest().await?;
        match self.position.offset < start {
            // Deleted as well, which is what counts: there is no more.
            true => self.jump(start, JumpReason::Retention).await,
            false => self.jump(end_offset.max(start), JumpReason::Truncated).await,
        }
        Ok(())
    }

    async fn beyond_end(&mut self) -> Result<(), KafkaError> {
        let start = self.earliest().await?;
        self.jump(start, JumpReason::BeyondEnd).await;
        Ok(())
    }

    async fn out_of_range(&mut self, leader: &Leader) -> Result<(), KafkaError> {
        let start = self.earliest().await?;
        if self.position.offset < start {
            self.jump(start, JumpReason::Retention).await;
            return Ok(());
        }
        self.out_of_range += 1;
        if self.out_of_range < 2 {
            return Err(KafkaError::OffsetOutOfRange { call: self.name() });
        }
        let position = self.position.offset;
        let end =
            self.fetchers.kafka.list_offset(&self.fetchers.topic, self.partition, OffsetAt::LogEnd).await?;
        let known_end = match self.position.leader_epoch.filter(|_| leader.epoch >= 0) {
            Some(epoch) => self.fetchers.kafka.epoch_end(&self.fetchers.topic, self.partition, epoch).await?,
            None => None,
        };
        match known_end {
            Some(known) if known.end_offset < position => self.truncated(known.end_offset).await,
            // The leader refuses an offset that it has when it does not know the epoch of the last record.
            None if position <= end && self.position.leader_epoch.is_none() => {
                Err(KafkaError::OffsetOutOfRange { call: self.name() })
            }
            _ => self.beyond_end().await,
        }
    }

    async fn earliest(&self) -> Result<i64, KafkaError> {
        self.fetchers.kafka.list_offset(&self.fetchers.topic, self.partition, OffsetAt::Earliest).await
    }

    /// Goes on at `to`.
    async fn jump(&mut self, to: i64, reason: JumpReason) {
        let jump = Jump { from: self.position.offset, to, topic_id: self.position.topic_id, reason };
        self.position = Position { offset: to, leader_epoch: None, topic_id: self.position.topic_id };
        self.checked = None;
        (self.out_of_range, self.damaged, self.empty, self.large_batch) = (0, 0, 0, None);
        // Nobody takes it: then nobody reads on either.
        drop(self.events.send(ReadEvent::Jumped(jump)).await);
    }

    async fn leader_changed(&self, leader: &Leader) {
        sleep(MAX_WAIT).await;
        self.fetchers.kafka.leader_changed(&self.fetchers.topic, self.partition, leader.epoch).await;
    }

    /// Reports what is new, and waits a little.
    async fn fail(&mut self, error: KafkaError) {
        if self.failing.as_ref() != Some(&error) {
            log::debug!("{error}");
            self.failing = Some(error.clone());
            // Where the queue is full, nobody waits for news.
            drop(self.events.try_send(ReadEvent::Failing(error)));
        }
        sleep(self.backoff.next_delay()).await;
    }
}
