//! Topics seen through a plain Kafka client that has nothing to do with the system's own.

use crate::wire::{Wire, check_code, name};
use crate::{Error, Result, eventually};
use bytes::{Buf, Bytes};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest};
use kafka_protocol::records::{Compression as Codec, RecordBatchDecoder};
use rskafka::BackoffConfig;
use rskafka::client::partition::{Compression, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::Record;
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::time::Duration;

/// For one call. The client itself would wait for ever on a broker that is paused.
const LIMIT: Duration = Duration::from_secs(20);

const FETCH_BYTES: i32 = 10_000_000;
const FETCH: i16 = 11;

/// A record as it is in a topic.
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
    pub fn key(&self) -> Result<String> {
        self.text("key", self.record.key.as_deref())
    }

    /// The value, which has to be JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.text("value", self.record.value.as_deref())?)?)
    }

    /// A header, which has to be text.
    pub fn header(&self, name: &str) -> Result<Option<String>> {
        let value = self.record.headers.get(name);
        value.map(|value| self.text(name, Some(value))).transpose()
    }

    fn text(&self, what: &str, bytes: Option<&[u8]>) -> Result<String> {
        let text = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok()).map(str::to_owned);
        let place = || format!("partition {}, offset {}", self.partition, self.offset);
        text.ok_or_else(|| Error::failed(format!("{what} of the record at {}: no text", place())))
    }
}

/// The keys of these records, each of which has to be text: of events, the ids of their tasks.
pub fn keys(records: &[TopicRecord]) -> Result<Vec<String>> {
    records.iter().map(TopicRecord::key).collect()
}

/// Every record of a topic, partition by partition, up to where it ends now.
pub async fn read_topic(bootstrap: &str, topic: &str) -> Result<Vec<TopicRecord>> {
    let client = connect(bootstrap).await?;
    let topics = within("list topics", client.list_topics()).await?;
    let found = topics.into_iter().find(|one| one.name == topic);
    let found = found.ok_or_else(|| Error::failed(format!("there is no topic {topic}")))?;

    let mut all = Vec::new();
    for partition in found.partitions {
        read_partition(bootstrap, topic, partition, &mut all).await?;
    }
    Ok(all)
}

/// Reads a partition as a consumer with read_committed does: what was aborted, or not yet committed, is left
/// out. It shares no code with the system's own reader. Batches in a codec other than gzip are left out as well:
/// neither the system nor this harness writes any.
async fn read_partition(
    bootstrap: &str,
    topic: &str,
    partition: i32,
    all: &mut Vec<TopicRecord>,
) -> Result<()> {
    let mut leader = Wire::connect_leader(bootstrap, topic, partition).await?;
    let start = leader.first_offset(topic, partition).await?;
    check_code("the first offset", start.error_code)?;
    let mut next = start.offset;
    // Of producers whose transaction has not ended, so far as the log was read.
    let mut open: HashMap<i64, Vec<(i64, Record)>> = HashMap::new();
    let mut found: Vec<(i64, Record)> = Vec::new();
    let mut empty = 0;
    loop {
        let (mut batches, end) = fetch(&mut leader, topic, partition, next).await?;
        // Compaction may have left nothing at the end of the log.
        empty = if batches.is_empty() { empty + 1 } else { 0 };
        if empty == 3 {
            break;
        }
        while let Some((batch, after)) = next_batch(&mut batches) {
            if after > next {
                read_batch(batch, next, &mut open, &mut found);
                next = after;
            }
        }
        if next >= end {
            break;
        }
    }
    found.sort_by_key(|(offset, _)| *offset);
    all.extend(found.into_iter().map(|(offset, record)| TopicRecord { partition, offset, record }));
    Ok(())
}

/// Cuts the first whole batch off: its bytes, and the offset after it.
fn next_batch(batches: &mut Bytes) -> Option<(Bytes, i64)> {
    let mut header = batches.get(..61)?;
    let base = header.get_i64();
    let size = 12 + usize::try_from(header.get_i32()).ok()?;
    if batches.len() < size {
        return None;
    }
    header.advance(11);
    let last_delta = i64::from(header.get_i32());
    Some((batches.split_to(size), base + last_delta + 1))
}

fn read_batch(
    mut batch: Bytes,
    from: i64,
    open: &mut HashMap<i64, Vec<(i64, Record)>>,
    found: &mut Vec<(i64, Record)>,
) {
    let unzip = |packed: &mut Bytes, codec| match codec {
        Codec::None => Ok(packed.split_to(packed.len())),
        Codec::Gzip => {
            let mut unpacked = Vec::new();
            flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut unpacked)?;
            Ok(Bytes::from(unpacked))
        }
        _ => Err(std::io::Error::other("another codec").into()),
    };
    let stamped = append_time(&batch);
    let Ok(records) = RecordBatchDecoder::decode_with_custom_compression(&mut batch, Some(unzip)) else {
        return;
    };
    for record in records.records {
        if record.control {
            // Version and type, 0 for an abort and 1 for a commit.
            let commits = record.key.as_deref().is_some_and(|key| key.get(3) == Some(&1));
            let ended = open.remove(&record.producer_id).unwrap_or_default();
            found.extend(ended.into_iter().filter(|_| commits));
        } else if record.offset >= from {
            let read = (record.offset, plain(&record, stamped));
            if record.transactional { open.entry(record.producer_id).or_default() } else { &mut *found }
                .push(read);
        }
    }
}

/// The time at which the broker appended the batch, where it stamps records itself.
fn append_time(batch: &Bytes) -> Option<i64> {
    let (attributes, mut max_timestamp) = (batch.get(21..23)?, batch.get(35..43)?);
    (attributes.get(1)? & 1 << 3 != 0).then(|| max_timestamp.get_i64())
}

fn plain(record: &kafka_protocol::records::Record, stamped: Option<i64>) -> Record {
    let headers =
        record.headers.iter().filter_map(|(name, value)| Some((name.to_string(), value.as_ref()?.to_vec())));
    Record {
        key: record.key.as_ref().map(|key| key.to_vec()),
        value: record.value.as_ref().map(|value| value.to_vec()),
        headers: headers.collect(),
        timestamp: chrono::DateTime::from_timestamp_millis(stamped.unwrap_or(record.timestamp))
            .unwrap_or_default(),
    }
}

/// Batches from there on, and where the log ends.
async fn fetch(leader: &mut Wire, topic: &str, partition: i32, from: i64) -> Result<(Bytes, i64)> {
    let asked = FetchPartition::default()
        .with_partition(partition)
        .with_fetch_offset(from)
        .with_partition_max_bytes(FETCH_BYTES);
    let topics = vec![FetchTopic::default().with_topic(name(topic)).with_partitions(vec![asked])];
    let request = FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(500)
        .with_min_bytes(1)
        .with_max_bytes(FETCH_BYTES)
        .with_topics(topics);
    let answer = leader.call(FETCH, &request).await?;
    let answer = answer.responses.into_iter().flat_map(|topic| topic.partitions).next();
    let answer = answer.ok_or_else(|| Error::kafka("fetch", "no answer for the partition"))?;
    check_code("fetch", answer.error_code)?;
    Ok((answer.records.unwrap_or_default(), answer.high_watermark))
}

/// The names of all topics.
pub(crate) async fn topic_names(bootstrap: &str) -> Result<Vec<String>> {
    let client = connect(bootstrap).await?;
    Ok(within("list topics", client.list_topics()).await?.into_iter().map(|one| one.name).collect())
}

/// Makes a topic with the broker's default configuration.
pub async fn create_topic(bootstrap: &str, topic: &str, partitions: i32) -> Result<()> {
    let client = connect(bootstrap).await?;
    let controller = client.controller_client().map_err(|error| Error::kafka("create a topic", error))?;
    within("create a topic", controller.create_topic(topic, partitions, 1, 10_000)).await
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
pub async fn delete_topic(bootstrap: &str, topic: &str) -> Result<()> {
    let client = connect(bootstrap).await?;
    let controller = client.controller_client().map_err(|error| Error::kafka("delete a topic", error))?;
    within("delete a topic", controller.delete_topic(topic, 10_000)).await?;
    let gone = async || {
        let topics = within("list topics", client.list_topics()).await?;
        Ok(topics.iter().all(|one| one.name != topic).then_some(()))
    };
    eventually("a deleted topic to be gone", LIMIT, gone).await
}

/// Writes records to partition 0, as they are, and returns their offsets.
pub async fn produce(bootstrap: &str, topic: &str, records: Vec<Record>) -> Result<Vec<i64>> {
    produce_as(bootstrap, topic, records, Compression::NoCompression).await
}

/// As [`produce`], in a gzip batch: so a record may be as large as the topic allows a batch to be.
pub async fn produce_compressed(bootstrap: &str, topic: &str, records: Vec<Record>) -> Result<Vec<i64>> {
    produce_as(bootstrap, topic, records, Compression::Gzip).await
}

async fn produce_as(
    bootstrap: &str,
    topic: &str,
    records: Vec<Record>,
    how: Compression,
) -> Result<Vec<i64>> {
    let client = connect(bootstrap).await?;
    let partition = partition_client(&client, topic, 0).await?;
    within("produce", partition.produce(records, how)).await
}

/// Whether a broker answers, and if not, why.
pub(crate) async fn connect(bootstrap: &str) -> Result<Client> {
    let backoff = BackoffConfig { max_backoff: Duration::from_millis(500), ..BackoffConfig::default() };
    let addresses = bootstrap.split(',').map(str::to_owned).collect();
    let client = ClientBuilder::new(addresses).backoff_config(backoff).build();
    within(&format!("connect to {bootstrap}"), client).await
}

async fn partition_client(client: &Client, topic: &str, partition: i32) -> Result<PartitionClient> {
    // Retry: a topic just made may not be known everywhere yet.
    within(topic, client.partition_client(topic, partition, UnknownTopicHandling::Retry)).await
}

async fn within<T, E: std::fmt::Display>(
    what: &str,
    call: impl Future<Output = std::result::Result<T, E>>,
) -> Result<T> {
    // Boxed: rskafka's calls nest so deeply that the compiler refuses tests which nest them further.
    match tokio::time::timeout(LIMIT, Box::pin(call)).await {
        Ok(answer) => answer.map_err(|error| Error::kafka(what, error)),
        Err(_) => Err(Error::kafka(what, format!("no answer within {LIMIT:?}"))),
    }
}
