//! What the records of the offsets topic mean, as a pure function over them.
//!
//! The invariants are described in [the module above](super); `tests/offsets_model.rs` holds them against
//! any interleaving of owners, late commits, tombstones, compaction and foreign records.
//!
//! A token is the offset of a claim, so a commit's token is lower than the commit's own offset and not
//! higher than the latest claim. A record for which that does not hold was written in another incarnation
//! of the topic, or copied from another topic, and never gives a position.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use uuid::Uuid;

use super::member::Member;
use super::record::{Claim, Commit, OffsetsRecord, Slot};
use crate::kafka::Position;

/// All slots and members of the topic, by the records applied so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fold {
    slots: HashMap<Slot, SlotState>,
    members: BTreeMap<(String, Uuid), Member>,
}

/// One slot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotState {
    claim: Option<Owner>,
    commits: BTreeMap<i64, Commit>,
    /// Tokens of commits that come from another incarnation of the topic.
    foreign: BTreeSet<i64>,
}

/// The owner of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The offset of its claim: the fencing token.
    pub token: i64,
    /// Its claim.
    pub claim: Claim,
}

/// A commit that was ignored: its token is not lower than its own offset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the commit of {slot} at offset {offset} has token {token}, which cannot come before it: it was written in another incarnation of the topic, or copied from another one"
)]
pub struct ForeignCommit {
    slot: Slot,
    token: i64,
    offset: i64,
}

/// Tokens of foreign commits that are remembered for a slot, to be tombstoned.
const MAX_FOREIGN: usize = 1_000;

impl Fold {
    /// Applies the record that is stored at `offset`. Records come in the order of their offsets.
    pub fn apply(&mut self, offset: i64, record: OffsetsRecord) -> Result<(), ForeignCommit> {
        match record {
            OffsetsRecord::Claim(slot, claim) => {
                self.slots.entry(slot).or_default().claim = claim.map(|claim| Owner { token: offset, claim });
            }
            OffsetsRecord::Commit(slot, token, Some(commit)) => {
                let state = self.slots.entry(slot.clone()).or_default();
                if token >= offset {
                    if state.foreign.len() < MAX_FOREIGN {
                        state.foreign.insert(token);
                    }
                    return Err(ForeignCommit { slot, token, offset });
                }
                state.foreign.remove(&token);
                state.commits.insert(token, commit);
            }
            OffsetsRecord::Member(group, instance_id, Some(member)) => {
                self.members.insert((group, instance_id), member);
            }
            OffsetsRecord::Member(group, instance_id, None) => {
                self.members.remove(&(group, instance_id));
            }
            OffsetsRecord::Commit(slot, token, None) => {
                if let Some(state) = self.slots.get_mut(&slot) {
                    state.commits.remove(&token);
                    state.foreign.remove(&token);
                }
            }
        }
        Ok(())
    }

    /// The slot, if any record spoke of it.
    pub fn slot(&self, slot: &Slot) -> Option<&SlotState> {
        self.slots.get(slot)
    }

    /// The members of a group that have not left, alive or not.
    pub fn members(&self, group: &str) -> impl Iterator<Item = (Uuid, &Member)> {
        let of_group = self.members.range((group.to_owned(), Uuid::nil())..);
        let of_group = of_group.take_while(move |((of, _), _)| of == group);
        of_group.map(|((_, instance_id), member)| (*instance_id, member))
    }

    /// The instances of which the topic speaks as owners of any partition, or as having done a part of it.
    pub fn instances(&self, group: &str, topic: &str) -> BTreeSet<Uuid> {
        let mut instances = BTreeSet::new();
        let of_topic = self.slots.iter().filter(|(slot, _)| slot.group == group && slot.topic == topic);
        for (_, state) in of_topic {
            instances.extend(state.owner().map(|owner| owner.claim.instance_id));
            if let Some((_, commit)) = state.last_commit() {
                instances.insert(commit.instance_id);
                instances.extend(commit.done_by().instances());
            }
        }
        instances
    }

    /// All slots, in no order.
    pub fn slots(&self) -> impl Iterator<Item = (&Slot, &SlotState)> {
        self.slots.iter()
    }
}

impl SlotState {
    /// Who owns the slot: the claim with the highest offset.
    pub fn owner(&self) -> Option<&Owner> {
        self.claim.as_ref()
    }

    /// The offset to read next: the last commit of the highest token that has one.
    pub fn position(&self) -> Option<i64> {
        self.committed().map(|position| position.offset)
    }

    /// Where to read next, with the topic in which that holds.
    pub fn committed(&self) -> Option<Position> {
        self.last_commit().map(|(_, commit)| commit.position())
    }

    /// The commit that gives the position, with its token. A token above the latest claim is none: claims
    /// are kept by compaction, so that of a real token is there, or a later one.
    pub fn last_commit(&self) -> Option<(i64, &Commit)> {
        let latest = self.claim.as_ref().map_or(i64::MAX, |owner| owner.token);
        self.commits.range(..=latest).next_back().map(|(token, commit)| (*token, commit))
    }

    /// Whether the owner has released the slot.
    pub fn is_released(&self) -> bool {
        let Some(owner) = &self.claim else { return true };
        self.commits.get(&owner.token).is_some_and(|commit| commit.released)
    }

    /// The instance that the owner released the slot to, if it named one.
    pub fn released_to(&self) -> Option<Uuid> {
        self.commits.get(&self.claim.as_ref()?.token).filter(|commit| commit.released)?.to
    }

    /// Tokens that have a commit still, though it no longer counts beside one of `token`: to be tombstoned
    /// by its owner once it has committed.
    pub fn stale_tokens(&self, token: i64) -> Vec<i64> {
        let latest = self.claim.as_ref().map_or(i64::MAX, |owner| owner.token);
        let older_or_foreign = |other: &i64| *other < token || *other > latest;
        let stale = self.commits.keys().copied().filter(older_or_foreign);
        stale.chain(self.foreign.iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn slot() -> Slot {
        Slot { group: "g".to_owned(), topic: "t".to_owned(), partition: 0 }
    }

    fn claim() -> OffsetsRecord {
        OffsetsRecord::Claim(slot(), Some(Claim::new(Uuid::nil(), "host", 1)))
    }

    fn commit(token: i64, offset: i64) -> OffsetsRecord {
        OffsetsRecord::Commit(slot(), token, Some(Commit::new(offset, Uuid::nil(), false)))
    }

    #[test]
    fn a_token_of_another_incarnation_pins_no_position() {
        let mut fold = Fold::default();
        fold.apply(0, claim()).unwrap();
        let warning = fold.apply(1, commit(900, 500)).unwrap_err().to_string();
        assert!(warning.contains("g/t/0") && warning.contains("900"), "{warning}");
        fold.apply(2, commit(0, 7)).unwrap();
        let state = fold.slot(&slot()).unwrap();
        assert_eq!(state.position(), Some(7));
        assert_eq!(state.stale_tokens(0), [900], "its owner removes it from the topic");
        // An operator's reset: a claim and a commit under it.
        fold.apply(3, claim()).unwrap();
        fold.apply(4, commit(3, 0)).unwrap();
        assert_eq!(fold.slot(&slot()).unwrap().position(), Some(0));
        fold.apply(5, OffsetsRecord::Commit(slot(), 900, None)).unwrap();
        assert_eq!(fold.slot(&slot()).unwrap().stale_tokens(3), [0]);
    }

    #[test]
    fn a_token_between_the_latest_claim_and_its_own_offset_pins_no_position() {
        let mut fold = Fold::default();
        fold.apply(10, claim()).unwrap();
        fold.apply(11, commit(10, 7)).unwrap();
        fold.apply(100, commit(50, 500)).unwrap();
        let state = fold.slot(&slot()).unwrap();
        assert_eq!(state.position(), Some(7));
        assert_eq!(state.stale_tokens(10), [50]);
    }
}
