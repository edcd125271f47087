//! Creating and deleting topics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse,
};
use uuid::Uuid;

use super::configs;
use super::parts::{blocking, text, topic_name};
use crate::config::TopicConfig;
use crate::shared::Shared;
use crate::topics::{Refusal, Topic};

/// CreateTopics; every topic succeeds or fails on its own.
pub(crate) async fn create(
    shared: &Arc<Shared>,
    version: i16,
    request: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let mut seen = BTreeSet::new();
    let mut twice = BTreeSet::new();
    for topic in &request.topics {
        if !seen.insert(topic.name.clone()) {
            twice.insert(topic.name.clone());
        }
    }
    let mut results = Vec::new();
    for topic in request.topics {
        let name = topic.name.clone();
        if twice.contains(&name) && !seen.remove(&name) {
            continue;
        }
        let created = if twice.contains(&name) {
            let message = "Duplicate topic name.";
            Err(Refusal::new(ResponseError::InvalidRequest, message))
        } else {
            create_one(shared, topic, request.validate_only).await
        };
        results.push(match created {
            Ok(created) => described(created, version).with_name(name),
            Err(refusal) => CreatableTopicResult::default()
                .with_name(name)
                .with_error_code(refusal.code.code())
                .with_error_message(Some(text(refusal.message))),
        });
    }
    CreateTopicsResponse::default().with_topics(results)
}

/// What CreateTopics tells about a topic that was, or could be, created.
struct Created {
    id: Uuid,
    partitions: i32,
    config: TopicConfig,
}

async fn create_one(
    shared: &Arc<Shared>,
    topic: CreatableTopic,
    validate_only: bool,
) -> Result<Created, Refusal> {
    if topic.replication_factor > 1 {
        let message = format!(
            "Unable to replicate the partition {} time(s): there is 1 broker.",
            topic.replication_factor
        );
        return Err(Refusal::new(ResponseError::InvalidReplicationFactor, message));
    }
    let partitions = match (topic.assignments.len(), topic.num_partitions) {
        (0, -1) => 1,
        (0, asked) => asked,
        // An assignment can only name this broker; its length is what counts.
        (assigned, _) => i32::try_from(assigned).unwrap_or(i32::MAX),
    };
    let overrides: BTreeMap<String, String> = topic
        .configs
        .into_iter()
        .filter_map(|config| Some((config.name.to_string(), config.value?.to_string())))
        .collect();
    let owned = shared.clone();
    let config = overrides.clone();
    let created = blocking(move || owned.topics.create(&topic.name, partitions, overrides, validate_only));
    let created = created.await.map_err(|error| Refusal::new(error, "file work ended early"))??;
    Ok(Created {
        id: created.map_or(Uuid::nil(), |topic| topic.id),
        partitions,
        config: TopicConfig::new(config).map_err(|why| Refusal::new(ResponseError::InvalidConfig, why))?,
    })
}

fn described(created: Created, version: i16) -> CreatableTopicResult {
    let result = CreatableTopicResult::default();
    if version < 5 {
        return result;
    }
    let configs = configs::effective(&created.config).map(|(known, value, source)| {
        CreatableTopicConfigs::default()
            .with_name(text(known.name))
            .with_value(Some(text(value)))
            .with_config_source(source)
    });
    let result = result
        .with_num_partitions(created.partitions)
        .with_replication_factor(1)
        .with_configs(Some(configs.collect()));
    match version {
        ..7 => result,
        _ => result.with_topic_id(created.id),
    }
}

/// DeleteTopics, by name or by id.
pub(crate) async fn delete(
    shared: &Arc<Shared>,
    version: i16,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let by_name = |name| DeleteTopicState::default().with_name(Some(name));
    let asked = match version {
        ..6 => request.topic_names.into_iter().map(by_name).collect(),
        _ => request.topics,
    };
    let mut responses = Vec::new();
    for topic in asked {
        let deleted = delete_one(shared, &topic).await;
        let mut result = DeletableTopicResult::default().with_name(topic.name.clone());
        if version >= 6 {
            result = result.with_topic_id(topic.topic_id);
        }
        responses.push(match deleted {
            Ok(deleted) if version >= 6 => {
                result.with_name(Some(topic_name(&deleted.name))).with_topic_id(deleted.id)
            }
            Ok(_) => result,
            Err(refusal) => {
                let message = (version >= 5).then(|| text(refusal.message));
                result.with_error_code(refusal.code.code()).with_error_message(message)
            }
        });
    }
    DeleteTopicsResponse::default().with_responses(responses)
}

async fn delete_one(shared: &Arc<Shared>, asked: &DeleteTopicState) -> Result<Arc<Topic>, Refusal> {
    let name = match &asked.name {
        Some(name) => name.to_string(),
        None => match shared.topics.by_id(asked.topic_id) {
            Some(topic) => topic.name.clone(),
            None => {
                let message = "This server does not host this topic ID.";
                return Err(Refusal::new(ResponseError::UnknownTopicId, message));
            }
        },
    };
    let owned = shared.clone();
    let deleted = blocking(move || {
        let topic = owned.topics.delete(&name)?;
        owned.groups.offsets().delete_topic(&name)?;
        Ok::<_, Refusal>(topic)
    });
    deleted.await.map_err(|error| Refusal::new(error, "file work ended early"))?
}

/// CreatePartitions: adds partitions to topics.
pub(crate) async fn create_partitions(
    shared: &Arc<Shared>,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let validate_only = request.validate_only;
    let mut results = Vec::new();
    for topic in request.topics {
        let (owned, name) = (shared.clone(), topic.name.to_string());
        let grown = blocking(move || owned.topics.grow(&name, topic.count, validate_only)).await;
        let grown = grown.map_err(|error| Refusal::new(error, "file work ended early")).and_then(|done| done);
        let result = CreatePartitionsTopicResult::default().with_name(topic.name);
        results.push(match grown {
            Ok(()) => result,
            Err(refusal) => {
                result.with_error_code(refusal.code.code()).with_error_message(Some(text(refusal.message)))
            }
        });
    }
    CreatePartitionsResponse::default().with_results(results)
}
