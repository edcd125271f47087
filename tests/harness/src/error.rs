//! Why something could not be done. A violation that a check finds is no error.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The result of what may fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something could not be done, in one line: what happened, to what.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file, a folder or a disk cannot be used.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system reported.
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
    /// What was waited for did not happen.
    #[error("{what}: not within {limit:?}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
    },
    /// A process cannot be started or ended, gets no signal, or ended too early.
    #[error("{name}: {why}")]
    Process {
        /// The process.
        name: String,
        /// What happened.
        why: String,
    },
    /// A broker refused a call, or did not answer as it should.
    #[error("Kafka: {call}: {why}")]
    Kafka {
        /// The call.
        call: String,
        /// What happened.
        why: String,
    },
    /// The Task API did not answer.
    #[error("HTTP: {0}")]
    Http(#[from] reqwest::Error),
    /// A text is not the JSON that it should be.
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The system does not do what the work needs.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// A file cannot be read or written.
    pub fn file(path: &Path, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), source }
    }

    /// The system does not do what the work needs.
    pub fn failed(why: impl Into<String>) -> Self {
        Self::Failed(why.into())
    }

    /// Something was not done in its time.
    pub fn timeout(what: impl Into<String>, limit: Duration) -> Self {
        Self::Timeout { what: what.into(), limit }
    }

    pub(crate) fn process(name: &str, why: impl fmt::Display) -> Self {
        Self::Process { name: name.to_owned(), why: why.to_string() }
    }

    pub(crate) fn kafka(call: impl Into<String>, why: impl fmt::Display) -> Self {
        Self::Kafka { call: call.into(), why: why.to_string() }
    }
}

/// How a test ends, or a helper of its own that uses `?`.
pub type Outcome<T = ()> = std::result::Result<T, Failure>;

/// What failed in a test, and where: `?` makes one of any error.
pub struct Failure {
    what: String,
    place: &'static Location<'static>,
}

thread_local! {
    /// Set where the test of this thread fails by `?`, which is no panic.
    static HAS_FAILED: Cell<bool> = const { Cell::new(false) };
}

impl<E: std::error::Error> From<E> for Failure {
    #[track_caller]
    fn from(error: E) -> Self {
        HAS_FAILED.set(true);
        Self { what: error.to_string(), place: Location::caller() }
    }
}

/// As the test runner prints it.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.what, self.place)
    }
}

/// Whether the test of this thread is failing, so that a process that ends now should show its last lines.
pub(crate) fn is_test_failing() -> bool {
    std::thread::panicking() || HAS_FAILED.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_place_of_its_question_mark() {
        fn fails() -> Outcome {
            Err(Error::timeout("an answer", Duration::from_secs(2)))?;
            Ok(())
        }
        let shown = format!("{:?}", fails().unwrap_err());
        assert!(shown.starts_with("an answer: not within 2s (tests/harness/src/error.rs:"), "{shown}");
    }
}
