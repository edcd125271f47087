//! Why sending stops.

use task_events::kafka::KafkaError;

use crate::store::StoreError;

/// Why sending stopped. It is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum RelayError {
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    #[error(transparent)]
    Store(#[from] StoreError),
}
