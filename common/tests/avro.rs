//! Events as Avro: against golden files of another implementation, and against the `apache-avro` crate with events and
//! bytes of every kind.

use std::fs;
use std::path::{Path, PathBuf};

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use chrono::{DateTime, Utc};
use proptest::prelude::*;
use serde_json::Value as Json;
use task_events::avro::{Plan, REVISION, Schema, TASK_EVENT, Wire, encode, revision_schema};
use task_events::event::{Event, EventType, MAX_EVENT_BYTES, Metadata, TaskData, TaskEvent};
use uuid::Uuid;

const V2: &str = include_str!("schemas/task-event-v2.avsc");
/// The id that the golden files name.
const ID: u32 = 7;

fn plan(writer: &str, reader: &str) -> Result<Plan, String> {
    Plan::new(&Schema::parse(writer).unwrap(), &Schema::parse(reader).unwrap())
}

/// Reads a record's value by the schemas' texts.
fn read<'a>(value: &'a [u8], writer: &str, reader: &str) -> Result<Event<'a>, String> {
    let Wire::Avro(ID, data) = Wire::of(value) else { panic!("not Avro: {value:?}") };
    plan(writer, reader).unwrap().read(ID, data)
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/avro").join(name)
}

fn golden_event(name: &str) -> (Vec<u8>, Json) {
    let json = fs::read(golden(&format!("{name}.json"))).unwrap();
    (fs::read(golden(&format!("{name}.avro"))).unwrap(), serde_json::from_slice(&json).unwrap())
}

/// The golden events, each with the revision of the schema that it is of.
fn golden_events() -> [(u8, &'static str); 6] {
    let [created, updated, completed, deleted] = ["created", "updated", "completed", "deleted"];
    [(1, created), (1, updated), (1, completed), (1, deleted), (2, "by-nobody"), (2, "by-an-actor")]
}

/// An event as JSON, put together from what was read.
fn as_json(event: &Event<'_>) -> Json {
    let part = |text: &str| serde_json::from_str::<Json>(text).unwrap();
    serde_json::json!({
        "event_id": event.event_id,
        "event_type": event.event_type,
        "occurred_at": event.occurred_at,
        "data": part(event.data.get()),
        "metadata": part(event.metadata.get()),
    })
}

#[test]
fn events_of_another_implementation_are_read_and_written_to_the_byte() {
    for (revision, name) in golden_events() {
        let (avro, json) = golden_event(name);
        let event = read(&avro, revision_schema(revision).unwrap(), TASK_EVENT).unwrap();
        assert_eq!(as_json(&event), json, "{name}");
        assert_eq!(event.schema_id, Some(ID));
        let written: TaskEvent = serde_json::from_value(json).unwrap();
        assert_eq!(event.task.as_ref().unwrap(), &written.data);
        assert_eq!(event.to_task_event().unwrap(), written);
        if revision == REVISION {
            assert_eq!(encode(&written, ID).unwrap(), avro, "{name}");
        }
    }
}

#[test]
fn the_json_of_an_avro_event_is_that_of_the_same_event_as_json() {
    for (revision, name) in golden_events() {
        let (avro, json) = golden_event(name);
        let written: TaskEvent = serde_json::from_value(json).unwrap();
        let json = serde_json::to_vec(&written).unwrap();
        let schema = revision_schema(revision).unwrap();
        let (as_json, as_avro) =
            (Event::decode(Some(&json)).unwrap(), read(&avro, schema, TASK_EVENT).unwrap());
        assert_eq!(
            (as_json.data.get(), as_json.metadata.get()),
            (as_avro.data.get(), as_avro.metadata.get())
        );
        assert_eq!((as_json.event_type, as_json.occurred_at), (as_avro.event_type, as_avro.occurred_at));
    }
}

#[test]
fn a_later_writer_and_an_earlier_reader_understand_each_other_both_ways() {
    let (later, json) = golden_event("v2");
    // Writer 2, reader 1: the field is ignored.
    let read_by_1 = as_json(&read(&later, V2, TASK_EVENT).unwrap());
    assert_eq!(read_by_1["data"].get("priority"), None);
    assert_eq!(read_by_1["data"]["owner_id"], json["data"]["owner_id"]);
    // Writer 2, reader 2: it is there.
    assert_eq!(as_json(&read(&later, V2, V2).unwrap()), json);
    // Writer 1, reader 2: it has its default.
    let (earlier, mut json) = golden_event("created");
    json["data"]["priority"] = Json::Null;
    assert_eq!(as_json(&read(&earlier, revision_schema(1).unwrap(), V2).unwrap()), json);
}

/// The schemas of docs/schemas.md, under "How the schema may change".
#[test]
fn each_change_that_the_documentation_shows_does_what_it_says() {
    let title = "\"name\": \"title\",\n            \"type\": \"string\",";
    let with = |from: &str, to: &str| {
        assert!(TASK_EVENT.contains(from), "{from}");
        TASK_EVENT.replacen(from, to, 1)
    };
    // Removed: the earlier reader needs it, the later one does not see it.
    let removed = with(
        &format!(
            "{{\n            {title}\n            \"doc\": \"Its title: 1 to 500 characters.\"\n          }},"
        ),
        "",
    );
    assert!(plan(&removed, TASK_EVENT).unwrap_err().contains("data.title"));
    // Renamed with an alias: the later reader reads what is there, the earlier one cannot read what comes.
    let renamed = with(title, "\"name\": \"subject\", \"aliases\": [\"title\"], \"type\": \"string\",");
    assert!(plan(&renamed, TASK_EVENT).unwrap_err().contains("data.title"));
    // In the reader's place of the title: what it reads from the old name.
    let alias = with(title, "\"name\": \"title\", \"aliases\": [\"subject\"], \"type\": \"string\",");
    let (_, json) = golden_event("created");
    let event: TaskEvent = serde_json::from_value(json).unwrap();
    let value = encode(&event, ID).unwrap();
    assert_eq!(read(&value, &renamed, &alias).unwrap().task.unwrap().title, "Water the plants");
    // Made optional: read as long as it is there.
    let optional = with(title, "\"name\": \"title\", \"type\": [\"null\", \"string\"], \"default\": null,");
    assert!(plan(&optional, TASK_EVENT).unwrap_err().contains("data.title"));
    assert!(plan(TASK_EVENT, &optional).is_ok());
    // A new status and a new type: kept as text.
    let archived = with("\"completed\"]", "\"completed\", \"archived\"]");
    let archived = archived.replacen("\"task_deleted\"]", "\"task_deleted\", \"task_archived\"]", 1);
    let value = foreign(&archived, &event, |record| {
        record[1].1 = Value::Enum(5, "task_archived".to_owned());
        let Value::Record(data) = &mut record[3].1 else { panic!("a record") };
        data[2].1 = Value::Enum(4, "archived".to_owned());
    });
    let read = read(&value, &archived, TASK_EVENT).unwrap();
    assert_eq!(
        (read.event_type.as_ref(), read.known_type(), read.task.is_none()),
        ("task.archived", None, true)
    );
    assert!(read.data.get().contains(r#""status":"archived""#), "{}", read.data);
}

#[test]
fn every_revision_that_was_ever_written_is_still_read() {
    for revision in 1..=REVISION {
        let schema = revision_schema(revision).unwrap();
        assert!(plan(schema, TASK_EVENT).is_ok(), "{revision}");
    }
    assert_eq!(revision_schema(REVISION), Some(TASK_EVENT));
    assert_eq!((revision_schema(0), revision_schema(REVISION + 1)), (None, None));
}

/// The value of an event as the `apache-avro` crate writes it by that schema.
fn foreign(schema: &str, event: &TaskEvent, change: impl Fn(&mut Vec<(String, Value)>)) -> Vec<u8> {
    let schema = apache_avro::Schema::parse_str(schema).unwrap();
    let Value::Record(mut record) = value(event) else { panic!("a record") };
    change(&mut record);
    let datum = GenericDatumWriter::builder(&schema)
        .build()
        .unwrap()
        .write_value_to_vec(Value::Record(record))
        .unwrap();
    [&[0][..], &ID.to_be_bytes(), &datum].concat()
}

fn optional_text(text: Option<&str>) -> Value {
    match text {
        None => Value::Union(0, Box::new(Value::Null)),
        Some(text) => Value::Union(1, Box::new(Value::String(text.to_owned()))),
    }
}

fn value(event: &TaskEvent) -> Value {
    let of = |list: [(&str, Value); 4]| list.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let (type_index, symbol) = match event.event_type {
        EventType::Created => (1, "task_created"),
        EventType::Updated => (2, "task_updated"),
        EventType::Completed => (3, "task_completed"),
        EventType::Deleted => (4, "task_deleted"),
    };
    let status =
        ["unknown", "pending", "in_progress", "completed"].iter().position(|s| *s == event.data.status);
    let owner = event.data.owner_id.map_or(Value::Union(0, Box::new(Value::Null)), |owner| {
        Value::Union(1, Box::new(Value::Uuid(owner)))
    });
    let data = of([
        ("task_id", Value::Uuid(event.data.task_id)),
        ("title", Value::String(event.data.title.clone())),
        ("status", Value::Enum(status.unwrap() as u32, event.data.status.clone())),
        ("owner_id", owner),
    ]);
    let metadata = vec![
        ("correlation_id".to_owned(), Value::Uuid(event.metadata.correlation_id)),
        ("source".to_owned(), Value::String(event.metadata.source.clone())),
        ("actor".to_owned(), optional_text(event.metadata.actor.as_deref())),
    ];
    let mut record = of([
        ("event_id", Value::Uuid(event.event_id)),
        ("event_type", Value::Enum(type_index, symbol.to_owned())),
        ("occurred_at", Value::TimestampMicros(event.occurred_at.timestamp_micros())),
        ("data", Value::Record(data)),
    ]);
    record.push(("metadata".to_owned(), Value::Record(metadata)));
    Value::Record(record)
}

prop_compose! {
    fn events()(
        ids in any::<[u128; 4]>(),
        kind in 0..4_usize,
        status in 0..3_usize,
        micros in -62_167_219_200_000_000_i64..253_402_300_800_000_000,
        title in ".{0,60}",
        source in "\\PC{0,10}",
        actor in proptest::option::of("\\PC{0,10}"),
        owned in any::<bool>(),
    ) -> TaskEvent {
        let id = |n: usize| Uuid::from_u128(ids[n]);
        TaskEvent {
            event_id: id(0),
            event_type: EventType::ALL[kind],
            occurred_at: DateTime::<Utc>::from_timestamp_micros(micros).unwrap(),
            data: TaskData {
                task_id: id(1),
                title,
                status: ["pending", "in_progress", "completed"][status].to_owned(),
                owner_id: owned.then(|| id(2)),
            },
            metadata: Metadata { correlation_id: id(3), source, actor },
        }
    }
}

proptest! {
    #[test]
    fn our_bytes_are_those_of_apache_avro_and_read_back_as_the_event(event in events()) {
        let ours = encode(&event, ID).unwrap();
        prop_assert_eq!(&ours, &foreign(TASK_EVENT, &event, |_| {}));
        let read = read(&ours, TASK_EVENT, TASK_EVENT).unwrap();
        prop_assert_eq!(read.to_task_event().unwrap(), event);
    }

    /// The bytes of an event, changed anywhere: what we read is what apache-avro reads, and what we refuse is refused
    /// there, or for a reason that is ours.
    #[test]
    fn changed_bytes_are_read_as_apache_avro_reads_them(
        event in events(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let mut bytes = encode(&event, ID).unwrap();
        for (at, byte) in changes {
            let at = 5 + at.index(bytes.len() - 5);
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(5 + cut.index(bytes.len() - 5));
        }
        let schema = apache_avro::Schema::parse_str(TASK_EVENT).unwrap();
        let theirs = GenericDatumReader::builder(&schema).build().unwrap().read_value(&mut &bytes[5..]);
        match (read(&bytes, TASK_EVENT, TASK_EVENT), theirs) {
            (Ok(ours), Ok(theirs)) => {
                if let Some(event) = ours.to_task_event().filter(|event| event.data.status != "unknown") {
                    prop_assert_eq!(value(&event), theirs);
                }
            }
            (Ok(ours), Err(theirs)) => prop_assert!(false, "we read {:?}, they say {}", ours, theirs),
            // A text that is cut it takes for a shorter one, and a last number that is missing for 0.
            (Err(why), Ok(_)) => prop_assert!(
                why.contains("ends within a text") || why.contains("ends within a number") || why.contains("follow the event") || why.contains("outside of the years") || why.contains("uuid"),
                "they read it, we say {}", why
            ),
            (Err(_), Err(_)) => {}
        }
    }

    #[test]
    fn any_bytes_by_any_schema_are_read_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        kinds in proptest::collection::vec(0..12_usize, 0..6),
    ) {
        let kinds: Vec<&str> = kinds.into_iter().map(|kind| FOREIGN_TYPES[kind]).collect();
        let fields = kinds.iter().enumerate();
        let fields: String = fields.map(|(n, kind)| format!(",{}", kind.replace("NAME", &format!("f{n}")))).collect();
        let end = "\"doc\": \"Its owner, if it has one.\"\n          }";
        let writer = TASK_EVENT.replacen(end, &format!("{end}{fields}"), 1);
        // Everything is read by a reader who knows these fields, and passed over by one who does not.
        for reader in [TASK_EVENT, &writer] {
            let plan = plan(&writer, reader).unwrap();
            if let Ok(event) = plan.read(ID, &bytes) {
                prop_assert!(event.data.get().len() <= MAX_EVENT_BYTES);
            }
        }
        // Behind a sound start, so that these fields are reached.
        let event: TaskEvent = serde_json::from_value(golden_event("created").1).unwrap();
        let sound = encode(&event, ID).unwrap();
        let metadata = 37 + 1 + "task-api".len() + 1;
        let start = &sound[5..sound.len() - metadata];
        let value = [start, &bytes].concat();
        for reader in [TASK_EVENT, &writer] {
            if let Ok(event) = plan(&writer, reader).unwrap().read(ID, &value) {
                let data: Json = serde_json::from_str(event.data.get()).unwrap();
                prop_assert_eq!(data.as_object().unwrap().len(), if reader == TASK_EVENT { 4 } else { 4 + kinds.len() });
            }
        }
    }
}

/// Fields of a foreign schema.
const FOREIGN_TYPES: [&str; 12] = [
    r#"{"name":"NAME","type":"null"}"#,
    r#"{"name":"NAME","type":"boolean"}"#,
    r#"{"name":"NAME","type":{"type":"int","logicalType":"date"}}"#,
    r#"{"name":"NAME","type":{"type":"long","logicalType":"timestamp-nanos"}}"#,
    r#"{"name":"NAME","type":"double"}"#,
    r#"{"name":"NAME","type":"bytes"}"#,
    r#"{"name":"NAME","type":["null","string","float"]}"#,
    r#"{"name":"NAME","type":{"type":"fixed","name":"FNAME","size":3}}"#,
    r#"{"name":"NAME","type":{"type":"array","items":"null"}}"#,
    r#"{"name":"NAME","type":{"type":"map","values":"int"}}"#,
    r#"{"name":"NAME","type":{"type":"record","name":"RNAME","fields":[{"name":"a","type":"string"}]}}"#,
    r#"{"name":"NAME","type":{"type":"array","items":{"type":"array","items":"null"}}}"#,
];

/// The mapping of docs/schemas.md, type by type.
#[test]
fn each_type_has_its_json() {
    let fields = FOREIGN_TYPES
        .iter()
        .enumerate()
        .map(|(n, kind)| format!(",{}", kind.replace("NAME", &format!("f{n}"))));
    let end = "\"doc\": \"Its owner, if it has one.\"\n          }";
    let schema = TASK_EVENT.replacen(end, &format!("{end}{}", fields.collect::<String>()), 1);
    let event: TaskEvent = serde_json::from_value(golden_event("created").1).unwrap();
    let more = [
        Value::Null,
        Value::Boolean(true),
        Value::Date(-1),
        Value::TimestampNanos(1_500),
        Value::Double(f64::NAN),
        Value::Bytes(vec![0xff, 0]),
        Value::Union(1, Box::new(Value::String("a\"\u{1}".to_owned()))),
        Value::Fixed(3, vec![1, 2, 3]),
        Value::Array(vec![Value::Null, Value::Null]),
        Value::Map([("k".to_owned(), Value::Int(-5))].into()),
        Value::Record(vec![("a".to_owned(), Value::String(String::new()))]),
        Value::Array(Vec::new()),
    ];
    let value = foreign(&schema, &event, |record| {
        let Value::Record(data) = &mut record[3].1 else { panic!("a record") };
        data.extend(more.iter().enumerate().map(|(n, value)| (format!("f{n}"), value.clone())));
    });
    let read = read(&value, &schema, &schema).unwrap();
    let (_, extras) = read.data.get().split_once(r#""owner_id":null"#).unwrap();
    assert_eq!(
        extras,
        concat!(
            r#","f0":null,"f1":true,"f2":"1969-12-31","f3":"1970-01-01T00:00:00.000001Z","f4":"NaN","f5":"/wA=","#,
            r#""f6":"a\"\u0001","f7":"AQID","f8":[null,null],"f9":{"k":-5},"f10":{"a":""},"f11":[]}"#
        )
    );
}

#[test]
fn what_would_take_more_than_an_event_may_is_refused() {
    let event: TaskEvent = serde_json::from_value(golden_event("created").1).unwrap();
    let title =
        |text: String| TaskEvent { data: TaskData { title: text, ..event.data.clone() }, ..event.clone() };
    // Each control character is six in JSON.
    let large = encode(&title("\u{1}".repeat(MAX_EVENT_BYTES / 5)), ID).unwrap();
    assert!(read(&large, TASK_EVENT, TASK_EVENT).unwrap_err().contains("as JSON"));
    let fits = encode(&title("\u{1}".repeat(MAX_EVENT_BYTES / 7)), ID).unwrap();
    assert!(read(&fits, TASK_EVENT, TASK_EVENT).is_ok());
    // Items that take no bytes: a count is only claimed.
    let end = "\"doc\": \"Its owner, if it has one.\"\n          }";
    let schema = TASK_EVENT.replacen(end, &format!("{end},{}", FOREIGN_TYPES[8]), 1);
    let sound = encode(&event, ID).unwrap();
    let start = &sound[..sound.len() - (37 + 1 + "task-api".len())];
    let billions = [start, &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]].concat();
    for reader in [TASK_EVENT, &schema] {
        assert!(read(&billions, &schema, reader).unwrap_err().contains("too many items"));
    }
}
