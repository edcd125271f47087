//! A consumer: starts a worker for each partition of its topic, and watches topics and workers until it is stopped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::abort::AbortOnDrop;
use super::acknowledged::Acknowledged;
use super::handler::Service;
use super::membership::Membership;
use super::shared::{ConsumerConfig, Shared};
use super::status::Status;
use super::topics::{look_at_policy, wait_for_topics};
use super::trouble::Trouble;
use super::{member, mirror, worker};
use crate::dlq::DlqPublisher;
use crate::error_code::Code;
use crate::kafka::{OffsetAt, TopicReader};
use crate::offsets::OffsetsLog;
use crate::shutdown::Shutdown;

/// Time for all of a stop, in which what others can do without comes last.
const STOP_TIMEOUT: Duration = Duration::from_millis(4_300);
/// How often the number of partitions is asked for.
const PARTITIONS_EVERY: Duration = Duration::from_secs(5);

/// Consumes until a stop is asked for; then finishes the event in flight, commits and releases.
///
/// Waits for Kafka and for missing topics, logs it once, and goes on automatically.
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
        acknowledged: Acknowledged::default(),
        membership: Membership::new(partitions),
        shutdown: shutdown.clone(),
    });
    let member = tokio::spawn(member::run(Arc::clone(&shared)));
    let _membership_ends_with_this = AbortOnDrop(vec![member.abort_handle()]);
    let (working, stopped) = oneshot::channel();
    let mirror = tokio::spawn(mirror::run(Arc::clone(&shared), stopped));
    let _mirror_ends_with_this = AbortOnDrop(vec![mirror.abort_handle()]);
    let mut workers =
        Workers { shared: Arc::clone(&shared), tasks: JoinSet::new(), running: BTreeMap::new() };
    let mut vanished = 0;
    let mut forgets = Trouble::new(&shared.status, None, "policy");
    loop {
        shared.membership.set_partitions(partitions);
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
    let stopped_by = Instant::now() + STOP_TIMEOUT;
    while workers.tasks.join_next().await.is_some() {}
    drop(working);
    let within = |limit| stopped_by.min(Instant::now() + limit);
    if timeout_at(within(member::LEAVE_TIMEOUT), member).await.is_err() {
        log::debug!("this instance is a member of group {} until its lease has run out", shared.config.group);
    }
    if timeout_at(within(mirror::LAST), mirror).await.is_err() {
        log::debug!("the coordinator of group {} did not answer in time", shared.config.group);
    }
    log::info!("group {} stopped: {}", shared.config.group, shared.status.stats());
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
            log::warn!("partition {} of {} no longer exists", gone.0, self.shared.config.topic);
            gone.1.abort();
            self.shared.status.forget(gone.0);
            self.shared.acknowledged.forget(gone.0);
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
                log::error!(
                    "the worker of partition {partition} panicked and is started again: {error} {}",
                    Code::WorkerPanic
                );
            }
        }
        sleep_until(until).await;
    }
}
