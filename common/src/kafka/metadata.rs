//! What the cluster says of a topic: its id, its partitions and their leaders. Asked for by name; asking
//! never creates a topic.
//!
//! A broker may know less than another: an answer with a lower leader epoch than is known for the same
//! topic id is not believed. Of a topic without an id it is after a while, since that may be another topic.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};
use kafka_protocol::messages::{MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use tokio::time::Instant;
use uuid::Uuid;

use super::cluster::State;
use super::{BoxFuture, Kafka, KafkaError};

/// How long older answers are doubted, where no id tells one topic from another. No broker is that far behind.
const DOUBT: Duration = Duration::from_secs(10);

/// A topic as the cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its id, which a topic that is created again does not share; nil where the broker has none (before
    /// Kafka 2.8).
    pub id: Uuid,
    /// Its partitions, by number.
    pub partitions: Vec<PartitionInfo>,
}

/// A partition as the cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionInfo {
    /// Its number.
    pub id: i32,
    /// The broker that leads it, if one does.
    pub leader: Option<i32>,
    /// How often a leader was elected; -1 where the broker does not say.
    pub leader_epoch: i32,
    /// The brokers that keep it.
    pub replicas: Vec<i32>,
    /// Those that have all of it.
    pub isr: Vec<i32>,
    /// Those that are down.
    pub offline: Vec<i32>,
}

impl TopicInfo {
    /// The partition of this number.
    pub fn partition(&self, id: i32) -> Option<&PartitionInfo> {
        self.partitions.iter().find(|partition| partition.id == id)
    }

    /// Whether a partition has a lower leader epoch than it had.
    fn is_older_than(&self, known: &Self) -> bool {
        self.partitions.iter().any(|partition| {
            let known = known.partition(partition.id).map(|known| known.leader_epoch);
            partition.leader_epoch >= 0 && known.is_some_and(|known| partition.leader_epoch < known)
        })
    }

    /// The same topic as known before, kept where the answer is older.
    fn or_newer(mut self, known: &Self) -> Self {
        for partition in &mut self.partitions {
            if let Some(known) = known
                .partition(partition.id)
                .filter(|known| partition.leader_epoch >= 0 && partition.leader_epoch < known.leader_epoch)
            {
                *partition = known.clone();
            }
        }
        self
    }
}

/// A topic as the answers so far have it.
#[derive(Debug, Clone)]
pub(super) struct KnownTopic {
    pub(super) info: TopicInfo,
    pub(super) asked: Instant,
    /// Since when all answers have been older than what is known.
    doubted: Option<Instant>,
}

impl KnownTopic {
    fn after(known: Option<&Self>, answer: TopicInfo, now: Instant) -> Self {
        let believed = |info| Self { info, asked: now, doubted: None };
        let Some(known) =
            known.filter(|known| known.info.id == answer.id && answer.is_older_than(&known.info))
        else {
            return believed(answer);
        };
        // A topic without an id may have been created again.
        let doubted = known.doubted.unwrap_or(now);
        if answer.id.is_nil() && now - doubted >= DOUBT {
            return believed(answer);
        }
        Self { info: answer.or_newer(&known.info), asked: now, doubted: Some(doubted) }
    }
}

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
            Some(ResponseError::UnknownTopicOrPartition) => return Err(KafkaError::unknown_topic(name)),
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

    fn info(id: u128, leader: i32, leader_epoch: i32) -> TopicInfo {
        let partition = PartitionInfo {
            id: 0,
            leader: Some(leader),
            leader_epoch,
            replicas: vec![],
            isr: vec![],
            offline: vec![],
        };
        TopicInfo { id: Uuid::from_u128(id), partitions: vec![partition] }
    }

    #[test]
    fn an_older_answer_is_not_believed_but_another_topic_is() {
        let start = Instant::now();
        let known = KnownTopic::after(None, info(1, 2, 5), start);
        let after = |answer, now| KnownTopic::after(Some(&known), answer, now).info;
        let later = start + DOUBT * 2;
        assert_eq!(after(info(1, 1, 4), later), known.info, "a broker that has yet to hear of epoch 5");
        assert_eq!(after(info(1, 3, 6), later), info(1, 3, 6));
        assert_eq!(after(info(1, -1, -1), later), info(1, -1, -1), "a broker without epochs");
        assert_eq!(after(info(2, 1, 0), later), info(2, 1, 0), "the topic was created again");
    }

    #[test]
    fn without_ids_an_older_answer_is_believed_after_a_while() {
        let start = Instant::now();
        let known = KnownTopic::after(None, info(0, 2, 5), start);
        let soon = KnownTopic::after(Some(&known), info(0, 1, 0), start);
        assert_eq!(soon.info, known.info);
        let late = KnownTopic::after(Some(&soon), info(0, 1, 0), start + DOUBT);
        assert_eq!(late.info, info(0, 1, 0));
    }

    #[test]
    fn an_ipv6_address_is_in_brackets() {
        assert_eq!(address("::1", 9092), "[::1]:9092");
        assert_eq!(address("kafka", 9092), "kafka:9092");
    }
}
