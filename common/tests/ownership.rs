//! Who owns a partition, and when it loses it: handlers that hang, twins, other services, foreign tokens.

mod world;

use std::time::Duration;

use harness::{undisturbed, until};
use task_events::offsets::{Claim, Commit};
use task_events::runtime::PartitionState;
use uuid::Uuid;
use world::{LEASE, Script, World, eventually};

const LIMIT: Duration = Duration::from_secs(60);
/// For the partition that hangs to lose it soon, and for another to keep it over a stall of the machine.
const HANG_LEASE: Duration = Duration::from_secs(6);
/// A stop grants the call in progress 2 s.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);

/// The position is committed a moment after its event was handled.
async fn eventually_at(world: &World, position: i64) {
    let is_there = async || world.position(0).await == Some(position);
    until("the position", LIMIT, is_there).await.unwrap();
}

/// A disk that hangs under the owner: another instance takes over, and what hangs holds up nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_flush_that_hangs_loses_its_partition_and_no_other() {
    let world = World::start(4).await.with_leases_of(HANG_LEASE);
    let first = world.consumer(Script::default());
    eventually("the first owns all", || (0..4).all(|partition| first.owns(partition))).await;
    let second = world.consumer(Script::default());
    // It keeps the first of its partitions, and gives the others.
    eventually("they share", || first.owns(0) && first.owns(1) && second.owns(2) && second.owns(3)).await;

    first.script.hang_in(0);
    world.produce(0, "waits").await;
    world.produce(1, "goes on").await;
    eventually("the other partition goes on", || first.script.handled().contains(&(1, 0))).await;
    eventually("the second handles the event", || second.script.flushed().contains(&(0, 0))).await;
    let claims = world.claims_made().await;
    let mut of_the_healthy = claims.iter().filter(|(slot, _)| *slot == world.slot(1));
    assert!(of_the_healthy.all(|(_, id)| *id == first.identity.id()), "the healthy one stays: {claims:?}");

    // Abandoned, it waits like any other instance; the thread that hangs does not hold up its end.
    eventually("the first stands by", || matches!(first.state(0), Some(PartitionState::Standby { .. })))
        .await;
    first.stop().await;
    eventually_at(&world, 1).await;
    second.stop().await;
}

/// Where there is nothing to share, the others stand by, and one of them takes over.
#[tokio::test(flavor = "multi_thread")]
async fn a_flush_that_hangs_loses_the_only_partition_to_a_standby() {
    let world = World::start(1).await;
    let first = world.consumer(Script::default());
    eventually("the first owns", || first.owns(0)).await;
    let second = world.consumer(Script::default());
    eventually("the second stands by", || {
        second.status.is_ready() && matches!(second.state(0), Some(PartitionState::Standby { .. }))
    })
    .await;
    first.script.hang_in(0);
    world.produce(0, "waits").await;
    eventually("the second handles the event", || second.script.flushed().contains(&(0, 0))).await;
    eventually("the first stands by", || matches!(first.state(0), Some(PartitionState::Standby { .. })))
        .await;
    first.stop().await;
    second.stop().await;
}

/// Alone, a hanging owner says so, keeps its claim and goes on when the call returns.
#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_owner_is_not_ready_and_goes_on_when_its_disk_does() {
    let world = World::start(1).await;
    let only = world.consumer(Script::default());
    eventually("it owns", || only.owns(0)).await;
    only.script.hang_in(0);
    world.produce(0, "waits").await;
    eventually("it says what hangs", || match only.state(0) {
        Some(PartitionState::Blocked { why }) => why.contains("making events durable"),
        _ => false,
    })
    .await;
    assert!(!only.status.is_ready());
    tokio::time::sleep(LEASE + LEASE / 2).await;
    only.script.release();
    eventually("it is ready again", || only.status.is_ready()).await;
    world.produce(0, "next").await;
    eventually("it goes on", || only.script.flushed().contains(&(0, 1))).await;
    assert_eq!(only.script.handled(), [(0, 0), (0, 1)], "nothing is repeated");
    assert_eq!(world.claims().await, 1);
    only.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_abandons_a_call_that_hangs_and_releases() {
    undisturbed(FINISH_TIMEOUT, async || {
        let world = World::start(1).await;
        let only = world.consumer(Script::default());
        eventually("it owns", || only.owns(0)).await;
        only.script.hang_in(0);
        world.produce(0, "waits").await;
        eventually("the event is in flight", || only.script.handled().contains(&(0, 0))).await;
        let took = only.stop().await;
        assert_ne!(world.position(0).await, Some(1), "its work is not committed");
        (took, world.is_left_at(0, 0).await)
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_cannot_be_written_holds_up_its_own_partition_only() {
    let world = World::with_dlq_limit(3, "100").await;
    let only = world.consumer(Script::default());
    eventually("it owns all", || (0..3).all(|partition| only.owns(partition))).await;
    world.produce(1, "poison").await;
    eventually("its partition is blocked", || matches!(only.state(1), Some(PartitionState::Blocked { .. })))
        .await;
    for partition in 0..3 {
        world.produce(partition, "good").await;
    }
    eventually("the others go on", || {
        let flushed = only.script.flushed();
        flushed.contains(&(0, 0)) && flushed.contains(&(2, 0))
    })
    .await;
    // Tries that return errors are progress: the partition stays owned.
    tokio::time::sleep(2 * LEASE).await;
    assert_eq!(world.claims().await, 3);
    assert!(!only.script.handled().contains(&(1, 1)), "nothing is skipped");
    let report = only.status.report();
    assert!(report.partitions[&1].lag().is_some_and(|lag| lag > 0), "{report:?}");
    only.stop().await;
    assert_eq!(world.position(1).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_twins_one_takes_a_new_id_and_stands_by() {
    let world = World::start(1).await.with_long_leases();
    let id = Uuid::new_v4();
    let first = world.consumer_as(id, "test", Script::default());
    eventually("the first owns", || first.owns(0)).await;
    let second = world.consumer_as(id, "test", Script::default());
    eventually("one owns and one stands by", || {
        first.owns(0) != second.owns(0) && first.status.is_ready() && second.status.is_ready()
    })
    .await;
    tokio::time::sleep(2 * LEASE).await;
    assert!(first.owns(0) != second.owns(0));
    assert_ne!(first.identity.id(), second.identity.id());
    assert!(world.claims().await <= 3, "{} claims", world.claims().await);
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_belongs_to_one_service_until_it_is_reset() {
    let world = World::start(1).await;
    let audit = world.consumer_as(Uuid::new_v4(), "audit-service", Script::default());
    eventually("the first owns", || audit.owns(0)).await;
    let other = world.consumer_as(Uuid::new_v4(), "notification-service", Script::default());
    eventually("the other is refused", || match other.state(0) {
        Some(PartitionState::Blocked { why }) => why.contains("belongs to audit-service"),
        _ => false,
    })
    .await;
    assert!(!other.status.is_ready());
    audit.stop().await;
    tokio::time::sleep(2 * LEASE).await;
    assert!(!other.owns(0), "a service that is down still has its group");

    // What `taskctl offsets reset` does.
    let offsets = world.offsets().await;
    let slot = world.slot(0);
    let claim = Claim::new(Uuid::new_v4(), "taskctl", 10_000);
    let claimed = offsets.claim(&slot, &claim).await.unwrap();
    let commit = Commit::new(0, claim.instance_id, true);
    offsets.commit(&slot, claimed.token, &commit, LIMIT).await.unwrap();
    eventually("the other owns", || other.owns(0)).await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_incarnation_pins_no_position_and_is_removed() {
    let world = World::start(1).await;
    world.produce(0, "first").await;
    let offsets = world.offsets().await;
    let slot = world.slot(0);
    let foreign = Commit::new(1, Uuid::new_v4(), true);
    offsets.commit(&slot, 900, &foreign, LIMIT).await.unwrap();
    let only = world.consumer(Script::default());
    eventually("the first event is handled", || only.script.flushed().contains(&(0, 0))).await;
    eventually("the foreign commit is tombstoned", || {
        let view = offsets.view();
        let view = view.borrow();
        view.slot(&slot).is_some_and(|state| state.stale_tokens(i64::MAX).iter().all(|token| *token != 900))
    })
    .await;
    only.stop().await;
    assert_eq!(world.position(0).await, Some(1));
}
