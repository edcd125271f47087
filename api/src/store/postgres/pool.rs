//! Connections for reading. Requests share them: their statements are sent one behind the other without waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use task_events::backoff::Backoff;
use task_events::database::{DatabaseError, Session, Trouble};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Row;

use super::rows::Parameter;
use super::shared::Shared;

/// Connections for single tasks, and for pages and the outbox: one slow page holds up no task.
const SINGLE: usize = 2;
const PAGES: usize = 2;
/// Time for one attempt to read: longer than the server gives a statement.
const READ_TIMEOUT: Duration = Duration::from_secs(6);
/// Time for all attempts.
const ALL_TIMEOUT: Duration = Duration::from_secs(9);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Single,
    Page,
}

#[derive(Debug, Default)]
pub(super) struct Pool {
    single: [Slot; SINGLE],
    pages: [Slot; PAGES],
    next: AtomicUsize,
}

type Slot = Mutex<Option<Arc<Session>>>;

impl Pool {
    /// Reads rows. A read has no effects, so it is tried again after a lost connection.
    pub(super) async fn read(
        &self,
        shared: &Shared,
        kind: Kind,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, DatabaseError> {
        let (begun, mut backoff) =
            (Instant::now(), Backoff::new(Duration::from_millis(10), Duration::from_millis(500)));
        loop {
            let slots: &[Slot] = if kind == Kind::Single { &self.single } else { &self.pages };
            let next = self.next.fetch_add(1, Ordering::Relaxed) % slots.len().max(1);
            let Some(slot) = slots.get(next) else { return Err(DatabaseError::timeout("read")) };
            let error = match timeout(READ_TIMEOUT, attempt(slot, shared, sql, parameters)).await {
                Ok(Ok(rows)) => return Ok(rows),
                Ok(Err(error)) => error,
                Err(_) => {
                    // What hangs is not used again.
                    if let Ok(mut slot) = slot.try_lock() {
                        *slot = None;
                    }
                    return Err(DatabaseError::timeout("read"));
                }
            };
            let refusal = match error.trouble() {
                // No other connection is to be had.
                Trouble::ReadOnly => shared.health.refusal(),
                _ => shared.health.refusal_of_read(),
            };
            let is_over = begun.elapsed() >= ALL_TIMEOUT || refusal.is_some();
            if !error.ends_session() || is_over {
                return Err(error);
            }
            sleep(backoff.next_delay()).await;
        }
    }
}

async fn attempt(
    slot: &Slot,
    shared: &Shared,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Row>, DatabaseError> {
    let session = {
        let mut slot = slot.lock().await;
        let there = slot.take_if(|session| session.is_closed() || !shared.is_current(session));
        match &*slot {
            Some(session) => Arc::clone(session),
            None => {
                let session = match (shared.connect().await, there.filter(|session| !session.is_closed())) {
                    (Ok(session), _) => Arc::new(session),
                    // Others have all.
                    (Err(error), Some(there)) if error.trouble() == Trouble::Crowded => there,
                    (Err(error), _) => return Err(error),
                };
                *slot = Some(Arc::clone(&session));
                session
            }
        }
    };
    let read = session.query_typed(sql, parameters).await.map_err(DatabaseError::from);
    if read.as_ref().is_err_and(DatabaseError::ends_session) {
        let mut slot = slot.lock().await;
        if slot.as_ref().is_some_and(|there| Arc::ptr_eq(there, &session)) {
            *slot = None;
        }
    }
    read
}
