//! Finds events that have more than one line, in bounded memory at any number of lines.
//!
//! # Invariants
//!
//! 1. *Every repeated id is a suspect*: the filter forgets no id that it was given. It also suspects a few that come
//!    once, so suspects are looked for once more, by their ids alone.
//! 2. *Memory is bounded*: ids are taken in parts, of which each fits the filter; a log of more than
//!    [`PART_BYTES`] is read again for each further part. More suspects than [`MAX_SUSPECTS`] are an answer of
//!    their own: no audit log has them.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

/// Words of the filter: 32 MiB.
const WORDS: usize = 1 << 22;
/// Words of a block: one cache line. All bits of an id are in one.
const BLOCK: usize = 8;
/// Bits that are set for an id.
const BITS: u32 = 5;
/// Bytes of a log whose ids fit the filter: some 12,000,000 lines of 400 bytes, with 1 in 1,000 suspected.
pub(super) const PART_BYTES: u64 = 5_000_000_000;
/// Suspects that are kept.
pub(super) const MAX_SUSPECTS: usize = 200_000;

/// The filter for one part of the ids.
pub(super) struct Filter {
    words: Vec<u64>,
    parts: u64,
}

impl Filter {
    /// For a log of that many bytes.
    pub(super) fn new(bytes: u64) -> Self {
        Self { words: vec![0; WORDS], parts: bytes / PART_BYTES + 1 }
    }

    /// How often the log has to be read.
    pub(super) fn parts(&self) -> u64 {
        self.parts
    }

    /// Starts with the next part.
    pub(super) fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Whether an id is of that part.
    pub(super) fn is_of(&self, id: &Uuid, part: u64) -> bool {
        self.parts == 1 || hash_of(id) % self.parts == part
    }

    /// Takes an id if it is of that part. Whether it may have been there before.
    pub(super) fn insert(&mut self, id: Uuid, part: u64) -> bool {
        if !self.is_of(&id, part) {
            return false;
        }
        let hash = mix(hash_of(&id));
        let block = (hash as usize % (WORDS / BLOCK)) * BLOCK;
        let mut bits = mix(hash);
        let mut is_known = true;
        for _ in 0..BITS {
            let (word, bit) = ((bits >> 6) as usize % BLOCK, 1 << (bits & 63));
            bits >>= 9;
            if let Some(word) = self.words.get_mut(block + word) {
                is_known &= *word & bit != 0;
                *word |= bit;
            }
        }
        is_known
    }
}

fn hash_of(id: &Uuid) -> u64 {
    let (high, low) = id.as_u64_pair();
    mix(mix(high) ^ low)
}

/// Spreads the bits of a number (the finaliser of splitmix64).
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Ids that may be repeated.
#[derive(Default)]
pub(super) struct Suspects {
    ids: HashSet<Uuid>,
    /// There were too many: those that are kept are not all.
    pub(super) too_many: bool,
}

impl Suspects {
    pub(super) fn add(&mut self, id: Uuid) {
        self.too_many |= self.ids.len() >= MAX_SUSPECTS && !self.ids.contains(&id);
        if !self.too_many {
            self.ids.insert(id);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Looks at them once more. `P` is a line's place.
    pub(super) fn confirm<P>(self) -> Confirm<P> {
        Confirm { first: HashMap::with_capacity(self.ids.len()), suspects: self.ids }
    }
}

/// Where the suspects are in the log.
pub(super) struct Confirm<P> {
    suspects: HashSet<Uuid>,
    first: HashMap<Uuid, P>,
}

impl<P: Clone> Confirm<P> {
    pub(super) fn is_suspect(&self, id: &Uuid) -> bool {
        self.suspects.contains(id)
    }

    /// Takes a line of a suspect. Where the first line of the same id is, unless this is the first.
    pub(super) fn add(&mut self, id: Uuid, place: P) -> Option<P> {
        match self.first.get(&id) {
            Some(first) => Some(first.clone()),
            None => {
                self.first.insert(id, place);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_repeat_is_suspected_and_few_others_are() {
        for bytes in [0, 3 * PART_BYTES] {
            let mut filter = Filter::new(bytes);
            let id = |number: u128| Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + number);
            let (mut suspected, mut found) = (0, HashSet::new());
            for part in 0..filter.parts() {
                filter.clear();
                suspected += (0..300_000).filter(|number| filter.insert(id(*number), part)).count();
                found.extend((0..300_000).step_by(1_000).filter(|number| filter.insert(id(*number), part)));
            }
            assert!(suspected < 30, "{suspected}");
            assert_eq!(found.len(), 300, "each is of one part");
        }
    }

    #[test]
    fn suspects_are_bounded_and_those_that_come_once_are_cleared() {
        let mut suspects = Suspects::default();
        (0..MAX_SUSPECTS as u128 + 9).for_each(|number| suspects.add(Uuid::from_u128(number)));
        assert!(suspects.too_many && suspects.ids.len() == MAX_SUSPECTS);
        let mut confirm = suspects.confirm();
        assert!(confirm.is_suspect(&Uuid::from_u128(1)) && !confirm.is_suspect(&Uuid::from_u128(u128::MAX)));
        let places = [1, 2, 1].map(|id| confirm.add(Uuid::from_u128(id), id));
        assert_eq!(places, [None, None, Some(1)]);
    }
}
