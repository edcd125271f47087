//! Kafka, with every call bounded in time.
//!
//! [`Partition`] is rskafka's partition client made safe to leave alone: rskafka waits for ever on a
//! frozen broker, retries inside by itself (a produce would be sent twice), and keeps a broken
//! connection. Here each call has a time-out and is tried once; after a failure the connection is dropped
//! and the next call makes a new one. What to do after a failure is the caller's decision. A call that
//! waits for what was lost while Kafka was away ends soon after Kafka is back ([`presence`]).
//!
//! [`Admin`] speaks the calls that rskafka lacks: topic configs and the group coordinator.

mod admin;
mod error;
mod partition;
mod partitioner;
mod position;
mod presence;
pub mod records;
mod requests;
mod sasl;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rskafka::BackoffConfig;
use rskafka::client::{Client, ClientBuilder};

use presence::Presence;

pub use admin::{Admin, Coordinator, NewTopic, TopicOutcome};
pub use error::KafkaError;
pub use partition::{Fetched, Partition};
pub use partitioner::partition_for_key;
pub use position::Position;
pub use requests::request_len;
pub use rskafka::client::partition::{Compression, OffsetAt};
pub use rskafka::record::{Record, RecordAndOffset};
pub use sasl::{Password, Sasl, SaslMechanism};

/// Time for a connection: resolving, connecting, asking for metadata.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a request, beyond the time that a fetch may wait at the broker.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes connections. Cheap to clone; holds none itself.
#[derive(Debug, Clone)]
pub struct Kafka {
    bootstrap: Arc<[String]>,
    client_id: Arc<str>,
    sasl: Option<Arc<Sasl>>,
    presence: Arc<Presence>,
}

impl Kafka {
    /// `bootstrap`: host:port of brokers to ask first. `client_id`: how this process is called in the
    /// broker's logs and quotas.
    pub fn new(bootstrap: Vec<String>, client_id: &str) -> Self {
        Self {
            bootstrap: bootstrap.into(),
            client_id: client_id.into(),
            sasl: None,
            presence: Arc::default(),
        }
    }

    /// The same, logging in at each connection.
    pub fn with_sasl(self, sasl: Option<Sasl>) -> Self {
        Self { sasl: sasl.map(Arc::new), ..self }
    }

    /// The brokers that are asked first, for messages.
    pub fn bootstrap(&self) -> String {
        self.bootstrap.join(",")
    }

    /// A handle to a partition. Connects on first use, with a connection of its own: a produce behind a
    /// long-polling fetch on the same connection would wait for it.
    pub fn partition(&self, topic: &str, partition: i32) -> Partition {
        Partition::new(self.clone(), topic, partition)
    }

    /// The administrative calls.
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// The number of partitions of a topic.
    pub async fn partition_count(&self, topic: &str) -> Result<i32, KafkaError> {
        let topics = self.admin().topics().await?;
        topics.get(topic).copied().ok_or_else(|| KafkaError::unknown_topic(topic))
    }

    /// The names and partition counts of all topics, through one connection.
    pub async fn topics(&self) -> Result<BTreeMap<String, i32>, KafkaError> {
        self.admin().topics().await
    }

    async fn client(&self) -> Result<Client, rskafka::client::error::Error> {
        let builder = ClientBuilder::new(self.bootstrap.to_vec())
            .client_id(Arc::clone(&self.client_id))
            .backoff_config(no_retries());
        match &self.sasl {
            Some(sasl) => builder.sasl_config(sasl.for_rskafka()).build().await,
            None => builder.build().await,
        }
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
