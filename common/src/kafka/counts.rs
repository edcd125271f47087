//! What the client counts for the metrics of its process: once a connection, and once where a broker throttles.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::metrics::Text;

/// Of the whole process, as metrics are.
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);
static FAILED_CONNECTIONS: AtomicU64 = AtomicU64::new(0);
static THROTTLED_MS: AtomicU64 = AtomicU64::new(0);

/// A connection was opened, and logged in on, or was not.
pub(super) fn connected(opened: bool) {
    let counter = if opened { &CONNECTIONS } else { &FAILED_CONNECTIONS };
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A broker reads nothing more from this client for that time.
pub(super) fn throttled(wait: Duration) {
    THROTTLED_MS.fetch_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// Adds what the client counts to a process's metrics.
pub fn render_metrics(text: &mut Text) {
    text.single(
        "task_events_kafka_connections_total",
        "counter",
        "Connections to brokers that were opened: the first ones, and each reconnect.",
        CONNECTIONS.load(Ordering::Relaxed),
    );
    text.single(
        "task_events_kafka_connection_failures_total",
        "counter",
        "Connections to brokers that could not be opened.",
        FAILED_CONNECTIONS.load(Ordering::Relaxed),
    );
    text.single(
        "task_events_kafka_throttled_seconds_total",
        "counter",
        "Time for which brokers throttled this client because of a quota.",
        Duration::from_millis(THROTTLED_MS.load(Ordering::Relaxed)).as_secs_f64(),
    );
}
