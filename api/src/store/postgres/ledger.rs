//! The events that this process holds for publishing: pulled from the outbox and not yet deleted there.
//!
//! # Invariants
//!
//! 1. They have numbers of their own, which rise in the order in which they were pulled and are never given again in
//!    this process: what a lane of an earlier turn reports late names nothing.
//! 2. For one task that order is the order of its changes: a later change has a higher sequence number, and is visible
//!    only after the earlier one.
//! 3. It is known of each partition whether all its events are here that are visible: only then a lane may take those in
//!    its window for all that may be in the topic already.
//! 4. Of a task's events none passes one before it that cannot be read: they wait until that is repaired or removed, or
//!    another replica, which can read it, has the turn.
//! 5. Memory is bounded: a partition that is not published to has its share, and the others theirs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use uuid::Uuid;

use super::super::delivery::{Delivered, OutboxEntry, PublishedTopic};
use super::super::failure::Unreadable;
use super::super::outbox::OutboxScan;

/// Events of all partitions, about: more than the relay has in its windows.
const ALL_EVENTS: usize = 16_000;
/// Of one partition, at least and at most.
const MIN_EVENTS: usize = 64;
const MAX_EVENTS: usize = 4_000;
/// Tasks of which an event cannot be read: beyond that it is this program that cannot read them, and the turn is another's.
pub(super) const MAX_BLOCKED: usize = 1_000;

/// An event as it was pulled.
#[derive(Debug)]
pub(in crate::store) struct Pulled {
    pub(in crate::store) seq: i64,
    pub(super) event_id: Uuid,
    pub(super) hash: i32,
    pub(in crate::store) entry: Result<OutboxEntry, Unreadable>,
}

/// A row of the outbox: the number alone may name another event after the database went back in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) seq: i64,
    pub(super) event_id: Uuid,
}

#[derive(Debug)]
struct Held {
    row: Row,
    hash: i32,
    entry: Arc<OutboxEntry>,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    last: u64,
    held: BTreeMap<u64, Held>,
    /// What cannot be read, by the hash of its task's key: later events with the same hash are not here either.
    blocked: BTreeMap<i32, Unreadable>,
    topic: Option<PublishedTopic>,
    positions: BTreeMap<i32, i64>,
    /// The outbox may have more events of any partition than are here; or of these.
    more_of_all: bool,
    more: HashSet<i32>,
}

impl Ledger {
    /// A turn begins, with what the database says.
    pub(super) fn begin(&mut self, topic: Option<PublishedTopic>, positions: BTreeMap<i32, i64>) {
        self.end();
        self.topic = topic;
        self.positions = positions;
    }

    /// A turn is over: what is held is void.
    pub(super) fn end(&mut self) {
        self.held.clear();
        self.blocked.clear();
        self.topic = None;
        self.positions.clear();
        self.more_of_all = true;
        self.more.clear();
    }

    pub(super) fn topic(&self) -> Option<PublishedTopic> {
        self.topic
    }

    pub(super) fn positions(&self) -> Vec<(i32, i64)> {
        self.positions.iter().map(|(partition, position)| (*partition, *position)).collect()
    }

    pub(super) fn publish_to(&mut self, topic: PublishedTopic) {
        if self.topic.is_some_and(|before| topic.is_another_than(&before)) {
            self.positions.clear();
        }
        self.topic = Some(topic);
        // By another count, perhaps.
        self.more_of_all = true;
    }

    /// Whether the events of the partition below that number are all that are visible.
    pub(super) fn has_all(&self, partition: i32, below: u64) -> bool {
        below > self.last && !self.more_of_all && !self.more.contains(&partition)
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// The rows that are here already.
    pub(super) fn seqs(&self) -> Vec<i64> {
        self.held.values().map(|held| held.row.seq).collect()
    }

    /// The hashes of which no events are pulled.
    pub(super) fn blocked(&self) -> Vec<i32> {
        self.blocked.keys().copied().collect()
    }

    /// What could not be read is looked at again: in order, so what follows it is blocked again if need be.
    pub(super) fn retry_blocked(&mut self) {
        self.blocked.clear();
    }

    /// By how many partitions, and which of them have as many events as they may.
    pub(super) fn full(&self) -> (i32, Vec<i32>) {
        let partitions = self.topic.map_or(1, |topic| topic.partitions.max(1));
        let share = ALL_EVENTS / usize::try_from(partitions).unwrap_or(1);
        let share = share.clamp(MIN_EVENTS, MAX_EVENTS);
        let mut counts: HashMap<i32, usize> = HashMap::new();
        for held in self.held.values() {
            *counts.entry(held.hash % partitions).or_default() += 1;
        }
        let full = counts.into_iter().filter(|(_, count)| *count >= share).map(|(partition, _)| partition);
        (partitions, full.collect())
    }

    /// Takes what was pulled, in order: up to a limit or not, and without these partitions by that count. Returns whether
    /// there are partitions of which all is here from now on.
    pub(super) fn take(
        &mut self,
        events: Vec<Pulled>,
        is_limited: bool,
        partitions: i32,
        without: &[i32],
    ) -> bool {
        let is_present = self.topic.is_none_or(|topic| topic.partitions == partitions) || without.is_empty();
        let more_of_all = is_limited || !is_present;
        let more: HashSet<i32> = without.iter().copied().collect();
        let is_news =
            (self.more_of_all && !more_of_all) || self.more.iter().any(|known| !more.contains(known));
        (self.more_of_all, self.more) = (more_of_all, more);
        for Pulled { seq, event_id, hash, entry } in events {
            if self.blocked.contains_key(&hash) {
                continue;
            }
            match entry {
                Ok(mut entry) => {
                    self.last += 1;
                    entry.seq = self.last;
                    let held = Held { row: Row { seq, event_id }, hash, entry: Arc::new(entry) };
                    self.held.insert(self.last, held);
                }
                Err(unreadable) => drop(self.blocked.insert(hash, unreadable)),
            }
        }
        is_news
    }

    /// Whether a report is about the topic that events go to.
    pub(super) fn counts(&self, delivered: &Delivered) -> bool {
        self.topic.is_none_or(|topic| topic == delivered.topic)
    }

    /// The rows of these numbers; those that are not held any more have none.
    pub(super) fn rows<'a>(&self, numbers: impl IntoIterator<Item = &'a u64>) -> Vec<Row> {
        numbers.into_iter().filter_map(|number| self.held.get(number)).map(|held| held.row).collect()
    }

    /// They are deleted. Returns how many they were.
    pub(super) fn delivered(&mut self, delivered: &Delivered) -> usize {
        if let Some(position) = delivered.position {
            self.positions.insert(delivered.partition, position);
        }
        let numbers = delivered.seqs.iter().chain(&delivered.scattered);
        numbers.filter(|number| self.held.remove(number).is_some()).count()
    }

    pub(super) fn scan(
        &self,
        from: u64,
        limit: usize,
        mut wanted: impl FnMut(u64, Uuid) -> bool,
    ) -> OutboxScan {
        let mut scan = OutboxScan { next: from, ..OutboxScan::default() };
        let mut seen = 0;
        for (number, held) in self.held.range(from..).take(limit) {
            seen += 1;
            scan.next = number + 1;
            if wanted(*number, held.entry.event.data.task_id) {
                scan.entries.push(Arc::clone(&held.entry));
            }
        }
        scan.is_end = seen < limit;
        if from <= 1 {
            scan.unreadable = self.blocked.values().cloned().collect();
        }
        scan
    }
}
