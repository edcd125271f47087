//! Instances that share partitions and keep a log each: who does what again after a restart, a loss, or a stop.

mod world;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use harness::undisturbed;
use uuid::Uuid;
use world::{Consumer, Script, World, eventually};

const LIMIT: Duration = Duration::from_secs(60);

fn owned(consumer: &Consumer) -> Vec<i32> {
    (0..4).filter(|partition| consumer.owns(*partition)).collect()
}

/// How many events were handled, each once.
fn handled_once(scripts: &[&Script]) -> usize {
    let flushed: Vec<_> = scripts.iter().flat_map(|script| script.flushed()).collect();
    let distinct: BTreeSet<_> = flushed.iter().copied().collect();
    assert_eq!(distinct.len(), flushed.len(), "nothing twice: {flushed:?}");
    flushed.len()
}

/// Waits until the last word on the partitions is a renewal of that instance.
async fn renewed_by(world: &World, id: Uuid, partitions: &[i32]) {
    let offsets = world.offsets().await;
    let (view, slots) = (offsets.view(), partitions.iter().map(|partition| world.slot(*partition)));
    let slots: Vec<_> = slots.collect();
    let is_renewed = async || {
        let view = view.borrow();
        let commit = |slot| view.slot(slot)?.last_commit().map(|(_, commit)| commit.clone());
        let mut commits = slots.iter().map(commit);
        commits.all(|commit| commit.is_some_and(|commit| commit.instance_id == id && !commit.released))
    };
    harness::until("renewals of an idle owner", LIMIT, is_renewed).await.unwrap();
}

/// Its log ends before where it was given its partitions, and the group's position is its own.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_owner_that_is_killed_does_nothing_of_the_others_part_again() {
    let world = World::start(4).await;
    let first = world.consumer(Script::with_log());
    eventually("the first owns all", || owned(&first).len() == 4).await;
    for partition in [0, 1, 2, 3, 0, 1, 2, 3] {
        world.produce(partition, "before").await;
    }
    eventually("it handles all", || first.script.flushed().len() == 8).await;
    let (id, script) = (Uuid::new_v4(), Script::with_log());
    let second = world.consumer_as(id, "test", script.clone());
    eventually("they share", || owned(&first).len() == 2 && owned(&second).len() == 2).await;
    let given = owned(&second);
    renewed_by(&world, id, &given).await;
    second.kill().await;
    let second = world.consumer_as(id, "test", script.clone());
    eventually("it owns them again", || owned(&second) == given).await;
    for partition in &given {
        world.produce(*partition, "after").await;
    }
    let all = || handled_once(&[&first.script, &script]) == 10;
    eventually("what is new is handled", all).await;
    let new: BTreeSet<_> = given.iter().map(|partition| (*partition, 2)).collect();
    assert_eq!(script.flushed().into_iter().collect::<BTreeSet<_>>(), new);
    first.stop().await;
    second.stop().await;
}

/// As a service whose volume is lost: nobody is left who has what was done. After a stop the next one claims at once, after
/// a kill it stands by first.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_instance_that_finds_nobody_of_before_does_all_again() {
    for is_stopped in [true, false] {
        let world = World::start(4).await;
        let first = world.consumer(Script::with_log());
        eventually("the first owns all", || owned(&first).len() == 4).await;
        for partition in [0, 1, 2, 3, 0] {
            world.produce(partition, "before").await;
        }
        eventually("it handles all", || first.script.flushed().len() == 5).await;
        if is_stopped {
            first.stop().await;
        } else {
            first.kill().await;
        }
        let new = world.consumer(Script::with_log());
        eventually("the new one has all", || handled_once(&[&new.script]) == 5).await;
        new.stop().await;
    }
}

/// A fail-over is no loss: the instance that stays has been there before.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_instance_had_done_is_not_done_again_by_the_one_that_stays() {
    let world = World::start(4).await;
    let first = world.consumer(Script::with_log());
    eventually("the first owns all", || owned(&first).len() == 4).await;
    let second = world.consumer(Script::with_log());
    eventually("they share", || owned(&first).len() == 2 && owned(&second).len() == 2).await;
    for partition in [0, 1, 2, 3] {
        world.produce(partition, "before").await;
    }
    let both = || handled_once(&[&first.script, &second.script]) == 4;
    eventually("they handle all", both).await;
    let offsets = world.offsets().await;
    let view = offsets.view();
    let is_committed = async || {
        let position = |partition| view.borrow().slot(&world.slot(partition))?.position();
        (0..4).all(|partition| position(partition) == Some(1))
    };
    harness::until("all to be committed", LIMIT, is_committed).await.unwrap();
    let script = second.script.clone();
    second.kill().await;
    eventually("the first owns all again", || owned(&first).len() == 4).await;
    for partition in [0, 1, 2, 3] {
        world.produce(partition, "after").await;
    }
    eventually("what is new is handled", || handled_once(&[&first.script, &script]) == 8).await;
    first.stop().await;
}

/// Whatever is to be given or kept at that moment.
#[tokio::test(flavor = "multi_thread")]
async fn instances_that_stop_at_once_release_all_that_they_have() {
    let world = World::start(4).await;
    undisturbed(Duration::ZERO, async || {
        let consumers = [(); 3].map(|()| world.consumer(Script::with_log()));
        let owns_some = || consumers.iter().map(|consumer| owned(consumer).len()).sum::<usize>() == 4;
        eventually("all is owned", owns_some).await;
        let [first, second, third] = consumers;
        let late = world.consumer(Script::with_log());
        let stopping = Instant::now();
        tokio::join!(first.stop(), second.stop(), third.stop(), late.stop());
        let took = stopping.elapsed();
        for partition in 0..4 {
            if !world.is_released(partition).await {
                return (took, Err(format!("partition {partition} is not released")));
            }
        }
        (took, Ok(()))
    })
    .await
    .unwrap();
    let next = world.consumer(Script::with_log());
    eventually("the next owns all", || owned(&next).len() == 4).await;
    next.stop().await;
}
