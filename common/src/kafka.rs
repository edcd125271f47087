//! Kafka, with every call bounded in time.
//!
//! **Reading** is this crate's own, on the wire messages of kafka-protocol: [`TopicReader`] follows the
//! partitions of a topic as Kafka's consumer does, [`Kafka::read_range`] reads a part of one once, and
//! [`Kafka::list_offset`] and [`Kafka::topic`] say where a log begins and ends, and who leads it.
//!
//! **Producing** is rskafka's partition client made safe to leave alone ([`Producer`]): by itself it waits for
//! ever on a frozen broker, sends a produce again after a failure or a quota, and keeps a broken connection.
//! Here each call has a time limit and is sent once, to the present leader; after a failure the connection is
//! dropped and the next call makes a new one. What to do after a failure is the caller's decision.
//!
//! [`Admin`] creates topics and speaks with group coordinators.
//!
//! | file | what |
//! | --- | --- |
//! | `connection`, `versions`, `sasl` | one connection: frames, versions, login |
//! | `cluster`, `race` | which brokers there are; any of them answers |
//! | `metadata`, `leader`, `list_offsets`, `epochs`, `admin` | one question each |
//! | `inspect` | what an operator asks of a cluster |
//! | `presence` | what a call waits for can no longer come |
//! | `counts` | what metrics tell of the client |
//! | `fetch`, `fetcher` | one Fetch; one broker's fetches |
//! | `position`, `follow`, `reader`, `range` | one partition's life; what a caller sees of it |
//! | `records` | record batches |
//! | `producer`, `hop`, `partitioner` | producing |

mod admin;
mod cluster;
mod connection;
mod counts;
mod epochs;
mod error;
mod fetch;
mod fetcher;
mod fetchers;
mod follow;
mod hop;
mod inspect;
mod leader;
mod list_offsets;
mod metadata;
mod partitioner;
mod position;
mod presence;
mod producer;
mod race;
mod range;
mod reader;
pub mod records;
mod sasl;
mod topic;
mod versions;

use std::sync::Arc;
use std::time::Duration;

use rskafka::BackoffConfig;

use cluster::Cluster;
use presence::Presence;

pub use admin::{Admin, Coordinator, NewTopic, TopicOutcome};
pub use counts::render_metrics;
pub use error::KafkaError;
pub use fetch::{Fetched, Isolation};
pub use follow::ReadEvent;
pub use inspect::{BrokerInfo, Probe, Quota, Rights};
pub use list_offsets::OffsetAt;
pub use partitioner::partition_for_key;
pub use position::{Jump, JumpReason, Position};
pub use producer::Producer;
pub use range::RangeReader;
pub use reader::{PartitionReader, TopicReader};
pub use records::{Batch, ConsumerRecord, Headers, Unreadable};
pub use rskafka::client::partition::Compression;
pub use rskafka::record::Record as ProducerRecord;
pub use sasl::{Password, Sasl, SaslMechanism};
pub use topic::{PartitionInfo, TopicInfo};

/// Time for a connection: resolving, connecting, negotiating, logging in.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a request, beyond the time that a fetch may wait at the broker.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A future without its type: calls nest deeply, which the compiler bounds.
pub(crate) type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A cluster, as one process knows it. Cheap to clone: all clones share what they have found out.
#[derive(Debug, Clone)]
pub struct Kafka {
    bootstrap: Arc<[Arc<str>]>,
    client_id: Arc<str>,
    sasl: Option<Arc<Sasl>>,
    missing_topic_hint: Option<Arc<str>>,
    cluster: Arc<Cluster>,
    presence: Arc<Presence>,
}

impl Kafka {
    /// `bootstrap`: host:port of brokers to ask first. `client_id`: how this process is called in the
    /// broker's logs and quotas.
    pub fn new(bootstrap: Vec<String>, client_id: &str) -> Self {
        Self {
            bootstrap: bootstrap.into_iter().map(Arc::from).collect(),
            client_id: client_id.into(),
            sasl: None,
            missing_topic_hint: None,
            cluster: Arc::default(),
            presence: Arc::default(),
        }
    }

    /// The same, logging in at each connection.
    pub fn with_sasl(self, sasl: Option<Sasl>) -> Self {
        Self { sasl: sasl.map(Arc::new), ..self }
    }

    /// The same, with what to do about a topic that does not exist, in the words of the program's own tools:
    /// "create it with `…`". It ends the text of [`KafkaError::UnknownTopic`].
    pub fn with_missing_topic_hint(self, hint: &str) -> Self {
        Self { missing_topic_hint: Some(hint.into()), ..self }
    }

    /// Adds the hint to an error that wants it.
    fn hinted(&self, error: KafkaError) -> KafkaError {
        match (error, &self.missing_topic_hint) {
            (KafkaError::UnknownTopic { topic, .. }, Some(hint)) => {
                KafkaError::UnknownTopic { topic, hint: Arc::clone(hint) }
            }
            (error, _) => error,
        }
    }

    pub(crate) fn unknown_topic(&self, topic: &str) -> KafkaError {
        self.hinted(KafkaError::unknown_topic(topic))
    }

    /// The brokers that are asked first, for messages.
    pub fn bootstrap(&self) -> String {
        self.bootstrap.join(",")
    }

    /// A handle to produce to a partition. Connects on first use.
    pub fn producer(&self, topic: &str, partition: i32) -> Producer {
        Producer::new(self.clone(), topic, partition)
    }

    /// The administrative calls.
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }
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
