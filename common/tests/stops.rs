//! A stop leaves nothing claimed: whoever is to own next does not wait for the lease.

mod world;

use std::time::{Duration, Instant};

use harness::{Fault, undisturbed};
use task_events::offsets::fold::SlotState;
use task_events::offsets::{OffsetsLog, View};
use world::{Consumer, Script, World, eventually};

const LIMIT: Duration = Duration::from_secs(60);
/// For so long a stop waits for a claim's answer.
const CLAIM_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Returns at the first word of a claim of that consumer, of which it may not know yet.
async fn claimed_by(world: &World, offsets: &OffsetsLog, consumer: &Consumer, partitions: i32) {
    let id = consumer.identity.id();
    let is_its = |state: &SlotState| state.owner().is_some_and(|owner| owner.claim.instance_id == id);
    let is_claimed = |view: &View, partition| view.slot(&world.slot(partition)).is_some_and(is_its);
    let mut view = offsets.view();
    let claimed = view.wait_for(|view| (0..partitions).any(|partition| is_claimed(view, partition)));
    tokio::time::timeout(LIMIT, claimed).await.expect("a claim").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_middle_of_a_claim() {
    let world = World::start(4).await;
    for round in 0..20 {
        undisturbed(Duration::ZERO, async || {
            let offsets = world.offsets().await;
            let consumer = world.consumer(Script::with_log());
            claimed_by(&world, &offsets, &consumer, 4).await;
            let consumer_id = consumer.identity.id();
            let took = consumer.stop().await;
            let offsets = world.offsets().await;
            let view = offsets.view();
            let view = view.borrow();
            let states = (0..4).map(|partition| view.slot(&world.slot(partition)));
            // A round that was disturbed may have left its own.
            let is_its = |state: &&SlotState| {
                state.owner().is_some_and(|owner| owner.claim.instance_id == consumer_id)
            };
            let claimed = states.flatten().filter(is_its).find(|state| !state.is_released());
            (took, claimed.map_or(Ok(()), |state| Err(format!("round {round}: {state:?}"))))
        })
        .await
        .unwrap();
    }
}

/// The claim is looked for, and the release goes over another connection, though nothing has found the first one to
/// hang: with a long lease nothing else waits for an answer on it.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_claim_without_an_answer() {
    undisturbed(CLAIM_TIMEOUT, async || {
        let world = World::behind_proxy(1).await.with_long_leases();
        let first = world.consumer(Script::default());
        world.produce(0, "before").await;
        eventually("it is handled", || first.script.flushed().len() == 1).await;
        first.stop().await;
        if let Err(why) = world.is_left_at(0, 1).await {
            // That a stop leaves nothing where all is well is another test's.
            return (LIMIT, Err(why));
        }
        let offsets = world.offsets().await;
        // The member's record, then the claim.
        world.proxy.as_ref().unwrap().next(&[Fault::Slow(Duration::ZERO), Fault::AnswerHangs]);
        let second = world.consumer(Script::default());
        claimed_by(&world, &offsets, &second, 1).await;
        let claimed = Instant::now();
        assert!(!second.owns(0), "the claim was answered");
        second.stop().await;
        (claimed.elapsed(), world.is_left_at(0, 1).await)
    })
    .await
    .unwrap();
}

/// The service's state was changed by another program, and cannot be opened again.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_state_is_opened_again() {
    undisturbed(Duration::ZERO, async || {
        let world = World::start(1).await;
        let consumer = world.consumer(Script::default());
        world.produce(0, "before").await;
        eventually("it is handled", || consumer.script.flushed().len() == 1).await;
        consumer.script.supersede();
        eventually("it is not owned any more", || !consumer.owns(0)).await;
        (consumer.stop().await, world.is_left_at(0, 1).await)
    })
    .await
    .unwrap();
}

/// Brokers are restarted together with what they serve.
#[tokio::test(flavor = "multi_thread")]
async fn while_a_release_is_lost() {
    undisturbed(Duration::ZERO, async || {
        let world = World::behind_proxy(1).await;
        let consumer = world.consumer(Script::default());
        world.produce(0, "before").await;
        eventually("it is handled", || consumer.script.flushed().len() == 1).await;
        // The member's leave and the release, in any order, and what comes next.
        world.proxy.as_ref().unwrap().next(&[Fault::Lost, Fault::Lost, Fault::Lost]);
        (consumer.stop().await, world.is_left_at(0, 1).await)
    })
    .await
    .unwrap();
}
