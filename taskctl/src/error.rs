//! Why a command did not do what it was asked.

use task_events::database::DatabaseError;
use task_events::error_code::{Code, Coded};
use task_events::kafka::KafkaError;
use task_events::registry::RegistryError;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call to Kafka failed.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// A call to the Schema Registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A call to the database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// What was asked for cannot be done, or must not be; the line says why and what to do.
    #[error("{1}")]
    Refused(Code, String),
    /// The answer could not be written.
    #[error("cannot write the answer to stdout: {0}")]
    Output(#[from] std::io::Error),
}

impl Coded for Error {
    fn code(&self) -> Code {
        match self {
            Self::Kafka(error) => error.code(),
            Self::Registry(error) => error.code(),
            Self::Database(error) => error.code(),
            Self::Refused(code, _) => *code,
            Self::Output(_) => Code::Answer,
        }
    }
}
