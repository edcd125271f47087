//! The events of one partition that are on their way: each task's in their order, one at a time; different tasks beside
//! each other.
//!
//! # Invariants
//!
//! 1. *A task's events arrive in their order*: the next one is sent when the one before was delivered or given up.
//! 2. *An event that fails delays its own task only.* Between two tries it holds no connection.
//! 3. *An event is pending until its end is durable*: its id is in the dedup state, or its dead letter acknowledged. What
//!    is pending holds the position that is committed.
//! 4. *Bounded*: while [`MAX_PENDING`] events or [`MAX_PENDING_BYTES`] are under way, no more are taken.
//! 5. *Closed, it begins no try*: those in flight end as always, and what came of them is kept. What waits is left to the
//!    next owner. Dropped, it sends nothing more.
//! 6. *A pause, or an end, that the endpoint asks for holds for all*: what is answered is heeded before its connection is
//!    another event's, and whoever has one looks once more.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use task_events::kafka::ConsumerRecord;
use task_events::runtime::{GivenUp, HandlerError, Lease};
use tokio::sync::{Notify, SemaphorePermit, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use uuid::Uuid;

use super::exchange::{Message, Outcome, deliver};
use super::shared::{Shared, retry_delay};

/// Events of a partition that are under way, beside those of one batch.
pub(super) const MAX_PENDING: usize = 1_000;
/// The same in bytes: other producers' events may have 256 KiB.
const MAX_PENDING_BYTES: usize = 16 * 1024 * 1024;
/// Time to wait for one of them to end, before the partition says what it waits for.
const ROOM_TIMEOUT: Duration = Duration::from_millis(500);

/// An event to be delivered.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) event_id: Uuid,
    pub(super) task_id: Uuid,
    pub(super) body: Bytes,
    pub(super) record: ConsumerRecord,
}

/// The queue of a partition.
pub(super) struct Queue {
    pending: Arc<Pending>,
    /// One for each task that has events.
    senders: JoinSet<()>,
}

struct Pending {
    shared: Arc<Shared>,
    state: Mutex<State>,
    /// Under which tries begin.
    lease: OnceLock<Lease>,
    /// Something has ended, for the runtime.
    ended: Arc<Notify>,
    /// The same, for who waits for room.
    under_way: watch::Sender<Load>,
}

/// What is under way.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    events: usize,
    bytes: usize,
}

#[derive(Default)]
struct State {
    tasks: HashMap<Uuid, VecDeque<Arc<Item>>>,
    ids: HashSet<Uuid>,
    /// Offsets of what is pending, and the id of each.
    offsets: BTreeMap<i64, Uuid>,
    delivered: Vec<(i64, Uuid)>,
    given_up: Vec<GivenUp>,
    /// Tries that have begun, and of which is not kept yet what came of them.
    in_flight: usize,
    is_closed: bool,
}

/// A try in flight, as long as this value lives.
struct InFlight<'a>(&'a Pending);

/// How an event has ended: where it is given up, the kind of error, the error, and how many further tries there were.
type Failure = Option<(&'static str, String, u32)>;

impl Item {
    fn bytes(&self) -> usize {
        self.body.len() + self.record.value.as_ref().map_or(0, Bytes::len)
    }
}

impl Queue {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let (under_way, _) = watch::channel(Load::default());
        let pending = Pending {
            shared,
            state: Mutex::default(),
            lease: OnceLock::new(),
            ended: Arc::default(),
            under_way,
        };
        Self { pending: Arc::new(pending), senders: JoinSet::new() }
    }

    /// Tries begin under this lease.
    pub(super) fn owned(&self, lease: Lease) {
        // A queue belongs to one ownership.
        let _ = self.pending.lease.set(lease);
    }

    /// Takes an event. One that is on its way already is not sent a second time.
    pub(super) fn push(&mut self, item: Item) {
        while self.senders.try_join_next().is_some() {}
        let mut state = self.pending.lock();
        if !state.ids.insert(item.event_id) {
            return;
        }
        state.offsets.insert(item.record.offset, item.event_id);
        let bytes = item.bytes();
        self.pending.shared.counts.are_pending(1);
        self.pending.under_way.send_modify(|load| {
            load.events += 1;
            load.bytes += bytes;
        });
        let task_id = item.task_id;
        let queue = state.tasks.entry(task_id).or_default();
        queue.push_back(Arc::new(item));
        if queue.len() == 1 {
            drop(state);
            self.senders.spawn(send_all(Arc::clone(&self.pending), task_id));
        }
    }

    /// Begins no further try. Whether none is in flight any more; `ended` tells when to ask again.
    pub(super) fn close(&self) -> bool {
        let mut state = self.pending.lock();
        state.is_closed = true;
        state.in_flight == 0
    }

    /// Told when something has ended.
    pub(super) fn ended(&self) -> Arc<Notify> {
        Arc::clone(&self.pending.ended)
    }

    /// The offset of the first event that is pending.
    pub(super) fn first_pending(&self) -> Option<i64> {
        self.pending.lock().offsets.first_key_value().map(|(offset, _)| *offset)
    }

    /// Those that were delivered, and whose ids are not durable yet.
    pub(super) fn delivered(&self) -> Vec<(i64, Uuid)> {
        self.pending.lock().delivered.clone()
    }

    /// Their ids are durable.
    pub(super) fn are_durable(&self, delivered: &[(i64, Uuid)]) {
        let mut state = self.pending.lock();
        state.delivered.drain(..delivered.len());
        for (offset, id) in delivered {
            state.end(*offset, id);
        }
    }

    /// Those that are given up, to be put into the DLQ.
    pub(super) fn take_given_up(&self) -> Vec<GivenUp> {
        std::mem::take(&mut self.pending.lock().given_up)
    }

    /// The dead letter of that event is acknowledged.
    pub(super) fn is_dead_letter(&self, given_up: &GivenUp) {
        self.pending.lock().end(given_up.record.offset, &given_up.event_id);
    }

    /// Waits until more may be taken; an error says what is waited for. Closed, it takes no more.
    pub(super) async fn room(&self) -> Result<(), HandlerError> {
        if self.pending.lock().is_closed {
            return Ok(());
        }
        let mut under_way = self.pending.under_way.subscribe();
        let has_room = |load: &Load| load.events < MAX_PENDING && load.bytes < MAX_PENDING_BYTES;
        if timeout(ROOM_TIMEOUT, under_way.wait_for(has_room)).await.is_ok() {
            return Ok(());
        }
        let why = self.pending.shared.last_failure();
        let (events, tasks) = (under_way.borrow().events, self.pending.lock().tasks.len());
        let why = format!("{events} events of {tasks} tasks wait for WEBHOOK_URL: {why}");
        Err(HandlerError::new("webhook", why))
    }
}

/// The partition is another instance's, or the process ends.
impl Drop for Pending {
    fn drop(&mut self) {
        self.shared.counts.are_pending_no_more(self.under_way.borrow().events);
    }
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection, under a valid lease.
    async fn connection(&self) -> Option<SemaphorePermit<'_>> {
        loop {
            let connection = self.shared.connections.acquire().await.ok()?;
            match self.lease.get() {
                Some(lease) if !lease.is_valid() => {
                    drop(connection);
                    lease.valid().await;
                }
                _ => return Some(connection),
            }
        }
    }

    /// Begins a try, unless the queue is closed.
    fn begin(&self) -> Option<InFlight<'_>> {
        let mut state = self.lock();
        if state.is_closed {
            return None;
        }
        state.in_flight += 1;
        Some(InFlight(self))
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let is_closed = {
            let mut state = self.0.lock();
            state.in_flight -= 1;
            state.is_closed
        };
        if is_closed {
            self.0.ended.notify_one();
        }
    }
}

impl State {
    fn end(&mut self, offset: i64, id: &Uuid) {
        self.offsets.remove(&offset);
        self.ids.remove(id);
    }
}

/// Sends the events of a task until there is none, or the queue is closed.
async fn send_all(pending: Arc<Pending>, task_id: Uuid) {
    loop {
        let front = pending.lock().tasks.get(&task_id).and_then(|queue| queue.front().cloned());
        let Some(item) = front else { return };
        let Some((in_flight, failure)) = send(&pending, &item).await else { return };
        pending.shared.counts.ended(failure.is_none());
        pending.shared.counts.are_pending_no_more(1);
        let mut state = pending.lock();
        pending.under_way.send_modify(|load| {
            load.events -= 1;
            load.bytes -= item.bytes();
        });
        match failure {
            None => state.delivered.push((item.record.offset, item.event_id)),
            Some((kind, message, retry_count)) => {
                let (record, event_id) = (item.record.clone(), item.event_id);
                state.given_up.push(GivenUp { event_id, record, kind, message, retry_count });
            }
        }
        let is_last = state.tasks.get_mut(&task_id).is_none_or(|queue| {
            queue.pop_front();
            queue.is_empty()
        });
        if is_last {
            state.tasks.remove(&task_id);
        }
        drop(state);
        // Only now: who asks whether any is in flight finds what came of this one.
        drop(in_flight);
        pending.ended.notify_one();
        if is_last {
            return;
        }
    }
}

/// Sends an event until it is delivered, or given up; the try that was the last is in flight still. `None`: the queue
/// is closed.
async fn send<'a>(pending: &'a Pending, item: &Item) -> Option<(InFlight<'a>, Failure)> {
    let shared = &pending.shared;
    let id = item.event_id.to_string();
    let message = Message { id: &id, body: &item.body };
    let (mut tries, mut parked) = (0, None);
    loop {
        while let Some(until) = shared.paused_until() {
            sleep_until(until).await;
        }
        let connection = pending.connection().await?;
        // Others were answered while this one waited for a connection.
        if shared.paused_until().is_some() {
            continue;
        }
        let in_flight = pending.begin()?;
        let outcome = match shared.is_gone() {
            true => Outcome::Gone,
            false => {
                let (secrets, start) = (shared.secrets.current(), Instant::now());
                let outcome = deliver(&shared.endpoint, &secrets, &message).await;
                shared.counts.tried(&outcome, start.elapsed());
                shared.heed(&outcome);
                outcome
            }
        };
        drop(connection);
        tries += 1;
        let (why, pause) = match outcome {
            Outcome::Delivered => {
                shared.works();
                return Some((in_flight, None));
            }
            Outcome::Gone => {
                let why = "the endpoint is gone: it answered 410".to_owned();
                return Some((in_flight, Some(("webhook_gone", why, tries - 1))));
            }
            Outcome::Failed(why) => (why, Duration::ZERO),
            Outcome::Paused(pause, why) => (why, pause),
        };
        shared.failed(&why);
        if tries >= shared.tries.get() {
            return Some((in_flight, Some(("webhook", why, tries - 1))));
        }
        drop(in_flight);
        parked.get_or_insert_with(|| shared.counts.park());
        let delay = retry_delay(tries).max(pause);
        log::debug!(
            "webhook of {id}: try {tries} of {}: {why}; again in {} s",
            shared.tries,
            delay.as_secs()
        );
        sleep(delay).await;
    }
}
