//! Events written by hand, as a foreign producer or a newer one might write them.

use crate::{Error, Result};
use serde_json::{Value, json};
use uuid::Uuid;

/// An event to be put into the topic.
#[derive(Debug, Clone)]
pub struct Event {
    id: String,
    task_id: String,
    value: Value,
}

impl Event {
    /// A `task.created` of a task of its own.
    pub fn created(title: &str) -> Self {
        Self::of("task.created", title)
    }

    /// An event of a type, which may be unknown, about a task of its own.
    pub fn of(event_type: &str, title: &str) -> Self {
        let [id, task_id] = [Uuid::now_v7(), Uuid::now_v7()].map(|id| id.to_string());
        let value = json!({
            "event_id": id,
            "event_type": event_type,
            "occurred_at": "2026-01-15T10:30:00.000000Z",
            "data": {"task_id": task_id, "title": title, "status": "pending", "owner_id": null},
            "metadata": {"correlation_id": Uuid::new_v4(), "source": "task-api"},
        });
        Self { id, task_id, value }
    }

    /// The same with one field changed, named by a path as in `/data/title`.
    pub fn with(mut self, path: &str, value: impl Into<Value>) -> Result<Self> {
        let field = self.value.pointer_mut(path);
        *field.ok_or_else(|| Error::failed(format!("an event has no field {path}")))? = value.into();
        Ok(self)
    }

    /// The id that it was made with.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The task that it was made with.
    pub fn task_id(&self) -> &str {
        &self.task_id
    }

    /// The value of its record.
    pub fn bytes(&self) -> Vec<u8> {
        self.value.to_string().into_bytes()
    }
}
