//! Produce.

use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::produce_response::{
    PartitionProduceResponse, ProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProduceRequest, ProducerId};
use task_events::kafka::records::{Batch, BatchHeader, UnreadableReason, crc_matches};
use tokio::sync::oneshot;

use super::blocking;
use crate::config::TopicConfig;
use crate::log::partition::{Appended, Partition};
use crate::{Shared, now_ms};

type Answer = oneshot::Receiver<Result<Appended, ResponseError>>;

/// A partition's part of a request: refused, or queued for the log.
struct Queued {
    index: i32,
    partition: Option<Arc<Partition>>,
    answer: Result<Answer, ResponseError>,
}

/// Queues the batches in the order of the request; the returned future answers once they are on
/// disk. acks=1 waits for the disk as well: with one replica it means the same as all.
pub(crate) async fn produce(
    shared: &Arc<Shared>,
    request: ProduceRequest,
) -> impl Future<Output = ProduceResponse> + use<> {
    let acks_known = (-1..=1).contains(&request.acks);
    let mut topics = Vec::new();
    for topic in request.topic_data {
        let mut queued = Vec::new();
        for data in topic.partition_data {
            let partition = shared.topics.partition(&topic.name, data.index);
            let answer = match &partition {
                _ if !acks_known => Err(ResponseError::InvalidRequiredAcks),
                None => Err(ResponseError::UnknownTopicOrPartition),
                Some(partition) => {
                    let records = data.records.unwrap_or_default();
                    match check(&records, &partition.config()) {
                        Ok(header) => {
                            let bytes = records.to_vec();
                            Ok(shared.writer.append(partition.clone(), bytes, header).await)
                        }
                        Err(error) => Err(error),
                    }
                }
            };
            queued.push(Queued { index: data.index, partition, answer });
        }
        topics.push((topic.name, queued));
    }
    async move {
        let mut responses = Vec::new();
        for (name, queued) in topics {
            let mut partitions = Vec::new();
            for partition in queued {
                partitions.push(partition.settle().await);
            }
            responses
                .push(TopicProduceResponse::default().with_name(name).with_partition_responses(partitions));
        }
        ProduceResponse::default().with_responses(responses)
    }
}

impl Queued {
    async fn settle(self) -> PartitionProduceResponse {
        let response = PartitionProduceResponse::default().with_index(self.index);
        let appended = match self.answer {
            // The writer is gone only when the broker stops.
            Ok(answer) => answer.await.unwrap_or(Err(ResponseError::NotLeaderOrFollower)),
            Err(error) => Err(error),
        };
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
    if header.is_transactional() {
        return Err(ResponseError::InvalidTxnState);
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
        let record = record.map_err(|unreadable| match unreadable.reason {
            UnreadableReason::UnknownCodec { .. } => ResponseError::UnsupportedCompressionType,
            UnreadableReason::Decompression { .. } => ResponseError::CorruptMessage,
            _ => ResponseError::InvalidRecord,
        })?;
        if record.offset != next_offset || (keys && record.key.is_none()) {
            return Err(ResponseError::InvalidRecord);
        }
        next_offset += 1;
    }
    if next_offset == header.next_offset() { Ok(()) } else { Err(ResponseError::InvalidRecord) }
}

/// InitProducerId for idempotent producers; a transactional one is refused.
pub(crate) async fn init_producer_id(
    shared: &Arc<Shared>,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    let refuse = |error: ResponseError| {
        InitProducerIdResponse::default()
            .with_error_code(error.code())
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1)
    };
    if request.transactional_id.is_some() {
        return refuse(ResponseError::TransactionalIdAuthorizationFailed);
    }
    let owned = shared.clone();
    match blocking(move || owned.producer_ids.next()).await {
        Ok(Ok(id)) => {
            InitProducerIdResponse::default().with_producer_id(ProducerId(id)).with_producer_epoch(0)
        }
        Ok(Err(error)) => {
            log::error!("cannot reserve producer ids: {error}");
            refuse(ResponseError::KafkaStorageError)
        }
        Err(error) => refuse(error),
    }
}
