//! The life of one event, one task or one request, from what is durable: the topic, each group's commits and the
//! DLQ, and with them what the caller knows of the task, the outbox and the audit log.
//!
//! Each is read once, and what is found is put in order of time. What should be there and is not comes last, with the
//! reason where one can be seen.

mod collect;
mod report;

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::redrive::Place;

pub use collect::{EventHead, Found, Part, Record, Unseen, collect};
pub use report::{Entry, Report, report};

/// What others than Kafka know of an id.
#[derive(Debug)]
pub struct Others {
    /// The task as the API has it, where the id is a task's, or its event names one.
    pub task: Option<Task>,
    /// What waits in the API's outbox, or why that is not known and what to do about it.
    pub outbox: Result<Outbox, String>,
    /// The lines of the audit log about the id.
    pub audit: Audit,
}

/// A task as the API has it.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its id.
    pub id: Uuid,
    /// Its title.
    pub title: String,
    /// Its status.
    pub status: String,
    /// Its version.
    pub version: u64,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

/// The API's outbox.
#[derive(Debug, Clone)]
pub struct Outbox {
    /// Whether the API reaches Kafka.
    pub kafka_is_reachable: bool,
    /// Events that wait.
    pub waiting: u64,
    /// How long the oldest of them has waited.
    pub oldest: Option<Duration>,
    /// Those of them that have to do with the id.
    pub events: Vec<EventHead>,
    /// Whether all that wait were looked at.
    pub is_complete: bool,
}

/// What is known of an audit log.
#[derive(Debug)]
pub enum Audit {
    /// It is not here: a commit of its group says that the lines below it are on disk.
    Elsewhere,
    /// The lines about the id.
    Lines(Vec<AuditLine>),
    /// Why it cannot be read, and what to do about it.
    Unreadable(String),
}

/// A line of an audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditLine {
    /// Where the line is: `audit.log:12`.
    pub place: String,
    /// Of its event.
    pub event_id: Uuid,
    /// When it was written, RFC 3339.
    pub audited_at: String,
    /// Where the event was.
    pub source: Place,
}
