//! The ids of the events that were just handled, which a lookup that was made ahead may not have seen.
//!
//! The intake asks which events of a batch are known while the batch before is being handled, and not earlier.
//! So the ids of two batches are enough: of the one at hand and of the one before.

use std::collections::HashSet;

use uuid::Uuid;

#[derive(Default)]
pub(super) struct Recent {
    current: HashSet<Uuid>,
    before: HashSet<Uuid>,
}

impl Recent {
    /// The batch at hand is done, and another one begins.
    pub(super) fn next_batch(&mut self) {
        std::mem::swap(&mut self.current, &mut self.before);
        self.current.clear();
    }

    /// An event of the batch at hand was handled.
    pub(super) fn add(&mut self, id: Uuid) {
        self.current.insert(id);
    }

    /// It was not handled after all.
    pub(super) fn remove(&mut self, id: Uuid) {
        self.current.remove(&id);
        self.before.remove(&id);
    }

    pub(super) fn contains(&self, id: Uuid) -> bool {
        self.current.contains(&id) || self.before.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_of_two_batches_are_held() {
        let mut recent = Recent::default();
        for n in 1..100 {
            recent.next_batch();
            recent.add(Uuid::from_u128(n));
            assert!(recent.contains(Uuid::from_u128(n)));
            assert!(n == 1 || recent.contains(Uuid::from_u128(n - 1)));
            assert!(n == 1 || !recent.contains(Uuid::from_u128(n - 2)), "memory is bounded");
        }
    }
}
