//! What runs ahead of a handler has no effects: while a batch is made durable the next one is read, decoded and
//! looked up, and nothing more.

mod world;

use std::time::Duration;

use world::{LEASE, Script, World, eventually};

/// One owner whose flush of the first event hangs, with further events that it has decoded meanwhile.
async fn hanging(world: &World, values: &[&str]) -> (world::Consumer, Script) {
    let script = Script::default();
    let consumer = world.consumer(script.clone());
    eventually("the owner", || consumer.owns(0)).await;
    script.hang_in(0);
    world.produce(0, values[0]).await;
    eventually("the first to be handled", || script.handled() == [(0, 0)]).await;
    for (offset, value) in (1..).zip(&values[1..]) {
        assert_eq!(world.produce(0, value).await, offset);
        if offset == 1 {
            eventually("the next to be decoded", || script.decoded().len() == 2).await;
        }
    }
    (consumer, script)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_batch_is_decoded_while_another_is_flushed_and_none_is_handled_or_committed() {
    let world = World::start(1).await;
    let (consumer, script) = hanging(&world, &["a", "b", "c"]).await;
    // Short of the time after which a call that hangs loses the partition.
    tokio::time::sleep(LEASE / 4).await;
    assert_eq!(script.decoded(), [(0, 0), (0, 1)], "one batch ahead, and no more");
    assert_eq!(script.handled(), [(0, 0)], "nothing is handled before the flush");
    assert!(script.flushed().is_empty());
    assert_eq!(world.position(0).await.unwrap_or(0), 0, "nothing is committed before the flush");
    script.release();
    eventually("all to be flushed", || script.flushed() == [(0, 0), (0, 1), (0, 2)]).await;
    consumer.stop().await;
    assert_eq!(world.position(0).await, Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_of_an_event_that_is_still_being_flushed_is_found() {
    let world = World::start(1).await;
    // Looked up before the first is known.
    let (consumer, script) = hanging(&world, &["id 1", "id 1", "id 1", "id 2"]).await;
    script.release();
    eventually("the last to be flushed", || script.flushed().last() == Some(&(0, 3))).await;
    assert_eq!(script.handled(), [(0, 0), (0, 3)]);
    // Once it is known it needs nobody's memory.
    world.produce(0, "id 2").await;
    world.produce(0, "id 1").await;
    world.produce(0, "id 3").await;
    eventually("the last to be flushed", || script.flushed().last() == Some(&(0, 6))).await;
    assert_eq!(script.handled(), [(0, 0), (0, 3), (0, 6)]);
    consumer.stop().await;
    assert_eq!(world.position(0).await, Some(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_decoded_ahead_is_forgotten_with_the_partition() {
    let world = World::start(1).await;
    let (paused, before) = hanging(&world, &["a", "b", "poison"]).await;
    let after = Script::default();
    let standby = world.consumer(after.clone());
    eventually("the standby to take over", || standby.owns(0)).await;
    eventually("it to flush all", || after.flushed() == [(0, 0), (0, 1)]).await;
    before.release();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(before.handled(), [(0, 0)], "no further event was handled");
    assert_eq!(world.dead_letters(1).await.len(), 1);
    eventually("the fenced one to stand by", || !paused.owns(0)).await;
    standby.stop().await;
    paused.stop().await;
    assert_eq!(world.position(0).await, Some(3));
}
