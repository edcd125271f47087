//! A task, and the changes that a caller may ask for.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use task_events::event::TaskData;
use task_events::time::serialize_time;
use uuid::Uuid;

use crate::title::Title;

/// How far a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskStatus {
    /// Nobody has begun.
    Pending,
    /// Somebody works on it.
    InProgress,
    /// It is done.
    Completed,
}

impl TaskStatus {
    /// All of them, in the order of [`code`](Self::code).
    pub const ALL: [Self; 3] = [Self::Pending, Self::InProgress, Self::Completed];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
        }
    }

    /// The status of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// Its number in the store's keys.
    pub fn code(self) -> u8 {
        match self {
            Self::Pending => 0,
            Self::InProgress => 1,
            Self::Completed => 2,
        }
    }
}

/// A task as it is stored and as it is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Version 7: sorts by creation.
    pub id: Uuid,
    /// Valid by [`Title::parse`].
    pub title: String,
    /// How far it is.
    pub status: TaskStatus,
    /// Whose it is.
    pub owner_id: Option<Uuid>,
    /// Rises by one with each change, from 1.
    pub version: u64,
    /// When it came to be.
    #[serde(serialize_with = "serialize_time")]
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    #[serde(serialize_with = "serialize_time")]
    pub updated_at: DateTime<Utc>,
}

impl Task {
    /// What an event says of the task.
    pub fn data(&self) -> TaskData {
        TaskData {
            task_id: self.id,
            title: self.title.clone(),
            status: self.status.as_str().to_owned(),
            owner_id: self.owner_id,
        }
    }
}

/// A task to be created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NewTask {
    /// What is to be done.
    pub title: Title,
    /// Whose it is.
    pub owner_id: Option<Uuid>,
}

/// What to change of a task; may be nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TaskPatch {
    /// The title to give it.
    pub title: Option<Title>,
    /// The status to move to.
    pub status: Option<TaskStatus>,
    /// The owner to give it; `Some(None)` for nobody.
    // Left out where it is not changed: fingerprints of requests that are stored know no owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner_id: Option<Option<Uuid>>,
}

/// A change to the store that a caller asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Change {
    /// Create a task.
    Create(NewTask),
    /// Change a task.
    Patch(Uuid, TaskPatch),
    /// Complete a task.
    Complete(Uuid),
    /// Delete a task.
    Delete(Uuid),
}

impl Change {
    /// The task that it changes; none where it creates one.
    pub fn task(&self) -> Option<Uuid> {
        match self {
            Self::Create(_) => None,
            Self::Patch(id, _) | Self::Complete(id) | Self::Delete(id) => Some(*id),
        }
    }
}
