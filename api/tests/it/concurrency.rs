//! Many clients at once.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::json;
use tokio::task::JoinSet;

use crate::support::App;

const CLIENTS: usize = 32;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_from_many_clients_makes_one_task() {
    let dir = tempfile::tempdir().unwrap();
    let app = Arc::new(App::start(dir.path()).await);
    for round in 0..5 {
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let call = app.call("POST", "/tasks").header("idempotency-key", format!("key {round}"));
            clients.spawn(async move { call.json(&json!({"title": "one"})).await });
        }
        let (mut created, mut refused) = (HashSet::new(), 0);
        while let Some(answer) = clients.join_next().await {
            let answer = answer.unwrap();
            match answer.status {
                201 => drop(created.insert(answer.json()["id"].to_string())),
                409 => refused += 1,
                other => panic!("{other}: {answer:?}"),
            }
        }
        assert_eq!(created.len(), 1, "{refused} were refused");
        assert_eq!(app.events().await.len(), round + 1);
    }
    assert_eq!(app.call("GET", "/tasks").send().await.json()["items"].as_array().unwrap().len(), 5);
    Arc::into_inner(app).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_clients_that_saw_one_version_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let app = Arc::new(App::start(dir.path()).await);
    let id = app.create("contended").await["id"].clone();
    let path = format!("/tasks/{}", id.as_str().unwrap());
    for version in 1..=10 {
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let call = app.call("PATCH", &path).header("if-match", format!("\"{version}\""));
            let title = format!("version {version} of client {client}");
            clients.spawn(async move { call.json(&json!({"title": title})).await });
        }
        let mut winners = Vec::new();
        while let Some(answer) = clients.join_next().await {
            let answer = answer.unwrap();
            match answer.status {
                200 => winners.push(answer.json()),
                412 => {}
                other => panic!("{other}: {answer:?}"),
            }
        }
        assert_eq!(winners.len(), 1, "{winners:?}");
        let now = app.call("GET", &path).send().await;
        assert_eq!(
            (now.json(), now.header("etag")),
            (winners.remove(0), format!("\"{}\"", version + 1).as_str())
        );
    }
    assert_eq!(app.events_of(&id).await.len(), 11);
    Arc::into_inner(app).unwrap().stop().await;
}
