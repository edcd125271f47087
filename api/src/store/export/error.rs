//! Why a database's tasks are not moved into an embedded store.

use task_events::database::DatabaseError;
use task_events::error_code::{Code, Coded};
use task_events::state_dir::StateDirError;

use super::super::failure::{StoreError, Unreadable};

/// Why they are not moved, in one line.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The folder is in use, or cannot be used.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The embedded store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database cannot be used.
    #[error("{0}; no API serves the folder before this is over: run the export again")]
    Database(#[from] DatabaseError),
    /// The tasks were moved before.
    #[error("{0}")]
    MovedBefore(DatabaseError),
    /// It must not be done; the line says why, and what to do.
    #[error("{0}")]
    Refused(String),
}

impl Coded for ExportError {
    fn code(&self) -> Code {
        match self {
            Self::StateDir(_) => Code::StateFolder,
            Self::Store(_) => Code::Store,
            Self::Database(error) | Self::MovedBefore(error) => error.code(),
            Self::Refused(_) => Code::CannotExport,
        }
    }
}

impl From<tokio_postgres::Error> for ExportError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error.into())
    }
}

impl From<Unreadable> for ExportError {
    fn from(unreadable: Unreadable) -> Self {
        Self::Refused(format!(
            "{unreadable}: nothing was moved, since it would be lost; repair it in the database, or remove it there, and run the export again"
        ))
    }
}
