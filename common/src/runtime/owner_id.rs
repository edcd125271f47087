//! Which ownership a commit is of.

use uuid::Uuid;

use crate::offsets::{Slot, View};

/// What tells one ownership from every other, in one incarnation of the offsets topic.
#[derive(Debug, Clone)]
pub(super) struct OwnerId {
    pub(super) token: i64,
    pub(super) claim_id: Uuid,
    pub(super) instance_id: Uuid,
    pub(super) incarnation: u64,
}

impl OwnerId {
    /// Whether the topic, as it was read so far, says that this ownership lasts.
    pub(super) fn owns(&self, view: &View, slot: &Slot) -> bool {
        let owner = view.slot(slot).and_then(|state| state.owner());
        let is_own =
            owner.is_some_and(|owner| owner.token == self.token && owner.claim.claim_id == self.claim_id);
        is_own && view.lives == self.incarnation
    }
}
