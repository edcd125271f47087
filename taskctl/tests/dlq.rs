//! Dead letters as an operator sees and redrives them.

mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use task_events::event::{TaskData, TaskEvent};
use task_events::kafka::{Compression, ConsumerRecord, ProducerRecord};
use task_events::offsets::Slot;
use task_events::redrive::{GROUP_HEADER, LETTER_HEADER};
use uuid::Uuid;
use world::{World, cells, now};

const EVENTS: &str = "task-events";
const DLQ: &str = "task-events-dlq";
const TASK: &str = "01900000-0000-7000-8000-000000000001";

fn event() -> TaskEvent {
    let data = TaskData {
        task_id: TASK.parse().unwrap(),
        title: "t".to_owned(),
        status: "pending".to_owned(),
        owner_id: None,
    };
    TaskEvent::task_created(data, Uuid::new_v4())
}

/// A dead letter of that group, whose event was at that offset.
fn letter(group: &str, kind: &str, event: &TaskEvent, offset: i64, failed_at: &str) -> Value {
    json!({
        "original_event": event,
        "error": {"kind": kind, "message": "the disk\nwas full"},
        "retry_count": 4,
        "group": group,
        "source": {"topic": EVENTS, "partition": 0, "offset": offset, "timestamp": failed_at},
        "original_headers": [{"name": "traceparent", "value": "00-1"}, {"name": "raw", "value_base64": "/w=="}],
        "failed_at": failed_at,
    })
}

async fn produce(world: &World, topic: &str, values: &[Value]) {
    let records = values.iter().map(|value| ProducerRecord {
        key: Some(TASK.into()),
        value: Some(value.to_string().into_bytes()),
        headers: BTreeMap::new(),
        timestamp: now(),
    });
    let producer = world.kafka.producer(topic, 0);
    producer.produce(&records.collect::<Vec<_>>(), Compression::NoCompression).await.unwrap();
}

async fn records(world: &World, topic: &str) -> Vec<ConsumerRecord> {
    let end = world.kafka.list_offset(topic, 0, task_events::kafka::OffsetAt::Latest).await.unwrap();
    let mut range = world.kafka.read_range(topic, 0, 0, end);
    let mut records = Vec::new();
    while let Some(fetched) = range.next().await {
        let fetched = fetched.unwrap();
        records.extend(fetched.batches.iter().flat_map(|batch| batch.records()).map(Result::unwrap));
    }
    records
}

fn header(record: &ConsumerRecord, name: &str) -> Option<String> {
    let value = record.headers.last(name)?.value?;
    Some(String::from_utf8(value.to_vec()).unwrap())
}

/// Three letters in the DLQ: two of the audit service, one of the notification service.
async fn with_letters() -> (World, [TaskEvent; 3]) {
    let world = World::start().await;
    let events = [event(), event(), event()];
    let letters = [
        letter("audit-service", "audit_log", &events[0], 1, "2026-01-15T10:30:00Z"),
        letter("notification-service", "output", &events[1], 2, "2026-01-15T10:31:00Z"),
        letter("audit-service", "invalid_event", &events[2], 3, "2026-01-15T10:32:00Z"),
    ];
    produce(&world, DLQ, &letters).await;
    // A group that has run, and has no dead letter.
    world.owner("nobody", Duration::from_secs(10)).await;
    (world, events)
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_filtered_and_shown_whole() {
    let (world, events) = with_letters().await;
    let list = world.answers("dlq list").await;
    let rows = cells(&list);
    assert_eq!(
        rows[0][..7],
        ["0/0", "2026-01-15T10:30:00Z", "audit-service", "audit_log", "task-events/0/1", TASK, "-"]
    );
    assert!(list.lines().nth(1).unwrap().ends_with("the disk\\nwas full"), "{list}");
    assert_eq!(rows.len(), 3);
    for (filter, ids) in [
        ("--group audit-service", vec!["0/0", "0/2"]),
        ("--kind output", vec!["0/1"]),
        ("--since 2026-01-15T10:31:00Z", vec!["0/1", "0/2"]),
        ("--until 2026-01-15T10:31:00Z", vec!["0/0"]),
        ("--group audit-service --since 2026-01-15T12:31:00+02:00", vec!["0/2"]),
        ("--group nobody", vec![]),
        ("--limit 1", vec!["0/2"]),
        ("--limit 0", vec!["0/0", "0/1", "0/2"]),
    ] {
        let rows = world.answers_json(&format!("dlq list {filter}")).await;
        let found: Vec<_> = rows.as_array().unwrap().iter().map(|row| row["id"].clone()).collect();
        assert_eq!(found, ids, "{filter}");
    }
    let cut = world.answers("dlq list --limit 1").await;
    assert!(cut.ends_with("2 older ones are not shown: see --limit\n"), "{cut}");

    let by_event = world.answers_json(&format!("dlq show {}", events[1].event_id)).await;
    let shown = world.answers_json("dlq show 0/1").await;
    assert_eq!(by_event, shown);
    assert_eq!(shown[0]["original_event"]["event_id"], json!(events[1].event_id));
    assert_eq!(shown[0]["original_headers"][0]["name"], "traceparent");
    let text = world.answers("dlq show 1").await;
    for part in
        ["STATE     open", "RETRIES   4", "the disk\\nwas full", "traceparent: 00-1", "\"title\":\"t\""]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let error = world.refuses("dlq list --group never-ran").await;
    assert!(error.contains("knows no group never-ran"), "{error}");
    for wrong in ["0/9", "9", "4a7b6f2e-3a3b-4f4c-9d52-0d4d5f0f9d10"] {
        let error = world.refuses(&format!("dlq show {wrong}")).await;
        assert!(error.contains("dlq list"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_meant_is_redriven_and_only_with_execute() {
    let (world, events) = with_letters().await;
    let error = world.refuses("dlq redrive --execute").await;
    assert!(error.contains("--all"), "{error}");
    let error = world.refuses("dlq redrive 0/0 0/7 --execute").await;
    assert!(error.contains("0/7"), "{error}");
    let error = world.refuses("dlq redrive --group nobody").await;
    assert!(error.contains("no dead letter matches"), "{error}");

    let plan = world.answers("dlq redrive --group audit-service").await;
    assert_eq!(cells(&plan).len(), 3, "two letters and the word that it is a dry run: {plan}");
    assert!(plan.contains("would be redriven") && plan.contains("dry run"), "{plan}");
    assert!(plan.contains("no instance of audit-service has run"), "{plan}");
    assert!(plan.contains("malformed"), "{plan}");
    assert_eq!(records(&world, EVENTS).await.len(), 10, "a dry run changes nothing");
    assert_eq!(records(&world, DLQ).await.len(), 3);

    let done = world.answers_json("dlq redrive 0/0 --execute").await;
    assert_eq!((&done["executed"], &done["redriven"], &done["failed"]), (&true.into(), &1.into(), &0.into()));
    let events_now = records(&world, EVENTS).await;
    let copy = &events_now[10];
    let value: TaskEvent = serde_json::from_slice(copy.value.as_deref().unwrap()).unwrap();
    assert_eq!(json!(value), json!(events[0]), "the same event");
    assert_eq!(copy.key.as_deref(), Some(TASK.as_bytes()));
    assert_eq!(header(copy, GROUP_HEADER).as_deref(), Some("audit-service"));
    assert_eq!(header(copy, LETTER_HEADER).as_deref(), Some("task-events-dlq/0/0"));
    assert_eq!(header(copy, "traceparent").as_deref(), Some("00-1"), "the original's headers are kept");
    assert_eq!(copy.headers.last("raw").unwrap().value, Some([0xff].as_slice()));

    // What was redriven is skipped, unless it is to be redriven again.
    let all = world.answers_json("dlq redrive --all --execute").await;
    assert_eq!((&all["redriven"], &all["failed"]), (&2.into(), &0.into()));
    assert_eq!(all["letters"][0]["outcome"]["what"], "skipped");
    let nothing = world.answers_json("dlq redrive --all --execute").await;
    assert_eq!(nothing["redriven"], 0);
    assert_eq!(records(&world, EVENTS).await.len(), 13);
    let again = world.answers_json("dlq redrive 0/0 --again --execute").await;
    assert_eq!(again["redriven"], 1);
    assert_eq!(records(&world, EVENTS).await.len(), 14);

    assert_eq!(cells(&world.answers("dlq list --open").await).len(), 0);
    let list = world.answers_json("dlq list").await;
    assert_eq!(list.as_array().unwrap().len(), 3, "notes are no dead letters");
    assert_eq!(list[0]["redriven_to"], "task-events/0/13");
    let shown = world.answers_json("dlq show 0/1").await;
    let state = shown[0]["state"].as_str().unwrap();
    assert!(state.contains("redriven to task-events/0/11") && state.contains("committed nothing"), "{state}");
}

#[tokio::test(flavor = "multi_thread")]
async fn later_events_of_the_task_that_were_handled_are_counted() {
    let (world, _) = with_letters().await;
    // Offsets 10 to 13; the group has passed those below 12.
    produce(&world, EVENTS, &[json!(event()), json!(event()), json!(event()), json!(event())]).await;
    let owner = world.owner("audit-service", Duration::from_secs(1)).await;
    owner.commit(12, true).await;
    let plan = world.answers_json("dlq redrive 0/0").await;
    assert_eq!(plan["letters"][0]["later_events"], 2);
    let notes = plan["letters"][0]["notes"].to_string();
    assert!(notes.contains("audit-service has handled 2 later events of this task"), "{notes}");
    let other = world.answers_json("dlq redrive 0/1").await;
    assert_eq!(other["letters"][0]["later_events"], 0, "its group has handled nothing");
    // A redriven copy is no later event.
    world.answers("dlq redrive 0/0 --execute").await;
    let next = world.owner("audit-service", Duration::from_secs(1)).await;
    assert_eq!(next.slot, Slot { group: "audit-service".to_owned(), topic: EVENTS.to_owned(), partition: 0 });
    next.commit(15, true).await;
    let plan = world.answers_json("dlq redrive 0/0 --again").await;
    assert_eq!(plan["letters"][0]["later_events"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_with_its_source_alone_is_redriven_from_there() {
    let world = World::start().await;
    produce(&world, EVENTS, &[json!(event())]).await;
    let by_source = |offset: i64, last_offset: Option<i64>| {
        let mut value = letter("g", "too_large", &event(), offset, "2026-01-15T10:30:00Z");
        value.as_object_mut().unwrap().remove("original_event");
        value["source"]["last_offset"] = json!(last_offset);
        value
    };
    produce(&world, DLQ, &[by_source(10, None), by_source(4, Some(6)), by_source(999, None)]).await;
    let output = world.taskctl("dlq redrive --all --execute --format json").await;
    assert_eq!(output.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["redriven"], &answer["failed"]), (&1.into(), &2.into()), "{answer}");
    let detail = |index: usize| answer["letters"][index]["outcome"]["detail"].as_str().unwrap().to_owned();
    assert_eq!(detail(0), "task-events/0/11");
    assert!(detail(1).contains("cannot be read"), "{}", detail(1));
    assert!(detail(2).contains("not there"), "{}", detail(2));
    let events = records(&world, EVENTS).await;
    assert_eq!(events[11].value, events[10].value);
    assert_eq!(header(&events[11], GROUP_HEADER).as_deref(), Some("g"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_of_a_topic_that_is_not_there_or_cannot_be_holds_up_no_other() {
    let world = World::start().await;
    let of_topic = |topic: &str| {
        let mut value = letter("g", "output", &event(), 1, "2026-01-15T10:30:00Z");
        value["source"]["topic"] = json!(topic);
        value
    };
    produce(&world, DLQ, &[of_topic("<b>none</b>"), of_topic("deleted"), of_topic(EVENTS)]).await;
    let output = world.taskctl("dlq redrive --all --execute --format json").await;
    assert_eq!(output.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["redriven"], &answer["failed"]), (&1.into(), &2.into()), "{answer}");
    let detail = |index: usize| answer["letters"][index]["outcome"]["detail"].as_str().unwrap().to_owned();
    assert!(detail(0).contains("is not a topic name"), "{}", detail(0));
    assert!(detail(1).contains("topic deleted does not exist"), "{}", detail(1));
    assert_eq!(detail(2), "task-events/0/10");
}
