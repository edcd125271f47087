//! The contract of the events (AsyncAPI and JSON Schema), held against what the services write.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use serde_json::{Value, json};
use task_events::event::{Event, EventType};

use crate::schema::{fits, validate};
use crate::support::App;

fn served(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

static ASYNCAPI: LazyLock<Value> =
    LazyLock::new(|| served(include_str!("../../src/http/contract/asyncapi.json")));
static SCHEMA: LazyLock<Value> =
    LazyLock::new(|| served(include_str!("../../src/http/contract/task-event.json")));

fn golden(name: &str) -> String {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/contract")).join(name);
    fs::read_to_string(path).unwrap()
}

fn message(event_type: &str) -> &'static Value {
    let messages = ASYNCAPI["components"]["messages"].as_object().unwrap();
    messages.values().find(|message| message["name"] == event_type).expect(event_type)
}

#[tokio::test]
async fn the_documents_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    assert_eq!(app.call("GET", "/asyncapi.json").send().await.json(), *ASYNCAPI);
    assert_eq!(app.call("GET", "/schemas/task-event.json").send().await.json(), *SCHEMA);
    app.stop().await;
}

#[test]
fn golden_events_and_headers_have_the_form_that_is_described() {
    for name in ["event.json", "event-deleted.json"] {
        let event = served(&golden(name));
        validate(&SCHEMA, &SCHEMA, &event, name);
        let message = message(event["event_type"].as_str().unwrap());
        validate(&ASYNCAPI, &message["payload"]["allOf"][1], &event, name);
    }
    let headers: Value = golden("event-headers.txt")
        .lines()
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_owned(), Value::from(value)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let described = &message("task.created")["headers"];
    validate(&ASYNCAPI, described, &headers, "event-headers.txt");
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&headers), names(&described["properties"]), "each header is described");
}

#[test]
fn every_type_has_a_message_with_an_example() {
    let types: Vec<&str> = EventType::ALL.iter().map(|known| known.as_str()).collect();
    let messages = ASYNCAPI["components"]["messages"].as_object().unwrap();
    let names: BTreeSet<&str> = messages.values().map(|message| message["name"].as_str().unwrap()).collect();
    assert_eq!(names, types.iter().copied().collect());
    assert_eq!(SCHEMA["if"]["properties"]["event_type"]["enum"], json!(types));
    let channel = &ASYNCAPI["channels"]["taskEvents"];
    assert_eq!(channel["address"], crate::support::TOPIC);
    assert_eq!(channel["messages"].as_object().unwrap().len(), types.len());
    assert_eq!(
        ASYNCAPI["operations"]["publishTaskEvents"]["messages"].as_array().unwrap().len(),
        types.len()
    );
    for message in messages.values() {
        let example = &message["examples"][0]["payload"];
        validate(&SCHEMA, &SCHEMA, example, "an example");
        validate(&ASYNCAPI, &message["payload"]["allOf"][1], example, "an example");
        assert_eq!(message["headers"]["properties"]["ce_type"]["const"], message["name"]);
    }
}

/// The schema takes an event exactly where the reader takes it.
#[test]
fn the_schema_and_the_reader_agree() {
    let sound = served(&golden("event.json"));
    let edits: [fn(&mut Value); 14] = [
        |_| {},
        |event| event["new"] = json!([1]),
        |event| event["data"]["new"] = json!(1),
        |event| event["data"]["status"] = json!("on_hold"),
        |event| event["event_type"] = json!("task.deleted"),
        |event| {
            event["event_type"] = json!("task.archived");
            event["data"] = json!({"anything": 1});
        },
        |event| event["event_type"] = json!(7),
        |event| event["event_id"] = json!("x"),
        |event| event["occurred_at"] = json!("now"),
        |event| event["data"]["title"] = json!(null),
        |event| drop(event["data"].as_object_mut().unwrap().remove("owner_id")),
        |event| event["data"]["owner_id"] = json!(1),
        |event| drop(event.as_object_mut().unwrap().remove("metadata")),
        |event| event["metadata"]["correlation_id"] = json!(""),
    ];
    let mut taken = 0;
    for edit in edits {
        let mut event = sound.clone();
        edit(&mut event);
        let by_schema = fits(&SCHEMA, &SCHEMA, &event, "the event");
        let bytes = event.to_string();
        let by_reader = Event::decode(Some(bytes.as_bytes()));
        assert_eq!(by_schema.is_ok(), by_reader.is_ok(), "{event}: {by_schema:?}, {by_reader:?}");
        taken += usize::from(by_reader.is_ok());
    }
    assert_eq!(taken, 6);
}
