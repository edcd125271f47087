//! SC-10: what other producers, administrators and backup tools do beside the system. Nothing is lost, nothing
//! is held up, and what is wrong is reported.

use chrono::DateTime;
use harness::{
    Api, DLQ, EVENTS, Event, GROUPS, Kind, LEASE, OFFSETS, Outcome, Program, Result, SOON, Service,
    Transaction, World, alone, delete_topic, eventually, produce, produce_gzip_bomb, produce_with_headers,
    record,
};
use rskafka::record::Record;
use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::time::sleep;

const MIB: u64 = 1024 * 1024;

/// The services of a world.
struct System {
    api: Service,
    client: Api,
    audit: Service,
    notification: Service,
}

impl System {
    async fn start(world: &World) -> Result<Self> {
        let (api, client) = world.start_api().await?;
        let audit = world.program("audit-service").start()?;
        let notification = world.program("notification-service").start()?;
        Ok(Self { api, client, audit, notification })
    }

    async fn create(&self, what: &str, count: usize) -> Result<()> {
        for n in 0..count {
            self.client.create(&format!("{what} {n}")).await?;
        }
        Ok(())
    }

    async fn stop_consumers(&mut self) -> Result<()> {
        for consumer in [&mut self.audit, &mut self.notification] {
            consumer.stop_released().await?;
        }
        Ok(())
    }
}

/// Waits until the audit log has that many lines, and checks that no event is there twice.
async fn audited(world: &World, lines: usize) -> Result<()> {
    let there = async || Ok((world.audit_log()?.len() >= lines).then_some(()));
    eventually(&format!("{lines} lines in the audit log"), SOON, there).await?;
    let ids: HashSet<_> = world.audit_log()?.iter().map(|line| line["event_id"].to_string()).collect();
    assert_eq!((world.audit_log()?.len(), ids.len()), (lines, lines), "each event once");
    Ok(())
}

fn titles(world: &World) -> Result<Vec<String>> {
    Ok(world.audit_log()?.iter().map(|line| line["data"]["title"].as_str().unwrap().to_owned()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_holds_the_groups_and_loses_nothing() -> Outcome {
    let world = World::start().await?;
    let mut system = System::start(&world).await?;
    let bootstrap = world.broker.bootstrap();
    system.create("before", 5).await?;
    system.client.delivered().await?;

    let mut transaction = Transaction::begin(&bootstrap, "other", EVENTS, 0).await?;
    transaction.send(&[&Event::created("committed").bytes()]).await?;
    system.create("meanwhile", 100).await?;
    system.client.delivered().await?;
    audited(&world, 5).await?;
    for consumer in [&mut system.audit, &mut system.notification] {
        consumer.wait_for_line("open transaction", SOON).await?;
    }
    transaction.commit().await?;
    audited(&world, 106).await?;

    let mut transaction = Transaction::begin(&bootstrap, "other", EVENTS, 0).await?;
    transaction.send(&[&Event::created("aborted").bytes(), b"no event at all"]).await?;
    system.create("again", 10).await?;
    transaction.abort().await?;
    audited(&world, 116).await?;
    let titles = titles(&world)?;
    assert_eq!(titles[5], "committed", "in the topic's order");
    assert!(!titles.iter().any(|title| title == "aborted"));
    assert_eq!(system.notification.count("'aborted'"), 0);
    assert!(world.topic(DLQ).await?.is_empty(), "what was aborted is no dead letter");

    // Also from the start of the log, and past the markers at its end.
    system.stop_consumers().await?;
    std::fs::remove_file(world.audit_log_path()).unwrap();
    std::fs::remove_dir_all(world.state_dir().join("audit-service")).unwrap();
    system.audit.restart()?;
    audited(&world, 116).await?;
    for group in GROUPS {
        let end = world.topic(EVENTS).await?.last().unwrap().offset + 1;
        world.committed(group, end - 1).await?;
    }
    Ok(())
}

/// Waits until the group is moved: refused while an owner that could not release seems alive.
async fn moved(world: &World, reset: &[&str]) -> Result<()> {
    let is_moved = async || Ok((world.taskctl(reset).await?.code == Some(0)).then_some(()));
    eventually("the group to be moved", SOON, is_moved).await
}

/// The claim of a service.
fn claim(service: &str, lease_ms: u64) -> Vec<u8> {
    let id = "7a4b6f2e-3a3b-4f4c-9d52-0d4d5f0f9d10";
    let claim = serde_json::json!({"v": 1, "claim_id": id, "instance_id": id, "service": service,
        "host": "elsewhere", "claimed_at": "2026-01-01T00:00:00Z", "lease_ms": lease_ms});
    claim.to_string().into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_write_to_the_offsets_topic_stops_nobody() -> Outcome {
    let world = World::start().await?;
    let mut system = System::start(&world).await?;
    let bootstrap = world.broker.bootstrap();
    system.create("before", 3).await?;
    audited(&world, 3).await?;
    let mut aborted = Transaction::begin(&bootstrap, "aborted", OFFSETS, 0).await?;
    aborted.send(&[b"junk"]).await?;
    aborted.abort().await?;
    let mut committed = Transaction::begin(&bootstrap, "committed", OFFSETS, 0).await?;
    committed.send(&[b"junk"]).await?;
    committed.commit().await?;
    let mut open = Transaction::begin(&bootstrap, "open", OFFSETS, 0).await?;
    open.send(&[b"junk"]).await?;
    produce_with_headers(&bootstrap, OFFSETS, b"junk", &[("none", None)]).await?;
    // A commit of another life of the topic: its token is not below its own offset.
    let foreign = br#"{"v":1,"offset":2,"instance_id":"7a4b6f2e-3a3b-4f4c-9d52-0d4d5f0f9d10","committed_at":"2026-01-01T00:00:00Z","released":false}"#;
    for group in GROUPS {
        let key = format!("{group}/{EVENTS}/0/commit/99999999");
        produce(&bootstrap, OFFSETS, vec![record(Some(key.as_bytes()), Some(foreign))]).await?;
        // A claim that would hold the partition for ever.
        let key = format!("{group}/{EVENTS}/0/claim");
        let claim = claim("audit-service", u64::MAX);
        produce(&bootstrap, OFFSETS, vec![record(Some(key.as_bytes()), Some(&claim))]).await?;
    }
    if let Some(tools) = world.kafka_tools() {
        for codec in ["lz4", "zstd", "snappy", "gzip"] {
            tools.console_producer(OFFSETS, codec, &[("junk", "junk".to_owned())]).await?;
        }
    }
    system.create("meanwhile", 3).await?;
    audited(&world, 6).await?;
    // At the next start the whole topic is read again.
    system.stop_consumers().await?;
    system.create("after", 3).await?;
    system.audit.restart()?;
    system.notification.restart()?;
    audited(&world, 9).await?;
    eventually("the last notification", SOON, async || {
        Ok((system.notification.history().iter().filter(|line| line.contains("NOTIFICATION: ")).count() == 9)
            .then_some(()))
    })
    .await?;
    let listed = world.taskctl(&["groups", "list"]).await?;
    assert_eq!(listed.code, Some(0), "{listed:?}");
    // And an operator can still move the group.
    system.stop_consumers().await?;
    let reset = ["offsets", "reset", "notification-service", "--to", "0", "--execute"];
    moved(&world, &reset).await?;
    let described =
        world.taskctl(&["groups", "describe", "notification-service", "--format", "json"]).await?;
    assert!(described.stdout.contains("\"current_offset\": 0"), "{described:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn any_codec_and_any_header_is_read() -> Outcome {
    let world = World::start().await?;
    let system = System::start(&world).await?;
    let bootstrap = world.broker.bootstrap();
    let null_header = Event::created("a header without a value");
    produce_with_headers(&bootstrap, EVENTS, &null_header.bytes(), &[("none", None)]).await?;
    produce_with_headers(&bootstrap, EVENTS, b"poison", &[("none", None), ("some", Some(b"value"))]).await?;
    let mut expected = 1;
    if let Some(tools) = world.kafka_tools() {
        for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
            let events = (0..20).map(|n| Event::created(&format!("{codec} {n}")).bytes());
            let records: Vec<_> =
                events.map(|event| ("foreign", String::from_utf8(event).unwrap())).collect();
            tools.console_producer(EVENTS, codec, &records).await?;
            expected += 20;
        }
        // From now on the broker packs what the API sends.
        for codec in ["zstd", "lz4"] {
            tools.alter_topic(EVENTS, &format!("compression.type={codec}")).await?;
            system.create(codec, 5).await?;
            expected += 5;
        }
    }
    system.create("the last", 1).await?;
    audited(&world, expected + 1).await?;
    let dead = async || Ok((world.topic(DLQ).await?.len() == GROUPS.len()).then_some(()));
    eventually("a dead letter of each group", SOON, dead).await?;
    let dead = world.topic(DLQ).await?;
    assert!(
        dead[0].json()?.to_string().contains("none"),
        "the header without a value is kept: {:?}",
        dead[0]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_decompresses_to_700_mb_costs_neither_memory_nor_the_group() -> Outcome {
    const ZEROS: usize = 700_000_000;
    let _alone = alone().await;
    let mut world = World::start().await?;
    let mut system = System::start(&world).await?;
    let mut dlq = world.program("dlq-processor").start()?;
    system.create("before", 3).await?;
    audited(&world, 3).await?;
    produce_gzip_bomb(&world.broker.bootstrap(), EVENTS, ZEROS).await?;
    system.create("after", 3).await?;
    audited(&world, 6).await?;
    let dead = async || Ok((world.topic(DLQ).await?.len() == GROUPS.len()).then_some(()));
    eventually("a dead letter of each group", SOON, dead).await?;

    // The relay reads the end of the topic, where one is, since what it sent last is in doubt.
    world.broker.pause()?;
    system.create("in doubt", 3).await?;
    system.api.kill9();
    world.broker.resume()?;
    produce_gzip_bomb(&world.broker.bootstrap(), EVENTS, ZEROS).await?;
    system.api.restart()?;
    audited(&world, 9).await?;

    produce_gzip_bomb(&world.broker.bootstrap(), DLQ, ZEROS).await?;
    produce(&world.broker.bootstrap(), DLQ, vec![record(None, Some(b"behind it"))]).await?;
    dlq.wait_for_line("message=not a DLQ record", SOON).await?;
    for service in [&mut system.api, &mut system.audit, &mut system.notification, &mut dlq] {
        let peak = peak_memory(service.id());
        assert!(peak < 100 * MIB, "a service took {} MiB", peak / MIB);
        assert!(!service.has_ended()?);
    }
    Ok(())
}

/// Position and order come from offsets alone.
#[tokio::test(flavor = "multi_thread")]
async fn timestamps_of_any_kind_change_neither_order_nor_position() -> Outcome {
    let world = World::start().await?;
    if let Some(tools) = world.kafka_tools().filter(|_| world.broker.kind() == Kind::Kafka) {
        // The producer's times count, whatever they are, and nothing is deleted by them.
        let as_produced = "message.timestamp.type=CreateTime,message.timestamp.after.max.ms=9223372036854775807,message.timestamp.before.max.ms=9223372036854775807,retention.ms=-1";
        tools.alter_topic(EVENTS, as_produced).await?;
    }
    let mut system = System::start(&world).await?;
    let bootstrap = world.broker.bootstrap();
    let year_9999 = 253_402_300_799_000;
    let times = [year_9999, -1, 0, i64::from(i32::MAX), 1, year_9999, 0];
    for (n, time) in times.into_iter().enumerate() {
        let timestamp = DateTime::from_timestamp_millis(time).unwrap();
        let event = record(Some(b"foreign"), Some(&Event::created(&format!("foreign {n}")).bytes()));
        produce(&bootstrap, EVENTS, vec![Record { timestamp, ..event }]).await?;
        let poison = record(None, Some(b"poison"));
        produce(&bootstrap, EVENTS, vec![Record { timestamp, ..poison }]).await?;
        system.create(&format!("own {n}"), 1).await?;
        system.client.delivered().await?;
    }
    let expected: Vec<_> =
        (0..times.len()).flat_map(|n| [format!("foreign {n}"), format!("own {n} 0")]).collect();
    audited(&world, expected.len()).await?;
    assert_eq!(titles(&world)?, expected);
    let dead = async || Ok((world.topic(DLQ).await?.len() == times.len() * GROUPS.len()).then_some(()));
    eventually("the dead letters of both groups", SOON, dead).await?;
    // And from the start once more.
    system.stop_consumers().await?;
    std::fs::remove_file(world.audit_log_path()).unwrap();
    std::fs::remove_dir_all(world.state_dir().join("audit-service")).unwrap();
    system.audit.restart()?;
    audited(&world, expected.len()).await?;
    Ok(())
}

/// The broker holds its answers back, or asks the client to wait: what is read comes late, and once.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_quota_delays_and_loses_nothing() -> Outcome {
    let _alone = alone().await;
    let world = World::start().await?;
    let Some(tools) = world.kafka_tools().filter(|_| world.broker.kind() == Kind::Kafka) else {
        return Ok(());
    };
    for group in GROUPS {
        let quota = ["--alter", "--add-config", "consumer_byte_rate=30000", "--entity-type", "clients"];
        tools.run("kafka.admin.ConfigCommand", &[&quota[..], &["--entity-name", group]].concat()).await?;
    }
    // Small batches: one that is larger than all of the quota's window is never handed out, to nobody.
    for first in (0..600).step_by(20) {
        let events = (first..first + 20).map(|n| Event::created(&format!("{n} {}", "x".repeat(400))).bytes());
        let events = events.map(|value| record(Some(b"key"), Some(&value))).collect();
        produce(&world.broker.bootstrap(), EVENTS, events).await?;
    }
    let started = Instant::now();
    let mut system = System::start(&world).await?;
    audited(&world, 600).await?;
    for group in GROUPS {
        world.committed(group, 600).await?;
    }
    assert!(started.elapsed() > Duration::from_secs(3), "the quota was not felt: {:?}", started.elapsed());
    assert_eq!(system.notification.counted("NOTIFICATION: ", 600).await?, 600);
    for (consumer, group) in
        [(&mut system.audit, "audit-service"), (&mut system.notification, "notification-service")]
    {
        assert!(!consumer.has_ended()?);
        assert_eq!(world.offsets(group).await?.claims.len(), 1, "{group} stays the owner");
    }

    // Such a batch stops the group until the quota is raised; that is said.
    let large = (0..600).map(|n| Event::created(&format!("{n} {}", "x".repeat(400))).bytes());
    let large = large.map(|value| record(Some(b"key"), Some(&value))).collect();
    produce(&world.broker.bootstrap(), EVENTS, large).await?;
    system.audit.wait_for_line("raise consumer_byte_rate", SOON).await?;
    let none = ["--alter", "--delete-config", "consumer_byte_rate", "--entity-type", "clients"];
    tools
        .run("kafka.admin.ConfigCommand", &[&none[..], &["--entity-name", "audit-service"]].concat())
        .await?;
    audited(&world, 1_200).await?;
    Ok(())
}

fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_recreated_is_read_from_its_start() -> Outcome {
    for running in [false, true] {
        let world = World::start().await?;
        let mut system = System::start(&world).await?;
        system.create("in the old topic", 10).await?;
        audited(&world, 10).await?;
        for group in GROUPS {
            world.committed(group, 10).await?;
        }
        if !running {
            system.stop_consumers().await?;
        }
        delete_topic(&world.broker.bootstrap(), EVENTS).await?;
        world.create_topics().await?;
        // Longer than the old position.
        system.create("in the new topic", 30).await?;
        system.client.delivered().await?;
        if !running {
            system.audit.restart()?;
            system.notification.restart()?;
        }
        audited(&world, 40).await?;
        eventually("a notification of each", SOON, async || {
            let lines = system.notification.history();
            Ok((lines.iter().filter(|line| line.contains("NOTIFICATION: ")).count() >= 40).then_some(()))
        })
        .await?;
        for service in [&system.audit, &system.notification] {
            let reported = async || {
                Ok(service.history().iter().any(|line| line.contains("created again")).then_some(()))
            };
            eventually("the report of it", SOON, reported).await?;
        }
    }
    Ok(())
}

/// A cluster that is set up again, and of the audit service nothing but its log.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_its_state_beside_topics_that_were_recreated_is_completed() -> Outcome {
    let world = World::start().await?;
    let bootstrap = world.broker.bootstrap();
    let values = |what: &str, count: usize| -> Vec<Vec<u8>> {
        (0..count).map(|n| Event::created(&format!("{what} {n}")).bytes()).collect()
    };
    let write = async |values: Vec<Vec<u8>>| {
        let values: Vec<_> = values.iter().map(|value| Some(value.as_slice())).collect();
        world.produce_values(&values).await
    };
    write(values("old", 20)).await?;
    let mut audit = world.program("audit-service").start()?;
    audited(&world, 20).await?;
    assert!(audit.terminate(SOON).await?.success());
    for topic in [EVENTS, OFFSETS] {
        delete_topic(&bootstrap, topic).await?;
    }
    world.create_topics().await?;
    std::fs::remove_dir_all(world.state_dir().join("audit-service")).unwrap();
    write(values("new", 50)).await?;
    audit.restart()?;
    audited(&world, 70).await?;
    Ok(())
}

/// What the copy holds is known by its event ids; what is new in it is handled.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_restored_from_a_copy_is_read_and_nothing_is_handled_twice() -> Outcome {
    let world = World::start().await?;
    let mut system = System::start(&world).await?;
    system.create("before", 10).await?;
    audited(&world, 10).await?;
    for group in GROUPS {
        world.committed(group, 10).await?;
    }
    let copy: Vec<Record> = world.topic(EVENTS).await?.into_iter().map(|read| read.record).collect();
    system.stop_consumers().await?;
    delete_topic(&world.broker.bootstrap(), EVENTS).await?;
    world.create_topics().await?;
    // The copy was taken early, and others have written since.
    let event = record(Some(b"other"), Some(&Event::created("by another producer").bytes()));
    produce(&world.broker.bootstrap(), EVENTS, copy.into_iter().take(8).chain([event]).collect()).await?;
    system.audit.restart()?;
    system.notification.restart()?;
    system.create("after", 3).await?;
    audited(&world, 14).await?;
    for group in GROUPS {
        world.committed(group, 12).await?;
    }
    system.notification.settled().await?;
    let lines = system.notification.history();
    assert_eq!(lines.iter().filter(|line| line.contains("NOTIFICATION: ")).count(), 14);
    Ok(())
}

/// Its dedup state is older than its commits, which count.
#[tokio::test(flavor = "multi_thread")]
async fn a_notifier_whose_state_was_restored_repeats_nothing() -> Outcome {
    let world = World::start().await?;
    let mut system = System::start(&world).await?;
    let backup = world.path("backup");
    for (round, count) in [("before", 10), ("after the backup", 10)] {
        system.create(round, count).await?;
        system.client.delivered().await?;
        let end = world.topic(EVENTS).await?.last().unwrap().offset + 1;
        world.committed("notification-service", end).await?;
        assert!(system.notification.terminate(SOON).await?.success());
        if round == "before" {
            copy_folder(&world.state_dir().join("notification-service"), &backup);
            system.notification.restart()?;
        }
    }
    std::fs::remove_dir_all(world.state_dir().join("notification-service")).unwrap();
    copy_folder(&backup, &world.state_dir().join("notification-service"));
    system.notification.restart()?;
    system.create("last", 1).await?;
    system.client.delivered().await?;
    world.committed("notification-service", 21).await?;
    system.notification.settled().await?;
    let lines = system.notification.history();
    assert_eq!(lines.iter().filter(|line| line.contains("NOTIFICATION: ")).count(), 21);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_log_restored_from_a_backup_is_completed() -> Outcome {
    let world = World::start().await?;
    let mut system = System::start(&world).await?;
    system.create("task", 40).await?;
    audited(&world, 40).await?;
    world.committed("audit-service", 40).await?;
    system.audit.terminate(SOON).await?;
    let log = std::fs::read_to_string(world.audit_log_path()).unwrap();
    let half: String = log.split_inclusive('\n').take(20).collect();
    std::fs::write(world.audit_log_path(), half).unwrap();
    system.audit.restart()?;
    audited(&world, 40).await?;
    system.create("after", 1).await?;
    audited(&world, 41).await?;

    // A group that was moved ahead by mistake loses nothing either.
    system.audit.terminate(SOON).await?;
    system.create("unread", 10).await?;
    system.client.delivered().await?;
    let reset = ["offsets", "reset", "audit-service", "--to", "latest", "--execute"];
    moved(&world, &reset).await?;
    system.audit.restart()?;
    audited(&world, 51).await?;

    // A new log beside the old group holds everything that Kafka still has.
    system.audit.terminate(SOON).await?;
    let new = world.path("new.log");
    let mut service = world.program("audit-service").env("AUDIT_LOG_PATH", new.display()).start()?;
    let there = async || Ok((harness::read_audit_log(&new)?.len() == 51).then_some(()));
    eventually("51 lines in the new log", SOON, there).await?;
    service.terminate(SOON).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_state_folder_makes_no_two_owners_that_fight() -> Outcome {
    let world = World::start().await?;
    // So long a lease that no claim is owed to its end.
    let with_lease = |program: Program| program.env("LEASE_MS", 60_000).start();
    let (_api, client) = world.start_api().await?;
    let create = async |count: usize| -> Result<()> {
        for n in 0..count {
            client.create(&n.to_string()).await?;
        }
        Ok(())
    };
    let audit = with_lease(world.program("audit-service"))?;
    create(3).await?;
    audited(&world, 3).await?;
    world.committed("audit-service", 3).await?;
    copy_folder(&world.state_dir(), &world.path("twin"));
    let twin = with_lease(world.instance("audit-service", "twin"))?;
    // The twin comes later, and so for one of the two the id is no longer its own.
    let told = async || {
        let lines = [twin.history(), audit.history()].concat();
        Ok(lines.iter().any(|line| line.contains("another instance uses this instance's id")).then_some(()))
    };
    eventually("the copy to be noticed", SOON, told).await?;
    sleep(LEASE * 3).await;
    let claims = world.offsets("audit-service").await?.claims.len();
    assert!(claims <= 4, "{claims} claims of two instances with one id");
    create(3).await?;
    let there = async || {
        let logs = [world.audit_log()?, harness::read_audit_log(&world.instance_audit_log("twin"))?];
        Ok(logs.iter().any(|log| log.len() == 6).then_some(()))
    };
    eventually("all events in the log of the one that owns", SOON, there).await?;
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_group_for_two_services_is_refused() -> Outcome {
    let world = World::start().await?;
    let (_api, client) = world.start_api().await?;
    let audit = world.program("audit-service").env("GROUP", "one").start()?;
    client.create("a task").await?;
    audited(&world, 1).await?;
    let mut notification = world
        .program("notification-service")
        .env("GROUP", "one")
        .env("STATE_DIR", world.path("other").display())
        .env("HEALTH_ADDR", "127.0.0.1:0")
        .start()?;
    let url = notification.health_url().await?;
    let line = notification.wait_for_line("audit-service", SOON).await?;
    assert!(line.contains("one"), "{line}");
    let ready = async || {
        let answer = harness::http()?.get(format!("{url}/readyz")).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        Ok((status == 503 && text.contains("audit-service")).then_some(()))
    };
    eventually("the refusal in /readyz", SOON, ready).await?;
    drop(audit);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_handed_over_also_where_its_topic_or_partition_is_no_more() -> Outcome {
    let world = World::start().await?;
    let (_api, client) = world.start_api().await?;
    let claim = claim("notification-service", 300);
    for gone in ["audit-service/an-older-topic/0/claim".to_owned(), format!("audit-service/{EVENTS}/7/claim")]
    {
        produce(&world.broker.bootstrap(), OFFSETS, vec![record(Some(gone.as_bytes()), Some(&claim))])
            .await?;
    }
    let mut audit = world.program("audit-service").start()?;
    audit.wait_for_line("one group, one service", SOON).await?;
    assert!(audit.terminate(SOON).await?.success());
    let described = world.taskctl(&["groups", "describe", "audit-service"]).await?;
    assert_eq!(described.code, Some(0), "{described:?}");

    let reset =
        world.taskctl(&["offsets", "reset", "audit-service", "--to", "earliest", "--execute"]).await?;
    assert_eq!(reset.code, Some(0), "{reset:?}");
    assert_eq!(reset.stdout.matches("removed").count(), 2, "{reset:?}");
    audit.restart()?;
    client.create("a task").await?;
    audited(&world, 1).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dlq_that_takes_no_record_is_named_with_what_to_do() -> Outcome {
    let world = World::start().await?;
    let Some(tools) = world.kafka_tools().filter(|_| world.broker.kind() == Kind::Kafka) else {
        return Ok(());
    };
    let mut audit = world.program("audit-service").start()?;
    let wrongs = [
        ("max.message.bytes=300", "max.message.bytes to 4194304", "max.message.bytes=4194304"),
        ("cleanup.policy=compact", "cleanup.policy to delete", "cleanup.policy=delete"),
    ];
    for (letters, (wrong, remedy, right)) in (1..).zip(wrongs) {
        tools.alter_topic(DLQ, wrong).await?;
        produce(&world.broker.bootstrap(), EVENTS, vec![record(None, Some(b"no event"))]).await?;
        let line = audit.wait_for_line(remedy, SOON).await?;
        assert!(line.contains(DLQ), "{line}");
        // Tries are more frequent than that.
        sleep(Duration::from_secs(2)).await;
        let lines = audit.count("is blocked") + audit.count("goes by its source alone");
        assert_eq!(lines, letters, "{:?}", audit.lines());
        tools.alter_topic(DLQ, right).await?;
        let arrived = async || Ok((world.topic(DLQ).await?.len() == letters).then_some(()));
        eventually("the dead letter", SOON, arrived).await?;
    }
    Ok(())
}
