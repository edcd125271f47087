//! An owner that is paused in the middle of a batch, with another one at work when it wakes up.

use harness::{EVENTS, Event, LEASE, Outcome, Result, SOON, Service, World, produce, record};
use std::time::Duration;

/// Events that an owner takes at once. What is fetched are whole batches as they were produced.
const BATCH: usize = 500;
const BACKLOG: usize = 40 * BATCH;
const TOLD: &str = "NOTIFICATION: ";
/// Notifications in one write to a pipe, of 4 KiB: what is on its way when a process is stopped.
const WRITE: usize = 30;

/// A service that is paused where it has written a part of a batch.
async fn paused_in_a_batch(instance: &str) -> Result<(World, Service)> {
    for _ in 0..5 {
        let world = with_backlog().await?;
        let mut service = world.instance("notification-service", instance).start()?;
        service.wait_for_line(TOLD, SOON).await?;
        if is_paused_in_a_batch(&mut service).await? {
            return Ok((world, service));
        }
    }
    panic!("five times all was notified before it could be paused");
}

/// `false`: the machine held this test up until all was notified.
async fn is_paused_in_a_batch(service: &mut Service) -> Result<bool> {
    loop {
        service.pause()?;
        service.settled().await?;
        let told = service.count(TOLD);
        if told == BACKLOG || !told.is_multiple_of(BATCH) {
            return Ok(told < BACKLOG);
        }
        service.resume()?;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn with_backlog() -> Result<World> {
    let world = World::start().await?;
    let events: Vec<_> = (0..BACKLOG).map(|n| Event::created(&format!("task {n}")).bytes()).collect();
    for batch in events.chunks(BATCH) {
        let records = batch.iter().map(|value| record(Some(b"key"), Some(value))).collect();
        produce(&world.broker.bootstrap(), EVENTS, records).await?;
    }
    Ok(world)
}

/// The first version finished the batch in flight, and so wrote up to 500 notifications that the new owner
/// wrote as well: the lease was looked at between batches only.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_owner_tells_no_more_than_what_is_being_written() -> Outcome {
    let (world, mut zombie) = paused_in_a_batch("zombie").await?;
    let _owner = world.instance("notification-service", "owner").start()?;
    world.committed("notification-service", BACKLOG as i64).await?;
    zombie.settled().await?;
    let before = zombie.count(TOLD);

    zombie.resume()?;
    zombie.wait_for_line("standby for", SOON).await?;
    zombie.settled().await?;
    let after = zombie.count(TOLD);
    assert!(after <= before + WRITE, "{} notifications of a zombie", after - before);
    Ok(())
}

/// What is left of the batch is written once the lease is renewed, and nothing of it is passed over.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_was_paused_with_no_other_there_goes_on_where_it_was() -> Outcome {
    let (world, mut only) = paused_in_a_batch("only").await?;
    tokio::time::sleep(LEASE + Duration::from_millis(500)).await;
    only.resume()?;
    world.committed("notification-service", BACKLOG as i64).await?;
    assert_eq!(only.counted(TOLD, BACKLOG).await?, BACKLOG, "each was notified once");
    Ok(())
}
