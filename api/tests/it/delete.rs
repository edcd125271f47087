//! `DELETE /tasks/{id}`: gone from everywhere, with one last event, also after a kill.

use serde_json::{Value, json};
use task_api::store::Store;
use task_api::task::Change;
use task_events::event::EventType;
use uuid::Uuid;

use crate::store::{change, close, create, done};
use crate::support::{App, Writer};

fn path(task: &Value) -> String {
    format!("/tasks/{}", task["id"].as_str().unwrap())
}

async fn listed(app: &App, query: &str) -> Vec<Value> {
    let page = app.call("GET", &format!("/tasks?{query}")).send().await;
    page.json()["items"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_deleted_task_is_gone_and_its_last_event_tells_it_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut app = App::start(dir.path()).await;
    let owner = Uuid::new_v4();
    let body = json!({"title": "short-lived", "owner_id": owner});
    let task = app.call("POST", "/tasks").json(&body).await.json();
    let kept = app.create("kept").await;
    let correlation_id = Uuid::new_v4().to_string();

    let deleted = app.call("DELETE", &path(&task)).header("x-correlation-id", &correlation_id).send().await;
    assert_eq!((deleted.status, deleted.body.len()), (204, 0), "{deleted:?}");

    for restarted in [false, true] {
        if restarted {
            app.stop().await;
            app = App::start(dir.path()).await;
        }
        for method in ["GET", "HEAD", "DELETE"] {
            assert_eq!(app.call(method, &path(&task)).send().await.status, 404, "{method}");
        }
        assert_eq!(app.call("PATCH", &path(&task)).json(&json!({"title": "again"})).await.status, 404);
        assert_eq!(app.call("POST", &format!("{}/complete", path(&task))).send().await.status, 404);
        assert_eq!(listed(&app, "").await, std::slice::from_ref(&kept));
        assert_eq!(listed(&app, "status=pending").await, std::slice::from_ref(&kept));
        assert_eq!(listed(&app, "order=created_desc").await, std::slice::from_ref(&kept));
        assert!(listed(&app, &format!("owner_id={owner}")).await.is_empty());
        let events = app.events().await;
        assert_eq!(events.len(), 3, "no event of a task that is gone");
        let last = &events[2].event;
        assert_eq!((last.event_type, last.data.title.as_str()), (EventType::Deleted, "short-lived"));
        assert_eq!(
            (last.data.owner_id, last.data.task_id.to_string()),
            (Some(owner), task["id"].as_str().unwrap().to_owned())
        );
        assert_eq!(last.metadata.correlation_id.to_string(), correlation_id);
    }
    app.stop().await;
}

#[tokio::test]
async fn a_body_is_ignored_and_conditions_and_keys_count_as_for_a_patch() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let task = app.create("t").await;
    let delete = || app.call("DELETE", &path(&task));
    assert_eq!(delete().header("if-match", "\"2\"").send().await.status, 412);
    assert_eq!(delete().header("if-match", "1").send().await.status, 400);
    assert_eq!(delete().header("if-none-match", "\"1\"").send().await.status, 412);
    assert_eq!(delete().header("if-none-match", "*").send().await.status, 412);
    assert_eq!(delete().header("content-encoding", "gzip").body("x").send().await.status, 415);
    assert_eq!(delete().header("origin", "http://elsewhere.example").body("x").send().await.status, 415);
    app.call("DELETE", &format!("{}?force=1", path(&task))).send().await.refused(422, &["force"]);
    delete().header("idempotency-key", "").send().await.refused(422, &["Idempotency-Key"]);
    assert_eq!(app.call("GET", &path(&task)).send().await.status, 200, "nothing of that deleted it");

    let keyed = || delete().header("idempotency-key", "once").header("if-match", "\"1\"");
    let first = keyed().body("{not json").send().await;
    assert_eq!((first.status, first.headers.contains_key("idempotent-replayed")), (204, false));
    let again = keyed().send().await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (204, "true"));
    assert_eq!(delete().send().await.status, 404, "without the key it is another request");
    delete().header("idempotency-key", "once").send().await.refused(422, &["Idempotency-Key"]);
    assert_eq!(app.events().await.len(), 2);
    // A refused one leaves its key free.
    let other = app.create("u").await;
    assert_eq!(delete().header("idempotency-key", "free").send().await.status, 404);
    let freed = app.call("DELETE", &path(&other)).header("idempotency-key", "free").send().await;
    assert_eq!(freed.status, 204);
    app.stop().await;
}

#[tokio::test]
async fn answers_under_a_key_outlive_their_task() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let post = || {
        let call = app.call("POST", "/tasks").header("idempotency-key", "made");
        async move { call.json(&json!({"title": "t"})).await }
    };
    let task = post().await;
    let patch = || {
        let call = app.call("PATCH", &path(&task.json())).header("idempotency-key", "changed");
        async move { call.json(&json!({"title": "u"})).await }
    };
    assert_eq!(patch().await.status, 200);
    assert_eq!(app.call("DELETE", &path(&task.json())).send().await.status, 204);
    let (made, changed) = (post().await, patch().await);
    assert_eq!((made.status, made.json(), made.header("idempotent-replayed")), (201, task.json(), "true"));
    assert_eq!((changed.status, changed.header("idempotent-replayed")), (200, "true"));
    assert_eq!(app.call("GET", &path(&task.json())).send().await.status, 404, "a repeat makes no task");
    assert_eq!(app.events().await.len(), 3);
    app.stop().await;
}

/// Whichever of the two comes first: no patch after the deletion, and the deletion is the last event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_races_patches_is_the_last_event() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let mut patches_after = 0;
    for _ in 0..30 {
        let task = app.create("raced").await;
        let patch = |title: &str| {
            let call = app.call("PATCH", &path(&task));
            let body = json!({"title": title});
            async move { call.json(&body).await.status }
        };
        let (first, deleted, second, third) =
            tokio::join!(patch("a"), app.call("DELETE", &path(&task)).send(), patch("b"), patch("c"));
        assert_eq!(deleted.status, 204);
        let patched = [first, second, third];
        assert!(patched.iter().all(|status| [200, 404].contains(status)), "{patched:?}");
        patches_after += patched.iter().filter(|status| **status == 404).count();
        let events = app.events_of(&task["id"]).await;
        let types: Vec<&str> = events.iter().map(|(event_type, ..)| event_type.as_str()).collect();
        let done = patched.iter().filter(|status| **status == 200).count();
        let expected = [vec!["task.created"], vec!["task.updated"; done], vec!["task.deleted"]].concat();
        assert_eq!(types, expected);
    }
    println!("{patches_after} patches came after the deletion");
    app.stop().await;
}

#[tokio::test]
async fn a_cursor_keeps_its_place_when_its_task_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let mut tasks = Vec::new();
    for number in 0..9 {
        tasks.push(app.create(&format!("task {number}")).await);
    }
    for order in ["created_asc", "created_desc"] {
        let first = app.call("GET", &format!("/tasks?limit=3&order={order}")).send().await.json();
        let last = first["items"][2].clone();
        // The last one of the page, and the first of the next.
        let at = tasks.iter().position(|task| *task == last).unwrap();
        let next = if order == "created_asc" { at + 1 } else { at - 1 };
        for gone in [at, next] {
            assert_eq!(app.call("DELETE", &path(&tasks[gone])).send().await.status, 204);
        }
        let cursor = first["next_cursor"].as_str().unwrap();
        let rest = listed(&app, &format!("order={order}&cursor={cursor}")).await;
        let mut expected: Vec<Value> =
            if order == "created_asc" { tasks[next + 1..].to_vec() } else { tasks[..next].to_vec() };
        if order == "created_desc" {
            expected.reverse();
        }
        assert_eq!(rest, expected, "{order}");
        tasks.remove(at.max(next));
        tasks.remove(at.min(next));
    }
    app.stop().await;
}

/// As a kill leaves it: the log has the deletions, the database does not yet.
#[tokio::test]
async fn a_deletion_outlives_a_kill_wherever_its_task_is() {
    let dir = tempfile::tempdir().unwrap();
    let (store, writer) = Store::open(dir.path()).unwrap();
    let old = done(&store, create("in the database")).await;
    close(store, Writer::Thread(writer)).await;
    let (store, writer) = Store::open(dir.path()).unwrap();
    let new = done(&store, create("in the log")).await;
    let kept = done(&store, create("kept")).await;
    for id in [old.id, new.id] {
        done(&store, change(Change::Delete(id))).await;
    }
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    close(store, Writer::Thread(writer)).await;
    // Killed; then stopped in order; then what that left.
    for dir in [copy.path(), copy.path(), dir.path()] {
        let (store, writer) = Store::open(dir).unwrap();
        let page = store.list(task_api::store::Query::default(), None, 10).await.unwrap();
        assert_eq!(page.tasks, std::slice::from_ref(&kept));
        for id in [old.id, new.id] {
            assert_eq!(store.task(id).await.unwrap(), None);
        }
        let events = store.outbox_after(0, usize::MAX).await.unwrap();
        let types: Vec<EventType> = events.iter().map(|entry| entry.event.event_type).collect();
        use EventType::{Created, Deleted};
        assert_eq!(types, [Created, Created, Created, Deleted, Deleted]);
        close(store, Writer::Thread(writer)).await;
    }
}
