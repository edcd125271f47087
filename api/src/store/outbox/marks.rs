//! Which events are delivered: for each partition, up to which sequence number.
//!
//! Events of a partition are delivered in order, so one number for each suffices. Where a later event was found
//! in the topic before an earlier one, its number is kept besides, until the mark has passed it.
//!
//! Another partition count distributes the events differently. The marks of the former count still record what was delivered
//! under it; they are kept until no event that they speak of can be waiting.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use task_events::kafka::partition_for_key;
use uuid::Uuid;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct Marks {
    /// By partition count; the last is the one in use.
    counts: Vec<Count>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Count {
    partitions: i32,
    marks: BTreeMap<i32, Mark>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    /// All events of the partition up to this one are delivered.
    through: u64,
    /// And these.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    beyond: BTreeSet<u64>,
}

impl Mark {
    fn has(&self, seq: u64) -> bool {
        seq <= self.through || self.beyond.contains(&seq)
    }

    fn last(&self) -> u64 {
        self.beyond.last().copied().unwrap_or(0).max(self.through)
    }
}

impl Count {
    fn last(&self) -> u64 {
        self.marks.values().map(Mark::last).max().unwrap_or(0)
    }
}

impl Marks {
    /// From now on events are spread by this count.
    pub(super) fn set_partitions(&mut self, partitions: i32) {
        if self.counts.last().is_none_or(|count| count.partitions != partitions) {
            self.counts.retain(|count| !count.marks.is_empty());
            self.counts.push(Count { partitions, marks: BTreeMap::new() });
        }
    }

    /// All of a partition's events up to the last of `seqs` are delivered, and those that are scattered behind.
    /// Returns those that were not before.
    pub(super) fn deliver(&mut self, partition: i32, seqs: &[u64], scattered: &[u64]) -> Vec<u64> {
        if self.counts.is_empty() {
            self.set_partitions(1);
        }
        let Some(count) = self.counts.last_mut() else { return Vec::new() };
        let mark = count.marks.entry(partition).or_default();
        let new = seqs.iter().chain(scattered).copied().filter(|seq| !mark.has(*seq)).collect();
        mark.through = seqs.iter().copied().max().unwrap_or(0).max(mark.through);
        mark.beyond.extend(scattered);
        mark.beyond = mark.beyond.split_off(&(mark.through + 1));
        new
    }

    pub(super) fn is_delivered(&self, seq: u64, task: Uuid) -> bool {
        self.counts.iter().any(|count| {
            let mark = |partition| count.marks.get(&partition).is_some_and(|mark| mark.has(seq));
            seq <= count.last() && mark(partition_of(task, count.partitions))
        })
    }

    /// No event below that one waits: marks that speak of no other are forgotten.
    pub(super) fn forget_below(&mut self, first_waiting: u64) {
        let in_use = self.counts.len().saturating_sub(1);
        let mut index = 0;
        self.counts.retain(|count| {
            index += 1;
            index > in_use || count.last() >= first_waiting
        });
    }
}

/// The partition of a task's events.
pub(crate) fn partition_of(task: Uuid, partitions: i32) -> i32 {
    let mut key = [0; uuid::fmt::Hyphenated::LENGTH];
    let key = task.hyphenated().encode_lower(&mut key);
    partition_for_key(key.as_bytes(), partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A task for each of the partitions, by that count.
    fn task_in(partition: i32, partitions: i32) -> Uuid {
        (0..).map(Uuid::from_u128).find(|task| partition_of(*task, partitions) == partition).unwrap()
    }

    #[test]
    fn what_is_scattered_is_delivered_and_what_is_between_is_not() {
        let mut marks = Marks::default();
        marks.set_partitions(3);
        let (one, two) = (task_in(1, 3), task_in(2, 3));
        assert_eq!(marks.deliver(1, &[2, 3], &[7, 9]), [2, 3, 7, 9]);
        let delivered: Vec<u64> = (1..12).filter(|seq| marks.is_delivered(*seq, one)).collect();
        assert_eq!(delivered, [1, 2, 3, 7, 9]);
        assert!(!marks.is_delivered(2, two), "of another partition");
        assert_eq!(marks.deliver(1, &[3, 5], &[7]), [5], "none is counted twice");
        assert_eq!(marks.deliver(1, &[6, 8], &[]), [6, 8]);
        assert!((1..=9).all(|seq| marks.is_delivered(seq, one)) && !marks.is_delivered(10, one));
        assert_eq!(marks.counts[0].marks[&1], Mark { through: 8, beyond: [9].into() });
    }

    #[test]
    fn marks_of_a_former_count_hold_until_nothing_of_theirs_waits() {
        let mut marks = Marks::default();
        marks.set_partitions(2);
        let (down, up) = (task_in(0, 2), task_in(1, 2));
        marks.deliver(1, &[2, 4, 10], &[]);
        marks.set_partitions(5);
        assert!(marks.is_delivered(10, up) && !marks.is_delivered(3, down));
        let partition = partition_of(down, 5);
        assert_eq!(marks.deliver(partition, &[1, 3], &[]), [1, 3]);
        marks.forget_below(5);
        assert!(marks.is_delivered(10, up), "10 may be behind one that waits");
        marks.forget_below(11);
        assert_eq!(marks.counts.len(), 1);
        assert!(marks.is_delivered(3, down));
        marks.set_partitions(2);
        marks.set_partitions(5);
        assert_eq!(marks.counts.len(), 2, "a count that was never used leaves nothing");
    }
}
