//! Finds out which of the pending events of a partition are in the topic already.
//!
//! What was sent may have been appended although no acknowledgement came, and may not have been replicated yet: a slow
//! follower holds back acknowledgements and the high watermark, but not the leader's log. So the end that
//! counts is that of the leader's log, and the search waits until the in-sync replicas have all of it, or
//! until another leader decides what of it remains.
//!
//! It reads uncommitted, up to the high watermark: this service writes without transactions, and those of
//! others that are open must not hold it up.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde::Deserialize;
use task_events::avro::Wire;
use task_events::event::ID_HEADER;
use task_events::kafka::{
    Fetched, Headers, Isolation, Kafka, KafkaError, OffsetAt, Position, ReadEvent, TopicReader,
};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

/// A request whose connection broke may still be on its way through the broker: the topic is read after it
/// had time to land.
pub const LANDING_TIME: Duration = Duration::from_millis(250);
/// How long the in-sync replicas are waited for before the partition's trouble is reported and all is asked
/// anew. Longer than it takes a leader to drop a follower that is stuck (replica.lag.time.max.ms: 30 s).
const REPLICATION_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the high watermark is asked for.
const REPLICATION_CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// How long nothing may come of records that are there.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// What an event that was appended waits for.
pub(super) fn not_replicated(end: i64, replicated: i64) -> String {
    format!(
        "the leader's log ends at {end}, the in-sync replicas have it up to {replicated}: one of them is slow or down, or they are fewer than min.insync.replicas"
    )
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Sequence numbers of events that are in the topic.
    pub(super) seqs: HashSet<u64>,
    /// The first and the last offset at which one is.
    offsets: Option<(i64, i64)>,
    /// The end of what was read, up to the last pending event where all were found: whatever else was sent, or is
    /// sent from now on, is at or after it.
    pub(super) end: Position,
}

/// Where an event's id is in its JSON.
#[derive(Deserialize)]
struct Identified {
    event_id: Uuid,
}

/// The id of an event: in JSON it is a field. Avro has it where its schema says, so there the header counts, which each
/// event of ours has.
fn event_id(value: &[u8], headers: &Headers) -> Option<Uuid> {
    match Wire::of(value) {
        Wire::Other => serde_json::from_slice(value).ok().map(|Identified { event_id }| event_id),
        _ => Uuid::try_parse_ascii(headers.last(ID_HEADER)?.value?).ok(),
    }
}

pub(super) struct Reconcile<'a> {
    pub(super) kafka: &'a Kafka,
    pub(super) topic: &'a str,
    pub(super) partition: i32,
    /// Pending events: id → sequence number.
    pub(super) pending: &'a HashMap<Uuid, u64>,
}

impl Reconcile<'_> {
    /// Reads the partition from the position to the end of the leader's log. `waiting` hears why it takes
    /// long.
    pub(super) async fn run(&self, from: Position, waiting: impl Fn(String)) -> Result<Found, KafkaError> {
        sleep(LANDING_TIME).await;
        loop {
            let epoch = self.leader_epoch().await?;
            let end = self.replicated_end(epoch, &waiting).await?;
            let found = self.read(from, end).await?;
            // Another leader may have cut what was just read, or have more.
            if self.leader_epoch().await? == epoch {
                return Ok(found);
            }
        }
    }

    async fn leader_epoch(&self) -> Result<i32, KafkaError> {
        let info = self.kafka.topic(self.topic).await?;
        let partition = info.partition(self.partition);
        Ok(partition.map_or(-1, |partition| partition.leader_epoch))
    }

    /// The end of the leader's log, once all in-sync replicas have it, or another broker leads.
    async fn replicated_end(&self, epoch: i32, waiting: &impl Fn(String)) -> Result<i64, KafkaError> {
        let started = Instant::now();
        let end = self.offset(OffsetAt::LogEnd).await?;
        loop {
            let replicated = self.offset(OffsetAt::Latest).await?;
            if replicated >= end || self.leader_epoch().await? != epoch {
                return Ok(end.min(replicated));
            }
            let why = not_replicated(end, replicated);
            if started.elapsed() >= REPLICATION_TIMEOUT {
                return Err(KafkaError::Failed {
                    call: format!("reconcile {}/{}", self.topic, self.partition),
                    detail: why,
                });
            }
            if started.elapsed() >= REPLICATION_CHECK_INTERVAL * 4 {
                waiting(why);
            }
            sleep(REPLICATION_CHECK_INTERVAL).await;
        }
    }

    async fn offset(&self, at: OffsetAt) -> Result<i64, KafkaError> {
        self.kafka.list_offset(self.topic, self.partition, at).await
    }

    async fn read(&self, from: Position, end: i64) -> Result<Found, KafkaError> {
        let mut found = Found { end: from, ..Found::default() };
        if from.offset == end {
            return Ok(found);
        }
        let reader = TopicReader::with_isolation(self.kafka, self.topic, Isolation::Uncommitted);
        let mut reader = reader.partition(self.partition, from);
        // A position beyond the end is one in a log that was cut or created again: the reader finds out where.
        let mut is_placed = from.offset < end;
        while !is_placed || found.end.offset < end {
            let event = timeout(READ_TIMEOUT, reader.next()).await.map_err(|_| KafkaError::Timeout {
                call: format!("read {}/{} at offset {}", self.topic, self.partition, found.end.offset),
                after: READ_TIMEOUT,
            })?;
            match event {
                ReadEvent::Fetched(fetched) => {
                    is_placed = true;
                    self.take(&fetched, &mut found);
                    found.end.offset = fetched.next_offset;
                    found.end.leader_epoch = fetched.leader_epoch.or(found.end.leader_epoch);
                    if let Some((_, last)) = found.offsets
                        && found.seqs.len() == self.pending.len()
                    {
                        found.end.offset = last + 1;
                        break;
                    }
                }
                ReadEvent::Jumped(jump) => {
                    log::warn!("{}/{}: {jump}", self.topic, self.partition);
                    is_placed = true;
                    found.end = Position { offset: jump.to, leader_epoch: None, topic_id: jump.topic_id };
                }
                ReadEvent::Failing(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Takes the pending events out of what was read. What is no event of ours is none that is pending.
    fn take(&self, fetched: &Fetched, found: &mut Found) {
        for record in fetched.batches.iter().flat_map(|batch| batch.records()).flatten() {
            let Some(event_id) = record.value.as_deref().and_then(|value| event_id(value, &record.headers))
            else {
                continue;
            };
            if let Some(seq) = self.pending.get(&event_id) {
                found.seqs.insert(*seq);
                let (first, _) = found.offsets.unwrap_or((record.offset, record.offset));
                found.offsets = Some((first, record.offset));
            }
        }
    }

    /// What was found, in a line.
    pub(super) fn describe(&self, found: &Found) -> String {
        let Self { topic, partition, pending, .. } = self;
        let pending = pending.len();
        match found.offsets {
            Some((first, last)) => format!(
                "reconciled {topic}/{partition}: {} of {pending} pending events are already in the topic (offsets {first} to {last}) and will not be resent; read to offset {}",
                found.seqs.len(),
                found.end.offset
            ),
            None => format!(
                "reconciled {topic}/{partition}: 0 of {pending} pending events are already in the topic; read to offset {}",
                found.end.offset
            ),
        }
    }
}
