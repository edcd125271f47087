//! Offsets of the log: ListOffsets and DeleteRecords.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{
    DeleteRecordsRequest, DeleteRecordsResponse, ListOffsetsRequest, ListOffsetsResponse,
};

use super::{LEADER_EPOCH, blocking};
use crate::Shared;
use crate::log::partition::{Partition, TimedOffset};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;

/// ListOffsets: earliest, latest, the record with the largest timestamp, or by time.
pub(crate) async fn list_offsets(
    shared: &Arc<Shared>,
    version: i16,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    let mut topics = Vec::new();
    for topic in request.topics {
        let mut partitions = Vec::new();
        for asked in topic.partitions {
            let found = match shared.topics.partition(&topic.name, asked.partition_index) {
                Some(partition) => list_offset(partition, version, asked.timestamp).await,
                None => Err(ResponseError::UnknownTopicOrPartition),
            };
            let response =
                ListOffsetsPartitionResponse::default().with_partition_index(asked.partition_index);
            partitions.push(match found {
                Ok(found) => {
                    let epoch = if version >= 4 && found.offset >= 0 { LEADER_EPOCH } else { -1 };
                    response
                        .with_timestamp(found.timestamp)
                        .with_offset(found.offset)
                        .with_leader_epoch(epoch)
                }
                Err(error) => response.with_error_code(error.code()).with_timestamp(-1).with_offset(-1),
            });
        }
        topics.push(ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions));
    }
    ListOffsetsResponse::default().with_topics(topics)
}

async fn list_offset(
    partition: Arc<Partition>,
    version: i16,
    timestamp: i64,
) -> Result<TimedOffset, ResponseError> {
    let untimed = |offset| TimedOffset { timestamp: -1, offset };
    match timestamp {
        LATEST => return Ok(untimed(partition.high_watermark())),
        EARLIEST => return Ok(untimed(partition.log_start())),
        MAX_TIMESTAMP if version >= 7 => {}
        ..0 => return Err(ResponseError::UnsupportedVersion),
        _ => {}
    }
    let found = blocking(move || match timestamp {
        MAX_TIMESTAMP => partition.max_timestamp(),
        _ => partition.offset_at_time(timestamp),
    });
    match found.await? {
        Ok(found) => Ok(found.unwrap_or(untimed(-1))),
        Err(error) => {
            log::error!("cannot look up a timestamp: {error}");
            Err(ResponseError::KafkaStorageError)
        }
    }
}

/// DeleteRecords: moves the log start; -1 means up to the high watermark.
pub(crate) async fn delete_records(
    shared: &Arc<Shared>,
    request: DeleteRecordsRequest,
) -> DeleteRecordsResponse {
    let mut topics = Vec::new();
    for topic in request.topics {
        let mut partitions = Vec::new();
        for asked in topic.partitions {
            let deleted = match shared.topics.partition(&topic.name, asked.partition_index) {
                Some(partition) => delete_before(partition, asked.offset).await,
                None => Err(ResponseError::UnknownTopicOrPartition),
            };
            let result = DeleteRecordsPartitionResult::default().with_partition_index(asked.partition_index);
            partitions.push(match deleted {
                Ok(low_watermark) => result.with_low_watermark(low_watermark),
                Err(error) => result.with_error_code(error.code()).with_low_watermark(-1),
            });
        }
        topics.push(DeleteRecordsTopicResult::default().with_name(topic.name).with_partitions(partitions));
    }
    DeleteRecordsResponse::default().with_topics(topics)
}

async fn delete_before(partition: Arc<Partition>, offset: i64) -> Result<i64, ResponseError> {
    let config = partition.config();
    if config.compact && !config.delete {
        return Err(ResponseError::PolicyViolation);
    }
    let high_watermark = partition.high_watermark();
    let offset = if offset == -1 { high_watermark } else { offset };
    if !(0..=high_watermark).contains(&offset) {
        return Err(ResponseError::OffsetOutOfRange);
    }
    blocking(move || partition.delete_before(offset)).await?.map_err(|error| {
        log::error!("cannot delete records: {error}");
        ResponseError::KafkaStorageError
    })
}
