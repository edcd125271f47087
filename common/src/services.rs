//! The programs of task-events by name. Each consumer has its group by the same name, unless it is configured otherwise.

/// Stores tasks and publishes their events.
pub const API: &str = "task-api";
/// Writes notifications.
pub const NOTIFICATION: &str = "notification-service";
/// Writes the audit log.
pub const AUDIT: &str = "audit-service";
/// Counts and shows dead letters.
pub const DLQ_PROCESSOR: &str = "dlq-processor";

/// The consumers.
pub const CONSUMERS: [&str; 3] = [NOTIFICATION, AUDIT, DLQ_PROCESSOR];
