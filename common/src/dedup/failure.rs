//! Why a store fails: a step of it, and what callers see.

use std::fmt;
use std::io;
use std::path::Path;

/// Why the store failed, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("dedup state {path}: {detail}")]
pub struct DedupError {
    pub(super) path: String,
    pub(super) detail: String,
}

/// Why a step failed.
#[derive(Debug)]
pub(super) enum Failure {
    Io(io::Error),
    Damaged { file: String, why: String },
    Redb(Box<redb::Error>),
}

impl Failure {
    /// That a file does not have the known form.
    pub(super) fn damaged(file: &Path, why: String) -> Self {
        let name = file.file_name().unwrap_or(file.as_os_str());
        Self::Damaged { file: name.to_string_lossy().into_owned(), why }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Damaged { file, why } => write!(
                f,
                "{file} is damaged: {why}; restore the whole folder from a backup, or move all its files away to begin without the ids that it holds"
            ),
            Self::Redb(error) => write!(f, "the state of the previous version cannot be read: {error}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
