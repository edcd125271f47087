//! Fetch, with long poll.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse, TopicName};
use tokio::sync::watch;
use tokio::time::Instant;

use super::blocking;
use crate::Shared;
use crate::log::partition::{Partition, Progress};

/// Kafka's `fetch.max.bytes` of a broker: most bytes in one answer.
const MAX_BYTES: i32 = 55 << 20;
/// Fetch sessions are not kept: an answer with session 0 makes clients send whole requests.
const NO_SESSION: i32 = 0;

/// One partition of the request.
#[derive(Clone)]
struct Wanted {
    partition: Option<Arc<Partition>>,
    index: i32,
    offset: i64,
    max_bytes: usize,
}

/// What was found for it.
struct Found {
    code: i16,
    high_watermark: i64,
    log_start: i64,
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
    let (names, wanted) = resolve(shared, request);
    let mut watches: Vec<_> = wanted
        .iter()
        .filter_map(|wanted| wanted.partition.as_ref())
        .map(|partition| partition.watch())
        .collect();
    let found = loop {
        let appended: u64 = watches.iter_mut().map(seen).sum();
        let found = read(&wanted, max_bytes).await;
        let total: usize = found.iter().map(|found| found.bytes.len()).sum();
        let failed = found.iter().any(|found| found.code != 0);
        if total >= min_bytes || failed || wanted.is_empty() || Instant::now() >= deadline {
            break found;
        }
        let missing = (min_bytes - total) as u64;
        let enough = async {
            loop {
                any_change(&mut watches).await;
                let now: u64 = watches.iter_mut().map(seen).sum();
                let mut partitions = wanted.iter().flat_map(|wanted| &wanted.partition);
                if now - appended >= missing || partitions.any(|partition| partition.is_deleted()) {
                    return;
                }
            }
        };
        // When the time is over, the next round reads what there is.
        let _ = tokio::time::timeout_at(deadline, enough).await;
    };
    respond(version, names, &wanted, found)
}

fn resolve(shared: &Shared, request: FetchRequest) -> (Vec<(TopicName, usize)>, Vec<Wanted>) {
    let mut names = Vec::new();
    let mut wanted = Vec::new();
    for topic in request.topics {
        names.push((topic.topic.clone(), topic.partitions.len()));
        wanted.extend(topic.partitions.into_iter().map(|asked| Wanted {
            partition: shared.topics.partition(&topic.topic, asked.partition),
            index: asked.partition,
            offset: asked.fetch_offset,
            max_bytes: usize::try_from(asked.partition_max_bytes).unwrap_or(0),
        }));
    }
    (names, wanted)
}

fn seen(watch: &mut watch::Receiver<Progress>) -> u64 {
    watch.borrow_and_update().appended_bytes
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
        partition.is_some_and(|partition| partition.high_watermark() == wanted.offset)
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
        let found = match &asked.partition {
            Some(partition) if !partition.is_deleted() => {
                let read = partition.read(asked.offset, asked.max_bytes.min(left), empty);
                read.map(|read| Found {
                    code: 0,
                    high_watermark: partition.high_watermark(),
                    log_start: partition.log_start(),
                    bytes: read.bytes,
                })
            }
            _ => Err(ResponseError::UnknownTopicOrPartition),
        };
        let found = found.unwrap_or_else(Found::error);
        left = left.saturating_sub(found.bytes.len());
        empty &= found.bytes.is_empty();
        all.push(found);
    }
    all
}

impl Found {
    fn error(error: ResponseError) -> Self {
        Self { code: error.code(), high_watermark: -1, log_start: -1, bytes: Vec::new() }
    }
}

fn respond(
    version: i16,
    names: Vec<(TopicName, usize)>,
    wanted: &[Wanted],
    found: Vec<Found>,
) -> FetchResponse {
    let mut partitions = wanted.iter().zip(found).map(|(wanted, found)| {
        let data = PartitionData::default()
            .with_partition_index(wanted.index)
            .with_error_code(found.code)
            .with_high_watermark(found.high_watermark)
            .with_last_stable_offset(found.high_watermark)
            .with_records(Some(found.bytes.into()));
        match version {
            ..5 => data,
            5..11 => data.with_log_start_offset(found.log_start),
            _ => data.with_log_start_offset(found.log_start).with_preferred_read_replica(BrokerId(-1)),
        }
    });
    let topics = names.into_iter().map(|(name, count)| {
        FetchableTopicResponse::default()
            .with_topic(name)
            .with_partitions(partitions.by_ref().take(count).collect())
    });
    FetchResponse::default().with_responses(topics.collect())
}
