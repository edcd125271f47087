//! The consumer runtime: one loop a partition that reads, decodes, deduplicates, handles, dead-letters
//! and commits, as owner or as hot standby. What is done with an event is a [`Handler`], which a [`Service`]
//! makes for each partition: partitions share no lock, and one that waits holds up no other.
//!
//! ```text
//! standby ── claim ──> own:  reader ──> intake: decode → dedup ──> handle (retries) → flush ──> committer
//!    ^                         |            (one batch ahead)         └─ malformed, given up ─> DLQ │
//!    └── fenced, released <────┘                                              offsets topic <───────┘
//! ```
//!
//! # Invariants
//!
//! - *An offset is committed after its work.* A batch ends with [`Handler::flush`], which keeps work and
//!   dedup state, then the progress that the committer may write. What failed is acknowledged by the DLQ before.
//! - *Only what has no effects runs ahead*: the next batch is read, decoded and looked up while one is handled
//!   and made durable ([`intake`]); it is handled when that is done, and forgotten where the partition is lost.
//! - *Every event ends as one of four*: handled, a duplicate, not wanted by this group, or in the DLQ.
//! - *Only an owner with a valid lease handles*, checked before each event and before what was done is made
//!   durable; it stops as well once it sees a newer claim. What it then has in flight is not committed.
//! - *An owner that makes no progress loses its partition*: what hangs is not renewed ([`ownership`]).

mod batch;
mod chunks;
mod claims;
mod handler;
mod intake;
mod mirror;
mod owner;
mod ownership;
mod recent;
mod start;
mod status;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::backoff::Backoff;
use crate::dlq::DlqPublisher;
use crate::kafka::{Kafka, KafkaError, OffsetAt, TopicReader};
use crate::offsets::OffsetsLog;
use crate::shutdown::Shutdown;
use crate::state_dir::Identity;
use crate::topics::is_compacted;
use status::Trouble;

pub use handler::{Decoder, Delivery, Done, Handler, HandlerError, OwnPosition, Service};
pub use status::{PartitionReport, PartitionState, Stats, Status, StatusReport};

/// How often the number of partitions is asked for.
const PARTITIONS_EVERY: Duration = Duration::from_secs(5);

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
    /// The service: a group belongs to one.
    pub service: String,
    /// This instance; outlives its restarts.
    pub identity: Identity,
    /// Where it runs, for people.
    pub host: String,
    /// How long this instance may be silent before another takes over.
    pub lease: Duration,
}

/// What the workers of all partitions share.
struct Shared<S> {
    config: ConsumerConfig,
    offsets: OffsetsLog,
    reader: TopicReader,
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
        reader: TopicReader::new(&config.kafka, &config.topic),
        service,
        config,
        status,
        shutdown: shutdown.clone(),
    });
    let (working, stopped) = oneshot::channel();
    let mirror = tokio::spawn(mirror::run(Arc::clone(&shared), stopped));
    let _mirror_ends_with_this = AbortOnDrop(vec![mirror.abort_handle()]);
    let mut workers =
        Workers { shared: Arc::clone(&shared), tasks: JoinSet::new(), running: BTreeMap::new() };
    let mut vanished = 0;
    let mut forgets = Trouble::new(&shared.status, None, "policy");
    loop {
        workers.run(partitions);
        if shutdown.or(workers.watch(PARTITIONS_EVERY)).await.is_none() {
            break;
        }
        let look = async {
            look_at_ends(&shared).await;
            look_at_policy(&shared.config, &mut forgets).await;
            shared.config.kafka.partition_count(&shared.config.topic).await
        };
        let Some(Ok(count)) = shutdown.or(look).await else { continue };
        // One answer of a broker that is behind does not end a worker.
        vanished = if count < partitions { vanished + 1 } else { 0 };
        if count > partitions || vanished > 1 {
            log::info!("topic {} has {count} partitions now, {partitions} before", shared.config.topic);
            partitions = count;
        }
    }
    while workers.tasks.join_next().await.is_some() {}
    drop(working);
    if timeout(mirror::LAST, mirror).await.is_err() {
        log::debug!("the coordinator of group {} did not answer in time", shared.config.group);
    }
    log::info!("group {} stopped: {}", shared.config.group, shared.status.stats());
}

/// Returns the number of partitions once all topics are there and the offsets topic is compacted.
async fn wait_for_topics(config: &ConsumerConfig, status: &Status) -> i32 {
    let mut backoff = Backoff::for_kafka();
    let mut waiting = Trouble::new(status, None, "topics");
    loop {
        match check_topics(config).await {
            Ok(partitions) => {
                waiting.over(&format!("group {} has all it waited for", config.group));
                status.started();
                return partitions;
            }
            Err(why) => {
                status.started();
                waiting.report(&why);
                sleep(backoff.next_delay()).await;
            }
        }
    }
}

async fn check_topics(config: &ConsumerConfig) -> Result<i32, String> {
    let partitions = existing(config, &config.topic).await?;
    for topic in [Some(&config.offsets_topic), config.dlq_topic.as_ref()].into_iter().flatten() {
        existing(config, topic).await?;
    }
    match forgetful_policy(config).await {
        Ok(Some(policy)) => Err(format!(
            "waiting: topic {} has cleanup.policy={policy} and would forget offsets; set it to compact",
            config.offsets_topic
        )),
        Ok(None) => Ok(partitions),
        Err(error) => {
            Err(format!("waiting: cannot see whether {} is compacted: {error}", config.offsets_topic))
        }
    }
}

/// The cleanup policy of the offsets topic, where it is one that forgets offsets.
async fn forgetful_policy(config: &ConsumerConfig) -> Result<Option<String>, KafkaError> {
    let policy = config.kafka.admin().topic_config(&config.offsets_topic, "cleanup.policy").await?;
    Ok(policy.filter(|policy| !is_compacted(policy)))
}

/// Looks whether the policy of the offsets topic was changed since the start. The service goes on, as what it
/// reads and writes is still there.
async fn look_at_policy(config: &ConsumerConfig, forgets: &mut Trouble) {
    let topic = &config.offsets_topic;
    match forgetful_policy(config).await {
        Ok(Some(policy)) => forgets.report(&format!(
            "topic {topic} has cleanup.policy={policy} now: Kafka deletes claims and positions; set it to compact"
        )),
        Ok(None) => forgets.over(&format!("topic {topic} is compacted again")),
        Err(error) => log::debug!("cannot see whether {topic} is still compacted: {error}"),
    }
}

/// The number of partitions of a topic that has to exist.
async fn existing(config: &ConsumerConfig, topic: &str) -> Result<i32, String> {
    config.kafka.partition_count(topic).await.map_err(|error| match error {
        KafkaError::UnknownTopic { .. } => format!("waiting for a topic: {error}"),
        error => format!("waiting for Kafka at {}: {error}", config.kafka.bootstrap()),
    })
}

/// Fetches the ends of the partitions that this instance does not read, for their lag. Best effort.
async fn look_at_ends<S>(shared: &Shared<S>) {
    for partition in shared.status.not_read() {
        match shared.config.kafka.list_offset(&shared.config.topic, partition, OffsetAt::Latest).await {
            Ok(end) => shared.status.set_log_end(partition, end),
            Err(error) => log::debug!("the lag of partition {partition} is not up to date: {error}"),
        }
    }
}

/// The workers, one for each partition.
struct Workers<S> {
    shared: Arc<Shared<S>>,
    tasks: JoinSet<i32>,
    running: BTreeMap<i32, AbortHandle>,
}

impl<S: Service> Workers<S> {
    /// Starts what is missing, and ends the workers of partitions that are no more.
    fn run(&mut self, partitions: i32) {
        for gone in self.running.split_off(&partitions) {
            log::warn!("partition {} of {} is no more", gone.0, self.shared.config.topic);
            gone.1.abort();
            self.shared.status.forget(gone.0);
        }
        for partition in 0..partitions {
            let shared = &self.shared;
            self.running.entry(partition).or_insert_with(|| {
                let worker = worker::run(Arc::clone(shared), partition);
                self.tasks.spawn(async move {
                    worker.await;
                    partition
                })
            });
        }
    }

    /// Watches the workers for that long. One that panicked is started again: its partition was lost to a
    /// standby meanwhile, if there is one.
    async fn watch(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while let Ok(Some(ended)) = timeout_at(until, self.tasks.join_next()).await {
            let Err(error) = ended else { continue };
            let panicked: Vec<i32> = self
                .running
                .extract_if(.., |_, task| task.id() == error.id() && error.is_panic())
                .map(|(partition, _)| partition)
                .collect();
            for partition in panicked {
                log::error!("the worker of partition {partition} panicked and is started again: {error}");
            }
        }
        sleep_until(until).await;
    }
}

/// Tasks that end with the value.
struct AbortOnDrop(Vec<AbortHandle>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}
