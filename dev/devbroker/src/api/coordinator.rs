//! The group coordinator's side: finding it, committing and reading offsets.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestTopic, OffsetFetchRequestTopics};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{
    FindCoordinatorRequest, FindCoordinatorResponse, OffsetCommitRequest, OffsetCommitResponse,
    OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest, OffsetFetchResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::parts::{NODE_ID, blocking, error_code, text, topic_name};
use crate::groups::offsets::Committed;
use crate::shared::Shared;

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
/// Kafka's `offset.metadata.max.bytes`.
const MAX_METADATA_BYTES: usize = 4096;

/// FindCoordinator: always this broker, for groups and for transactions.
pub(crate) fn find(
    shared: &Shared,
    version: i16,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let is_known = matches!(request.key_type, GROUP | TRANSACTION);
    let error_code = match is_known {
        true => 0,
        false => ResponseError::InvalidRequest.code(),
    };
    let why = (!is_known).then(|| text("only groups and transactions have coordinators here"));
    if version >= 4 {
        let coordinators = request.coordinator_keys.into_iter().map(|key| {
            Coordinator::default()
                .with_key(key)
                .with_node_id(NODE_ID)
                .with_host(text(&shared.host))
                .with_port(i32::from(shared.port))
                .with_error_code(error_code)
                .with_error_message(why.clone())
        });
        return FindCoordinatorResponse::default().with_coordinators(coordinators.collect());
    }
    FindCoordinatorResponse::default()
        .with_node_id(NODE_ID)
        .with_host(text(&shared.host))
        .with_port(i32::from(shared.port))
        .with_error_code(error_code)
        .with_error_message(why.filter(|_| version >= 1))
}

/// OffsetCommit, by a member or by a simple consumer (generation -1, empty member id).
pub(crate) async fn offset_commit(
    shared: &Arc<Shared>,
    request: OffsetCommitRequest,
) -> OffsetCommitResponse {
    let group = request.group_id.to_string();
    let generation = request.generation_id_or_member_epoch;
    let refused = shared.groups.check_commit(&group, &request.member_id, generation).err();
    let mut accepted = Vec::new();
    let mut topics = Vec::new();
    for topic in request.topics {
        let mut partitions = Vec::new();
        for asked in topic.partitions {
            let index = asked.partition_index;
            let metadata = asked.committed_metadata.unwrap_or_default();
            let error = if refused.is_some() {
                refused
            } else if shared.topics.partition(&topic.name, index).is_none() {
                Some(ResponseError::UnknownTopicOrPartition)
            } else if metadata.len() > MAX_METADATA_BYTES {
                Some(ResponseError::OffsetMetadataTooLarge)
            } else {
                None
            };
            if error.is_none() {
                let committed = Committed {
                    offset: asked.committed_offset,
                    leader_epoch: asked.committed_leader_epoch,
                    metadata: metadata.to_string(),
                };
                accepted.push(((topic.name.to_string(), index), committed));
            }
            partitions.push(
                OffsetCommitResponsePartition::default()
                    .with_partition_index(index)
                    .with_error_code(error.map_or(0, |error| error.code())),
            );
        }
        topics.push(OffsetCommitResponseTopic::default().with_name(topic.name).with_partitions(partitions));
    }
    let owned = shared.clone();
    let stored = blocking(move || owned.groups.offsets().commit(&group, accepted)).await;
    let failure = match stored {
        Ok(Ok(())) => None,
        Ok(Err(error)) => {
            log::error!("cannot store committed offsets: {error}");
            Some(ResponseError::KafkaStorageError)
        }
        Err(error) => Some(error),
    };
    if let Some(error) = failure {
        for partition in topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
            if partition.error_code == 0 {
                partition.error_code = error.code();
            }
        }
    }
    OffsetCommitResponse::default().with_topics(topics)
}

/// A partition with what is committed for it.
type Entry = (i32, Result<Option<Committed>, ResponseError>);
/// Topics with their partitions.
type Topics = Vec<(TopicName, Vec<Entry>)>;

/// Committed offsets of a group: of the partitions asked for, or of all. With `stable`, one that
/// an open transaction is about to replace is an error.
fn committed(
    shared: &Shared,
    group: &str,
    asked: Option<Vec<(TopicName, Vec<i32>)>>,
    stable: bool,
) -> Topics {
    let offsets = shared.groups.offsets();
    let checked = |topic: &str, partition, committed| {
        let is_pending = stable && shared.transactions.has_pending_offset(group, topic, partition);
        if is_pending { Err(ResponseError::UnstableOffsetCommit) } else { Ok(committed) }
    };
    let Some(asked) = asked else {
        let mut topics: Topics = Vec::new();
        for ((topic, partition), committed) in offsets.of_group(group) {
            let entry = (partition, checked(&topic, partition, Some(committed)));
            match topics.last_mut() {
                Some((name, partitions)) if **name == *topic => partitions.push(entry),
                _ => topics.push((topic_name(&topic), vec![entry])),
            }
        }
        return topics;
    };
    let of_topic = |(topic, partitions): (TopicName, Vec<i32>)| {
        let committed = |partition| offsets.get(group, &topic, partition).cloned();
        let found = |partition| (partition, checked(&topic, partition, committed(partition)));
        let found = partitions.into_iter().map(found).collect();
        (topic, found)
    };
    asked.into_iter().map(of_topic).collect()
}

/// OffsetFetch. A partition without a commit has the offset -1.
pub(crate) fn offset_fetch(
    shared: &Shared,
    version: i16,
    request: OffsetFetchRequest,
) -> OffsetFetchResponse {
    if version >= 8 {
        let groups = request.groups.into_iter().map(|group| {
            let pair = |topic: OffsetFetchRequestTopics| (topic.name, topic.partition_indexes);
            let asked = group.topics.map(|topics| topics.into_iter().map(pair).collect());
            let topics = committed(shared, &group.group_id, asked, request.require_stable);
            let topics = topics.into_iter().map(|(name, partitions)| {
                OffsetFetchResponseTopics::default()
                    .with_name(name)
                    .with_partitions(partitions.into_iter().map(newer_entry).collect())
            });
            OffsetFetchResponseGroup::default().with_group_id(group.group_id).with_topics(topics.collect())
        });
        return OffsetFetchResponse::default().with_groups(groups.collect());
    }
    let pair = |topic: OffsetFetchRequestTopic| (topic.name, topic.partition_indexes);
    let asked = request.topics.map(|topics| topics.into_iter().map(pair).collect());
    let topics = committed(shared, &request.group_id, asked, request.require_stable);
    let topics = topics.into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(|entry| older_entry(entry, version));
        OffsetFetchResponseTopic::default().with_name(name).with_partitions(partitions.collect())
    });
    OffsetFetchResponse::default().with_topics(topics.collect())
}

/// Error code, offset, leader epoch and metadata as they go over the wire.
fn fields(committed: Result<Option<Committed>, ResponseError>) -> (i16, i64, i32, StrBytes) {
    let code = error_code(&committed);
    match committed.ok().flatten() {
        Some(committed) => (code, committed.offset, committed.leader_epoch, text(committed.metadata)),
        None => (code, -1, -1, StrBytes::default()),
    }
}

fn newer_entry((index, committed): Entry) -> OffsetFetchResponsePartitions {
    let (code, offset, epoch, metadata) = fields(committed);
    OffsetFetchResponsePartitions::default()
        .with_partition_index(index)
        .with_error_code(code)
        .with_committed_offset(offset)
        .with_committed_leader_epoch(epoch)
        .with_metadata(Some(metadata))
}

fn older_entry((index, committed): Entry, version: i16) -> OffsetFetchResponsePartition {
    let (code, offset, epoch, metadata) = fields(committed);
    OffsetFetchResponsePartition::default()
        .with_partition_index(index)
        .with_error_code(code)
        .with_committed_offset(offset)
        .with_committed_leader_epoch(if version >= 5 { epoch } else { -1 })
        .with_metadata(Some(metadata))
}

/// OffsetDelete, for groups without members.
pub(crate) async fn offset_delete(
    shared: &Arc<Shared>,
    request: OffsetDeleteRequest,
) -> OffsetDeleteResponse {
    let refuse = |error: ResponseError| OffsetDeleteResponse::default().with_error_code(error.code());
    match shared.groups.describe(&request.group_id) {
        None => return refuse(ResponseError::GroupIdNotFound),
        Some(group) if !group.members.is_empty() => return refuse(ResponseError::NonEmptyGroup),
        Some(_) => {}
    }
    let mut entries = Vec::new();
    let mut topics = Vec::new();
    for topic in request.topics {
        let mut partitions = Vec::new();
        for asked in topic.partitions {
            let index = asked.partition_index;
            let known = shared.topics.partition(&topic.name, index).is_some();
            if known {
                entries.push((topic.name.to_string(), index));
            }
            let unknown = (!known).then_some(ResponseError::UnknownTopicOrPartition);
            partitions.push(
                OffsetDeleteResponsePartition::default()
                    .with_partition_index(index)
                    .with_error_code(unknown.map_or(0, |error| error.code())),
            );
        }
        topics.push(OffsetDeleteResponseTopic::default().with_name(topic.name).with_partitions(partitions));
    }
    let (owned, group) = (shared.clone(), request.group_id.to_string());
    match blocking(move || owned.groups.offsets().delete(&group, entries)).await {
        Ok(Ok(())) => OffsetDeleteResponse::default().with_topics(topics),
        Ok(Err(error)) => {
            log::error!("cannot delete committed offsets: {error}");
            refuse(ResponseError::KafkaStorageError)
        }
        Err(error) => refuse(error),
    }
}
