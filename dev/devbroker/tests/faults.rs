//! The faults that tests switch on: each does what `src/faults.rs` says, and ends when it is deleted.

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use devbroker::{Broker, Config};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{BrokerId, IncrementalAlterConfigsRequest, OffsetForLeaderEpochRequest};
use kafka_protocol::records::Compression;
use support::*;

struct World {
    broker: Broker,
    wire: Wire,
    dir: tempfile::TempDir,
}

fn config(dir: &tempfile::TempDir) -> Config {
    let mut config = Config::new(SocketAddr::from(([127, 0, 0, 1], 0)), dir.path());
    config.faults = true;
    config
}

impl World {
    /// A broker with the topic `t` of one partition that holds three records.
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let broker = Broker::start(config(&dir)).await.unwrap();
        let mut wire = Wire::connect(&broker.addr().to_string()).await;
        wire.create_topic("t", &[]).await;
        for _ in 0..3 {
            wire.produce("t", &[record("a", Some("1"))]).await;
        }
        Self { broker, wire, dir }
    }

    async fn another_wire(&self) -> Wire {
        Wire::connect(&self.broker.addr().to_string()).await
    }

    async fn set(&mut self, name: &str, value: &str) {
        assert_eq!(set(&mut self.another_wire().await, name, Some(value)).await, 0);
    }

    async fn delete(&mut self, name: &str) {
        assert_eq!(set(&mut self.another_wire().await, name, None).await, 0);
    }
}

/// Sets or deletes a config of `t`; the error code.
async fn set(wire: &mut Wire, name: &str, value: Option<&str>) -> i16 {
    let config = AlterableConfig::default()
        .with_name(text(&format!("devbroker.{name}")))
        .with_config_operation(if value.is_some() { 0 } else { 1 })
        .with_value(value.map(text));
    let resource = AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text("t"))
        .with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    wire.call(1, &request).await.responses[0].error_code
}

fn batch() -> bytes::Bytes {
    encode(&[record("a", Some("1"))], Compression::None)
}

async fn fetch_at(wire: &mut Wire, offset: i64, max_wait_ms: i32) -> PartitionData {
    let response = wire.call(11, &fetch("t", offset, 1, max_wait_ms, 1 << 20)).await;
    response.responses[0].partitions[0].clone()
}

#[tokio::test]
async fn without_leave_or_sense_no_fault_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let mut wire = Wire::connect(&broker.addr().to_string()).await;
    wire.create_topic("t", &[]).await;
    assert_eq!(set(&mut wire, "hang", Some("all")).await, code::INVALID_CONFIG);
    broker.shutdown().await;

    let mut world = World::start().await;
    for (name, value) in [
        ("nonsense", "1"),
        ("hang", "some"),
        ("fetch.error", "0"),
        ("fetch.error", "9999"),
        ("delay.ms", "-1"),
        ("truncate", "0"),
    ] {
        assert_eq!(set(&mut world.wire, name, Some(value)).await, code::INVALID_CONFIG, "{name}={value}");
    }
    // A broker that may not play them starts on such a folder and behaves.
    world.set("fetch.error", "56").await;
    world.broker.shutdown().await;
    let broker = start(world.dir.path()).await;
    let mut wire = Wire::connect(&broker.addr().to_string()).await;
    assert_eq!(wire.read_all("t", 0).await.len(), 3);
    broker.shutdown().await;
}

#[tokio::test]
async fn empty_fetches_say_nothing_of_records_that_are_there() {
    let mut world = World::start().await;
    world.set("empty.fetches", "0").await;
    let asked = Instant::now();
    let data = fetch_at(&mut world.wire, 0, 100).await;
    assert!(asked.elapsed() >= Duration::from_millis(90));
    assert_eq!((data.error_code, data.high_watermark), (0, 3));
    assert!(data.records.unwrap_or_default().is_empty());
    world.set("empty.fetches", "1,2").await;
    assert_eq!(world.wire.read_all("t", 0).await.len(), 3, "another partition's fault");
    world.broker.shutdown().await;
}

#[tokio::test]
async fn a_hung_partition_answers_when_the_fault_is_over() {
    let mut world = World::start().await;
    world.set("hang", "all").await;
    let (mut fetching, mut producing) = (world.another_wire().await, world.another_wire().await);
    fetching.send(11, &fetch("t", 0, 1, 0, 1 << 20)).await;
    producing.send(9, &produce("t", batch(), -1)).await;
    for wire in [&mut fetching, &mut producing] {
        assert!(tokio::time::timeout(Duration::from_millis(200), wire.frame()).await.is_err());
    }
    assert_eq!(world.wire.offset("t", -1).await, 3, "nothing was appended, and the broker lives");
    world.delete("hang").await;
    for wire in [&mut fetching, &mut producing] {
        tokio::time::timeout(Duration::from_secs(10), wire.frame()).await.unwrap().unwrap();
    }
    world.broker.shutdown().await;
}

#[tokio::test]
async fn an_offline_partition_has_no_leader() {
    let mut world = World::start().await;
    world.set("offline", "all").await;
    let described = world.wire.metadata("t").await;
    let partition = &described.partitions[0];
    assert_eq!((described.error_code, partition.error_code), (0, code::LEADER_NOT_AVAILABLE));
    assert_eq!(partition.leader_id, BrokerId(-1));
    assert_eq!((partition.isr_nodes.len(), partition.offline_replicas.len()), (0, 1));
    let expected = code::NOT_LEADER_OR_FOLLOWER;
    assert_eq!(fetch_at(&mut world.wire, 0, 0).await.error_code, expected);
    assert_eq!(world.wire.produce_raw(9, "t", batch(), -1).await.error_code, expected);
    let listed = world.wire.call(7, &list_offsets("t", -1)).await;
    assert_eq!(listed.topics[0].partitions[0].error_code, expected);
    world.delete("offline").await;
    assert_eq!(world.wire.produce("t", &[record("a", None)]).await, 3);
    world.broker.shutdown().await;
}

#[tokio::test]
async fn a_held_high_watermark_hides_what_is_in_the_log() {
    let mut world = World::start().await;
    world.set("hold.high.watermark", "0").await;
    let mut request = produce("t", batch(), -1);
    request.timeout_ms = 100;
    let answered = world.wire.call(9, &request).await;
    assert_eq!(answered.responses[0].partition_responses[0].error_code, code::REQUEST_TIMED_OUT);
    assert_eq!(world.wire.produce_raw(9, "t", batch(), 1).await.base_offset, 4, "acks=1 does not wait");
    assert_eq!(world.wire.offset("t", -1).await, 3);
    let debugging = list_offsets("t", -1).with_replica_id(BrokerId(-2));
    assert_eq!(world.wire.call(7, &debugging).await.topics[0].partitions[0].offset, 5);
    // At and behind the high watermark there is nothing, and no error, as on Apache Kafka.
    for offset in [3, 5] {
        let data = fetch_at(&mut world.wire, offset, 0).await;
        assert_eq!((data.error_code, data.high_watermark, data.records.unwrap().len()), (0, 3, 0));
    }
    let to_the_end = fetch("t", 3, 1, 0, 1 << 20).with_replica_id(BrokerId(-2));
    let data = world.wire.call(11, &to_the_end).await.responses[0].partitions[0].clone();
    assert_eq!(decode(data.records.unwrap()).len(), 2);

    let mut reader = world.another_wire().await;
    reader.send(11, &fetch("t", 3, 1, 30_000, 1 << 20)).await;
    world.delete("hold.high.watermark").await;
    let frame = tokio::time::timeout(Duration::from_secs(10), reader.frame()).await.unwrap().unwrap();
    assert!(frame.len() > 150);
    assert_eq!(world.wire.offset("t", -1).await, 5);
    world.broker.shutdown().await;
}

#[tokio::test]
async fn errors_are_answered_as_asked_for() {
    let mut world = World::start().await;
    world.set("fetch.error", "103").await;
    assert_eq!(fetch_at(&mut world.wire, 0, 0).await.error_code, code::INCONSISTENT_TOPIC_ID);
    world.delete("fetch.error").await;
    for (error, end) in [(19, 3), (20, 4), (7, 5)] {
        world.set("produce.error", &error.to_string()).await;
        let answered = world.wire.produce_raw(9, "t", batch(), -1).await;
        assert_eq!((answered.error_code, answered.base_offset), (error, -1));
        assert_eq!(world.wire.offset("t", -1).await, end, "after error {error}");
    }
    world.broker.shutdown().await;
}

#[tokio::test]
async fn a_throttled_client_is_answered_at_once_and_not_read_for_that_time() {
    let mut world = World::start().await;
    world.set("produce.throttle.ms", "300").await;
    world.set("fetch.throttle.ms", "300").await;
    let asked = Instant::now();
    let answered = world.wire.call(9, &produce("t", batch(), -1)).await;
    assert_eq!(answered.throttle_time_ms, 300);
    assert_eq!(answered.responses[0].partition_responses[0].base_offset, 3, "it was appended");
    let answered = world.wire.call(11, &fetch("t", 0, 1, 0, 1 << 20)).await;
    assert!(asked.elapsed() >= Duration::from_millis(290), "the connection was muted");
    assert_eq!((answered.throttle_time_ms, answered.responses.len()), (300, 0));
    let answered = world.wire.call(11, &fetch("t", 0, 1, 0, 1 << 20)).await;
    assert!(asked.elapsed() >= Duration::from_millis(590));
    assert_eq!((answered.throttle_time_ms, answered.responses.len()), (0, 1));

    world.set("produce.throttle.ms", "60000").await;
    let asked = Instant::now();
    let answered = world.another_wire().await.call(9, &produce("t", batch(), -1)).await;
    assert_eq!(answered.throttle_time_ms, 60_000);
    assert!(asked.elapsed() < Duration::from_secs(30), "the answer does not wait for that time");
    world.broker.shutdown().await;
}

#[tokio::test]
async fn delayed_answers_come_late() {
    let mut world = World::start().await;
    world.set("delay.ms", "200").await;
    let asked = Instant::now();
    assert_eq!(world.wire.produce_raw(9, "t", batch(), -1).await.base_offset, 3);
    assert!(asked.elapsed() >= Duration::from_millis(190));
    assert_eq!(fetch_at(&mut world.wire, 0, 0).await.error_code, 0);
    assert!(asked.elapsed() >= Duration::from_millis(390));
    world.broker.shutdown().await;
}

/// Leader epoch and end offset.
async fn epoch_end(wire: &mut Wire, epoch: i32) -> (i32, i64) {
    let partition =
        OffsetForLeaderPartition::default().with_leader_epoch(epoch).with_current_leader_epoch(-1);
    let topic = OffsetForLeaderTopic::default().with_topic(topic_name("t")).with_partitions(vec![partition]);
    let request =
        OffsetForLeaderEpochRequest::default().with_replica_id(BrokerId(-2)).with_topics(vec![topic]);
    let found = wire.call(4, &request).await.topics[0].partitions[0].clone();
    (found.leader_epoch, found.end_offset)
}

#[tokio::test]
async fn a_truncated_log_grows_again_in_a_higher_epoch() {
    let mut world = World::start().await;
    world.set("truncate", "0:1").await;
    let wire = &mut world.wire;
    assert_eq!(wire.leader_epoch("t").await, 1);
    assert_eq!(wire.offset("t", -1).await, 1);
    assert_eq!(fetch_at(wire, 3, 0).await.error_code, code::OFFSET_OUT_OF_RANGE);
    for n in 0..5 {
        assert_eq!(wire.produce("t", &[record("b", Some("2"))]).await, 1 + n);
    }
    assert_eq!([epoch_end(wire, 0).await, epoch_end(wire, 1).await], [(0, 1), (1, 6)]);
    let mut request = with_topic_id(fetch("t", 3, 1, 0, 1 << 20), wire.topic_id("t").await);
    request.topics[0].partitions[0].last_fetched_epoch = 0;
    let data = wire.call(13, &request).await.responses[0].partitions[0].clone();
    assert_eq!((data.diverging_epoch.epoch, data.diverging_epoch.end_offset), (0, 1));
    let keys: Vec<_> =
        wire.read_all("t", 0).await.iter().map(|r| (r.offset, r.partition_leader_epoch)).collect();
    assert_eq!(keys, [(0, 0), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1)]);

    // An election that loses nothing, and the start of the broker, which does not cut again.
    world.set("truncate", "0:99").await;
    assert_eq!((world.wire.leader_epoch("t").await, world.wire.offset("t", -1).await), (2, 6));
    world.broker.shutdown().await;
    let broker = Broker::start(config(&world.dir)).await.unwrap();
    let mut wire = Wire::connect(&broker.addr().to_string()).await;
    assert_eq!((wire.leader_epoch("t").await, wire.offset("t", -1).await), (3, 6));
    assert_eq!(epoch_end(&mut wire, 0).await, (0, 1));
    broker.shutdown().await;
}

#[tokio::test]
async fn a_truncation_reaches_into_closed_segments_and_forgets_what_it_cut() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(config(&dir)).await.unwrap();
    let mut first = Wire::connect(&broker.addr().to_string()).await;
    first.create_topic("t", &[("segment.bytes", "200")]).await;
    let batch = |sequence: i32| {
        let mut record = record("a", Some("1"));
        (record.producer_id, record.producer_epoch, record.sequence) = (7, 0, sequence);
        encode(&[record], Compression::None)
    };
    for n in 0..10 {
        assert_eq!(first.produce_raw(9, "t", batch(n), -1).await.base_offset, i64::from(n));
    }
    assert_eq!(set(&mut first, "truncate", Some("0:4")).await, 0);
    // The producer may send again what was lost.
    for n in 4..12 {
        assert_eq!(first.produce_raw(9, "t", batch(n), -1).await.base_offset, i64::from(n));
    }
    broker.shutdown().await;
    let broker = Broker::start(config(&dir)).await.unwrap();
    let mut wire = Wire::connect(&broker.addr().to_string()).await;
    let epochs: Vec<i32> =
        wire.read_all("t", 0).await.iter().map(|record| record.partition_leader_epoch).collect();
    assert_eq!(epochs, [vec![0; 4], vec![1; 8]].concat());
    assert_eq!(wire.produce_raw(9, "t", batch(11), -1).await.base_offset, 11, "a repeated batch");
    broker.shutdown().await;
}
