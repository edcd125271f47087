//! A request to Kafka that has no answer when the turn under which it was sent ends: its events are in the topic once, and
//! none is behind a newer one of its task.

use std::time::Duration;

use harness::{Fault, Mode, Postgres, Proxy, Signal};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::process::Service;
use crate::relay::Cluster;
use crate::support::eventually;

/// Far below the lease, and enough for another turn to begin and to look for what was sent.
const TIME_TO_GO_WRONG: Duration = Duration::from_millis(1_500);
const NOT_GIVEN_BACK: &str = "is not given back";

/// A replica that publishes, and once it is held, one event of it whose request the leader holds.
struct Held {
    cluster: Cluster,
    service: Service,
    /// Requests before that one.
    before: usize,
    /// That of the event.
    task: String,
    _dir: tempfile::TempDir,
}

impl Held {
    async fn start(url: &str) -> Self {
        let cluster = Cluster::behind_proxy().await;
        cluster.create_topic(1, &[]).await;
        let dir = tempfile::tempdir().unwrap();
        let service = Service::with_database(dir.path(), &kafka(&cluster), url).await;
        assert_eq!(service.post("first").send().await.unwrap().status(), StatusCode::CREATED);
        let is_published = || async { cluster.titles().await == ["first"] };
        eventually("the first event is published", is_published).await;
        let before = produces(&cluster);
        Self { cluster, service, before, task: String::new(), _dir: dir }
    }

    async fn hold(&mut self) {
        self.cluster.proxy.as_ref().unwrap().next(&[Fault::Held]);
        let made: Value = self.service.post("held").send().await.unwrap().json().await.unwrap();
        self.task = made["id"].as_str().unwrap().to_owned();
        eventually("it is sent", || async { produces(&self.cluster) == self.before + 1 }).await;
    }

    async fn rename(&self, service: &Service) {
        let change = service.client.patch(format!("{}/tasks/{}", service.url, self.task));
        let change = change.body(json!({"title": "newer"}).to_string());
        // Refused where the database was away for long. Made twice, it changes nothing.
        let is_made =
            || async { change.try_clone().unwrap().send().await.unwrap().status() == StatusCode::OK };
        eventually("the task is renamed", is_made).await;
    }

    fn release(&self) {
        self.cluster.proxy.as_ref().unwrap().release();
    }

    /// Each event is there once, in order, with one request each.
    async fn published_once(self) {
        let is_published = || async { self.cluster.titles().await.contains(&"newer".to_owned()) };
        eventually("the newer event is published", is_published).await;
        assert_eq!(produces(&self.cluster) - self.before, 2, "none is sent twice");
        assert_eq!(self.cluster.titles().await, ["first", "held", "newer"]);
        self.cluster.broker.shutdown().await;
    }
}

fn kafka(cluster: &Cluster) -> String {
    cluster.address.to_string()
}

fn produces(cluster: &Cluster) -> usize {
    cluster.proxy.as_ref().unwrap().produces()
}

/// Stops it, and returns the lines that say that the turn is not given back.
async fn stopped(service: &mut Service) -> Vec<String> {
    let (code, _) = service.ended().await;
    assert_eq!(code, Some(0));
    service.logged(NOT_GIVEN_BACK)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_with_a_request_in_flight_is_not_given_back_at_a_stop() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    server.create_database("in_flight").unwrap();
    let url = server.url("in_flight");
    let mut held = Held::start(&url).await;
    let dir = tempfile::tempdir().unwrap();
    let other = Service::with_database(dir.path(), &kafka(&held.cluster), &url).await;
    held.hold().await;
    held.rename(&other).await;
    held.service.signal(Signal::TERM);
    assert_eq!(stopped(&mut held.service).await.len(), 1);
    // A turn that was given back would be taken, and what is held would not be found in the topic.
    tokio::time::sleep(TIME_TO_GO_WRONG).await;
    held.release();
    held.published_once().await;
    assert_eq!(other.logged("publishes the outbox").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_answered_meanwhile_is_waited_for_and_the_turn_given_back() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    server.create_database("in_flight_answered").unwrap();
    let url = server.url("in_flight_answered");
    let mut held = Held::start(&url).await;
    held.hold().await;
    held.service.signal(Signal::TERM);
    let is_stopping = || async { !held.service.logged("no more requests are taken").is_empty() };
    eventually("it stops", is_stopping).await;
    held.release();
    assert_eq!(stopped(&mut held.service).await, Vec::<String>::new());
    let free = "SELECT expires_at = '-infinity' AND holder IS NULL FROM task_events.relay";
    assert_eq!(server.sql("in_flight_answered", free).unwrap(), "t");
    let dir = tempfile::tempdir().unwrap();
    let other = Service::with_database(dir.path(), &kafka(&held.cluster), &url).await;
    held.rename(&other).await;
    held.published_once().await;
}

/// The same process takes it again at once, and finds in the topic only what could land before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_was_lost_with_a_request_in_flight_is_taken_again_after_its_answer() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    server.create_database("in_flight_lost").unwrap();
    let proxy = Proxy::start(0, server.port(), 1).await.unwrap();
    let mut held = Held::start(&server.url_at(proxy.port(), "in_flight_lost")).await;
    held.hold().await;
    proxy.set(Mode::Cut, 100);
    let is_lost = || async { !held.service.logged("the relay's turn is over").is_empty() };
    eventually("the turn is lost", is_lost).await;
    proxy.set(Mode::Pass, 100);
    tokio::time::sleep(TIME_TO_GO_WRONG).await;
    held.release();
    held.rename(&held.service).await;
    held.published_once().await;
}
