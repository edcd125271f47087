//! The webhook notifier on a broker, with a receiver in this process.

mod world;

use std::collections::BTreeMap;
use std::num::NonZero;
use std::time::Duration;

use consumers::webhook::{self, Config};
use harness::{Authority, TlsFront, Validity, replace};
use serde_json::Value;
use task_events::event::{EventType, TaskEvent};
use task_events::networks::Networks;
use task_events::runtime::PartitionState;
use task_events::schemas::EventReader;
use world::receiver::{Receiver, counted, counted_notifier, notifier};
use world::{DLQ, World, created, value, wait_for};

/// What a task's completion is after its creation.
fn completed(event: &TaskEvent) -> TaskEvent {
    TaskEvent { event_type: EventType::Completed, event_id: uuid::Uuid::now_v7(), ..event.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_arrives_once_signed_by_each_secret_and_in_order_for_its_task() {
    let world = World::start(1).await;
    let (receiver, url) = Receiver::start().await;
    let tasks: Vec<_> = (0..50).map(|n| created(&format!("task {n}"))).collect();
    let updated =
        TaskEvent { event_type: EventType::Updated, event_id: uuid::Uuid::now_v7(), ..tasks[0].clone() };
    world.produce(0, tasks.iter().map(value).collect()).await;
    world.produce(0, vec![value(&updated)]).await;
    world.produce(0, tasks.iter().map(|task| value(&completed(task))).collect()).await;
    let running = notifier(&world, "all", &url, 9).await;
    wait_for("the position at the end", || world.position("all", 0) == Some(101)).await;
    let came = receiver.came();
    assert_eq!(came.len(), 100, "what is updated is not of interest");
    let mut kinds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for one in &came {
        kinds.entry(&one.title).or_default().push(&one.kind);
        assert_eq!(one.signatures, 2);
    }
    assert!(kinds.values().all(|kinds| kinds == &["task.created", "task.completed"]), "{kinds:?}");
    assert!(came.iter().any(|one| one.id == tasks[7].event_id.to_string()));
    running.stop().await;

    // Restarted, it sends what is new alone; a repeat of the producer's is known.
    let more = created("more");
    world.produce(0, vec![value(&tasks[0]), value(&more)]).await;
    let running = notifier(&world, "all", &url, 9).await;
    wait_for("the position at the end", || world.position("all", 0) == Some(103)).await;
    assert_eq!((receiver.came().len(), receiver.count("more")), (101, 1));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_webhook_fails_delays_only_itself_and_holds_the_position() {
    let world = World::start(1).await;
    let (receiver, url) = Receiver::start().await;
    receiver.answer("bad", 500, None);
    let bad = created("bad");
    let others: Vec<_> = (0..20).map(|n| created(&format!("good {n}"))).collect();
    let mut events = vec![value(&bad)];
    events.extend(others.iter().map(value));
    events.push(value(&completed(&bad)));
    world.produce(0, events).await;
    let (running, metrics) = counted_notifier(&world, "parked", &url, 100, None).await;
    wait_for("the others", || others.iter().all(|one| receiver.count(&one.data.title) == 1)).await;
    wait_for("a second try", || receiver.count("bad") >= 2).await;
    assert!(receiver.came().iter().all(|one| one.title != "bad" || one.kind == "task.created"), "in order");
    assert!(world.position("parked", 0).is_none_or(|position| position == 0), "nothing is committed past it");

    let pending = || counted(&metrics, "task_events_webhooks_pending");
    wait_for("the counts", || counted(&metrics, "task_events_webhook_parked_tasks") == 1 && pending() == 2)
        .await;
    assert_eq!(counted(&metrics, "task_events_webhooks_total{outcome=\"delivered\"}"), 20);

    // Another process goes on at the event that waited, and repeats none that was delivered.
    running.stop().await;
    wait_for("nothing to be counted that is given away", || {
        counted(&metrics, "task_events_webhook_parked_tasks") == 0 && pending() == 0
    })
    .await;
    assert!(world.position("parked", 0).is_none_or(|position| position == 0));
    receiver.answer("bad", 204, None);
    let running = notifier(&world, "parked", &url, 100).await;
    wait_for("the position at the end", || world.position("parked", 0) == Some(22)).await;
    let kinds: Vec<_> =
        receiver.came().iter().filter(|one| one.title == "bad").map(|one| one.kind.clone()).collect();
    assert_eq!(kinds.last().unwrap(), "task.completed");
    assert_eq!(kinds.iter().filter(|kind| *kind == "task.completed").count(), 1);
    assert!(others.iter().all(|one| receiver.count(&one.data.title) == 1), "no repeat");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_is_a_dead_letter_and_can_be_redriven_at_once() {
    let world = World::start(1).await;
    let (receiver, url) = Receiver::start().await;
    receiver.answer("bad", 404, None);
    let bad = created("bad");
    world.produce(0, vec![value(&bad), value(&completed(&bad))]).await;
    let running = notifier(&world, "given-up", &url, 2).await;
    wait_for("the position at the end", || world.position("given-up", 0) == Some(2)).await;
    assert_eq!(receiver.count("bad"), 4, "two tries each");
    let letters = world.read(DLQ, 0, 2).await;
    for letter in &letters {
        let letter: Value = serde_json::from_slice(letter.value.as_deref().unwrap()).unwrap();
        assert_eq!((&letter["error"]["kind"], &letter["retry_count"]), (&"webhook".into(), &1.into()));
        assert!(letter["error"]["message"].as_str().unwrap().contains("404"), "{letter}");
        assert_eq!(letter["original_event"]["data"]["title"], "bad");
    }
    // Handed over again, it is no repeat.
    receiver.answer("bad", 204, None);
    world.produce(0, vec![value(&bad)]).await;
    wait_for("the redriven event", || world.position("given-up", 0) == Some(3)).await;
    assert_eq!(receiver.count("bad"), 5);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_gone_is_not_called_again() {
    let world = World::start(1).await;
    let (receiver, url) = Receiver::start().await;
    receiver.answer("last", 410, None);
    world.produce(0, vec![value(&created("last"))]).await;
    let running = notifier(&world, "gone", &url, 9).await;
    wait_for("the dead letter", || world.position("gone", 0) == Some(1)).await;
    world.produce(0, vec![value(&created("after"))]).await;
    wait_for("the next one", || world.position("gone", 0) == Some(2)).await;
    assert_eq!((receiver.count("last"), receiver.count("after")), (1, 0));
    for letter in world.read(DLQ, 0, 2).await {
        let letter: Value = serde_json::from_slice(letter.value.as_deref().unwrap()).unwrap();
        assert_eq!(letter["error"]["kind"], "webhook_gone");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_is_verified_or_is_sent_nothing() {
    let world = World::start(1).await;
    let (receiver, url) = Receiver::start().await;
    let plain: std::net::SocketAddr =
        url.trim_start_matches("http://").trim_end_matches("/hook").parse().unwrap();
    let (ours, other) = (Authority::new("ours").unwrap(), Authority::new("other").unwrap());
    let ca = world.state("ca").join("ca.crt");
    replace(&ca, ours.certificate()).unwrap();
    let issued = |authority: &Authority, host, validity| authority.issue("hooks", &[host], validity).unwrap();
    let front = TlsFront::start(&issued(&other, "localhost", Validity::Valid), plain).await.unwrap();
    let url = format!("https://localhost:{}/hook", front.port());
    let (running, metrics) = counted_notifier(&world, "verified", &url, 1, Some(ca)).await;
    let mut position = 0;
    for (certificate, why) in [
        (
            issued(&other, "localhost", Validity::Valid),
            "signed by no CA that is trusted here: give the CA that signed it by WEBHOOK_CA_FILE",
        ),
        (issued(&ours, "hooks.example", Validity::Valid), "not for localhost but for hooks.example"),
        (issued(&ours, "localhost", Validity::Expired), "has expired on 2021-01-01"),
    ] {
        front.show(&certificate).unwrap();
        world.produce(0, vec![value(&created("secret"))]).await;
        position += 1;
        wait_for("the dead letter", || world.position("verified", 0) == Some(position)).await;
        let letters = world.read(DLQ, 0, position as usize).await;
        let letter: Value =
            serde_json::from_slice(letters.last().unwrap().value.as_deref().unwrap()).unwrap();
        assert!(letter["error"]["message"].as_str().unwrap().contains(why), "{letter}");
    }
    assert_eq!(receiver.count("secret"), 0, "nothing was sent");

    // Renewed, it is taken by the next connection.
    front.show(&issued(&ours, "localhost", Validity::Valid)).unwrap();
    world.produce(0, vec![value(&created("good"))]).await;
    wait_for("the position at the end", || world.position("verified", 0) == Some(4)).await;
    assert_eq!(receiver.count("good"), 1);
    for (series, count) in [
        ("task_events_webhooks_total{outcome=\"delivered\"}", 1),
        ("task_events_webhooks_total{outcome=\"given_up\"}", 3),
        ("task_events_webhook_requests_total{outcome=\"delivered\"}", 1),
        ("task_events_webhook_requests_total{outcome=\"failed\"}", 3),
        ("task_events_webhook_duration_seconds_count", 4),
        ("task_events_webhooks_pending", 0),
        ("task_events_webhook_parked_tasks", 0),
    ] {
        assert_eq!(counted(&metrics, series), count, "{series}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_without_tls_is_sent_nothing_in_clear_text() {
    let world = World::start(1).await;
    let (receiver, url) = Receiver::start().await;
    let ca = world.state("ca").join("ca.crt");
    replace(&ca, Authority::new("ours").unwrap().certificate()).unwrap();
    let url = url.replace("http://", "https://");
    let (running, _) = counted_notifier(&world, "clear", &url, 1, Some(ca)).await;
    world.produce(0, vec![value(&created("secret"))]).await;
    wait_for("the dead letter", || world.position("clear", 0) == Some(1)).await;
    let letters = world.read(DLQ, 0, 1).await;
    let letter: Value = serde_json::from_slice(letters[0].value.as_deref().unwrap()).unwrap();
    assert!(letter["error"]["message"].as_str().unwrap().contains("does not speak TLS"), "{letter}");
    assert_eq!(receiver.count("secret"), 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_certificates_that_cannot_be_used_are_named_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let secrets = dir.path().join("secrets");
    std::fs::write(&secrets, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
    for (url, ca, why) in [
        ("https://localhost/", "missing", "WEBHOOK_CA_FILE: "),
        ("https://localhost/", "secrets", "has no certificate in PEM"),
        ("http://localhost/", "secrets", "WEBHOOK_CA_FILE needs an https address in WEBHOOK_URL"),
    ] {
        let config = Config {
            url: url.parse().unwrap(),
            ca: Some(dir.path().join(ca)),
            allowed: Networks::default(),
            tries: NonZero::<u32>::MIN,
        };
        let refused =
            webhook::open(dir.path(), config, &secrets, EventReader::json()).err().unwrap().to_string();
        assert!(refused.contains(why) && !refused.contains('\n'), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_asks_for_a_pause_gets_it() {
    let world = World::start(1).await;
    let (receiver, url) = Receiver::start().await;
    receiver.answer("first", 429, Some("3"));
    world.produce(0, vec![value(&created("first"))]).await;
    let (running, metrics) = counted_notifier(&world, "paused", &url, 9, None).await;
    wait_for("the first try", || receiver.count("first") == 1).await;
    // The answer may still be on its way.
    wait_for("the pause", || counted(&metrics, "task_events_webhook_parked_tasks") == 1).await;
    receiver.answer("first", 204, None);
    world.produce(0, vec![value(&created("second"))]).await;
    wait_for("the position at the end", || world.position("paused", 0) == Some(2)).await;
    let came = receiver.came();
    let after = came[1].at.duration_since(came[0].at);
    assert!(after >= Duration::from_millis(2_900), "all wait, not only the task: {after:?}");
    assert_eq!(came.len(), 3);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_takes_nothing_costs_bounded_memory_and_all_arrives_later() {
    const EVENTS: i64 = 5_000;
    let world = World::start(1).await;
    // Nothing listens there yet.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    drop(listener);
    let running = notifier(&world, "bounded", &url, 9).await;
    for batch in 0..EVENTS / 500 {
        let events = (0..500).map(|n| value(&created(&format!("{batch}/{n}"))));
        world.produce(0, events.collect()).await;
    }
    let blocked = || match running.status.report().partitions.get(&0).map(|partition| partition.state.clone())
    {
        Some(PartitionState::Blocked { why }) => why,
        _ => String::new(),
    };
    wait_for("the partition to say what it waits for", || blocked().contains("wait for WEBHOOK_URL")).await;
    assert!(world.position("bounded", 0).is_none_or(|position| position == 0));
    running.stop().await;

    let (receiver, url) = Receiver::start().await;
    let running = notifier(&world, "bounded", &url, 9).await;
    wait_for("the position at the end", || world.position("bounded", 0) == Some(EVENTS)).await;
    assert_eq!(receiver.came().len() as i64, EVENTS);
    running.stop().await;
}
