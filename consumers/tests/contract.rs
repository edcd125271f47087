//! The formats of docs/contract.md: what the services write is, byte for byte, what the files in docs/contract
//! show. Ids, times and hosts, which differ each time, have those of the files.

mod world;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use task_events::event::{EventType, Metadata, TaskData, TaskEvent};
use task_events::offsets::{OffsetsRecord, parse};
use uuid::Uuid;
use world::{DLQ, OFFSETS, World, said, value, wait_for};

/// Fields of records whose values differ each time, with the values in the files.
const VOLATILE: &[(&str, &str)] = &[
    ("claim_id", "\"2fb1e8a6-97cf-4d6c-8c22-30ad6a8a1c7e\""),
    ("instance_id", "\"7da2923b-51a5-4d8e-a1f5-0c4d1bde7b7a\""),
    ("topic_id", "\"c5a3e1d2-8f5e-4f3a-9d1c-6f0f5f3f2b1a\""),
    ("joined_at", "\"2026-01-15T10:29:58.000000Z\""),
    ("claimed_at", "\"2026-01-15T10:29:58.000000Z\""),
    ("committed_at", "\"2026-01-15T10:30:00.100000Z\""),
    ("audited_at", "\"2026-01-15T10:30:00.050000Z\""),
    ("failed_at", "\"2026-01-15T10:30:00.050000Z\""),
    ("timestamp", "1768473000000"),
];

fn path(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/contract")).join(name)
}

fn golden(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Compares with the file, or writes it: `UPDATE_CONTRACT=1 cargo test -p consumers --test contract`.
fn is_documented(name: &str, text: &str) {
    if std::env::var_os("UPDATE_CONTRACT").is_some() {
        fs::write(path(name), text).unwrap();
    }
    assert_eq!(text, golden(name), "{name}");
}

/// The text with the values of the files in its volatile fields, in one line.
fn masked(bytes: &[u8]) -> String {
    let mut text = String::from_utf8(bytes.to_vec()).unwrap().trim_end().to_owned();
    for (field, value) in VOLATILE {
        let Some((before, after)) = text.split_once(&format!("\"{field}\":")) else { continue };
        let length = after.find([',', '}']).unwrap();
        text = format!("{before}\"{field}\":{value}{}", &after[length..]);
    }
    text + "\n"
}

/// Headers, one a line.
fn shown<'a>(headers: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> String {
    headers.into_iter().map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value))).collect()
}

fn event() -> TaskEvent {
    let id = |text: &str| text.parse::<Uuid>().unwrap();
    TaskEvent {
        event_id: id("019bc131-7a40-7469-bc7f-e6c9512a5bd3"),
        event_type: EventType::Created,
        occurred_at: "2026-01-15T10:30:00Z".parse().unwrap(),
        data: TaskData {
            task_id: id("019bc131-7a40-7478-974e-1b4bd0ab3f76"),
            title: "Water the plants".to_owned(),
            status: "pending".to_owned(),
            owner_id: None,
        },
        metadata: Metadata {
            actor: None,
            correlation_id: id("310147f7-357f-4a38-87d7-9f6426d04664"),
            source: "task-api".to_owned(),
        },
    }
}

#[test]
fn an_event_and_its_headers_are_as_documented() {
    let event = event();
    is_documented("event.json", &masked(&serde_json::to_vec(&event).unwrap()));
    let deleted = TaskEvent { event_type: EventType::Deleted, ..event.clone() };
    is_documented("event-deleted.json", &masked(&serde_json::to_vec(&deleted).unwrap()));
    let headers =
        event.headers("application/json", Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
    let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
    is_documented("event-headers.txt", &shown(headers));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_services_write_is_as_documented() {
    let world = World::start(1).await;
    let mut completed = event();
    completed.event_id = Uuid::now_v7();
    completed.event_type = EventType::Completed;
    world.produce(0, vec![value(&event()), Some(b"{\"event_id\":1}".to_vec()), value(&completed)]).await;
    let notifier = world.notifier("notification").await;
    let auditor = world.auditor("audit").await;
    wait_for("both groups at the end", || {
        ["notification", "audit"].iter().all(|group| world.position(group, 0) == Some(3))
    })
    .await;
    notifier.stop().await;
    auditor.stop().await;

    let log = fs::read(world.log("audit")).unwrap();
    let first = log.split(|byte| *byte == b'\n').next().unwrap();
    is_documented("audit-line.json", &masked(first));

    let letters = world.read(DLQ, 0, 2).await;
    let letter = letters
        .iter()
        .find(|letter| masked(letter.value.as_deref().unwrap()).contains("\"group\":\"audit\""))
        .unwrap();
    is_documented("dead-letter.json", &masked(letter.value.as_deref().unwrap()));
    let headers: BTreeMap<String, Vec<u8>> = letter
        .headers
        .iter()
        .map(|header| {
            (header.name_lossy().into_owned(), header.value.map(<[u8]>::to_vec).unwrap_or_default())
        })
        .collect();
    let stable = headers.iter().filter(|(name, _)| !name.ends_with("timestamp"));
    let stable = stable.map(|(name, value)| (name.as_str(), value.as_slice()));
    is_documented("dead-letter-headers.txt", &shown(stable));

    // The first claim of the group, the last commit, which is its release, and the member.
    let count = usize::try_from(world.records_of_offsets()).unwrap();
    let mut records = BTreeMap::new();
    for record in world.read(OFFSETS, 0, count).await {
        let key = String::from_utf8(record.key.unwrap().to_vec()).unwrap();
        let Some(bytes) = record.value.filter(|_| key.starts_with("audit/")) else { continue };
        assert!(parse(Some(key.as_bytes()), Some(&bytes)).is_ok(), "{key}");
        if let Some((before, id)) = key.rsplit_once("/member/") {
            assert!(id.parse::<Uuid>().is_ok(), "{id}");
            let key = format!("{before}/member/7da2923b-51a5-4d8e-a1f5-0c4d1bde7b7a");
            records.insert("member", format!("{key} {}", masked(&bytes)));
            continue;
        }
        let kind = if key.ends_with("/claim") { "claim" } else { "commit" };
        let (token, key) = match key.rsplit_once("commit/") {
            Some((before, token)) => (token.to_owned(), format!("{before}commit/0")),
            None => ("0".to_owned(), key),
        };
        assert!(token.parse::<i64>().is_ok(), "{token}");
        records.insert(kind, format!("{key} {}", masked(&bytes)));
    }
    is_documented("offsets-records.txt", &records.into_values().collect::<String>());

    for line in golden("log-lines.txt").lines() {
        wait_for(line, || said(line) > 0).await;
    }
}

#[test]
fn the_documented_offsets_records_are_read() {
    for line in golden("offsets-records.txt").lines() {
        let (key, value) = line.split_once(' ').unwrap();
        let read = parse(Some(key.as_bytes()), Some(value.as_bytes())).unwrap();
        let is_known = matches!(
            read,
            OffsetsRecord::Claim(_, Some(_))
                | OffsetsRecord::Commit(_, 0, Some(_))
                | OffsetsRecord::Member(_, _, Some(_))
        );
        assert!(is_known, "{line}");
    }
}
