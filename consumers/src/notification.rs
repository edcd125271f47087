//! The notification service: one line on stdout for each new and each completed task.
//!
//! # Invariants
//!
//! - *Notifications are output, not log lines*: see [`lines`](crate::lines). An event is handled once its line
//!   is written.
//! - *At least once.* The dedup state, kept for as long as the topic keeps events, removes nearly all repeats;
//!   what is left is a batch that was written just before the process died or lost its partition.

use std::path::Path;
use std::time::Duration;

use log::Level;
use task_events::dedup::{Dedup, DedupError, Retention};
use task_events::event::{Event, EventType, Malformed};
use task_events::kafka::ConsumerRecord;
use task_events::logging::escape_control;
use task_events::runtime::{Delivery, Done, Handler, HandlerError, Service};
use uuid::Uuid;

use crate::lines::{Lines, NoStdout, Sink};
use crate::service::Opened;

/// How long the topic keeps events (7 days), and a day.
const KEEP_IDS: Duration = Duration::from_secs(8 * 24 * 60 * 60);

/// The service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The dedup state cannot be used.
    #[error(
        "{0}; if the file is damaged, move it away: the service then starts without it, and may repeat notifications since its last commit"
    )]
    Dedup(#[from] DedupError),
    /// Stdout cannot be written to.
    #[error(transparent)]
    Stdout(#[from] NoStdout),
}

/// Opens the service with its state in that folder. Blocks.
pub fn open(state_dir: &Path, sink: Sink) -> Result<Opened<Notifications>, OpenError> {
    let dedup = Dedup::open(&state_dir.join("dedup"), Retention::Window(KEEP_IDS))?;
    Ok(Opened { service: Notifications { dedup, sink }, at_end: Box::new(|| {}) })
}

/// Writes notifications.
#[derive(Debug)]
pub struct Notifications {
    dedup: Dedup,
    sink: Sink,
}

/// Writes the notifications of one partition.
#[derive(Debug)]
pub struct PartitionNotifications {
    dedup: Dedup,
    lines: Lines,
}

impl Service for Notifications {
    type Handler = PartitionNotifications;

    async fn open(&self, _: &str, _: i32) -> Result<PartitionNotifications, HandlerError> {
        Ok(PartitionNotifications { dedup: self.dedup.clone(), lines: Lines::new(self.sink.clone()) })
    }
}

impl Handler for PartitionNotifications {
    type Message = Event;

    fn decode(&self, record: &ConsumerRecord) -> Result<Event, Malformed> {
        Event::decode(record.value.as_deref())
    }

    fn dedup_id(&self, event: &Event) -> Option<Uuid> {
        Some(event.event_id)
    }

    fn wants(&self, event: &Event) -> bool {
        is_wanted(event)
    }

    async fn handle(&mut self, delivery: &Delivery<'_, Event>) -> Result<(), HandlerError> {
        if let Some(text) = text(delivery.message) {
            self.lines.push(Level::Info, module_path!(), &text);
        }
        Ok(())
    }

    async fn known(&mut self, ids: &[Uuid]) -> Result<Vec<bool>, HandlerError> {
        self.dedup.known(ids.to_vec()).await.map_err(|error| HandlerError::new("dedup", error))
    }

    async fn flush(&mut self, done: &Done<'_>) -> Result<(), HandlerError> {
        self.lines.flush().await?;
        if done.ids.is_empty() {
            return Ok(());
        }
        let recorded = self.dedup.record(done.ids.to_vec(), None).await;
        recorded.map_err(|error| HandlerError::new("dedup", error))
    }
}

fn is_wanted(event: &Event) -> bool {
    matches!(event.known_type(), Some(EventType::Created | EventType::Completed))
}

/// The notification of an event, if it has one.
fn text(event: &Event) -> Option<String> {
    let happened = match event.known_type()? {
        EventType::Created => "New task created",
        EventType::Completed => "Task completed",
        EventType::Updated => return None,
    };
    let task = event.task.as_ref()?;
    Some(format!("NOTIFICATION: {happened} - '{}' (ID: {})", escape_control(&task.title), task.task_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use task_events::event::{TaskData, TaskEvent};

    fn read(event: &TaskEvent) -> Event {
        Event::decode(Some(&serde_json::to_vec(event).unwrap())).unwrap()
    }

    #[test]
    fn created_and_completed_are_told_and_updated_is_not() {
        let data = TaskData {
            task_id: Uuid::nil(),
            title: "Buy\nmilk".to_owned(),
            status: "pending".to_owned(),
            owner_id: None,
        };
        let created = read(&TaskEvent::task_created(data.clone(), Uuid::nil()));
        assert_eq!(
            text(&created).unwrap(),
            r"NOTIFICATION: New task created - 'Buy\nmilk' (ID: 00000000-0000-0000-0000-000000000000)"
        );
        let completed = read(&TaskEvent::task_completed(data.clone(), Uuid::nil()));
        assert_eq!(
            text(&completed).unwrap(),
            r"NOTIFICATION: Task completed - 'Buy\nmilk' (ID: 00000000-0000-0000-0000-000000000000)"
        );
        let updated = read(&TaskEvent::task_updated(data, Uuid::nil()));
        assert!(is_wanted(&created) && is_wanted(&completed));
        assert!(!is_wanted(&updated) && text(&updated).is_none());
    }
}
