//! The positions of this instance's partitions that Kafka has acknowledged, for the mirror.
//!
//! *What another instance owns is not mirrored*: once an ownership has ended, an acknowledgement that comes late for
//! it changes nothing, whatever order the tasks run in.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::owner_id::Term;

/// A partition of this instance, as its latest ownership left it.
#[derive(Debug, Clone, Copy)]
struct Entry {
    term: Term,
    /// `None` once the ownership has ended.
    position: Option<i64>,
}

/// By partition.
#[derive(Debug, Default)]
pub(super) struct Acknowledged(Mutex<BTreeMap<i32, Entry>>);

impl Acknowledged {
    /// The position was acknowledged to the ownership of that term, if it has not ended.
    pub(super) fn set(&self, partition: i32, term: Term, position: i64) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.entry(partition).or_insert(Entry { term, position: Some(position) });
        let has_ended = entry.term > term || entry.term == term && entry.position.is_none();
        if !has_ended {
            *entry = Entry { term, position: Some(position) };
        }
    }

    /// The ownership of that term has ended, and another one owns or is to own.
    pub(super) fn end(&self, partition: i32, term: Term) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.entry(partition).or_insert(Entry { term, position: None });
        if entry.term <= term {
            *entry = Entry { term, position: None };
        }
    }

    /// The partition is no more.
    pub(super) fn forget(&self, partition: i32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&partition);
    }

    /// All of them.
    pub(super) fn positions(&self) -> Vec<(i32, i64)> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().filter_map(|(partition, entry)| Some((*partition, entry.position?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_acknowledgement_of_an_ownership_that_has_ended_is_not_mirrored() {
        let acknowledged = Acknowledged::default();
        let term = |token| Term { incarnation: 0, token };
        acknowledged.set(0, term(7), 5);
        acknowledged.set(1, term(8), 50);
        acknowledged.end(0, term(7));
        acknowledged.set(0, term(7), 6);
        assert_eq!(acknowledged.positions(), [(1, 50)], "it was given, and its last renewal came later");
        acknowledged.set(0, term(9), 70);
        acknowledged.set(0, term(7), 6);
        acknowledged.end(0, term(7));
        assert_eq!(acknowledged.positions(), [(0, 70), (1, 50)], "it is owned again");
        acknowledged.set(0, Term { incarnation: 1, token: 2 }, 71);
        assert_eq!(acknowledged.positions(), [(0, 71), (1, 50)], "the offsets topic was recreated");
        acknowledged.forget(0);
        assert_eq!(acknowledged.positions(), [(1, 50)]);
    }
}
