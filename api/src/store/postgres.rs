//! The store in PostgreSQL: any number of API replicas share it, behind any load balancer.
//!
//! ```text
//! mutate ──> queue ──> writers ──> one transaction for a group ──> answer
//!                                        │ NOTIFY
//! relay <── ledger <── puller <── outbox ┘         keeper: the relay's turn, deletions
//! ```
//!
//! | part | what |
//! | --- | --- |
//! | `writer`, `group`, `statements` | groups of changes: deciding them, and their two flights |
//! | `pace` | how many groups there are under load |
//! | `turn`, `keeper`, `handover` | which replica publishes, what it reports, and how it gives that up |
//! | `puller`, `ledger` | the events that it holds |
//! | `pool`, `reads` | reading tasks and the outbox |
//! | `housekeeping`, `health` | what is done now and then; whether changes are taken |
//! | `shared`, `rows` | what the tasks share; rows as values |
//!
//! # Invariants
//!
//! 1. *The same store.* What a caller sees is what the embedded store shows: one suite and one model test run against
//!    both (`api/tests`).
//! 2. *One transaction.* A change, its events and its stored answer are committed together, before the answer is
//!    sent; with `synchronous_commit` and `fsync` as they are by default, on disk.
//! 3. *Order.* The sequence number of an event is drawn while its task's row is locked. The outbox is read from its
//!    start, published and deleted; there is no cursor. So for each task events are published in the order of its
//!    changes, whichever replicas made them.
//! 4. *One publisher* at a time ([`turn`]); one that wakes up after its lease can repeat events, which consumers know,
//!    and change nothing else.
//! 5. *Bounded.* Each replica has at most [`MAX_CONNECTIONS`] connections; each wait has a timeout, here and at the server
//!    ([`task_events::database`]).
//!
//! Lists are in the order of ids, whose first part is the clock of the replica that made the task: replicas are expected
//! to have synchronised clocks, as with NTP. A list shows each task once that was created before its first page was
//! asked for; one that is created while a client pages may be passed by where its id is lower than the cursor.

mod group;
mod handover;
mod health;
mod housekeeping;
mod keeper;
mod ledger;
mod pace;
mod pool;
mod puller;
mod reads;
pub(in crate::store) mod rows;
mod shared;
mod statements;
pub(in crate::store) mod turn;
mod writer;

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use task_events::database::{self, DatabaseError, DatabaseUrl, Session};
use task_events::metrics::Durations;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::delivery::{Delivered, OutboxState, PublishedTopic};
use super::failure::StoreError;
use super::job::MutateResult;
use super::mutation::{Mutation, Outcome};
use super::outbox::OutboxScan;
use crate::event_format::EventFormat;
use crate::reply::Desk;
use handover::Wanted;
use keeper::Report;
use pool::Pool;
use shared::Shared;
use turn::TurnError;
use writer::Waiting;

/// Changes that wait for a writer, at most.
const MAX_QUEUED: usize = 4_096;
/// Writers, each with a connection: while one waits for the disk, the other fills its group.
const WRITERS: usize = 2;
/// Writers, reads (4), the turn, the events, housekeeping, and one for a commit in doubt.
pub const MAX_CONNECTIONS: usize = WRITERS + 8;
/// Reports of the relay that wait.
const MAX_REPORTS: usize = 256;
/// Reads under way, at most; further ones wait.
const MAX_READS: usize = 256;
/// How long a request waits for its change.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

thread_local! {
    /// For the writers' replies to this thread.
    static REPLIES: Desk<MutateResult> = const { Desk::new() };
}

/// The store in PostgreSQL. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Postgres(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Waiting>,
    reports: mpsc::Sender<Report>,
    wanted: watch::Sender<Wanted>,
    pool: Pool,
    reads: Semaphore,
    housekeeping: JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.housekeeping.abort();
    }
}

/// The store's tasks, which end when its last clone is dropped.
#[derive(Debug)]
pub struct Closing(JoinSet<()>);

impl Closing {
    /// Returns when what was queued is committed and the relay's turn is given back, or after that time.
    pub async fn wait(mut self, limit: Duration) {
        if timeout(limit, async { while self.0.join_next().await.is_some() {} }).await.is_err() {
            log::warn!(
                "the database has not answered for {} s: what was under way there is given up; where this replica published, another one does within 6 s",
                limit.as_secs()
            );
        }
    }
}

/// The relay's turn, given back when this is dropped, unless something is in flight then.
#[derive(Debug)]
pub struct TurnGuard {
    wanted: watch::Sender<Wanted>,
    turn: watch::Receiver<Option<Uuid>>,
    term: Option<Uuid>,
    is_in_flight: bool,
}

impl TurnGuard {
    /// Ends when it is not ours any more.
    pub async fn lost(&mut self) {
        let term = self.term;
        // An error: the store is closed.
        let _ = self.turn.wait_for(|turn| *turn != term).await;
    }

    /// Something that was sent has no answer when this is dropped.
    pub(super) fn leave_in_flight(&mut self) {
        self.is_in_flight = true;
    }
}

impl Drop for TurnGuard {
    fn drop(&mut self) {
        self.wanted.send_modify(|wanted| wanted.let_go(self.is_in_flight));
    }
}

impl Postgres {
    /// Starts the store's tasks in this runtime. Until [`open`](Self::open) has succeeded it refuses all that is asked.
    pub(super) async fn start(url: &DatabaseUrl) -> Result<(Self, Closing), DatabaseError> {
        let endpoint = url.endpoint().await?;
        let shared = Arc::new(Shared::new(endpoint, url.place()));
        let (queue, changes) = mpsc::channel(MAX_QUEUED);
        let (reports, reported) = mpsc::channel(MAX_REPORTS);
        let wanted = watch::Sender::<Wanted>::default();
        let mut tasks = JoinSet::new();
        let changes = Arc::new(Mutex::new(changes));
        for _ in 0..WRITERS {
            tasks.spawn(writer::run(Arc::clone(&shared), Arc::clone(&changes)));
        }
        tasks.spawn(keeper::run(Arc::clone(&shared), reported, wanted.subscribe()));
        let housekeeping = tokio::spawn(housekeeping::run(Arc::clone(&shared)));
        let inner = Inner {
            shared,
            queue,
            reports,
            wanted,
            pool: Pool::default(),
            reads: Semaphore::new(MAX_READS),
            housekeeping,
        };
        Ok((Self(Arc::new(inner)), Closing(tasks)))
    }

    /// Connects, has the database checked, and looks at the schema, which is brought up to date where `migrates`.
    pub(super) async fn open(
        &self,
        migrates: bool,
        check: impl AsyncFnOnce(&Session) -> Result<(), DatabaseError>,
    ) -> Result<(), DatabaseError> {
        let shared = &self.0.shared;
        let opened = async {
            let session = shared.connect().await?;
            check(&session).await?;
            database::ensure(&session, migrates).await
        };
        let opened = opened.await;
        shared.set_open(opened.as_ref().map(|_| ()));
        opened.map(|_| ())
    }

    pub(super) fn encode_events_as(&self, format: EventFormat) {
        // The first call counts.
        let _ = self.0.shared.event_format.set(format);
    }

    pub(super) async fn mutate(&self, mutation: Mutation) -> Result<Outcome, StoreError> {
        let shared = &self.0.shared;
        if let Some(failure) = shared.not_open().or_else(|| shared.health.refusal_of_change()) {
            return Err(StoreError::Refused(failure));
        }
        let (reply, answer) = REPLIES.with(Desk::open);
        let waiting = Waiting { mutation: Box::new(mutation), reply, since: Instant::now() };
        self.0.queue.try_send(waiting).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => StoreError::Unavailable("it is closed".to_owned()),
        })?;
        match timeout(CHANGE_TIMEOUT, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(StoreError::Unavailable("it was closed meanwhile".to_owned())),
            Err(_) => Err(StoreError::Slow),
        }
    }

    pub(super) async fn turn(&self) -> TurnGuard {
        self.0.wanted.send_modify(|wanted| wanted.relays += 1);
        let (wanted, turn) = (self.0.wanted.clone(), self.0.shared.turn.subscribe());
        // From now on it is given back, also where this is not waited for any more.
        let mut guard = TurnGuard { wanted, turn, term: None, is_in_flight: false };
        guard.term = guard.turn.wait_for(Option::is_some).await.ok().and_then(|turn| *turn);
        guard
    }

    pub(super) fn may_publish(&self) -> bool {
        let valid_until = *self.0.shared.valid_until.lock().unwrap_or_else(PoisonError::into_inner);
        valid_until.is_some_and(|until| Instant::now() < until)
    }

    pub(super) async fn delivered(&self, delivered: Delivered, is_lazy: bool) -> Result<(), StoreError> {
        let term = *self.0.shared.turn.borrow();
        self.reported(|reply| Report::Delivered { delivered, is_lazy, term, reply }).await
    }

    pub(super) async fn publish_to(&self, topic: PublishedTopic) -> Result<(), StoreError> {
        self.reported(|reply| Report::PublishTo(topic, reply)).await
    }

    async fn reported(
        &self,
        report: impl FnOnce(oneshot::Sender<Result<(), StoreError>>) -> Report,
    ) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        let closed = || StoreError::Unavailable("it is closed".to_owned());
        self.0.reports.send(report(reply)).await.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    pub(super) fn outbox(&self) -> watch::Receiver<OutboxState> {
        self.0.shared.outbox.subscribe()
    }

    pub(super) fn outbox_scan(
        &self,
        from: u64,
        limit: usize,
        wanted: impl FnMut(u64, Uuid) -> bool,
    ) -> OutboxScan {
        self.0.shared.ledger().scan(from, limit, wanted)
    }

    pub(super) fn has_all(&self, partition: i32, below: u64) -> bool {
        self.0.shared.ledger().has_all(partition, below)
    }

    pub(super) fn positions(&self) -> Vec<(i32, i64)> {
        self.0.shared.ledger().positions()
    }

    pub(super) fn published_topic(&self) -> Option<PublishedTopic> {
        self.0.shared.ledger().topic()
    }

    pub(super) fn sent_events(&self) -> u64 {
        self.0.shared.sent.load(Ordering::Relaxed)
    }

    pub(super) fn commits(&self) -> u64 {
        self.0.shared.commits.load(Ordering::Relaxed)
    }

    pub(super) fn appends(&self) -> Durations {
        self.0.shared.flights.durations()
    }

    pub(super) fn failure(&self) -> Option<String> {
        let shared = &self.0.shared;
        shared.not_open().or_else(|| shared.health.failure()).map(|failure| failure.to_string())
    }

    /// Why events wait, also where Kafka takes them.
    pub(super) fn publishing_failure(&self) -> Option<String> {
        self.0.shared.leaves_turn.load(Ordering::Relaxed).then(|| TurnError::Unreadable.to_string())
    }

    pub(super) fn unreadable_values(&self) -> usize {
        self.0.shared.reported.lock().unwrap_or_else(PoisonError::into_inner).count()
    }
}
