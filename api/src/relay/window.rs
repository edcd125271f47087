//! The window of one partition: the events that were read from the outbox and have not left it yet, in order.
//! The dispatcher fills it, the lane empties it.
//!
//! What may have been sent and not acknowledged is always in the window, so its capacity bounds what has to
//! be looked for in the topic after doubt; also after a restart, once the window is loaded again. Events that
//! are acknowledged stay in it until it is on disk that they have left the outbox: until then doubt may come
//! back.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::pace::Pace;
use crate::store::OutboxEntry;

/// Largest request, in bytes, unless a single event is larger: half of Kafka's default max.message.bytes.
pub(super) const REQUEST_BYTES: usize = 512 * 1024;
/// What a record costs beside its value, about: key, headers, framing.
const RECORD_OVERHEAD: usize = 500;

#[derive(Debug)]
pub(super) struct Window {
    capacity: usize,
    inner: Mutex<Inner>,
    /// For the lane.
    changed: Notify,
    /// For the dispatcher: some window has more free space, or has been reconciled.
    freed: Arc<Notify>,
}

#[derive(Debug)]
struct Inner {
    entries: VecDeque<Arc<OutboxEntry>>,
    /// The first so many are in the topic, and it is not on disk yet that they left the outbox.
    acknowledged: usize,
    /// Bytes of the others, as records.
    bytes: usize,
    /// The lane is to be woken by an event that makes more bytes than these.
    wake_above: usize,
    /// It was full once, or the whole outbox has been looked at: what may have been sent before is in it.
    is_loaded: bool,
    /// Nothing is to be sent for the time being.
    is_held: bool,
    /// Since when something may have been sent of which the fate is unknown.
    in_doubt: Option<Instant>,
    /// A request was begun that has no answer, nor was it given up.
    is_in_flight: bool,
}

impl Window {
    pub(super) fn new(capacity: usize, in_doubt: bool, freed: Arc<Notify>) -> Self {
        let in_doubt = in_doubt.then(Instant::now);
        let inner = Inner {
            entries: VecDeque::new(),
            acknowledged: 0,
            bytes: 0,
            wake_above: 0,
            is_loaded: false,
            is_held: false,
            in_doubt,
            is_in_flight: false,
        };
        Self { capacity, inner: Mutex::new(inner), changed: Notify::new(), freed }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many more events it takes. Once it was loaded, none until half of it is free, so that the outbox
    /// is read in large parts.
    pub(super) fn free(&self) -> usize {
        let inner = self.inner();
        let free = self.capacity.saturating_sub(inner.entries.len());
        if !inner.is_loaded || free * 2 >= self.capacity { free } else { 0 }
    }

    /// Adds an event that follows those that are there.
    pub(super) fn push(&self, entry: Arc<OutboxEntry>) {
        let mut inner = self.inner();
        inner.bytes += size(&entry);
        inner.entries.push_back(entry);
        if inner.bytes > inner.wake_above {
            self.changed.notify_one();
        }
    }

    /// It holds what it can hold: it is full, or all of the outbox was read for it.
    pub(super) fn set_loaded(&self, all_was_read: bool) {
        let mut inner = self.inner();
        // Looked at here: it may have been emptied, to be loaded again, since the dispatcher did.
        if all_was_read || inner.entries.len() >= self.capacity {
            inner.is_loaded = true;
            self.changed.notify_one();
        }
    }

    /// Lets nothing more be sent, or lets it again.
    pub(super) fn hold(&self, hold: bool) {
        self.inner().is_held = hold;
        self.changed.notify_one();
    }

    /// Whether something was sent of which the fate is unknown.
    pub(super) fn in_doubt(&self) -> bool {
        self.inner().in_doubt.is_some()
    }

    /// Whether something was sent of which it is not on disk yet what became.
    pub(super) fn is_busy(&self) -> bool {
        let inner = self.inner();
        inner.in_doubt.is_some() || inner.acknowledged > 0
    }

    pub(super) fn in_doubt_for(&self) -> Duration {
        self.inner().in_doubt.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// How many events wait, and since when the oldest does.
    pub(super) fn waiting(&self) -> (usize, Option<DateTime<Utc>>) {
        let inner = self.inner();
        (inner.entries.len(), inner.entries.front().map(|oldest| oldest.event.occurred_at))
    }

    /// All events by id, once it is loaded.
    pub(super) async fn loaded(&self) -> HashMap<Uuid, u64> {
        loop {
            {
                let inner = self.inner();
                if inner.is_loaded {
                    return inner.entries.iter().map(|entry| (entry.event.event_id, entry.seq)).collect();
                }
            }
            self.changed.notified().await;
        }
    }

    /// Returns when there is something to send, and it is time to. `full`: a request of so many bytes waits for no
    /// more events.
    pub(super) async fn due(&self, pace: &Pace, full: usize) {
        loop {
            let left = {
                let mut inner = self.inner();
                let pending = inner.entries.len() - inner.acknowledged;
                if inner.is_held || pending == 0 {
                    inner.wake_above = 0;
                    None
                } else if inner.bytes >= full {
                    return;
                } else {
                    match pace.wait(pending) {
                        Duration::ZERO => return,
                        left => {
                            // Events that come meanwhile only make it wait longer, until it is full.
                            inner.wake_above = full.saturating_sub(1);
                            Some(left)
                        }
                    }
                }
            };
            match left {
                None => self.changed.notified().await,
                Some(left) => drop(timeout(left, self.changed.notified()).await),
            }
        }
    }

    /// The first events that are not acknowledged, as many as go into one request of so many bytes, and one at
    /// least. From now on it is in doubt. Empty if it is held.
    pub(super) fn begin_request(&self, at_most_bytes: usize) -> Vec<Arc<OutboxEntry>> {
        let mut inner = self.inner();
        if inner.is_held {
            return Vec::new();
        }
        let mut bytes = 0;
        let fits = |entry: &&Arc<OutboxEntry>| {
            let is_first = bytes == 0;
            bytes += size(entry);
            is_first || bytes <= at_most_bytes
        };
        let pending = inner.entries.iter().skip(inner.acknowledged);
        let request: Vec<_> = pending.take_while(fits).cloned().collect();
        if !request.is_empty() {
            inner.in_doubt.get_or_insert_with(Instant::now);
            inner.is_in_flight = true;
        }
        request
    }

    /// The request was answered, or given up and its connection closed.
    pub(super) fn end_request(&self) {
        self.inner().is_in_flight = false;
    }

    /// Whether a request is in flight. Stays so where its lane ended before the answer.
    pub(super) fn is_in_flight(&self) -> bool {
        self.inner().is_in_flight
    }

    /// What was sent before may also be among the events that are still to be loaded.
    pub(super) fn load_again(&self) {
        self.inner().is_loaded = false;
        self.freed.notify_one();
    }

    /// The events of the request are in the topic.
    pub(super) fn acknowledge(&self, request: &[Arc<OutboxEntry>]) {
        let mut inner = self.inner();
        inner.acknowledged = (inner.acknowledged + request.len()).min(inner.entries.len());
        inner.bytes = inner.bytes.saturating_sub(request.iter().map(|entry| size(entry)).sum());
        inner.in_doubt = None;
    }

    /// It is on disk that the first acknowledged events, so many, left the outbox.
    pub(super) fn remove_acknowledged(&self, count: usize) {
        let mut inner = self.inner();
        let count = count.min(inner.acknowledged);
        inner.entries.drain(..count);
        inner.acknowledged -= count;
        self.freed.notify_one();
    }

    /// What is acknowledged may still be in the outbox: it has to be found in the topic again.
    pub(super) fn doubt_acknowledged(&self) {
        let mut inner = self.inner();
        if std::mem::take(&mut inner.acknowledged) > 0 {
            inner.in_doubt.get_or_insert_with(Instant::now);
            inner.count_bytes();
        }
    }

    /// These events were found in the topic and are out of the outbox.
    pub(super) fn remove(&self, seqs: &[u64]) {
        let seqs: HashSet<u64> = seqs.iter().copied().collect();
        let mut inner = self.inner();
        inner.entries.retain(|entry| !seqs.contains(&entry.seq));
        inner.count_bytes();
        self.freed.notify_one();
    }

    /// Nothing was sent of which the fate is unknown.
    pub(super) fn clear_doubt(&self) {
        self.inner().in_doubt = None;
        self.freed.notify_one();
    }
}

impl Inner {
    fn count_bytes(&mut self) {
        self.bytes = self.entries.iter().skip(self.acknowledged).map(|entry| size(entry)).sum();
    }
}

/// What these events have in one request, in bytes, about.
pub(super) fn request_size(entries: &[Arc<OutboxEntry>]) -> usize {
    entries.iter().map(|entry| size(entry)).sum()
}

fn size(entry: &OutboxEntry) -> usize {
    entry.payload.len() + RECORD_OVERHEAD
}

#[cfg(test)]
mod tests;
