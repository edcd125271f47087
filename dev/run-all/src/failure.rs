//! Why the system does not run.

/// What went wrong, in one line: what happened, to what, what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);
