//! Why something could not be done. A violation that a check finds is no error.

use std::io;
use std::path::{Path, PathBuf};

/// The result of what may fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something could not be done, in one line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is not what it should be.
    #[error("{}: line {line}: {why}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// The system does not do what the work needs.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// A file cannot be read or written.
    pub fn file(path: &Path, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), source }
    }
}
