//! What the system is made of, and where it keeps its state: each name once.

pub use task_events::services::{API, AUDIT, CONSUMERS, DLQ_PROCESSOR, NOTIFICATION};

/// The dev broker.
pub const BROKER: &str = "devbroker";
/// The Schema Registry of `--avro`.
pub const REGISTRY: &str = "registry";
/// The PostgreSQL of `--scaled`.
pub const POSTGRES: &str = "postgres";
/// The operator's command.
pub const TASKCTL: &str = "taskctl";

/// The folder of all state, below the current one. Each service has a folder of its own in it.
pub const STATE_DIR: &str = "data";
/// The audit log, in the current folder.
pub const AUDIT_LOG: &str = "audit.log";

/// What has a folder in [`STATE_DIR`].
pub fn with_state() -> impl Iterator<Item = &'static str> {
    [BROKER, API].into_iter().chain(CONSUMERS)
}

/// The folder of all state of `--scaled`, and of nothing else: its topic has other partitions than that of one process each.
pub fn scaled_folder() -> String {
    format!("./{STATE_DIR}/scaled")
}
