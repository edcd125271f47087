//! The window of one partition: the events that were read from the outbox and are not yet known to be in
//! the topic, in order. The dispatcher fills it, the lane empties it.
//!
//! What may have been sent and not acknowledged is always in the window, so its capacity bounds what has to
//! be looked for in the topic after doubt; also after a restart, once the window is loaded again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use crate::store::OutboxEntry;

/// Largest request, in bytes, unless a single event is larger: half of Kafka's default max.message.bytes.
pub(super) const REQUEST_BYTES: usize = 512 * 1024;
/// What a record costs beside its JSON, about: key, headers, framing.
const RECORD_OVERHEAD: usize = 500;

#[derive(Debug)]
pub(super) struct Window {
    capacity: usize,
    inner: Mutex<Inner>,
    /// For the lane.
    changed: Notify,
    /// For the dispatcher: some window has more room, or is out of doubt.
    freed: Arc<Notify>,
}

#[derive(Debug)]
struct Inner {
    entries: VecDeque<Arc<OutboxEntry>>,
    /// It was full once, or the whole outbox has been looked at: what may have been sent before is in it.
    is_loaded: bool,
    /// Nothing is to be sent for the time being.
    is_held: bool,
    /// Since when something may have been sent of which the fate is unknown.
    in_doubt: Option<Instant>,
}

impl Window {
    pub(super) fn new(capacity: usize, in_doubt: bool, freed: Arc<Notify>) -> Self {
        let in_doubt = in_doubt.then(Instant::now);
        let inner = Inner { entries: VecDeque::new(), is_loaded: false, is_held: false, in_doubt };
        Self { capacity, inner: Mutex::new(inner), changed: Notify::new(), freed }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many more events it takes. Once it was loaded, none until half of it is free, so that the outbox
    /// is read in large parts.
    pub(super) fn room(&self) -> usize {
        let inner = self.inner();
        let free = self.capacity.saturating_sub(inner.entries.len());
        if !inner.is_loaded || free * 2 >= self.capacity { free } else { 0 }
    }

    /// Adds an event that follows those that are there.
    pub(super) fn push(&self, entry: Arc<OutboxEntry>) {
        self.inner().entries.push_back(entry);
        self.changed.notify_one();
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

    pub(super) fn in_doubt(&self) -> bool {
        self.inner().in_doubt.is_some()
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

    /// Returns when there is something to send.
    pub(super) async fn has_something(&self) {
        loop {
            {
                let inner = self.inner();
                if !inner.is_held && !inner.entries.is_empty() {
                    return;
                }
            }
            self.changed.notified().await;
        }
    }

    /// The first events, as many as go into one request of so many bytes, and one at least. From now on it is in
    /// doubt. Empty if it is held.
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
        let request: Vec<_> = inner.entries.iter().take_while(fits).cloned().collect();
        if !request.is_empty() {
            inner.in_doubt.get_or_insert_with(Instant::now);
        }
        request
    }

    /// What was sent before may also be among the events that are still to be loaded.
    pub(super) fn load_again(&self) {
        self.inner().is_loaded = false;
        self.freed.notify_one();
    }

    /// These events are in the topic and out of the outbox.
    pub(super) fn remove(&self, seqs: &[u64]) {
        let seqs: HashSet<u64> = seqs.iter().copied().collect();
        self.inner().entries.retain(|entry| !seqs.contains(&entry.seq));
        self.freed.notify_one();
    }

    /// Nothing was sent of which the fate is unknown.
    pub(super) fn clear_doubt(&self) {
        self.inner().in_doubt = None;
        self.freed.notify_one();
    }
}

/// What these events have in one request, in bytes, about.
pub(super) fn request_size(entries: &[Arc<OutboxEntry>]) -> usize {
    entries.iter().map(|entry| size(entry)).sum()
}

fn size(entry: &OutboxEntry) -> usize {
    entry.json.len() + RECORD_OVERHEAD
}

#[cfg(test)]
mod tests {
    use task_events::event::{TaskData, TaskEvent};

    use super::*;

    fn entry(seq: u64, bytes: usize) -> Arc<OutboxEntry> {
        let data = TaskData {
            task_id: Uuid::nil(),
            title: String::new(),
            status: "pending".to_owned(),
            owner_id: None,
        };
        let event = TaskEvent::task_created(data, Uuid::nil());
        Arc::new(OutboxEntry { seq, event, json: vec![b' '; bytes], traceparent: None })
    }

    fn window(capacity: usize, sizes: &[usize]) -> Window {
        let window = Window::new(capacity, false, Arc::default());
        for (seq, bytes) in (1..).zip(sizes) {
            window.push(entry(seq, *bytes));
        }
        window
    }

    fn seqs(request: &[Arc<OutboxEntry>]) -> Vec<u64> {
        request.iter().map(|entry| entry.seq).collect()
    }

    #[test]
    fn a_request_is_bounded_in_bytes_and_never_empty() {
        let large = REQUEST_BYTES / 2 - RECORD_OVERHEAD;
        assert_eq!(seqs(&window(9, &[large, large, 1]).begin_request(REQUEST_BYTES)), [1, 2]);
        assert_eq!(seqs(&window(9, &[REQUEST_BYTES * 3, 1]).begin_request(REQUEST_BYTES)), [1]);
        assert_eq!(seqs(&window(9, &[1, 1, 1]).begin_request(1)), [1]);
        assert!(window(9, &[]).begin_request(REQUEST_BYTES).is_empty());
    }

    #[test]
    fn what_is_sent_is_in_doubt_until_its_fate_is_known() {
        let window = window(9, &[1, 1]);
        window.hold(true);
        assert!(window.begin_request(1).is_empty() && !window.in_doubt(), "nothing is sent while it is held");
        window.hold(false);
        assert_eq!(seqs(&window.begin_request(1)), [1]);
        assert!(window.in_doubt());
        window.remove(&[1]);
        window.clear_doubt();
        assert!(!window.in_doubt());
        assert_eq!(seqs(&window.begin_request(1)), [2]);
    }

    #[test]
    fn it_is_loaded_to_the_brim_and_then_refilled_in_large_parts() {
        let window = window(4, &[1, 1, 1]);
        assert_eq!(window.room(), 1, "what was sent before has to be in it");
        window.set_loaded(false);
        assert_eq!(window.room(), 1, "it is not full yet");
        window.push(entry(4, 1));
        window.set_loaded(false);
        window.remove(&[1]);
        assert_eq!(window.room(), 0);
        window.remove(&[2]);
        assert_eq!(window.room(), 2);
    }
}
