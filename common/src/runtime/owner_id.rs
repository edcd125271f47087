//! Which ownership a commit is of, and what it says of the work.

use uuid::Uuid;

use crate::kafka::Position;
use crate::offsets::fold::Owner;
use crate::offsets::{DoneBy, Slot, View};

/// What tells one ownership from every other, in one incarnation of the offsets topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OwnerId {
    pub(super) token: i64,
    pub(super) claim_id: Uuid,
    pub(super) instance_id: Uuid,
    pub(super) incarnation: u64,
}

/// The order of the ownerships of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Term {
    /// The incarnation of the offsets topic, in which tokens rise.
    pub(super) incarnation: u64,
    pub(super) token: i64,
}

/// How far an ownership is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    /// All below it is done.
    pub(super) position: Position,
    /// The position after the last event that was handled, if any was: what the service's own state holds ends there.
    pub(super) handled: Option<i64>,
}

/// What the instances that share a partition have done of it, each in its own state, when an ownership starts. This
/// instance has an entry from the start: 0 where its state has nothing of the partition.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    pub(super) done_by: DoneBy,
    /// The topic in which that holds.
    pub(super) topic_id: Option<Uuid>,
}

impl OwnerId {
    /// That of the slot's latest claim.
    pub(super) fn of(owner: &Owner, view: &View) -> Self {
        let Owner { token, claim } = owner;
        let (claim_id, instance_id) = (claim.claim_id, claim.instance_id);
        Self { token: *token, claim_id, instance_id, incarnation: view.lives }
    }

    pub(super) fn term(&self) -> Term {
        Term { incarnation: self.incarnation, token: self.token }
    }

    /// How far each instance's own state goes; nothing where they keep none. What is not an event of the log (an
    /// idle partition, dead letters, markers) moves the position and nobody's part.
    pub(super) fn done_at(&self, Progress { position, handled }: Progress, parts: Option<&Parts>) -> DoneBy {
        let Some(Parts { done_by, topic_id }) = parts else { return DoneBy::default() };
        let is_other_topic = topic_id.zip(position.topic_id).is_some_and(|(of, now)| of != now);
        let mut done_by = if is_other_topic { DoneBy::default() } else { done_by.clone() };
        let done = handled.map(|handled| handled.min(position.offset));
        if let Some(done) = done.or(is_other_topic.then_some(0)) {
            done_by.set(self.instance_id, done);
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

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: Uuid = Uuid::from_u128(2);

    fn id() -> OwnerId {
        OwnerId { token: 7, claim_id: Uuid::new_v4(), instance_id: Uuid::from_u128(1), incarnation: 0 }
    }

    fn done_by(of: &[(Uuid, i64)]) -> DoneBy {
        let mut done_by = DoneBy::default();
        of.iter().for_each(|(id, offset)| done_by.set(*id, *offset));
        done_by
    }

    fn at(offset: i64, handled: Option<i64>, topic: u128) -> Progress {
        let topic_id = Some(Uuid::from_u128(topic));
        Progress { position: Position { offset, leader_epoch: None, topic_id }, handled }
    }

    #[test]
    fn what_an_ownership_has_not_handled_is_not_its_part() {
        let (id, me) = (id(), Uuid::from_u128(1));
        let parts = Parts { done_by: done_by(&[(me, 0), (OTHER, 50)]), topic_id: Some(Uuid::from_u128(9)) };
        let done = |progress| id.done_at(progress, Some(&parts));
        assert_eq!(done(at(50, None, 9)), done_by(&[(me, 0), (OTHER, 50)]), "idle");
        assert_eq!(done(at(53, None, 9)), done_by(&[(me, 0), (OTHER, 50)]), "dead letters and markers");
        assert_eq!(done(at(60, Some(58), 9)), done_by(&[(me, 58), (OTHER, 50)]));
        assert_eq!(done(at(40, Some(58), 9)), done_by(&[(me, 40), (OTHER, 50)]), "the topic was cut");
        assert_eq!(done(at(0, None, 8)), done_by(&[(me, 0)]), "the topic was recreated");
        assert_eq!(id.done_at(at(5, Some(5), 9), None), DoneBy::default(), "no own state");
    }
}
