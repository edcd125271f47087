//! The services on a broker: in this process through the runtime, and as processes that are killed.

mod world;

use std::time::{Duration, Instant};

use consumers::{audit, dead_letters, notification};
use task_events::avro::{self, Schema};
use task_events::dlq::DlqRecord;
use task_events::kafka::Compression;
use task_events::registry::Registry;
use task_events::schemas::EventReader;
use world::{DLQ, LEASE, LIMIT, Running, World, created, said, value, wait_for};

/// Returns once the notification is read, and checks that it is there once.
async fn notified(text: &str) {
    wait_for(text, || said(text) > 0).await;
    assert_eq!(said(text), 1);
}

/// SC-2 and SC-3: three changes; the notifier tells of two, the log has all, in order; both commit.
#[tokio::test(flavor = "multi_thread")]
async fn each_service_handles_what_is_its_own_and_commits_it() {
    let world = World::start(1).await;
    let changes = world::three_changes("Buy\u{7}milk");
    world.produce(0, changes.iter().map(value).collect()).await;
    let task = changes[0].data.task_id;

    let notifier = world.notifier("sc2").await;
    let auditor = world.auditor("sc3").await;
    wait_for("both groups at the end", || {
        world.position("sc2", 0) == Some(3) && world.position("sc3", 0) == Some(3)
    })
    .await;
    let ids: Vec<_> = changes.iter().map(|event| event.event_id).collect();
    assert_eq!(world.audited("sc3"), ids);
    notified(&format!("NOTIFICATION: New task created - 'Buy\\u{{7}}milk' (ID: {task})")).await;
    notified(&format!("NOTIFICATION: Task completed - 'Buy\\u{{7}}milk' (ID: {task})")).await;
    for happened in ["created", "updated", "completed"] {
        assert_eq!(said(&format!("AUDIT: task.{happened} - task_id={task}")), 1);
    }
    notifier.stop().await;
    auditor.stop().await;

    // Restarted, each goes on where it was: a repeat of the producer's is known, and only what is new is done.
    world.produce(0, vec![value(&changes[0]), value(&created("And bread"))]).await;
    let notifier = world.notifier("sc2").await;
    let auditor = world.auditor("sc3").await;
    wait_for("both groups at the end", || {
        world.position("sc2", 0) == Some(5) && world.position("sc3", 0) == Some(5)
    })
    .await;
    assert_eq!(said("Loaded 3 previously seen events"), 1);
    assert_eq!(world.audited("sc3").len(), 4);
    notified(&format!("NOTIFICATION: New task created - 'Buy\\u{{7}}milk' (ID: {task})")).await;
    notifier.stop().await;
    auditor.stop().await;
}

/// Consumers are upgraded first: they read by a later schema than the API writes by.
#[tokio::test(flavor = "multi_thread")]
async fn services_of_a_later_schema_read_what_an_earlier_one_wrote() {
    const LATER: &str = include_str!("../../common/tests/schemas/task-event-v2.avsc");
    let (world, registry) = (World::start(1).await, harness::Registry::small().await.unwrap());
    let id = registry.register("task-events-value", avro::TASK_EVENT).await.unwrap();
    let changes = world::three_changes("Read me later");
    let values = changes.iter().map(|event| Some(avro::encode(event, id).unwrap())).collect();
    world.produce(0, values).await;

    let client = Registry::new(vec![registry.url().parse().unwrap()], None);
    let reader = EventReader::with_schema(client, None, Schema::parse(LATER).unwrap());
    let notifier = world.notifier_reading("later-notifier", "later-notifier", reader.clone()).await;
    let auditor = world.auditor_reading("later-auditor", reader).await;
    let both_at_the_end =
        || world.position("later-notifier", 0) == Some(3) && world.position("later-auditor", 0) == Some(3);
    wait_for("both groups at the end", both_at_the_end).await;
    let task = changes[0].data.task_id;
    notified(&format!("NOTIFICATION: New task created - 'Read me later' (ID: {task})")).await;
    notified(&format!("NOTIFICATION: Task completed - 'Read me later' (ID: {task})")).await;
    let ids: Vec<_> = changes.iter().map(|event| event.event_id).collect();
    assert_eq!(world.audited("later-auditor"), ids);
    // With the later schema's field at its default.
    let log = std::fs::read_to_string(world.log("later-auditor")).unwrap();
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["data"]["priority"], serde_json::Value::Null);
        assert!(line["data"].get("priority").is_some(), "{line}");
        assert_eq!(line["schema_id"], id);
    }
    notifier.stop().await;
    auditor.stop().await;
}

/// SC-8: what no consumer can handle is in the DLQ, and the next event is handled.
#[tokio::test(flavor = "multi_thread")]
async fn poison_goes_to_the_dlq_and_the_next_event_is_handled() {
    let world = World::start(1).await;
    let mut wrong_type = serde_json::to_value(created("x")).unwrap();
    wrong_type["data"]["title"] = 7.into();
    let mut large = value(&created("y")).unwrap();
    large.resize(1024 * 1024, b' ');
    let poison = vec![
        Some(b"{\"event_id\": ".to_vec()),
        Some(serde_json::to_vec(&wrong_type).unwrap()),
        Some(large),
        Some(Vec::new()),
        None,
    ];
    // Compressed, so that 1 MiB fits into the topic's limit.
    world.produce_compressed(0, poison.clone(), Compression::Gzip).await;
    let good = created("after the poison");
    world.produce(0, vec![value(&good)]).await;

    let auditor = world.auditor("sc8").await;
    wait_for("the group at the end", || world.position("sc8", 0) == Some(6)).await;
    assert_eq!(world.audited("sc8"), [good.event_id]);
    let dead: Vec<DlqRecord> = world
        .read(DLQ, 0, 5)
        .await
        .iter()
        .map(|record| DlqRecord::decode(record.value.as_deref()).unwrap())
        .collect();
    let kinds: Vec<&str> = dead.iter().map(|record| record.error.kind.as_str()).collect();
    assert_eq!(kinds, ["invalid_json", "invalid_event", "too_large", "invalid_json", "no_value"]);
    let offsets: Vec<i64> = dead.iter().map(|record| record.source.offset).collect();
    assert_eq!(offsets, [0, 1, 2, 3, 4]);
    auditor.stop().await;

    // The DLQ processor tells of each, and of what is no DLQ record at all.
    world.produce_to(DLQ, 0, vec![Some(b"nonsense".to_vec())], Compression::NoCompression).await;
    let opened = dead_letters::open(world::sink());
    let processor = Running::start(world.dlq_config("dlq8"), opened.service);
    wait_for("the DLQ processor at the end", || world.position_in(DLQ, "dlq8", 0) == Some(6)).await;
    processor.stop().await;
    (opened.at_end)();
    for line in [
        "group=sc8 kind=too_large source=task-events/0/2 retries=0 message=",
        "group=unknown kind=invalid_json",
    ] {
        wait_for(line, || said(&format!("DLQ: {line}")) == 1).await;
    }
    assert_eq!(
        said(
            "DLQ totals: sc8/invalid_event=1 sc8/invalid_json=2 sc8/no_value=1 sc8/too_large=1 unknown/invalid_json=1"
        ),
        1
    );
}

/// At once: not after the lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_at_once_on_a_release() {
    harness::undisturbed(Duration::ZERO, async || {
        let world = World::start(1).await.with_long_leases();
        let first = world.instance("ha", "first").await;
        wait_for("the first to own", || first.is_active()).await;
        let second = world.instance("ha", "second").await;
        wait_for("the second to stand by", || second.status.is_ready() && !second.is_active()).await;
        let took = first.stop().await;
        wait_for("the second to own", || second.is_active()).await;
        let silence = world.silence_before_the_last_claim("ha").await;
        second.stop().await;
        let waited = silence >= Duration::from_secs(10);
        (took, if waited { Err(format!("claimed {silence:?} after the release")) } else { Ok(()) })
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_after_the_lease_of_an_owner_that_is_silent() {
    let world = World::start(1).await;
    let second = world.instance("ha", "second").await;
    wait_for("the second to own", || second.is_active()).await;
    let third = world.instance("ha", "third").await;
    wait_for("the third to stand by", || third.status.is_ready() && !third.is_active()).await;
    second.abort();
    wait_for("the third to own", || third.is_active()).await;
    // By what the second last said, and not by when it was ended: a machine that is suspended makes both
    // silent before.
    let silence = world.silence_before_the_last_claim("ha").await;
    assert!(silence >= LEASE, "after silence: {silence:?}");
    world.produce(0, vec![value(&created("handled by the third"))]).await;
    wait_for("the event", || said("'handled by the third'") == 1).await;
    third.stop().await;
}

/// P4: killed at any moment, over and over, with a producer that repeats itself.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_holds_each_event_once_and_in_order_whatever_is_killed() {
    let world = World::start(2).await;
    let mut expected = [Vec::new(), Vec::new()];
    let mut process = world.audit_process("p4");
    let mut pause = Duration::from_millis(90);
    for round in 0..12 {
        for partition in 0..2 {
            let events: Vec<_> = (0..700).map(|n| created(&format!("{round}/{n}"))).collect();
            let mut values: Vec<_> = events.iter().map(value).collect();
            // Repeats, near and far.
            values.extend_from_within(650..700);
            values.extend_from_within(0..50);
            world.produce(partition, values).await;
            expected[partition as usize].extend(events.iter().map(|event| event.event_id));
        }
        tokio::time::sleep(pause).await;
        pause += Duration::from_millis(17);
        if round % 4 == 3 {
            let stopping = Instant::now();
            assert!(process.terminate(LIMIT).await.unwrap().success());
            assert!(stopping.elapsed() < Duration::from_secs(5), "{:?}", stopping.elapsed());
        } else {
            process.kill9();
        }
        process = world.audit_process("p4");
    }
    for partition in 0..2 {
        let last = created("the last");
        world.produce(partition, vec![value(&last)]).await;
        expected[partition as usize].push(last.event_id);
    }
    let end = Some(12 * 800 + 1);
    wait_for("the whole topic", || (0..2).all(|partition| world.position("p4", partition) == end)).await;
    assert!(process.terminate(LIMIT).await.unwrap().success());
    for partition in 0..2 {
        assert_eq!(world.audited_of("p4", partition), expected[partition as usize], "partition {partition}");
    }
}

/// A second group is a second log; a second process on one log is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_a_log_is_refused() {
    let world = World::start(1).await;
    let process = world.audit_process("one");
    wait_for("the first process", || world.log("one").exists()).await;
    wait_for("the lock", || {
        audit::open(&world.log("one"), &world.state("other"), EventReader::json()).is_err()
    })
    .await;
    let refused = world.audit_command("two").env("AUDIT_LOG_PATH", world.log("one")).output().unwrap();
    let line = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(line.contains("in use by another process") && line.trim_end().lines().count() == 1, "{line}");
    drop(process);
}

#[test]
fn notifications_need_a_folder() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let line = notification::open(file.path(), world::sink(), EventReader::json()).err().unwrap().to_string();
    assert!(line.contains("dedup") && !line.contains('\n'), "{line}");
}
