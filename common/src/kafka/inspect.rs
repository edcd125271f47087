//! What an operator asks a cluster: where its brokers are, whether they answer from here, what this user may do,
//! and which quotas slow it down.

use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_client_quotas_request::ComponentData;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{DescribeClientQuotasRequest, FetchRequest, MetadataRequest, TopicName};
use tokio::time::timeout;

use super::metadata::text;
use super::{CONNECT_TIMEOUT, Kafka, KafkaError};

/// The version of Fetch from which topics are named by their ids (Kafka 3.1).
const FETCH_BY_ID: i16 = 13;
/// How a broker says that it does not tell a user its rights on a topic.
const RIGHTS_UNKNOWN: i32 = i32::MIN;
/// Kafka's numbers of operations, which are bits of the rights.
const READ: u32 = 3;
const WRITE: u32 = 4;
const DESCRIBE: u32 = 8;
const DESCRIBE_CONFIGS: u32 = 10;

/// A broker, and the address that it gives to clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerInfo {
    /// Its id.
    pub id: i32,
    /// host:port as it advertises itself.
    pub address: Arc<str>,
}

/// What a broker that answers can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Whether topics can be read by their ids, so that one that is created again is noticed at once.
    pub fetches_by_id: bool,
}

/// What this user may do with a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// Read records.
    pub read: bool,
    /// Write records.
    pub write: bool,
    /// See the topic.
    pub describe: bool,
    /// See its configs.
    pub describe_configs: bool,
}

/// A quota that applies to some clients.
#[derive(Debug, Clone, PartialEq)]
pub struct Quota {
    /// Whom it is for, as Kafka writes it: `client-id=task-api`, `user=<default>`.
    pub entity: String,
    /// `producer_byte_rate`, `consumer_byte_rate`, `request_percentage` or another of Kafka's.
    pub key: String,
    /// Bytes a second, or percent.
    pub value: f64,
}

impl Kafka {
    /// The brokers that are up, with the addresses that they advertise.
    pub async fn brokers(&self) -> Result<Vec<BrokerInfo>, KafkaError> {
        self.metadata("ask for the brokers", Some(Vec::new())).await?;
        let state = self.cluster.state();
        let known = state.live.iter().filter_map(|id| Some((*id, state.brokers.get(id)?)));
        Ok(known.map(|(id, address)| BrokerInfo { id, address: Arc::clone(address) }).collect())
    }

    /// Connects to one broker, logs in, and asks what it can do. [`CONNECT_TIMEOUT`] at most.
    pub async fn probe(&self, address: &str) -> Result<Probe, KafkaError> {
        let address: Arc<str> = address.into();
        let connecting = timeout(CONNECT_TIMEOUT, self.connect(&address)).await;
        let connection = connecting.unwrap_or_else(|_| {
            Err(KafkaError::Timeout { call: format!("connect to {address}"), after: CONNECT_TIMEOUT })
        })?;
        let newest = connection.versions().pick::<FetchRequest>();
        let newest = newest.map_err(|error| KafkaError::failed(format!("ask {address}"), error))?;
        Ok(Probe { fetches_by_id: newest >= FETCH_BY_ID })
    }

    /// What the user of this client may do with a topic; `None` where the broker does not tell.
    pub async fn rights(&self, topic: &str) -> Result<Option<Rights>, KafkaError> {
        let call = format!("ask for the rights on topic {topic}");
        let wanted = MetadataRequestTopic::default().with_name(Some(TopicName(text(topic))));
        let request = MetadataRequest::default()
            .with_topics(Some(vec![wanted]))
            .with_allow_auto_topic_creation(false)
            .with_include_topic_authorized_operations(true);
        let (answer, _) = self.ask_any(&call, request).await?;
        let topic = answer.topics.into_iter().next();
        let rights = topic.map(|topic| topic.topic_authorized_operations);
        Ok(rights.filter(|rights| *rights != RIGHTS_UNKNOWN).map(|rights| {
            let may = |operation: u32| rights & (1 << operation) != 0;
            Rights {
                read: may(READ),
                write: may(WRITE),
                describe: may(DESCRIBE),
                describe_configs: may(DESCRIBE_CONFIGS),
            }
        }))
    }

    /// All client quotas of the cluster. Not every user may see them.
    pub async fn quotas(&self) -> Result<Vec<Quota>, KafkaError> {
        /// Kafka's word for a quota of any entity of a type, the default included.
        const ANY: i8 = 2;
        let mut quotas: Vec<Quota> = Vec::new();
        for kind in ["client-id", "user"] {
            let call = "ask for client quotas";
            let component = ComponentData::default().with_entity_type(text(kind)).with_match_type(ANY);
            // Kafka refuses a request that names an entity beside asking for any.
            let component = component.with_match(None);
            let request =
                DescribeClientQuotasRequest::default().with_components(vec![component]).with_strict(false);
            let (answer, _) = self.ask_any(call, request).await?;
            if let Some(error) = ResponseError::try_from_code(answer.error_code) {
                return Err(KafkaError::failed(call, error));
            }
            for entry in answer.entries.unwrap_or_default() {
                let names = entry.entity.iter().map(|entity| {
                    let name = entity.entity_name.as_ref().map_or("<default>", |name| name.as_str());
                    format!("{}={name}", entity.entity_type.as_str())
                });
                let entity = names.collect::<Vec<_>>().join(",");
                for value in &entry.values {
                    let (entity, key) = (entity.clone(), value.key.to_string());
                    let quota = Quota { entity, key, value: value.value };
                    // One of a user and a client id comes with either.
                    if !quotas.contains(&quota) {
                        quotas.push(quota);
                    }
                }
            }
        }
        Ok(quotas)
    }
}
