//! What the log says of one request and its events, in each service, as text and as JSON; and that what lasts is
//! logged once.

use harness::{
    CONSUMERS, DLQ, EVENTS, Event, Method, Outcome, Program, Result, SOON, Service, SmallDisk, World,
    eventually,
};
use serde_json::{Value, json};
use std::time::Duration;

const REQUEST: &str = "0b1e5e0a-9f2c-4c8e-8d8e-3b1a2c4d5e6f";
const POISON: &str = "1c2f6f1b-0a3d-4d9f-9e9f-4c2b3d5e6f70";

/// The API and the consumers of a world, with the events of one request, and one that no group can read.
struct Logged {
    _world: World,
    api: Service,
    consumers: Vec<Service>,
    task: String,
}

impl Logged {
    async fn start(format: &str) -> Result<Self> {
        let world = World::start().await?;
        let with_format = |program: Program| program.env("LOG_FORMAT", format);
        let program = with_format(world.program("task-api")).env("LOG_LEVEL", "info,task_api::relay=debug");
        let (service, api) = world.start_api_as(program).await?;
        let consumers = CONSUMERS.iter().map(|name| with_format(world.program(name)).start());
        let consumers = consumers.collect::<Result<Vec<_>>>()?;
        let created = api
            .request(Method::POST, "/tasks")
            .header("X-Correlation-ID", REQUEST)
            .json(&json!({"title": "logged"}))
            .send()
            .await
            .unwrap();
        let created: Value = created.json().await.unwrap();
        let poison = Event::created("poison").with("/metadata/correlation_id", POISON)?;
        let poison = poison.with("/occurred_at", "yesterday")?;
        world.committed("audit-service", 1).await?;
        world.produce_values(&[Some(&poison.bytes())]).await?;
        for group in ["notification-service", "audit-service"] {
            world.committed(group, 2).await?;
        }
        world.committed_in("dlq-processor", DLQ, 2).await?;
        // Log lines come a little later than what they tell of.
        for part in ["POST /tasks 201 ", "Event delivered: topic=task-events, partition=0, offset=0"] {
            service.counted(part, 1).await?;
        }
        for (consumer, told) in consumers.iter().zip([1, 1, 0]) {
            consumer.counted(REQUEST, told).await?;
            consumer.counted(POISON, 2).await?;
        }
        let task = created["id"].as_str().unwrap().to_owned();
        Ok(Self { _world: world, api: service, consumers, task })
    }

    /// The lines of the API and of the consumers that hold this.
    async fn lines(&self, what: &str) -> Result<Vec<Vec<String>>> {
        let mut all = Vec::new();
        for service in std::iter::once(&self.api).chain(&self.consumers) {
            service.settled().await?;
            all.push(service.lines().into_iter().filter(|line| line.contains(what)).collect());
        }
        Ok(all)
    }
}

#[tokio::test]
async fn each_line_about_an_event_has_the_correlation_id_and_in_json_its_fields() -> Outcome {
    let logged = Logged::start("json").await?;
    let all = logged.lines(REQUEST).await?;
    let [api, notification, audit, _] = all.as_slice() else { panic!("{all:?}") };
    let parse = |line: &String| -> Value { serde_json::from_str(line).unwrap() };
    let with = |lines: &[String], start: &str| {
        let lines = lines.iter().map(parse);
        let mut found = lines.filter(|line| line["message"].as_str().unwrap().starts_with(start));
        let line = found.next().unwrap_or_else(|| panic!("no line {start}: {all:?}"));
        assert_eq!(line["correlation_id"], REQUEST, "{line}");
        line
    };
    let request = with(api, "POST /tasks 201 ");
    assert_eq!(
        (&request["method"], &request["path"], &request["status"]),
        (&"POST".into(), &"/tasks".into(), &201.into())
    );
    assert!(request["duration_ms"].as_f64().unwrap() > 0.0, "{request}");
    let delivered = with(api, "Event delivered: topic=task-events, partition=0, offset=0");
    assert_eq!((&delivered["topic"], &delivered["offset"]), (&EVENTS.into(), &0.into()), "{delivered}");
    let task = logged.task.clone();
    for (lines, message) in [
        (notification, format!("NOTIFICATION: New task created - 'logged' (ID: {task})")),
        (audit, format!("AUDIT: task.created - task_id={task}")),
    ] {
        let line = with(lines, &message);
        assert_eq!(line["message"], message, "to the letter");
        assert_eq!((&line["event_type"], &line["task_id"]), (&"task.created".into(), &task.as_str().into()));
        assert_eq!(
            (&line["topic"], &line["partition"], &line["offset"]),
            (&EVENTS.into(), &0.into(), &0.into())
        );
        assert!(line["event_id"].is_string(), "{line}");
    }

    // A dead letter: what the group says of it, and what the DLQ processor does.
    let all = logged.lines(POISON).await?;
    let [_, notification, audit, dlq] = all.as_slice() else { panic!("{all:?}") };
    for (lines, group) in [(notification, "notification-service"), (audit, "audit-service")] {
        let lines: Vec<Value> = lines.iter().map(parse).collect();
        let [malformed, sent] = lines.as_slice() else { panic!("{lines:?}") };
        assert_eq!((&malformed["code"], &malformed["level"]), (&"TE0301".into(), &"ERROR".into()));
        for line in [malformed, sent] {
            assert_eq!((&line["correlation_id"], &line["group"]), (&POISON.into(), &group.into()), "{line}");
            assert_eq!(
                (&line["topic"], &line["offset"], &line["kind"]),
                (&EVENTS.into(), &1.into(), &"invalid_event".into())
            );
        }
    }
    let letters: Vec<Value> = dlq.iter().map(parse).collect();
    assert_eq!(letters.len(), 2, "{letters:?}");
    for letter in letters {
        assert!(letter["message"].as_str().unwrap().starts_with("DLQ: group="), "{letter}");
        assert_eq!((&letter["correlation_id"], &letter["offset"]), (&POISON.into(), &1.into()), "{letter}");
    }
    Ok(())
}

#[tokio::test]
async fn in_text_the_correlation_id_comes_before_the_line_that_the_contract_fixes() -> Outcome {
    let logged = Logged::start("text").await?;
    let task = logged.task.clone();
    let all = logged.lines(REQUEST).await?;
    let ends_with = |lines: &[String], end: &str| {
        let line = lines.iter().find(|line| line.ends_with(end));
        let line = line.unwrap_or_else(|| panic!("{end}: {lines:?}"));
        assert!(line.contains(&format!("{{correlation_id={REQUEST}}}: ")), "{line}");
    };
    ends_with(&all[0], ": Event delivered: topic=task-events, partition=0, offset=0");
    ends_with(&all[1], &format!(": NOTIFICATION: New task created - 'logged' (ID: {task})"));
    ends_with(&all[2], &format!(": AUDIT: task.created - task_id={task}"));
    let poison = logged.lines(POISON).await?;
    assert_eq!(poison.iter().map(Vec::len).collect::<Vec<_>>(), [0, 2, 2, 2], "{poison:?}");
    Ok(())
}

#[tokio::test]
async fn a_relay_that_cannot_put_on_disk_what_it_found_says_so_once() -> Outcome {
    let Some(disk) = SmallDisk::mount(48 * 1024) else { return Ok(()) };
    let mut world = World::start().await?;
    let program = world.program("task-api").env("STATE_DIR", disk.path().display());
    let (service, api) = world.start_api_as(program).await?;
    api.create("delivered").await?;
    api.delivered().await?;
    // Events wait, then the disk is full, then Kafka is reachable again: they are sent, and that cannot be put on disk.
    world.broker.kill9();
    for n in 0..3 {
        api.create(&n.to_string()).await?;
    }
    disk.fill()?;
    world.broker.restart().await?;
    let reconciled = || service.count(": reconciled ");
    let before = async || Ok((reconciled() > 0).then_some(()));
    eventually("the relay to reconcile", SOON, before).await?;
    // Time for several tries.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let during = reconciled();
    assert!(during <= 3, "{during} lines: {:?}", service.lines());
    disk.free_space()?;
    api.delivered().await?;
    assert!(reconciled() <= during + 2, "{:?}", service.lines());
    assert_eq!(world.topic(EVENTS).await?.len(), 4, "each event once");
    Ok(())
}
