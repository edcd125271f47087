//! A clock that is more than an hour fast: Kafka refuses its times, and the records are written without.

use std::collections::BTreeMap;

use chrono::{SubsecRound, TimeDelta, Utc};
use devbroker::{Broker, Config};
use task_events::kafka::{Batch, Compression, Kafka, NewTopic, ProducerRecord};

#[tokio::test]
async fn a_record_whose_time_the_broker_refuses_is_written_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::new("127.0.0.1:0".parse().unwrap(), dir.path().to_owned());
    let broker = Broker::start(config).await.unwrap();
    let kafka = Kafka::new(vec![broker.addr().to_string()], "test");
    let topic = NewTopic { name: "t".to_owned(), partitions: 1, replication_factor: 1, configs: Vec::new() };
    kafka.admin().create_topic(&topic).await.unwrap();
    let partition = kafka.producer("t", 0);
    let now = Utc::now().trunc_subsecs(3);
    let record = |ahead| ProducerRecord {
        key: None,
        value: Some(b"x".to_vec()),
        headers: BTreeMap::new(),
        timestamp: now + ahead,
    };
    let (right, fast) = (record(TimeDelta::zero()), record(TimeDelta::hours(2)));
    let slow = record(TimeDelta::hours(-2));
    for (offset, records) in
        [(0, vec![right.clone()]), (1, vec![right.clone(), fast]), (3, vec![right]), (4, vec![slow])]
    {
        assert_eq!(partition.produce(&records, Compression::NoCompression).await.unwrap()[0], offset);
    }
    let mut range = kafka.read_range("t", 0, 0, 5);
    let mut times = Vec::new();
    while let Some(fetched) = range.next().await {
        let fetched = fetched.unwrap();
        times.extend(fetched.batches.iter().flat_map(Batch::records).map(|record| record.unwrap().timestamp));
    }
    let now = now.timestamp_millis();
    assert_eq!(times, [now, -1, -1, now, now - 2 * 60 * 60 * 1_000], "-1 is Kafka's word for no time");
}
