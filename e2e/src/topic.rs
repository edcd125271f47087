//! Topics seen through a plain Kafka client that has nothing to do with the system's own.

use crate::eventually;
use rskafka::BackoffConfig;
use rskafka::client::partition::{Compression, OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::Record;
use std::collections::BTreeMap;
use std::time::Duration;

/// For one call. The client itself would wait for ever on a broker that is paused.
const LIMIT: Duration = Duration::from_secs(20);

/// A record as it stands in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRecord {
    /// The partition it is in.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// Key, value, headers and time.
    pub record: Record,
}

impl TopicRecord {
    /// The key, which has to be text.
    pub fn key(&self) -> String {
        String::from_utf8(self.record.key.clone().expect("a record with a key")).expect("a key of text")
    }

    /// The value, which has to be JSON.
    pub fn json(&self) -> serde_json::Value {
        let value = self.record.value.as_deref().expect("a record with a value");
        serde_json::from_slice(value).expect("a value of JSON")
    }

    /// A header, which has to be text.
    pub fn header(&self, name: &str) -> Option<String> {
        let value = self.record.headers.get(name)?;
        Some(String::from_utf8(value.clone()).expect("a header of text"))
    }
}

/// Every record of a topic, partition by partition, up to where it ends now.
pub async fn read_topic(bootstrap: &str, topic: &str) -> Vec<TopicRecord> {
    let client = connect(bootstrap).await.unwrap_or_else(|error| panic!("{error}"));
    let topics = within("the list of topics", client.list_topics()).await;
    let found = topics.into_iter().find(|one| one.name == topic);
    let partitions = found.unwrap_or_else(|| panic!("there is no topic {topic}")).partitions;

    let mut all = Vec::new();
    for partition in partitions {
        read_partition(&partition_client(&client, topic, partition).await, partition, &mut all).await;
    }
    all
}

async fn read_partition(client: &PartitionClient, partition: i32, all: &mut Vec<TopicRecord>) {
    let mut next = within("the first offset", client.get_offset(OffsetAt::Earliest)).await;
    let end = within("the last offset", client.get_offset(OffsetAt::Latest)).await;
    while next < end {
        let (records, _) = within("a fetch", client.fetch_records(next, 1..10_000_000, 1000)).await;
        // Compaction can leave nothing to return at an offset.
        next = records.last().map_or(next + 1, |last| last.offset + 1);
        let before_end = records.into_iter().filter(|one| one.offset < end);
        all.extend(before_end.map(|one| TopicRecord { partition, offset: one.offset, record: one.record }));
    }
}

/// The names of all topics.
pub(crate) async fn topic_names(bootstrap: &str) -> Vec<String> {
    let client = connect(bootstrap).await.unwrap_or_else(|error| panic!("{error}"));
    within("the list of topics", client.list_topics()).await.into_iter().map(|one| one.name).collect()
}

/// Makes a topic with the broker's default configuration.
pub async fn create_topic(bootstrap: &str, topic: &str, partitions: i32) {
    let client = connect(bootstrap).await.unwrap_or_else(|error| panic!("{error}"));
    let controller = client.controller_client().expect("a controller");
    within("a new topic", controller.create_topic(topic, partitions, 1, 10_000)).await;
}

/// A record of these bytes, without headers.
pub fn record(key: Option<&[u8]>, value: Option<&[u8]>) -> Record {
    Record {
        key: key.map(<[u8]>::to_vec),
        value: value.map(<[u8]>::to_vec),
        headers: BTreeMap::new(),
        timestamp: chrono::Utc::now(),
    }
}

/// Deletes a topic and waits until it is gone.
pub async fn delete_topic(bootstrap: &str, topic: &str) {
    let client = connect(bootstrap).await.unwrap_or_else(|error| panic!("{error}"));
    let controller = client.controller_client().expect("a controller");
    within("the deletion of a topic", controller.delete_topic(topic, 10_000)).await;
    let gone = async || {
        let topics = within("the list of topics", client.list_topics()).await;
        topics.iter().all(|one| one.name != topic).then_some(())
    };
    eventually("a deleted topic to be gone", LIMIT, gone).await;
}

/// Writes records to partition 0, as they are, and returns their offsets.
pub async fn produce(bootstrap: &str, topic: &str, records: Vec<Record>) -> Vec<i64> {
    produce_as(bootstrap, topic, records, Compression::NoCompression).await
}

/// As [`produce`], in a gzip batch: so a record may be as large as the topic allows a batch to be.
pub async fn produce_compressed(bootstrap: &str, topic: &str, records: Vec<Record>) -> Vec<i64> {
    produce_as(bootstrap, topic, records, Compression::Gzip).await
}

async fn produce_as(bootstrap: &str, topic: &str, records: Vec<Record>, how: Compression) -> Vec<i64> {
    let client = connect(bootstrap).await.unwrap_or_else(|error| panic!("{error}"));
    let partition = partition_client(&client, topic, 0).await;
    within("a produce", partition.produce(records, how)).await
}

/// Whether a broker answers, and if not, why.
pub(crate) async fn connect(bootstrap: &str) -> Result<Client, String> {
    let backoff = BackoffConfig { max_backoff: Duration::from_millis(500), ..BackoffConfig::default() };
    let addresses = bootstrap.split(',').map(str::to_owned).collect();
    let client = ClientBuilder::new(addresses).backoff_config(backoff).build();
    match tokio::time::timeout(LIMIT, client).await {
        Ok(Ok(client)) => Ok(client),
        Ok(Err(error)) => Err(format!("{bootstrap}: {error}")),
        Err(_) => Err(format!("{bootstrap}: no answer within {LIMIT:?}")),
    }
}

async fn partition_client(client: &Client, topic: &str, partition: i32) -> PartitionClient {
    // Retry: a topic just made may not be known everywhere yet.
    within(topic, client.partition_client(topic, partition, UnknownTopicHandling::Retry)).await
}

async fn within<T, E: std::fmt::Display>(what: &str, call: impl Future<Output = Result<T, E>>) -> T {
    match tokio::time::timeout(LIMIT, call).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => panic!("{what}: {error}"),
        Err(_) => panic!("{what}: no answer within {LIMIT:?}"),
    }
}
