//! Two instances that see a partition to be free, and both claim it: those that start together know little of each other.
//!
//! *The first keeps it*, though the later claim fences: the later one has handled nothing, and knows from the topic that it
//! came second. So what the first has handled in that moment is repeated by nobody.

use std::sync::Arc;

use tokio::time::Instant;
use uuid::Uuid;

use super::handler::Service;
use super::owner_id::OwnerId;
use super::release::{RELEASE_TIMEOUT, Unreleased};
use super::status::Status;
use super::worker::{ClaimedPartition, Worker};
use crate::offsets::View;

impl<S: Service> Worker<S> {
    /// Who claimed between the look that this process's claim rests on and that claim.
    pub(super) fn jumped(&self, view: &View) -> Option<Uuid> {
        let judged = self.seen.filter(|((life, ..), _)| *life == view.lives).map(|((_, token, ..), _)| token);
        let config = &self.shared.config;
        let replaced = view.replaced(&self.slot).filter(|owner| {
            judged.is_some_and(|token| token != Some(owner.token))
                && owner.claim.instance_id != config.identity.id()
                && !self.own.made(owner)
                && owner.claim.service.as_deref() == Some(&config.service)
        });
        replaced.map(|owner| owner.claim.instance_id)
    }

    /// Releases to the instance whose claim came first what both saw to be free: it may have handled events by now, which
    /// only its own dedup knows. Under this claim nothing was handled.
    pub(super) async fn give_back(&mut self, claimed: ClaimedPartition<S::Handler>) {
        let ClaimedPartition { claimed, start, jumped, .. } = claimed;
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
        let commit = last.unwrap_or_else(|| shared.commit(&self.slot, start.position, id.instance_id, false));
        let unreleased = Unreleased::new(id, commit);
        let (slot, to) = (&self.slot, jumped.unwrap_or_default());
        match unreleased.write(&shared, slot, jumped, Instant::now() + RELEASE_TIMEOUT).await {
            Ok(()) => {
                (self.unreleased, self.may_own) = (None, false);
                Status::count(&shared.status.stats().given, 1);
                log::info!("{slot} was claimed by instance {to} a moment before, and is left to it");
            }
            Err(error) => {
                log::warn!(
                    "could not leave {slot} to instance {to}, which claimed it a moment before: {error}"
                );
                self.unreleased = Some(unreleased);
            }
        }
    }
}
