//! `task-api` processes on one database.

use std::time::Duration;

use harness::{Mode, Postgres, Proxy, Signal};
use reqwest::StatusCode;
use serde_json::Value;
use task_api::store::import::Outcome;
use tokio::time::timeout;

use super::import::{execute, made, target};
use crate::process::Service;
use crate::relay::Cluster;
use crate::support::{NO_KAFKA, eventually};

/// Time for a process to end that does not start.
const LIMIT: Duration = Duration::from_secs(60);

/// Has the database note each time that the relay's turn is given back.
const NOTE_GIVEN_BACK: &str = "CREATE TABLE given_back (turn int8); \
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
    INSERT INTO public.given_back VALUES (NEW.turn); RETURN NEW; END $$; \
    CREATE TRIGGER note AFTER UPDATE ON task_events.relay FOR EACH ROW \
    WHEN (NEW.expires_at = '-infinity' AND OLD.expires_at > '-infinity') EXECUTE FUNCTION public.note()";

/// Posts a task, and waits for its event.
async fn posted(service: &Service, cluster: &Cluster, title: &str) {
    let response = service.post(title).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    let is_published = || async { cluster.titles().await.contains(&title.to_owned()) };
    eventually("the event is published", is_published).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_take_over_from_each_other_and_a_clean_stop_hands_over_at_once() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    server.create_database("service").unwrap();
    let cluster = Cluster::start().await;
    cluster.create_topic(1, &[]).await;
    let (kafka, url) = (cluster.broker.addr().to_string(), server.url("service"));
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut one = Service::with_database(dirs[0].path(), &kafka, &url).await;
    posted(&one, &cluster, "by the first").await;
    let mut other = Service::with_database(dirs[1].path(), &kafka, &url).await;
    posted(&other, &cluster, "by the second, published by the first").await;
    let (status, list) = other.get("/tasks").await;
    assert_eq!((status, list["items"].as_array().map(Vec::len)), (StatusCode::OK, Some(2)));
    let (status, body) = other.get("/readyz").await;
    assert_eq!((status, &body["store_failure"]), (StatusCode::OK, &Value::Null), "{body}");

    // A clean stop gives the turn back, which is not left to its lease.
    server.sql("service", NOTE_GIVEN_BACK).unwrap();
    one.signal(Signal::TERM);
    assert_eq!(one.ended().await.0, Some(0));
    assert_eq!(server.sql("service", "SELECT count(*) > 0 FROM given_back").unwrap(), "t");
    posted(&other, &cluster, "after the stop").await;
    let takes_over = || async { !other.logged("publishes the outbox").is_empty() };
    eventually("it is logged who publishes", takes_over).await;
    let (_, body) = other.get("/readyz").await;
    assert_eq!(body["kafka"], serde_json::json!({"reachable": true, "waiting_for": null}));

    // After a kill the lease has to run out.
    let third = Service::with_database(dirs[2].path(), &kafka, &url).await;
    other.signal(Signal::KILL);
    other.ended().await;
    posted(&third, &cluster, "after the kill").await;
    let titles = cluster.titles().await;
    assert_eq!(titles.len(), 4, "{titles:?}");
    cluster.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_starts_before_its_database_says_so_and_serves_once_it_is_there() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    server.create_database("early").unwrap();
    let cluster = Cluster::start().await;
    cluster.create_topic(1, &[]).await;
    let proxy = Proxy::start(0, server.port(), 1).await.unwrap();
    proxy.set(Mode::Cut, 100);
    let kafka = cluster.broker.addr().to_string();
    let url = server.url_at(proxy.port(), "early");
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let service = Service::with_database(dirs[0].path(), &kafka, &url).await;
    assert_eq!(service.get("/healthz").await.0, StatusCode::OK);
    let (status, body) = service.get("/readyz").await;
    let why = body["store_failure"].as_str().unwrap_or_default();
    assert!(
        status == StatusCode::SERVICE_UNAVAILABLE && why.contains("database early at"),
        "{status} {body}"
    );
    let refused = service.post("early").send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key("retry-after"), "{refused:?}");
    assert_eq!(service.get("/tasks").await.0, StatusCode::SERVICE_UNAVAILABLE);
    // It can be stopped in that state.
    let mut other = Service::with_database(dirs[1].path(), &kafka, &url).await;
    other.signal(Signal::TERM);
    assert_eq!(other.ended().await.0, Some(0));

    proxy.set(Mode::Pass, 100);
    let is_ready = || async { service.get("/readyz").await.0 == StatusCode::OK };
    eventually("the service is ready", is_ready).await;
    posted(&service, &cluster, "once it is there").await;
    cluster.broker.shutdown().await;
}

/// It is known why it is not served; and a database without its tasks ends the process in order, also later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_moved_says_what_its_database_lacks_and_ends_in_order_without_its_tasks() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    let dir = tempfile::tempdir().unwrap();
    made(dir.path(), "moved").await;
    let (url, _) = target(server, "moved_late").await;
    assert_eq!(execute(dir.path(), &url).await.outcome, Outcome::Moved);
    server.sql("moved_late", "DELETE FROM task_events.moves").unwrap();
    let proxy = Proxy::start(0, server.port(), 1).await.unwrap();
    proxy.set(Mode::Cut, 100);
    let url = server.url_at(proxy.port(), "moved_late");
    let mut service = Service::with_database(dir.path(), NO_KAFKA, &url).await;
    let (status, body) = service.get("/readyz").await;
    let why = body["store_failure"].as_str().unwrap_or_default();
    assert!(
        status == StatusCode::SERVICE_UNAVAILABLE && !why.is_empty() && !why.contains("schema"),
        "{status} {body}"
    );
    proxy.set(Mode::Pass, 100);
    let (code, _) = service.ended().await;
    assert_eq!(code, Some(1));
    assert_eq!(service.logged("does not have the tasks").len(), 1);
    assert_eq!(service.logged("no more requests are taken").len(), 1, "requests end in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_store_is_not_left_out_silently() {
    let dir = tempfile::tempdir().unwrap();
    drop(Service::start(dir.path()).await);
    let ran = tokio::process::Command::new(env!("CARGO_BIN_EXE_task-api"))
        .env_clear()
        .env("STATE_DIR", dir.path())
        .env("PORT", "0")
        .env("DATABASE_URL", "postgres://127.0.0.1:1/db")
        .kill_on_drop(true)
        .output();
    let ran = timeout(LIMIT, ran).await.expect("it ends").unwrap();
    let text = String::from_utf8(ran.stderr).unwrap() + &String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.code() == Some(1) && text.contains("embedded store"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_address_ends_the_process_with_one_line_that_hides_the_password() {
    let dir = tempfile::tempdir().unwrap();
    for url in ["postgres://u:hush@127.0.0.1:1/db?sslmode=prefer", "postgres://u:hush@h:port/db", "hush"] {
        let ran = tokio::process::Command::new(env!("CARGO_BIN_EXE_task-api"))
            .env_clear()
            .env("STATE_DIR", dir.path())
            .env("PORT", "0")
            .env("DATABASE_URL", url)
            .kill_on_drop(true)
            .output();
        let ran = timeout(LIMIT, ran).await.expect("it ends").unwrap();
        let text = String::from_utf8(ran.stderr).unwrap() + &String::from_utf8(ran.stdout).unwrap();
        assert!(ran.status.code() == Some(1) && text.contains("TE0208") && !text.contains("hush"), "{text}");
    }
}
