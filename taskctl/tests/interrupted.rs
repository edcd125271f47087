//! What a command says that was interrupted half way: by Kafka, or by its operator.

mod world;

use std::time::Duration;

use harness::{Fault, Signal, until};
use serde_json::json;
use task_events::kafka::{Compression, NewTopic, ProducerRecord};
use uuid::Uuid;
use world::{World, cells, now};

/// What is waited for comes well before this, or never.
const LIMIT: Duration = Duration::from_secs(60);
/// A request that is answered.
const ANSWERED: Fault = Fault::Slow(Duration::ZERO);

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_whose_answer_is_lost_is_found_in_the_topic() {
    let world = World::behind_proxy().await;
    // The claim is answered; what follows it is written, and its answer is lost.
    world.proxy().next(&[ANSWERED, Fault::AnswerLost, Fault::AnswerLost, Fault::AnswerLost]);
    let answer = world.answers("offsets reset g --topic task-events --to 7 --execute").await;
    assert_eq!(cells(&answer), [["task-events", "0", "-", "7"]]);
    let describe = world.answers("groups describe g").await;
    assert_eq!(cells(&describe), [["task-events", "0", "7", "0", "10", "3", "released", "-"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_that_fails_names_what_was_reset_what_may_be_and_what_was_not() {
    let world = World::behind_proxy().await;
    three_partitions(&world).await;
    // Claim and commit of the first; the claim of the second, and no commit of it ever.
    let lost = [Fault::Lost; 3];
    world.proxy().next(&[&[ANSWERED; 3][..], &lost].concat());
    let error = world.refuses("offsets reset g --topic three --to latest --execute").await;
    let outcome = "(already reset: three/0; may be reset: three/1, see `taskctl groups describe g`; not reset: three/2)";
    assert!(error.contains(outcome) && error.contains("TE0509"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_whose_claim_fails_has_moved_nothing() {
    let world = World::behind_proxy().await;
    three_partitions(&world).await;
    world.proxy().next(&[Fault::Lost]);
    let error = world.refuses("offsets reset other --topic three --to latest --execute").await;
    let outcome = "(already reset: nothing; not reset: three/0, three/1, three/2)";
    assert!(error.contains(outcome), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_that_is_interrupted_ends_the_partition_in_hand_and_names_what_is_left() {
    let world = World::behind_proxy().await;
    three_partitions(&world).await;
    let before = world.proxy().produces();
    // The first commit is never answered: it is sent again after 10 s, and by then the signal has long been seen.
    world.proxy().next(&[ANSWERED, Fault::Held]);
    let mut running = world.running("offsets reset g --topic three --to latest --execute");
    until("the first commit", LIMIT, async || world.proxy().produces() >= before + 2).await.unwrap();
    running.signal(Signal::INT).unwrap();
    assert_eq!(running.wait_exit(LIMIT).await.unwrap().code(), Some(1));
    let lines = running.lines();
    let outcome = "interrupted (already reset: three/0; not reset: three/1, three/2)";
    assert!(lines.iter().any(|line| line.contains(outcome)), "{lines:?}");
    let describe = world.answers("groups describe g").await;
    let positions: Vec<_> = cells(&describe).iter().map(|row| (row[1], row[2])).collect();
    assert_eq!(positions, [("0", "0"), ("1", "-"), ("2", "-")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_that_is_interrupted_says_how_far_it_came() {
    let world = World::behind_proxy().await;
    let letter = |offset: i64| {
        let original = json!({"event_id": Uuid::now_v7()});
        let source = json!({"topic": "task-events", "partition": 0, "offset": offset, "timestamp": now()});
        let value = json!({
            "original_event": original, "error": {"kind": "output", "message": "-"}, "retry_count": 4,
            "group": "g", "source": source, "failed_at": now(),
        });
        let value = Some(value.to_string().into_bytes());
        ProducerRecord { key: None, value, headers: Default::default(), timestamp: now() }
    };
    let letters: Vec<_> = (0..3).map(letter).collect();
    let dlq = world.kafka.producer("task-events-dlq", 0);
    dlq.produce(&letters, Compression::NoCompression).await.unwrap();
    // Copy and note of the first; of the second the copy lands, and no answer comes.
    let before = world.proxy().produces();
    world.proxy().next(&[ANSWERED, ANSWERED, Fault::AnswerHangs]);
    let mut running = world.running("dlq redrive --all --execute");
    until("the second copy", LIMIT, async || world.proxy().produces() >= before + 3).await.unwrap();
    running.signal(Signal::INT).unwrap();
    assert_eq!(running.wait_exit(LIMIT).await.unwrap().code(), Some(1));
    let lines = running.lines();
    let outcome = "interrupted (redriven before: 1 of 3; 0/1 may have been;";
    assert!(lines.iter().any(|line| line.contains(outcome) && line.contains("TE0514")), "{lines:?}");
    let left = world.answers_json("dlq list --open").await;
    assert_eq!(left.as_array().unwrap().len(), 2, "{left}");
}

async fn three_partitions(world: &World) {
    let configs = vec![("cleanup.policy".to_owned(), "delete".to_owned())];
    let topic = NewTopic { name: "three".to_owned(), partitions: 3, replication_factor: 1, configs };
    world.kafka.admin().create_topic(&topic).await.unwrap();
}
