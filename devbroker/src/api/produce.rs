//! Produce.

use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ProduceRequest;
use kafka_protocol::messages::produce_response::{
    PartitionProduceResponse, ProduceResponse, TopicProduceResponse,
};
use task_events::kafka::records::{Batch, BatchHeader, UnreadableReason, crc_matches};
use tokio::sync::oneshot;

use crate::config::TopicConfig;
use crate::log::partition::{Appended, Partition};
use crate::transactions::Producer;
use crate::{Shared, now_ms};

/// From this version on a client knows that it can abort and go on.
const SAYS_ABORTABLE: i16 = 11;

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
    version: i16,
    request: ProduceRequest,
) -> impl Future<Output = ProduceResponse> + use<> {
    let acks_known = (-1..=1).contains(&request.acks);
    let transactional_id = request.transactional_id;
    let in_transaction = |header: &BatchHeader, partition: &Partition| {
        let producer = Producer { id: header.producer_id, epoch: header.producer_epoch };
        let partition = (partition.topic.clone(), partition.index);
        let checked = shared.transactions.check_produce(
            transactional_id.as_ref().map(|id| id.as_str()),
            producer,
            &partition,
        );
        checked.map_err(|error| match error {
            ResponseError::InvalidTxnState if version >= SAYS_ABORTABLE => {
                ResponseError::TransactionAbortable
            }
            other => other,
        })
    };
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
                    let checked = check(&records, &partition.config()).and_then(|header| {
                        let is_transactional = header.is_transactional();
                        if is_transactional {
                            in_transaction(&header, partition)?
                        }
                        Ok(header)
                    });
                    match checked {
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
