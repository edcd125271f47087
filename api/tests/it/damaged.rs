//! Stored values that cannot be read, as a bad disk, a wrong restore or a newer program leaves them: each fails
//! what needs it, by name, and nothing else.

use std::path::Path;

use redb::{Database, ReadableTable, TableDefinition};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::{App, is_postgres};

const TASKS: TableDefinition<[u8; 16], &[u8]> = TableDefinition::new("tasks");
const BY_STATUS: TableDefinition<(u8, [u8; 16]), ()> = TableDefinition::new("tasks_by_status");
const ANSWERS: TableDefinition<u64, &[u8]> = TableDefinition::new("answers_by_number");
/// Its bytes in a stored answer.
const EXPIRES_MS: std::ops::Range<usize> = 1..9;

/// What may be in the place of a stored value.
const GARBAGE: [&[u8]; 6] =
    [b"", b"\0\xff", b"{", b"{}", br#"{"id":"x"}"#, br#"{"event":{"event_id":7},"fingerprint":1}"#];

/// Changes the file of a store that is closed.
fn damage(dir: &Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let database = Database::open(dir.join("tasks.redb")).unwrap();
    let write = database.begin_write().unwrap();
    change(&write);
    write.commit().unwrap();
}

fn id(task: &Value) -> Uuid {
    task["id"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_task_that_cannot_be_read_fails_its_own_calls_only() {
    // It is about files.
    if is_postgres() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let mut tasks = Vec::new();
    for number in 0..=GARBAGE.len() * 2 {
        tasks.push(app.create(&format!("task {number}")).await);
    }
    app.stop().await;
    damage(dir.path(), |write| {
        let mut table = write.open_table(TASKS).unwrap();
        for (number, garbage) in GARBAGE.into_iter().enumerate() {
            table.insert(id(&tasks[number * 2 + 1]).into_bytes(), garbage).unwrap();
        }
    });

    let app = App::start(dir.path()).await;
    for (number, task) in tasks.iter().enumerate() {
        let path = format!("/tasks/{}", task["id"].as_str().unwrap());
        let calls = [("GET", path.clone()), ("PATCH", path.clone()), ("POST", format!("{path}/complete"))];
        for (method, path) in calls {
            let answer = app.call(method, &path).json(&json!({"title": "changed"})).await;
            if number % 2 == 0 {
                assert_eq!(answer.status, 200, "{answer:?}");
            } else {
                answer.refused(500, &[]);
                let detail = answer.json()["detail"].as_str().unwrap().to_owned();
                assert!(detail.contains(task["id"].as_str().unwrap()), "{detail}");
            }
        }
    }
    // All of them at once, as one batch: those that are whole are changed.
    let mut batch = JoinSet::new();
    for task in &tasks {
        let complete = format!("/tasks/{}/complete", task["id"].as_str().unwrap());
        let (post, create) = (app.call("POST", &complete), app.call("POST", "/tasks"));
        batch.spawn(async move { post.send().await.status });
        batch.spawn(async move { create.json(&json!({"title": "new"})).await.status });
    }
    let statuses = batch.join_all().await;
    let count = |status: u16| statuses.iter().filter(|each| **each == status).count();
    assert_eq!((count(201), count(200), count(500)), (tasks.len(), GARBAGE.len() + 1, GARBAGE.len()));

    // Pages of any size give all others, each once.
    let whole: Vec<&Value> = tasks.iter().step_by(2).map(|task| &task["id"]).collect();
    for query in ["limit=1", "limit=2", "limit=5", "limit=200", "limit=3&status=completed"] {
        let mut found = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = app.call("GET", &format!("/tasks?{query}{cursor}")).send().await.json();
            found.extend(page["items"].as_array().unwrap().iter().map(|task| task["id"].clone()));
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert!(found.is_sorted_by(|one, other| one.as_str() < other.as_str()));
        assert_eq!(found.iter().take(whole.len()).collect::<Vec<_>>(), whole, "{query}");
    }
    let ready = app.call("GET", "/readyz").send().await.json();
    assert_eq!((&ready["status"], &ready["unreadable_values"]), (&json!("ready"), &json!(GARBAGE.len())));
    let metrics = String::from_utf8(app.call("GET", "/metrics").send().await.body).unwrap();
    assert!(
        metrics.contains(&format!("\ntask_api_store_unreadable_values {}\n", GARBAGE.len())),
        "{metrics}"
    );
    app.stop().await;
}

#[tokio::test]
async fn an_index_entry_without_its_task_is_left_out_of_a_page() {
    // It is about files.
    if is_postgres() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let tasks = [app.create("a").await, app.create("b").await];
    app.stop().await;
    damage(dir.path(), |write| {
        let mut index = write.open_table(BY_STATUS).unwrap();
        for (status, id) in [(0, Uuid::nil()), (2, id(&tasks[0])), (9, id(&tasks[1]))] {
            index.insert((status, id.into_bytes()), ()).unwrap();
        }
    });
    let app = App::start(dir.path()).await;
    let pending = app.call("GET", "/tasks?status=pending").send().await.json();
    assert_eq!(pending["items"], json!(tasks));
    let completed = app.call("GET", "/tasks?status=completed").send().await.json();
    assert_eq!(completed["items"], json!([]));
    assert_eq!(app.call("GET", "/readyz").send().await.json()["unreadable_values"], 2);
    app.stop().await;
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_fails_its_key_only_and_expires() {
    // It is about files.
    if is_postgres() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let post = |app: &App, key: &str| {
        let call = app.call("POST", "/tasks").header("idempotency-key", key);
        async move { call.json(&json!({"title": "t"})).await }
    };
    for key in ["a", "b", "c"] {
        assert_eq!(post(&app, key).await.status, 201);
    }
    app.stop().await;
    for garbage in GARBAGE {
        damage(dir.path(), |write| {
            write.open_table(ANSWERS).unwrap().insert(0, garbage).unwrap();
        });
        let app = App::start(dir.path()).await;
        let events = app.events().await.len();
        for _ in 0..2 {
            let refused = post(&app, "a").await;
            refused.refused(500, &[]);
            assert!(refused.json()["detail"].as_str().unwrap().contains("\"a\""), "{refused:?}");
            assert_eq!(post(&app, "c").await.status, 201);
        }
        assert_eq!(app.events().await.len(), events, "nothing was done a second time");
        app.stop().await;
    }
    damage(dir.path(), |write| {
        let mut answers = write.open_table(ANSWERS).unwrap();
        let mut expired = answers.get(1).unwrap().unwrap().value().to_owned();
        expired[EXPIRES_MS].copy_from_slice(&1_u64.to_le_bytes());
        answers.insert(1, expired.as_slice()).unwrap();
    });
    // What has expired is forgotten when the database takes other changes: at the latest when the store is closed.
    let app = App::start(dir.path()).await;
    app.create("another").await;
    app.stop().await;
    let app = App::start(dir.path()).await;
    let events = app.events().await.len();
    for key in ["a", "b", "c"] {
        assert_eq!(post(&app, key).await.status, 201);
    }
    assert_eq!(app.events().await.len(), events + 2, "the keys a and b are free again");
    app.stop().await;
}
