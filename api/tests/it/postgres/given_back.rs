//! A replica that stops after an error of its turn: the row may be its own, and is given back.

use harness::{Postgres, Signal};
use reqwest::StatusCode;

use crate::process::Service;
use crate::relay::Cluster;
use crate::support::eventually;

/// A replica that publishes.
async fn publishing(server: &Postgres, database: &str, cluster: &Cluster) -> (Service, tempfile::TempDir) {
    server.create_database(database).unwrap();
    cluster.create_topic(1, &[]).await;
    let dir = tempfile::tempdir().unwrap();
    let service =
        Service::with_database(dir.path(), &cluster.address.to_string(), &server.url(database)).await;
    assert_eq!(service.post("t").send().await.unwrap().status(), StatusCode::CREATED);
    eventually("its event is published", || async { cluster.titles().await == ["t"] }).await;
    (service, dir)
}

/// Ends all connections to the database, as a restart of a pooler does.
fn end_connections(server: &Postgres, database: &str) {
    let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'");
    server.sql("postgres", &end).unwrap();
}

async fn stops_and_has_given_back(mut service: Service, server: &Postgres, database: &str) {
    service.signal(Signal::TERM);
    assert_eq!(service.ended().await.0, Some(0));
    // On a machine that is very slow, it has run out by then.
    let is_free = "SELECT expires_at <= clock_timestamp() FROM task_events.relay";
    assert_eq!(server.sql(database, is_free).unwrap(), "t", "{:?}", service.logged("turn"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_may_be_held_is_given_back_at_a_stop() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    let cluster = Cluster::start().await;
    let (service, _dir) = publishing(server, "may_be_held", &cluster).await;
    // From now on no turn can be claimed; what was claimed can be given back.
    server.sql("may_be_held", "ALTER TABLE task_events.relay RENAME COLUMN host TO former_host").unwrap();
    end_connections(server, "may_be_held");
    for line in ["the relay's turn is over", "the relay's turn cannot be taken"] {
        eventually(line, || async { !service.logged(line).is_empty() }).await;
    }
    stops_and_has_given_back(service, server, "may_be_held").await;
    cluster.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_whose_connection_broke_is_given_back_on_another_one() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    let cluster = Cluster::start().await;
    let (service, _dir) = publishing(server, "another_one", &cluster).await;
    end_connections(server, "another_one");
    stops_and_has_given_back(service, server, "another_one").await;
    cluster.broker.shutdown().await;
}
