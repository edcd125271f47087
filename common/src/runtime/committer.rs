//! Commits progress to the offsets topic, and so renews the lease.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::worker::owns;
use super::{Backoff, Said, Service, Shared};
use crate::kafka::KafkaError;
use crate::offsets::{Commit, Slot};

/// Least time between two commits: the position is never further behind than this and one produce.
const PACE: Duration = Duration::from_millis(20);

/// Until when this instance may handle events, by its monotonic clock.
pub(super) type Lease = watch::Receiver<Instant>;

pub(super) struct Committer<S> {
    pub(super) shared: Arc<Shared<S>>,
    pub(super) slot: Slot,
    pub(super) token: i64,
    /// The offset below which all work is done.
    pub(super) progress: watch::Receiver<i64>,
    pub(super) lease: watch::Sender<Instant>,
    /// When the claim, or the last acknowledged commit, was sent.
    pub(super) renewed: Instant,
}

impl<S: Service> Committer<S> {
    /// Commits as progress is made, and at least three times a lease. Ends by being dropped.
    pub(super) async fn run(mut self) {
        let every = self.shared.config.lease / 3;
        let mut backoff = Backoff::for_kafka();
        let mut said = Said::default();
        let mut older_gone = false;
        loop {
            tokio::select! {
                changed = self.progress.changed() => if changed.is_err() { return },
                () = sleep_until(self.renewed + every) => {}
            }
            sleep_until(self.renewed + PACE).await;
            let offset = *self.progress.borrow_and_update();
            // The process may have been stopped for an hour: then the topic says whether it still owns.
            if Instant::now() >= self.renewed + self.shared.config.lease && !self.still_owns().await {
                sleep(backoff.next_delay()).await;
                continue;
            }
            let sent = Instant::now();
            match self.commit(offset, every).await {
                Ok(()) => {
                    self.renewed = sent;
                    self.lease.send_replace(sent + self.shared.config.lease);
                    backoff = Backoff::for_kafka();
                    if !older_gone {
                        older_gone = self.tombstone_older().await;
                    }
                }
                Err(error) => {
                    said.warn(&format!("cannot commit {} at {offset}, will try again: {error}", self.slot));
                    sleep(backoff.next_delay()).await;
                    self.progress.mark_changed();
                }
            }
        }
    }

    /// Reads the topic to its end. False if that fails, or if another instance has claimed.
    async fn still_owns(&self) -> bool {
        let caught_up = self.shared.offsets.catch_up().await.is_ok();
        let view = self.shared.offsets.view();
        caught_up && owns(&view.borrow(), &self.slot, self.token)
    }

    async fn commit(&self, offset: i64, limit: Duration) -> Result<(), KafkaError> {
        let commit = Commit::new(offset, self.shared.config.instance_id, false);
        let limit = limit.max(Duration::from_secs(1));
        self.shared.offsets.commit(&self.slot, self.token, &commit, limit).await.map(|_| ())
    }

    /// The first commit is acknowledged: what older owners committed counts no longer.
    async fn tombstone_older(&self) -> bool {
        let older =
            self.shared.offsets.view().borrow().slot(&self.slot).map(|state| state.older_tokens(self.token));
        let older = older.unwrap_or_default();
        if older.is_empty() {
            return true;
        }
        match self.shared.offsets.tombstone(&self.slot, &older).await {
            Ok(()) => true,
            Err(error) => {
                log::debug!("cannot tombstone older commits of {}, will try again: {error}", self.slot);
                false
            }
        }
    }
}
