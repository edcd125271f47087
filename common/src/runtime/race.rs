//! Two instances that see a partition to be free, and both claim it: those that start together know little of each
//! other.
//!
//! *The first keeps it*, though the later claim fences: the later one has handled nothing, and knows from the topic that
//! it came second. So what the first has handled in that moment is repeated by nobody.

use std::sync::Arc;

use tokio::time::Instant;
use uuid::Uuid;

use super::handler::Service;
use super::owner_id::OwnerId;
use super::release::{RELEASE_TIMEOUT, Unreleased};
use super::status::Status;
use super::worker::{ClaimedPartition, Worker};
use crate::offsets::View;
use crate::offsets::fold::Owner;

impl<S: Service> Worker<S> {
    /// Who was the first to claim between the look that this process's claim rests on and that claim, and has not
    /// released it since.
    pub(super) fn came_first(&self, view: &View) -> Option<Uuid> {
        let (life, looked_to) = self.looked_to?;
        let config = &self.shared.config;
        let has_released =
            |owner: &Owner| view.slot(&self.slot).is_some_and(|state| state.was_released_by(owner.token));
        let first = view.claims(&self.slot).find(|owner| {
            owner.token >= looked_to
                && owner.claim.service.as_deref() == Some(&config.service)
                && !has_released(owner)
        });
        let is_own = |owner: &Owner| owner.claim.instance_id == config.identity.id() || self.own.made(owner);
        first.filter(|owner| life == view.lives && !is_own(owner)).map(|owner| owner.claim.instance_id)
    }

    /// Releases to the instance whose claim came first what both saw to be free: it may have handled events by now,
    /// which only its own dedup knows. Under this claim nothing was handled.
    pub(super) async fn leave_to(&mut self, first: Uuid, claimed: ClaimedPartition<S::Handler>) {
        let ClaimedPartition { claimed, handler, start, parts, .. } = claimed;
        drop(handler);
        let shared = Arc::clone(&self.shared);
        let found = {
            let view = shared.offsets.view();
            let view = view.borrow();
            let state = view.slot(&self.slot);
            let owner = state.and_then(|state| state.owner()).filter(|owner| owner.token == claimed.token);
            let last = state.and_then(|state| state.last_commit()).map(|(_, commit)| commit.clone());
            owner.map(|owner| (OwnerId::of(owner, &view), last))
        };
        // Without it somebody has claimed over this claim in turn.
        let Some((id, last)) = found else { return };
        // What others committed, and where, counts as for an owner.
        let of_this_claim = || {
            let commit = shared.commit(&self.slot, start.position, id.instance_id, false);
            parts.iter().fold(commit, |commit, parts| commit.with_done_by(&parts.done_by))
        };
        let commit = last.filter(|last| last.instance_id == first).unwrap_or_else(of_this_claim);
        let (slot, unreleased) = (&self.slot, Unreleased::new(id, commit));
        let write = unreleased.write(&shared, slot, Some(first), Instant::now() + RELEASE_TIMEOUT);
        match shared.shutdown.or(write).await {
            Some(Ok(())) => {
                (self.unreleased, self.may_own) = (None, false);
                Status::count(&shared.status.stats().given, 1);
                log::info!("{slot} was claimed by instance {first} a moment before, and is left to it");
            }
            Some(Err(error)) => log::warn!(
                "could not leave {slot} to instance {first}, which claimed it a moment before: {error}"
            ),
            // The stop releases it.
            None => self.unreleased = Some(unreleased),
        }
    }
}
