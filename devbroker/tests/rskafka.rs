//! What the services do with the broker, through the client they use.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use devbroker::{Broker, Config};
use rskafka::chrono::{TimeZone, Utc};
use rskafka::client::partition::{Compression, OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::Record;

async fn start(dir: &std::path::Path) -> Broker {
    let addr = SocketAddr::from(([127, 0, 0, 1], 0));
    Broker::start(Config::new(addr, dir)).await.unwrap()
}

async fn client(broker: &Broker) -> Client {
    ClientBuilder::new(vec![broker.addr().to_string()]).build().await.unwrap()
}

async fn topic(client: &Client, name: &str) -> PartitionClient {
    client.controller_client().unwrap().create_topic(name, 1, 1, 5_000).await.unwrap();
    client.partition_client(name, 0, UnknownTopicHandling::Error).await.unwrap()
}

fn record(key: &str, value: Option<&str>) -> Record {
    Record {
        key: Some(key.into()),
        value: value.map(Into::into),
        headers: BTreeMap::from([("ce_id".to_owned(), b"7".to_vec())]),
        timestamp: Utc.timestamp_millis_opt(1_700_000_000_000).unwrap(),
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
        reading.fetch_records(0, 1..1_000_000, 10_000).await.unwrap();
        Instant::now()
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    writing.produce(vec![record("a", None)], Compression::NoCompression).await.unwrap();
    let acknowledged = Instant::now();
    let woken = waiting.await.unwrap();
    assert!(woken < acknowledged + Duration::from_millis(50));
    broker.shutdown().await;
}
