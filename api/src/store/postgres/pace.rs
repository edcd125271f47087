//! How groups are paced, so that many changes cost the server few transactions.
//!
//! What a transaction costs hardly depends on how many changes it has. So a writer that finds another one's group on its
//! way waits until its own has [`FEW`] changes, that group has landed, or [`FILL_TIME`] is over: a second replica,
//! which halves what each has, does not double the transactions. For the same reason groups of several changes, which
//! follow each other, call the relay of another replica once in [`CALL_EVERY`]. A change that comes alone waits for
//! nothing, and calls at once.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Changes for which a group waits while another one is on its way, and for how long.
pub(super) const FEW: usize = 16;
pub(super) const FILL_TIME: Duration = Duration::from_millis(3);
/// Between two calls for groups of several changes.
const CALL_EVERY: Duration = Duration::from_millis(10);

/// How many groups are on their way.
#[derive(Debug, Default)]
pub(super) struct Flying(watch::Sender<usize>);

/// Ends with its value.
#[derive(Debug)]
pub(super) struct Flight<'a>(&'a Flying);

impl Flying {
    pub(super) fn begin(&self) -> Flight<'_> {
        self.0.send_modify(|flights| *flights += 1);
        Flight(self)
    }

    /// Returns when there is none.
    pub(super) async fn none(&self) {
        // The sender lives as long as this value.
        let _ = self.0.subscribe().wait_for(|flights| *flights == 0).await;
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|flights| *flights = flights.saturating_sub(1));
    }
}

/// Calls of another replica's relay.
#[derive(Debug, Default)]
pub(super) struct Calls(Mutex<Option<Instant>>);

impl Calls {
    /// When the call for a group of so many events is due; `None` is with its commit.
    pub(super) fn due(&self, events: usize) -> Option<Instant> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let later = last.map(|last| last + CALL_EVERY).filter(|next| events > 1 && now < *next);
        if later.is_none() {
            *last = Some(now);
        }
        later
    }

    /// One that was owed is made: those that follow are due by its time.
    pub(super) fn made(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn groups_of_several_call_now_and_then() {
        let calls = Calls::default();
        assert_eq!(calls.due(5), None);
        let due = Instant::now() + CALL_EVERY;
        assert_eq!(calls.due(2), Some(due));
        assert_eq!(calls.due(1), None, "one that comes alone waits for nothing");
        let due = Instant::now() + CALL_EVERY;
        advance(CALL_EVERY - Duration::from_millis(1)).await;
        assert_eq!(calls.due(7), Some(due));
        advance(Duration::from_millis(1)).await;
        assert_eq!(calls.due(7), None);
        advance(CALL_EVERY).await;
        calls.made();
        assert_eq!(calls.due(7), Some(Instant::now() + CALL_EVERY), "one that was owed counts");
    }

    #[tokio::test(start_paused = true)]
    async fn none_is_on_its_way_when_the_last_has_landed() {
        let flying = Flying::default();
        flying.none().await;
        let (first, second) = (flying.begin(), flying.begin());
        drop(first);
        assert!(timeout(FILL_TIME, flying.none()).await.is_err());
        drop(second);
        flying.none().await;
    }
}
