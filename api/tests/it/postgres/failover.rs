//! Where connections lead: to another server after a failover, and past a host that answers nothing. What a replica has in flight
//! when it hands over.

use std::time::Duration;

use harness::{Fault, Postgres, Proxy};
use task_api::relay::Relay;
use task_api::store::{Filter, Store};
use task_events::database::DatabaseUrl;
use task_events::shutdown;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::replicas;
use crate::relay::Cluster;
use crate::store::{close, create, done};
use crate::support::{SOON, TOPIC, Writer, eventually};

/// Longer than a replica publishes when it stops, shorter than it waits for what is in flight.
const SLOW_PRODUCE: Duration = Duration::from_secs(2);

/// As where a network is cut between a primary and its standbys, and not between the primary and this replica.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_former_primary_that_still_answers_is_left_for_the_new_one() {
    let Some(former) = Postgres::start("-c fsync=off").unwrap() else { return };
    let Some(new) = Postgres::start("-c fsync=off").unwrap() else { return };
    for server in [&former, &new] {
        server.create_database("tasks").unwrap();
    }
    let (other, tasks) = Store::connect(&DatabaseUrl::new(&new.url("tasks")), true).await.unwrap();
    let there = done(&other, create("made by another replica")).await;
    close(other, Writer::Tasks(tasks)).await;

    let proxy = Proxy::start(0, former.port(), 1).await.unwrap();
    let url = former.url_at(proxy.port(), "tasks");
    let (store, tasks) = Store::connect(&DatabaseUrl::new(&url), true).await.unwrap();
    let mut turn = timeout(SOON, store.turn()).await.unwrap();
    done(&store, create("before")).await;
    // Each connection for reading.
    for _ in 0..4 {
        assert_eq!(store.task(there.id).await.unwrap(), None);
        assert_eq!(store.list(Filter::default(), None, 10).await.unwrap().tasks.len(), 1);
    }
    proxy.lead_to(new.port());
    let is_read = || async { store.task(there.id).await.is_ok_and(|task| task.is_some()) };
    eventually("a task of the new primary is read", is_read).await;
    for _ in 0..4 {
        assert_eq!(store.task(there.id).await.unwrap().as_ref(), Some(&there));
        let listed = store.list(Filter::default(), None, 10).await.unwrap().tasks;
        assert_eq!((listed.len(), listed.first()), (1, Some(&there)));
    }
    let late = done(&store, create("after")).await;
    let made = format!("SELECT count(*) FROM task_events.tasks WHERE id = '{}'", late.id);
    assert_eq!(new.sql("tasks", &made).unwrap().trim(), "1");
    // The turn of the former one is over.
    timeout(SOON, turn.lost()).await.unwrap();
    drop(turn);
    let _turn = timeout(SOON, store.turn()).await.unwrap();
    let holder = "SELECT count(*) FROM task_events.relay WHERE expires_at > now()";
    assert_eq!(new.sql("tasks", holder).unwrap().trim(), "1");
    close(store, Writer::Tasks(tasks)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_hosts_one_that_accepts_and_answers_nothing_hides_no_other() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    server.create_database("hosts").unwrap();
    // The system accepts for it, and nobody reads.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = format!("127.0.0.1:{}", server.port());
    let both = format!("127.0.0.1:{},{own}", silent.local_addr().unwrap().port());
    let url = server.url("hosts").replace(&own, &both);
    assert!(url.contains(&both), "the address names both");
    let (store, tasks) = Store::connect(&DatabaseUrl::new(&url), true).await.unwrap();
    let task = done(&store, create("t")).await;
    assert_eq!(store.task(task.id).await.unwrap(), Some(task));
    close(store, Writer::Tasks(tasks)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_stop_waits_for_the_request_in_flight_before_it_hands_over() {
    let Some((_, stores)) = replicas("in_flight", 2).await else { return };
    let cluster = Cluster::behind_proxy().await;
    cluster.create_topic(1, &[]).await;
    let proxy = cluster.proxy.as_ref().unwrap();
    let start = |store: &Store| {
        let (drain, draining) = shutdown::channel();
        (drain, tokio::spawn(Relay::new(store.clone(), cluster.kafka.clone(), TOPIC).run(draining)))
    };
    let is_published = async |title: &str| {
        let is_there = || async { cluster.titles().await.iter().any(|there| there == title) };
        eventually("the event is published", is_there).await;
    };
    let (stop, first) = start(&stores[0].0);
    done(&stores[0].0, create("before")).await;
    is_published("before").await;
    let (stop_other, other) = start(&stores[1].0);
    let produces = proxy.produces();
    proxy.next(&[Fault::Slow(SLOW_PRODUCE)]);
    done(&stores[1].0, create("in flight")).await;
    let is_sent = || async { proxy.produces() > produces };
    eventually("the request is in flight", is_sent).await;
    stop.stop();
    timeout(SOON, first).await.unwrap().unwrap();
    done(&stores[1].0, create("after")).await;
    is_published("after").await;
    assert_eq!(cluster.titles().await, ["before", "in flight", "after"]);
    stop_other.stop();
    timeout(SOON, other).await.unwrap().unwrap();
    cluster.broker.shutdown().await;
}
