//! Why a store is not moved.

use task_events::database::DatabaseError;
use task_events::error_code::{Code, Coded};
use task_events::state_dir::StateDirError;

use super::super::failure::{StoreError, Unreadable};

/// Why a store is not moved, in one line.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The folder is in use, or cannot be used.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The embedded store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database cannot be used. Another run goes on where this one was.
    #[error("{0}; run the import again: it goes on where it was")]
    Database(#[from] DatabaseError),
    /// It must not be done; the line says why, and what to do.
    #[error("{0}")]
    Refused(String),
}

impl Coded for ImportError {
    fn code(&self) -> Code {
        match self {
            Self::StateDir(_) => Code::StateFolder,
            Self::Store(StoreError::Moved { .. }) => Code::StoreMoved,
            Self::Store(_) => Code::Store,
            Self::Database(error) => error.code(),
            Self::Refused(_) => Code::CannotImport,
        }
    }
}

impl From<tokio_postgres::Error> for ImportError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error.into())
    }
}

impl From<Unreadable> for ImportError {
    fn from(unreadable: Unreadable) -> Self {
        Self::Refused(format!(
            "{unreadable}: nothing was moved, since it would be lost; restore it from a backup of the state folder"
        ))
    }
}
