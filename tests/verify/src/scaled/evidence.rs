//! What is left of a round of the scaled system: the evidence of each partition by itself, so that the checks of one
//! partition look at it, and what is about the whole.
//!
//! A task is in one partition. So a notification is of the partition of its task, and whatever a client asked of a task
//! is of one partition, too.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use harness::requests::{Micros, Request, Task, read_lines, write_lines};
use harness::{DLQ, Error, Result, TopicRecord};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::follower::Record;
use super::group::Group;
use crate::evidence::{AuditLine, AuditLog, Evidence, OffsetsEntry, RelaySaid, Seen, Told, micros};

/// What a replica logs when its turn to publish begins.
pub(super) const PUBLISHES: &str = "this replica publishes the outbox";
/// When it gives its turn back: it publishes until then.
pub(super) const PUBLISHES_NO_LONGER: &str = "this replica no longer publishes the outbox";

/// What was found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ScaledEvidence {
    /// What clients asked for. In a file of its own.
    #[serde(skip)]
    pub requests: Vec<Request>,
    /// Of each partition: topic, audit logs, claims and commits, notifications, and what the relays said.
    pub partitions: Vec<Evidence>,
    /// Of each partition, the commits by which an owner gave it back in order.
    pub released: Vec<Vec<Release>>,
    /// The tasks as each replica lists them in the end.
    pub tasks: Vec<Vec<Task>>,
    /// When what was hurt.
    pub hurts: Vec<Hurt>,
    /// The processes that were killed, paused or stopped.
    pub ends: Vec<End>,
    /// Which replica began to publish when, by time.
    pub relay_turns: Vec<RelayTurn>,
    /// Which gave its turn back when.
    pub relay_turns_given: Vec<RelayTurn>,
    /// Claims and commits of the partition of dead letters.
    pub dead_letters: Vec<OffsetsEntry>,
    /// Of these the commits by which an owner gave it back in order.
    pub dead_letters_released: Vec<Release>,
    /// What was still to be done, after all faults were over.
    pub not_drained: Vec<String>,
    /// What the faults of the plan hit.
    pub strikes: Vec<Strike>,
    /// How many processes there were at the end.
    pub processes: usize,
    /// Those that had ended or panicked by themselves, or did not come back after a fault.
    pub troubles: Vec<String>,
    /// How much longer than promised a partition may be nobody's after a kill, and while its owner is paused.
    pub margin: Micros,
    /// The same after a stop in order.
    pub stop_margin: Micros,
}

/// A commit by which an owner gave its partition back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Its offset.
    pub at: i64,
    /// The instance that is to own next, where it names one.
    pub to: Option<String>,
}

/// A fault, as it was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strike {
    /// Its name on the command line.
    pub fault: String,
    /// When.
    pub at: Micros,
    /// Whom it hit; nobody where nobody was there to hit.
    pub whom: Option<String>,
}

/// What was hurt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// A replica of the API, by its number from 0, that was killed.
    Down(usize),
    /// A replica that was asked to stop: it answers what it has received by then.
    Stopped(usize),
    /// A replica that was paused.
    Paused(usize),
    /// An instance of this group that was killed or paused.
    Instance(Group),
    /// PostgreSQL, or the way there.
    Database,
    /// Kafka.
    Broker,
}

/// A time in which a part was hurt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hurt {
    /// What.
    pub part: Part,
    /// Since when.
    pub from: Micros,
    /// When it was well again.
    pub until: Micros,
}

/// Whose place is taken when its process ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// An instance of consumers, which may own partitions.
    Instance {
        /// Its group.
        group: Group,
        /// Its id.
        id: String,
    },
    /// A replica of the API, by its number from 0, which may publish the outbox.
    Replica(usize),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Manner {
    /// By kill -9.
    Killed,
    /// By SIGTERM, with this exit code; none if a signal ended it.
    Stopped(Option<i32>),
    /// It was only paused, until then.
    Paused(Micros),
}

/// The end of a process, or a pause in which it does nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Whose.
    pub holder: Holder,
    /// How.
    pub manner: Manner,
    /// When it was killed or paused, or asked to stop.
    pub at: Micros,
}

/// A replica that publishes the outbox from then on, or until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RelayTurn {
    /// When.
    pub at: Micros,
    /// Its number from 0.
    pub replica: usize,
}

impl ScaledEvidence {
    /// Without anything yet, of that many partitions.
    pub fn new(partitions: usize) -> Self {
        let evidence = Evidence {
            topic: Some(Vec::new()),
            told: Some(Vec::new()),
            relay: Some(Vec::new()),
            audit_group: "audit-service".to_owned(),
            notification_group: "notification-service".to_owned(),
            ..Evidence::default()
        };
        Self {
            partitions: vec![evidence; partitions],
            released: vec![Vec::new(); partitions],
            ..Self::default()
        }
    }

    fn partition(&mut self, partition: usize) -> Result<&mut Evidence> {
        let missing = || Error::Failed(format!("there is no partition {partition}"));
        self.partitions.get_mut(partition).ok_or_else(missing)
    }

    /// Adds the topic of events.
    pub fn add_topic(&mut self, records: &[TopicRecord]) -> Result<()> {
        for one in records {
            let partition = usize::try_from(one.partition).unwrap_or(usize::MAX);
            let seen = Seen::in_topic(one.offset, one.record.value.as_deref());
            self.partition(partition)?.topic.get_or_insert_default().extend(seen);
        }
        Ok(())
    }

    /// Adds claims and commits.
    pub fn add_offsets(&mut self, records: &[Record]) -> Result<()> {
        for one in records {
            let release = one.released.then(|| Release { at: one.entry.at, to: one.to.clone() });
            if one.topic == DLQ {
                self.dead_letters.push(one.entry.clone());
                self.dead_letters_released.extend(release);
                continue;
            }
            self.partition(one.partition)?.offsets.push(one.entry.clone());
            if let Some(released) = self.released.get_mut(one.partition) {
                released.extend(release);
            }
        }
        Ok(())
    }

    /// Adds the audit log of an instance, by partition.
    pub fn add_audit_log(&mut self, path: &Path, instance_id: Option<&str>) -> Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let parts = read_audit_log(path, self.partitions.len())?;
        for (evidence, lines) in self.partitions.iter_mut().zip(parts) {
            let instance_id = instance_id.map(str::to_owned);
            evidence.audit_logs.push(AuditLog { name: name.clone(), instance_id, lines });
        }
        Ok(())
    }

    /// Adds what a notification service wrote. To be called after [`ScaledEvidence::add_topic`].
    pub fn add_notifications(&mut self, lines: &[String], instance_id: Option<&str>) {
        let mut places: HashMap<String, usize> = HashMap::new();
        for (partition, evidence) in self.partitions.iter().enumerate() {
            let topic = evidence.topic.iter().flatten();
            places.extend(topic.map(|seen| (seen.task_id.clone(), partition)));
        }
        for told in lines.iter().filter_map(|line| Told::parse(line, instance_id)) {
            // One of no task at all is nobody's, and of no check.
            let place = places.get(&told.task_id).and_then(|place| self.partitions.get_mut(*place));
            if let Some(evidence) = place {
                evidence.told.get_or_insert_default().push(told);
            }
        }
    }

    /// Adds what the replicas logged of their publishing, each in its order; together by time.
    pub fn add_relays(&mut self, logs: &[Vec<String>]) {
        for (replica, log) in logs.iter().enumerate() {
            let turns = |announcement: &'static str| {
                let lines = log.iter().filter(move |line| line.contains(announcement));
                lines
                    .filter_map(move |line| Some(RelayTurn { at: micros(line.split(' ').next()?)?, replica }))
            };
            self.relay_turns.extend(turns(PUBLISHES));
            self.relay_turns_given.extend(turns(PUBLISHES_NO_LONGER));
        }
        self.relay_turns.sort_unstable();
        let mut lines: Vec<&String> = logs.iter().flatten().filter(|line| line.starts_with("20")).collect();
        // Each begins with its time, all with as many digits.
        lines.sort_by_key(|line| line.split(' ').next());
        for line in lines {
            let partition =
                number_after(line, "partition=").or(number_after(line, "reconciled task-events/"));
            let Some(evidence) = partition.and_then(|partition| self.partitions.get_mut(partition)) else {
                continue;
            };
            evidence.relay.get_or_insert_default().extend(RelaySaid::parse(line));
        }
    }

    /// All partitions as one, for what does not go by offsets.
    pub fn union(&self) -> Evidence {
        let mut union = Evidence {
            requests: self.requests.clone(),
            topic: Some(Vec::new()),
            told: Some(Vec::new()),
            tasks: self.tasks.first().cloned(),
            not_drained: Some(self.not_drained.clone()),
            ..Evidence::default()
        };
        for evidence in &self.partitions {
            let (topic, told) = (evidence.topic.iter().flatten(), evidence.told.iter().flatten());
            union.topic.get_or_insert_default().extend(topic.cloned());
            union.told.get_or_insert_default().extend(told.cloned());
            union.audit_logs.extend(evidence.audit_logs.iter().cloned());
        }
        union
    }

    /// Keeps it in a folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_lines(&history_in(folder), &self.requests)?;
        let path = evidence_in(folder);
        let bytes = serde_json::to_vec(self).map_err(|error| Error::file(&path, error.into()))?;
        fs::write(&path, bytes).map_err(|error| Error::file(&path, error))
    }

    /// Reads what [`ScaledEvidence::write`] kept; `None` where the folder is of another kind of round.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = evidence_in(folder);
        if !path.exists() {
            return Ok(None);
        }
        let bytes = fs::read(&path).map_err(|error| Error::file(&path, error))?;
        let evidence: Self =
            serde_json::from_slice(&bytes).map_err(|error| Error::file(&path, error.into()))?;
        Ok(Some(Self { requests: read_lines(&history_in(folder))?, ..evidence }))
    }
}

/// The whole lines of an audit log, by partition. No file is a log without lines.
pub fn read_audit_log(path: &Path, partitions: usize) -> Result<Vec<Vec<AuditLine>>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        read => read.map_err(|error| Error::file(path, error))?,
    };
    let whole = text.rfind('\n').map_or("", |end| text.split_at(end).0);
    let mut parts = vec![Vec::new(); partitions];
    for (index, line) in whole.lines().enumerate() {
        let wrong = || Error::Line {
            path: path.to_owned(),
            line: index + 1,
            why: format!("no line of an audit log of {partitions} partitions: {line:.200}"),
        };
        let json: Value = serde_json::from_str(line).map_err(|_| wrong())?;
        let partition = json.pointer("/kafka/partition").and_then(Value::as_u64);
        let part = partition.and_then(|number| parts.get_mut(usize::try_from(number).ok()?));
        part.ok_or_else(wrong)?.push(AuditLine::parse(line).ok_or_else(wrong)?);
    }
    Ok(parts)
}

fn history_in(folder: &Path) -> PathBuf {
    folder.join("history.jsonl")
}

fn evidence_in(folder: &Path) -> PathBuf {
    folder.join("scaled.json")
}

fn number_after(text: &str, name: &str) -> Option<usize> {
    let (_, rest) = text.split_once(name)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest.split_at(end).0.parse().ok()
}
