//! What the tasks of the store share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use task_events::database::{self, DatabaseError, Endpoint, ServerProcess, Session};
use task_events::metrics::Histogram;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use uuid::Uuid;

use super::super::change::TaskIds;
use super::super::delivery::OutboxState;
use super::super::failure::{Reported, Unreadable, WriteFailure};
use super::health::Health;
use super::ledger::Ledger;
use super::pace::{Calls, Flying};
use crate::event_format::EventFormat;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) endpoint: Endpoint,
    /// Host and database, for people.
    pub(super) place: String,
    /// To which the newest connection leads.
    server: Mutex<Option<ServerProcess>>,
    /// This process among the replicas.
    pub(super) me: Uuid,
    /// Why the database is not used yet: its schema was not seen.
    not_open: watch::Sender<Option<WriteFailure>>,
    pub(super) health: Health,
    pub(super) event_format: OnceLock<EventFormat>,
    pub(super) ids: Mutex<TaskIds>,
    pub(super) reported: Mutex<Reported>,
    pub(super) outbox: watch::Sender<OutboxState>,
    /// Events that this process took out of the outbox.
    pub(super) sent: AtomicU64,
    /// Groups on their way to the database.
    pub(super) flying: Flying,
    /// Of another replica's relay.
    pub(super) calls: Calls,
    pub(super) commits: AtomicU64,
    pub(super) flights: Histogram,
    /// The term of the relay's turn that this process has, if it has it.
    pub(super) turn: watch::Sender<Option<Uuid>>,
    /// Until when that is surely its own.
    pub(super) valid_until: Mutex<Option<Instant>>,
    /// More events than it may leave out cannot be read here: it leaves the turn to other replicas.
    pub(super) leaves_turn: AtomicBool,
    /// For the task that pulls events: there may be more.
    pub(super) wake: Arc<Notify>,
    pub(super) ledger: Mutex<Ledger>,
}

impl Shared {
    pub(super) fn new(endpoint: Endpoint, place: String) -> Self {
        Self {
            endpoint,
            not_open: watch::Sender::new(Some(WriteFailure::not_open(&place))),
            place,
            server: Mutex::default(),
            me: Uuid::new_v4(),
            health: Health::default(),
            event_format: OnceLock::new(),
            ids: Mutex::new(TaskIds::after(None)),
            reported: Mutex::default(),
            outbox: watch::Sender::default(),
            sent: AtomicU64::new(0),
            flying: Flying::default(),
            calls: Calls::default(),
            commits: AtomicU64::new(0),
            flights: Histogram::default(),
            turn: watch::Sender::default(),
            valid_until: Mutex::default(),
            leaves_turn: AtomicBool::default(),
            wake: Arc::default(),
            ledger: Mutex::default(),
        }
    }

    pub(super) async fn connect(&self) -> Result<Session, DatabaseError> {
        let session = database::connect(&self.endpoint, None).await?;
        let server = session.server();
        let before = self.server.lock().unwrap_or_else(PoisonError::into_inner).replace(server);
        if before.is_some_and(|before| before != server) {
            log::info!(
                "the {} is another server process than before: connections to that one are given up",
                self.place
            );
        }
        Ok(session)
    }

    /// Why the database is not used yet.
    pub(super) fn not_open(&self) -> Option<WriteFailure> {
        self.not_open.borrow().clone()
    }

    /// From now on it is used; or it is known why not yet.
    pub(super) fn set_open(&self, opened: Result<(), &DatabaseError>) {
        self.not_open.send_replace(opened.err().map(|error| WriteFailure::of_database(&self.place, error)));
    }

    /// Returns once it is used.
    pub(super) async fn open(&self) {
        // The sender is this value's own.
        let _ = self.not_open.subscribe().wait_for(Option::is_none).await;
    }

    /// Whether a connection leads where the newest one does: after a failover the former server may go on to answer.
    pub(super) fn is_current(&self, session: &Session) -> bool {
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) == Some(session.server())
    }

    pub(super) fn event_format(&self) -> EventFormat {
        self.event_format.get().copied().unwrap_or_default()
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn report(&self, unreadable: &Unreadable) {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner).report(unreadable);
    }

    pub(super) fn has_turn(&self) -> bool {
        self.turn.borrow().is_some()
    }

    pub(super) fn set_waiting(&self, waiting: u64) {
        self.outbox.send_if_modified(|state| std::mem::replace(&mut state.waiting, waiting) != waiting);
    }

    pub(super) fn count_sent(&self, events: usize) {
        self.sent.fetch_add(events as u64, Ordering::Relaxed);
    }
}
