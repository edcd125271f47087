//! What an operator may get wrong, and what the machine may run out of: one clear line each, nothing lost,
//! and it goes on automatically where that is possible.

use harness::{
    Api, CONSUMERS, DLQ, EVENTS, Event, Method, OFFSETS, Outcome, Program, Ran, Result, SOON, Service,
    SmallDisk, StatusCode, World, create_topic, delete_topic, eventually, free_port, id_of, keys,
};
use serde_json::{Value, json};
use std::time::Duration;

/// A start that fails has one line for the operator, with these parts.
fn assert_refused(ran: &Ran, code: i32, parts: &[&str]) {
    assert_eq!(ran.code, Some(code), "{ran:?}");
    assert_eq!(ran.stderr.trim_end().lines().count(), 1, "{ran:?}");
    for part in parts {
        assert!(ran.stderr.contains(part), "no {part}: {ran:?}");
    }
}

/// Runs a program that has to refuse at once.
async fn refused(program: Program) -> Result<Ran> {
    program.run(Duration::from_secs(20)).await
}

/// A consumer with its health endpoint.
fn with_health(world: &World, name: &str) -> Program {
    world.program(name).env("HEALTH_ADDR", "127.0.0.1:0")
}

/// Waits until a consumer is not ready and says this in `/readyz`, which may come a little after its log line.
async fn is_not_ready(service: &mut Service, why: &str) -> Result<Value> {
    let health = Api::new(&service.health_url().await?)?;
    let said = async || {
        let (status, report) = health.readiness().await?;
        let is_said = status == StatusCode::SERVICE_UNAVAILABLE && report.to_string().contains(why);
        Ok(is_said.then_some(report))
    };
    eventually(&format!("/readyz to say {why}"), SOON, said).await
}

async fn becomes_ready(name: &str, service: &mut Service) -> Result<()> {
    let health = Api::new(&service.health_url().await?)?;
    let ready = async || Ok((health.readiness().await?.0 == StatusCode::OK).then_some(()));
    eventually(&format!("{name} to be ready"), SOON, ready).await?;
    Ok(())
}

#[tokio::test]
async fn without_kafka_every_service_waits_and_says_so_and_becomes_ready_later() -> Outcome {
    let mut world = World::start().await?;
    world.broker.kill9();
    let address = world.broker.bootstrap();
    let (mut service, api) = world.start_api().await?;
    let mut consumers = Vec::new();
    for name in CONSUMERS {
        consumers.push((name, with_health(&world, name).start()?));
    }

    // The API takes tasks all the same.
    let task = api.create("taken without Kafka").await?;
    service.wait_for_line("cannot publish to ", SOON).await?;
    let unreachable = async || {
        let (status, ready) = api.readiness().await?;
        assert_eq!(status, StatusCode::OK);
        Ok(Some(ready).filter(|ready| ready["kafka"]["reachable"] == false))
    };
    let ready = eventually("/readyz to say that Kafka is unreachable", SOON, unreachable).await?;
    assert_eq!(ready["outbox"]["waiting"], 1, "{ready}");
    let why = ready["kafka"]["waiting_for"].as_str().unwrap();
    assert!(why.contains(&address), "{why}");
    for (name, consumer) in &mut consumers {
        let line = consumer.wait_for_line("waiting for Kafka at ", SOON).await?;
        assert!(line.contains(&address) && line.contains("WARN"), "{line}");
        let report = is_not_ready(consumer, "waiting for Kafka at ").await?;
        let waiting = report["waiting"].as_str().unwrap();
        assert!(waiting.starts_with("waiting for Kafka at "), "{waiting}");
        // Said once, not at every try.
        assert_eq!(consumer.count("WARN"), 1, "{name}: {:?}", consumer.lines());
    }
    assert_eq!(service.count("cannot publish to "), 1);

    world.broker.restart().await?;
    for (name, consumer) in &mut consumers {
        becomes_ready(name, consumer).await?;
    }
    api.delivered().await?;
    world.committed("audit-service", 1).await?;
    assert_eq!(world.audit_log()?[0]["data"]["task_id"], id_of(&task)?);
    let recovered = async || {
        let (_, ready) = api.readiness().await?;
        Ok((ready["kafka"] == json!({"reachable": true, "waiting_for": null})).then_some(()))
    };
    eventually("/readyz to say that Kafka is reachable", SOON, recovered).await?;
    Ok(())
}

#[tokio::test]
async fn a_missing_topic_is_named_and_waited_for_and_never_made_by_accident() -> Outcome {
    let world = World::without_topics().await?;
    let (mut service, api) = world.start_api().await?;
    let mut consumers = Vec::new();
    for name in CONSUMERS {
        consumers.push((name, with_health(&world, name).start()?));
    }
    let task = api.create("before its topic").await?;

    let missing = format!("topic {EVENTS} does not exist: create it with `taskctl topics create`");
    service.wait_for_line(&missing, SOON).await?;
    let named = async || Ok((api.readiness().await?.1["kafka"]["waiting_for"] == missing).then_some(()));
    eventually("/readyz to name the missing topic", SOON, named).await?;
    for (name, consumer) in &mut consumers {
        let topic = if *name == "dlq-processor" { DLQ } else { EVENTS };
        let missing = format!("topic {topic} does not exist: create it with `taskctl topics create`");
        consumer.wait_for_line(&missing, SOON).await?;
        let report = is_not_ready(consumer, &missing).await?;
        assert!(report["waiting"].as_str().unwrap().contains(&missing), "{report}");
        assert_eq!(consumer.count("WARN"), 1, "{name}: {:?}", consumer.lines());
    }
    assert_eq!(world.topics().await?, [] as [&str; 0]);

    world.create_topics().await?;
    for (name, consumer) in &mut consumers {
        becomes_ready(name, consumer).await?;
    }
    world.committed("audit-service", 1).await?;
    assert_eq!(world.audit_log()?[0]["data"]["task_id"], id_of(&task)?);
    Ok(())
}

#[tokio::test]
async fn an_offsets_topic_that_would_forget_is_refused_until_it_is_compacted() -> Outcome {
    let world = World::without_topics().await?;
    let bootstrap = world.broker.bootstrap();
    for topic in [EVENTS, OFFSETS, DLQ] {
        create_topic(&bootstrap, topic, 1).await?;
    }
    let mut audit = with_health(&world, "audit-service").start()?;
    let line = audit.wait_for_line("cleanup.policy=delete and would forget offsets", SOON).await?;
    assert!(line.contains(OFFSETS) && line.contains("compact"), "{line}");
    is_not_ready(&mut audit, OFFSETS).await?;
    // A broker may have heard of a topic later than it was created.
    assert_eq!(audit.count("would forget offsets"), 1, "{:?}", audit.lines());
    let made = world.taskctl(&["topics", "create"]).await?;
    assert_refused(&made, 1, &[OFFSETS, "cleanup.policy=delete", "would forget offsets"]);
    assert_eq!(world.topic(OFFSETS).await?, []);

    delete_topic(&bootstrap, OFFSETS).await?;
    world.create_topics().await?;
    becomes_ready("audit-service", &mut audit).await?;
    Ok(())
}

#[tokio::test]
async fn an_offsets_topic_whose_policy_is_changed_later_is_named_until_it_is_compacted() -> Outcome {
    let world = World::start().await?;
    let bootstrap = world.broker.bootstrap();
    let mut audit = with_health(&world, "audit-service").start()?;
    becomes_ready("audit-service", &mut audit).await?;
    delete_topic(&bootstrap, OFFSETS).await?;
    create_topic(&bootstrap, OFFSETS, 1).await?;
    let line = audit.wait_for_line("cleanup.policy=delete now", SOON).await?;
    assert!(line.contains(OFFSETS) && line.contains("compact"), "{line}");
    let said = is_not_ready(&mut audit, "cleanup.policy").await?;
    assert!(said["waiting"].as_str().unwrap().contains("cleanup.policy"), "{said}");

    delete_topic(&bootstrap, OFFSETS).await?;
    world.create_topics().await?;
    audit.wait_for_line("is compacted again", SOON).await?;
    becomes_ready("audit-service", &mut audit).await?;
    Ok(())
}

#[tokio::test]
async fn a_bad_value_is_one_line_that_names_it_and_exit_code_2() -> Outcome {
    let wrong = [
        ("KAFKA_BOOTSTRAP_SERVERS", "nonsense"),
        ("STATE_DIR", ""),
        ("TASK_EVENTS_TOPIC", "a b"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
    ];
    let of_consumers = [
        ("OFFSETS_TOPIC", ""),
        ("DLQ_TOPIC", "a/b"),
        // Its own dead letters would be its next events.
        ("DLQ_TOPIC", EVENTS),
        ("OFFSETS_TOPIC", EVENTS),
        ("TASK_EVENTS_TOPIC", DLQ),
        ("GROUP", "a/b"),
        ("LEASE_MS", "soon"),
        ("LEASE_MS", "1"),
        ("HEALTH_ADDR", "8080"),
    ];
    let mut all = vec![("task-api", "PORT", "99999"), ("audit-service", "AUDIT_LOG_PATH", "")];
    for (name, value) in wrong {
        all.extend([("task-api", name, value), ("audit-service", name, value)]);
    }
    for service in CONSUMERS {
        all.extend(of_consumers.map(|(name, value)| (service, name, value)));
    }
    for (service, name, value) in all {
        let ran = refused(Program::new(service).env(name, value)).await?;
        assert_refused(&ran, 2, &[name, value]);
        assert_eq!(ran.stdout, "", "{service} {name}={value}");
    }
    Ok(())
}

#[tokio::test]
async fn an_audit_log_that_cannot_be_written_is_one_line_and_exit_code_1() -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    std::fs::create_dir(folder.path().join("folder")).unwrap();
    for path in ["absent/audit.log", "file/audit.log", "folder"] {
        let path = folder.path().join(path).display().to_string();
        let program = Program::new("audit-service")
            .env("STATE_DIR", folder.path().join("state").display())
            .env("AUDIT_LOG_PATH", &path);
        assert_refused(&refused(program).await?, 1, &[&path, "AUDIT_LOG_PATH"]);
    }
    Ok(())
}

#[tokio::test]
async fn a_state_folder_that_cannot_be_used_is_one_line_and_exit_code_1() -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    for service in CONSUMERS.into_iter().chain(["task-api"]) {
        let program = Program::new(service).env("STATE_DIR", file.display()).env("PORT", 0);
        let program = program.env("AUDIT_LOG_PATH", folder.path().join("audit.log").display());
        assert_refused(&refused(program).await?, 1, &[&file.display().to_string(), "STATE_DIR"]);
    }
    Ok(())
}

#[tokio::test]
async fn a_second_process_on_the_same_state_or_log_is_refused() -> Outcome {
    // They need no Kafka to know that.
    let folder = tempfile::tempdir().unwrap();
    let nowhere = format!("127.0.0.1:{}", free_port()?);
    let path = |name: &str| folder.path().join(name).display().to_string();
    let program = |service: &str, state: &str, log: &str| {
        Program::new(service)
            .env("KAFKA_BOOTSTRAP_SERVERS", &nowhere)
            .env("PORT", 0)
            .env("STATE_DIR", path(state))
            .env("AUDIT_LOG_PATH", path(log))
    };
    let mut running = Vec::new();
    for service in CONSUMERS.into_iter().chain(["task-api"]) {
        let mut first = program(service, "state", "audit.log").start()?;
        let started = if service == "task-api" { "listening on" } else { "waiting for Kafka" };
        first.wait_for_line(started, SOON).await?;
        let second = refused(program(service, "state", "other.log")).await?;
        assert_refused(&second, 1, &[&path("state"), "in use by another process", "STATE_DIR"]);
        running.push(first);
    }
    let second = refused(program("audit-service", "other", "audit.log").env("GROUP", "other")).await?;
    assert_refused(&second, 1, &[&path("audit.log"), "in use by another process", "AUDIT_LOG_PATH"]);
    // Those who were first did not notice.
    for service in &mut running {
        assert!(!service.has_ended()?);
    }
    Ok(())
}

#[tokio::test]
async fn a_port_in_use_is_one_line_and_exit_code_1() -> Outcome {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let program = |name: &str| {
        Program::new(name)
            .env("STATE_DIR", folder.path().display())
            .env("AUDIT_LOG_PATH", folder.path().join("audit.log").display())
    };
    let api = refused(program("task-api").env("PORT", address.port())).await?;
    assert_refused(&api, 1, &[&address.to_string(), "PORT"]);
    for name in CONSUMERS {
        let consumer = refused(program(name).env("HEALTH_ADDR", address)).await?;
        assert_refused(&consumer, 1, &[&address.to_string(), "HEALTH_ADDR"]);
    }
    Ok(())
}

/// The values of so many new events.
fn events(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| Event::created(&n.to_string()).bytes()).collect()
}

async fn produce(world: &World, events: &[Vec<u8>]) -> Result<()> {
    let values: Vec<_> = events.iter().map(|event| Some(event.as_slice())).collect();
    world.produce_values(&values).await?;
    Ok(())
}

#[tokio::test]
async fn an_audit_log_on_a_full_disk_waits_for_free_space_and_loses_nothing() -> Outcome {
    let Some(disk) = SmallDisk::mount(2048) else { return Ok(()) };
    let world = World::start().await?;
    let log = disk.path().join("audit.log");
    let mut audit = with_health(&world, "audit-service").env("AUDIT_LOG_PATH", log.display()).start()?;
    produce(&world, &events(100)).await?;
    world.committed("audit-service", 100).await?;

    disk.fill()?;
    produce(&world, &events(1_000)).await?;
    let line = audit.wait_for_line("cannot write audit log ", SOON).await?;
    assert!(line.contains(&log.display().to_string()) && line.contains("No space left"), "{line}");
    is_not_ready(&mut audit, "No space left").await?;
    // It is not committed what is not written, and a stop does not wait for free space.
    let written = harness::read_audit_log(&log)?.len();
    let position = world.offsets("audit-service").await?.position().unwrap();
    assert!(usize::try_from(position).unwrap() <= written, "committed {position}, {written} lines");
    assert_eq!(audit.count("cannot write audit log "), 1, "{:?}", audit.lines());
    assert_eq!(audit.terminate(Duration::from_secs(20)).await?.code(), Some(0));

    audit.restart()?;
    audit.wait_for_line("cannot write audit log ", SOON).await?;
    disk.free_space()?;
    world.committed("audit-service", 1_100).await?;
    becomes_ready("audit-service", &mut audit).await?;
    let offsets: Vec<_> =
        harness::read_audit_log(&log)?.iter().map(|line| line["kafka"]["offset"].as_i64().unwrap()).collect();
    assert_eq!(offsets, (0..1_100).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test]
async fn a_notifier_whose_state_is_on_a_full_disk_commits_nothing_that_it_cannot_remember() -> Outcome {
    let Some(disk) = SmallDisk::mount(16 * 1024) else { return Ok(()) };
    let world = World::start().await?;
    let program = with_health(&world, "notification-service").env("STATE_DIR", disk.path().display());
    let mut notification = program.start()?;
    produce(&world, &events(10)).await?;
    world.committed("notification-service", 10).await?;

    disk.fill()?;
    // Enough that the file has to grow.
    for _ in 0..40 {
        produce(&world, &events(500)).await?;
    }
    let end = 10 + 40 * 500;
    let line = notification.wait_for_line("is blocked, will try again: dedup", SOON).await?;
    assert!(line.contains("No space left"), "{line}");
    let position = world.offsets("notification-service").await?.position().unwrap();
    assert!(position < end, "committed {position}");
    disk.free_space()?;
    world.committed("notification-service", end).await?;
    notification.counted("NOTIFICATION: ", usize::try_from(end).unwrap()).await?;
    Ok(())
}

#[tokio::test]
async fn a_task_store_on_a_full_disk_refuses_changes_until_there_is_free_space_and_loses_nothing() -> Outcome
{
    let Some(disk) = SmallDisk::mount(64 * 1024) else { return Ok(()) };
    let world = World::start().await?;
    let program = world.program("task-api").env("STATE_DIR", disk.path().display());
    let (mut service, api) = world.start_api_as(program).await?;
    let first = api.create("before").await?;

    disk.fill()?;
    let title = "x".repeat(500);
    let post = async || api.request(Method::POST, "/tasks").json(&json!({"title": title})).send().await;
    let mut taken = vec![id_of(&first)?.to_owned()];
    let refused = loop {
        // Until the free space within the file is used up.
        let answer = post().await?;
        if answer.status() != StatusCode::CREATED {
            break answer;
        }
        let task: Value = answer.json().await?;
        taken.push(id_of(&task)?.to_owned());
    };
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(refused.headers()["content-type"], "application/problem+json");
    let line = service.wait_for_line("the store cannot be written", SOON).await?;
    assert!(line.contains("No space left"), "{line}");
    assert_eq!(service.count("the store cannot be written"), 1);
    let named = async || {
        let (status, report) = api.readiness().await?;
        let why = report["store_failure"].as_str().unwrap_or_default();
        Ok((status == StatusCode::SERVICE_UNAVAILABLE && why.contains("No space left")).then_some(()))
    };
    eventually("/readyz to say that the disk is full", SOON, named).await?;
    // What is there can be read.
    let read = async || {
        let (status, task) = api.call(Method::GET, &format!("/tasks/{}", taken[0]), None).await?;
        Ok((status == StatusCode::OK).then_some(task))
    };
    assert_eq!(eventually("a task to be read", SOON, read).await?["title"], "before");

    disk.free_space()?;
    let made = async || Ok((post().await?.status() == StatusCode::CREATED).then_some(()));
    eventually("a task to be made", SOON, made).await?;
    let (_, page) = api.call(Method::GET, "/tasks?limit=1", None).await?;
    assert_eq!(page["items"][0]["title"], "before");
    api.delivered().await?;
    let events = world.topic(EVENTS).await?;
    let mut told = keys(&events)?;
    // The last was created after space was freed; what was refused is nowhere.
    told.pop();
    assert_eq!(told, taken);
    Ok(())
}
