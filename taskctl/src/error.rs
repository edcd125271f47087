//! Why a command did not do what it was asked.

use task_events::kafka::KafkaError;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call to Kafka failed.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// What was asked for cannot be done, or must not be; the line says why and what to do.
    #[error("{0}")]
    Refused(String),
    /// The answer could not be written.
    #[error("cannot write the answer to stdout: {0}")]
    Output(#[from] std::io::Error),
}
