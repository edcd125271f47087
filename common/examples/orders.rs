//! A consumer group of somebody else's topic: see docs/library.md. The topics `orders`, `orders-offsets`
//! (compacted) and `orders-dlq` have to exist.
//!
//! `cargo run -p task-events --example orders -- localhost:9092 ./data`

use std::path::Path;

use serde::Deserialize;
use task_events::dedup::{Dedup, Retention};
use task_events::event::Malformed;
use task_events::kafka::{ConsumerRecord, Kafka};
use task_events::runtime::{self, ConsumerConfig, HandlerError, Status, for_each};
use task_events::shutdown::{self, Shutdown};
use task_events::state_dir::StateDir;
use uuid::Uuid;

// begin: docs/library.md
/// What the topic carries.
#[derive(Deserialize)]
pub struct Order {
    /// A repeat has the same.
    pub id: Uuid,
    /// What to pack.
    pub item: String,
}

fn decode(record: &ConsumerRecord) -> Result<(Uuid, Order), Malformed> {
    let value = record.value.as_deref().unwrap_or_default();
    let order: Order = serde_json::from_slice(value).map_err(|error| Malformed::from_json(&error))?;
    Ok((order.id, order))
}

/// Packs the orders of the topic until the stop.
pub async fn consume(bootstrap: &str, folder: &Path, pack: fn(&Order), stop: Shutdown) -> Result<(), Error> {
    // Names this instance over restarts, and keeps a second process out.
    let state = StateDir::open(folder, "warehouse")?;
    let dedup = Dedup::open(&state.path().join("dedup"), Retention::Window(EIGHT_DAYS))?;
    let kafka = Kafka::new(vec![bootstrap.to_owned()], "warehouse");
    let config = ConsumerConfig::new(kafka, "orders", "warehouse", state.identity());
    let service = for_each(dedup, decode, move |order| async move {
        if order.item.is_empty() {
            return Err(HandlerError::new("order", "there is no item to pack"));
        }
        pack(&order);
        Ok(())
    });
    runtime::run(config, service, Status::default(), stop).await;
    Ok(())
}
// end: docs/library.md

/// Whatever a start may fail with.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Longer than the topic keeps its records: nothing older can be delivered again.
const EIGHT_DAYS: std::time::Duration = std::time::Duration::from_secs(8 * 86_400);

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let bootstrap = arguments.next().unwrap_or_else(|| "localhost:9092".to_owned());
    let folder = arguments.next().unwrap_or_else(|| "./data".to_owned());
    let pack = |order: &Order| println!("packed {}", order.item);
    consume(&bootstrap, Path::new(&folder), pack, shutdown::on_signals()?).await
}
