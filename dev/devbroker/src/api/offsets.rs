//! Offsets of the log: ListOffsets, OffsetForLeaderEpoch and DeleteRecords.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{
    DeleteRecordsRequest, DeleteRecordsResponse, ListOffsetsRequest, ListOffsetsResponse,
    OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
};

use super::parts::{CONSUMER, READ_COMMITTED, blocking};
use crate::log::epochs::EpochEnd;
use crate::log::partition::{Isolation, Partition, TimedOffset};
use crate::shared::Shared;

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;

/// Who asks for offsets, and how far it may see.
#[derive(Debug, Clone, Copy)]
struct Asker {
    version: i16,
    isolation: Isolation,
}

/// ListOffsets: earliest, latest, the record with the largest timestamp, or by time. Latest is
/// the end of what the asker may see: the high watermark, for committed reads the last stable
/// offset, for a replica or a debugger (replica id -2) the log's end.
pub(crate) async fn list_offsets(
    shared: &Arc<Shared>,
    version: i16,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    let isolation = match (request.replica_id, request.isolation_level) {
        (CONSUMER, READ_COMMITTED) => Isolation::Committed,
        (CONSUMER, _) => Isolation::Uncommitted,
        _ => Isolation::LogEnd,
    };
    let asker = Asker { version, isolation };
    let mut topics = Vec::new();
    for topic in request.topics {
        let mut partitions = Vec::new();
        for asked in topic.partitions {
            let response =
                ListOffsetsPartitionResponse::default().with_partition_index(asked.partition_index);
            let found = match shared.topics.partition(&topic.name, asked.partition_index) {
                Some(partition) => list_offset(partition, asker, &asked).await,
                None => Err(ResponseError::UnknownTopicOrPartition),
            };
            partitions.push(match found {
                Ok(found) => response
                    .with_timestamp(found.timestamp)
                    .with_offset(found.offset)
                    .with_leader_epoch(if version >= 4 { found.leader_epoch } else { -1 }),
                Err(error) => response.with_error_code(error.code()).with_timestamp(-1).with_offset(-1),
            });
        }
        topics.push(ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions));
    }
    ListOffsetsResponse::default().with_topics(topics)
}

async fn list_offset(
    partition: Arc<Partition>,
    asker: Asker,
    asked: &ListOffsetsPartition,
) -> Result<TimedOffset, ResponseError> {
    partition.check_online()?;
    partition.check_leader_epoch(asked.current_leader_epoch)?;
    let untimed = |offset, leader_epoch| TimedOffset { timestamp: -1, offset, leader_epoch };
    let timestamp = asked.timestamp;
    let progress = partition.progress();
    let end = progress.end(asker.isolation);
    // A new leader does not know yet what the old one had promised.
    let is_behind = asker.isolation != Isolation::LogEnd && partition.epoch_start() > progress.high_watermark;
    let not_yet = match asker.version {
        ..5 => ResponseError::LeaderNotAvailable,
        _ => ResponseError::OffsetNotAvailable,
    };
    match timestamp {
        LATEST if is_behind => return Err(not_yet),
        LATEST => return Ok(untimed(end, progress.leader_epoch)),
        EARLIEST => {
            let log_start = partition.log_start();
            return Ok(untimed(log_start, partition.epoch_at(log_start)));
        }
        MAX_TIMESTAMP if asker.version >= 7 => {}
        ..0 => return Err(ResponseError::UnsupportedVersion),
        _ => {}
    }
    let found = blocking(move || match timestamp {
        MAX_TIMESTAMP => partition.max_timestamp(),
        _ => partition.offset_at_time(timestamp),
    });
    match found.await? {
        Ok(Some(found)) if found.offset < end => Ok(found),
        Ok(_) if is_behind => Err(not_yet),
        Ok(_) => Ok(untimed(-1, -1)),
        Err(error) => {
            log::error!("cannot look up a timestamp: {error}");
            Err(ResponseError::KafkaStorageError)
        }
    }
}

/// OffsetForLeaderEpoch: where an epoch ends in the log. A client that has read past that end has
/// read what is no longer there.
pub(crate) fn epoch_ends(
    shared: &Shared,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let response = EpochEndOffset::default().with_partition(asked.partition);
            match epoch_end(shared, &topic.topic, asked) {
                Ok(Some(end)) => response.with_leader_epoch(end.epoch).with_end_offset(end.offset),
                Ok(None) => response.with_leader_epoch(-1).with_end_offset(-1),
                Err(error) => {
                    response.with_error_code(error.code()).with_leader_epoch(-1).with_end_offset(-1)
                }
            }
        });
        let partitions = partitions.collect();
        OffsetForLeaderTopicResult::default().with_topic(topic.topic).with_partitions(partitions)
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}

fn epoch_end(
    shared: &Shared,
    topic: &str,
    asked: &OffsetForLeaderPartition,
) -> Result<Option<EpochEnd>, ResponseError> {
    let partition = shared.topics.partition(topic, asked.partition);
    let partition = partition.ok_or(ResponseError::UnknownTopicOrPartition)?;
    partition.check_online()?;
    partition.check_leader_epoch(asked.current_leader_epoch)?;
    Ok(partition.epoch_end(asked.leader_epoch))
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
    let high_watermark = partition.progress().high_watermark;
    let offset = if offset == -1 { high_watermark } else { offset };
    if !(0..=high_watermark).contains(&offset) {
        return Err(ResponseError::OffsetOutOfRange);
    }
    blocking(move || partition.delete_before(offset)).await?.map_err(|error| {
        log::error!("cannot delete records: {error}");
        ResponseError::KafkaStorageError
    })
}
