//! What clients asked for and what they were answered: one record a request, one JSON line in a file.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Microseconds since 1970, by the wall clock.
pub type Micros = i64;

/// Now.
pub fn now() -> Micros {
    chrono::Utc::now().timestamp_micros()
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A new task.
    Create,
    /// A new title.
    Retitle,
    /// A new title, and the status `in_progress`.
    Start,
    /// The status `completed`, by a patch.
    PatchCompleted,
    /// `POST …/complete`.
    Complete,
    /// `DELETE`.
    Delete,
}

impl Kind {
    /// The events of one transaction, in their order.
    pub fn events(self) -> &'static [&'static str] {
        match self {
            Self::Create => &["task.created"],
            Self::Retitle | Self::Start => &["task.updated"],
            Self::PatchCompleted => &["task.updated", "task.completed"],
            Self::Complete => &["task.completed"],
            Self::Delete => &["task.deleted"],
        }
    }
}

/// A task as the API answers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its id.
    pub id: String,
    /// Its title.
    pub title: String,
    /// Its status.
    pub status: String,
    /// Rises by one with each change.
    pub version: u64,
}

/// What a client knows of its request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// 2xx: it is done.
    Done {
        /// The task then; of one that was deleted, as it was, with the version of its deletion.
        task: Task,
    },
    /// 4xx: it is not done.
    Refused {
        /// The status.
        status: u16,
    },
    /// 5xx: it may be done or not.
    Failed {
        /// The status.
        status: u16,
    },
    /// No answer: it may be done or not.
    None {
        /// What the client saw.
        why: String,
    },
}

/// What came after a client had given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Late {
    /// When.
    pub ended: Micros,
    /// What.
    pub answer: Answer,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// What it asks for.
    pub kind: Kind,
    /// The task that it changes; none for a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<String>,
    /// The title that it sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Requests under one idempotency key are one operation, done once at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Unique; its events carry it.
    pub correlation_id: String,
    /// When it was sent.
    pub sent: Micros,
    /// When the answer was there, or given up.
    pub ended: Micros,
    /// What came of it.
    pub answer: Answer,
    /// What came after the client had given up, where that was waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<Late>,
    /// Which of several replicas was asked, from 0.
    #[serde(default)]
    pub replica: usize,
}

impl Request {
    /// The task, if it was answered 2xx.
    pub fn done(&self) -> Option<&Task> {
        match &self.answer {
            Answer::Done { task } => Some(task),
            _ => None,
        }
    }
}

/// Writes one JSON object a line.
pub fn write_lines<T: Serialize>(path: &Path, items: &[T]) -> Result<()> {
    let mut text = Vec::new();
    for item in items {
        serde_json::to_writer(&mut text, item).map_err(|error| Error::file(path, error.into()))?;
        text.push(b'\n');
    }
    fs::write(path, text).map_err(|error| Error::file(path, error))
}

/// Reads what [`write_lines`] wrote.
pub fn read_lines<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = fs::read_to_string(path).map_err(|error| Error::file(path, error))?;
    let lines = text.lines().enumerate().map(|(index, line)| {
        serde_json::from_str(line).map_err(|error| Error::Line {
            path: path.to_owned(),
            line: index + 1,
            why: error.to_string(),
        })
    });
    lines.collect()
}
