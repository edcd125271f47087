//! Fetch, with long poll, by topic name (up to version 12) or by topic id.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_response::{
    AbortedTransaction, EpochEndOffset, FetchableTopicResponse, PartitionData,
};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse, ProducerId, TopicName};
use task_events::kafka::records::Codec;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::parts::{CONSUMER, READ_COMMITTED, blocking, throttle_ms};
use crate::log::epochs::EpochEnd;
use crate::log::partition::{Isolation, Partition, Progress};
use crate::shared::Shared;

/// Kafka's `fetch.max.bytes` of a broker: most bytes in one answer.
const MAX_BYTES: i32 = 55 << 20;
/// Fetch sessions are not kept: an answer with session 0 makes clients send whole requests.
const NO_SESSION: i32 = 0;
/// From this version on topics are named by their ids.
const BY_ID: i16 = 13;
/// From this version on a topic may be compressed with zstd. Kafka 4 no longer refuses older ones.
const ZSTD_FROM: i16 = 10;

/// A topic of the request, and how many partitions of it were asked for.
struct TopicPart {
    name: TopicName,
    id: Uuid,
    count: usize,
}

/// One partition of the request.
#[derive(Clone)]
struct Wanted {
    partition: Result<Arc<Partition>, ResponseError>,
    index: i32,
    offset: i64,
    max_bytes: usize,
    /// The leader epoch that the client believes in, and that of the record before `offset`.
    leader_epoch: i32,
    last_epoch: i32,
    isolation: Isolation,
}

/// What was found for it.
#[derive(Default)]
struct Found {
    code: i16,
    progress: Option<Progress>,
    log_start: i64,
    diverging: Option<EpochEnd>,
    /// Producer id and first offset.
    aborted: Option<Vec<(i64, i64)>>,
    bytes: Vec<u8>,
}

/// Fetch: answers as soon as `min_bytes` are there, an error is, or `max_wait_ms` is over.
pub(crate) async fn fetch(shared: &Arc<Shared>, version: i16, request: FetchRequest) -> FetchResponse {
    if request.session_id != NO_SESSION {
        return FetchResponse::default().with_error_code(ResponseError::FetchSessionIdNotFound.code());
    }
    let max_wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let deadline = Instant::now() + max_wait;
    let min_bytes = usize::try_from(request.min_bytes).unwrap_or(0);
    let max_bytes = usize::try_from(request.max_bytes.min(MAX_BYTES)).unwrap_or(0);
    let (topics, wanted) = resolve(shared, version, request);
    let mut watches: Vec<_> =
        wanted.iter().filter_map(|wanted| wanted.partition.as_ref().ok()).map(|p| p.watch()).collect();
    let mut delay = Duration::ZERO;
    for partition in wanted.iter().filter_map(|wanted| wanted.partition.as_ref().ok()) {
        partition.until_it_answers().await;
        delay = delay.max(partition.config().faults.delay);
        let throttle = partition.fetch_throttle();
        if !throttle.is_zero() {
            // As Kafka answers over a quota: nothing of what was asked for.
            return FetchResponse::default().with_throttle_time_ms(throttle_ms(throttle));
        }
    }
    let found = loop {
        let before: Vec<Progress> = watches.iter_mut().map(seen).collect();
        let found = read(&wanted, max_bytes).await;
        let total: usize = found.iter().map(|found| found.bytes.len()).sum();
        let failed = found.iter().any(|found| found.code != 0 || found.diverging.is_some());
        if total >= min_bytes || failed || wanted.is_empty() || Instant::now() >= deadline {
            break found;
        }
        let missing = (min_bytes - total) as u64;
        let enough = async {
            loop {
                any_change(&mut watches).await;
                let now: Vec<Progress> = watches.iter_mut().map(seen).collect();
                if is_worth_a_look(&wanted, &before, &now, missing) {
                    return;
                }
            }
        };
        // When the time is over, the next round reads what there is.
        let _ = tokio::time::timeout_at(deadline, enough).await;
    };
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    respond(version, topics, &wanted, found)
}

fn resolve(shared: &Shared, version: i16, request: FetchRequest) -> (Vec<TopicPart>, Vec<Wanted>) {
    let replica = match version {
        ..15 => request.replica_id,
        _ => request.replica_state.replica_id,
    };
    let isolation = match (replica, request.isolation_level) {
        (CONSUMER, READ_COMMITTED) => Isolation::Committed,
        (CONSUMER, _) => Isolation::Uncommitted,
        _ => Isolation::LogEnd,
    };
    let mut topics = Vec::new();
    let mut wanted = Vec::new();
    for topic in request.topics {
        let known = match version {
            ..BY_ID => shared.topics.get(&topic.topic).ok_or(ResponseError::UnknownTopicOrPartition),
            _ => shared.topics.by_id(topic.topic_id).ok_or(ResponseError::UnknownTopicId),
        };
        let partition = |index: i32| {
            let known = known.as_ref().map_err(|error| *error)?;
            let partition = known.partition(index).ok_or(ResponseError::UnknownTopicOrPartition)?;
            let is_zstd = partition.config().codec == Some(Codec::Zstd);
            if is_zstd && version < ZSTD_FROM {
                Err(ResponseError::UnsupportedCompressionType)
            } else {
                Ok(partition)
            }
        };
        topics.push(TopicPart { name: topic.topic, id: topic.topic_id, count: topic.partitions.len() });
        wanted.extend(topic.partitions.into_iter().map(|asked| Wanted {
            partition: partition(asked.partition),
            index: asked.partition,
            offset: asked.fetch_offset,
            max_bytes: usize::try_from(asked.partition_max_bytes).unwrap_or(0),
            leader_epoch: asked.current_leader_epoch,
            last_epoch: if version >= 12 { asked.last_fetched_epoch } else { -1 },
            isolation,
        }));
    }
    (topics, wanted)
}

fn seen(watch: &mut watch::Receiver<Progress>) -> Progress {
    *watch.borrow_and_update()
}

/// Whether there may be enough to answer: bytes, a transaction that ended, or an error.
fn is_worth_a_look(wanted: &[Wanted], before: &[Progress], now: &[Progress], missing: u64) -> bool {
    let pairs = || before.iter().zip(now);
    let appended: u64 = pairs().map(|(before, now)| now.appended_bytes - before.appended_bytes).sum();
    let mut partitions = wanted.iter().filter_map(|wanted| wanted.partition.as_ref().ok());
    let moved = |(before, now): (&Progress, &Progress)| {
        // The bytes below it were counted when they were appended.
        let ended = now.last_stable - before.last_stable > now.log_end - before.log_end;
        ended || now.leader_epoch != before.leader_epoch
    };
    appended >= missing || pairs().any(moved) || partitions.any(|partition| partition.is_deleted())
}

/// Waits until one of the partitions has news.
async fn any_change(watches: &mut [watch::Receiver<Progress>]) {
    let mut changes: Vec<Pin<Box<_>>> = watches.iter_mut().map(|watch| Box::pin(watch.changed())).collect();
    std::future::poll_fn(|context| {
        let mut changes = changes.iter_mut();
        match changes.any(|change| change.as_mut().poll(context).is_ready()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

async fn read(wanted: &[Wanted], max_bytes: usize) -> Vec<Found> {
    let waiting_at_end = |wanted: &Wanted| {
        let partition = wanted.partition.as_ref();
        partition.is_ok_and(|partition| partition.progress().end(wanted.isolation) == wanted.offset)
    };
    if wanted.iter().all(waiting_at_end) {
        // Nothing to read from disk: spare the hop to a blocking thread.
        return read_now(wanted, max_bytes);
    }
    let owned = wanted.to_vec();
    match blocking(move || read_now(&owned, max_bytes)).await {
        Ok(found) => found,
        Err(error) => wanted.iter().map(|_| Found::error(error)).collect(),
    }
}

fn read_now(wanted: &[Wanted], max_bytes: usize) -> Vec<Found> {
    let mut left = max_bytes;
    let mut empty = true;
    let mut all = Vec::with_capacity(wanted.len());
    for asked in wanted {
        let found = read_one(asked, left, empty).unwrap_or_else(Found::error);
        left = left.saturating_sub(found.bytes.len());
        empty &= found.bytes.is_empty();
        all.push(found);
    }
    all
}

fn read_one(asked: &Wanted, left: usize, empty: bool) -> Result<Found, ResponseError> {
    let partition = asked.partition.as_ref().map_err(|error| *error)?;
    if partition.is_deleted() {
        return Err(ResponseError::UnknownTopicOrPartition);
    }
    partition.check_online()?;
    let config = partition.config();
    if let Some(error) = config.faults.fetch_error {
        return Err(error);
    }
    partition.check_leader_epoch(asked.leader_epoch)?;
    let progress = partition.progress();
    let found = Found { progress: Some(progress), log_start: partition.log_start(), ..Found::default() };
    if let Some(end) = diverging(partition, asked)? {
        return Ok(Found { diverging: Some(end), ..found });
    }
    let mut bytes = partition.read(asked.offset, asked.max_bytes.min(left), empty, asked.isolation)?;
    if config.faults.empty_fetches.contains(partition.index) {
        bytes.clear();
    }
    let aborted = (asked.isolation == Isolation::Committed).then(|| {
        let until = progress.last_stable;
        let aborted = if bytes.is_empty() { Vec::new() } else { partition.aborted(asked.offset, until) };
        aborted.into_iter().map(|aborted| (aborted.producer_id, aborted.first_offset)).collect()
    });
    Ok(Found { bytes, aborted, ..found })
}

/// Where the client's log and this one part, when the record that it fetched last is not here.
fn diverging(partition: &Partition, asked: &Wanted) -> Result<Option<EpochEnd>, ResponseError> {
    if asked.last_epoch < 0 {
        return Ok(None);
    }
    let end = partition.epoch_end(asked.last_epoch).ok_or(ResponseError::OffsetOutOfRange)?;
    if asked.offset < partition.log_start() {
        return Err(ResponseError::OffsetOutOfRange);
    }
    Ok((end.epoch < asked.last_epoch || end.offset < asked.offset).then_some(end))
}

impl Found {
    fn error(error: ResponseError) -> Self {
        Self { code: error.code(), log_start: -1, ..Self::default() }
    }
}

fn respond(version: i16, topics: Vec<TopicPart>, wanted: &[Wanted], found: Vec<Found>) -> FetchResponse {
    let mut partitions =
        wanted.iter().zip(found).map(|(wanted, found)| partition(version, wanted.index, found));
    let topics = topics.into_iter().map(|topic| {
        let response = FetchableTopicResponse::default()
            .with_partitions(partitions.by_ref().take(topic.count).collect());
        match version {
            ..BY_ID => response.with_topic(topic.name),
            _ => response.with_topic_id(topic.id),
        }
    });
    FetchResponse::default().with_responses(topics.collect())
}

fn partition(version: i16, index: i32, found: Found) -> PartitionData {
    let aborted = |(producer_id, first_offset)| {
        AbortedTransaction::default()
            .with_producer_id(ProducerId(producer_id))
            .with_first_offset(first_offset)
    };
    let mut data = PartitionData::default()
        .with_partition_index(index)
        .with_error_code(found.code)
        .with_high_watermark(found.progress.map_or(-1, |progress| progress.high_watermark))
        .with_last_stable_offset(found.progress.map_or(-1, |progress| progress.last_stable))
        .with_aborted_transactions(found.aborted.map(|all| all.into_iter().map(aborted).collect()))
        .with_records(Some(found.bytes.into()));
    if version >= 5 {
        data.log_start_offset = found.log_start;
    }
    if version >= 11 {
        data.preferred_read_replica = BrokerId(-1);
    }
    if let Some(end) = found.diverging {
        data.diverging_epoch = EpochEndOffset::default().with_epoch(end.epoch).with_end_offset(end.offset);
    }
    data
}
