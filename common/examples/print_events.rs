//! The smallest consumer: a group of its own that prints every event once.
//!
//! ```sh
//! cargo run -p task-events --example print_events            # against localhost:30092
//! ```
//!
//! The topics have to exist (`taskctl topics create`). Start it twice, with another folder: the second
//! waits as a standby until the first stops.

use std::path::Path;
use std::time::Duration;

use task_events::dedup::{Dedup, Retention};
use task_events::event::{Event, Malformed};
use task_events::kafka::{ConsumerRecord, Kafka};
use task_events::runtime::{
    self, ConsumerConfig, Decoder, Delivery, Done, Handler, HandlerError, Service, Status,
};
use task_events::shutdown;
use task_events::state_dir::StateDir;
use uuid::Uuid;

#[derive(Clone)]
struct Print {
    dedup: Dedup,
}

impl Service for Print {
    type Handler = Self;

    async fn open(&self, _: &str, _: i32) -> Result<Self, HandlerError> {
        Ok(self.clone())
    }
}

impl Decoder for Print {
    type Message = Event<'static>;

    fn decode(&self, record: &ConsumerRecord) -> Result<Event<'static>, Malformed> {
        Event::decode(record.value.as_deref()).map(Event::into_owned)
    }

    fn dedup_id(&self, event: &Event<'static>) -> Option<Uuid> {
        Some(event.event_id)
    }

    fn wants(&self, _: &Event<'static>) -> bool {
        true
    }

    async fn known(&self, ids: &[Uuid]) -> Result<Vec<bool>, HandlerError> {
        self.dedup.known(ids.to_vec()).await.map_err(|error| HandlerError::new("dedup", error))
    }
}

impl Handler for Print {
    type Decoder = Self;

    fn decoder(&self) -> Self {
        self.clone()
    }

    async fn handle(&mut self, delivery: &Delivery<'_, Event<'static>>) -> Result<(), HandlerError> {
        println!(
            "{} at offset {}: {}",
            delivery.message.event_type, delivery.record.offset, delivery.message.data
        );
        Ok(())
    }

    async fn flush(&mut self, done: &Done<'_>) -> Result<u64, HandlerError> {
        let recorded = self.dedup.record(done.ids.to_vec(), None).await;
        recorded.map_err(|error| HandlerError::new("dedup", error))?;
        Ok(0)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let bootstrap = arguments.next().unwrap_or_else(|| "localhost:30092".to_owned());
    let folder = arguments.next().unwrap_or_else(|| "./data".to_owned());

    // Names this instance over restarts, and keeps a second process out.
    let state = StateDir::open(Path::new(&folder), "print-events")?;
    // Kept a day longer than the topic keeps its events: nothing older can come again.
    let dedup = Dedup::open(&state.path().join("dedup"), Retention::Window(Duration::from_secs(8 * 86_400)))?;
    let kafka = Kafka::new(vec![bootstrap], "print-events");
    // Its offsets are in task-events-offsets, its dead letters in task-events-dlq.
    let config = ConsumerConfig::new(kafka, "task-events", "print-events", state.identity());
    runtime::run(config, Print { dedup }, Status::default(), shutdown::on_signals()?).await;
    Ok(())
}
