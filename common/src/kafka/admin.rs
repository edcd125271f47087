//! The calls that rskafka lacks: topics with configs, and the group coordinator.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    CreateTopicsRequest, DescribeConfigsRequest, FindCoordinatorRequest, FindCoordinatorResponse, GroupId,
    OffsetCommitRequest, OffsetCommitResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use tokio::time::sleep;

use super::connection::Connection;
use super::metadata::{address, text};
use super::{Kafka, KafkaError, REQUEST_TIMEOUT};

/// How soon a coordinator that is being elected is asked for again.
const COORDINATOR_RETRY: Duration = Duration::from_millis(200);
/// Newest OffsetCommit that names topics by their names.
const NEWEST_OFFSET_COMMIT: i16 = 9;
/// Kafka's number for a topic among config resources.
const TOPIC_RESOURCE: i8 = 2;

/// A topic to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions.
    pub partitions: i32,
    /// How many replicas; -1 for the broker's default.
    pub replication_factor: i16,
    /// Its configs, where they differ from the broker's defaults.
    pub configs: Vec<(String, String)>,
}

/// What became of a topic that was to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicOutcome {
    /// It was made.
    Created,
    /// It was there already; its configs were left as they are.
    Existed,
}

/// The administrative calls. Each opens connections of its own: they are rare.
#[derive(Debug, Clone)]
pub struct Admin {
    kafka: Kafka,
}

impl Kafka {
    /// The administrative calls.
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }
}

impl Admin {
    fn new(kafka: Kafka) -> Self {
        Self { kafka }
    }

    /// The topics and their partition counts.
    pub async fn topics(&self) -> Result<BTreeMap<String, i32>, KafkaError> {
        self.kafka.topics().await
    }

    /// Creates a topic, unless it exists.
    pub async fn create_topic(&self, topic: &NewTopic) -> Result<TopicOutcome, KafkaError> {
        let name = format!("create topic {}", topic.name);
        let configs = topic.configs.iter().map(|(key, value)| {
            CreatableTopicConfig::default().with_name(text(key)).with_value(Some(text(value)))
        });
        let request = CreateTopicsRequest::default().with_timeout_ms(5_000).with_topics(vec![
            CreatableTopic::default()
                .with_name(TopicName(text(&topic.name)))
                .with_num_partitions(topic.partitions)
                .with_replication_factor(topic.replication_factor)
                .with_configs(configs.collect()),
        ]);
        let mut controller = self.controller().await?;
        let response = controller.call(&name, &request).await?;
        let result = response
            .topics
            .first()
            .ok_or_else(|| KafkaError::failed(&name, "the broker answered for no topic"))?;
        match ResponseError::try_from_code(result.error_code) {
            None => Ok(TopicOutcome::Created),
            Some(ResponseError::TopicAlreadyExists) => Ok(TopicOutcome::Existed),
            Some(ResponseError::TopicAuthorizationFailed | ResponseError::ClusterAuthorizationFailed) => {
                let why = "this user may not create it: grant Create and AlterConfigs on the topic";
                Err(KafkaError::failed(name, why))
            }
            Some(error) => {
                let detail = result
                    .error_message
                    .as_ref()
                    .map_or_else(|| error.to_string(), |message| format!("{error}: {message}"));
                Err(KafkaError::failed(name, detail))
            }
        }
    }

    /// One config of a topic, its default included; `None` where the broker does not know the config.
    pub async fn topic_config(&self, topic: &str, config: &str) -> Result<Option<String>, KafkaError> {
        let name = format!("describe config {config} of topic {topic}");
        let request = DescribeConfigsRequest::default().with_resources(vec![
            DescribeConfigsResource::default()
                .with_resource_type(TOPIC_RESOURCE)
                .with_resource_name(text(topic))
                .with_configuration_keys(Some(vec![text(config)])),
        ]);
        let (response, _) = self.kafka.ask_any(&name, request).await?;
        let result = response
            .results
            .into_iter()
            .next()
            .ok_or_else(|| KafkaError::failed(&name, "the broker answered for no topic"))?;
        match ResponseError::try_from_code(result.error_code) {
            None => {}
            Some(ResponseError::UnknownTopicOrPartition) => return Err(self.kafka.unknown_topic(topic)),
            Some(ResponseError::TopicAuthorizationFailed) => {
                let why = "this user may not see the topic's configs: grant DescribeConfigs on it";
                return Err(KafkaError::failed(name, why));
            }
            Some(error) => return Err(KafkaError::failed(name, error)),
        }
        let value = result
            .configs
            .into_iter()
            .find(|entry| entry.name.as_str() == config)
            .and_then(|entry| entry.value);
        Ok(value.map(|value| value.to_string()))
    }

    /// Connects to the broker that keeps the group's offsets.
    pub async fn coordinator(&self, group: &str) -> Result<Coordinator, KafkaError> {
        let name = format!("find the coordinator of group {group}");
        let mut found = self.find_coordinator(&name, group).await;
        if matches!(found, Err(Unfound::NotYet(_))) {
            // The topic that the coordinators keep is created with the first group that is asked for.
            sleep(COORDINATOR_RETRY).await;
            found = self.find_coordinator(&name, group).await;
        }
        let address = found.map_err(Unfound::into_error)?;
        let connection = self.kafka.connect(&address).await?;
        Ok(Coordinator { connection, kafka: self.kafka.clone(), group: group.to_owned() })
    }

    async fn find_coordinator(&self, name: &str, group: &str) -> Result<Arc<str>, Unfound> {
        // The first version in which several are asked for at once.
        const BATCHED: i16 = 4;
        let one = FindCoordinatorRequest::default().with_key(text(group)).with_key_type(0);
        let request =
            FindCoordinatorRequest::default().with_key_type(0).with_coordinator_keys(vec![text(group)]);
        let any = self.kafka.any_connection().await.map_err(Unfound::Failed)?;
        let mut connection = any;
        let version = connection.versions().pick::<FindCoordinatorRequest>();
        let version = version.map_err(|error| Unfound::Failed(KafkaError::failed(name, error)))?;
        let request = if version >= BATCHED { request } else { one };
        let response =
            connection.call_as(name, version, &request, REQUEST_TIMEOUT).await.map_err(Unfound::Failed)?;
        coordinator_address(name, response)
    }

    async fn controller(&self) -> Result<Connection, KafkaError> {
        self.kafka.metadata("ask for the controller", Some(Vec::new())).await?;
        let id = self.kafka.cluster.state().controller;
        let id = id.ok_or_else(|| KafkaError::failed("ask for the controller", "none is elected"))?;
        self.kafka.connect(&self.kafka.address_of(id)?).await
    }
}

/// Why no coordinator was found.
enum Unfound {
    /// It is being elected.
    NotYet(KafkaError),
    Failed(KafkaError),
}

impl Unfound {
    fn into_error(self) -> KafkaError {
        match self {
            Self::NotYet(error) | Self::Failed(error) => error,
        }
    }
}

fn coordinator_address(name: &str, response: FindCoordinatorResponse) -> Result<Arc<str>, Unfound> {
    let (code, host, port) = match response.coordinators.into_iter().next() {
        Some(found) => (found.error_code, found.host, found.port),
        None => (response.error_code, response.host, response.port),
    };
    match ResponseError::try_from_code(code) {
        None => Ok(address(&host, port).into()),
        Some(code) if is_moving(code) => Err(Unfound::NotYet(KafkaError::failed(name, code))),
        Some(code) => Err(Unfound::Failed(refused(name, code))),
    }
}

/// A coordinator's error code as an error of the call `name`.
fn refused(name: &str, code: ResponseError) -> KafkaError {
    match code {
        ResponseError::GroupAuthorizationFailed => {
            KafkaError::failed(name, "this user may not use the group: grant Read on it")
        }
        ResponseError::TopicAuthorizationFailed => {
            KafkaError::failed(name, "this user may not commit offsets of the topic: grant Read on it")
        }
        code => KafkaError::failed(name, code),
    }
}

/// Whether the coordinator is being elected, or was by now.
fn is_moving(code: ResponseError) -> bool {
    matches!(
        code,
        ResponseError::CoordinatorNotAvailable
            | ResponseError::NotCoordinator
            | ResponseError::CoordinatorLoadInProgress
    )
}

/// The broker that keeps a group's offsets.
pub struct Coordinator {
    connection: Connection,
    kafka: Kafka,
    group: String,
}

impl fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coordinator").field("group", &self.group).finish_non_exhaustive()
    }
}

impl Coordinator {
    /// Commits offsets as a simple consumer, one without membership. After an error, ask for the
    /// coordinator again.
    pub async fn commit(&mut self, topic: &str, offsets: &[(i32, i64)]) -> Result<(), KafkaError> {
        let name = format!("mirror the commits of group {}", self.group);
        let partitions = offsets.iter().map(|(partition, offset)| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(*partition)
                .with_committed_offset(*offset)
                .with_committed_leader_epoch(-1)
                .with_committed_metadata(Some(StrBytes::default()))
        });
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![
                OffsetCommitRequestTopic::default()
                    .with_name(TopicName(text(topic)))
                    .with_partitions(partitions.collect()),
            ]);
        if self.connection.is_expired() {
            self.connection = self.kafka.admin().coordinator(&self.group).await?.connection;
        }
        let response = self.commit_once(&name, &request).await?;
        if error_of(&response).is_some_and(is_moving) {
            sleep(COORDINATOR_RETRY).await;
            self.connection = self.kafka.admin().coordinator(&self.group).await?.connection;
            let response = self.commit_once(&name, &request).await?;
            return error_of(&response).map_or(Ok(()), |code| Err(refused(&name, code)));
        }
        error_of(&response).map_or(Ok(()), |code| Err(refused(&name, code)))
    }

    async fn commit_once(
        &mut self,
        name: &str,
        request: &OffsetCommitRequest,
    ) -> Result<OffsetCommitResponse, KafkaError> {
        // Later versions name the topic by its id.
        let version = self.connection.versions().pick_within::<OffsetCommitRequest>(2, NEWEST_OFFSET_COMMIT);
        let version = version.map_err(|error| KafkaError::failed(name, error))?;
        self.connection.call_as(name, version, request, REQUEST_TIMEOUT).await
    }
}

fn error_of(response: &OffsetCommitResponse) -> Option<ResponseError> {
    let mut codes =
        response.topics.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.error_code);
    codes.find_map(ResponseError::try_from_code)
}
