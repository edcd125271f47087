//! Events as Avro, with a Schema Registry: Apicurio in `.ci/avro`, which also brings Confluent's own client for Python
//! (`E2E_AVRO_PYTHON`), and the harness's own elsewhere.

use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use harness::{
    Api, Authority, EVENTS, Error, GROUPS, Misbehaviour, Outcome, Program, Registry, Result, SOON, Service,
    StatusCode, TlsFront, TopicRecord, Validity, World, eventually, http, produce, record, replace,
};
use serde_json::{Value, json};

const SUBJECT: &str = "task-events-value";
const V1: &str = include_str!("../../../common/schemas/task-event.avsc");
const V2: &str = include_str!("../../../common/tests/schemas/task-event-v2.avsc");
/// An event of a later writer, of schema 7; of the id as it is in `v2.json` beside it.
const GOLDEN_V2: &[u8] = include_bytes!("../../../common/tests/golden/avro/v2.avro");
const V2_EVENT: &str = "01900000-0000-7000-8000-000000000005";
const AVRO: &str = "application/vnd.confluent.avro";

/// A world with a registry.
struct Typed {
    world: World,
    registry: Registry,
}

impl Typed {
    async fn start() -> Result<Self> {
        Ok(Self { world: World::start().await?, registry: Registry::start().await? })
    }

    /// With the harness's own registry: where it only has to be there, or is to misbehave.
    async fn with_small_registry() -> Result<Self> {
        Ok(Self { world: World::start().await?, registry: Registry::small().await? })
    }

    fn program(&self, name: &str) -> Program {
        self.world.program(name).env("SCHEMA_REGISTRY_URL", self.registry.url())
    }

    fn api_program(&self) -> Program {
        self.program("task-api").env("EVENT_FORMAT", "avro")
    }

    async fn start_api(&self) -> Result<(Service, Api)> {
        self.world.start_api_as(self.api_program()).await
    }

    fn start_consumers(&self) -> Result<Vec<Service>> {
        GROUPS.iter().map(|name| self.program(name).env("HEALTH_ADDR", "127.0.0.1:0").start()).collect()
    }

    async fn taskctl(&self, args: &[&str]) -> Result<harness::Ran> {
        self.program("taskctl").args(args).run(Duration::from_secs(60)).await
    }

    /// The records of the topic, once there are so many.
    async fn records(&self, count: usize) -> Result<Vec<TopicRecord>> {
        let all = async || Ok(Some(self.world.topic(EVENTS).await?).filter(|records| records.len() >= count));
        eventually("the events", SOON, all).await
    }

    /// The audit log, once it has so many lines.
    async fn audited(&self, count: usize) -> Result<Vec<Value>> {
        let all = async || Ok(Some(self.world.audit_log()?).filter(|lines| lines.len() >= count));
        eventually("the audit log", SOON, all).await
    }
}

/// A record as another writer of that schema makes it.
fn foreign(id: u32, golden: &[u8]) -> Vec<u8> {
    [&[0][..], &id.to_be_bytes(), &golden[5..]].concat()
}

fn json_event(title: &str) -> Value {
    json!({
        "event_id": uuid::Uuid::now_v7(),
        "event_type": "task.created",
        "occurred_at": "2026-01-15T10:30:00.000001Z",
        "data": {"task_id": uuid::Uuid::now_v7(), "title": title, "status": "pending", "owner_id": null},
        "metadata": {"correlation_id": uuid::Uuid::new_v4(), "source": "another"},
    })
}

fn ids(lines: &[Value]) -> Vec<u64> {
    lines.iter().map(|line| line["schema_id"].as_u64().unwrap_or(0)).collect()
}

#[tokio::test]
async fn what_the_api_writes_is_avro_and_is_notified_and_audited_as_the_json_would_be() -> Outcome {
    let typed = Typed::start().await?;
    let (mut api_service, api) = typed.start_api().await?;
    let mut consumers = typed.start_consumers()?;
    let task = api.create("Größe \"zwölf\"").await?;
    api.patch(&task, json!({"status": "in_progress"})).await?;
    api.complete(&task).await?;
    let line = api_service.wait_for_line("events are written as Avro, schema id", SOON).await?;
    assert!(line.contains(SUBJECT), "{line}");

    let records = typed.records(3).await?;
    for record in &records {
        assert_eq!(record.record.value.as_deref().map(|value| value[0]), Some(0));
        assert_eq!(record.header("content-type")?.as_deref(), Some(AVRO));
        assert_eq!(record.header("ce_specversion")?.as_deref(), Some("1.0"));
    }
    let lines = typed.audited(3).await?;
    for (line, record) in lines.iter().zip(&records) {
        assert_eq!(line["event_id"].as_str(), record.header("ce_id")?.as_deref());
        assert_eq!(line["occurred_at"].as_str(), record.header("ce_time")?.as_deref());
        assert_eq!(line["data"]["title"], "Größe \"zwölf\"");
        assert_eq!(line["metadata"]["source"], "task-api");
        assert_eq!(line["schema_id"], lines[0]["schema_id"]);
        assert!(line["schema_id"].as_u64().is_some(), "{line}");
    }
    assert_eq!(
        lines[1]["data"],
        json!({"task_id": task["id"], "title": "Größe \"zwölf\"", "status": "in_progress", "owner_id": null})
    );
    consumers[0].wait_for_line("NOTIFICATION: New task created - 'Größe \"zwölf\"'", SOON).await?;
    consumers[0].wait_for_line("NOTIFICATION: Task completed - 'Größe \"zwölf\"'", SOON).await?;

    // The operator sees it.
    let tail = typed.taskctl(&["tail", "--from-beginning", "--count", "3", "--format", "json"]).await?;
    let shown: Value = serde_json::from_str(tail.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&shown["event"]["event_type"], &shown["schema_id"]),
        (&json!("task.created"), &lines[0]["schema_id"])
    );
    assert_eq!(shown["event"]["data"], lines[0]["data"]);
    let task_id = task["id"].as_str().unwrap();
    let trace = typed.taskctl(&["trace", task_id, "--api", api.url().trim_start_matches("http://")]).await?;
    assert_eq!(trace.stdout.matches("task.").count(), 3, "{}", trace.stdout);
    let audit =
        typed.taskctl(&["audit", "verify", &typed.world.audit_log_path().display().to_string()]).await?;
    assert_eq!(audit.code, Some(0), "{audit:?}");
    Ok(())
}

#[tokio::test]
async fn versions_of_the_schema_and_json_are_mixed_in_one_topic_and_all_are_handled() -> Outcome {
    let typed = Typed::start().await?;
    let (_api_service, api) = typed.start_api().await?;
    let mut consumers = typed.start_consumers()?;
    let json = serde_json::to_vec(&json_event("as JSON")).unwrap();
    api.create("by us").await?;
    api.delivered().await?;
    let second = typed.registry.register(SUBJECT, V2).await?;
    let later = foreign(second, GOLDEN_V2);
    typed.world.produce_values(&[Some(&json), Some(&later)]).await?;
    api.create("by us again").await?;

    let lines = typed.audited(4).await?;
    let titles: Vec<_> = lines.iter().map(|line| line["data"]["title"].as_str().unwrap()).collect();
    assert_eq!(titles, ["by us", "as JSON", "Later", "by us again"]);
    let ids = ids(&lines);
    assert!(ids[0] != 0 && ids[1] == 0 && ids[2] == u64::from(second) && ids[3] == ids[0], "{ids:?}");
    assert_eq!(lines[2]["event_id"], V2_EVENT);
    assert_eq!(lines[2]["data"].get("priority"), None, "a field that this version does not know");
    for title in titles {
        consumers[0].wait_for_line(&format!("New task created - '{title}'"), SOON).await?;
    }
    assert!(typed.world.topic(harness::DLQ).await?.is_empty());

    // Back to JSON, with what was stored as Avro before still to be sent: one topic, one audit log.
    drop(_api_service);
    let (_back, api) = typed.world.start_api_as(typed.program("task-api")).await?;
    api.create("as JSON again").await?;
    let lines = typed.audited(5).await?;
    assert_eq!(
        (lines[4]["data"]["title"].as_str(), lines[4].get("schema_id")),
        (Some("as JSON again"), None)
    );
    Ok(())
}

#[tokio::test]
async fn events_keep_the_bytes_that_they_were_stored_with() -> Outcome {
    let mut typed = Typed::with_small_registry().await?;
    let (mut service, api) = typed.start_api().await?;
    api.create("before").await?;
    api.delivered().await?;
    typed.world.broker.kill9();
    for number in 0..5 {
        api.create(&format!("waiting {number}")).await?;
    }
    service.kill9();
    // The registry is away, and the format is another now: what was stored is sent as it was.
    typed.registry.stop();
    let (_service, api) =
        typed.world.start_api_as(typed.program("task-api").env("EVENT_FORMAT", "json")).await?;
    api.create("after").await?;
    typed.world.broker.restart().await?;
    let records = typed.records(7).await?;
    let first: Vec<_> = records.iter().map(|one| one.record.value.as_deref().unwrap()[0]).collect();
    assert_eq!(first, [0, 0, 0, 0, 0, 0, b'{']);
    let types: Vec<_> = records.iter().map(|one| one.header("content-type").unwrap().unwrap()).collect();
    assert_eq!((types[5].as_str(), types[6].as_str()), (AVRO, "application/json"));
    Ok(())
}

#[tokio::test]
async fn a_produce_in_doubt_is_found_in_the_topic_by_avro_as_well() -> Outcome {
    let mut typed = Typed::with_small_registry().await?;
    let (mut service, api) = typed.start_api().await?;
    for number in 0..20 {
        api.create(&format!("task {number}")).await?;
        if number == 10 {
            typed.world.broker.kill9();
            service.kill9();
            typed.world.broker.restart().await?;
            service.restart()?;
            service.url().await?;
        }
    }
    api.delivered().await?;
    let records = typed.records(20).await?;
    let mut ids = records.iter().map(|one| one.header("ce_id")).collect::<Result<Vec<_>>>()?;
    ids.sort();
    ids.dedup();
    assert_eq!((records.len(), ids.len()), (20, 20), "each once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_away_stops_no_request_and_no_known_schema_and_a_new_one_waits_visibly() -> Outcome
{
    let typed = Typed::start().await?;
    let (mut service, api) = typed.start_api().await?;
    let mut consumers = typed.start_consumers()?;
    api.create("known").await?;
    typed.audited(1).await?;
    let second = typed.registry.register(SUBJECT, V2).await?;
    typed.registry.stop();

    // All of them start again without it: ids are on disk.
    service.restart()?;
    service.url().await?;
    for consumer in &mut consumers {
        consumer.restart()?;
    }
    api.create("still known").await?;
    typed.audited(2).await?;
    consumers[0].wait_for_line("'still known'", SOON).await?;

    // A new one waits, what came before it does not.
    api.create("before it").await?;
    api.delivered().await?;
    typed.world.produce_values(&[Some(&foreign(second, GOLDEN_V2))]).await?;
    typed.audited(3).await?;
    for consumer in &mut consumers {
        let why = format!("schema {second}: the Schema Registry cannot be reached");
        is_blocked(consumer, &why).await?;
        let ready = format!("{}/readyz", consumer.health_url().await?);
        let is_shown = async || {
            let answer = http()?.get(&ready).send().await?;
            let (status, text) = (answer.status(), answer.text().await?);
            let is_shown = status == StatusCode::SERVICE_UNAVAILABLE && text.contains("Schema Registry");
            Ok(is_shown.then_some(()))
        };
        eventually("the reason in /readyz", SOON, is_shown).await?;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(typed.world.audit_log()?.len(), 3);
    for consumer in &consumers {
        // Once for each reason: on a busy machine the first may be a timeout.
        let lines = consumer.lines().into_iter().filter_map(|line| {
            line.split_once("is blocked, will try again: schema").map(|(_, why)| why.to_owned())
        });
        let reasons: Vec<_> = lines.collect();
        let different: std::collections::HashSet<_> = reasons.iter().collect();
        assert_eq!(reasons.len(), different.len(), "logged once: {reasons:?}");
    }

    let back = Instant::now();
    typed.registry.go_on();
    typed.audited(4).await?;
    println!("audited {:?} after the registry was back", back.elapsed());
    consumers[0].wait_for_line("'Later'", SOON).await?;
    assert!(typed.world.topic(harness::DLQ).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn an_unknown_id_and_data_that_do_not_match_are_dead_letters_and_the_next_event_is_handled() -> Outcome
{
    let typed = Typed::start().await?;
    let (_service, api) = typed.start_api().await?;
    let _consumers = typed.start_consumers()?;
    api.create("first").await?;
    let known = typed.audited(1).await?[0]["schema_id"].as_u64().unwrap() as u32;
    let other = r#"{"type":"record","name":"Other","fields":[{"name":"x","type":"string"}]}"#;
    let other = typed.registry.register("other-value", other).await?;
    let bad = [
        foreign(4_000_000, GOLDEN_V2),
        foreign(known, &GOLDEN_V2[..60]),
        foreign(other, b"\0\0\0\0\x07\x02x"),
        vec![0, 0, 0],
    ];
    let values: Vec<_> = bad.iter().map(|value| Some(value.as_slice())).collect();
    typed.world.produce_values(&values).await?;
    api.create("next").await?;
    let lines = typed.audited(2).await?;
    assert_eq!(lines[1]["data"]["title"], "next");
    typed.world.committed("notification-service", 6).await?;

    let letters = typed.world.topic(harness::DLQ).await?;
    let letters = letters.iter().map(TopicRecord::json).collect::<Result<Vec<_>>>()?;
    let audit: Vec<_> = letters.iter().filter(|letter| letter["group"] == "audit-service").collect();
    let kinds: Vec<_> = audit.iter().map(|letter| letter["error"]["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["unknown_schema", "invalid_avro", "invalid_avro", "invalid_avro"]);
    assert!(
        audit[2]["error"]["message"].as_str().unwrap().contains("event_id"),
        "the field is named: {}",
        audit[2]
    );
    for (letter, bytes) in audit.iter().zip(&bad) {
        use base64::Engine as _;
        let original = base64::engine::general_purpose::STANDARD.encode(bytes);
        assert_eq!(letter["original_value_base64"], original, "the original, byte for byte");
    }
    Ok(())
}

#[tokio::test]
async fn without_a_registry_avro_is_a_dead_letter_that_says_so_and_json_goes_on() -> Outcome {
    let world = World::start().await?;
    let _consumers = world.start_consumers()?;
    let json = serde_json::to_vec(&json_event("json")).unwrap();
    world.produce_values(&[Some(GOLDEN_V2), Some(&json)]).await?;
    let handled = async || Ok((world.audit_log()?.len() == 1).then_some(()));
    eventually("the event", SOON, handled).await?;
    let letters = world.topic(harness::DLQ).await?;
    let letter = letters.first().ok_or_else(|| Error::failed("no dead letter"))?.json()?;
    assert_eq!(letter["error"]["kind"], "no_registry");
    assert!(letter["error"]["message"].as_str().unwrap().contains("SCHEMA_REGISTRY_URL"));
    Ok(())
}

/// Waits for a line with both parts. There may be others with one: on a busy machine the first reason may be a timeout.
async fn line_with(service: &mut Service, parts: [&str; 2]) -> Result<String> {
    let found = async || {
        let lines = service.lines().into_iter();
        Ok(lines.into_iter().find(|line| parts.iter().all(|part| line.contains(part))))
    };
    eventually(&format!("a line with {parts:?}"), SOON, found).await
}

async fn is_blocked(consumer: &mut Service, why: &str) -> Result<String> {
    line_with(consumer, ["is blocked, will try again: schema", why]).await
}

/// Each is bounded, is said, gives up no event, and is over when the registry is.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_misbehaves_is_waited_for() -> Outcome {
    let typed = Typed::with_small_registry().await?;
    let id = typed.registry.register(SUBJECT, V2).await?;
    let mut audit = typed.program("audit-service").start()?;
    for (how, said) in [
        (Misbehaviour::ServerError, "answers 500"),
        (Misbehaviour::Garbage, "not a registry's"),
        (Misbehaviour::NoSuchPath, "answers 404, and not as a registry"),
        (Misbehaviour::Endless, "more than 1048576 bytes"),
        (Misbehaviour::Silent, "no answer within"),
    ] {
        typed.registry.misbehave(how);
        let service = typed.program("audit-service").env("GROUP", format!("{how:?}"));
        let log = typed.world.path(&format!("{how:?}.log"));
        audit.kill9();
        audit = service.env("AUDIT_LOG_PATH", log.display()).start()?;
        typed.world.produce_values(&[Some(&foreign(id, GOLDEN_V2))]).await?;
        is_blocked(&mut audit, said).await?;
        typed.registry.misbehave(Misbehaviour::None);
        let back = Instant::now();
        let written = async || Ok(harness::read_audit_log(&log)?.first().cloned());
        let line = eventually("the audit log", SOON, written).await?;
        println!("{how:?}: audited {:?} after it was over", back.elapsed());
        assert_eq!(line["event_id"], V2_EVENT);
    }
    assert!(typed.world.topic(harness::DLQ).await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_never_had_its_id_waits_for_the_registry_and_says_so() -> Outcome {
    let typed = Typed::with_small_registry().await?;
    typed.registry.stop();
    let mut service = typed.api_program().start()?;
    let why = "the Schema Registry cannot be reached: http://127.0.0.1:";
    let line = line_with(&mut service, ["events cannot be written as Avro yet", why]).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let said = line.split_once("events cannot").map_or(line.as_str(), |(_, said)| said);
    assert_eq!(service.count(said), 1);
    let back = Instant::now();
    typed.registry.go_on();
    let api = Api::new(&service.url().await?)?;
    println!("listening {:?} after the registry was back", back.elapsed());
    api.create("t").await?;

    // Told to stop while it waits, it stops.
    typed.registry.stop();
    let mut other = typed.api_program().env("STATE_DIR", typed.world.path("other").display()).start()?;
    other.wait_for_line("events cannot be written as Avro yet", SOON).await?;
    assert!(other.terminate(Duration::from_secs(20)).await?.success());
    Ok(())
}

#[tokio::test]
async fn without_the_right_to_register_the_api_waits_until_an_operator_has() -> Outcome {
    let typed = Typed::with_small_registry().await?;
    let mut service = typed.api_program().env("SCHEMA_AUTO_REGISTER", false).start()?;
    service.wait_for_line("run `taskctl schema register`", SOON).await?;
    let registered = typed.taskctl(&["schema", "register"]).await?;
    assert_eq!(registered.code, Some(0), "{registered:?}");
    service.url().await?;
    Ok(())
}

#[tokio::test]
async fn the_operator_sees_checks_and_registers_schemas() -> Outcome {
    let typed = Typed::start().await?;
    let shown = typed.taskctl(&["schema", "show"]).await?;
    assert!(shown.stdout.contains("Nothing is registered"), "{shown:?}");
    let made = typed.taskctl(&["schema", "init"]).await?;
    assert!(made.stdout.contains("compatibility: BACKWARD_TRANSITIVE"), "{made:?}");
    let file = |name: &str, text: &str| {
        let path = typed.world.path(name);
        std::fs::write(&path, text).map_err(|error| Error::file(&path, error))?;
        Ok::<PathBuf, Error>(path)
    };
    let second = file("v2.avsc", V2)?.display().to_string();
    let may = typed.taskctl(&["schema", "check", &second]).await?;
    assert!(may.code == Some(0) && may.stdout.contains("it may follow"), "{may:?}");
    typed.taskctl(&["schema", "register", &second]).await?;
    let shown = typed.taskctl(&["schema", "show", "--format", "json"]).await?;
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(shown["compatibility"], "BACKWARD_TRANSITIVE");
    assert_eq!(
        (&shown["versions"][0]["is_ours"], &shown["versions"][1]["is_ours"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(shown["versions"][1]["unreadable"], Value::Null);
    let text = typed.taskctl(&["schema", "show", "1"]).await?;
    assert_eq!(text.stdout.trim(), V1.trim());

    let nothing = typed.taskctl(&["schema", "show", "9"]).await?;
    assert!(nothing.code == Some(1) && nothing.stderr.contains("[TE0603]"), "{nothing:?}");
    let no_schema = file("no.avsc", "{\"type\": \"recor\"}")?.display().to_string();
    let no_schema = typed.taskctl(&["schema", "register", &no_schema]).await?;
    assert!(no_schema.code == Some(1) && no_schema.stderr.contains("[TE0605]"), "{no_schema:?}");

    // The harness's own registry knows no rules.
    if typed.registry.requests().is_none() {
        let renamed = V1.replace("\"name\": \"title\"", "\"name\": \"subject\"");
        let bad = file("bad.avsc", &renamed)?.display().to_string();
        for command in ["check", "register"] {
            let refused = typed.taskctl(&["schema", command, &bad]).await?;
            assert_eq!(refused.code, Some(1), "{refused:?}");
            let line = refused.stderr.lines().last().unwrap_or_default();
            assert!(
                line.contains("data.subject: it is not in the writer's schema, and has no default"),
                "{line}"
            );
            assert!(line.contains("version 1") && line.ends_with("[TE0604]"), "{line}");
        }
    }
    let away = typed
        .world
        .program("taskctl")
        .args(&["schema", "show"])
        .env("SCHEMA_REGISTRY_URL", "http://127.0.0.1:1");
    let away = away.run(SOON).await?;
    assert!(away.code == Some(1) && away.stderr.contains("[TE0601]"), "{away:?}");
    Ok(())
}

/// Confluent's own client, where `.ci/avro` has installed it.
async fn confluent(args: &[&str], input: &str) -> Result<Option<String>> {
    let Some(python) = std::env::var_os("E2E_AVRO_PYTHON").filter(|path| !path.is_empty()) else {
        eprintln!("E2E_AVRO_PYTHON is not set: the foreign client is not tried");
        return Ok(None);
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/registry/foreign.py");
    let failed = |error| Error::failed(format!("the foreign client: {error}"));
    let mut child = std::process::Command::new(python)
        .arg(script)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(failed)?;
    }
    let output =
        tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().map_err(failed)?;
    if !output.status.success() {
        return Err(Error::failed(format!("the foreign client {args:?} ended with {}", output.status)));
    }
    Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
}

#[tokio::test]
async fn confluents_client_reads_our_events_and_we_audit_its() -> Outcome {
    let typed = Typed::start().await?;
    let (_service, api) = typed.start_api().await?;
    let _consumers = typed.start_consumers()?;
    let owner = "3f2b6c1e-0d4e-4c3a-9b1f-6f2a7f9d1c55";
    let made =
        api.request(harness::Method::POST, "/tasks").json(&json!({"title": "ours", "owner_id": owner}));
    assert_eq!(made.send().await?.status(), StatusCode::CREATED);
    api.delivered().await?;

    // It writes by both versions, between JSON.
    let (bootstrap, url) = (typed.world.broker.bootstrap(), typed.registry.url());
    let schema = |name: &str| format!("{}/../../common/{name}", env!("CARGO_MANIFEST_DIR"));
    let foreign = |title: &str, priority: Option<&str>| {
        let mut event = json_event(title);
        event["event_type"] = "task_created".into();
        if let Some(priority) = priority {
            event["data"]["priority"] = priority.into();
        }
        event
    };
    let (first, second) = (foreign("its first", None), foreign("its second", Some("high")));
    for (event, schema) in
        [(&first, schema("schemas/task-event.avsc")), (&second, schema("tests/schemas/task-event-v2.avsc"))]
    {
        let written = confluent(&["write", &bootstrap, &url, EVENTS, &schema], &event.to_string()).await?;
        if written.is_none() {
            return Ok(());
        }
    }
    let json = json_event("json");
    let value = serde_json::to_vec(&json).unwrap();
    produce(
        &bootstrap,
        EVENTS,
        vec![record(json["data"]["task_id"].as_str().map(str::as_bytes), Some(&value))],
    )
    .await?;

    let lines = typed.audited(4).await?;
    for (line, event) in lines[1..].iter().zip([&first, &second, &json]) {
        assert_eq!((&line["event_id"], &line["event_type"]), (&event["event_id"], &json!("task.created")));
        assert_eq!(line["occurred_at"], event["occurred_at"]);
        assert_eq!(
            (&line["data"]["title"], &line["metadata"]),
            (&event["data"]["title"], &event["metadata"])
        );
    }
    let ids = ids(&lines);
    // It registers its own spelling of the schema, under another id.
    assert!(ids[0] > 0 && ids[1] > 0 && ids[2] > ids[1] && ids[3] == 0, "{ids:?}");

    // And it reads ours, and its own.
    let read = confluent(&["read", &bootstrap, &url, EVENTS, "4"], "").await?.unwrap_or_default();
    let read: Vec<Value> = read.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(read.len(), 4);
    let ours = &read[0];
    assert_eq!(ours["event"]["event_id"], lines[0]["event_id"]);
    assert_eq!(ours["event"]["event_type"], "task_created");
    assert_eq!(ours["event"]["occurred_at"], lines[0]["occurred_at"]);
    assert_eq!(ours["event"]["data"], lines[0]["data"]);
    // Who has no identity is null in Avro, and left out in JSON.
    let mut metadata = lines[0]["metadata"].clone();
    metadata["actor"] = Value::Null;
    assert_eq!(ours["event"]["metadata"], metadata);
    assert_eq!(
        (&ours["headers"]["content-type"], &ours["headers"]["ce_type"]),
        (&json!(AVRO), &json!("task.created"))
    );
    assert_eq!(read[2]["event"]["data"]["priority"], "high");
    Ok(())
}

#[tokio::test]
async fn a_registry_over_https_is_verified_and_used() -> Outcome {
    let typed = Typed::start().await?;
    let url = typed.registry.url();
    let (host, path) = url.trim_start_matches("http://").split_once('/').unwrap_or((&url[7..], ""));
    let (ours, other) = (Authority::new("ours")?, Authority::new("other")?);
    let front = ours.issue("registry", &["localhost"], Validity::Valid)?;
    let front = TlsFront::start(&front, host.parse().unwrap()).await?;
    let ca = typed.world.path("ca.crt");
    replace(&ca, other.certificate())?;
    let over_https = |name: &str| {
        let program = typed.world.program(name).env("SCHEMA_REGISTRY_CA_FILE", ca.display());
        program.env("SCHEMA_REGISTRY_URL", format!("https://localhost:{}/{path}", front.port()))
    };
    // With another CA nothing is asked; the API waits, and goes on with the right one.
    let api = over_https("task-api").env("EVENT_FORMAT", "avro").env("PORT", 0);
    let mut api = api.start()?;
    let line = api.wait_for_line("SCHEMA_REGISTRY_CA_FILE", SOON).await?;
    assert!(line.contains("signed by no CA that is trusted here"), "{line}");
    assert!(typed.registry.requests().is_none_or(|requests| requests == 0));
    replace(&ca, ours.certificate())?;
    api.wait_for_line("events are written as Avro, schema id", SOON).await?;
    let mut auditor = over_https("audit-service").start()?;
    let client = Api::new(&api.url().await?)?;
    client.create("over https").await?;
    let lines = typed.audited(1).await?;
    assert_eq!(lines[0]["data"]["title"], "over https");
    assert!(lines[0]["schema_id"].is_u64(), "{}", lines[0]);
    // A name that the certificate does not have.
    let elsewhere = typed.world.program("taskctl").env("SCHEMA_REGISTRY_CA_FILE", ca.display());
    let elsewhere =
        elsewhere.env("SCHEMA_REGISTRY_URL", format!("https://127.0.0.1:{}/{path}", front.port()));
    let ran = elsewhere.args(&["schema", "show"]).run(SOON).await?;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("is not for 127.0.0.1 but for localhost"), "{ran:?}");
    assert!(auditor.terminate(SOON).await?.success());
    Ok(())
}
