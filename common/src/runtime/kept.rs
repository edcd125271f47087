//! A partition that was to be given and is kept: between two ownerships it is this instance's, and nobody renews it.
//!
//! *A stop in between releases it*: whoever is to own it next does not wait for the lease.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::handler::Service;
use super::owner_id::OwnerId;
use super::shared::Shared;
use crate::offsets::{Commit, Slot};

/// Time for the release.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// An ownership that has ended without a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    id: OwnerId,
    /// Its last commit.
    commit: Commit,
}

impl Kept {
    pub(super) fn new(id: OwnerId, commit: Commit) -> Self {
        Self { id, commit }
    }

    /// Releases the partition to those that stay, if it is still this ownership's.
    pub(super) async fn release<S: Service>(self, shared: &Shared<S>, slot: &Slot) {
        let Self { id, commit } = self;
        shared.membership.left().await;
        let (owns, to) = {
            let view = shared.offsets.view();
            let view = view.borrow();
            let roster = shared.roster(&view, Instant::now()).without(id.instance_id);
            (id.owns(&view, slot), roster.target(slot.partition))
        };
        if !owns {
            return;
        }
        let offset = commit.offset;
        let commit = commit.released_to(to);
        let release = shared.offsets.commit(slot, id.token, &commit, RELEASE_TIMEOUT);
        match timeout(RELEASE_TIMEOUT, release).await {
            Ok(Ok(_)) => log::info!("released {slot} at offset {offset}"),
            _ => log::warn!(
                "could not release {slot} at offset {offset}, the next owner waits for the lease to end"
            ),
        }
    }
}
