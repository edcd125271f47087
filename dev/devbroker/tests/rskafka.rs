//! What the services do with the broker, through the client they use.

mod support;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use devbroker::{Broker, Config};
use rskafka::BackoffConfig;
use rskafka::chrono::{DateTime, TimeZone, Utc};
use rskafka::client::error::{Error, ProtocolError};
use rskafka::client::partition::{Compression, OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::Record;
use support::start;

async fn client(broker: &Broker) -> Client {
    let backoff = BackoffConfig { deadline: Some(Duration::from_secs(5)), ..BackoffConfig::default() };
    ClientBuilder::new(vec![broker.addr().to_string()]).backoff_config(backoff).build().await.unwrap()
}

async fn topic(client: &Client, name: &str) -> PartitionClient {
    let controller = client.controller_client().unwrap();
    controller.create_topic(name, 1, 1, 5_000).await.unwrap();
    client.partition_client(name, 0, UnknownTopicHandling::Error).await.unwrap()
}

fn protocol_error(error: Error) -> Option<ProtocolError> {
    match error {
        Error::ServerError { protocol_error, .. } => Some(protocol_error),
        _ => None,
    }
}

/// A port that can be taken again: it is below those that the system gives to outgoing connections.
fn free_port() -> u16 {
    let first = 30_000 + u16::try_from(std::process::id() % 1_000).unwrap();
    (first..32_000).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

/// A moment of this test run, in whole milliseconds; retention would take what is older.
fn time(seconds: i64) -> DateTime<Utc> {
    static START: LazyLock<i64> = LazyLock::new(support::now_ms);
    Utc.timestamp_millis_opt(*START - 1_000_000 + seconds * 1_000).unwrap()
}

fn record(key: &str, value: Option<&str>) -> Record {
    Record {
        key: Some(key.into()),
        value: value.map(Into::into),
        headers: BTreeMap::from([("ce_id".to_owned(), b"7".to_vec())]),
        timestamp: time(0),
    }
}

#[tokio::test]
async fn records_come_back_as_they_were_sent() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let client = client(&broker).await;
    let partition = topic(&client, "events").await;
    let sent = vec![record("a", Some("1")), record("a", None)];
    for codec in [Compression::NoCompression, Compression::Gzip, Compression::Snappy] {
        partition.produce(sent.clone(), codec).await.unwrap();
    }
    let (records, high_watermark) = partition.fetch_records(0, 1..1_000_000, 1_000).await.unwrap();
    assert_eq!(high_watermark, 6);
    assert_eq!(records.iter().map(|r| r.offset).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    for pair in records.chunks(2) {
        assert_eq!([pair[0].record.clone(), pair[1].record.clone()], sent[..]);
    }
    assert_eq!(partition.get_offset(OffsetAt::Latest).await.unwrap(), 6);
    assert_eq!(partition.get_offset(OffsetAt::Earliest).await.unwrap(), 0);
    broker.shutdown().await;
}

#[tokio::test]
async fn a_waiting_fetch_is_woken_by_a_produce() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let writing = topic(&client(&broker).await, "events").await;
    let reading =
        client(&broker).await.partition_client("events", 0, UnknownTopicHandling::Error).await.unwrap();
    let waiting = tokio::spawn(async move {
        reading.fetch_records(0, 1..1_000_000, 60_000).await.unwrap();
        Instant::now()
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    writing.produce(vec![record("a", None)], Compression::NoCompression).await.unwrap();
    let acknowledged = Instant::now();
    let woken = waiting.await.unwrap();
    assert!(woken < acknowledged + Duration::from_secs(30), "it does not wait for its end");
    broker.shutdown().await;
}

#[tokio::test]
async fn offsets_are_found_by_time() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let client = client(&broker).await;
    let partition = topic(&client, "events").await;
    for seconds in [0, 10, 20] {
        let record = Record { timestamp: time(seconds), ..record("a", Some("1")) };
        partition.produce(vec![record], Compression::NoCompression).await.unwrap();
    }
    for (seconds, offset) in [(-1, 0), (0, 0), (1, 1), (10, 1), (20, 2)] {
        let found = partition.get_offset(OffsetAt::Timestamp(time(seconds))).await.unwrap();
        assert_eq!(found, offset);
    }
    let none = partition.get_offset(OffsetAt::Timestamp(time(21))).await.unwrap();
    assert_eq!(none, -1);
    broker.shutdown().await;
}

#[tokio::test]
async fn records_are_deleted_from_the_front() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let client = client(&broker).await;
    let partition = topic(&client, "events").await;
    for _ in 0..5 {
        partition.produce(vec![record("a", None)], Compression::NoCompression).await.unwrap();
    }
    partition.delete_records(3, 1_000).await.unwrap();
    assert_eq!(partition.get_offset(OffsetAt::Earliest).await.unwrap(), 3);
    let refused = partition.fetch_records(1, 1..1_000, 100).await.unwrap_err();
    assert_eq!(protocol_error(refused), Some(ProtocolError::OffsetOutOfRange));
    broker.shutdown().await;
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let client = client(&broker).await;
    let partition = topic(&client, "events").await;

    let missing = client.partition_client("missing", 0, UnknownTopicHandling::Error).await;
    assert_eq!(protocol_error(missing.unwrap_err()), Some(ProtocolError::UnknownTopicOrPartition));
    assert!(client.list_topics().await.unwrap().iter().all(|topic| topic.name != "missing"));

    let again = client.controller_client().unwrap().create_topic("events", 1, 1, 5_000).await;
    assert_eq!(protocol_error(again.unwrap_err()), Some(ProtocolError::TopicAlreadyExists));

    let large = record("a", Some(&"x".repeat(2_000_000)));
    let refused = partition.produce(vec![large], Compression::NoCompression).await;
    assert_eq!(protocol_error(refused.unwrap_err()), Some(ProtocolError::MessageTooLarge));

    let beyond = partition.fetch_records(7, 1..1_000, 100).await;
    assert_eq!(protocol_error(beyond.unwrap_err()), Some(ProtocolError::OffsetOutOfRange));

    client.controller_client().unwrap().delete_topic("events", 5_000).await.unwrap();
    assert!(client.list_topics().await.unwrap().is_empty());
    broker.shutdown().await;
}

#[tokio::test]
async fn a_stopped_broker_frees_port_and_folder_and_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut config = Config::new(addr, dir.path());
    config.stop_grace = Duration::from_secs(60);
    let broker = Broker::start(config).await.unwrap();
    let first = client(&broker).await;
    let partition = topic(&first, "events").await;
    partition.produce(vec![record("a", Some("1"))], Compression::Gzip).await.unwrap();
    // A long poll does not hold the stop up.
    let waiting = first.partition_client("events", 0, UnknownTopicHandling::Error).await.unwrap();
    let waiting = tokio::spawn(async move { waiting.fetch_records(1, 1..1_000, 60_000).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let stopping = Instant::now();
    broker.shutdown().await;
    assert!(stopping.elapsed() < Duration::from_secs(30), "{:?}", stopping.elapsed());
    waiting.abort();

    let broker = Broker::start(Config::new(addr, dir.path())).await.unwrap();
    let second = client(&broker).await;
    let partition = second.partition_client("events", 0, UnknownTopicHandling::Error).await.unwrap();
    let offsets = partition.produce(vec![record("a", None)], Compression::Snappy).await.unwrap();
    assert_eq!(offsets, [1]);
    let (records, _) = partition.fetch_records(0, 1..1_000_000, 1_000).await.unwrap();
    assert_eq!(records.len(), 2);
    broker.shutdown().await;
}
