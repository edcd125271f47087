//! How a chore fails.

/// What went wrong, to what, and what to do, in one line.
pub type Result<T> = std::result::Result<T, String>;
