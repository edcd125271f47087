//! What the records of the offsets topic mean, as a pure function over them.
//!
//! The invariants stand in [the module above](super); `tests/offsets_model.rs` holds them against any
//! interleaving of owners, late commits, tombstones and compaction.

use std::collections::{BTreeMap, HashMap};

use super::record::{Claim, Commit, OffsetsRecord, Slot};

/// All slots of the topic, as they stand after the records applied so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fold {
    slots: HashMap<Slot, SlotState>,
}

/// One slot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotState {
    claim: Option<Owner>,
    commits: BTreeMap<i64, Commit>,
}

/// The owner of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The offset of its claim: the fencing token.
    pub token: i64,
    /// Its claim.
    pub claim: Claim,
}

impl Fold {
    /// Applies the record that stands at `offset`. Records come in the order of their offsets.
    pub fn apply(&mut self, offset: i64, record: OffsetsRecord) {
        match record {
            OffsetsRecord::Claim(slot, claim) => {
                self.slots.entry(slot).or_default().claim = claim.map(|claim| Owner { token: offset, claim });
            }
            OffsetsRecord::Commit(slot, token, Some(commit)) => {
                self.slots.entry(slot).or_default().commits.insert(token, commit);
            }
            OffsetsRecord::Commit(slot, token, None) => {
                if let Some(state) = self.slots.get_mut(&slot) {
                    state.commits.remove(&token);
                }
            }
        }
    }

    /// The slot, if any record spoke of it.
    pub fn slot(&self, slot: &Slot) -> Option<&SlotState> {
        self.slots.get(slot)
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

    /// Where to read next: the last commit of the highest token that has one.
    pub fn position(&self) -> Option<i64> {
        self.last_commit().map(|(_, commit)| commit.offset)
    }

    /// The commit that gives the position, with its token.
    pub fn last_commit(&self) -> Option<(i64, &Commit)> {
        self.commits.last_key_value().map(|(token, commit)| (*token, commit))
    }

    /// Whether the owner has said that it stopped.
    pub fn is_released(&self) -> bool {
        let Some(owner) = &self.claim else { return true };
        self.commits.get(&owner.token).is_some_and(|commit| commit.released)
    }

    /// Tokens below `token` that have a commit still: to be tombstoned by its owner once it has committed.
    pub fn older_tokens(&self, token: i64) -> Vec<i64> {
        self.commits.range(..token).map(|(older, _)| *older).collect()
    }
}
