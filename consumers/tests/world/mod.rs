//! A broker in this process, services on it, and what they said.
#![allow(dead_code, reason = "each test uses its part")]

pub mod receiver;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, Once};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use consumers::lines::Sink;
use consumers::{audit, notification};
use harness::{Process, Proxy};
use task_events::event::{TaskData, TaskEvent};
use task_events::kafka::{Batch, Compression, ConsumerRecord, Kafka, NewTopic, ProducerRecord};
use task_events::logging::LogFormat;
use task_events::offsets::{OffsetsLog, Slot};
use task_events::output::Output;
use task_events::runtime::{self, ConsumerConfig, PartitionState, Service, Status};
use task_events::schemas::EventReader;
use task_events::shutdown::{self, Trigger};
use task_events::state_dir::{Identity, StateDir};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use uuid::Uuid;

pub const EVENTS: &str = "task-events";
pub const OFFSETS: &str = "task-events-offsets";
pub const DLQ: &str = "task-events-dlq";
pub const LEASE: Duration = Duration::from_secs(2);
/// What is waited for comes well before this, or never.
pub const LIMIT: Duration = Duration::from_secs(60);
/// For a stop, which is to take 5 s: this one only tells that it ends.
const STOP_LIMIT: Duration = Duration::from_secs(20);

pub struct World {
    folder: TempDir,
    pub kafka: Kafka,
    offsets: OffsetsLog,
    lease: Duration,
    _broker: devbroker::Broker,
}

impl World {
    pub async fn start(partitions: i32) -> Self {
        Self::at(partitions, None).await
    }

    /// With a proxy, through which all connections go.
    pub async fn behind_proxy(partitions: i32) -> (Self, Proxy) {
        // Its target is set once the broker runs.
        let proxy = Proxy::start(0, 1, 0).await.unwrap();
        (Self::at(partitions, Some(&proxy)).await, proxy)
    }

    async fn at(partitions: i32, proxy: Option<&Proxy>) -> Self {
        collect_what_is_said();
        let folder = tempfile::tempdir().unwrap();
        let addr = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = devbroker::Config::new(addr, folder.path().join("broker"));
        config.advertised = proxy.map(|proxy| ("127.0.0.1".to_owned(), proxy.port()));
        let broker = devbroker::Broker::start(config).await.unwrap();
        let port = broker.addr().port();
        let kafka = Kafka::new(vec![format!("127.0.0.1:{}", proxy.map_or(port, Proxy::port))], "test");
        if let Some(proxy) = proxy {
            proxy.lead_to(port);
        }
        for (name, partitions, policy) in
            [(EVENTS, partitions, "delete"), (OFFSETS, 1, "compact"), (DLQ, 1, "delete")]
        {
            let configs = vec![("cleanup.policy".to_owned(), policy.to_owned())];
            let topic = NewTopic { name: name.to_owned(), partitions, replication_factor: 1, configs };
            kafka.admin().create_topic(&topic).await.unwrap();
        }
        Self { offsets: OffsetsLog::open(&kafka, OFFSETS), folder, kafka, lease: LEASE, _broker: broker }
    }

    /// With a lease that no pause of the machine outlasts, where nobody's lease is to run out.
    pub fn with_long_leases(self) -> Self {
        Self { lease: Duration::from_secs(15), ..self }
    }

    pub async fn produce(&self, partition: i32, values: Vec<Option<Vec<u8>>>) {
        self.produce_compressed(partition, values, Compression::NoCompression).await;
    }

    pub async fn produce_compressed(&self, partition: i32, values: Vec<Option<Vec<u8>>>, how: Compression) {
        self.produce_to(EVENTS, partition, values, how).await;
    }

    pub async fn produce_to(
        &self,
        topic: &str,
        partition: i32,
        values: Vec<Option<Vec<u8>>>,
        how: Compression,
    ) {
        let record = |value| ProducerRecord {
            key: Some(b"key".to_vec()),
            value,
            headers: BTreeMap::new(),
            timestamp: Utc::now(),
        };
        let records: Vec<_> = values.into_iter().map(record).collect();
        self.kafka.producer(topic, partition).produce(&records, how).await.unwrap();
    }

    /// The first records of a partition.
    pub async fn read(&self, topic: &str, partition: i32, count: usize) -> Vec<ConsumerRecord> {
        let mut range = self.kafka.read_range(topic, partition, 0, i64::MAX);
        let mut records = Vec::new();
        while records.len() < count {
            let fetched = range.next().await.expect("the range has no end").unwrap();
            records.extend(fetched.batches.iter().flat_map(Batch::records).map(Result::unwrap));
        }
        records
    }

    /// How long before its last claim a group's records in the offsets topic end, by their own times.
    pub async fn silence_before_the_last_claim(&self, group: &str) -> Duration {
        let count = self.records_of_offsets();
        let mut said = Vec::new();
        for record in self.read(OFFSETS, 0, count as usize).await {
            let (key, value) = (record.key.unwrap(), record.value.unwrap_or_default());
            if String::from_utf8(key.to_vec()).unwrap().starts_with(&format!("{group}/")) && !value.is_empty()
            {
                let value: serde_json::Value = serde_json::from_slice(&value).unwrap();
                let claimed = value.get("claimed_at");
                // That an instance lives says nothing of a partition.
                let Some(time) = claimed.or(value.get("committed_at")) else { continue };
                let time = time.as_str().unwrap();
                said.push((claimed.is_some(), time.parse::<DateTime<Utc>>().unwrap()));
            }
        }
        let claim = said.iter().rposition(|(is_claim, _)| *is_claim).unwrap();
        (said[claim].1 - said[claim - 1].1).to_std().unwrap()
    }

    /// How many records of the offsets topic were read.
    pub fn records_of_offsets(&self) -> i64 {
        self.offsets.view().borrow().next_offset
    }

    /// The committed position of a group.
    pub fn position(&self, group: &str, partition: i32) -> Option<i64> {
        self.position_in(EVENTS, group, partition)
    }

    /// The same, once all was read that is in the offsets topic now.
    pub async fn position_now(&self, group: &str, partition: i32) -> Option<i64> {
        self.offsets.catch_up().await.unwrap();
        self.position(group, partition)
    }

    pub fn position_in(&self, topic: &str, group: &str, partition: i32) -> Option<i64> {
        let slot = Slot { group: group.to_owned(), topic: topic.to_owned(), partition };
        self.offsets.view().borrow().slot(&slot)?.position()
    }

    pub fn state(&self, name: &str) -> PathBuf {
        StateDir::open(self.folder.path(), name).unwrap().path().to_owned()
    }

    pub fn log(&self, group: &str) -> PathBuf {
        self.folder.path().join(format!("{group}.log"))
    }

    /// The events of a group's audit log.
    pub fn audited(&self, group: &str) -> Vec<Uuid> {
        audited(&self.log(group), |_| true)
    }

    pub fn audited_of(&self, group: &str, partition: i32) -> Vec<Uuid> {
        audited(&self.log(group), |at| at.partition == partition)
    }

    fn config(&self, group: &str, identity: Identity) -> ConsumerConfig {
        ConsumerConfig {
            kafka: self.kafka.clone(),
            topic: EVENTS.to_owned(),
            offsets_topic: OFFSETS.to_owned(),
            dlq_topic: Some(DLQ.to_owned()),
            group: group.to_owned(),
            service: "test".to_owned(),
            identity,
            host: "test".to_owned(),
            lease: self.lease,
            foreign_group_hint: None,
        }
    }

    pub fn dlq_config(&self, group: &str) -> ConsumerConfig {
        ConsumerConfig {
            topic: DLQ.to_owned(),
            dlq_topic: None,
            ..self.config(group, Identity::in_memory(Uuid::new_v4()))
        }
    }

    /// A service of this group.
    pub fn run<S: Service>(&self, group: &str, service: S) -> Running {
        self.run_as(group, group, service)
    }

    /// The same, with the identity of that state folder.
    pub fn run_as<S: Service>(&self, group: &str, name: &str, service: S) -> Running {
        let state = StateDir::open(self.folder.path(), name).unwrap();
        Running::start(self.config(group, state.identity()), service)
    }

    pub async fn notifier(&self, group: &str) -> Running {
        self.instance(group, group).await
    }

    /// An instance of the notification service with a state folder of its own.
    pub async fn instance(&self, group: &str, name: &str) -> Running {
        self.notifier_reading(group, name, EventReader::json()).await
    }

    pub async fn notifier_reading(&self, group: &str, name: &str, reader: EventReader) -> Running {
        let state = StateDir::open(self.folder.path(), name).unwrap();
        let folder = state.path().to_owned();
        let opened = tokio::task::spawn_blocking(move || notification::open(&folder, sink(), reader))
            .await
            .unwrap()
            .unwrap();
        Running::start(self.config(group, state.identity()), opened.service)
    }

    pub async fn auditor(&self, group: &str) -> Running {
        self.auditor_reading(group, EventReader::json()).await
    }

    pub async fn auditor_reading(&self, group: &str, reader: EventReader) -> Running {
        let state = StateDir::open(self.folder.path(), group).unwrap();
        let (log, folder) = (self.log(group), state.path().to_owned());
        let opened =
            tokio::task::spawn_blocking(move || audit::open(&log, &folder, reader)).await.unwrap().unwrap();
        Running::start(self.config(group, state.identity()), opened.service)
    }

    pub fn audit_command(&self, group: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_audit-service"));
        command
            .env_clear()
            .env("KAFKA_BOOTSTRAP_SERVERS", self.kafka.bootstrap())
            .env("STATE_DIR", self.folder.path().join("state"))
            .env("AUDIT_LOG_PATH", self.log(group))
            .env("GROUP", group)
            .env("LEASE_MS", LEASE.as_millis().to_string())
            .env("LOG_LEVEL", "warn");
        command
    }

    pub fn audit_process(&self, group: &str) -> Process {
        Process::spawn("audit-service", &mut self.audit_command(group)).unwrap()
    }
}

fn audited(log: &Path, wanted: impl Fn(&audit::At<'_>) -> bool) -> Vec<Uuid> {
    let bytes = std::fs::read(log).unwrap();
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let lines = lines.map(|line| audit::parse(line).expect("a whole line"));
    lines.filter(|line| wanted(&line.kafka)).map(|line| line.event_id).collect()
}

/// A consumer in this process.
pub struct Running {
    pub status: Status,
    trigger: Trigger,
    task: JoinHandle<()>,
}

impl Running {
    pub fn start<S: Service>(config: ConsumerConfig, service: S) -> Self {
        let (trigger, shutdown) = shutdown::channel();
        let status = Status::default();
        let task = tokio::spawn(runtime::run(config, service, status.clone(), shutdown));
        Self { status, trigger, task }
    }

    /// Whether it owns partition 0.
    pub fn is_active(&self) -> bool {
        self.owned().contains(&0)
    }

    /// The partitions that it owns.
    pub fn owned(&self) -> Vec<i32> {
        let partitions = self.status.report().partitions.into_iter();
        let owned = partitions.filter(|(_, one)| matches!(one.state, PartitionState::Active { .. }));
        owned.map(|(partition, _)| partition).collect()
    }

    /// Asks for an orderly stop, and does not wait for it.
    pub fn ask_to_stop(&self) {
        self.trigger.stop();
    }

    /// Returns how long it took, but for what follows its end.
    pub async fn stop(self) -> Duration {
        let start = Instant::now();
        self.ask_to_stop();
        tokio::time::timeout(STOP_LIMIT, self.task).await.expect("an end").unwrap();
        let took = start.elapsed();
        // The mirror's task holds the handler, and so the log's lock, until it sees its end.
        tokio::time::sleep(Duration::from_millis(50)).await;
        took
    }

    /// Ends it without a release. Its trigger stays: one that is dropped asks for an orderly stop.
    pub fn abort(self) {
        self.task.abort();
        std::mem::forget(self.trigger);
    }
}

pub fn created(title: &str) -> TaskEvent {
    TaskEvent::task_created(data(title), Uuid::new_v4())
}

pub fn three_changes(title: &str) -> [TaskEvent; 3] {
    let data = data(title);
    [
        TaskEvent::task_created(data.clone(), Uuid::new_v4()),
        TaskEvent::task_updated(data.clone(), Uuid::new_v4()),
        TaskEvent::task_completed(data, Uuid::new_v4()),
    ]
}

fn data(title: &str) -> TaskData {
    TaskData {
        task_id: Uuid::now_v7(),
        title: title.to_owned(),
        status: "pending".to_owned(),
        owner_id: None,
    }
}

/// The event as the value of a record.
pub fn value(event: &TaskEvent) -> Option<Vec<u8>> {
    Some(serde_json::to_vec(event).unwrap())
}

pub async fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    harness::until(what, LIMIT, async || holds()).await.unwrap();
}

static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Collector;

impl log::Log for Collector {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        // Not what the Kafka client says.
        metadata.target().starts_with("consumers") || metadata.target().starts_with("task_events")
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        println!("{:5} {}", record.level(), record.args());
        SAID.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

fn collect_what_is_said() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Collector).unwrap();
        log::set_max_level(log::LevelFilter::Info);
    });
}

/// Where the notifiers write: what is read there is kept with the log lines.
pub fn sink() -> Sink {
    static OUTPUT: LazyLock<Output> = LazyLock::new(|| {
        let (reader, writer) = std::io::pipe().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                println!("{line}");
                SAID.lock().unwrap().push(line);
            }
        });
        Output::start(writer.into(), "a pipe", |dropped| format!("{dropped}\n")).unwrap()
    });
    Sink::new(OUTPUT.clone(), LogFormat::Text, LEASE)
}

/// How many lines have this in them.
pub fn said(text: &str) -> usize {
    SAID.lock().unwrap().iter().filter(|line| line.contains(text)).count()
}
