//! What is counted of webhooks. docs/metrics.md lists it.
//!
//! Gauges follow what is there: what is dropped, because its partition is another instance's, counts no longer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use task_events::metrics::{Histogram, Text};

use super::exchange::Outcome;

/// The counts of all partitions.
#[derive(Debug, Default)]
pub(super) struct Counts {
    delivered: AtomicU64,
    given_up: AtomicU64,
    tries: [AtomicU64; TRIES.len()],
    durations: Histogram,
    pending: AtomicU64,
    parked: AtomicU64,
}

/// How a request ends.
const TRIES: [&str; 4] = ["delivered", "failed", "paused", "gone"];

/// A task whose webhook has failed, for as long as it waits to be sent.
#[derive(Debug)]
pub(super) struct Parked<'a>(&'a AtomicU64);

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Counts {
    /// A request has ended so, after that time.
    pub(super) fn tried(&self, outcome: &Outcome, took: Duration) {
        let [delivered, failed, paused, gone] = &self.tries;
        let count = match outcome {
            Outcome::Delivered => delivered,
            Outcome::Failed(_) => failed,
            Outcome::Paused(..) => paused,
            Outcome::Gone => gone,
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.durations.record(took);
    }

    /// An event has ended: delivered, or given up.
    pub(super) fn ended(&self, is_delivered: bool) {
        let count = if is_delivered { &self.delivered } else { &self.given_up };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// A task waits, since its webhook has failed.
    pub(super) fn park(&self) -> Parked<'_> {
        self.parked.fetch_add(1, Ordering::Relaxed);
        Parked(&self.parked)
    }

    pub(super) fn are_pending(&self, more: usize) {
        self.pending.fetch_add(more as u64, Ordering::Relaxed);
    }

    pub(super) fn are_pending_no_more(&self, fewer: usize) {
        self.pending.fetch_sub(fewer as u64, Ordering::Relaxed);
    }

    /// All of it.
    pub(super) fn render(&self, text: &mut Text) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let name = "task_events_webhooks_total";
        text.family(name, "counter", "Events by how their webhook ended.");
        text.series(name, &[("outcome", "delivered")], of(&self.delivered));
        text.series(name, &[("outcome", "given_up")], of(&self.given_up));
        let name = "task_events_webhook_requests_total";
        text.family(name, "counter", "Requests to WEBHOOK_URL by how they ended.");
        for (outcome, count) in TRIES.into_iter().zip(&self.tries) {
            text.series(name, &[("outcome", outcome)], of(count));
        }
        text.histogram(
            "task_events_webhook_duration_seconds",
            "Time for a request to WEBHOOK_URL, from the name's resolution to the answer.",
            &[],
            &self.durations.durations(),
        );
        text.single(
            "task_events_webhooks_pending",
            "gauge",
            "Events whose webhook is neither delivered nor given up.",
            of(&self.pending),
        );
        text.single(
            "task_events_webhook_parked_tasks",
            "gauge",
            "Tasks whose webhook has failed and is to be sent again.",
            of(&self.parked),
        );
    }
}
