//! All that the checks look at, as plain data: what was asked, and what is in Kafka, in files and in
//! the services' logs. The events are those of one partition.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use chrono::DateTime;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use harness::requests::{Micros, Request, Task, read_lines, write_lines};
use harness::{Error, Result};

/// How titles of events begin that another producer wrote. Nobody here asked for them, and they are events
/// like all others.
pub const FOREIGN: &str = "foreign ";

/// What was found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Evidence {
    /// What clients asked for. In a file of its own.
    #[serde(skip)]
    pub requests: Vec<Request>,
    /// Others use the same system: events that nobody here asked for are counted, not reported.
    pub shared: bool,
    /// The store of tasks refused work for a while, by a planned fault: 5xx are no finding.
    pub store_failed: bool,
    /// The wall clock of the services was stepped: their times do not tell what came first.
    #[serde(default)]
    pub clock_stepped: bool,
    /// The topic of events was deleted and created again. Offsets from here on are those of the new one.
    #[serde(default)]
    pub recreated_at: Option<i64>,
    /// The topic of events in its order; none where it was not read.
    pub topic: Option<Vec<Seen>>,
    /// The audit logs of one group.
    pub audit_logs: Vec<AuditLog>,
    /// The offsets topic in its order.
    pub offsets: Vec<OffsetsEntry>,
    /// The audit logs as they were when their writer had been killed.
    pub snapshots: Vec<Snapshot>,
    /// Lines that the audit logs held before they were restored or truncated.
    #[serde(default)]
    pub rewritten: Vec<AuditLine>,
    /// What the relay said, in its order; none where its log was not read.
    pub relay: Option<Vec<RelaySaid>>,
    /// What the notification instances said; none where their logs were not read.
    pub told: Option<Vec<Told>>,
    /// The tasks as the API lists them in the end; none where they were not read.
    pub tasks: Option<Vec<Task>>,
    /// What was still to be done, after all faults were over; none where it was not asked.
    pub not_drained: Option<Vec<String>>,
    /// The group of the audit logs, as it is in the offsets topic.
    pub audit_group: String,
    /// The group of the notifications.
    pub notification_group: String,
}

/// An event as it is stored somewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Where in the topic.
    pub offset: i64,
    /// Its id.
    pub event_id: String,
    /// Its type.
    pub event_type: String,
    /// Which request caused it.
    pub correlation_id: String,
    /// The task.
    pub task_id: String,
    /// Its title after the change.
    pub title: String,
    /// Its status after the change.
    pub status: String,
}

/// One audit log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLog {
    /// Its name.
    pub name: String,
    /// The instance that writes it, if known.
    pub instance_id: Option<String>,
    /// Its lines in their order.
    pub lines: Vec<AuditLine>,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLine {
    /// The event.
    pub seen: Seen,
    /// When it was taken.
    pub at: Micros,
}

/// An audit log on disk at the moment after its writer died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When the writer was dead.
    pub at: Micros,
    /// The offset of its last whole line.
    pub last_offset: Option<i64>,
}

/// A record of the offsets topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetsEntry {
    /// Where it is.
    pub at: i64,
    /// Whose it is.
    pub group: String,
    /// What it says.
    pub said: OffsetsSaid,
}

/// What a record of the offsets topic says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OffsetsSaid {
    /// An instance takes over; its token is the offset of this.
    Claim {
        /// The instance.
        instance_id: String,
        /// When it wrote so.
        claimed_at: Micros,
    },
    /// All below is done.
    Commit {
        /// Under which claim.
        token: i64,
        /// The offset to read next.
        offset: i64,
        /// The topic in which that holds.
        #[serde(default)]
        topic_id: Option<String>,
        /// The instance.
        instance_id: String,
        /// When it wrote so.
        committed_at: Micros,
    },
}

/// A line of the relay's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelaySaid {
    /// Kafka acknowledged these.
    Delivered {
        /// The first offset.
        first: i64,
        /// The last offset.
        last: i64,
    },
    /// The topic's tail was read before anything was sent again.
    Reconciled {
        /// Where it ended.
        end: i64,
    },
}

/// A notification as it was logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The instance, if known.
    pub instance_id: Option<String>,
    /// When.
    pub at: Micros,
    /// Of which task.
    pub task_id: String,
    /// Completed, or else created.
    pub completed: bool,
}

impl Seen {
    /// An event in the topic, or `None` for what is no event.
    pub fn in_topic(offset: i64, value: Option<&[u8]>) -> Option<Self> {
        Self::read(&serde_json::from_slice(value?).ok()?, offset)
    }

    /// Whether it is notified.
    pub fn is_told(&self) -> bool {
        ["task.created", "task.completed"].contains(&self.event_type.as_str())
    }

    /// Whether another producer wrote it.
    pub fn is_foreign(&self) -> bool {
        self.title.starts_with(FOREIGN)
    }

    fn read(event: &Value, offset: i64) -> Option<Self> {
        let text = |path: &str| Some(event.pointer(path)?.as_str()?.to_owned());
        Some(Self {
            offset,
            event_id: text("/event_id")?,
            event_type: text("/event_type")?,
            correlation_id: text("/metadata/correlation_id")?,
            task_id: text("/data/task_id")?,
            title: text("/data/title")?,
            status: text("/data/status")?,
        })
    }
}

impl AuditLog {
    /// Reads the whole lines of a log. No file is a log without lines.
    pub fn read(path: &Path, instance_id: Option<String>) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            read => read.map_err(|error| Error::file(path, error))?,
        };
        let whole = text.rfind('\n').map_or("", |end| text.split_at(end).0);
        let lines = whole.lines().enumerate().map(|(index, line)| {
            AuditLine::parse(line).ok_or_else(|| Error::Line {
                path: path.to_owned(),
                line: index + 1,
                why: format!("no line of an audit log: {line:.200}"),
            })
        });
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, instance_id, lines: lines.collect::<Result<_>>()? })
    }
}

impl AuditLog {
    /// As [`AuditLog::read`], with the segments that were sealed before: those last written last.
    pub fn read_with_segments(path: &Path, instance_id: Option<String>) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut segments = Vec::new();
        for entry in fs::read_dir(folder).map_err(|error| Error::file(folder, error))? {
            let entry = entry.map_err(|error| Error::file(folder, error))?;
            let other = entry.file_name().to_string_lossy().into_owned();
            let stem = name.strip_suffix(".log").unwrap_or(&name);
            let is_segment = [&name, stem].iter().any(|name| {
                let rest = other.strip_prefix(*name).and_then(|rest| rest.strip_prefix(['.', '-']));
                rest.is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
            });
            if is_segment {
                let written = entry.metadata().and_then(|metadata| metadata.modified());
                segments.push((written.map_err(|error| Error::file(path, error))?, entry.path()));
            }
        }
        segments.sort();
        let mut lines = Vec::new();
        for (_, segment) in segments {
            lines.extend(Self::read(&segment, None)?.lines);
        }
        lines.extend(Self::read(path, None)?.lines);
        Ok(Self { name, instance_id, lines })
    }
}

impl AuditLine {
    /// Reads a line.
    pub fn parse(line: &str) -> Option<Self> {
        let json: Value = serde_json::from_str(line).ok()?;
        let offset = json.pointer("/kafka/offset")?.as_i64()?;
        Some(Self { seen: Seen::read(&json, offset)?, at: micros(json.pointer("/audited_at")?.as_str()?)? })
    }
}

impl OffsetsEntry {
    /// Reads a record; `None` for a tombstone and for what is of another topic or makes no sense.
    pub fn read(at: i64, key: Option<&[u8]>, value: Option<&[u8]>, events_topic: &str) -> Option<Self> {
        let key = std::str::from_utf8(key?).ok()?;
        let value: Value = serde_json::from_slice(value?).ok()?;
        let parts: Vec<_> = key.split('/').collect();
        let text = |name: &str| Some(value.get(name)?.as_str()?.to_owned());
        let (group, said) = match parts.as_slice() {
            [group, topic, "0", "claim"] if *topic == events_topic => {
                let claimed_at = micros(value.get("claimed_at")?.as_str()?)?;
                (group, OffsetsSaid::Claim { instance_id: text("instance_id")?, claimed_at })
            }
            [group, topic, "0", "commit", token] if *topic == events_topic => {
                let said = OffsetsSaid::Commit {
                    token: token.parse().ok()?,
                    offset: value.get("offset")?.as_i64()?,
                    topic_id: text("topic_id"),
                    instance_id: text("instance_id")?,
                    committed_at: micros(value.get("committed_at")?.as_str()?)?,
                };
                (group, said)
            }
            _ => return None,
        };
        Some(Self { at, group: (*group).to_owned(), said })
    }
}

impl RelaySaid {
    /// Reads a line of the API's log; `None` for all others.
    pub fn parse(line: &str) -> Option<Self> {
        if let Some((_, said)) = line.split_once("Event delivered: ") {
            let last = number_after(said, "offset=")?;
            // The line of a batch names its first offset; that of a single event has no other.
            let first = number_after(said, "events from offset ").unwrap_or(last);
            return Some(Self::Delivered { first, last });
        }
        let (_, said) = line.split_once(": reconciled ")?;
        Some(Self::Reconciled { end: number_after(said, "read to offset ")? })
    }
}

impl Told {
    /// Reads a line of a notification instance; `None` for all others.
    pub fn parse(line: &str, instance_id: Option<&str>) -> Option<Self> {
        let (head, said) = line.split_once("NOTIFICATION: ")?;
        let (_, id) = said.rsplit_once("(ID: ")?;
        Some(Self {
            instance_id: instance_id.map(str::to_owned),
            at: micros(head.split_whitespace().next()?)?,
            task_id: id.trim_end().strip_suffix(')')?.to_owned(),
            completed: said.starts_with("Task completed"),
        })
    }
}

impl Evidence {
    /// Whether nothing is known to be still on its way.
    pub fn is_drained(&self) -> bool {
        self.not_drained.as_ref().is_none_or(Vec::is_empty)
    }

    /// Keeps it in a folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_lines(&history_in(folder), &self.requests)?;
        let path = evidence_in(folder);
        let bytes = serde_json::to_vec(self).map_err(|error| Error::file(&path, error.into()))?;
        fs::write(&path, bytes).map_err(|error| Error::file(&path, error))
    }

    /// Reads what [`Evidence::write`] kept.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = evidence_in(folder);
        let bytes = fs::read(&path).map_err(|error| Error::file(&path, error))?;
        let evidence: Self =
            serde_json::from_slice(&bytes).map_err(|error| Error::file(&path, error.into()))?;
        Ok(Self { requests: read_lines(&history_in(folder))?, ..evidence })
    }
}

fn history_in(folder: &Path) -> PathBuf {
    folder.join("history.jsonl")
}

fn evidence_in(folder: &Path) -> PathBuf {
    folder.join("evidence.json")
}

/// An RFC 3339 time.
pub(crate) fn micros(text: &str) -> Option<Micros> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_micros())
}

fn number_after(text: &str, name: &str) -> Option<i64> {
    let (_, rest) = text.split_once(name)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest.split_at(end).0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_relays_lines_are_read() {
        let batch = "2026-01-15T10:30:00.000000Z INFO  task_api::relay: Event delivered: topic=task-events, partition=0, offset=41 (12 events from offset 30)";
        assert_eq!(RelaySaid::parse(batch), Some(RelaySaid::Delivered { first: 30, last: 41 }));
        let one = "2026-01-15T10:30:00.000000Z DEBUG task_api::relay: Event delivered: topic=task-events, partition=0, offset=7";
        assert_eq!(RelaySaid::parse(one), Some(RelaySaid::Delivered { first: 7, last: 7 }));
        let reconciled = "2026-01-15T10:30:00.000000Z INFO  task_api::relay::lane: reconciled task-events/0: 3 of 9 pending events are already in the topic (offsets 39 to 41) and will not be resent; read to offset 42";
        assert_eq!(RelaySaid::parse(reconciled), Some(RelaySaid::Reconciled { end: 42 }));
        assert_eq!(RelaySaid::parse("2026-01-15T10:30:00.000000Z INFO  x: listening"), None);
    }

    #[test]
    fn a_notification_is_read() {
        let line = "2026-01-15T10:30:00.000001Z INFO  consumers::notification{correlation_id=0b1e5e0a-9f2c-4c8e-8d8e-3b1a2c4d5e6f}: NOTIFICATION: Task completed - 'a (ID: b)' (ID: 7)";
        let told = Told::parse(line, Some("i")).unwrap();
        assert_eq!((told.task_id.as_str(), told.completed), ("7", true));
        assert_eq!(told.at % 1_000_000, 1);
    }

    #[test]
    fn records_of_the_offsets_topic_are_read() {
        let claim = br#"{"v":1,"claim_id":"c","instance_id":"i","host":"h","claimed_at":"1970-01-01T00:00:01.000000Z","lease_ms":1}"#;
        let entry = OffsetsEntry::read(4, Some(b"g/t/0/claim"), Some(claim), "t").unwrap();
        let said = OffsetsSaid::Claim { instance_id: "i".to_owned(), claimed_at: 1_000_000 };
        assert_eq!(entry, OffsetsEntry { at: 4, group: "g".to_owned(), said });
        let commit = br#"{"v":1,"offset":9,"instance_id":"i","committed_at":"1970-01-01T00:00:01.000000Z","released":false,"meta":{}}"#;
        let entry = OffsetsEntry::read(5, Some(b"g/t/0/commit/4"), Some(commit), "t").unwrap();
        assert!(matches!(entry.said, OffsetsSaid::Commit { token: 4, offset: 9, .. }));
        assert_eq!(OffsetsEntry::read(6, Some(b"g/t/0/commit/4"), None, "t"), None);
        assert_eq!(OffsetsEntry::read(6, Some(b"g/other/0/commit/4"), Some(commit), "t"), None);
    }
}
