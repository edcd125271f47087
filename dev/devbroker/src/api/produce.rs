//! Produce.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::produce_response::{
    PartitionProduceResponse, ProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{ProduceRequest, TransactionalId};
use task_events::kafka::records::{
    Batch, BatchBuilder, BatchHeader, Codec, EncodeError, Unreadable, UnreadableReason, crc_matches,
};
use tokio::sync::oneshot;

use super::parts::{blocking, throttle_ms};
use crate::clock::now_ms;
use crate::config::TopicConfig;
use crate::log::partition::{Appended, Partition};
use crate::shared::Shared;
use crate::transactions::Producer;

/// From this version on a client knows that it can abort and go on.
const SAYS_ABORTABLE: i16 = 11;
/// The bits of a batch's attributes that name its codec.
const CODEC_MASK: i16 = 0b111;

/// From this version on a producer may send zstd.
const ZSTD_FROM: i16 = 7;

type Answer = oneshot::Receiver<Result<Appended, ResponseError>>;

/// What all of a request's partitions have in common.
struct Terms {
    version: i16,
    acks: i16,
    /// How long acks=all waits for the replicas.
    timeout: Duration,
    transactional_id: Option<TransactionalId>,
}

/// A partition's part of a request: refused, or queued for the log.
struct Queued {
    index: i32,
    partition: Option<Arc<Partition>>,
    answer: Result<Answer, ResponseError>,
}

/// Queues the batches in the order of the request; the returned future answers once they are on
/// disk. acks=1 waits for the disk as well. With it comes for how long the client is throttled.
pub(crate) async fn produce(
    shared: &Arc<Shared>,
    version: i16,
    request: ProduceRequest,
) -> (Duration, impl Future<Output = ProduceResponse> + use<>) {
    let terms = Terms {
        version,
        acks: request.acks,
        timeout: Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0)),
        transactional_id: request.transactional_id,
    };
    let mut topics = Vec::new();
    let (mut throttle, mut delay) = (Duration::ZERO, Duration::ZERO);
    for topic in request.topic_data {
        let mut queued = Vec::new();
        for data in topic.partition_data {
            let partition = shared.topics.partition(&topic.name, data.index);
            if let Some(partition) = &partition {
                let config = partition.config();
                throttle = throttle.max(config.faults.produce_throttle);
                delay = delay.max(config.faults.delay);
            }
            let records = data.records.unwrap_or_default();
            let answer = queue(shared, &terms, partition.as_ref(), records).await;
            queued.push(Queued { index: data.index, partition, answer });
        }
        topics.push((topic.name, queued));
    }
    let answered = async move {
        let mut responses = Vec::new();
        for (name, queued) in topics {
            let mut partitions = Vec::new();
            for partition in queued {
                partitions.push(partition.settle(&terms).await);
            }
            responses
                .push(TopicProduceResponse::default().with_name(name).with_partition_responses(partitions));
        }
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        ProduceResponse::default().with_responses(responses).with_throttle_time_ms(throttle_ms(throttle))
    };
    (throttle, answered)
}

async fn queue(
    shared: &Arc<Shared>,
    terms: &Terms,
    partition: Option<&Arc<Partition>>,
    records: Bytes,
) -> Result<Answer, ResponseError> {
    if !(-1..=1).contains(&terms.acks) {
        return Err(ResponseError::InvalidRequiredAcks);
    }
    let partition = partition.ok_or(ResponseError::UnknownTopicOrPartition)?;
    partition.until_it_answers().await;
    partition.check_online()?;
    let config = partition.config();
    if let Some(error) = config.faults.produce_error.filter(|error| !comes_after_append(*error)) {
        return Err(error);
    }
    let header = check(&records, &config)?;
    if header.codec() == Ok(Codec::Zstd) && terms.version < ZSTD_FROM {
        return Err(ResponseError::UnsupportedCompressionType);
    }
    if header.is_transactional() {
        check_transaction(shared, terms, &header, partition)?;
    }
    let (header, bytes) = match config.codec {
        Some(codec) if header.codec() != Ok(codec) => {
            let bytes = blocking(move || recompressed(&header, records, codec)).await??;
            (BatchHeader::parse(&bytes).ok_or(ResponseError::InvalidRecord)?, bytes)
        }
        _ => (header, records.to_vec()),
    };
    if header.size() > config.max_message_bytes {
        return Err(ResponseError::MessageTooLarge);
    }
    Ok(shared.writer.append(partition.clone(), bytes, header).await)
}

/// Whether an error leaves the records in the log: the leader has them, some replica may not.
fn comes_after_append(error: ResponseError) -> bool {
    matches!(error, ResponseError::RequestTimedOut | ResponseError::NotEnoughReplicasAfterAppend)
}

fn check_transaction(
    shared: &Shared,
    terms: &Terms,
    header: &BatchHeader,
    partition: &Partition,
) -> Result<(), ResponseError> {
    let producer = Producer { id: header.producer_id, epoch: header.producer_epoch };
    let entry = (partition.topic.clone(), partition.index);
    let transactional_id = terms.transactional_id.as_ref().map(|id| id.as_str());
    let checked = shared.transactions.check_produce(transactional_id, producer, &entry);
    checked.map_err(|error| match error {
        ResponseError::InvalidTxnState if terms.version >= SAYS_ABORTABLE => {
            ResponseError::TransactionAbortable
        }
        other => other,
    })
}

/// The batch in the codec that the topic wants.
fn recompressed(header: &BatchHeader, records: Bytes, codec: Codec) -> Result<Vec<u8>, ResponseError> {
    let attributes = header.attributes & !CODEC_MASK | codec as i16;
    let refuse = |error: EncodeError| {
        log::warn!("cannot compress a batch of {} bytes with {codec}: {error}", header.size());
        ResponseError::InvalidRecord
    };
    let mut builder =
        BatchBuilder::replacing(&BatchHeader { attributes, ..*header }, None).map_err(refuse)?;
    for record in Batch::of(records).ok_or(ResponseError::InvalidRecord)?.records() {
        builder.push(record.map_err(refusal)?);
    }
    builder.build().map_err(refuse)
}

fn refusal(unreadable: Unreadable) -> ResponseError {
    match unreadable.reason {
        UnreadableReason::UnknownCodec { .. } => ResponseError::UnsupportedCompressionType,
        UnreadableReason::Decompression { .. } => ResponseError::CorruptMessage,
        _ => ResponseError::InvalidRecord,
    }
}

impl Queued {
    async fn settle(self, terms: &Terms) -> PartitionProduceResponse {
        let response = PartitionProduceResponse::default().with_index(self.index);
        let mut appended = match self.answer {
            // The writer is gone only when the broker stops.
            Ok(answer) => answer.await.unwrap_or(Err(ResponseError::NotLeaderOrFollower)),
            Err(error) => Err(error),
        };
        if let (Ok(done), Some(partition)) = (&appended, &self.partition)
            && let Err(error) = replicated(partition, done, terms).await
        {
            appended = Err(error);
        }
        match appended {
            Ok(appended) => response
                .with_base_offset(appended.base_offset)
                .with_log_append_time_ms(appended.log_append_time)
                .with_log_start_offset(self.partition.map_or(-1, |partition| partition.log_start())),
            Err(error) => response
                .with_error_code(error.code())
                .with_base_offset(-1)
                .with_log_append_time_ms(-1)
                .with_log_start_offset(-1),
        }
    }
}

/// Where a batch says its format.
const MAGIC_AT: usize = 16;

/// Waits with acks=all until every replica has what was appended.
async fn replicated(partition: &Partition, appended: &Appended, terms: &Terms) -> Result<(), ResponseError> {
    const ALL: i16 = -1;
    if let Some(error) = partition.config().faults.produce_error.filter(|error| comes_after_append(*error)) {
        return Err(error);
    }
    if terms.acks != ALL {
        return Ok(());
    }
    let mut watch = partition.watch();
    let seen = watch.wait_for(|progress| progress.high_watermark >= appended.next_offset);
    match tokio::time::timeout(terms.timeout, seen).await {
        Ok(_) => Ok(()),
        Err(_) => Err(ResponseError::RequestTimedOut),
    }
}

/// What Kafka checks before it appends: one whole batch, its CRC, its size, its records.
fn check(records: &Bytes, config: &TopicConfig) -> Result<BatchHeader, ResponseError> {
    if records.is_empty() {
        return Err(ResponseError::InvalidRecord);
    }
    if records.get(MAGIC_AT).is_some_and(|magic| *magic != 2) {
        return Err(ResponseError::InvalidRecord);
    }
    let header = BatchHeader::parse(records).ok_or(ResponseError::CorruptMessage)?;
    if header.size() < records.len() {
        return Err(ResponseError::InvalidRecord);
    }
    if header.size() > records.len() {
        return Err(ResponseError::CorruptMessage);
    }
    if header.size() > config.max_message_bytes {
        return Err(ResponseError::MessageTooLarge);
    }
    if !crc_matches(&header, records) {
        return Err(ResponseError::CorruptMessage);
    }
    if header.codec().is_err() {
        return Err(ResponseError::UnsupportedCompressionType);
    }
    if header.is_control() || header.count < 1 || header.count - 1 != header.last_offset_delta {
        return Err(ResponseError::InvalidRecord);
    }
    let latest = now_ms().saturating_add(config.timestamp_after_max_ms);
    if !config.log_append_time && header.max_timestamp > latest {
        return Err(ResponseError::InvalidTimestamp);
    }
    // Compressed records are read only where compaction will need their keys.
    if config.compact || !header.is_compressed() {
        check_records(&header, records, config.compact)?;
    }
    Ok(header)
}

fn check_records(header: &BatchHeader, bytes: &Bytes, keys: bool) -> Result<(), ResponseError> {
    let batch = Batch::of(bytes.clone()).ok_or(ResponseError::InvalidRecord)?;
    let mut next_offset = header.base_offset;
    for record in batch.records() {
        let record = record.map_err(refusal)?;
        if record.offset != next_offset || (keys && record.key.is_none()) {
            return Err(ResponseError::InvalidRecord);
        }
        next_offset += 1;
    }
    if next_offset == header.next_offset() { Ok(()) } else { Err(ResponseError::InvalidRecord) }
}
