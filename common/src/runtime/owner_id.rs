//! Which ownership a commit is of.

use uuid::Uuid;

use crate::offsets::{DoneBy, Slot, View};

/// What tells one ownership from every other, in one incarnation of the offsets topic.
#[derive(Debug, Clone)]
pub(super) struct OwnerId {
    pub(super) token: i64,
    pub(super) claim_id: Uuid,
    pub(super) instance_id: Uuid,
    pub(super) incarnation: u64,
}

/// What the instances that share a partition have done of it, each in its own state, when an ownership starts.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    pub(super) done_by: DoneBy,
    /// Where the ownership starts to read.
    pub(super) start: i64,
}

impl OwnerId {
    /// How far each instance's own state goes, once this ownership is at that offset; nothing where they keep none.
    /// Before it has moved, its state ends where it did.
    pub(super) fn done_at(&self, parts: Option<&Parts>, offset: i64) -> DoneBy {
        let Some(Parts { done_by, start }) = parts else { return DoneBy::default() };
        let mut done_by = done_by.clone();
        if offset != *start {
            done_by.set(self.instance_id, offset);
        }
        done_by
    }

    /// Whether the topic, as it was read so far, says that this ownership lasts.
    pub(super) fn owns(&self, view: &View, slot: &Slot) -> bool {
        let owner = view.slot(slot).and_then(|state| state.owner());
        let is_own =
            owner.is_some_and(|owner| owner.token == self.token && owner.claim.claim_id == self.claim_id);
        is_own && view.lives == self.incarnation
    }
}
