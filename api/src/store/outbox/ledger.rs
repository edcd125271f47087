//! What is known of the outbox: where its events are in the log, which are delivered, and the last ones themselves.
//!
//! # Invariants
//!
//! 1. `waiting` is the number of events that are in the log and not delivered, also after a start: the counts of
//!    each segment are stored with the position up to which the database has the log, and go on from there.
//! 2. A delivery counts each event once, however often it is reported, and only for the topic that is in use.
//! 3. The events in memory are the last ones without a gap, of bounded size: the log has them all.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::super::delivery::{Delivered, OutboxEntry, OutboxState, PublishedTopic};
use super::super::failure::Unreadable;
use super::super::wal::Place;
use super::marks::Marks;

/// Events that are kept in memory for the relay, about, in bytes of JSON. Beyond them it reads the log.
const RECENT_BYTES: usize = 2 << 20;
/// What an event takes beside its JSON, about.
const EVENT_OVERHEAD: usize = 400;
/// Distance of the places that are remembered within a segment, in bytes.
const BETWEEN_PLACES: u64 = 64 * 1024;

/// What is stored of the outbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct Stored {
    /// The highest sequence number that was ever given.
    pub(in crate::store) last_seq: u64,
    pub(in crate::store) topic: Option<PublishedTopic>,
    /// Partition → the offset behind the last event that is known to be in it.
    pub(in crate::store) positions: BTreeMap<i32, i64>,
    marks: Marks,
    /// By the first event of each segment that has one that waits, or is still written to.
    extents: BTreeMap<u64, Extent>,
}

/// The events of a segment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct Extent {
    pub(in crate::store) segment: u64,
    /// The last of its events.
    pub(in crate::store) last: u64,
    /// How many of them wait.
    pub(in crate::store) waiting: u64,
    /// Some events and their offsets, rising.
    #[serde(skip)]
    places: Vec<(u64, u64)>,
}

#[derive(Debug, Default)]
pub(in crate::store) struct Ledger {
    stored: Stored,
    waiting: u64,
    recent: VecDeque<Arc<OutboxEntry>>,
    recent_bytes: usize,
    /// Events of a former version's table that cannot be read: they wait for ever.
    unreadable: Vec<Unreadable>,
}

/// Where to read an event.
#[derive(Debug, Clone)]
pub(in crate::store) enum Source {
    /// Nothing waits from there on.
    Nowhere,
    /// In memory.
    Memory(Vec<Arc<OutboxEntry>>),
    /// In a segment, up to its last event.
    Log { place: Place, first: u64, last: u64 },
}

impl Stored {
    /// From now on events go there.
    pub(in crate::store) fn publish_to(&mut self, topic: PublishedTopic) {
        if self.topic.is_some_and(|before| topic.is_another_than(&before)) {
            self.positions.clear();
        }
        self.topic = Some(topic);
        self.marks.set_partitions(topic.partitions);
    }
}

impl Ledger {
    pub(in crate::store) fn from_stored(stored: Stored) -> Self {
        let waiting = stored.extents.values().map(|extent| extent.waiting).sum();
        Self { stored, waiting, ..Self::default() }
    }

    /// What is to be stored with the changes up to here.
    pub(in crate::store) fn stored(&self) -> Stored {
        self.stored.clone()
    }

    pub(in crate::store) fn state(&self) -> OutboxState {
        let waiting = self.waiting + self.unreadable.len() as u64;
        OutboxState { last_seq: self.stored.last_seq, waiting }
    }

    pub(in crate::store) fn topic(&self) -> Option<PublishedTopic> {
        self.stored.topic
    }

    pub(in crate::store) fn positions(&self) -> Vec<(i32, i64)> {
        self.stored.positions.iter().map(|(partition, offset)| (*partition, *offset)).collect()
    }

    pub(in crate::store) fn set_unreadable(&mut self, unreadable: Vec<Unreadable>) {
        self.unreadable = unreadable;
    }

    pub(in crate::store) fn unreadable(&self) -> &[Unreadable] {
        &self.unreadable
    }

    /// So many events are in the log, in a frame that begins there.
    pub(in crate::store) fn add(&mut self, place: Place, first: u64, count: u64) {
        if count == 0 {
            return;
        }
        let last = first + count - 1;
        let is_same = |extent: &Extent| extent.segment == place.segment;
        if !self.stored.extents.last_key_value().is_some_and(|(_, extent)| is_same(extent)) {
            let extent = Extent { segment: place.segment, ..Extent::default() };
            self.stored.extents.insert(first, extent);
        }
        if let Some(mut entry) = self.stored.extents.last_entry() {
            let extent = entry.get_mut();
            extent.last = last;
            extent.waiting += count;
            let is_far = |(_, offset): &(u64, u64)| offset + BETWEEN_PLACES <= place.offset;
            if extent.places.last().is_none_or(is_far) {
                extent.places.push((first, place.offset));
            }
        }
        self.waiting += count;
        self.stored.last_seq = self.stored.last_seq.max(last);
    }

    /// Events that follow those in memory.
    pub(in crate::store) fn remember(&mut self, entries: impl Iterator<Item = Arc<OutboxEntry>>) {
        for entry in entries {
            self.recent_bytes += size(&entry);
            self.recent.push_back(entry);
        }
        while self.recent_bytes > RECENT_BYTES {
            let Some(oldest) = self.recent.pop_front() else { break };
            self.recent_bytes -= size(&oldest);
        }
    }

    /// Takes delivered events out.
    pub(in crate::store) fn deliver(&mut self, delivered: &Delivered) {
        if self.stored.topic.is_some_and(|topic| topic != delivered.topic) {
            return;
        }
        if let Some(position) = delivered.position {
            self.stored.positions.insert(delivered.partition, position);
        }
        let Delivered { partition, seqs, scattered, .. } = delivered;
        for seq in self.stored.marks.deliver(*partition, seqs, scattered) {
            let Some((_, extent)) = self.stored.extents.range_mut(..=seq).next_back() else { continue };
            if seq <= extent.last && extent.waiting > 0 {
                extent.waiting -= 1;
                self.waiting -= 1;
            }
        }
        self.forget();
    }

    /// From now on events go there.
    pub(in crate::store) fn publish_to(&mut self, topic: PublishedTopic) {
        self.stored.publish_to(topic);
    }

    /// The log is gone, and what waited in it: how many events.
    pub(in crate::store) fn lose_all(&mut self) -> u64 {
        self.stored.extents.clear();
        std::mem::take(&mut self.waiting)
    }

    fn forget(&mut self) {
        if self.waiting == 0 {
            self.recent = VecDeque::new();
            self.recent_bytes = 0;
        }
        // The last one is still written to.
        let last = self.stored.extents.last_key_value().map(|(first, _)| *first);
        while let Some(entry) = self.stored.extents.first_entry()
            && entry.get().waiting == 0
            && Some(*entry.key()) != last
        {
            entry.remove();
        }
        self.stored.marks.forget_below(self.first_waiting());
    }

    /// No event before this one waits.
    pub(in crate::store) fn first_waiting(&self) -> u64 {
        let waiting = |(_, extent): &(&u64, &Extent)| extent.waiting > 0;
        let first = self.stored.extents.iter().find(waiting).map(|(first, _)| *first);
        first.unwrap_or(self.stored.last_seq + 1)
    }

    /// The segments of which events wait.
    pub(in crate::store) fn needed_segments(&self) -> impl Iterator<Item = u64> {
        self.stored.extents.values().filter(|extent| extent.waiting > 0).map(|extent| extent.segment)
    }

    /// Whether events of the segment wait.
    pub(in crate::store) fn is_needed(&self, segment: u64) -> bool {
        self.needed_segments().any(|needed| needed == segment)
    }

    pub(in crate::store) fn is_delivered(&self, seq: u64, task: Uuid) -> bool {
        self.stored.marks.is_delivered(seq, task)
    }

    /// Where to read the events from that number on, at most so many of them.
    pub(in crate::store) fn source(&self, from: u64, limit: usize) -> Source {
        let in_memory = self.stored.last_seq + 1 - self.recent.len() as u64;
        let mut extents = self.stored.extents.iter().skip_while(|(_, extent)| extent.last < from);
        let Some((first, extent)) = extents.find(|(_, extent)| extent.waiting > 0) else {
            return Source::Nowhere;
        };
        let from = from.max(*first);
        if from >= in_memory {
            let skipped = usize::try_from(from - in_memory).unwrap_or(usize::MAX);
            return Source::Memory(self.recent.iter().skip(skipped).take(limit).cloned().collect());
        }
        let known = extent.places.partition_point(|(seq, _)| *seq <= from);
        let place = known.checked_sub(1).and_then(|index| extent.places.get(index));
        let offset = place.map_or(super::super::wal::files::FIRST_FRAME, |(_, offset)| *offset);
        let place = Place { segment: extent.segment, offset };
        Source::Log { place, first: from, last: extent.last.min(in_memory - 1) }
    }

    /// That event is in a frame there: to be found again.
    pub(in crate::store) fn found(&mut self, seq: u64, place: Place) {
        let Some((_, extent)) = self.stored.extents.range_mut(..=seq).next_back() else { return };
        if extent.segment != place.segment {
            return;
        }
        let at = extent.places.partition_point(|(known, _)| *known <= seq);
        let before = at.checked_sub(1).and_then(|before| extent.places.get(before));
        if before.is_none_or(|(_, offset)| offset + BETWEEN_PLACES <= place.offset) {
            extent.places.insert(at, (seq, place.offset));
        }
    }
}

fn size(entry: &OutboxEntry) -> usize {
    entry.payload.len() + EVENT_OVERHEAD
}
