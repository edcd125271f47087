//! The system under test: a broker behind the proxy, and the five services, all as processes.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::{
    Broker, FailingDisk, Kind as BrokerKind, Program, Service, SmallDisk, SteppedClock, free_port,
};

use crate::evidence::{
    AuditLine, AuditLog, Evidence, OffsetsEntry, OffsetsSaid, RelaySaid, Seen, Snapshot, Told,
};
use crate::lives::FirstLife;
use harness::Proxy;
use harness::requests::now;
use harness::{Error, Result};

/// The lease of the consumers: short, so that take-overs happen within a round.
pub const LEASE: Duration = Duration::from_secs(2);
/// A file system that can be filled, or can fail.
const DISK_KIB: u32 = 128 * 1024;
/// For a first claim on a busy machine.
const CLAIM_LIMIT: Duration = Duration::from_secs(60);
const AUDIT_GROUP: &str = "audit-service";
const NOTIFICATION_GROUP: &str = "notification-service";

/// How to start a system.
#[derive(Debug, Clone, Copy)]
pub struct SystemConfig {
    /// Which broker.
    pub broker: BrokerKind,
    /// Chances within the proxy.
    pub seed: u64,
    /// Audit services, each with a log of its own; one of them owns.
    pub audits: usize,
    /// The first audit log is on a disk of its own.
    pub audit_disk: Option<Flaw>,
    /// The API's store is on a disk of its own.
    pub store_disk: Option<Flaw>,
    /// The state of the notification services is on a disk of its own.
    pub state_disk: Option<Flaw>,
    /// The services have a wall clock of their own.
    pub stepped_clock: bool,
    /// How much the API logs.
    pub api_log_level: &'static str,
    /// Services say little.
    pub quiet: bool,
}

impl SystemConfig {
    /// One audit service, and nothing that can be hurt but processes and the network.
    pub fn new(broker: BrokerKind, seed: u64) -> Self {
        Self {
            broker,
            seed,
            audits: 1,
            audit_disk: None,
            store_disk: None,
            state_disk: None,
            stepped_clock: false,
            api_log_level: "info",
            quiet: false,
        }
    }
}

/// What can happen to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// It gets full.
    Full,
    /// It fails.
    Failing,
    /// It hangs.
    Hanging,
}

/// A disk that can be hurt.
pub enum Disk {
    /// One that gets full.
    Small(SmallDisk),
    /// One that fails.
    Failing(FailingDisk),
    /// One that hangs.
    Hanging(FailingDisk),
}

impl Disk {
    /// `None`, written to standard error, where that is not possible.
    fn mount(flaw: Flaw) -> Option<Self> {
        match flaw {
            Flaw::Full => SmallDisk::mount(DISK_KIB).map(Self::Small),
            Flaw::Failing => FailingDisk::mount(DISK_KIB).map(Self::Failing),
            Flaw::Hanging => FailingDisk::mount(DISK_KIB).map(Self::Hanging),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Small(disk) => disk.path(),
            Self::Failing(disk) | Self::Hanging(disk) => disk.path(),
        }
    }

    /// Fills it, or lets it fail or hang.
    pub fn hurt(&self) -> Result<()> {
        match self {
            Self::Small(disk) => disk.fill(),
            Self::Failing(disk) => disk.fail(),
            Self::Hanging(disk) => disk.hang(),
        }
    }

    /// It is good again.
    pub fn mend(&self) -> Result<()> {
        match self {
            Self::Small(disk) => disk.free_space(),
            Self::Failing(disk) => disk.mend(),
            Self::Hanging(disk) => disk.release(),
        }
    }
}

/// A consumer.
pub struct Consumer {
    /// Its name, and that of its folder.
    pub name: String,
    /// Its process.
    pub service: Service,
    /// Its state.
    pub state: PathBuf,
    /// Where an audit service writes.
    pub audit_log: Option<PathBuf>,
}

/// Everything.
pub struct System {
    // Before the services, which cannot be killed while their disk hangs.
    /// The disk of the first audit log.
    pub audit_disk: Option<Disk>,
    /// The disk of the store.
    pub store_disk: Option<Disk>,
    /// The disk of the notification services' state.
    pub state_disk: Option<Disk>,
    /// The broker, behind the proxy.
    pub broker: Broker,
    /// The proxy between the services and the broker.
    pub proxy: Proxy,
    /// The Task API.
    pub api: Service,
    /// Where it listens.
    pub url: String,
    /// Notification services, of one group.
    pub notifications: Vec<Consumer>,
    /// Audit services, of one group.
    pub audits: Vec<Consumer>,
    /// The DLQ processor.
    pub dlq: Consumer,
    /// The wall clock of the services, if it is their own.
    pub clock: Option<SteppedClock>,
    /// The audit logs after each kill.
    pub snapshots: Vec<Snapshot>,
    /// Lines that were taken from the audit logs, and have to be written again.
    pub rewritten: Vec<AuditLine>,
    /// The topic of events that was deleted.
    pub first_life: Option<FirstLife>,
}

impl System {
    /// Starts everything below that folder, and waits until the API answers.
    pub async fn start(folder: &Path, config: SystemConfig) -> Result<Self> {
        let broker_port = free_port()?;
        let proxy = Proxy::start(free_port()?, broker_port, config.seed);
        let proxy =
            proxy.await.map_err(|error| Error::Failed(format!("the proxy cannot listen: {error}")))?;
        let broker = Broker::start_on(config.broker, broker_port, proxy.port()).await?;
        let clock = if config.stepped_clock { SteppedClock::find()? } else { None };
        let program = |name: &str| {
            let program = Program::new(name)
                .env("KAFKA_BOOTSTRAP_SERVERS", broker.bootstrap())
                .env("LEASE_MS", LEASE.as_millis())
                .env("LOG_LEVEL", if config.quiet { "warn" } else { "info" });
            match &clock {
                Some(clock) => clock.on(program),
                None => program,
            }
        };
        let made = program("taskctl").args(&["topics", "create"]).run(Duration::from_secs(60)).await?;
        if made.code != Some(0) {
            return Err(Error::Failed(format!("taskctl topics create: {}", made.stderr)));
        }
        let [audit_disk, store_disk, state_disk] =
            [config.audit_disk, config.store_disk, config.state_disk].map(|flaw| flaw.and_then(Disk::mount));

        let store = store_disk.as_ref().map_or_else(|| folder.join("api"), |disk| disk.path().to_owned());
        // The address is logged at info.
        let api =
            program("task-api").env("LOG_LEVEL", config.api_log_level).env("STATE_DIR", store.display());
        let mut api = api.env("PORT", free_port()?).start()?;
        let url = api.url().await?;
        let consumer = |service: &str, name: String, audit_log: Option<PathBuf>| -> Result<Consumer> {
            let disk = state_disk.as_ref().filter(|_| service == NOTIFICATION_GROUP);
            let state = disk.map_or(folder, Disk::path).join(&name);
            let mut program = program(service).env("STATE_DIR", state.display());
            if let Some(log) = &audit_log {
                program = program.env("AUDIT_LOG_PATH", log.display());
            }
            Ok(Consumer { service: program.start()?, state: state.join(service), name, audit_log })
        };
        let notifications = (1..=2).map(|n| consumer(NOTIFICATION_GROUP, format!("notification-{n}"), None));
        let notifications = notifications.collect::<Result<_>>()?;
        let mut audits = Vec::new();
        for n in 1..=config.audits {
            let disk = audit_disk.as_ref().filter(|_| n == 1);
            let folder = disk.map_or(folder, Disk::path);
            let log = folder.join(format!("audit-{n}.log"));
            let mut audit = consumer(AUDIT_GROUP, format!("audit-{n}"), Some(log))?;
            if disk.is_some() && config.audits > 1 {
                // The one whose disk is hurt is to be the owner.
                audit.service.wait_for_line("claimed ", CLAIM_LIMIT).await?;
            }
            audits.push(audit);
        }
        let dlq = consumer("dlq-processor", "dlq".to_owned(), None)?;
        Ok(Self {
            broker,
            proxy,
            api,
            url,
            notifications,
            audits,
            dlq,
            audit_disk,
            store_disk,
            state_disk,
            clock,
            snapshots: Vec::new(),
            rewritten: Vec::new(),
            first_life: None,
        })
    }

    /// Records what the audit logs hold. To be called when their writer has been killed.
    pub fn snapshot(&mut self) -> Result<()> {
        let mut last_offset = None;
        for audit in &self.audits {
            last_offset = last_offset.max(audit.read_audit_log()?.lines.last().map(|line| line.seen.offset));
        }
        self.snapshots.push(Snapshot { at: now(), last_offset });
        Ok(())
    }

    /// Records the lines of the audit logs, some of which are about to be lost.
    pub fn keep_audit_lines(&mut self) -> Result<()> {
        for audit in &self.audits {
            self.rewritten.extend(audit.read_audit_log()?.lines);
        }
        Ok(())
    }

    /// All that can be known once everything is drained; but for the requests.
    pub async fn evidence(&mut self) -> Result<Evidence> {
        let bootstrap = self.broker.bootstrap();
        let mut evidence = read_kafka(&bootstrap, harness::EVENTS, harness::OFFSETS).await?;
        for audit in &self.audits {
            evidence.audit_logs.push(audit.read_audit_log()?);
        }
        let mut told = Vec::new();
        for one in &self.notifications {
            let instance = one.instance_id();
            let lines = one.service.history();
            told.extend(lines.iter().filter_map(|line| Told::parse(line, instance.as_deref())));
        }
        evidence.told = Some(told);
        evidence.relay = Some(self.api.history().iter().filter_map(|line| RelaySaid::parse(line)).collect());
        evidence.tasks = Some(crate::api::all_tasks(&self.url).await?);
        evidence.snapshots.clone_from(&self.snapshots);
        evidence.rewritten.clone_from(&self.rewritten);
        if let Some(first_life) = &self.first_life {
            first_life.join(&mut evidence);
        }
        AUDIT_GROUP.clone_into(&mut evidence.audit_group);
        NOTIFICATION_GROUP.clone_into(&mut evidence.notification_group);
        Ok(evidence)
    }

    /// Keeps the output of every process.
    pub fn write_logs(&self, folder: &Path) -> Result<()> {
        let consumers = self.notifications.iter().chain(&self.audits).chain([&self.dlq]);
        let mut logs: Vec<(String, Vec<String>)> =
            consumers.map(|consumer| (consumer.name.clone(), consumer.service.history())).collect();
        logs.push(("api".to_owned(), self.api.history()));
        logs.push(("broker".to_owned(), self.broker.process().lines()));
        for (name, lines) in logs {
            let path = folder.join(format!("{name}.log"));
            let text = lines.join("\n") + "\n";
            std::fs::write(&path, text).map_err(|error| Error::file(&path, error))?;
        }
        Ok(())
    }
}

impl Consumer {
    /// Its instance id, once it has one.
    pub fn instance_id(&self) -> Option<String> {
        let id = std::fs::read_to_string(self.state.join("instance_id")).ok()?;
        Some(id.trim().to_owned())
    }

    fn read_audit_log(&self) -> Result<AuditLog> {
        let path = self.audit_log.as_ref().ok_or_else(|| {
            Error::file(Path::new(&self.name), io::Error::other("this service has no audit log"))
        })?;
        AuditLog::read_with_segments(path, self.instance_id())
    }

    /// The highest token that it says it claimed.
    fn token(&self) -> Option<i64> {
        let said = self.service.history();
        let tokens = said.iter().filter_map(|line| {
            let (_, token) = line.split_once(" with token ")?;
            line.contains("claimed ").then_some(())?;
            token.split(',').next()?.parse().ok()
        });
        tokens.max()
    }
}

/// The one that owns, as far as the instances know.
pub fn owner(consumers: &mut [Consumer]) -> Option<&mut Consumer> {
    consumers.iter_mut().max_by_key(|consumer| consumer.token())
}

/// What Kafka holds: the events of partition 0, and the offsets topic.
pub async fn read_kafka(bootstrap: &str, events: &str, offsets: &str) -> Result<Evidence> {
    let topic = harness::read_topic(bootstrap, events).await?;
    let topic = topic.iter().filter(|one| one.partition == 0);
    let topic = topic.filter_map(|one| Seen::in_topic(one.offset, one.record.value.as_deref()));
    let topic = topic.collect();
    Ok(Evidence {
        topic: Some(topic),
        offsets: read_offsets(bootstrap, events, offsets).await?,
        ..Evidence::default()
    })
}

/// The offsets topic.
pub async fn read_offsets(bootstrap: &str, events: &str, offsets: &str) -> Result<Vec<OffsetsEntry>> {
    let records = harness::read_topic(bootstrap, offsets).await?;
    let entries = records.iter().filter_map(|one| {
        OffsetsEntry::read(one.offset, one.record.key.as_deref(), one.record.value.as_deref(), events)
    });
    Ok(entries.collect())
}

/// What is left undone of a group that has not committed up to `end`.
pub fn behind(offsets: &[OffsetsEntry], group: &str, end: i64) -> Option<String> {
    let position = position(offsets, group).unwrap_or(0);
    (position < end).then(|| format!("{group} is at {position} of {end}"))
}

/// How far a group is: the last commit of the highest token that has one.
pub fn position(offsets: &[OffsetsEntry], group: &str) -> Option<i64> {
    let commits = offsets.iter().filter(|entry| entry.group == group).filter_map(|entry| match entry.said {
        OffsetsSaid::Commit { token, offset, .. } => Some((token, offset)),
        OffsetsSaid::Claim { .. } => None,
    });
    // Of equal tokens the last.
    commits.max_by_key(|(token, _)| *token).map(|(_, offset)| offset)
}
