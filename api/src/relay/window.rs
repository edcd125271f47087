//! The window of one partition: the events that were read from the outbox and are not yet known to be in
//! the topic, in order. The dispatcher fills it, the lane empties it.
//!
//! What may have been sent and not acknowledged is always in the window, so its capacity bounds what has to
//! be looked for in the topic after doubt; also after a restart, once the window is loaded again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::store::OutboxEntry;

/// Largest request, in bytes, unless a single event is larger: half of Kafka's default max.message.bytes.
const REQUEST_BYTES: usize = 512 * 1024;
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
    /// Something may have been sent of which the fate is unknown.
    in_doubt: bool,
}

impl Window {
    pub(super) fn new(capacity: usize, in_doubt: bool, freed: Arc<Notify>) -> Self {
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

    pub(super) fn set_loaded(&self) {
        self.inner().is_loaded = true;
        self.changed.notify_one();
    }

    /// Lets nothing more be sent, or lets it again.
    pub(super) fn hold(&self, hold: bool) {
        self.inner().is_held = hold;
        self.changed.notify_one();
    }

    pub(super) fn in_doubt(&self) -> bool {
        self.inner().in_doubt
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

    /// The first events, as many as go into one request. From now on it is in doubt. Empty if it is held.
    pub(super) fn begin_request(&self, at_most: usize) -> Vec<Arc<OutboxEntry>> {
        let mut inner = self.inner();
        if inner.is_held {
            return Vec::new();
        }
        let mut bytes = 0;
        let fits = |entry: &&Arc<OutboxEntry>| {
            let is_first = bytes == 0;
            bytes += entry.json.len() + RECORD_OVERHEAD;
            is_first || bytes <= REQUEST_BYTES
        };
        let request: Vec<_> = inner.entries.iter().take(at_most).take_while(fits).cloned().collect();
        inner.in_doubt |= !request.is_empty();
        request
    }

    /// These events are in the topic and out of the outbox.
    pub(super) fn remove(&self, seqs: &[u64]) {
        let seqs: HashSet<u64> = seqs.iter().copied().collect();
        self.inner().entries.retain(|entry| !seqs.contains(&entry.seq));
        self.freed.notify_one();
    }

    /// Nothing was sent of which the fate is unknown.
    pub(super) fn clear_doubt(&self) {
        self.inner().in_doubt = false;
        self.freed.notify_one();
    }
}
