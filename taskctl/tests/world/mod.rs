//! A broker in this process with the topics, and the command as an operator runs it.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::SocketAddr;
use std::process::Output;
use std::time::Duration;

use devbroker::{Broker, Config};
use harness::{Listener, Process, ProduceProxy};
use serde_json::Value;
use task_events::kafka::{Compression, Kafka, ProducerRecord};
use task_events::offsets::{Claim, Claimed, Commit, OffsetsLog, Slot};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::task::JoinHandle;
use uuid::Uuid;

pub struct World {
    pub broker: Broker,
    pub kafka: Kafka,
    /// Where everybody connects to: the broker, or the proxy before it.
    address: String,
    proxy: Option<ProduceProxy>,
    _folder: TempDir,
}

impl World {
    pub async fn without_topics() -> Self {
        Self::at(None).await
    }

    /// All connections go through a proxy that loses produce requests, or their answers.
    pub async fn behind_proxy() -> Self {
        Self::at(Some(Listener::bind(0).await.unwrap())).await.with_topics().await
    }

    async fn at(listener: Option<Listener>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::new(SocketAddr::from(([127, 0, 0, 1], 0)), folder.path());
        config.advertised = listener.as_ref().map(|listener| ("127.0.0.1".to_owned(), listener.port()));
        let broker = Broker::start(config).await.unwrap();
        let port = listener.as_ref().map_or(broker.addr().port(), Listener::port);
        let address = format!("127.0.0.1:{port}");
        let proxy = listener.map(|listener| ProduceProxy::start(listener, broker.addr().port()));
        let kafka = Kafka::new(vec![address.clone()], "test");
        Self { broker, kafka, address, proxy, _folder: folder }
    }

    /// The proxy of a world that is behind one.
    pub fn proxy(&self) -> &ProduceProxy {
        self.proxy.as_ref().unwrap()
    }

    /// With the three topics, and ten records in the one of events.
    pub async fn start() -> Self {
        Self::without_topics().await.with_topics().await
    }

    async fn with_topics(self) -> Self {
        let world = self;
        world.answers("topics create").await;
        let record = ProducerRecord {
            key: None,
            value: Some(b"{}".to_vec()),
            headers: Default::default(),
            timestamp: now(),
        };
        let events = world.kafka.producer("task-events", 0);
        events.produce(&vec![record; 10], Compression::NoCompression).await.unwrap();
        world
    }

    fn command(&self, args: &str) -> std::process::Command {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_taskctl"));
        command.args(args.split(' ')).env_clear().env("KAFKA_BOOTSTRAP_SERVERS", &self.address);
        command
    }

    /// The command as it runs, for signals.
    pub fn running(&self, args: &str) -> Process {
        Process::spawn("taskctl", &mut self.command(args)).unwrap()
    }

    pub async fn taskctl(&self, args: &str) -> Output {
        Command::from(self.command(args)).kill_on_drop(true).output().await.unwrap()
    }

    /// The answer of a command that succeeds.
    pub async fn answers(&self, args: &str) -> String {
        let output = self.taskctl(args).await;
        assert_eq!(output.status.code(), Some(0), "{args}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    pub async fn answers_json(&self, args: &str) -> Value {
        serde_json::from_str(&self.answers(&format!("{args} --format json")).await).unwrap()
    }

    /// The error of a command that fails: the last line, since what it waits for may come before.
    pub async fn refuses(&self, args: &str) -> String {
        let output = self.taskctl(args).await;
        assert_eq!(output.status.code(), Some(1), "{args}: {}", text(&output.stdout));
        assert!(output.stdout.is_empty(), "{args}: {}", text(&output.stdout));
        let error = text(&output.stderr).lines().last().unwrap().to_owned();
        assert!(error.starts_with("error: "), "{error}");
        error
    }

    pub async fn owner(&self, group: &str, lease: Duration) -> Owner {
        let slot = Slot { group: group.to_owned(), topic: "task-events".to_owned(), partition: 0 };
        let offsets = OffsetsLog::open(&self.kafka, "task-events-offsets");
        let instance_id = Uuid::new_v4();
        let lease_ms = u64::try_from(lease.as_millis()).unwrap();
        let claimed = offsets.claim(&slot, &Claim::new(instance_id, "test-host", lease_ms)).await.unwrap();
        Owner { offsets, slot, instance_id, claimed }
    }
}

/// An instance of a group.
pub struct Owner {
    pub offsets: OffsetsLog,
    pub slot: Slot,
    pub instance_id: Uuid,
    pub claimed: Claimed,
}

impl Owner {
    pub async fn commit(&self, offset: i64, released: bool) {
        let commit = Commit::new(offset, self.instance_id, released);
        let limit = Duration::from_secs(30);
        self.offsets.commit(&self.slot, self.claimed.token, &commit, limit).await.unwrap();
    }

    /// Commits the same offset again and again, as an idle instance does.
    pub fn idles_at(self, offset: i64) -> JoinHandle<()> {
        tokio::spawn(async move {
            loop {
                self.commit(offset, false).await;
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        })
    }

    pub fn short(&self) -> String {
        format!("test-host/{:.8}", self.instance_id.to_string())
    }
}

pub fn now() -> chrono::DateTime<chrono::Utc> {
    chrono::Utc::now()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The cells of the table's lines, without the header.
pub fn cells(table: &str) -> Vec<Vec<&str>> {
    table.lines().skip(1).map(|line| line.split_whitespace().collect()).collect()
}
