//! Measures how fast a partition is read: by the reader of this crate, keys and values looked at, and by
//! rskafka's fetch. Give the address of a broker that may be filled; the topic is created.
//!
//! `cargo run --release -p task-events --example reading -- 127.0.0.1:9092`

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rskafka::client::ClientBuilder;
use rskafka::client::partition::UnknownTopicHandling;
use task_events::kafka::{Batch, Compression, Kafka, NewTopic, OffsetAt, ProducerRecord};

const TOPIC: &str = "reading";
const RECORDS: i64 = 200_000;
const VALUE_BYTES: usize = 400;
const BATCH: usize = 1_000;
const ROUNDS: usize = 5;

#[tokio::main]
async fn main() {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9092".to_owned());
    let kafka = Kafka::new(vec![address.clone()], "reading");
    let topic =
        NewTopic { name: TOPIC.to_owned(), partitions: 1, replication_factor: 1, configs: Vec::new() };
    kafka.admin().create_topic(&topic).await.unwrap();
    fill(&kafka).await;
    for _ in 0..ROUNDS {
        let (start, mut records, mut bytes) = (Instant::now(), 0i64, 0);
        let mut range = kafka.read_range(TOPIC, 0, 0, RECORDS);
        while let Some(fetched) = range.next().await {
            for record in fetched.unwrap().batches.iter().flat_map(Batch::records).map(Result::unwrap) {
                records += 1;
                bytes += record.value.map_or(0, |value| value.len());
            }
        }
        print("reader", records, bytes, start.elapsed());

        let client = ClientBuilder::new(vec![address.clone()]).build().await.unwrap();
        let partition = client.partition_client(TOPIC, 0, UnknownTopicHandling::Error).await.unwrap();
        let (start, mut records, mut bytes, mut next) = (Instant::now(), 0i64, 0, 0);
        while next < RECORDS {
            let (fetched, _) = partition.fetch_records(next, 1..1024 * 1024, 500).await.unwrap();
            for one in fetched {
                records += 1;
                next = one.offset + 1;
                bytes += one.record.value.map_or(0, |value| value.len());
            }
        }
        print("rskafka", records, bytes, start.elapsed());
    }
}

async fn fill(kafka: &Kafka) {
    let writer = kafka.producer(TOPIC, 0);
    let record = ProducerRecord {
        key: Some(vec![b'k'; 36]),
        value: Some(vec![b'x'; VALUE_BYTES]),
        headers: BTreeMap::new(),
        timestamp: chrono::Utc::now(),
    };
    let batch = vec![record; BATCH];
    while kafka.list_offset(TOPIC, 0, OffsetAt::Latest).await.unwrap() < RECORDS {
        if writer.produce(&batch, Compression::NoCompression).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn print(what: &str, records: i64, bytes: usize, took: Duration) {
    let per_record = took / u32::try_from(records).unwrap();
    println!("{what:8} {records} records, {bytes} bytes of values in {took:?}: {per_record:?} a record");
}
