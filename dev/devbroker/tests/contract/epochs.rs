//! Topic ids and leader epochs: how a client notices that a log is not the one it knows.

use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::offset_for_leader_epoch_response::EpochEndOffset;

use super::*;

pub fn epoch_end(topic: &str, epoch: i32, believed: i32) -> OffsetForLeaderEpochRequest {
    let partition =
        OffsetForLeaderPartition::default().with_leader_epoch(epoch).with_current_leader_epoch(believed);
    let topic =
        OffsetForLeaderTopic::default().with_topic(topic_name(topic)).with_partitions(vec![partition]);
    OffsetForLeaderEpochRequest::default().with_replica_id(BrokerId(-2)).with_topics(vec![topic])
}

fn one(response: OffsetForLeaderEpochResponse) -> EpochEndOffset {
    let [topic] = &response.topics[..] else {
        panic!("{response:?}");
    };
    topic.partitions[0].clone()
}

/// Error code, leader epoch and end offset.
async fn end_of(wire: &mut Wire, topic: &str, epoch: i32, believed: i32) -> (i16, i32, i64) {
    let found = one(wire.call(4, &epoch_end(topic, epoch, believed)).await);
    (found.error_code, found.leader_epoch, found.end_offset)
}

pub async fn epoch_end_contract(wire: &mut Wire, version: i16) {
    let topic = unique("epoch-end");
    wire.create_topic(&topic, &[]).await;
    for _ in 0..3 {
        wire.produce(&topic, &[record("a", None)]).await;
    }
    let missing = unique("missing");
    for (topic, epoch, believed, expected) in [
        (&topic, 0, -1, (0, 0, 3)),
        (&topic, 0, 0, (0, 0, 3)),
        (&topic, 1, 0, (0, -1, -1)),
        (&topic, 0, 1, (code::UNKNOWN_LEADER_EPOCH, -1, -1)),
        (&missing, 0, -1, (code::UNKNOWN_TOPIC_OR_PARTITION, -1, -1)),
    ] {
        let mut request = epoch_end(topic, epoch, believed);
        if version < 3 {
            request.replica_id = BrokerId(-2);
        }
        let found = one(wire.call(version, &request).await);
        assert_eq!((found.error_code, found.leader_epoch, found.end_offset), expected);
    }
}

/// A fetch by a client that believes in an epoch and has read up to `offset` in `last_epoch`.
async fn fetch_as(
    wire: &mut Wire,
    topic: &str,
    offset: i64,
    believed: i32,
    last_epoch: i32,
) -> PartitionData {
    let id = wire.topic_id(topic).await;
    let mut request = with_topic_id(fetch(topic, offset, 1, 0, 1 << 20), id);
    request.topics[0].partitions[0].current_leader_epoch = believed;
    request.topics[0].partitions[0].last_fetched_epoch = last_epoch;
    let response = wire.call(13, &request).await;
    response.responses[0].partitions[0].clone()
}

/// Leader epoch of the answer, or the error code.
async fn list_as(wire: &mut Wire, topic: &str, timestamp: i64, believed: i32) -> Result<(i64, i32), i16> {
    let mut request = list_offsets(topic, timestamp);
    request.topics[0].partitions[0].current_leader_epoch = believed;
    let response = wire.call(7, &request).await;
    let found = &response.topics[0].partitions[0];
    match found.error_code {
        0 => Ok((found.offset, found.leader_epoch)),
        code => Err(code),
    }
}

#[tokio::test]
async fn a_restart_begins_an_epoch_and_what_was_read_before_is_distinguished() {
    let target = Target::start().await;
    let mut wire = target.wire().await;
    let (topic, idle) = (unique("epochs"), unique("epochs"));
    wire.create_topic(&topic, &[]).await;
    wire.create_topic(&idle, &[]).await;
    let time = now_ms();
    for n in 0..3 {
        let batch = encode(&[record_at("a", None, time + n)], Compression::None);
        assert_eq!(wire.produce_raw(9, &topic, batch, -1).await.error_code, 0);
    }
    let first = wire.leader_epoch(&topic).await;
    assert_eq!(first, 0);

    let Some(target) = target.restart().await else { return };
    let mut wire = target.wire().await;
    wire.until_led(&topic).await;
    let second = wire.leader_epoch(&topic).await;
    assert!(second > first);
    assert!(wire.leader_epoch(&idle).await > 0);
    let later = encode(&[record_at("a", None, time + 9)], Compression::None);
    assert_eq!(wire.produce_raw(9, &topic, later, -1).await.base_offset, 3);
    let fresh = unique("epochs");
    wire.create_topic(&fresh, &[]).await;
    assert_eq!(wire.leader_epoch(&fresh).await, 0);

    // Batches carry the epoch that they were written in.
    let records = wire.read_all(&topic, 0).await;
    let epochs: Vec<i32> = records.iter().map(|record| record.partition_leader_epoch).collect();
    assert_eq!(epochs, [first, first, first, second]);

    let fenced = code::FENCED_LEADER_EPOCH;
    let unknown = code::UNKNOWN_LEADER_EPOCH;
    for (believed, expected) in [(first, fenced), (second, 0), (second + 1, unknown), (-1, 0)] {
        assert_eq!(fetch_as(&mut wire, &topic, 0, believed, -1).await.error_code, expected);
        let listed = list_as(&mut wire, &topic, -1, believed).await;
        assert_eq!(listed, if expected == 0 { Ok((4, second)) } else { Err(expected) });
        assert_eq!(end_of(&mut wire, &topic, second, believed).await.0, expected);
    }

    for (epoch, expected) in [(first, (0, first, 3)), (second, (0, second, 4)), (second + 1, (0, -1, -1))] {
        assert_eq!(end_of(&mut wire, &topic, epoch, second).await, expected);
    }
    for (timestamp, expected) in
        [(-2, (0, first)), (time + 1, (1, first)), (time + 5, (3, second)), (-3, (3, second))]
    {
        assert_eq!(list_as(&mut wire, &topic, timestamp, -1).await, Ok(expected), "{timestamp}");
    }

    // What was read in an epoch beyond its end is not in this log.
    let data = fetch_as(&mut wire, &topic, 3, second, first).await;
    assert_eq!((data.error_code, data.diverging_epoch.epoch), (0, -1));
    assert_eq!(decode(data.records.unwrap()).len(), 1);
    let data = fetch_as(&mut wire, &topic, 4, second, first).await;
    assert_eq!((data.error_code, data.high_watermark), (0, 4));
    assert_eq!((data.diverging_epoch.epoch, data.diverging_epoch.end_offset), (first, 3));
    assert!(data.records.unwrap_or_default().is_empty());
    let data = fetch_as(&mut wire, &topic, 4, second, second + 1).await;
    assert_eq!(data.error_code, code::OFFSET_OUT_OF_RANGE);
}

#[tokio::test]
async fn a_topic_made_again_has_another_id() {
    let target = Target::start().await;
    let mut wire = target.wire().await;
    let topic = unique("again");
    wire.create_topic(&topic, &[]).await;
    wire.produce(&topic, &[record("a", None)]).await;
    let first = wire.topic_id(&topic).await;
    let name = DeleteTopicState::default().with_name(Some(topic_name(&topic)));
    let delete = DeleteTopicsRequest::default().with_topics(vec![name]).with_timeout_ms(10_000);
    assert_eq!(wire.call(6, &delete).await.responses[0].error_code, 0);
    let gone = async |wire: &mut Wire| wire.metadata(&topic).await.error_code != 0;
    while !gone(&mut wire).await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    wire.create_topic(&topic, &[]).await;
    wire.produce(&topic, &[record("b", None)]).await;
    let second = wire.topic_id(&topic).await;
    assert_ne!(first, second);
    for (id, expected) in [(first, code::UNKNOWN_TOPIC_ID), (second, 0)] {
        let request = with_topic_id(fetch(&topic, 0, 1, 0, 1 << 20), id);
        let response = wire.call(13, &request).await;
        let answered = &response.responses[0];
        assert_eq!((answered.topic_id, answered.partitions[0].error_code), (id, expected));
    }
    // By its name nothing tells the two apart.
    assert_eq!(wire.fetch(&topic, 0).await.error_code, 0);
}
