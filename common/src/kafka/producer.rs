//! Produces to one partition: each call is sent once, bounded in time, over one connection to the leader.
//!
//! rskafka makes the requests; the connection is this crate's own, by way of the [`hop`](super::hop). So
//! rskafka is given the address of the present leader and no other, a throttled answer is an answer, and
//! nothing waits for a delayed acknowledgement.
//!
//! # Invariants
//!
//! 1. *One attempt.* Nothing is sent again without the caller's knowledge. After an error other than
//!    [`KafkaError::nothing_landed`] the records may be in the log, or may still come to be there.
//! 2. *No waiting for what cannot come.* A call that takes long is given up when another broker leads the
//!    partition, when Kafka was unreachable and is back ([`presence`](super::presence)), and after its limit.
//! 3. *No request on a login that expires*: the connection is replaced before.
//! 4. After doubt the connection is dropped: an answer that comes late meets nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use rskafka::BackoffConfig;
use rskafka::client::ClientBuilder;
use rskafka::client::partition::{Compression, PartitionClient, UnknownTopicHandling};
use rskafka::record::Record;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout};
use uuid::Uuid;

use super::hop::{Hop, Route};
use super::leader::Leader;
use super::liveness::{GRACE, PRODUCE_GRACE};
use super::{BoxFuture, CONNECT_TIMEOUT, Kafka, KafkaError, REQUEST_TIMEOUT};

/// How Kafka says that a record has no time, in milliseconds since 1970.
const NO_TIMESTAMP: i64 = -1;

/// A handle to produce to one partition, with one connection, made on first use and again after a failure.
#[derive(Debug)]
pub struct Producer {
    kafka: Kafka,
    topic: String,
    partition: i32,
    connection: Mutex<Option<Arc<Connected>>>,
    /// The last records were refused for their times.
    times_refused: AtomicBool,
    /// The topic's id, where another one of the same name is not to be written to.
    only_to: Option<Uuid>,
}

#[derive(Debug)]
struct Connected {
    client: PartitionClient,
    hop: Hop,
    leader: Leader,
}

impl Kafka {
    /// A handle to produce to a partition. Connects on first use.
    pub fn producer(&self, topic: &str, partition: i32) -> Producer {
        Producer::new(self.clone(), topic, partition)
    }
}

impl Producer {
    fn new(kafka: Kafka, topic: &str, partition: i32) -> Self {
        Self {
            kafka,
            topic: topic.to_owned(),
            partition,
            connection: Mutex::new(None),
            times_refused: AtomicBool::new(false),
            only_to: None,
        }
    }

    /// The same, refusing a topic of another id, one that was created again. `None` for any.
    pub fn only_to(self, topic_id: Option<Uuid>) -> Self {
        Self { only_to: topic_id, ..self }
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The partition's number.
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// Appends the records in order, acknowledged by all in-sync replicas, and returns their offsets.
    ///
    /// Times that the broker refuses, as those of a clock that is an hour fast, are left out: what has to be
    /// written does not wait until somebody sets a clock.
    pub async fn produce(
        &self,
        records: &[Record],
        compression: Compression,
    ) -> Result<Vec<i64>, KafkaError> {
        self.produce_within(records, compression, REQUEST_TIMEOUT).await
    }

    /// As [`produce`](Self::produce), with another limit.
    pub async fn produce_within(
        &self,
        records: &[Record],
        compression: Compression,
        limit: Duration,
    ) -> Result<Vec<i64>, KafkaError> {
        self.produce_from(|| records.to_vec(), compression, limit).await
    }

    /// As [`produce_within`](Self::produce_within), with records that are made for the call, so that none is kept
    /// for a second attempt: where the broker refuses their times, they are made again.
    pub async fn produce_from(
        &self,
        records: impl Fn() -> Vec<Record>,
        compression: Compression,
        limit: Duration,
    ) -> Result<Vec<i64>, KafkaError> {
        match self.produce_once(records(), compression, limit).await {
            Err(refused @ KafkaError::InvalidTimestamp { .. }) => {
                if !self.times_refused.swap(true, Ordering::Relaxed) {
                    log::warn!("{refused}; they are written without");
                }
                let untimed = records().into_iter().map(without_time).collect();
                self.produce_once(untimed, compression, limit).await
            }
            outcome => {
                if outcome.is_ok() {
                    self.times_refused.store(false, Ordering::Relaxed);
                }
                outcome
            }
        }
    }

    /// How long the broker reads nothing more because a quota was exceeded, if it was.
    pub async fn throttled(&self) -> Option<Duration> {
        let until = self.connection.lock().await.as_ref()?.hop.throttled_until()?;
        Some(until.saturating_duration_since(Instant::now())).filter(|wait| !wait.is_zero())
    }

    /// The epoch of the leader that the connection is to, where brokers have epochs.
    pub async fn leader_epoch(&self) -> Option<i32> {
        let connection = self.connection.lock().await;
        connection.as_ref().map(|connected| connected.leader.epoch).filter(|epoch| *epoch >= 0)
    }

    /// Drops the connection. For a caller that gave up a call: its answer is of no use any more.
    pub async fn disconnect(&self) {
        *self.connection.lock().await = None;
    }

    fn produce_once(
        &self,
        records: Vec<Record>,
        compression: Compression,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Vec<i64>, KafkaError>> {
        Box::pin(self.send_once(records, compression, limit))
    }

    async fn send_once(
        &self,
        records: Vec<Record>,
        compression: Compression,
        limit: Duration,
    ) -> Result<Vec<i64>, KafkaError> {
        let name = || format!("produce to {}/{}", self.topic, self.partition);
        let mut connected = self.connected().await?;
        if let Some(until) = connected.hop.throttled_until() {
            let wait = until.saturating_duration_since(Instant::now());
            if wait > limit {
                let reason = format!("a quota of the broker forbids it for another {} s", wait.as_secs());
                return Err(KafkaError::Refused { call: name(), reason });
            }
            sleep_until(until).await;
            if connected.hop.is_expired() {
                connected = self.connected().await?;
            }
        }
        let produced = tokio::select! {
            biased;
            produced = timeout(limit, connected.client.produce(records, compression)) => Ok(produced),
            () = self.kafka.returned(PRODUCE_GRACE) => Err(KafkaError::lost(name())),
            () = self.kafka.leader_changed(&self.topic, self.partition, connected.leader.epoch) => {
                let detail = format!("no answer from {}, and another broker leads now", connected.leader.address);
                Err(KafkaError::failed(name(), detail))
            }
        };
        let error = match produced {
            Ok(Ok(Ok(offsets))) => return Ok(offsets),
            Ok(Ok(Err(error))) => {
                match (KafkaError::from_client(name(), &self.topic, &error), connected.hop.ended()) {
                    (KafkaError::Failed { call, .. }, Some(why)) => {
                        let detail = format!("{why} (broker {})", connected.leader.address);
                        KafkaError::Failed { call, detail }
                    }
                    (error, _) => self.kafka.hinted(error),
                }
            }
            Ok(Err(_)) => KafkaError::Timeout { call: name(), after: limit },
            Err(error) => error,
        };
        if !error.connection_is_good() {
            self.drop_connection(&connected).await;
        }
        Err(error)
    }

    async fn connected(&self) -> Result<Arc<Connected>, KafkaError> {
        let mut slot = self.connection.lock().await;
        // One that the broker closed while nothing was in flight is replaced without doubt about anything.
        let is_good =
            |connected: &&Arc<Connected>| connected.hop.ended().is_none() && !connected.hop.is_expired();
        if let Some(connected) = slot.as_ref().filter(is_good) {
            return Ok(Arc::clone(connected));
        }
        *slot = None;
        let name = || format!("connect to the leader of {}/{}", self.topic, self.partition);
        let connected = tokio::select! {
            biased;
            connected = timeout(CONNECT_TIMEOUT, self.connect()) => connected,
            () = self.kafka.returned(GRACE) => return Err(KafkaError::lost(name())),
        };
        let connected =
            connected.map_err(|_| KafkaError::Timeout { call: name(), after: CONNECT_TIMEOUT })??;
        Ok(Arc::clone(slot.insert(Arc::new(connected))))
    }

    async fn connect(&self) -> Result<Connected, KafkaError> {
        let name = || format!("connect to the leader of {}/{}", self.topic, self.partition);
        let leader = self.kafka.leader(&self.topic, self.partition).await?;
        if self.only_to.is_some_and(|id| !leader.topic_id.is_nil() && leader.topic_id != id) {
            let reason = "the topic was deleted and created again".to_owned();
            return Err(KafkaError::Refused { call: name(), reason });
        }
        let (stream, expires) = self.kafka.connect(&leader.address).await?.into_stream();
        let route = Route {
            topic: self.topic.clone(),
            partition: self.partition,
            leader: leader.broker,
            client_id: Arc::clone(&self.kafka.client_id),
            has_identity: self.kafka.sasl.is_some() || self.kafka.tls.is_some(),
        };
        let mut hop =
            Hop::open(stream, expires, route).await.map_err(|error| KafkaError::failed(name(), error))?;
        let builder =
            ClientBuilder::new(vec![hop.bootstrap()]).client_id(hop.token()).backoff_config(no_retries());
        let client = async {
            let client = builder.build().await?;
            client.partition_client(&self.topic, self.partition, UnknownTopicHandling::Error).await
        };
        let client = client
            .await
            .map_err(|error| self.kafka.hinted(KafkaError::from_client(name(), &self.topic, &error)))?;
        hop.seal();
        Ok(Connected { client, hop, leader })
    }

    /// Drops the connection, unless another call has replaced it already.
    async fn drop_connection(&self, failed: &Arc<Connected>) {
        let mut slot = self.connection.lock().await;
        if slot.as_ref().is_some_and(|current| Arc::ptr_eq(current, failed)) {
            *slot = None;
        }
    }
}

fn without_time(record: Record) -> Record {
    let timestamp = DateTime::<Utc>::from_timestamp_millis(NO_TIMESTAMP).unwrap_or_default();
    Record { timestamp, ..record }
}

/// rskafka tries once: the first backoff is already past the deadline. A retry inside would send a
/// produce again without a look at what became of the first.
fn no_retries() -> BackoffConfig {
    BackoffConfig {
        init_backoff: Duration::from_millis(10),
        max_backoff: Duration::from_millis(20),
        base: 2.0,
        deadline: Some(Duration::from_millis(1)),
    }
}
