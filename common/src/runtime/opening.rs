//! What comes before a claim, since it can fail or hang: opening the service's state, and a look at the topic's log.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use uuid::Uuid;

use super::handler::{HandlerError, Service};
use super::shared::Shared;
use super::trouble::Trouble;
use crate::kafka::{KafkaError, OffsetAt};
use crate::offsets::Slot;

/// Why a partition cannot be owned now.
#[derive(Debug, thiserror::Error)]
pub(super) enum Obstacle {
    #[error("waits for Kafka: {0}")]
    Kafka(#[from] KafkaError),
    #[error("cannot be opened, and is not claimed: {0}")]
    Open(#[from] HandlerError),
}

/// The topic's id, where known, and its first offset.
pub(super) async fn log_start<S>(shared: &Shared<S>, slot: &Slot) -> Result<(Option<Uuid>, i64), KafkaError> {
    let kafka = &shared.config.kafka;
    let earliest = kafka.list_offset(&slot.topic, slot.partition, OffsetAt::Earliest);
    let (topic, earliest) = tokio::try_join!(kafka.topic(&slot.topic), earliest)?;
    Ok((Some(topic.id).filter(|id| !id.is_nil()), earliest))
}

/// Opens the handler, however long that takes: it is not given up, since what hangs in file work would
/// hang again beside it. `before`: another opening, which is waited for.
pub(super) async fn open<S: Service>(
    shared: &Arc<Shared<S>>,
    slot: &Slot,
    before: Option<JoinHandle<()>>,
    blocked: &mut Trouble,
) -> Result<S::Handler, HandlerError> {
    let opening = async {
        if let Some(before) = before {
            // One that panicked is over as well.
            let _ = before.await;
        }
        shared.service.open(&slot.topic, slot.partition).await
    };
    let mut opening = std::pin::pin!(opening);
    let lease = shared.config.lease;
    if let Ok(opened) = timeout(lease, &mut opening).await {
        return opened;
    }
    blocked.report(&format!(
        "{slot} is not claimed: its state is not open after {} s; does its disk hang?",
        lease.as_secs_f32()
    ));
    opening.await
}
