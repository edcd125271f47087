//! Consumers on a topic with which other producers and administrators do what they really do: on a dev
//! broker, or on Apache Kafka as `E2E_BROKER` says.

mod world;

use std::time::Duration;

use harness::{Transaction, produce_with_headers, until};
use task_events::kafka::Compression;
use world::{LEASE, Script, TOPIC, World, eventually};

const LIMIT: Duration = Duration::from_secs(60);

/// An open transaction of another producer holds the group, which reports it and loses nothing; what was
/// aborted is never an event, and markers are passed and committed.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_holds_the_group_and_nothing_is_lost() {
    let world = World::start(1).await.with_long_leases();
    let only = world.consumer(Script::default());
    world.produce(0, "before").await;
    let mut open = Transaction::begin(&world.bootstrap(), "open", TOPIC, 0).await.unwrap();
    open.send(&[b"aborted"]).await.unwrap();
    for _ in 0..100 {
        world.produce(0, "while open").await;
    }
    eventually("the group is held and says so", || {
        let report = only.status.report();
        report.partitions.get(&0).is_some_and(|partition| {
            partition.held_by_transaction_at == Some(1) && partition.high_watermark == Some(102)
        })
    })
    .await;
    assert!(only.status.is_ready(), "held is not broken");
    assert_eq!(only.script.handled(), [(0, 0)]);
    open.abort().await.unwrap();
    eventually("all others are handled", || only.script.flushed().len() == 101).await;
    let expected: Vec<_> = [0].into_iter().chain(2..102).map(|offset| (0, offset)).collect();
    assert_eq!(only.script.flushed(), expected);
    eventually("it is no longer held", || {
        let report = only.status.report();
        let partition = &report.partitions[&0];
        partition.held_by_transaction_at.is_none() && partition.lag() == Some(0)
    })
    .await;
    only.stop().await;
    assert_eq!(world.position(0).await, Some(103), "the marker is passed");
}

/// A topic that was deleted and created again, and is longer than the old position: while the group runs,
/// and while it is stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_created_again_is_read_from_its_start() {
    let world = World::start(1).await;
    let script = Script::default();
    let first = world.consumer(script.clone());
    for _ in 0..3 {
        world.produce(0, "old").await;
    }
    eventually("the old topic is handled", || script.flushed().len() == 3).await;
    let old = world.kafka.topic(TOPIC).await.unwrap().id;
    world.recreate_events(1).await;
    for _ in 0..5 {
        world.produce(0, "new").await;
    }
    eventually("the new one is handled", || script.flushed().len() == 8).await;
    let expected: Vec<_> = (0..3).chain(0..5).map(|offset| (0, offset)).collect();
    assert_eq!(script.flushed(), expected);
    first.stop().await;
    let committed = world.committed(0).await.unwrap();
    let new = world.kafka.topic(TOPIC).await.unwrap().id;
    assert_ne!(new, old);
    assert_eq!((committed.offset, committed.topic_id), (5, Some(new)), "commits are bound to the topic");
    assert!(committed.leader_epoch.is_some());

    // Stopped, and with more partitions.
    world.recreate_events(2).await;
    for _ in 0..7 {
        world.produce(0, "newest").await;
    }
    let script = Script::default();
    let second = world.consumer(script.clone());
    eventually("the newest is handled", || script.flushed().len() == 7).await;
    world.produce(1, "in the other partition").await;
    eventually("so is the other partition", || script.flushed().contains(&(1, 0))).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_come_and_go_are_noticed_within_seconds() {
    let world = World::start(1).await;
    let only = world.consumer(Script::default());
    eventually("it owns one", || only.owns(0)).await;
    world.recreate_events(3).await;
    eventually("it owns three", || (0..3).all(|partition| only.owns(partition))).await;
    world.produce(2, "x").await;
    eventually("it handles the new one", || only.script.flushed().contains(&(2, 0))).await;
    world.recreate_events(1).await;
    eventually("the workers of the others end", || {
        only.status.report().partitions.keys().copied().eq([0]) && only.status.is_ready()
    })
    .await;
    only.stop().await;
}

/// The offsets topic is recreated under a running group: every claim is void, and what this process has done
/// is not done again.
#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_offsets_topic_voids_every_claim_and_repeats_nothing() {
    let world = World::start(1).await;
    let only = world.consumer(Script::default());
    world.produce(0, "before").await;
    eventually("it is handled", || only.script.flushed().len() == 1).await;
    world.recreate_offsets().await;
    // In the new topic: what it says of itself may be of before.
    until("it claims again", LIMIT, async || world.claims().await >= 1).await.unwrap();
    eventually("it is ready", || only.owns(0) && only.status.is_ready()).await;
    world.produce(0, "after").await;
    eventually("it goes on", || only.script.flushed().contains(&(0, 1))).await;
    tokio::time::sleep(LEASE).await;
    assert_eq!(only.script.flushed(), [(0, 0), (0, 1)]);
    only.stop().await;
    assert_eq!(world.position(0).await, Some(2));
    assert!(world.is_released(0).await);
}

/// What cannot be read, and what cannot be carried along, goes to the DLQ by its source alone.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_to_be_decoded_goes_to_the_dlq_by_its_source() {
    let world = World::start(1).await;
    world.produce(0, "before").await;
    // Five MiB that are compressed to a few KiB.
    world.produce_bytes(0, vec![b' '; 5 << 20], Compression::Gzip).await;
    world.produce(0, "after").await;
    let only = world.consumer(Script::default());
    eventually("the others are handled", || only.script.flushed() == [(0, 0), (0, 2)]).await;
    let letter = world.dead_letters(1).await.remove(0);
    assert_eq!((letter.error.kind.as_str(), letter.source.offset), ("too_large", 1));
    assert_eq!(letter.source.last_offset, Some(1));
    assert_eq!(letter.original_value(), Ok(None), "only its source is known");
    only.stop().await;
    assert_eq!(world.position(0).await, Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_survive_the_way_to_the_dlq() {
    let world = World::start(1).await;
    let headers = [("a", Some(b"1".as_slice())), ("b", None)];
    produce_with_headers(&world.bootstrap(), TOPIC, b"poison", &headers).await.unwrap();
    let only = world.consumer(Script::default());
    let letter =
        tokio::time::timeout(Duration::from_secs(30), world.dead_letters(1)).await.unwrap().remove(0);
    let read: Vec<_> = letter
        .original_headers
        .iter()
        .map(|header| (header.name.as_str(), header.value.as_deref()))
        .collect();
    assert_eq!(read, [("a", Some("1")), ("b", None)]);
    only.stop().await;
}
