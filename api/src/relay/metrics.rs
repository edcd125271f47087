//! What the relay counts: how long Kafka takes to acknowledge a request, and how many it did not acknowledge.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use task_events::metrics::{Histogram, Text};

/// Of the whole process, as metrics are.
static SENDS: LazyLock<Histogram> = LazyLock::new(Histogram::default);
static FAILED_SENDS: AtomicU64 = AtomicU64::new(0);

/// A request was acknowledged, or was not.
pub(super) fn sent(took: Duration, is_acknowledged: bool) {
    if is_acknowledged {
        SENDS.record(took);
    } else {
        FAILED_SENDS.fetch_add(1, Ordering::Relaxed);
    }
}

/// Adds them to the process's metrics.
pub fn render(text: &mut Text) {
    text.histogram(
        "messaging_client_operation_duration_seconds",
        "Time for all in-sync replicas to acknowledge a request with events.",
        &[("messaging_system", "kafka"), ("messaging_operation_name", "send")],
        &SENDS.durations(),
    );
    text.single(
        "task_api_publish_failures_total",
        "counter",
        "Requests with events that were not acknowledged; their events are sent again, or found in the topic.",
        FAILED_SENDS.load(Ordering::Relaxed),
    );
}
