//! Measures how long it takes to publish a batch of a given size as one produce request. A request of more than
//! 8 KiB and less than some 64 KiB would wait 40 ms for a delayed acknowledgement, if rskafka's own sockets led
//! to the broker.
//!
//! `cargo run --release -p task-events --example publishing`, on an embedded broker; with
//! `KAFKA_BOOTSTRAP_SERVERS` on that Kafka, in a topic of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use task_events::kafka::{Compression, Kafka, NewTopic, Producer, ProducerRecord};
use uuid::Uuid;

const KIB: usize = 1024;
const SIZES: [usize; 11] = [2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128];
const RECORD_BYTES: usize = 400;
/// Batches of each size.
const ROUNDS: usize = 100;

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let (kafka, broker) = match std::env::var("KAFKA_BOOTSTRAP_SERVERS") {
        Ok(servers) => (Kafka::new(servers.split(',').map(str::to_owned).collect(), "publishing"), None),
        Err(_) => {
            let addr = SocketAddr::from(([127, 0, 0, 1], 0));
            let broker = devbroker::Broker::start(devbroker::Config::new(addr, folder.path())).await.unwrap();
            (Kafka::new(vec![broker.addr().to_string()], "publishing"), Some(broker))
        }
    };
    let name = format!("publishing-{}", Uuid::new_v4().simple());
    let topic = NewTopic { name: name.clone(), partitions: 1, replication_factor: -1, configs: Vec::new() };
    kafka.admin().create_topic(&topic).await.unwrap();
    let producer = kafka.producer(&name, 0);
    // Connections and the broker's caches.
    for _ in 0..20 {
        publish(&producer, batch(2 * KIB)).await;
    }
    println!("KiB  records   p50 ms  p99 ms  records/s");
    for kib in SIZES {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            times.push(publish(&producer, batch(kib * KIB)).await);
        }
        let records = batch(kib * KIB).len();
        println!("{kib:3}  {records:7}{}", columns(times, records));
    }
    if let Some(broker) = broker {
        broker.shutdown().await;
    }
}

/// Records of that many bytes together, as many as a task's events would be.
fn batch(bytes: usize) -> Vec<ProducerRecord> {
    let record = || ProducerRecord {
        key: Some(Uuid::now_v7().to_string().into_bytes()),
        value: Some(vec![b'x'; RECORD_BYTES - 36]),
        headers: BTreeMap::new(),
        timestamp: chrono::Utc::now(),
    };
    std::iter::repeat_with(record).take((bytes / RECORD_BYTES).max(1)).collect()
}

async fn publish(producer: &Producer, records: Vec<ProducerRecord>) -> Duration {
    let start = Instant::now();
    producer.produce(&records, Compression::NoCompression).await.unwrap();
    start.elapsed()
}

fn columns(mut times: Vec<Duration>, records: usize) -> String {
    times.sort_unstable();
    let ms = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    let rate = (times.len() * records) as f64 / times.iter().sum::<Duration>().as_secs_f64();
    format!("   {:6.2}  {:6.2}  {rate:9.0}", ms(50), ms(99))
}
