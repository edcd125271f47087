//! What there is: API versions, brokers, topics.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::api_versions_response::{ApiVersion, ApiVersionsResponse};
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    BrokerId, DescribeClusterRequest, DescribeClusterResponse, MetadataRequest, MetadataResponse,
};
use uuid::Uuid;

use super::catalogue::APIS;
use super::parts::{NODE_ID, blocking, text, topic_name};
use crate::config::check_topic_name;
use crate::shared::Shared;
use crate::topics::Topic;

/// "Not asked for" in the fields of authorized operations.
const NO_OPERATIONS: i32 = i32::MIN;

/// ApiVersions; always answered, also (as version 0, with an error) for unknown versions.
pub(crate) fn api_versions(error_code: i16) -> ApiVersionsResponse {
    let apis = APIS.iter().map(|(key, first, last)| {
        ApiVersion::default().with_api_key(*key as i16).with_min_version(*first).with_max_version(*last)
    });
    ApiVersionsResponse::default().with_error_code(error_code).with_api_keys(apis.collect())
}

/// Metadata of all topics, or of those asked for.
pub(crate) async fn metadata(
    shared: &Arc<Shared>,
    version: i16,
    request: MetadataRequest,
) -> MetadataResponse {
    let create = shared.auto_create_topics && (version < 4 || request.allow_auto_topic_creation);
    let mut topics = Vec::new();
    match request.topics {
        // Version 0 has no null list: there an empty one means all.
        Some(asked) if version > 0 || !asked.is_empty() => {
            for topic in asked {
                topics.push(match &topic.name {
                    Some(name) => by_name(shared, name, create, version).await,
                    None => by_id(shared, topic.topic_id, version),
                });
            }
        }
        _ => topics.extend(shared.topics.all().iter().map(|topic| described(topic, version))),
    }
    let broker = MetadataResponseBroker::default()
        .with_node_id(NODE_ID)
        .with_host(text(&shared.host))
        .with_port(i32::from(shared.port));
    MetadataResponse::default()
        .with_brokers(vec![broker])
        .with_cluster_id((version >= 2).then(|| text(&shared.cluster_id)))
        .with_controller_id(NODE_ID)
        .with_topics(topics)
        .with_cluster_authorized_operations(NO_OPERATIONS)
}

async fn by_name(shared: &Arc<Shared>, name: &str, create: bool, version: i16) -> MetadataResponseTopic {
    if let Some(topic) = shared.topics.get(name) {
        return described(&topic, version);
    }
    let error = if check_topic_name(name).is_err() {
        ResponseError::InvalidTopicException
    } else if create {
        let (owned, name) = (shared.clone(), name.to_owned());
        let created = blocking(move || owned.topics.create(&name, 1, BTreeMap::new(), false)).await;
        match created {
            Ok(Ok(Some(topic))) => return described(&topic, version),
            Ok(Err(refusal)) => refusal.code,
            Ok(Ok(None)) => ResponseError::UnknownTopicOrPartition,
            Err(error) => error,
        }
    } else {
        ResponseError::UnknownTopicOrPartition
    };
    MetadataResponseTopic::default()
        .with_error_code(error.code())
        .with_name(Some(topic_name(name)))
        .with_topic_authorized_operations(NO_OPERATIONS)
}

fn by_id(shared: &Shared, id: Uuid, version: i16) -> MetadataResponseTopic {
    match shared.topics.by_id(id) {
        Some(topic) => described(&topic, version),
        None => MetadataResponseTopic::default()
            .with_error_code(ResponseError::UnknownTopicId.code())
            // Before version 12 the name cannot be null.
            .with_name((version < 12).then(|| topic_name("")))
            .with_topic_id(id)
            .with_topic_authorized_operations(NO_OPERATIONS),
    }
}

fn described(topic: &Topic, version: i16) -> MetadataResponseTopic {
    let partitions = topic.partitions().into_iter().map(|partition| {
        let described = MetadataResponsePartition::default()
            .with_partition_index(partition.index)
            .with_leader_epoch(if version >= 7 { partition.leader_epoch() } else { -1 })
            .with_replica_nodes(vec![NODE_ID]);
        if partition.check_online().is_err() {
            return described
                .with_error_code(ResponseError::LeaderNotAvailable.code())
                .with_leader_id(BrokerId(-1))
                .with_offline_replicas(if version >= 5 { vec![NODE_ID] } else { Vec::new() });
        }
        described.with_leader_id(NODE_ID).with_isr_nodes(vec![NODE_ID])
    });
    MetadataResponseTopic::default()
        .with_name(Some(topic_name(&topic.name)))
        .with_topic_id(if version >= 10 { topic.id } else { Uuid::nil() })
        .with_partitions(partitions.collect())
        .with_topic_authorized_operations(NO_OPERATIONS)
}

/// DescribeCluster. Asked for controllers, it says as a Kafka broker that it is none.
pub(crate) fn describe(
    shared: &Shared,
    version: i16,
    request: DescribeClusterRequest,
) -> DescribeClusterResponse {
    const BROKERS: i8 = 1;
    if version >= 1 && request.endpoint_type != BROKERS {
        return DescribeClusterResponse::default()
            .with_endpoint_type(BROKERS)
            .with_error_code(ResponseError::MismatchedEndpointType.code())
            .with_error_message(Some(text("this is a broker endpoint")));
    }
    let broker = DescribeClusterBroker::default()
        .with_broker_id(NODE_ID)
        .with_host(text(&shared.host))
        .with_port(i32::from(shared.port));
    DescribeClusterResponse::default()
        .with_endpoint_type(BROKERS)
        .with_cluster_id(text(&shared.cluster_id))
        .with_controller_id(NODE_ID)
        .with_brokers(vec![broker])
        .with_cluster_authorized_operations(NO_OPERATIONS)
}
