//! The scaled system: a broker with six partitions, PostgreSQL behind a proxy, three replicas of the API, and three
//! instances of each consumer with state and logs of their own, all as processes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::requests::{Micros, now};
use harness::{
    Broker, Error, Kind as BrokerKind, Postgres, Program, Proxy, Result, Service, create_topic, free_port,
};

use super::evidence::{PUBLISHES, PUBLISHES_NO_LONGER, read_audit_log};
use super::follower::Follower;
use super::group::Group;
use crate::evidence::{Snapshot, micros};
use crate::system::LEASE;

/// Partitions of the topic of events: they divide evenly by 1, 2, 3 and 6 instances.
pub const PARTITIONS: usize = 6;
/// Replicas of the API, and instances of each consumer.
pub const REPLICAS: usize = 3;
const DATABASE: &str = "tasks";
/// What a replica logs when its turn to publish is over.
const TURN_OVER: [&str; 2] = [PUBLISHES_NO_LONGER, "the relay's turn is over"];

/// What a replica logs once it listens.
pub(super) const LISTENS: &str = "listening on http://";

/// A replica of the API.
pub struct Replica {
    /// Its process.
    pub service: Service,
    /// Where it listens.
    pub url: String,
}

impl Replica {
    /// When it began to listen for the first time after this.
    pub(super) fn listened_after(&self, at: Micros) -> Option<Micros> {
        let lines = self.service.history();
        let mut times = lines
            .iter()
            .filter(|line| line.contains(LISTENS))
            .filter_map(|line| micros(line.split(' ').next()?));
        times.find(|time| *time > at)
    }
}

/// An instance of a consumer.
pub struct Instance {
    /// Its group.
    pub group: Group,
    /// Its name, and that of its folder.
    pub name: String,
    /// Its process.
    pub service: Service,
    /// A fault has it now.
    pub hurt: bool,
    state: PathBuf,
    /// Where an audit service writes.
    pub audit_log: PathBuf,
}

impl Instance {
    /// Its instance id, once it has one.
    pub fn instance_id(&self) -> Option<String> {
        let id = std::fs::read_to_string(self.state.join(self.group.name()).join("instance_id")).ok()?;
        Some(id.trim().to_owned())
    }
}

/// Everything.
pub struct Scaled {
    /// Kafka.
    pub broker: Broker,
    /// The offsets topic as it is written.
    pub offsets: Follower,
    /// PostgreSQL.
    pub postgres: Postgres,
    /// The way to it.
    pub database: Proxy,
    /// The API.
    pub replicas: Vec<Replica>,
    /// All consumers, also those that have left.
    pub instances: Vec<Instance>,
    /// The audit logs after each kill, by partition.
    pub snapshots: Vec<Vec<Snapshot>>,
    folder: PathBuf,
}

impl Scaled {
    /// Starts everything below that folder, and waits until each replica answers. `None` where PostgreSQL is not
    /// installed.
    pub async fn start(folder: &Path, broker: BrokerKind, seed: u64) -> Result<Option<Self>> {
        let started = tokio::task::block_in_place(|| Postgres::start(""))?;
        let Some(postgres) = started else { return Ok(None) };
        tokio::task::block_in_place(|| postgres.create_database(DATABASE))?;
        let database = Proxy::start(free_port()?, postgres.port(), seed).await;
        let database =
            database.map_err(|error| Error::Failed(format!("the proxy cannot listen: {error}")))?;
        let broker = Broker::start_kind(broker).await?;
        let bootstrap = broker.bootstrap();
        create_topic(&bootstrap, harness::EVENTS, i32::try_from(PARTITIONS).unwrap_or(i32::MAX)).await?;
        let (folder, snapshots) = (folder.to_owned(), Vec::new());
        let offsets = Follower::start(&bootstrap)?;
        let (replicas, instances) = (Vec::new(), Vec::new());
        let mut system = Self { broker, offsets, postgres, database, replicas, instances, snapshots, folder };
        let made = system.program("taskctl").args(&["topics", "create"]).run(Duration::from_secs(60)).await?;
        if made.code != Some(0) {
            return Err(Error::Failed(format!("taskctl topics create: {}", made.stderr)));
        }
        for number in 1..=REPLICAS {
            let state = system.folder.join(format!("api-{number}"));
            let url = format!("postgres://postgres@127.0.0.1:{}/{DATABASE}", system.database.port());
            let program = system.program("task-api").env("STATE_DIR", state.display());
            let program = program.env("DATABASE_URL", url).env("PORT", free_port()?);
            system.replicas.push(Replica { service: program.start()?, url: String::new() });
        }
        for replica in &mut system.replicas {
            replica.url = replica.service.url().await?;
        }
        for group in Group::ALL {
            for _ in 0..REPLICAS {
                system.join(group)?;
            }
        }
        Ok(Some(system))
    }

    fn program(&self, name: &str) -> Program {
        Program::new(name)
            .env("KAFKA_BOOTSTRAP_SERVERS", self.broker.bootstrap())
            .env("LEASE_MS", LEASE.as_millis())
    }

    /// Starts one more instance, and returns its name.
    pub fn join(&mut self, group: Group) -> Result<String> {
        let number = self.of(group).count() + 1;
        let name = format!("{}-{number}", group.name());
        let (state, audit_log) = (self.folder.join(&name), self.folder.join(format!("{name}.audit")));
        let program = self.program(group.name()).env("STATE_DIR", state.display());
        let service = program.env("AUDIT_LOG_PATH", audit_log.display()).start()?;
        let instance = Instance { group, name: name.clone(), service, hurt: false, state, audit_log };
        self.instances.push(instance);
        Ok(name)
    }

    /// The instances of a group.
    pub fn of(&self, group: Group) -> impl Iterator<Item = &Instance> {
        self.instances.iter().filter(move |instance| instance.group == group)
    }

    /// Records what the audit logs hold, as of before they are read: whatever is committed by then is in them.
    pub fn snapshot(&mut self) -> Result<()> {
        let at = now();
        let mut last = [None; PARTITIONS];
        for audit in self.of(Group::Audit) {
            for (last, lines) in last.iter_mut().zip(read_audit_log(&audit.audit_log, PARTITIONS)?) {
                *last = (*last).max(lines.last().map(|line| line.seen.offset));
            }
        }
        self.snapshots.push(last.map(|last_offset| Snapshot { at, last_offset }).to_vec());
        Ok(())
    }

    /// The replica that publishes, as it logged.
    pub fn publishing(&self) -> Option<usize> {
        let publishes = |replica: &Replica| {
            let lines = replica.service.lines();
            let begun = lines.iter().rposition(|line| line.contains(PUBLISHES));
            let over = lines.iter().rposition(|line| TURN_OVER.iter().any(|over| line.contains(over)));
            begun > over
        };
        self.replicas.iter().position(publishes)
    }

    /// Processes that have ended, or panicked, although all run that are to.
    pub fn ended(&mut self) -> Result<Vec<String>> {
        let replicas = self.replicas.iter_mut().enumerate();
        let replicas = replicas.map(|(number, one)| (format!("replica {}", number + 1), &mut one.service));
        let instances = self.instances.iter_mut().map(|one| (one.name.clone(), &mut one.service));
        let mut troubles = Vec::new();
        for (name, service) in replicas.chain(instances) {
            if service.has_ended()? {
                troubles.push(format!("{name} has ended, and was not asked to"));
            }
            let panics = service.history().into_iter().filter(|line| line.contains("panicked at"));
            troubles.extend(panics.map(|line| format!("{name}: {line}")));
        }
        Ok(troubles)
    }

    /// Keeps the output of every process.
    pub fn write_logs(&self, folder: &Path) -> Result<()> {
        let mut logs = vec![("broker".to_owned(), self.broker.process().lines())];
        for (number, replica) in self.replicas.iter().enumerate() {
            logs.push((format!("task-api-{}", number + 1), replica.service.history()));
        }
        logs.extend(self.instances.iter().map(|one| (one.name.clone(), one.service.history())));
        for (name, lines) in logs {
            let path = folder.join(format!("{name}.log"));
            std::fs::write(&path, lines.join("\n") + "\n").map_err(|error| Error::file(&path, error))?;
        }
        Ok(())
    }
}
