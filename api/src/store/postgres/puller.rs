//! Pulls events from the outbox into the ledger while this process has the relay's turn.
//!
//! There is no cursor: an event with a lower number may become visible after one with a higher number. Each pull asks
//! for the first rows that are not here yet. It is woken by commits (of this process directly, of others by NOTIFY,
//! where the connection is not one of a pooler) and looks every [`POLL_EVERY`] in any case.

use std::sync::Arc;
use std::time::Duration;

use task_events::database::{self, Session};
use tokio::time::{Instant, sleep, timeout};

use super::health::Reminder;
use super::ledger::MAX_BLOCKED;
use super::shared::Shared;
use super::statements::LISTEN;
use super::turn::{Term, TurnError, Without};

/// How often the outbox is looked at where nothing tells of an event.
const POLL_EVERY: Duration = Duration::from_millis(50);
/// Time for one pull, where it passes over events: then it begins again, with what was found.
const PULL_TIMEOUT: Duration = Duration::from_secs(60);
/// After a pull that takes longer there is a pause as long.
const SLOW_PULL: Duration = Duration::from_millis(50);
/// How often events are looked at again that could not be read: they may have been repaired, or removed.
const RETRY_BLOCKED_EVERY: Duration = Duration::from_secs(10);
/// After several events at once the next look waits: under load each commit would ask for one.
const PULL_PAUSE: Duration = Duration::from_millis(3);

/// Pulls until the turn is another's, or has to be.
pub(super) async fn run(shared: Arc<Shared>, term: Term) -> TurnError {
    let (mut session, mut reminder): (Option<Session>, _) = (None, Reminder::default());
    let mut retried = Instant::now();
    loop {
        if retried.elapsed() >= RETRY_BLOCKED_EVERY {
            shared.ledger().retry_blocked();
            retried = Instant::now();
        }
        match pull_all(&shared, &mut session, &term).await {
            Ok(found) => {
                reminder = Reminder::default();
                if found > 1 {
                    sleep(PULL_PAUSE).await;
                }
            }
            Err(error @ (TurnError::Lost | TurnError::Unreadable)) => return error,
            // The keeper's own connection tells whether the turn is over.
            Err(TurnError::Database(error)) => {
                if reminder.is_due(&error.to_string()) {
                    log::warn!("events cannot be read from the outbox: {error}");
                }
                if let Some(session) = session.take() {
                    session.abandon();
                }
                sleep(POLL_EVERY).await;
            }
        }
        let _ = timeout(POLL_EVERY, shared.wake.notified()).await;
    }
}

async fn pull_all(shared: &Shared, session: &mut Option<Session>, term: &Term) -> Result<usize, TurnError> {
    let session = match session {
        Some(session) if !session.is_closed() => session,
        _ => {
            let connected = database::connect(&shared.endpoint, Some(Arc::clone(&shared.wake))).await?;
            connected.batch_execute(LISTEN).await?;
            session.insert(connected)
        }
    };
    let mut found = 0;
    loop {
        let begun = Instant::now();
        let (pulled, is_limited) = pull(shared, session, term, PULL_TIMEOUT).await?;
        found += pulled;
        if begun.elapsed() >= SLOW_PULL {
            // The database does other things, too.
            sleep(begun.elapsed()).await;
        }
        if !is_limited {
            return Ok(found);
        }
    }
}

/// One page. Returns how many rows it had, and whether there may be more.
pub(super) async fn pull(
    shared: &Shared,
    session: &Session,
    term: &Term,
    limit: Duration,
) -> Result<(usize, bool), TurnError> {
    let (without, partitions, full) = {
        let ledger = shared.ledger();
        let (partitions, full) = ledger.full();
        (Without { rows: ledger.seqs(), hashes: ledger.blocked() }, partitions, full)
    };
    let until = Instant::now() + limit;
    let (events, is_limited) = term.pull(session, &without, partitions, &full, until).await?;
    let found = events.len();
    for event in &events {
        if let Err(unreadable) = &event.entry {
            shared.report(unreadable);
        }
    }
    let (last_seq, held, is_news, blocked) = {
        let mut ledger = shared.ledger();
        let is_news = ledger.take(events, is_limited, partitions, &full);
        (ledger.last(), ledger.len() as u64, is_news, ledger.blocked().len())
    };
    if blocked > MAX_BLOCKED {
        return Err(TurnError::Unreadable);
    }
    let is_all = !is_limited && full.is_empty() && blocked == 0;
    shared.outbox.send_if_modified(|state| {
        let before = *state;
        state.last_seq = last_seq;
        // All that are visible are here; otherwise they are counted now and then.
        state.waiting = if is_all { held } else { state.waiting.max(held) };
        is_news || *state != before
    });
    Ok((found, is_limited))
}
