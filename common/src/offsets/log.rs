//! Claims, commits and tombstones: what an instance writes to the offsets topic.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::Utc;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::follower::{Follower, View};
use super::member::Member;
use super::record::{Claim, Commit, Key, Slot, render_key};
use crate::kafka::{Compression, Kafka, KafkaError, OffsetAt, Producer, ProducerRecord, REQUEST_TIMEOUT};

/// The offsets topic as one instance reads and writes it.
#[derive(Debug)]
pub struct OffsetsLog {
    follower: Follower,
    kafka: Kafka,
    writer: Producer,
}

/// A claim that landed.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The offset of the claim: the fencing token.
    pub token: i64,
    /// When it was sent, from which the lease counts.
    pub sent: Instant,
}

impl OffsetsLog {
    /// Starts to follow the topic.
    pub fn open(kafka: &Kafka, topic: &str) -> Self {
        Self {
            follower: Follower::spawn(kafka, topic),
            kafka: kafka.clone(),
            writer: kafka.producer(topic, 0),
        }
    }

    /// What is known now, and word of what comes.
    pub fn view(&self) -> watch::Receiver<View> {
        self.follower.view()
    }

    /// Returns when all that was in the topic at the time of the call has been read. Whoever decides on
    /// ownership calls this first: what it knows may be as old as its last pause.
    pub async fn catch_up(&self) -> Result<(), KafkaError> {
        self.reached(self.kafka.list_offset(self.writer.topic(), 0, OffsetAt::Latest).await?).await
    }

    /// Returns when all below that offset has been read.
    async fn reached(&self, end: i64) -> Result<(), KafkaError> {
        let mut view = self.follower.view();
        let reached = timeout(REQUEST_TIMEOUT, view.wait_for(|view| view.next_offset >= end)).await;
        match reached {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(KafkaError::failed("follow the offsets topic", "the reader has stopped")),
            Err(_) => Err(KafkaError::Timeout {
                call: "read the offsets topic to its end".to_owned(),
                after: REQUEST_TIMEOUT,
            }),
        }
    }

    /// Claims the slot, and returns when the topic has been read past the claim.
    ///
    /// Where the acknowledgement is lost, the claim is looked for by its id. Should it land only after it
    /// was given up, it fences this instance's next claim; being its own, by its id, it is then claimed over
    /// at once.
    pub async fn claim(&self, slot: &Slot, claim: &Claim) -> Result<Claimed, KafkaError> {
        let sent = Instant::now();
        let produced = self.write(&Key::Claim(slot.clone()), Some(claim), REQUEST_TIMEOUT).await;
        match produced {
            // The broker said where it is: that far, and no further, is to be read.
            Ok(token) => self.reached(token + 1).await?,
            Err(_) => self.catch_up().await?,
        }
        let found = self.claim_token(slot, claim.claim_id);
        match (found, produced) {
            (Some(token), _) | (None, Ok(token)) => Ok(Claimed { token, sent }),
            (None, Err(error)) => Err(error),
        }
    }

    fn claim_token(&self, slot: &Slot, claim_id: Uuid) -> Option<i64> {
        let view = self.follower.view();
        let view = view.borrow();
        view.slot(slot)?.owner().filter(|owner| owner.claim.claim_id == claim_id).map(|owner| owner.token)
    }

    /// Commits under the owner's token and returns the offset of the commit. A repeat does no
    /// harm, nor does one that lands late: it tells of work that was done.
    ///
    /// A claim with a higher offset than the one returned was read together with this commit.
    pub async fn commit(
        &self,
        slot: &Slot,
        token: i64,
        commit: &Commit,
        limit: Duration,
    ) -> Result<i64, KafkaError> {
        self.write(&Key::Commit(slot.clone(), token), Some(commit), limit).await
    }

    /// Has what is written from now on go over a new connection; not before a pause that the broker asked for is over.
    /// What is on its way stays on the one there is.
    pub(crate) async fn reconnect(&self) {
        while let Some(pause) = self.writer.throttled().await {
            sleep(pause).await;
        }
        self.writer.disconnect().await;
    }

    /// Removes the commits of older tokens. Only for an owner whose own commit has been acknowledged.
    pub async fn tombstone(&self, slot: &Slot, tokens: &[i64]) -> Result<(), KafkaError> {
        let tombstone = |token: &i64| record(&Key::Commit(slot.clone(), *token), None);
        let records: Vec<_> = tokens.iter().map(tombstone).collect();
        self.writer.produce(&records, Compression::NoCompression).await.map(|_| ())
    }

    /// Writes the member's record, or removes it.
    pub async fn write_member(
        &self,
        group: &str,
        instance_id: Uuid,
        member: Option<&Member>,
        limit: Duration,
    ) -> Result<(), KafkaError> {
        self.write(&Key::Member(group.to_owned(), instance_id), member, limit).await.map(|_| ())
    }

    /// Removes the slot's claim and all its commits: the partition is no more, or nobody's.
    pub async fn remove(&self, slot: &Slot) -> Result<(), KafkaError> {
        let tokens = {
            let view = self.view();
            let view = view.borrow();
            view.slot(slot).map(|state| state.stale_tokens(i64::MAX)).unwrap_or_default()
        };
        self.tombstone(slot, &tokens).await?;
        self.writer.produce(&[record(&Key::Claim(slot.clone()), None)], Compression::NoCompression).await?;
        Ok(())
    }

    async fn write<T: Serialize>(
        &self,
        key: &Key,
        value: Option<&T>,
        limit: Duration,
    ) -> Result<i64, KafkaError> {
        let value = value
            .map(serde_json::to_vec)
            .transpose()
            .map_err(|error| KafkaError::failed("write to the offsets topic", error))?;
        let offsets =
            self.writer.produce_within(&[record(key, value)], Compression::NoCompression, limit).await?;
        offsets
            .first()
            .copied()
            .ok_or_else(|| KafkaError::failed("write to the offsets topic", "no offset came back"))
    }
}

fn record(key: &Key, value: Option<Vec<u8>>) -> ProducerRecord {
    ProducerRecord { key: Some(render_key(key)), value, headers: BTreeMap::new(), timestamp: Utc::now() }
}
