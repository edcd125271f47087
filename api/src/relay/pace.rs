//! When the next request to a partition is due.
//!
//! A request costs a broker far more than an event in it, so under load a few large ones are sent in place of many
//! small ones; and an event that comes alone, up to a few hundred times a second, does not wait.
//!
//! 1. What is as large as [`FULL_REQUEST_BYTES`], or as the topic takes, is sent at once: a backlog knows no pauses.
//! 2. One event alone is sent at once, unless the requests come faster than [`LONE_INTERVAL`] in the long run.
//! 3. Several at once, or in the last request, are a sign of more to come: for each beyond the first, the
//!    request waits for [`LINGER_PER_EVENT`] after the last one, and for [`MAX_LINGER`] at most.
//!
//! So under load there is one request in [`MAX_LINGER`], or one for each [`FULL_REQUEST_BYTES`].

use std::time::Duration;

use tokio::time::Instant;

/// A request of so many bytes waits for no more events.
pub(super) const FULL_REQUEST_BYTES: usize = 256 * 1024;
/// The longest wait after a request for the next one.
pub(super) const MAX_LINGER: Duration = Duration::from_millis(10);
/// How much longer a request waits for each event beyond the first.
const LINGER_PER_EVENT: Duration = Duration::from_millis(4);
/// Requests of one event are so far apart on average, or nearer to each other for as long as [`MAX_LINGER`].
const LONE_INTERVAL: Duration = Duration::from_micros(2_500);

/// What was sent so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    /// When the last request was begun, and of how many events.
    last: Option<(Instant, usize)>,
    /// Until when the requests so far would take, one in each [`LONE_INTERVAL`].
    spent_until: Option<Instant>,
}

impl Pace {
    /// A request of so many events is begun.
    pub(super) fn begin(&mut self, events: usize) {
        let now = Instant::now();
        self.last = Some((now, events));
        self.spent_until = Some(self.spent_until.map_or(now, |until| until.max(now)) + LONE_INTERVAL);
    }

    /// How long a request of so many events that is not full is to wait.
    pub(super) fn wait(&self, events: usize) -> Duration {
        let (Some((last, last_events)), Some(spent_until)) = (self.last, self.spent_until) else {
            return Duration::ZERO;
        };
        let others = u32::try_from(events.max(last_events).saturating_sub(1)).unwrap_or(u32::MAX);
        let linger = LINGER_PER_EVENT.saturating_mul(others).min(MAX_LINGER);
        let now = Instant::now();
        // In both cases zero where that was before now.
        let lingers = (last + linger).saturating_duration_since(now);
        lingers.max(spent_until.saturating_duration_since(now + MAX_LINGER))
    }
}
