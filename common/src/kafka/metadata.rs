//! Asks the cluster for its topics, their partitions and their leaders, by name; asking never creates a topic.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};
use kafka_protocol::messages::{MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use tokio::time::Instant;

use super::cluster::State;
use super::topic::{KnownTopic, PartitionInfo, TopicInfo};
use super::{BoxFuture, Kafka, KafkaError};

impl Kafka {
    /// What the cluster answered at most `age` ago, asked for by one caller for all who wait.
    pub(super) async fn topic_within(&self, name: &str, age: Duration) -> Result<TopicInfo, KafkaError> {
        let _asking = self.cluster.asking.lock().await;
        let known =
            self.cluster.state().topics.get(name).filter(|known| known.asked.elapsed() < age).cloned();
        match known {
            Some(known) => Ok(known.info),
            None => self.topic(name).await,
        }
    }

    /// Asks the cluster for a topic.
    pub async fn topic(&self, name: &str) -> Result<TopicInfo, KafkaError> {
        let call = format!("ask for metadata of topic {name}");
        let topic = MetadataRequestTopic::default().with_name(Some(TopicName(text(name))));
        let answer = self.metadata(&call, Some(vec![topic])).await?;
        let topic = answer
            .topics
            .into_iter()
            .find(|topic| topic.name.as_ref().is_some_and(|known| known.as_str() == name))
            .ok_or_else(|| KafkaError::failed(&call, "the broker answered for another topic"))?;
        match ResponseError::try_from_code(topic.error_code) {
            None => {}
            Some(ResponseError::UnknownTopicOrPartition) => return Err(self.unknown_topic(name)),
            Some(ResponseError::TopicAuthorizationFailed) => {
                let why = "this user may not see it: grant Describe and Read, or Write, on the topic";
                return Err(KafkaError::failed(call, why));
            }
            Some(error) => return Err(KafkaError::failed(call, error)),
        }
        let mut state = self.cluster.state();
        let info = topic_info(topic, &state);
        let known = KnownTopic::after(state.topics.get(name), info, Instant::now());
        let info = known.info.clone();
        state.topics.insert(name.to_owned(), known);
        Ok(info)
    }

    /// The number of partitions of a topic.
    pub fn partition_count<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<i32, KafkaError>> {
        Box::pin(async {
            let partitions = self.topic(topic).await?.partitions.len();
            Ok(i32::try_from(partitions).unwrap_or(i32::MAX))
        })
    }

    /// The names and partition counts of all topics that this user may see.
    pub async fn topics(&self) -> Result<BTreeMap<String, i32>, KafkaError> {
        let answer = self.metadata("ask for metadata", None).await?;
        let counts = answer.topics.into_iter().filter_map(|topic| {
            let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
            Some((topic.name?.to_string(), count)).filter(|_| topic.error_code == 0)
        });
        Ok(counts.collect())
    }

    /// The brokers that are up, as host:port, by the latest answer of one of them.
    pub async fn live_brokers(&self) -> Result<Vec<String>, KafkaError> {
        self.metadata("ask for the brokers", Some(Vec::new())).await?;
        let state = self.cluster.state();
        Ok(state.live.iter().filter_map(|id| state.brokers.get(id)).map(ToString::to_string).collect())
    }

    /// Asks any broker. `None` for all topics, an empty list for none.
    pub(super) async fn metadata(
        &self,
        call: &str,
        topics: Option<Vec<MetadataRequestTopic>>,
    ) -> Result<MetadataResponse, KafkaError> {
        let request = MetadataRequest::default().with_topics(topics).with_allow_auto_topic_creation(false);
        let (answer, _) = self.ask_any(call, request).await?;
        let mut state = self.cluster.state();
        state.discovered(
            answer
                .brokers
                .iter()
                .map(|broker| (broker.node_id.0, Arc::from(address(&broker.host, broker.port)))),
        );
        state.controller = Some(answer.controller_id.0).filter(|id| *id >= 0);
        drop(state);
        Ok(answer)
    }
}

fn topic_info(topic: MetadataResponseTopic, state: &State) -> TopicInfo {
    let mut partitions: Vec<_> =
        topic.partitions.into_iter().map(|partition| partition_info(partition, state)).collect();
    partitions.sort_by_key(|partition| partition.id);
    TopicInfo { id: topic.topic_id, partitions }
}

fn partition_info(partition: MetadataResponsePartition, state: &State) -> PartitionInfo {
    let ids = |nodes: Vec<kafka_protocol::messages::BrokerId>| nodes.into_iter().map(|id| id.0).collect();
    PartitionInfo {
        id: partition.partition_index,
        leader: Some(partition.leader_id.0).filter(|id| *id >= 0 && state.brokers.contains_key(id)),
        leader_epoch: partition.leader_epoch,
        replicas: ids(partition.replica_nodes),
        isr: ids(partition.isr_nodes),
        offline: ids(partition.offline_replicas),
    }
}

pub(super) fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

/// host:port; a literal IPv6 address in brackets.
pub(super) fn address(host: &str, port: i32) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_is_in_brackets() {
        assert_eq!(address("::1", 9092), "[::1]:9092");
        assert_eq!(address("kafka", 9092), "kafka:9092");
    }
}
