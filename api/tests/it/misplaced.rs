//! A store whose file somebody deletes, moves, replaces or empties: nothing is answered that is not in its place.

use std::fs;

use serde_json::json;
use task_api::store::{Delivered, Store, StoreError};

use crate::store::{create, done};
use crate::support::{App, eventually, is_postgres};

#[tokio::test]
async fn while_its_file_is_elsewhere_changes_are_refused_and_events_still_leave() {
    let dir = tempfile::tempdir().unwrap();
    let (place, elsewhere) = (dir.path().join("tasks.redb"), dir.path().join("elsewhere"));
    let (store, writer) = Store::open(dir.path()).unwrap();
    let task = done(&store, create("before")).await;

    fs::rename(&place, &elsewhere).unwrap();
    for replaced in [false, true] {
        if replaced {
            fs::copy(&elsewhere, &place).unwrap();
        }
        let refused = store.mutate(create("into the void")).await;
        let Err(StoreError::Refused(failure)) = refused else { panic!("{refused:?}") };
        let said = failure.to_string();
        assert!(
            said.contains("tasks.redb was deleted, moved or replaced") && said.contains("back"),
            "{said}"
        );
        assert_eq!(store.failure(), Some(said));
        assert_eq!(store.task(task.id).await.unwrap().as_ref(), Some(&task), "reads go on");
    }
    // What Kafka has is noted in the file that is open, wherever that is.
    store.delivered(Delivered { seqs: vec![1], position: Some(1), ..Delivered::default() }).await.unwrap();
    assert_eq!(store.outbox().borrow().waiting, 0);

    fs::rename(&elsewhere, &place).unwrap();
    done(&store, create("after")).await;
    assert_eq!(store.failure(), None);
    drop(store);
    tokio::task::spawn_blocking(move || writer.join()).await.unwrap().unwrap();
}

#[tokio::test]
async fn readiness_tells_that_the_file_is_gone_also_while_nothing_is_changed() {
    // It is about files.
    if is_postgres() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("tasks.redb");
    let app = App::start(dir.path()).await;
    assert_eq!(app.call("GET", "/readyz").send().await.status, 200);
    fs::remove_file(&place).unwrap();
    eventually("readiness to say it", async || app.call("GET", "/readyz").send().await.status == 503).await;
    let answer = app.call("POST", "/tasks").json(&json!({"title": "t"})).await;
    assert_eq!(answer.status, 503);
    assert!(answer.json()["detail"].as_str().unwrap().contains("copy it from /proc/"), "{answer:?}");
    app.stop().await;
}

#[test]
fn an_empty_or_damaged_file_is_refused_and_not_taken_for_a_new_store() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("tasks.redb");
    for content in [&b""[..], b"no database", &[0; 4096]] {
        fs::write(&place, content).unwrap();
        let error = Store::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("tasks.redb") && error.contains("restore the state folder"), "{error}");
        assert_eq!(fs::read(&place).unwrap(), content, "it is left as it was found");
    }
}
