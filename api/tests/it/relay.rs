//! The relay against a broker that comes, goes, forgets and answers too late.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use devbroker::{Broker, Config};
use harness::{Fault, Listener, ProduceProxy, free_port};
use rskafka::client::ClientBuilder;
use rskafka::record::RecordAndOffset;
use serde_json::{Value, json};
use task_api::relay::{LANDING_TIME, Relay, WINDOW};
use task_api::store::{Delivered, OutboxEntry, Store};
use task_events::kafka::{
    Batch, Compression, ConsumerRecord, Kafka, NewTopic, OffsetAt, ProducerRecord as Record,
    partition_for_key,
};
use task_events::shutdown;
use tempfile::TempDir;
use uuid::Uuid;

use crate::store::{create, done};
use crate::support::{App, TOPIC, eventually, is_postgres, open};

/// Where nobody listens, nor will by chance while a broker of the test is down.
pub fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()))
}

/// A broker, perhaps behind a proxy, and a folder for the application.
pub struct Cluster {
    pub broker: Broker,
    pub address: SocketAddr,
    pub kafka: Kafka,
    pub proxy: Option<Arc<ProduceProxy>>,
    pub dir: TempDir,
}

impl Cluster {
    pub async fn start() -> Self {
        Self::at(free_address()).await
    }

    pub async fn at(address: SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let broker = start_broker(address, dir.path(), None).await;
        let address = broker.addr();
        Self { broker, address, kafka: Kafka::new(vec![address.to_string()], "test"), proxy: None, dir }
    }

    /// The application's and the test's connections all go through the proxy.
    pub async fn behind_proxy() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = Listener::bind(0).await.unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], listener.port()));
        let broker = start_broker(SocketAddr::from(([127, 0, 0, 1], 0)), dir.path(), Some(address)).await;
        let proxy = Some(Arc::new(ProduceProxy::start(listener, broker.addr().port())));
        Self { broker, address, kafka: Kafka::new(vec![address.to_string()], "test"), proxy, dir }
    }

    /// Whether each request that was to land late has landed within the time that the relay gives it: if not, its events
    /// may be sent again.
    pub fn has_landed_in_time(&self) -> bool {
        self.proxy.as_ref().unwrap().longest_landing().is_some_and(|longest| longest < LANDING_TIME)
    }

    pub async fn create_topic(&self, partitions: i32, configs: &[(&str, &str)]) {
        let configs = configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let topic = NewTopic { name: TOPIC.to_owned(), partitions, replication_factor: 1, configs };
        self.kafka.admin().create_topic(&topic).await.unwrap();
    }

    pub async fn delete_topic(&self) {
        let client = ClientBuilder::new(vec![self.address.to_string()]).build().await.unwrap();
        client.controller_client().unwrap().delete_topic(TOPIC, 5_000).await.unwrap();
    }

    pub async fn app(&self) -> App {
        App::with_kafka(self.dir.path(), &self.address.to_string()).await
    }

    /// All records of a partition.
    pub async fn records(&self, partition: i32) -> Vec<RecordAndOffset> {
        let end = self.kafka.list_offset(TOPIC, partition, OffsetAt::Latest).await.unwrap();
        let mut range = self.kafka.read_range(TOPIC, partition, 0, end);
        let mut records = Vec::new();
        while let Some(fetched) = range.next().await {
            let fetched = fetched.unwrap();
            records
                .extend(fetched.batches.iter().flat_map(Batch::records).map(|record| owned(record.unwrap())));
        }
        records
    }

    /// The titles of the events of partition 0, in order.
    pub async fn titles(&self) -> Vec<String> {
        let records = self.records(0).await.into_iter();
        records.map(|record| value(&record)["data"]["title"].as_str().unwrap().to_owned()).collect()
    }
}

async fn start_broker(address: SocketAddr, dir: &Path, advertised: Option<SocketAddr>) -> Broker {
    let mut config = Config::new(address, dir.join("broker"));
    // As in many a real cluster: whoever asks for a missing topic by name makes it.
    config.auto_create_topics = true;
    config.advertised = advertised.map(|address| (address.ip().to_string(), address.port()));
    Broker::start(config).await.unwrap()
}

fn owned(record: ConsumerRecord) -> RecordAndOffset {
    let headers = record
        .headers
        .iter()
        .map(|header| (header.name_lossy().into_owned(), header.value.unwrap_or_default().to_vec()));
    let owned = Record {
        headers: headers.collect(),
        key: record.key.map(Into::into),
        value: record.value.map(Into::into),
        timestamp: chrono::DateTime::from_timestamp_millis(record.timestamp).unwrap(),
    };
    RecordAndOffset { record: owned, offset: record.offset }
}

pub fn value(record: &RecordAndOffset) -> Value {
    serde_json::from_slice(record.record.value.as_deref().unwrap()).unwrap()
}

pub fn numbered(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("task {number}")).collect()
}

pub async fn create_numbered(app: &App, numbers: std::ops::Range<usize>) {
    for title in numbered(numbers) {
        app.create(&title).await;
    }
}

pub async fn ready(app: &App) -> Value {
    app.call("GET", "/readyz").send().await.json()
}

pub async fn all_delivered(app: &App) {
    nothing_waits(&app.store).await;
}

async fn nothing_waits(store: &Store) {
    let is_empty = || async { store.outbox_after(0, 1).await.unwrap().is_empty() };
    eventually("all events are delivered", is_empty).await;
    eventually("that is counted", || async { store.outbox().borrow().waiting == 0 }).await;
}

/// Publishes what waits.
async fn publish_all(store: &Store, cluster: &Cluster) {
    let relay = Relay::new(store.clone(), cluster.kafka.clone(), TOPIC);
    let (drain, draining) = shutdown::channel();
    let relay = tokio::spawn(relay.run(draining));
    nothing_waits(store).await;
    drain.stop();
    relay.await.unwrap();
}

/// As a relay does before it sends the first event.
async fn note_start(store: &Store) {
    let _turn = store.turn().await;
    store.delivered(Delivered { position: Some(0), ..Delivered::default() }).await.unwrap();
}

#[tokio::test]
async fn events_wait_for_kafka_and_go_when_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let address = free_address();
    let app = App::with_kafka(dir.path(), &address.to_string()).await;
    create_numbered(&app, 0..20).await;
    eventually("readyz reports that Kafka is unreachable", || async {
        let ready = ready(&app).await;
        ready["status"] == "ready" && ready["kafka"]["waiting_for"].is_string()
    })
    .await;
    eventually("20 wait", || async { ready(&app).await["outbox"]["waiting"] == 20 }).await;

    let cluster = Cluster::at(address).await;
    cluster.create_topic(1, &[]).await;
    all_delivered(&app).await;
    create_numbered(&app, 20..40).await;
    all_delivered(&app).await;
    assert_eq!(cluster.titles().await, numbered(0..40));
    assert_eq!(ready(&app).await["kafka"], json!({"reachable": true, "waiting_for": null}));
    app.stop().await;
    cluster.broker.shutdown().await;
}

#[tokio::test]
async fn a_missing_topic_is_named_and_never_made() {
    let cluster = Cluster::start().await;
    let app = cluster.app().await;
    create_numbered(&app, 0..1).await;
    eventually("readyz says what to do", || async {
        let waiting_for = ready(&app).await["kafka"]["waiting_for"].to_string();
        waiting_for.contains(TOPIC) && waiting_for.contains("taskctl topics create")
    })
    .await;
    assert!(cluster.kafka.topics().await.unwrap().is_empty());
    cluster.create_topic(1, &[]).await;
    all_delivered(&app).await;
    assert_eq!(cluster.titles().await, numbered(0..1));
    app.stop().await;
    cluster.broker.shutdown().await;
}

#[tokio::test]
async fn readiness_reports_an_unreachable_kafka_also_while_nothing_is_sent() {
    let cluster = Cluster::start().await;
    cluster.create_topic(1, &[]).await;
    let app = cluster.app().await;
    eventually("connected", || async { ready(&app).await["kafka"]["reachable"] == true }).await;
    let (address, dir) = (cluster.address, cluster.dir);
    cluster.broker.shutdown().await;
    eventually("missed", || async { ready(&app).await["kafka"]["reachable"] == false }).await;
    let broker = start_broker(address, dir.path(), None).await;
    eventually("found again", || async { ready(&app).await["kafka"]["reachable"] == true }).await;
    app.stop().await;
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_task_has_its_partition_and_its_events_are_there_in_order() {
    const PARTITIONS: i32 = 3;
    let cluster = Cluster::start().await;
    cluster.create_topic(PARTITIONS, &[]).await;
    let app = cluster.app().await;
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let correlation_id = Uuid::new_v4().to_string();
    for number in 0..40 {
        let call = app.call("POST", "/tasks").header("traceparent", traceparent);
        let call = call.header("x-correlation-id", &correlation_id);
        let task = call.json(&json!({"title": format!("task {number}")})).await.json();
        let path = format!("/tasks/{}", task["id"].as_str().unwrap());
        app.call("PATCH", &path).json(&json!({"title": "renamed"})).await;
        app.call("PATCH", &path).json(&json!({"status": "completed"})).await;
    }
    all_delivered(&app).await;

    let mut told: HashMap<String, Vec<String>> = HashMap::new();
    for number in 0..PARTITIONS {
        let records = cluster.records(number).await;
        assert!(!records.is_empty(), "40 keys fall on all of {PARTITIONS} partitions");
        for record in records {
            let key = record.record.key.clone().unwrap();
            assert_eq!(partition_for_key(&key, PARTITIONS), number);
            let event = value(&record);
            let (id, kind) =
                (event["data"]["task_id"].as_str().unwrap(), event["event_type"].as_str().unwrap());
            assert_eq!(key, id.as_bytes());
            told.entry(id.to_owned()).or_default().push(kind.to_owned());
            let header = |name: &str| {
                record.record.headers.get(name).map(|value| String::from_utf8(value.clone()).unwrap())
            };
            assert_eq!(header("content-type").unwrap(), "application/json");
            assert_eq!(header("ce_specversion").unwrap(), "1.0");
            assert_eq!(header("ce_id").unwrap(), event["event_id"]);
            assert_eq!(header("ce_type").unwrap(), kind);
            assert_eq!(header("ce_source").unwrap(), "/task-api");
            assert_eq!(header("ce_subject").unwrap(), id);
            assert_eq!(header("ce_time").unwrap(), event["occurred_at"]);
            let is_created = kind == "task.created";
            assert_eq!(header("traceparent").as_deref(), is_created.then_some(traceparent));
            assert_eq!(event["metadata"]["correlation_id"] == correlation_id, is_created);
        }
    }
    assert_eq!(told.len(), 40);
    for events in told.values() {
        assert_eq!(events, &["task.created", "task.updated", "task.updated", "task.completed"]);
    }
    app.stop().await;
    cluster.broker.shutdown().await;
}

/// Plays a round until in one of them what was to land late did so in time. `false` where it did not: such a round says
/// nothing.
pub async fn until_landed_in_time(round: impl AsyncFn() -> bool) {
    for _ in 0..5 {
        if round().await {
            return;
        }
        println!("disturbed: what was to land late landed later than the relay waits");
    }
    panic!("the machine is too slow: nothing has landed within {LANDING_TIME:?}");
}

/// The topic holds each event once, in order, whatever became of the produce requests.
async fn unclear(faults: &[Fault], expected_requests: usize) {
    until_landed_in_time(async || unclear_once(faults, expected_requests).await).await;
}

async fn unclear_once(faults: &[Fault], expected_requests: usize) -> bool {
    let cluster = Cluster::behind_proxy().await;
    cluster.create_topic(1, &[]).await;
    let proxy = cluster.proxy.clone().unwrap();
    let app = cluster.app().await;
    create_numbered(&app, 0..1).await;
    all_delivered(&app).await;
    let before = proxy.produces();
    proxy.next(faults);
    create_numbered(&app, 1..2).await;
    all_delivered(&app).await;
    let is_undisturbed = cluster.has_landed_in_time();
    if is_undisturbed {
        assert_eq!(proxy.produces() - before, expected_requests, "requests for one event after {faults:?}");
        create_numbered(&app, 2..5).await;
        all_delivered(&app).await;
        assert_eq!(cluster.titles().await, numbered(0..5), "{faults:?}");
    }
    app.stop().await;
    cluster.broker.shutdown().await;
    is_undisturbed
}

#[tokio::test]
async fn a_lost_request_is_sent_again() {
    unclear(&[Fault::Lost, Fault::Lost], 3).await;
}

#[tokio::test]
async fn a_request_that_landed_is_not_sent_again() {
    unclear(&[Fault::AnswerLost], 1).await;
}

#[tokio::test]
async fn a_request_that_lands_after_its_connection_broke_is_not_sent_again() {
    unclear(&[Fault::LandsLate], 1).await;
}

#[tokio::test]
async fn a_request_whose_answer_never_comes_is_not_sent_again() {
    unclear(&[Fault::AnswerHangs], 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_no_fault_duplicates_an_event() {
    until_landed_in_time(faults_under_load).await;
}

async fn faults_under_load() -> bool {
    let cluster = Cluster::behind_proxy().await;
    cluster.create_topic(2, &[]).await;
    let app = cluster.app().await;
    for faults in [[Fault::AnswerLost, Fault::Lost], [Fault::LandsLate, Fault::AnswerLost]] {
        cluster.proxy.as_ref().unwrap().next(&faults);
        let mut creating = tokio::task::JoinSet::new();
        for number in 0..500 {
            let store = app.store.clone();
            creating.spawn(async move { done(&store, create(&format!("task {number}"))).await.id });
        }
        creating.join_all().await;
        all_delivered(&app).await;
    }
    let is_undisturbed = cluster.has_landed_in_time();
    if is_undisturbed {
        each_is_there_once(&app, &cluster).await;
    }
    app.stop().await;
    cluster.broker.shutdown().await;
    is_undisturbed
}

async fn each_is_there_once(app: &App, cluster: &Cluster) {
    let listed = app.store.list(task_api::store::Filter::default(), None, usize::MAX).await.unwrap().tasks;
    let mut found = Vec::new();
    for number in 0..2 {
        let ids: Vec<Uuid> = cluster
            .records(number)
            .await
            .iter()
            .map(|record| value(record)["data"]["task_id"].as_str().unwrap().parse().unwrap())
            .collect();
        assert!(is_postgres() || ids.is_sorted(), "in the order of their creation");
        found.extend(ids);
    }
    found.sort_unstable();
    assert_eq!(found, listed.iter().map(|task| task.id).collect::<Vec<_>>());
}

fn as_record(entry: &OutboxEntry) -> Record {
    Record {
        key: Some(entry.event.data.task_id.to_string().into_bytes()),
        value: Some(entry.payload.clone()),
        headers: entry.event.headers(entry.encoding.content_type(), None),
        timestamp: entry.event.occurred_at,
    }
}

/// A process that was killed between the broker's acknowledgement and its own commit finds at its next
/// start events in the outbox that are in the topic already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_start_what_is_in_the_topic_is_not_sent_again() {
    let cluster = Cluster::start().await;
    cluster.create_topic(1, &[]).await;
    let (store, writer) = open(cluster.dir.path()).await;
    let total = WINDOW + 100;
    let mut creating = tokio::task::JoinSet::new();
    for number in 0..total {
        let store = store.clone();
        creating.spawn(async move { done(&store, create(&format!("task {number}"))).await });
    }
    creating.join_all().await;
    note_start(&store).await;
    let entries = store.outbox_after(0, WINDOW).await.unwrap();
    // What others wrote is between them.
    let topic = cluster.kafka.producer(TOPIC, 0);
    let foreign =
        |value: Option<&[u8]>| Record { value: value.map(<[u8]>::to_vec), ..as_record(&entries[0]) };
    let foreign =
        vec![foreign(None), foreign(Some(b"")), foreign(Some(b"\xff{not json")), foreign(Some(b"{}"))];
    for part in entries.chunks(WINDOW / 2) {
        let records: Vec<_> = part.iter().map(|entry| as_record(entry)).collect();
        topic.produce(&records, Compression::NoCompression).await.unwrap();
        topic.produce(&foreign, Compression::Gzip).await.unwrap();
    }

    publish_all(&store, &cluster).await;
    let records = cluster.records(0).await;
    if !is_postgres() {
        assert_eq!(store.positions(), [(0, records.len() as i64)]);
    }
    let ids: Vec<Uuid> = records
        .iter()
        .filter_map(|record| serde_json::from_slice::<Value>(record.record.value.as_deref()?).ok())
        .filter_map(|event| event["data"]["task_id"].as_str()?.parse().ok())
        .collect();
    assert_eq!(ids.len(), total, "each once");
    assert!(is_postgres() || ids.is_sorted(), "in order");
    drop(store);
    writer.join().await;
    cluster.broker.shutdown().await;
}

/// A store that was restored from a backup may have far more in its outbox that is in the topic already than
/// one window holds, and has new events after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_restored_from_a_backup_sends_nothing_again() {
    let cluster = Cluster::start().await;
    cluster.create_topic(1, &[]).await;
    let (store, writer) = open(cluster.dir.path()).await;
    let (sent, total) = (2 * WINDOW + 300, 2 * WINDOW + 310);
    // Fewer at once than the store's queue takes.
    for first in (0..total).step_by(WINDOW) {
        let mut creating = tokio::task::JoinSet::new();
        for number in first..total.min(first + WINDOW) {
            let store = store.clone();
            creating.spawn(async move { done(&store, create(&format!("task {number}"))).await });
        }
        creating.join_all().await;
    }
    note_start(&store).await;
    let entries = store.outbox_after(0, total).await.unwrap();
    let topic = cluster.kafka.producer(TOPIC, 0);
    for part in entries[..sent].chunks(WINDOW / 2) {
        let records: Vec<_> = part.iter().map(|entry| as_record(entry)).collect();
        topic.produce(&records, Compression::NoCompression).await.unwrap();
    }
    // One of them is there twice.
    topic.produce(&[as_record(&entries[7])], Compression::NoCompression).await.unwrap();

    publish_all(&store, &cluster).await;
    let ids: Vec<Value> =
        cluster.records(0).await.iter().map(|record| value(record)["event_id"].clone()).collect();
    let wanted = entries.iter().map(|entry| Value::from(entry.event.event_id.to_string()));
    let copy = std::iter::once(ids[7].clone());
    let wanted: Vec<Value> = wanted.clone().take(sent).chain(copy).chain(wanted.skip(sent)).collect();
    assert_eq!(ids.len(), wanted.len(), "each once, but for the one that was there twice");
    assert!(ids == wanted, "in order");
    drop(store);
    writer.join().await;
    cluster.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_takes_only_small_batches_gets_small_ones() {
    let cluster = Cluster::start().await;
    cluster.create_topic(1, &[("max.message.bytes", "9000")]).await;
    let (store, writer) = open(cluster.dir.path()).await;
    let wide = "ü".repeat(490);
    let mut creating = tokio::task::JoinSet::new();
    for number in 0..600 {
        let (store, title) = (store.clone(), format!("{wide} {number}"));
        creating.spawn(async move { done(&store, create(&title)).await });
    }
    creating.join_all().await;
    publish_all(&store, &cluster).await;
    let ids: Vec<Value> =
        cluster.records(0).await.iter().map(|record| value(record)["data"]["task_id"].clone()).collect();
    assert_eq!(ids.len(), 600);
    assert!(is_postgres() || ids.is_sorted_by_key(ToString::to_string));
    drop(store);
    writer.join().await;
    cluster.broker.shutdown().await;
}

#[tokio::test]
async fn a_topic_that_is_deleted_and_recreated_goes_on() {
    let cluster = Cluster::start().await;
    cluster.create_topic(1, &[]).await;
    let app = cluster.app().await;
    create_numbered(&app, 0..10).await;
    all_delivered(&app).await;
    cluster.delete_topic().await;
    create_numbered(&app, 10..13).await;
    eventually("the topic is missed", || async {
        ready(&app).await["kafka"]["waiting_for"].to_string().contains("does not exist")
    })
    .await;
    cluster.create_topic(1, &[]).await;
    all_delivered(&app).await;
    assert_eq!(cluster.titles().await, numbered(10..13), "its offsets begin below the old position");
    assert_eq!(app.store.positions(), [(0, 3)]);

    // More partitions than before.
    cluster.delete_topic().await;
    create_numbered(&app, 13..14).await;
    eventually("the topic is missed", || async { ready(&app).await["kafka"]["waiting_for"].is_string() })
        .await;
    cluster.create_topic(3, &[]).await;
    create_numbered(&app, 14..40).await;
    all_delivered(&app).await;
    let mut found = 0;
    for number in 0..3 {
        found += cluster.records(number).await.len();
    }
    assert_eq!(found, 27);
    app.stop().await;
    cluster.broker.shutdown().await;
}
