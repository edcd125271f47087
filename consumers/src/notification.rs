//! The notification service: one line on stdout for each new and each completed task.
//!
//! # Invariants
//!
//! - *Notifications are output, not log lines*: see [`lines`](crate::lines). An event is handled once its line
//!   is written.
//! - *At least once.* The dedup state, kept for as long as the topic keeps events, removes nearly all repeats;
//!   what is left is a batch that was written just before the process died or lost its partition. A partition that is
//!   given to another instance is given after its last batch was committed: then nothing is repeated.

use std::path::Path;
use std::time::Duration;

use log::Level;
use task_events::dedup::{Dedup, DedupError, Retention};
use task_events::error_code::{Code, Coded};
use task_events::escape::escape_control;
use task_events::event::{Event, EventType, Malformed};
use task_events::kafka::ConsumerRecord;
use task_events::logging::{CORRELATION_ID, Field};
use task_events::runtime::{Decoder, Delivery, Done, Handler, HandlerError, Service};
use task_events::schemas::EventReader;
use uuid::Uuid;

use crate::lines::{Lines, NoStdout, Sink};
use crate::metrics::no_warnings;
use crate::service::Opened;

/// How long the topic keeps events (7 days), and a day.
pub(crate) const KEEP_IDS: Duration = Duration::from_secs(8 * 24 * 60 * 60);

/// The service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The dedup state cannot be used.
    #[error("{0}; without this state the service may repeat notifications since its last commit")]
    Dedup(#[from] DedupError),
    /// Stdout cannot be written to.
    #[error(transparent)]
    Stdout(#[from] NoStdout),
}

impl Coded for OpenError {
    fn code(&self) -> Code {
        match self {
            Self::Dedup(_) => Code::DedupState,
            Self::Stdout(_) => Code::Stdout,
        }
    }
}

/// Opens the service with its state in that folder. Blocks.
pub fn open(state_dir: &Path, sink: Sink, reader: EventReader) -> Result<Opened<Notifications>, OpenError> {
    let dedup = Dedup::open(&state_dir.join("dedup"), Retention::Window(KEEP_IDS))?;
    let service = Notifications { dedup, reader, sink };
    Ok(Opened { service, at_end: Box::new(|| {}), metrics: Box::new(|_| {}), warnings: no_warnings() })
}

/// Writes notifications.
#[derive(Debug)]
pub struct Notifications {
    dedup: Dedup,
    reader: EventReader,
    sink: Sink,
}

/// Writes the notifications of one partition.
#[derive(Debug)]
pub struct PartitionNotifications {
    dedup: Dedup,
    reader: EventReader,
    lines: Lines,
}

/// Makes notifications of events.
#[derive(Debug)]
pub struct EventDecoder {
    dedup: Dedup,
    reader: EventReader,
}

/// An event, and what is to be written of it.
#[derive(Debug)]
pub struct Notification {
    event_id: Uuid,
    correlation_id: Uuid,
    /// None: the event is not of interest.
    line: Option<NotificationLine>,
}

/// What is written of an event.
#[derive(Debug)]
struct NotificationLine {
    text: String,
    event_type: EventType,
    task_id: Uuid,
}

impl Service for Notifications {
    type Handler = PartitionNotifications;

    async fn open(&self, _: &str, _: i32) -> Result<PartitionNotifications, HandlerError> {
        let lines = Lines::new(self.sink.clone(), Level::Info, module_path!());
        Ok(PartitionNotifications { dedup: self.dedup.clone(), reader: self.reader.clone(), lines })
    }

    fn trouble(&self) -> Option<String> {
        self.sink.trouble()
    }
}

impl Decoder for EventDecoder {
    type Message = Notification;

    fn needs(&self, record: &ConsumerRecord) -> bool {
        self.reader.wants(record.value.as_deref()).is_some()
    }

    async fn prepare(&self, record: &ConsumerRecord) -> Result<(), HandlerError> {
        self.reader.prepare(record.value.as_deref()).await
    }

    fn decode(&self, record: &ConsumerRecord) -> Result<Notification, Malformed> {
        let event = self.reader.read(record.value.as_deref())?;
        let Event { event_id, correlation_id, .. } = event;
        Ok(Notification { event_id, correlation_id, line: line(&event) })
    }

    fn dedup_id(&self, notification: &Notification) -> Option<Uuid> {
        Some(notification.event_id)
    }

    fn wants(&self, notification: &Notification) -> bool {
        notification.line.is_some()
    }

    async fn known(&self, ids: &[Uuid]) -> Result<Vec<bool>, HandlerError> {
        self.dedup.known(ids.to_vec()).await.map_err(|error| HandlerError::new("dedup", error))
    }
}

impl Handler for PartitionNotifications {
    type Decoder = EventDecoder;

    fn decoder(&self) -> EventDecoder {
        EventDecoder { dedup: self.dedup.clone(), reader: self.reader.clone() }
    }

    async fn handle(&mut self, delivery: &Delivery<'_, Notification>) -> Result<(), HandlerError> {
        let Notification { event_id, correlation_id, line } = delivery.message;
        if let Some(NotificationLine { text, event_type, task_id }) = line {
            let fields = [
                Field::new(CORRELATION_ID, *correlation_id),
                Field::new("event_id", *event_id),
                Field::new("event_type", event_type.as_str()),
                Field::new("task_id", *task_id),
                Field::new("topic", delivery.topic),
                Field::new("partition", delivery.partition),
                Field::new("offset", delivery.record.offset),
            ];
            self.lines.push(text, &fields);
        }
        Ok(())
    }

    async fn flush(&mut self, done: &Done<'_>) -> Result<u64, HandlerError> {
        self.lines.flush().await?;
        if !done.ids.is_empty() {
            let recorded = self.dedup.record(done.ids.to_vec(), None).await;
            recorded.map_err(|error| HandlerError::new("dedup", error))?;
        }
        Ok(0)
    }
}

/// The notification of an event, if it has one.
fn line(event: &Event<'_>) -> Option<NotificationLine> {
    let event_type = event.known_type()?;
    let happened = match event_type {
        EventType::Created => "New task created",
        EventType::Completed => "Task completed",
        EventType::Updated | EventType::Deleted => return None,
    };
    let task = event.task.as_ref()?;
    let title = escape_control(&task.title);
    let text = format!("NOTIFICATION: {happened} - '{title}' (ID: {})", task.task_id);
    Some(NotificationLine { text, event_type, task_id: task.task_id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use task_events::event::{TaskData, TaskEvent};

    fn read(event: &TaskEvent) -> Event<'static> {
        Event::decode(Some(&serde_json::to_vec(event).unwrap())).unwrap().into_owned()
    }

    #[test]
    fn created_and_completed_are_notified_and_others_are_not() {
        let data = TaskData {
            task_id: Uuid::nil(),
            title: "Buy\nmilk".to_owned(),
            status: "pending".to_owned(),
            owner_id: None,
        };
        let created = read(&TaskEvent::task_created(data.clone(), Uuid::nil()));
        assert_eq!(
            line(&created).unwrap().text,
            r"NOTIFICATION: New task created - 'Buy\nmilk' (ID: 00000000-0000-0000-0000-000000000000)"
        );
        let completed = read(&TaskEvent::task_completed(data.clone(), Uuid::nil()));
        assert_eq!(
            line(&completed).unwrap().text,
            r"NOTIFICATION: Task completed - 'Buy\nmilk' (ID: 00000000-0000-0000-0000-000000000000)"
        );
        for event in
            [TaskEvent::task_updated(data.clone(), Uuid::nil()), TaskEvent::task_deleted(data, Uuid::nil())]
        {
            assert!(line(&read(&event)).is_none());
        }
    }
}
