//! What most tests begin with: a broker with the three topics, and a folder for everything on disk.

use crate::{Broker, KafkaTools, Program, Ran, TopicRecord, read_audit_log, read_topic};
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

/// A system of its own for one test. Its services have short leases, so that take-overs are quick.
pub struct World {
    /// Its broker, to be killed or paused.
    pub broker: Broker,
    folder: TempDir,
}

impl World {
    /// A broker with the topics that `taskctl topics create` makes.
    pub async fn start() -> Self {
        let world = Self::without_topics().await;
        let made = world.taskctl(&["topics", "create"]).await;
        assert_eq!(made.code, Some(0), "taskctl topics create: {made:?}");
        world
    }

    /// A broker with no topics.
    pub async fn without_topics() -> Self {
        Self { broker: Broker::start().await, folder: tempfile::tempdir().expect("a folder") }
    }

    /// A binary with the environment of this world: its broker, its folders, a free port, a lease of
    /// 2 s, every log line. What is set after this counts.
    pub fn program(&self, name: &str) -> Program {
        Program::new(name)
            .env("KAFKA_BOOTSTRAP_SERVERS", self.broker.bootstrap())
            .env("STATE_DIR", self.state_dir().display())
            .env("AUDIT_LOG_PATH", self.audit_log_path().display())
            .env("PORT", 0)
            .env("LEASE_MS", 2000)
            .env("LOG_LEVEL", "debug")
    }

    /// Runs the operator's command.
    pub async fn taskctl(&self, args: &[&str]) -> Ran {
        self.program("taskctl").args(args).run(Duration::from_secs(60)).await
    }

    /// Where the services keep their state.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Where the audit service writes.
    pub fn audit_log_path(&self) -> PathBuf {
        self.folder.path().join("audit.log")
    }

    /// What the audit service has written.
    pub fn audit_log(&self) -> Vec<serde_json::Value> {
        read_audit_log(&self.audit_log_path())
    }

    /// Every record of a topic.
    pub async fn topic(&self, name: &str) -> Vec<TopicRecord> {
        read_topic(&self.broker.bootstrap(), name).await
    }

    /// Kafka's own tools, where they are.
    pub fn kafka_tools(&self) -> Option<KafkaTools> {
        KafkaTools::find(&self.broker.bootstrap())
    }
}
