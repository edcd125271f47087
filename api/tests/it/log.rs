//! The store's log from outside: what a former version left, what a bad disk or a person does to it, and what it
//! costs to open.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTableMetadata, TableDefinition};
use serde_json::{Value, json};
use task_api::store::{Delivered, Filter, IdempotencyKey, Outcome, Store};
use task_events::event::{TaskData, TaskEvent};
use uuid::Uuid;

use crate::relay::Cluster;
use crate::store::{close, create, done};
use crate::support::{App, Writer, eventually, is_postgres};

/// The tables of a former version.
pub const TASKS: TableDefinition<[u8; 16], &[u8]> = TableDefinition::new("tasks");
const BY_STATUS: TableDefinition<(u8, [u8; 16]), ()> = TableDefinition::new("tasks_by_status");
const BY_OWNER: TableDefinition<([u8; 16], u8, [u8; 16]), ()> = TableDefinition::new("tasks_by_owner");
pub const OUTBOX: TableDefinition<u64, &[u8]> = TableDefinition::new("outbox");
const POSITIONS: TableDefinition<i32, i64> = TableDefinition::new("positions");
const PUBLISHED_TOPIC: TableDefinition<(), (u128, i32)> = TableDefinition::new("published_topic");
const LAST_SEQ: TableDefinition<(), u64> = TableDefinition::new("last_seq");
const ANSWERS: TableDefinition<&str, &[u8]> = TableDefinition::new("answers");
const ANSWERS_BY_EXPIRY: TableDefinition<(u64, &str), ()> = TableDefinition::new("answers_by_expiry");

/// What may be in the place of an event.
const GARBAGE: [&[u8]; 4] = [b"", b"\0\xff", b"{}", br#"{"event":{"event_id":7}}"#];
/// When an answer of the former store expires: not while anybody runs this.
const FAR_AHEAD: u64 = 9_000_000_000_000;

/// A store as a former version wrote it: events 1 to 3 are delivered, of 4 to `events` those from 6 on that are even
/// cannot be read, as many as there is garbage. One answer is under a key.
pub fn write_former(dir: &Path, events: u64, position: i64) -> Vec<Value> {
    let mut tasks = Vec::new();
    let database = Database::create(dir.join("tasks.redb")).unwrap();
    let write = database.begin_write().unwrap();
    {
        let mut table = write.open_table(TASKS).unwrap();
        let mut by_status = write.open_table(BY_STATUS).unwrap();
        let mut by_owner = write.open_table(BY_OWNER).unwrap();
        let mut outbox = write.open_table(OUTBOX).unwrap();
        for seq in 1..=events {
            let id = Uuid::now_v7();
            let owner = (seq % 2 == 0).then(|| Uuid::from_u128(7));
            let time = "2026-01-15T10:30:00.000000Z";
            let title = format!("task {seq}");
            let task = json!({"id": id, "title": title, "status": "pending", "owner_id": owner,
                "version": 1, "created_at": time, "updated_at": time});
            table.insert(id.into_bytes(), serde_json::to_vec(&task).unwrap().as_slice()).unwrap();
            by_status.insert((0, id.into_bytes()), ()).unwrap();
            if let Some(owner) = owner {
                by_owner.insert((owner.into_bytes(), 0, id.into_bytes()), ()).unwrap();
            }
            let data = TaskData { task_id: id, title, status: "pending".to_owned(), owner_id: owner };
            let event = TaskEvent::task_created(data, Uuid::nil());
            let value = json!({"event": event, "traceparent": format!("trace {seq}")});
            if seq > 3 {
                outbox.insert(seq, serde_json::to_vec(&value).unwrap().as_slice()).unwrap();
            }
            tasks.push(task);
        }
        for (seq, garbage) in (6..).step_by(2).zip(GARBAGE) {
            outbox.insert(seq, garbage).unwrap();
        }
        write.open_table(POSITIONS).unwrap().insert(0, position).unwrap();
        write.open_table(PUBLISHED_TOPIC).unwrap();
        write.open_table(LAST_SEQ).unwrap().insert((), events).unwrap();
        let answer = json!({"fingerprint": "f".repeat(64), "expires_ms": FAR_AHEAD, "task": tasks[0]});
        let answer = serde_json::to_vec(&answer).unwrap();
        write.open_table(ANSWERS).unwrap().insert("key", answer.as_slice()).unwrap();
        write.open_table(ANSWERS_BY_EXPIRY).unwrap().insert((FAR_AHEAD, "key"), ()).unwrap();
    }
    write.commit().unwrap();
    tasks
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let is_segment = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
            name.strip_prefix("tasks.log-").is_some_and(|number| number.parse::<u64>().is_ok())
        })
    };
    let mut found: Vec<_> = names.filter(is_segment).collect();
    found.sort();
    found
}

#[tokio::test]
async fn a_store_of_a_former_version_goes_on_with_all_that_it_had() {
    const EVENTS: u64 = 5_000;
    let dir = tempfile::tempdir().unwrap();
    let tasks = write_former(dir.path(), EVENTS, 3);
    let (store, writer) = Store::open(dir.path()).unwrap();
    let waiting = EVENTS - 3;
    assert_eq!((store.outbox().borrow().waiting, store.outbox().borrow().last_seq), (waiting, EVENTS));
    assert_eq!(store.unreadable_values(), GARBAGE.len());
    assert_eq!(store.positions(), [(0, 3)]);
    let listed = store.list(Filter::default(), None, usize::MAX).await.unwrap().tasks;
    assert_eq!(serde_json::to_value(&listed).unwrap(), json!(tasks));
    let of_owner = Filter { owner_id: Some(Uuid::from_u128(7)), ..Filter::default() };
    let owned = store.list(of_owner, None, usize::MAX).await.unwrap().tasks;
    assert_eq!(owned.len() as u64, EVENTS / 2);

    // Its answers are known.
    let mut repeated = create("task 1");
    repeated.idempotency = Some(IdempotencyKey { key: "key".to_owned(), fingerprint: "f".repeat(64) });
    assert_eq!(done(&store, repeated.clone()).await.id, listed[0].id);
    repeated.idempotency = Some(IdempotencyKey { key: "key".to_owned(), fingerprint: "0".repeat(64) });
    assert_eq!(store.mutate(repeated).await.unwrap(), Outcome::KeyReused);

    // Its events come before new ones, and those that cannot be read are left out.
    let newest = done(&store, create("newest")).await;
    let garbage: BTreeSet<u64> = (6..).step_by(2).take(GARBAGE.len()).collect();
    let wanted: Vec<u64> = (4..=EVENTS + 1).filter(|seq| !garbage.contains(seq)).collect();
    let check = async |store: &Store| {
        let events = store.outbox_after(0, usize::MAX).await.unwrap();
        assert_eq!(events.iter().map(|entry| entry.seq).collect::<Vec<_>>(), wanted);
        let (first, last) = (events.first().unwrap(), events.last().unwrap());
        assert_eq!(first.event.data.title, "task 4");
        assert_eq!(first.traceparent.as_deref(), Some("trace 4"));
        assert_eq!(last.event.data.task_id, newest.id);
        assert_eq!(store.outbox().borrow().waiting, waiting + 1);
    };
    check(&store).await;
    close(store, Writer::Thread(writer)).await;

    // Nothing is moved a second time, and a former program does not go on with the file.
    let (store, writer) = Store::open(dir.path()).unwrap();
    check(&store).await;
    close(store, Writer::Thread(writer)).await;
    let database = Database::open(dir.path().join("tasks.redb")).unwrap();
    let read = database.begin_read().unwrap();
    assert_eq!(read.open_table(OUTBOX).unwrap().len().unwrap(), GARBAGE.len() as u64);
    assert!(matches!(read.open_table(PUBLISHED_TOPIC), Err(redb::TableError::TableTypeMismatch { .. })));
}

#[tokio::test]
async fn what_waited_in_a_former_version_is_published_in_order_before_what_is_new() {
    // It is about files.
    if is_postgres() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let former = write_former(dir.path(), 30, 0);
    let address = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let cluster = Cluster::at(address).await;
    cluster.create_topic(1, &[]).await;
    let app = App::with_kafka(dir.path(), &address.to_string()).await;
    app.create("newer").await;
    let waiting = || async { app.call("GET", "/readyz").send().await.json()["outbox"]["waiting"].clone() };
    eventually("all that can be read is delivered", || async { waiting().await == GARBAGE.len() }).await;
    let garbage: Vec<usize> = (6..).step_by(2).take(GARBAGE.len()).collect();
    let readable =
        (4..=30).filter(|seq| !garbage.contains(seq)).map(|seq| former[seq - 1]["title"].as_str().unwrap());
    let wanted: Vec<&str> = readable.chain(["newer"]).collect();
    assert_eq!(cluster.titles().await, wanted);
    let ready = app.call("GET", "/readyz").send().await.json();
    assert_eq!((&ready["status"], &ready["unreadable_values"]), (&json!("ready"), &json!(GARBAGE.len())));
    assert!(ready["kafka"]["waiting_for"].as_str().unwrap().contains("cannot be read"), "{ready}");
    app.stop().await;
    cluster.broker.shutdown().await;
}

#[tokio::test]
async fn an_event_whose_frame_is_damaged_stays_and_hides_none_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, writer) = Store::open(dir.path()).unwrap();
    let mut tasks = Vec::new();
    for number in 0..20 {
        tasks.push(done(&store, create(&format!("task {number}"))).await);
    }
    close(store, Writer::Thread(writer)).await;
    // The log is only the outbox now: the database has the tasks.
    let segment = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&segment).unwrap();
    for number in [3, 4, 9] {
        let title = format!("\"task {number}\"");
        let at = bytes.windows(title.len()).position(|window| window == title.as_bytes()).unwrap();
        bytes[at + 2] ^= 1;
    }
    fs::write(&segment, &bytes).unwrap();

    let (store, writer) = Store::open(dir.path()).unwrap();
    let found = store.outbox_after(0, usize::MAX).await.unwrap();
    let seqs: Vec<u64> = found.iter().map(|entry| entry.seq).collect();
    let whole: Vec<u64> = (1..=20).filter(|seq| ![4, 5, 10].contains(seq)).collect();
    assert_eq!(seqs, whole);
    assert_eq!(store.unreadable_values(), 2, "events 4 to 5, and event 10");
    assert_eq!(store.list(Filter::default(), None, usize::MAX).await.unwrap().tasks, tasks);
    // They still count, and what is delivered around them is not sent again.
    store.delivered(Delivered { seqs: whole.clone(), ..Delivered::default() }).await.unwrap();
    assert_eq!(store.outbox().borrow().waiting, 3);
    close(store, Writer::Thread(writer)).await;
    let (store, writer) = Store::open(dir.path()).unwrap();
    assert_eq!(store.outbox().borrow().waiting, 3);
    assert!(store.outbox_after(0, usize::MAX).await.unwrap().is_empty());
    done(&store, create("another")).await;
    assert_eq!(store.outbox_after(0, usize::MAX).await.unwrap()[0].seq, 21);
    close(store, Writer::Thread(writer)).await;
}

/// A copy of the files of a running store, as a kill leaves them.
fn killed(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    copy
}

#[tokio::test]
async fn a_log_that_is_damaged_missing_or_of_another_store_refuses_to_open_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let (store, writer) = Store::open(dir.path()).unwrap();
    let mut tasks = Vec::new();
    // More than one group may be, so that damage at the start is none of a torn end.
    let title = "x".repeat(500);
    for _ in 0..2_200 {
        tasks.push(done(&store, create(&title)).await);
    }
    let killed_one = killed(dir.path());
    let segment = segments(killed_one.path()).remove(0);
    let whole = fs::read(&segment).unwrap();
    let mut damaged = whole.clone();
    damaged[10_000] ^= 1;
    fs::write(&segment, &damaged).unwrap();
    let error = Store::open(killed_one.path()).unwrap_err().to_string();
    assert!(
        error.contains("tasks.log-1 is damaged at byte") && error.contains("move all of the log"),
        "{error}"
    );
    fs::write(&segment, &whole).unwrap();
    let (other, other_writer) = Store::open(killed_one.path()).unwrap();
    assert_eq!(other.list(Filter::default(), None, usize::MAX).await.unwrap().tasks, tasks);
    close(other, Writer::Thread(other_writer)).await;
    close(store, Writer::Thread(writer)).await;

    // Somebody has put another store's database beside it.
    let other_dir = tempfile::tempdir().unwrap();
    let (other, other_writer) = Store::open(other_dir.path()).unwrap();
    close(other, Writer::Thread(other_writer)).await;
    let mixed = killed(dir.path());
    fs::copy(other_dir.path().join("tasks.redb"), mixed.path().join("tasks.redb")).unwrap();
    let error = Store::open(mixed.path()).unwrap_err().to_string();
    assert!(error.contains("not of this store") && error.contains("restore the state folder"), "{error}");

    // The way out: without the log. The database has all tasks of a store that was closed.
    let moved = killed(dir.path());
    for segment in segments(moved.path()) {
        fs::remove_file(segment).unwrap();
    }
    let (store, writer) = Store::open(moved.path()).unwrap();
    assert_eq!(store.list(Filter::default(), None, usize::MAX).await.unwrap().tasks, tasks);
    assert_eq!(store.outbox().borrow().waiting, 0, "what waited is lost, which is logged");
    let next = done(&store, create("next")).await;
    assert!(next.id > tasks.last().unwrap().id);
    close(store, Writer::Thread(writer)).await;
    let (store, writer) = Store::open(moved.path()).unwrap();
    assert_eq!(store.task(next.id).await.unwrap(), Some(next));
    close(store, Writer::Thread(writer)).await;
}

/// What is delivered takes no space: segments are used again. What waits stays, over any number of starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_as_long_as_what_waits_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, mut writer) = Store::open(dir.path()).unwrap();
    let title = "x".repeat(500);
    let mut delivered = 0;
    let mut most = 0;
    for round in 0..4 {
        for _ in 0..10 {
            let mut batch = tokio::task::JoinSet::new();
            for _ in 0..500 {
                let (store, title) = (store.clone(), title.clone());
                batch.spawn(async move { done(&store, create(&title)).await });
            }
            batch.join_all().await;
            if round < 3 {
                let last = store.outbox().borrow().last_seq;
                let seqs = (delivered + 1..=last).collect();
                store.delivered(Delivered { seqs, ..Delivered::default() }).await.unwrap();
                delivered = last;
            }
            most = most.max(segments(dir.path()).len());
        }
        close(store, Writer::Thread(writer)).await;
        (store, writer) = Store::open(dir.path()).unwrap();
        if round < 3 {
            // Each round is 8 MB of log.
            assert!(most <= 6, "{most} segments");
        }
    }
    assert_eq!(store.outbox().borrow().waiting, 5_000);
    let events = store.outbox_after(0, usize::MAX).await.unwrap();
    assert_eq!(events.len(), 5_000);
    assert_eq!(events[0].seq, delivered + 1);
    assert!(segments(dir.path()).len() >= 2);
    close(store, Writer::Thread(writer)).await;
}
