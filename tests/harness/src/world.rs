//! What most tests begin with: a broker with the three topics, and a folder for everything on disk.

use crate::answers::Answers;
use crate::api::Api;
use crate::history::{History, Seen};
use crate::offsets::GroupOffsets;
use crate::{
    Broker, Cluster, Error, Event, KafkaTools, Program, Ran, Result, SOON, Service, TopicRecord, eventually,
    free_port, produce, read_audit_log, read_topic, record, temporary_folder, topic_names,
};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// The topic of the task events.
pub const EVENTS: &str = "task-events";
/// The compacted topic of claims and commits.
pub const OFFSETS: &str = "task-events-offsets";
/// The topic of the events that could not be handled.
pub const DLQ: &str = "task-events-dlq";

/// The consumers, each by the name of its group.
pub const CONSUMERS: [&str; 3] = ["notification-service", "audit-service", "dlq-processor"];
/// The groups that read the events.
pub const GROUPS: [&str; 2] = ["notification-service", "audit-service"];

/// The lease of the services of a [`World`].
pub const LEASE: Duration = Duration::from_secs(2);

/// Where services reach Kafka.
pub trait Bootstrap {
    /// As `KAFKA_BOOTSTRAP_SERVERS`.
    fn bootstrap(&self) -> String;
}

impl Bootstrap for Broker {
    fn bootstrap(&self) -> String {
        Self::bootstrap(self)
    }
}

impl Bootstrap for Cluster {
    fn bootstrap(&self) -> String {
        Self::bootstrap(self)
    }
}

/// A system of its own for one test. Its services have short leases, so that take-overs are quick.
pub struct World<B = Broker> {
    /// Its broker or brokers, to be killed or paused.
    pub broker: B,
    folder: TempDir,
}

impl World {
    /// A broker with the topics that `taskctl topics create` makes.
    pub async fn start() -> Result<Self> {
        let world = Box::pin(Self::without_topics()).await?;
        world.create_topics().await?;
        Ok(world)
    }

    /// A broker with no topics.
    pub async fn without_topics() -> Result<Self> {
        Self::around(Broker::start().await?)
    }
}

impl<B: Bootstrap> World<B> {
    /// The topics that `taskctl topics create` makes, on a broker or cluster that was started before.
    pub async fn on(broker: B) -> Result<Self> {
        let world = Self::around(broker)?;
        world.create_topics().await?;
        Ok(world)
    }

    /// Nothing yet but the broker or cluster.
    pub fn around(broker: B) -> Result<Self> {
        Ok(Self { broker, folder: temporary_folder()? })
    }

    /// Makes the topics as an operator does.
    pub async fn create_topics(&self) -> Result<()> {
        let made = self.taskctl(&["topics", "create"]).await?;
        if made.code == Some(0) {
            return Ok(());
        }
        Err(Error::failed(format!("taskctl topics create: {made:?}")))
    }

    /// A binary with the environment of this world: its broker, its folders, a free port, a lease of
    /// 2 s. What is set after this counts.
    pub fn program(&self, name: &str) -> Program {
        Program::new(name)
            .env("KAFKA_BOOTSTRAP_SERVERS", self.broker.bootstrap())
            .env("STATE_DIR", self.state_dir().display())
            .env("AUDIT_LOG_PATH", self.audit_log_path().display())
            .env("PORT", 0)
            .env("LEASE_MS", LEASE.as_millis())
    }

    /// Another instance of a consumer, with a state folder and an audit log of its own.
    pub fn instance(&self, name: &str, instance: &str) -> Program {
        self.program(name)
            .env("STATE_DIR", self.path(instance).display())
            .env("AUDIT_LOG_PATH", self.instance_audit_log(instance).display())
    }

    /// The audit log of an [`World::instance`].
    pub fn instance_audit_log(&self, instance: &str) -> PathBuf {
        self.path(&format!("{instance}.log"))
    }

    /// Starts the consumers, in the order of [`CONSUMERS`].
    pub fn start_consumers(&self) -> Result<Vec<Service>> {
        CONSUMERS.iter().map(|name| self.program(name).start()).collect()
    }

    /// Starts the API on a port that it keeps over restarts, and waits until it answers.
    pub async fn start_api(&self) -> Result<(Service, Api)> {
        self.start_api_as(self.program("task-api")).await
    }

    /// As [`World::start_api`], with another environment.
    pub async fn start_api_as(&self, program: Program) -> Result<(Service, Api)> {
        let mut service = program.env("PORT", free_port()?).start()?;
        let api = Api::new(&Box::pin(service.url()).await?)?;
        Ok((service, api))
    }

    /// Runs the operator's command.
    pub async fn taskctl(&self, args: &[&str]) -> Result<Ran> {
        self.program("taskctl").args(args).run(Duration::from_secs(60)).await
    }

    /// Makes a key that signs audit logs. Its public one is beside it.
    pub async fn audit_key(&self) -> Result<PathBuf> {
        let key = self.path("audit.key");
        let made = self.taskctl(&["audit", "keygen", &key.display().to_string()]).await?;
        if made.code == Some(0) { Ok(key) } else { Err(Error::failed(format!("no key was made: {made:?}"))) }
    }

    /// A path in the folder of this world.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where the services keep their state.
    pub fn state_dir(&self) -> PathBuf {
        self.path("state")
    }

    /// Where the audit service writes.
    pub fn audit_log_path(&self) -> PathBuf {
        self.path("audit.log")
    }

    /// What the audit service has written.
    pub fn audit_log(&self) -> Result<Vec<serde_json::Value>> {
        read_audit_log(&self.audit_log_path())
    }

    /// Every record of a topic.
    pub async fn topic(&self, name: &str) -> Result<Vec<TopicRecord>> {
        read_topic(&self.broker.bootstrap(), name).await
    }

    /// The names of all topics that are not the broker's own.
    pub async fn topics(&self) -> Result<Vec<String>> {
        let mut names = topic_names(&self.broker.bootstrap()).await?;
        names.retain(|name| !name.starts_with("__"));
        Ok(names)
    }

    /// Writes these values to the topic of events, under one key, as a foreign producer would.
    pub async fn produce_values(&self, values: &[Option<&[u8]>]) -> Result<Vec<i64>> {
        let records = values.iter().map(|value| record(Some(b"key"), *value)).collect();
        produce(&self.broker.bootstrap(), EVENTS, records).await
    }

    /// Writes so many events, and returns the offset behind them.
    pub async fn produce_events(&self, count: usize) -> Result<i64> {
        let events: Vec<_> = (0..count).map(|n| Event::created(&n.to_string()).bytes()).collect();
        let values: Vec<_> = events.iter().map(|event| Some(event.as_slice())).collect();
        Ok(self.produce_values(&values).await?.last().map_or(0, |last| last + 1))
    }

    /// Claims and commits of a group that reads the events.
    pub async fn offsets(&self, group: &str) -> Result<GroupOffsets> {
        self.offsets_in(group, EVENTS).await
    }

    /// Claims and commits of a group that reads a topic.
    pub async fn offsets_in(&self, group: &str, topic: &str) -> Result<GroupOffsets> {
        GroupOffsets::read(&self.broker.bootstrap(), OFFSETS, &format!("{group}/{topic}/0")).await
    }

    /// Waits until the group has committed this offset or a later one.
    pub async fn committed(&self, group: &str, offset: i64) -> Result<()> {
        self.committed_in(group, EVENTS, offset).await
    }

    /// The same in another topic.
    pub async fn committed_in(&self, group: &str, topic: &str, offset: i64) -> Result<()> {
        let what = format!("{group} to commit {offset} in {topic}");
        let reached = async || {
            let position = self.offsets_in(group, topic).await?.position();
            Ok((position >= Some(offset)).then_some(()))
        };
        eventually(&what, SOON, reached).await
    }

    /// Waits until the audit log has an event for each answer, and then checks that answers, topic and log
    /// agree.
    pub async fn check_history(&self, api: &Api, answers: Answers) -> Result<History> {
        api.delivered().await?;
        let topic = Seen::all_in_topic(&self.topic(EVENTS).await?)?;
        let ids: HashSet<_> = topic.iter().map(|seen| &seen.event_id).collect();
        let path = self.audit_log_path();
        let audited = async || Ok((lines(&path) >= ids.len()).then_some(()));
        eventually("every event in the audit log", SOON, audited).await?;
        let audited = Seen::all_in_audit_log(&self.audit_log()?)?;
        let history = History { answered: answers.changes, topic, audited };
        history.check()?;
        Ok(history)
    }

    /// Kafka's own tools, where they are.
    pub fn kafka_tools(&self) -> Option<KafkaTools> {
        KafkaTools::find(&self.broker.bootstrap())
    }
}

fn lines(path: &Path) -> usize {
    std::fs::read(path).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count()
}
