//! The relay with several partitions: one that is down, more or fewer than before, and what it says meanwhile.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, SubsecRound, Utc};
use harness::Fault;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::{CreatePartitionsRequest, RequestHeader, TopicName};
use kafka_protocol::protocol::{Encodable, StrBytes, encode_request_header_into_buffer};
use serde_json::{Value, json};
use task_api::relay::WINDOW;
use task_events::kafka::OffsetAt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::relay::{
    Cluster, all_delivered, create_numbered, free_address, ready, until_landed_in_time, value,
};
use crate::store::{create, done, load};
use crate::support::{App, TOPIC, eventually, is_postgres};

impl Cluster {
    /// Gives the topic more partitions.
    async fn add_partitions(&self, count: i32) {
        let topic = CreatePartitionsTopic::default()
            .with_name(TopicName(StrBytes::from_static_str(TOPIC)))
            .with_count(count);
        let request = CreatePartitionsRequest::default().with_timeout_ms(5_000).with_topics(vec![topic]);
        let header = RequestHeader::default().with_request_api_key(37).with_request_api_version(1);
        let mut frame = bytes::BytesMut::from(&[0; 4][..]);
        encode_request_header_into_buffer(&mut frame, &header).unwrap();
        request.encode(&mut frame, 1).unwrap();
        let length = frame.len() as u32 - 4;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        let mut stream = TcpStream::connect(self.broker.addr()).await.unwrap();
        stream.write_all(&frame).await.unwrap();
        let mut answer = vec![0; stream.read_u32().await.unwrap() as usize];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(self.kafka.partition_count(TOPIC).await.unwrap(), count, "{answer:?}");
    }

    /// For each task the partitions of its events and their versions, partition by partition.
    async fn events_by_task(&self, partitions: i32) -> BTreeMap<String, Vec<(i32, String)>> {
        let mut tasks: BTreeMap<String, Vec<(i32, String)>> = BTreeMap::new();
        for number in 0..partitions {
            for record in self.records(number).await {
                let event = value(&record);
                let task = event["data"]["task_id"].as_str().unwrap().to_owned();
                let title = event["data"]["title"].as_str().unwrap().to_owned();
                tasks.entry(task).or_default().push((number, title));
            }
        }
        tasks
    }
}

const CLIENTS: usize = 50;

/// So many tasks, a multiple of [`CLIENTS`].
async fn create_many(app: &App, count: usize) {
    load(&app.store, CLIENTS, count / CLIENTS, |store, client, number| async move {
        done(&store, create(&format!("task {client}-{number}"))).await;
    })
    .await;
}

async fn rename(app: &App, id: &Value, title: &str) {
    let path = format!("/tasks/{}", id.as_str().unwrap());
    assert_eq!(app.call("PATCH", &path).json(&json!({"title": title})).await.status, 200);
}

/// More events than its window holds wait for a partition that is down. The others go on, and afterwards it
/// gets them all, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_is_down_holds_up_only_its_own_events() {
    const PARTITIONS: i32 = 3;
    const DOWN: i32 = 1;
    const LONE: usize = 20;
    let cluster = Cluster::behind_proxy().await;
    cluster.create_topic(PARTITIONS, &[]).await;
    let proxy = cluster.proxy.clone().unwrap();
    let app = cluster.app().await;
    create_numbered(&app, 0..10).await;
    all_delivered(&app).await;

    proxy.take_down(Some(DOWN));
    let total = PARTITIONS as usize * (WINDOW + 500);
    create_many(&app, total).await;
    let count =
        async |number| cluster.kafka.list_offset(TOPIC, number, OffsetAt::Latest).await.unwrap() as usize;
    let of_the_others = async || {
        let (one, other) = (count(0).await, count(2).await);
        (one + other, 10 + total - (one + other) - count(DOWN).await)
    };
    eventually("the healthy partitions have all of their events", || async {
        let (_, missing) = of_the_others().await;
        app.store.outbox().borrow().waiting as usize == missing && missing < total / 2
    })
    .await;
    let waiting = app.store.outbox().borrow().waiting as usize;
    assert!(waiting > WINDOW, "{waiting} wait, more than a window");
    eventually("only the partition that is down is waited for", || async {
        let status = ready(&app).await;
        let waiting_for = status["kafka"]["waiting_for"].to_string();
        status["kafka"]["reachable"] == true
            && waiting_for.contains("task-events/1")
            && !waiting_for.contains("task-events/2")
    })
    .await;
    // A lone event passes by all those that wait. By chance, of so many one is for a partition that is not down.
    let before = of_the_others().await.0;
    create_numbered(&app, 0..LONE).await;
    eventually("new events of healthy partitions", || async { of_the_others().await.0 > before }).await;

    proxy.take_down(None);
    all_delivered(&app).await;
    let mut found = 0;
    for number in 0..PARTITIONS {
        let records = cluster.records(number).await;
        let ids: Vec<String> = records
            .iter()
            .map(|record| value(record)["data"]["task_id"].as_str().unwrap().to_owned())
            .collect();
        // Two writers make tasks in PostgreSQL: their ids rise with the commits of each.
        let in_order = is_postgres() || ids.is_sorted();
        let unique: HashSet<&String> = ids.iter().collect();
        assert!(in_order && unique.len() == ids.len(), "each once and in order in {number}");
        found += ids.len();
    }
    assert_eq!(found, 10 + total + LONE);
    eventually("nothing is waited for", || async { ready(&app).await["kafka"]["waiting_for"].is_null() })
        .await;
    app.stop().await;
    cluster.broker.shutdown().await;
}

/// An event that waited for Kafka is as old as its sending for the topic's retention, and keeps its own time.
#[tokio::test]
async fn a_record_has_the_time_of_its_sending_and_keeps_that_of_its_event() {
    let dir = tempfile::tempdir().unwrap();
    let address = free_address();
    let app = App::with_kafka(dir.path(), &address.to_string()).await;
    create_numbered(&app, 0..1).await;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let started = Utc::now().trunc_subsecs(3);
    let cluster = Cluster::at(address).await;
    cluster.create_topic(1, &[("message.timestamp.type", "CreateTime")]).await;
    all_delivered(&app).await;
    let records = cluster.records(0).await;
    assert!(records[0].record.timestamp >= started, "{} sent, {started}", records[0].record.timestamp);
    let occurred_at = value(&records[0])["occurred_at"].as_str().unwrap().to_owned();
    assert_eq!(records[0].record.headers["ce_time"], occurred_at.as_bytes());
    assert!(occurred_at.parse::<DateTime<Utc>>().unwrap() < started);
    app.stop().await;
    cluster.broker.shutdown().await;
}

/// The events of a task that moves to another partition: those in the old one come before those in the new.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_partitions_reorder_no_task() {
    until_landed_in_time(more_partitions).await;
}

async fn more_partitions() -> bool {
    let cluster = Cluster::behind_proxy().await;
    cluster.create_topic(1, &[]).await;
    let proxy = cluster.proxy.clone().unwrap();
    let app = cluster.app().await;
    let mut ids = Vec::new();
    for number in 0..20 {
        ids.push(app.create(&format!("{number} version 00")).await["id"].clone());
    }
    let mut changed = false;
    for version in 1..=60 {
        if version == 20 {
            cluster.add_partitions(4).await;
            proxy.next(&[Fault::AnswerLost, Fault::Lost, Fault::LandsLate]);
            changed = true;
        }
        for (number, id) in ids.iter().enumerate() {
            rename(&app, id, &format!("{number} version {version:02}")).await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(if changed { 150 } else { 1 })).await;
    }
    all_delivered(&app).await;
    let is_undisturbed = cluster.has_landed_in_time();
    if is_undisturbed {
        let tasks = cluster.events_by_task(4).await;
        assert_eq!(tasks.len(), 20);
        let mut moved = 0;
        for events in tasks.values() {
            let titles: Vec<_> = events.iter().map(|(_, title)| title).collect();
            assert_eq!(titles.len(), 61, "each once: {events:?}");
            assert!(titles.is_sorted(), "in order: {events:?}");
            moved += usize::from(events[0].0 != events[60].0);
        }
        assert!(moved > 5, "the new partitions are used, by {moved} of 20 tasks");
    }
    app.stop().await;
    cluster.broker.shutdown().await;
    is_undisturbed
}

/// The count changes while the service is down, and what was sent last is unclear.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_partitions_after_a_restart_make_no_copies() {
    let cluster = Cluster::behind_proxy().await;
    cluster.create_topic(1, &[]).await;
    let proxy = cluster.proxy.clone().unwrap();
    let app = cluster.app().await;
    let id = app.create("version 0").await["id"].clone();
    all_delivered(&app).await;
    proxy.next(&[Fault::AnswerHangs]);
    let before = proxy.produces();
    rename(&app, &id, "version 1").await;
    eventually("it is sent", || async { proxy.produces() > before }).await;
    eventually("it has landed", || async { cluster.records(0).await.len() == 2 }).await;
    rename(&app, &id, "version 2").await;
    app.stop().await;

    cluster.add_partitions(7).await;
    let app = cluster.app().await;
    all_delivered(&app).await;
    eventually("the new count is used", || async {
        let topic = app.store.published_topic();
        topic.is_some_and(|topic| topic.partitions == 7)
    })
    .await;
    rename(&app, &id, "version 3").await;
    all_delivered(&app).await;
    let events = cluster.events_by_task(7).await;
    let titles: Vec<_> = events[id.as_str().unwrap()].iter().map(|(_, title)| title.as_str()).collect();
    assert_eq!(titles, ["version 0", "version 1", "version 2", "version 3"]);
    app.stop().await;
    cluster.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_created_again_with_fewer_partitions_goes_on_in_order() {
    let cluster = Cluster::start().await;
    cluster.create_topic(5, &[]).await;
    let app = cluster.app().await;
    let mut ids = Vec::new();
    for number in 0..10 {
        ids.push(app.create(&format!("{number} version 0")).await["id"].clone());
    }
    all_delivered(&app).await;
    cluster.delete_topic().await;
    for version in 1..5 {
        for (number, id) in ids.iter().enumerate() {
            rename(&app, id, &format!("{number} version {version}")).await;
        }
    }
    cluster.create_topic(2, &[]).await;
    all_delivered(&app).await;
    let tasks = cluster.events_by_task(2).await;
    assert_eq!(tasks.len(), 10);
    for events in tasks.values() {
        assert_eq!(events.len(), 4, "each once: {events:?}");
        assert!(events.iter().map(|(_, title)| title).is_sorted(), "in order: {events:?}");
    }
    app.stop().await;
    cluster.broker.shutdown().await;
}
