//! What a stop and a move to another instance leave of webhooks: what is in flight ends, and what was delivered is known.

mod world;

use std::time::{Duration, Instant};

use harness::{Mode, undisturbed};
use task_events::event::TaskEvent;
use tokio::time::{sleep, timeout};
use uuid::Uuid;
use world::receiver::{Receiver, counted, instance};
use world::{LEASE, World, created, value, wait_for};

/// A stop grants the call in progress 2 s.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);
/// Most of that is left to the answer.
const UNTIL_ANSWERED: Duration = Duration::from_millis(100);
/// An instance that starts is given its partition well before; a delivery may take 15 s.
const UNTIL_MOVED: Duration = Duration::from_secs(4);
/// A try that began under the lease has come by then.
const ON_ITS_WAY: Duration = Duration::from_millis(1_500);

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_webhooks_in_flight_end_and_moves_the_position_past_them() {
    undisturbed(UNTIL_ANSWERED, stop_with_webhooks_in_flight).await.unwrap();
}

async fn stop_with_webhooks_in_flight() -> (Duration, Result<(), String>) {
    let world = World::start(1).await.with_long_leases();
    let (receiver, url) = Receiver::start().await;
    receiver.hold(["slow".to_owned()]);
    receiver.answer("bad", 500, None);
    let (slow, good, bad, late) = (created("slow"), created("good"), created("bad"), created("late"));
    world.produce(0, [&slow, &good, &bad, &late].map(value).into()).await;
    let (running, _) = instance(&world, "stopped", "first", &url, 100, None).await;
    wait_for("all to have come", || {
        ["slow", "good", "bad", "late"].iter().all(|title| receiver.count(title) > 0)
    })
    .await;
    assert!(world.position("stopped", 0).is_none_or(|position| position == 0));
    let stopping = Instant::now();
    running.ask_to_stop();
    sleep(UNTIL_ANSWERED).await;
    receiver.release();
    running.stop().await;
    let took = stopping.elapsed();
    let left_at = world.position_now("stopped", 0).await;
    if left_at != Some(2) {
        return (took, Err(format!("the one that fails holds it, and no other: {left_at:?}")));
    }

    // Another instance repeats what was delivered above the one that waited, and nothing below.
    receiver.answer("bad", 204, None);
    let (running, _) = instance(&world, "stopped", "second", &url, 100, None).await;
    wait_for("the position at the end", || world.position("stopped", 0) == Some(4)).await;
    running.stop().await;
    assert_eq!(["slow", "good", "late"].map(|title| receiver.count(title)), [1, 1, 2]);
    let ids: Vec<_> = receiver.came().into_iter().filter(|came| came.title == "late").collect();
    assert_eq!(ids[0].id, ids[1].id, "a receiver knows the repeat");
    (took, Ok(()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_is_given_once_its_webhooks_in_flight_have_ended() {
    let world = World::start(2).await.with_long_leases();
    let (receiver, url) = Receiver::start().await;
    let titles = ["slow 0", "slow 1"];
    receiver.hold(titles.map(str::to_owned));
    let (first, _) = instance(&world, "moved", "first", &url, 100, None).await;
    wait_for("the first to own both", || first.owned() == [0, 1]).await;
    for (partition, title) in (0..).zip(titles) {
        world.produce(partition, vec![value(&created(title))]).await;
    }
    let came = |times| titles.iter().any(|title| receiver.count(title) == times);
    wait_for("both to be in flight", || titles.iter().all(|title| receiver.count(title) == 1)).await;
    let (second, _) = instance(&world, "moved", "second", &url, 100, None).await;
    let repeated = timeout(UNTIL_MOVED, wait_for("a repeat", || came(2))).await;
    assert!(repeated.is_err(), "one is sent again while it is in flight");
    receiver.release();
    wait_for("each to own one", || (first.owned().len(), second.owned().len()) == (1, 1)).await;
    wait_for("both positions", || (0..2).all(|partition| world.position("moved", partition) == Some(1)))
        .await;
    assert_eq!(titles.map(|title| receiver.count(title)), [1, 1], "nothing is repeated");
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_more_waits_than_may_keeps_the_position_at_the_first_that_is_not_delivered() {
    undisturbed(FINISH_TIMEOUT, stop_with_more_waiting_than_may).await.unwrap();
}

async fn stop_with_more_waiting_than_may() -> (Duration, Result<(), String>) {
    const DELIVERED: usize = 300;
    /// More than may wait: the batch cannot be finished.
    const OF_ONE_TASK: usize = 1_100;
    let world = World::start(1).await.with_long_leases();
    let (receiver, url) = Receiver::start().await;
    let titles: Vec<_> = (0..DELIVERED).map(|n| n.to_string()).collect();
    let one = created("one");
    receiver.hold(["one".to_owned()]);
    let mut events: Vec<_> = titles.iter().map(|title| created(title)).collect();
    events.extend((0..OF_ONE_TASK).map(|_| TaskEvent { event_id: Uuid::now_v7(), ..one.clone() }));
    world.produce(0, events.iter().map(value).collect()).await;
    let (running, metrics) = instance(&world, "full", "first", &url, 100, None).await;
    let delivered = || counted(&metrics, "task_events_webhooks_total{outcome=\"delivered\"}");
    wait_for("the others to be delivered", || delivered() == DELIVERED as u64).await;
    let took = running.stop().await;
    let left_at = world.position_now("full", 0).await;
    if left_at != Some(DELIVERED as i64) {
        return (took, Err(format!("it is left at {left_at:?}")));
    }

    receiver.release();
    let (running, _) = instance(&world, "full", "second", &url, 100, None).await;
    wait_for("the position to move", || world.position("full", 0) > Some(DELIVERED as i64)).await;
    running.stop().await;
    assert!(titles.iter().all(|title| receiver.count(title) == 1), "no repeat");
    (took, Ok(()))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_whose_lease_ran_out_sends_nothing_until_it_is_renewed() {
    let (world, proxy) = World::behind_proxy(1).await;
    let (receiver, url) = Receiver::start().await;
    receiver.answer("bad", 500, None);
    world.produce(0, vec![value(&created("bad"))]).await;
    let (running, _) = instance(&world, "cut-off", "first", &url, 100, None).await;
    wait_for("the first try", || receiver.count("bad") == 1).await;
    proxy.set(Mode::Cut, 100);
    let lease_ends = Instant::now() + LEASE;
    // Without a lease the third try would come 4 s after the first.
    sleep(LEASE * 4).await;
    let late = receiver.came().into_iter().filter(|came| came.at > lease_ends + ON_ITS_WAY).count();
    assert_eq!(late, 0, "another instance may own the partition");
    receiver.answer("bad", 204, None);
    proxy.set(Mode::Pass, 0);
    wait_for("the position at the end", || world.position("cut-off", 0) == Some(1)).await;
    running.stop().await;
}
