//! The consumer runtime: one loop a partition that reads, decodes, deduplicates, handles, dead-letters
//! and commits, as owner or as hot standby. What is done with an event is a [`Handler`], which a [`Service`]
//! makes for each partition: partitions share no lock, and one that waits holds up no other.
//!
//! ```text
//! standby ── claim ──> own:  reader ──> batch: decode → dedup → handle (retries) → flush ──> committer
//!    ^                         |                     └─ malformed, given up ─> DLQ              │
//!    └── fenced, released <────┘                                          offsets topic <───────┘
//! ```
//!
//! # Invariants
//!
//! - *An offset is committed after its work.* A batch ends with [`Handler::flush`], which keeps work and
//!   dedup state, then the progress that the committer may write. What failed is acknowledged by the DLQ before.
//! - *Every event ends as one of four*: handled, a duplicate, not wanted by this group, or in the DLQ.
//! - *Only an owner with a valid lease handles*, checked before each event and before what was done is made
//!   durable; it stops as well once it sees a newer claim. What it then has in hand is not committed.

mod batch;
mod committer;
mod handler;
mod mirror;
mod reader;
mod retry;
mod status;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::dlq::DlqPublisher;
use crate::kafka::{Kafka, KafkaError};
use crate::offsets::OffsetsLog;
use crate::shutdown::Shutdown;
use crate::topics::is_compacted;

pub use handler::{Delivery, Done, Handler, HandlerError, OwnPosition, Service};
pub use retry::Backoff;
pub use status::{PartitionState, Stats, Status, StatusReport};

/// How often a topic that grew is looked for.
const PARTITIONS_EVERY: Duration = Duration::from_secs(60);

/// What a consumer reads, and as whom.
#[derive(Debug, Clone)]
pub struct ConsumerConfig {
    /// How to reach Kafka.
    pub kafka: Kafka,
    /// The topic to read.
    pub topic: String,
    /// The compacted topic of claims and commits.
    pub offsets_topic: String,
    /// Where events go that cannot be handled; `None`: they are logged and passed over.
    pub dlq_topic: Option<String>,
    /// The consumer group.
    pub group: String,
    /// This instance; outlives its restarts.
    pub instance_id: Uuid,
    /// Where it runs, for people.
    pub host: String,
    /// How long this instance may be silent before another takes over.
    pub lease: Duration,
}

/// What the workers of all partitions share.
struct Shared<S> {
    config: ConsumerConfig,
    offsets: OffsetsLog,
    service: S,
    dlq: Option<DlqPublisher>,
    status: Status,
    shutdown: Shutdown,
}

/// Consumes until a stop is asked for; then finishes the event in hand, commits and releases.
///
/// Waits for Kafka and for missing topics, says so once, and goes on by itself.
pub async fn run<S: Service>(config: ConsumerConfig, service: S, status: Status, shutdown: Shutdown) {
    let Some(mut partitions) = shutdown.or(wait_for_topics(&config, &status)).await else {
        return;
    };
    let shared = Arc::new(Shared {
        offsets: OffsetsLog::open(&config.kafka, &config.offsets_topic),
        dlq: config.dlq_topic.as_deref().map(|topic| DlqPublisher::new(config.kafka.clone(), topic)),
        service,
        config,
        status,
        shutdown: shutdown.clone(),
    });
    let (working, stopped) = oneshot::channel();
    let mirror = tokio::spawn(mirror::run(Arc::clone(&shared), stopped));
    let _mirror_ends_with_this = AbortOnDrop(vec![mirror.abort_handle()]);
    let mut workers = JoinSet::new();
    let mut started = 0;
    while !shutdown.is_requested() {
        for partition in started..partitions {
            workers.spawn(worker::run(Arc::clone(&shared), partition));
        }
        started = started.max(partitions);
        let grown = async {
            sleep(PARTITIONS_EVERY).await;
            shared.config.kafka.partition_count(&shared.config.topic).await.unwrap_or(started)
        };
        partitions = shutdown.or(grown).await.unwrap_or(started);
    }
    while workers.join_next().await.is_some() {}
    drop(working);
    if timeout(mirror::LAST, mirror).await.is_err() {
        log::debug!("the coordinator of group {} did not answer in time", shared.config.group);
    }
    log::info!("group {} stopped: {}", shared.config.group, shared.status.stats());
}

/// Returns the number of partitions once all topics are there and the offsets topic is compacted.
async fn wait_for_topics(config: &ConsumerConfig, status: &Status) -> i32 {
    let mut backoff = Backoff::for_kafka();
    let mut said = Said::default();
    loop {
        match check_topics(config).await {
            Ok(partitions) => {
                status.set_waiting(None);
                return partitions;
            }
            Err(why) => {
                said.warn(&why);
                status.set_waiting(Some(why));
                sleep(backoff.next_delay()).await;
            }
        }
    }
}

async fn check_topics(config: &ConsumerConfig) -> Result<i32, String> {
    let topics = config
        .kafka
        .topics()
        .await
        .map_err(|error| format!("waiting for Kafka at {}: {error}", config.kafka.bootstrap()))?;
    let needed = [Some(&config.topic), Some(&config.offsets_topic), config.dlq_topic.as_ref()];
    for topic in needed.into_iter().flatten() {
        if !topics.contains_key(topic) {
            return Err(format!("waiting for a topic: {}", KafkaError::unknown_topic(topic)));
        }
    }
    match config.kafka.admin().topic_config(&config.offsets_topic, "cleanup.policy").await {
        Ok(Some(policy)) if !is_compacted(&policy) => Err(format!(
            "waiting: topic {} has cleanup.policy={policy} and would forget offsets; set it to compact",
            config.offsets_topic
        )),
        Ok(_) => Ok(topics.get(&config.topic).copied().unwrap_or(0)),
        Err(error) => {
            Err(format!("waiting: cannot see whether {} is compacted: {error}", config.offsets_topic))
        }
    }
}

/// Tasks that end with the value.
struct AbortOnDrop(Vec<AbortHandle>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

/// Says the same thing once, and again after half a minute.
#[derive(Debug, Default)]
struct Said(Option<(String, Instant)>);

impl Said {
    const AGAIN: Duration = Duration::from_secs(30);

    fn warn(&mut self, text: &str) {
        let now = Instant::now();
        if self.0.as_ref().is_some_and(|(said, at)| said == text && now - *at < Self::AGAIN) {
            return;
        }
        log::warn!("{text}");
        self.0 = Some((text.to_owned(), now));
    }
}
