//! A broker, and consumers on it in this process whose handlers do as the test says.
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use chrono::Utc;
use harness::{Broker, Kind, Listener, ProduceProxy, delete_topic, free_port};
use task_events::dlq::DlqRecord;
use task_events::event::Malformed;
use task_events::kafka::{
    Compression, ConsumerRecord, Kafka, NewTopic, Position, ProducerRecord, ReadEvent, TopicReader,
};
use task_events::offsets::{OffsetsLog, OffsetsRecord, Slot, parse};
use task_events::runtime::{
    self, ConsumerConfig, Decoder, Delivery, Done, Handler, HandlerError, OwnPosition, PartitionState,
    Service, Status,
};
use task_events::shutdown::{self, Trigger};
use task_events::state_dir::Identity;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use uuid::Uuid;

pub const LEASE: Duration = Duration::from_secs(2);
pub const LONG_LEASE: Duration = Duration::from_secs(15);
pub const GROUP: &str = "g";
pub const TOPIC: &str = "events";
const OFFSETS: &str = "offsets";
const DLQ: &str = "dlq";
const EVENTS_CONFIG: [(&str, &str); 1] = [("cleanup.policy", "delete")];
/// Compacted later than any test ends: a broker of ours compacts at once, and what it took cannot be counted.
const OFFSETS_CONFIG: [(&str, &str); 2] =
    [("cleanup.policy", "compact"), ("min.compaction.lag.ms", "600000")];
const LIMIT: Duration = Duration::from_secs(60);
/// For a stop, which is to take 5 s: this one only tells that it ends.
const STOP_LIMIT: Duration = Duration::from_secs(20);

pub struct World {
    pub kafka: Kafka,
    /// Where all connections go through one.
    pub proxy: Option<ProduceProxy>,
    broker: Broker,
    lease: Duration,
}

impl World {
    pub async fn start(partitions: i32) -> Self {
        Self::with_dlq_limit(partitions, "1048576").await
    }

    /// With a DLQ that takes records of that size.
    pub async fn with_dlq_limit(partitions: i32, max_message_bytes: &str) -> Self {
        Self::on(Broker::start().await.unwrap(), None, partitions, max_message_bytes).await
    }

    /// Where the answers to produce requests can be lost.
    pub async fn behind_proxy(partitions: i32) -> Self {
        let (listener, port) = (Listener::bind(0).await.unwrap(), free_port().unwrap());
        let advertised = listener.port();
        let proxy = ProduceProxy::start(listener, port);
        let broker = Broker::start_on(Kind::from_env().unwrap(), port, advertised).await.unwrap();
        Self::on(broker, Some(proxy), partitions, "1048576").await
    }

    async fn on(
        broker: Broker,
        proxy: Option<ProduceProxy>,
        partitions: i32,
        max_message_bytes: &str,
    ) -> Self {
        let kafka = Kafka::new(vec![broker.bootstrap()], "test");
        create(&kafka, TOPIC, partitions, &EVENTS_CONFIG).await;
        create(&kafka, OFFSETS, 1, &OFFSETS_CONFIG).await;
        create(&kafka, DLQ, 1, &[("max.message.bytes", max_message_bytes)]).await;
        Self { kafka, proxy, broker, lease: LEASE }
    }

    /// With a lease that no pause of the machine outlasts, where nobody's lease is to run out.
    pub fn with_long_leases(self) -> Self {
        self.with_leases_of(LONG_LEASE)
    }

    /// With that lease, where one is to run out and another is not.
    pub fn with_leases_of(self, lease: Duration) -> Self {
        Self { lease, ..self }
    }

    pub fn bootstrap(&self) -> String {
        self.broker.bootstrap()
    }

    /// Deletes the topic of events and creates it again.
    pub async fn recreate_events(&self, partitions: i32) {
        delete_topic(&self.bootstrap(), TOPIC).await.unwrap();
        create(&self.kafka, TOPIC, partitions, &EVENTS_CONFIG).await;
    }

    /// Deletes the topic of claims and commits and creates it again.
    pub async fn recreate_offsets(&self) {
        delete_topic(&self.bootstrap(), OFFSETS).await.unwrap();
        create(&self.kafka, OFFSETS, 1, &OFFSETS_CONFIG).await;
    }

    /// The first records of the DLQ.
    pub async fn dead_letters(&self, count: usize) -> Vec<DlqRecord> {
        let mut reader = TopicReader::new(&self.kafka, DLQ).partition(0, Position::at(0));
        let mut letters = Vec::new();
        while letters.len() < count {
            if let ReadEvent::Fetched(fetched) = reader.next().await {
                for record in fetched.batches.iter().flat_map(|batch| batch.records()) {
                    letters.push(DlqRecord::decode(record.unwrap().value.as_deref()).unwrap());
                }
            }
        }
        letters
    }

    /// The committed position, with all that is known of it.
    pub async fn committed(&self, partition: i32) -> Option<Position> {
        self.offsets().await.view().borrow().slot(&self.slot(partition))?.committed()
    }

    pub async fn produce(&self, partition: i32, value: &str) -> i64 {
        self.produce_bytes(partition, value.as_bytes().to_vec(), Compression::NoCompression).await
    }

    pub async fn produce_bytes(&self, partition: i32, value: Vec<u8>, compression: Compression) -> i64 {
        let record =
            ProducerRecord { key: None, value: Some(value), headers: BTreeMap::new(), timestamp: Utc::now() };
        let partition = self.kafka.producer(TOPIC, partition);
        let start = Instant::now();
        loop {
            match partition.produce(std::slice::from_ref(&record), compression).await {
                Ok(offsets) => return offsets[0],
                // The topic was just created.
                Err(error) => assert!(start.elapsed() < LIMIT, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub fn consumer(&self, script: Script) -> Consumer {
        self.consumer_as(Uuid::new_v4(), "test", script)
    }

    pub fn consumer_as(&self, id: Uuid, service: &str, script: Script) -> Consumer {
        let identity = Identity::in_memory(id);
        let config = ConsumerConfig {
            kafka: self.kafka.clone(),
            topic: TOPIC.to_owned(),
            offsets_topic: OFFSETS.to_owned(),
            dlq_topic: Some(DLQ.to_owned()),
            group: GROUP.to_owned(),
            service: service.to_owned(),
            identity: identity.clone(),
            host: "test".to_owned(),
            lease: self.lease,
            foreign_group_hint: None,
        };
        let (trigger, shutdown) = shutdown::channel();
        let status = Status::default();
        let task = tokio::spawn(runtime::run(config, script.clone(), status.clone(), shutdown));
        Consumer { status, identity, script, trigger, task }
    }

    pub fn slot(&self, partition: i32) -> Slot {
        Slot { group: GROUP.to_owned(), topic: TOPIC.to_owned(), partition }
    }

    /// The offsets topic, read to its end.
    pub async fn offsets(&self) -> OffsetsLog {
        let offsets = OffsetsLog::open(&self.kafka, OFFSETS);
        let start = Instant::now();
        // The topic may just have been created.
        while let Err(error) = offsets.catch_up().await {
            assert!(start.elapsed() < LIMIT, "{error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        offsets
    }

    pub async fn position(&self, partition: i32) -> Option<i64> {
        self.offsets().await.view().borrow().slot(&self.slot(partition))?.position()
    }

    /// Whether the partition was released at that position, after a stop.
    pub async fn is_left_at(&self, partition: i32, position: i64) -> Result<(), String> {
        let offsets = self.offsets().await;
        let view = offsets.view();
        let state = view.borrow().slot(&self.slot(partition)).cloned();
        match &state {
            Some(state) if state.is_released() && state.position() == Some(position) => Ok(()),
            _ => Err(format!("partition {partition} is left as {state:?}")),
        }
    }

    pub async fn is_released(&self, partition: i32) -> bool {
        self.offsets().await.view().borrow().slot(&self.slot(partition)).unwrap().is_released()
    }

    /// The claims that were ever made.
    pub async fn claims(&self) -> usize {
        self.claims_made().await.len()
    }

    /// The claims that were ever made, in their order: of which slot, and by whom.
    pub async fn claims_made(&self) -> Vec<(Slot, Uuid)> {
        let end = self.offsets().await.view().borrow().next_offset;
        let mut range = self.kafka.read_range(OFFSETS, 0, 0, end);
        let mut claims = Vec::new();
        while let Some(fetched) = range.next().await {
            let batches = fetched.unwrap().batches;
            for record in batches.iter().flat_map(|batch| batch.records()) {
                let record = record.unwrap();
                if let Ok(OffsetsRecord::Claim(slot, Some(claim))) =
                    parse(record.key.as_deref(), record.value.as_deref())
                {
                    claims.push((slot, claim.instance_id));
                }
            }
        }
        claims
    }
}

async fn create(kafka: &Kafka, name: &str, partitions: i32, configs: &[(&str, &str)]) {
    let configs = configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let topic = NewTopic { name: name.to_owned(), partitions, replication_factor: 1, configs };
    let start = Instant::now();
    // A topic that is being deleted is there for a moment still.
    while let Err(error) = kafka.admin().create_topic(&topic).await {
        assert!(start.elapsed() < LIMIT, "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A consumer in this process.
pub struct Consumer {
    pub status: Status,
    pub identity: Identity,
    pub script: Script,
    trigger: Trigger,
    task: JoinHandle<()>,
}

impl Consumer {
    pub fn state(&self, partition: i32) -> Option<PartitionState> {
        self.status.report().partitions.remove(&partition).map(|partition| partition.state)
    }

    pub fn owns(&self, partition: i32) -> bool {
        matches!(self.state(partition), Some(PartitionState::Active { .. }))
    }

    /// As kill -9: nothing is finished, and nothing is written any more.
    pub async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    pub fn ask_to_stop(&self) {
        self.trigger.stop();
    }

    /// Returns how long it took.
    pub async fn stop(self) -> Duration {
        // What hangs in a blocking thread would hold up the end of the test's runtime.
        let script = self.script.clone();
        let start = Instant::now();
        self.trigger.stop();
        tokio::time::timeout(STOP_LIMIT, self.task).await.expect("an end").unwrap();
        script.release();
        start.elapsed()
    }
}

/// What the handlers of one consumer do, and what they did.
#[derive(Clone, Default)]
pub struct Script(Arc<Shared>);

#[derive(Default)]
struct Shared {
    hanging: Mutex<BTreeSet<i32>>,
    released: Condvar,
    decoded: Mutex<Vec<(i32, i64)>>,
    handled: Mutex<Vec<(i32, i64)>>,
    flushed: Mutex<Vec<(i32, i64)>>,
    /// The ids of what was flushed.
    known: Mutex<BTreeSet<Uuid>>,
    trouble: AtomicBool,
    failing: AtomicBool,
    superseded: watch::Sender<bool>,
    /// A log as the audit service has one: where it ends in each partition. `None`: none is kept.
    log: Mutex<Option<BTreeMap<i32, Position>>>,
}

impl Script {
    /// Of a service that keeps a log of its own.
    pub fn with_log() -> Self {
        let script = Self::default();
        *script.0.log.lock().unwrap() = Some(BTreeMap::new());
        script
    }

    /// From now on a flush of this partition hangs in its blocking thread, as on a frozen file system.
    pub fn hang_in(&self, partition: i32) {
        self.0.hanging.lock().unwrap().insert(partition);
    }

    /// What hangs returns.
    pub fn release(&self) {
        self.0.hanging.lock().unwrap().clear();
        self.0.released.notify_all();
    }

    /// Another program has changed the service's state, which cannot be opened again.
    pub fn supersede(&self) {
        self.0.superseded.send_replace(true);
    }

    /// From now on the service says that it could handle nothing, or no longer does.
    pub fn set_trouble(&self, is_in_trouble: bool) {
        self.0.trouble.store(is_in_trouble, Ordering::Relaxed);
    }

    /// From now on flushes fail, or no longer do.
    pub fn set_failing(&self, is_failing: bool) {
        self.0.failing.store(is_failing, Ordering::Relaxed);
    }

    /// What was decoded, in the order of its lookup.
    pub fn decoded(&self) -> Vec<(i32, i64)> {
        self.0.decoded.lock().unwrap().clone()
    }

    pub fn handled(&self) -> Vec<(i32, i64)> {
        self.0.handled.lock().unwrap().clone()
    }

    pub fn flushed(&self) -> Vec<(i32, i64)> {
        self.0.flushed.lock().unwrap().clone()
    }
}

/// The handler of one partition.
pub struct Scripted {
    script: Script,
    partition: i32,
    pending: Vec<(i32, i64)>,
    own: OwnPosition,
}

impl Service for Script {
    type Handler = Scripted;

    async fn open(&self, _: &str, partition: i32) -> Result<Scripted, HandlerError> {
        if *self.0.superseded.borrow() {
            return Err(HandlerError::new("state", "it was changed"));
        }
        let log = self.0.log.lock().unwrap();
        let own = log.as_ref().map_or(OwnPosition::NotKept, |log| {
            log.get(&partition).map_or(OwnPosition::Empty, |end| OwnPosition::At(*end))
        });
        Ok(Scripted { script: self.clone(), partition, pending: Vec::new(), own })
    }

    fn trouble(&self) -> Option<String> {
        self.0.trouble.load(Ordering::Relaxed).then(|| "nothing goes".to_owned())
    }
}

/// Decodes everything but poison. A value such as `id 7` is an event of that id.
pub struct Plain {
    script: Script,
    partition: i32,
}

impl Decoder for Plain {
    type Message = Option<Uuid>;

    fn decode(&self, record: &ConsumerRecord) -> Result<Option<Uuid>, Malformed> {
        self.script.0.decoded.lock().unwrap().push((self.partition, record.offset));
        let value = record.value.as_deref().unwrap_or_default();
        let id = value.strip_prefix(b"id ").map(|id| str::from_utf8(id).unwrap().parse().unwrap());
        if value == b"poison" { Err(Malformed::NoValue) } else { Ok(id.map(Uuid::from_u128)) }
    }

    fn wants(&self, _: &Option<Uuid>) -> bool {
        true
    }

    fn dedup_id(&self, id: &Option<Uuid>) -> Option<Uuid> {
        *id
    }

    async fn known(&self, ids: &[Uuid]) -> Result<Vec<bool>, HandlerError> {
        let known = self.script.0.known.lock().unwrap();
        Ok(ids.iter().map(|id| known.contains(id)).collect())
    }
}

impl Handler for Scripted {
    type Decoder = Plain;

    fn decoder(&self) -> Plain {
        Plain { script: self.script.clone(), partition: self.partition }
    }

    async fn handle(&mut self, delivery: &Delivery<'_, Option<Uuid>>) -> Result<(), HandlerError> {
        self.pending.push((self.partition, delivery.record.offset));
        self.script.0.handled.lock().unwrap().push((self.partition, delivery.record.offset));
        Ok(())
    }

    async fn flush(&mut self, done: &Done<'_>) -> Result<u64, HandlerError> {
        if self.script.0.failing.load(Ordering::Relaxed) {
            return Err(HandlerError::new("disk", "it is full"));
        }
        let ids = done.ids.to_vec();
        let (shared, partition, pending) = (Arc::clone(&self.script.0), self.partition, self.pending.clone());
        let end = pending.last().map(|(_, offset)| Position { offset: offset + 1, ..done.position });
        let flushing = spawn_blocking(move || {
            let hanging = shared.hanging.lock().unwrap();
            drop(shared.released.wait_while(hanging, |hanging| hanging.contains(&partition)).unwrap());
            shared.flushed.lock().unwrap().extend(pending);
            if let (Some(log), Some(end)) = (shared.log.lock().unwrap().as_mut(), end) {
                log.insert(partition, end);
            }
            shared.known.lock().unwrap().extend(ids);
        });
        flushing.await.unwrap();
        self.pending.clear();
        Ok(0)
    }

    fn own_position(&self) -> OwnPosition {
        self.own
    }

    async fn superseded(&self) {
        let mut superseded = self.script.0.superseded.subscribe();
        let _ = superseded.wait_for(|superseded| *superseded).await;
    }
}

pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    harness::until(what, LIMIT, async || holds()).await.unwrap();
}
