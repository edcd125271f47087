//! The calls that rskafka lacks: topics with configs, and the group coordinator.

use std::collections::BTreeMap;
use std::fmt;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    BrokerId, CreateTopicsRequest, DescribeConfigsRequest, FetchRequest, FindCoordinatorRequest, GroupId,
    MetadataRequest, MetadataResponse, OffsetCommitRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::wire::Connection;
use super::{Kafka, KafkaError};

// Versions that Kafka 2.4 and later speak. One each: nothing here needs what a newer one adds.
const METADATA: i16 = 9;
const CREATE_TOPICS: i16 = 5;
const DESCRIBE_CONFIGS: i16 = 3;
const FIND_COORDINATOR: i16 = 3;
const OFFSET_COMMIT: i16 = 8;
const FETCH: i16 = 11;

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

impl Admin {
    pub(super) fn new(kafka: Kafka) -> Self {
        Self { kafka }
    }

    /// The topics and their partition counts. Creates none.
    pub async fn topics(&self) -> Result<BTreeMap<String, i32>, KafkaError> {
        let (_, metadata) = self.metadata().await?;
        let counts = metadata.topics.into_iter().filter_map(|topic| {
            let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
            Some((topic.name?.to_string(), count)).filter(|_| topic.error_code == 0)
        });
        Ok(counts.collect())
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
        let response = controller.call(&name, CREATE_TOPICS, &request).await?;
        let result = response
            .topics
            .first()
            .ok_or_else(|| KafkaError::failed(&name, "the broker answered for no topic"))?;
        match ResponseError::try_from_code(result.error_code) {
            None => Ok(TopicOutcome::Created),
            Some(ResponseError::TopicAlreadyExists) => Ok(TopicOutcome::Existed),
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
        let (mut broker, _) = self.any_broker().await?;
        let response = broker.call(&name, DESCRIBE_CONFIGS, &request).await?;
        let result = response
            .results
            .into_iter()
            .next()
            .ok_or_else(|| KafkaError::failed(&name, "the broker answered for no topic"))?;
        match ResponseError::try_from_code(result.error_code) {
            None => {}
            Some(ResponseError::UnknownTopicOrPartition) => return Err(KafkaError::unknown_topic(topic)),
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
        let request = FindCoordinatorRequest::default().with_key(text(group)).with_key_type(0);
        let (mut broker, _) = self.any_broker().await?;
        let response = broker.call(&name, FIND_COORDINATOR, &request).await?;
        if let Some(error) = ResponseError::try_from_code(response.error_code) {
            return Err(KafkaError::failed(name, error));
        }
        let address = address(&response.host, response.port);
        let connection = Connection::open(&address, &self.kafka).await?;
        Ok(Coordinator { connection, group: group.to_owned() })
    }

    /// The offset after the last whole batch of one fetch of `max_bytes` at `offset`, whatever is in them:
    /// records that cannot be decoded, or none, after compaction. With 1 byte it is one batch.
    pub(super) async fn offset_after_batches(
        &self,
        topic: &str,
        partition: i32,
        offset: i64,
        max_bytes: i32,
    ) -> Result<i64, KafkaError> {
        let name = format!("fetch batch headers from {topic}/{partition}");
        let request =
            FetchRequest::default().with_replica_id(BrokerId(-1)).with_max_bytes(max_bytes).with_topics(
                vec![FetchTopic::default().with_topic(TopicName(text(topic))).with_partitions(vec![
                    FetchPartition::default()
                        .with_partition(partition)
                        .with_fetch_offset(offset)
                        .with_partition_max_bytes(max_bytes),
                ])],
            );
        let mut leader = self.leader(topic, partition).await?;
        let response = leader.call(&name, FETCH, &request).await?;
        let data = response
            .responses
            .into_iter()
            .flat_map(|topic| topic.partitions)
            .next()
            .ok_or_else(|| KafkaError::failed(&name, "the broker answered for no partition"))?;
        if let Some(error) = ResponseError::try_from_code(data.error_code) {
            return Err(KafkaError::failed(name, error));
        }
        let records = data.records.unwrap_or_default();
        // Nothing at all below the high watermark: the rest of the log was compacted away.
        Ok(offset_after_batches(&records, offset).unwrap_or(data.high_watermark).max(offset))
    }

    async fn leader(&self, topic: &str, partition: i32) -> Result<Connection, KafkaError> {
        let (_, metadata) = self.metadata().await?;
        let leader = metadata
            .topics
            .iter()
            .find(|known| known.name.as_ref().is_some_and(|name| name.as_str() == topic))
            .and_then(|known| known.partitions.iter().find(|known| known.partition_index == partition))
            .map(|known| known.leader_id)
            .ok_or_else(|| KafkaError::unknown_topic(topic))?;
        self.broker(&metadata, leader).await
    }

    async fn controller(&self) -> Result<Connection, KafkaError> {
        let (_, metadata) = self.metadata().await?;
        self.broker(&metadata, metadata.controller_id).await
    }

    async fn broker(&self, metadata: &MetadataResponse, id: BrokerId) -> Result<Connection, KafkaError> {
        let broker =
            metadata.brokers.iter().find(|broker| broker.node_id == id).ok_or_else(|| {
                KafkaError::failed("ask for metadata", format!("broker {} is not up", id.0))
            })?;
        Connection::open(&address(&broker.host, broker.port), &self.kafka).await
    }

    async fn metadata(&self) -> Result<(Connection, MetadataResponse), KafkaError> {
        let (mut broker, address) = self.any_broker().await?;
        let request = MetadataRequest::default().with_topics(None).with_allow_auto_topic_creation(false);
        let metadata = broker.call(&format!("ask {address} for metadata"), METADATA, &request).await?;
        Ok((broker, metadata))
    }

    /// The first bootstrap broker that takes a connection.
    async fn any_broker(&self) -> Result<(Connection, String), KafkaError> {
        let mut last = KafkaError::failed("connect to Kafka", "no bootstrap broker is configured");
        for address in self.kafka.bootstrap.iter() {
            match Connection::open(address, &self.kafka).await {
                Ok(connection) => return Ok((connection, address.clone())),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// The broker that keeps a group's offsets.
pub struct Coordinator {
    connection: Connection,
    group: String,
}

impl fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coordinator").field("group", &self.group).finish_non_exhaustive()
    }
}

impl Coordinator {
    /// Commits offsets as a simple consumer, one without membership. After an error, ask for the
    /// coordinator anew.
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
        let response = self.connection.call(&name, OFFSET_COMMIT, &request).await?;
        let codes =
            response.topics.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.error_code);
        match codes.into_iter().find_map(ResponseError::try_from_code) {
            None => Ok(()),
            Some(error) => Err(KafkaError::failed(name, error)),
        }
    }
}

fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

fn address(host: &str, port: i32) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The offset after the last whole record batch in `records`, if one starts there.
///
/// A batch: base offset (i64), length of what follows (i32), …, last offset delta (i32 at byte 23); see
/// <https://kafka.apache.org/documentation/#recordbatch>.
fn offset_after_batches(mut records: &[u8], offset: i64) -> Option<i64> {
    let mut next = None;
    while let (Some(base), Some(length), Some(delta)) =
        (field(records, 0), field(records, 8), field(records, 23))
    {
        let base = i64::from_be_bytes(base);
        let after = base + i64::from(i32::from_be_bytes(delta)) + 1;
        let size = usize::try_from(i32::from_be_bytes(length)).ok()? + 12;
        let Some(rest) = records.get(size..) else { break };
        if after > offset {
            next = Some(after);
        }
        records = rest;
    }
    next
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(base: i64, delta: i32) -> Vec<u8> {
        let mut bytes = base.to_be_bytes().to_vec();
        bytes.extend(49i32.to_be_bytes());
        bytes.extend([0; 11]);
        bytes.extend(delta.to_be_bytes());
        bytes.resize(61, 0);
        bytes
    }

    #[test]
    fn empty_batches_are_stepped_over() {
        let two = [batch(10, 4), batch(15, 0)].concat();
        assert_eq!(offset_after_batches(&two, 12), Some(16));
        assert_eq!(offset_after_batches(&two[..100], 12), Some(15), "a cut batch does not count");
        assert_eq!(offset_after_batches(&two[..20], 12), None);
        assert_eq!(offset_after_batches(&[0xff; 200], 12), None, "garbage ends the walk");
    }
}
