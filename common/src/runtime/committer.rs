//! Commits what is done, at least three times a lease, and so renews the lease; but not while a call hangs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::activity::Activity;
use super::handler::Service;
use super::owner_id::{OwnerId, Parts, Progress};
use super::shared::Shared;
use super::status::Status;
use super::trouble::Trouble;
use crate::backoff::Backoff;
use crate::offsets::Slot;

/// Least time between two commits: the position is never further behind than this and one produce.
const PACE: Duration = Duration::from_millis(20);
/// Renewals that an idle owner sends in the time of one lease.
const RENEWALS_PER_LEASE: u32 = 3;
/// Time between two looks at a call that hangs.
const HANG_POLL: Duration = Duration::from_millis(50);
/// Shortest time for a commit, whatever the lease.
const MIN_COMMIT_TIMEOUT: Duration = Duration::from_secs(1);

/// Commits progress, and so renews the lease.
pub(super) struct Committer<S> {
    pub(super) shared: Arc<Shared<S>>,
    pub(super) slot: Slot,
    pub(super) id: OwnerId,
    pub(super) progress: watch::Receiver<Progress>,
    /// How far each instance's own state goes, where they keep one.
    pub(super) parts: Option<Parts>,
    pub(super) lease: watch::Sender<Instant>,
    /// When the claim, or the last acknowledged commit, was sent.
    pub(super) renewed: Instant,
    pub(super) activity: Arc<Activity>,
    pub(super) renewing: Arc<AsyncMutex<()>>,
    pub(super) hanging: Trouble,
    pub(super) failing: Trouble,
}

impl<S: Service> Committer<S> {
    /// Commits as progress is made, and at least three times a lease. Ends by being dropped.
    pub(super) async fn run(mut self) {
        let lease = self.shared.config.lease;
        let every = lease / RENEWALS_PER_LEASE;
        let mut backoff = Backoff::for_kafka();
        let mut has_cleaned = false;
        loop {
            tokio::select! {
                changed = self.progress.changed() => if changed.is_err() { return },
                () = sleep_until(self.renewed + every) => {}
            }
            sleep_until(self.renewed + PACE).await;
            self.until_work_makes_progress(every).await;
            let progress = *self.progress.borrow_and_update();
            // The process may have been stopped for an hour: then the topic says whether it still owns.
            if Instant::now() >= self.renewed + lease && !self.still_owns().await {
                sleep(backoff.next_delay()).await;
                self.progress.mark_changed();
                continue;
            }
            let sent = Instant::now();
            let commit = self.shared.commit(&self.slot, &self.id, progress, self.parts.as_ref());
            let limit = every.max(MIN_COMMIT_TIMEOUT);
            let renewal = async {
                let _on_its_way = self.renewing.lock().await;
                self.shared.offsets.commit(&self.slot, self.id.token, &commit, limit).await
            };
            match renewal.await {
                Ok(_) => {
                    self.renewed = sent;
                    self.lease.send_replace(sent + lease);
                    let status = &self.shared.status;
                    status.stats().commits.record(sent.elapsed());
                    status.set_lease(self.slot.partition, sent + lease);
                    let (partition, offset) = (self.slot.partition, progress.position.offset);
                    self.shared.acknowledged.set(partition, self.id.term(), offset);
                    self.failing.over(&format!("commits of {} are acknowledged again", self.slot));
                    backoff = Backoff::for_kafka();
                    if !has_cleaned {
                        has_cleaned = self.remove_stale().await;
                    }
                }
                Err(error) => {
                    Status::count(&self.shared.status.stats().failed_commits, 1);
                    let (slot, offset) = (&self.slot, progress.position.offset);
                    self.failing
                        .report(&format!("cannot commit {slot} at {offset}, will try again: {error}"));
                    sleep(backoff.next_delay()).await;
                    self.progress.mark_changed();
                }
            }
        }
    }

    /// Returns at once unless a call hangs.
    async fn until_work_makes_progress(&mut self, limit: Duration) {
        while let Some((what, lasts)) = self.activity.hanging(limit) {
            let (slot, seconds) = (&self.slot, lasts.as_secs_f32());
            self.hanging.report(&format!(
                "{slot} makes no progress: {what} has not returned for {seconds:.1} s; its lease is not renewed, and another instance may take over"
            ));
            sleep(HANG_POLL).await;
        }
        self.hanging.over(&format!("{} makes progress again", self.slot));
    }

    /// Reads the topic to its end. False if that fails, or if another instance has claimed.
    async fn still_owns(&self) -> bool {
        let caught_up = self.shared.offsets.catch_up().await.is_ok();
        let view = self.shared.offsets.view();
        caught_up && self.id.owns(&view.borrow(), &self.slot)
    }

    /// The first commit is acknowledged: what older owners committed no longer counts.
    async fn remove_stale(&self) -> bool {
        let view = self.shared.offsets.view();
        let stale = view.borrow().slot(&self.slot).map(|state| state.stale_tokens(self.id.token));
        let stale = stale.unwrap_or_default();
        if stale.is_empty() {
            return true;
        }
        match self.shared.offsets.tombstone(&self.slot, &stale).await {
            Ok(()) => true,
            Err(error) => {
                log::debug!("cannot tombstone older commits of {}, will try again: {error}", self.slot);
                false
            }
        }
    }
}
