//! Finds events that have more than one line, in bounded memory at any number of lines.
//!
//! # Invariants
//!
//! 1. *Every repeated id is a suspect*: the filter forgets no id that a later one could repeat unnoticed. When it is full,
//!    it is emptied, and suspects each id from then on that is not greater than all before: ids of version 7 rise with
//!    time, so few are.
//! 2. *Memory is bounded*: where ids are not in such an order, more are suspected than can be kept; then the log is read
//!    again, for one part of the ids after the other, of which each fits the filter.
//! 3. *Some that come once are suspects, too*: suspects are looked for once more, by their ids alone. More of
//!    them than [`MAX_SUSPECTS`] are an answer of their own: no audit log has them.

use std::collections::{HashMap, HashSet};
use std::hint::black_box;

use uuid::Uuid;

/// Words of the filter: 32 MiB.
const WORDS: usize = 1 << 22;
/// Words of a block: one cache line. All bits of an id are in one.
const BLOCK: usize = 8;
/// Bits that are set for an id.
const BITS: u32 = 5;
/// Ids that fit the filter, with 1 in 2,000 suspected.
const CAPACITY: u64 = 12_000_000;
/// Suspects that are kept.
const MAX_SUSPECTS: usize = 200_000;

/// What is kept at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Ids in the filter.
    pub(super) ids: u64,
    pub(super) suspects: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { ids: CAPACITY, suspects: MAX_SUSPECTS }
    }
}

/// The filter for the ids of a log.
pub(super) struct Filter {
    words: Vec<u64>,
    /// Words before the first block: memory that is allocated need not begin with a cache line.
    start: usize,
    capacity: u64,
    /// Ids in it.
    ids: u64,
    /// The greatest id that it was given, and the greatest that it has forgotten.
    greatest: Option<Uuid>,
    forgotten: Option<Uuid>,
}

impl Filter {
    pub(super) fn new(bounds: Bounds) -> Self {
        let capacity = bounds.ids;
        let (ids, greatest, forgotten) = (0, None, None);
        let words = vec![0; WORDS + BLOCK];
        let start = words.as_ptr().align_offset(BLOCK * size_of::<u64>()).min(BLOCK);
        Self { words, start, capacity, ids, greatest, forgotten }
    }

    /// Takes the next id of the log. Whether it may have been there before.
    pub(super) fn insert(&mut self, id: &Uuid) -> bool {
        if self.ids == self.capacity {
            self.clear();
            self.forgotten = self.greatest;
        }
        self.greatest = self.greatest.max(Some(*id));
        if self.forgotten >= Some(*id) {
            return true;
        }
        self.ids += 1;
        self.set(id)
    }

    /// Reads what it has of these ids, so that memory answers for several at once: one after the other they would take
    /// longer than all else that is done for a line.
    pub(super) fn prefetch<'a>(&self, ids: impl Iterator<Item = &'a Uuid>) {
        let words = ids.map(|id| self.words.get(self.block_of(mix(hash_of(id)))).copied().unwrap_or(0));
        black_box(words.fold(0, |all, word| all ^ word));
    }

    /// Whether all that it suspects may be because it has forgotten ids.
    pub(super) fn has_forgotten(&self) -> bool {
        self.forgotten.is_some()
    }

    /// Whether an id may have been set before. It is set then.
    pub(super) fn set(&mut self, id: &Uuid) -> bool {
        let hash = mix(hash_of(id));
        let block = self.block_of(hash);
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

    /// The first word of the block for a hash.
    fn block_of(&self, hash: u64) -> usize {
        self.start + (hash as usize % (WORDS / BLOCK)) * BLOCK
    }

    /// Empties it.
    pub(super) fn clear(&mut self) {
        self.words.fill(0);
        self.ids = 0;
    }
}

/// Parts of so many ids, of which each fits the filter.
pub(super) fn parts(ids: u64, bounds: Bounds) -> u64 {
    ids / bounds.ids.max(1) + 1
}

/// Which of the parts an id is in.
pub(super) fn part_of(id: &Uuid, parts: u64) -> u64 {
    hash_of(id) % parts
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
pub(super) struct Suspects {
    ids: HashSet<Uuid>,
    max: usize,
    /// There were too many: those that are kept are not all.
    pub(super) too_many: bool,
}

impl Suspects {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { ids: HashSet::new(), max: bounds.suspects, too_many: false }
    }

    pub(super) fn add(&mut self, id: Uuid) {
        self.too_many |= self.ids.len() >= self.max && !self.ids.contains(&id);
        if !self.too_many {
            self.ids.insert(id);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub(super) fn ids(&self) -> Vec<Uuid> {
        self.ids.iter().copied().collect()
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

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + number)
    }

    #[test]
    fn every_repeat_is_suspected_and_few_others_are() {
        for capacity in [CAPACITY, 70_000] {
            let mut filter = Filter::new(Bounds { ids: capacity, ..Bounds::default() });
            let suspected = (0..300_000).filter(|number| filter.insert(&id(*number))).count();
            assert!(suspected < 30, "{suspected}");
            assert_eq!(filter.has_forgotten(), capacity < 300_000);
            assert!((0..300_000).step_by(1_000).all(|number| filter.insert(&id(number))), "{capacity}");
        }
    }

    #[test]
    fn a_repeat_is_suspected_wherever_the_filter_was_emptied_between() {
        for (capacity, distance) in
            (1..12).flat_map(|capacity| (0..30).map(move |distance| (capacity, distance)))
        {
            let mut filter = Filter::new(Bounds { ids: capacity, ..Bounds::default() });
            // In no order, so that what was forgotten is greater than some and less than others.
            let spread = |number: u128| id(number * 17 % 31);
            let _ = (0..=distance).filter(|number| filter.insert(&spread(*number))).count();
            assert!(filter.insert(&spread(0)), "{capacity} {distance}");
        }
    }

    #[test]
    fn a_block_is_a_cache_line_of_its_own() {
        let filter = Filter::new(Bounds::default());
        for hash in [0, 1, u64::MAX] {
            let block = filter.block_of(hash);
            assert_eq!(filter.words[block..].as_ptr() as usize % 64, 0);
            assert!(block + BLOCK <= filter.words.len());
        }
    }

    #[test]
    fn each_id_is_in_one_part() {
        let mut filter = Filter::new(Bounds::default());
        for part in 0..3 {
            filter.clear();
            let of_part = |number: &u128| part_of(&id(*number), 3) == part;
            let numbers = (0..30_000).chain((0..30_000).step_by(100));
            let found = numbers.filter(of_part).filter(|number| filter.set(&id(*number))).count();
            let repeated = (0..30_000).step_by(100).filter(of_part).count();
            assert!((repeated..repeated + 9).contains(&found) && repeated > 50, "{found} {repeated}");
        }
    }

    #[test]
    fn suspects_are_bounded_and_those_that_come_once_are_cleared() {
        let mut suspects = Suspects::new(Bounds::default());
        (0..MAX_SUSPECTS as u128 + 9).for_each(|number| suspects.add(Uuid::from_u128(number)));
        assert!(suspects.too_many && suspects.ids.len() == MAX_SUSPECTS);
        let mut confirm = suspects.confirm();
        assert!(confirm.is_suspect(&Uuid::from_u128(1)) && !confirm.is_suspect(&Uuid::from_u128(u128::MAX)));
        let places = [1, 2, 1].map(|id| confirm.add(Uuid::from_u128(id), id));
        assert_eq!(places, [None, None, Some(1)]);
    }
}
