//! Events written by hand, as a foreign producer or a newer one might write them.

use serde_json::{Value, json};
use uuid::Uuid;

/// An event to be put into the topic.
#[derive(Debug, Clone)]
pub struct Event(Value);

impl Event {
    /// A `task.created` of a task of its own.
    pub fn created(title: &str) -> Self {
        Self::of("task.created", title)
    }

    /// An event of a type, which may be unknown, about a task of its own.
    pub fn of(event_type: &str, title: &str) -> Self {
        Self(json!({
            "event_id": Uuid::now_v7(),
            "event_type": event_type,
            "occurred_at": "2026-01-15T10:30:00.000000Z",
            "data": {"task_id": Uuid::now_v7(), "title": title, "status": "pending", "owner_id": null},
            "metadata": {"correlation_id": Uuid::new_v4(), "source": "task-api"},
        }))
    }

    /// The same with one field changed, named by a path as in `/data/title`.
    pub fn with(mut self, path: &str, value: impl Into<Value>) -> Self {
        *self.0.pointer_mut(path).unwrap_or_else(|| panic!("no {path}")) = value.into();
        self
    }

    /// Its id.
    pub fn id(&self) -> &str {
        self.0["event_id"].as_str().expect("an id")
    }

    /// Its task.
    pub fn task_id(&self) -> &str {
        self.0["data"]["task_id"].as_str().expect("an id")
    }

    /// The value of its record.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.to_string().into_bytes()
    }
}
