//! Giving the relay's turn back, so that another replica publishes at once, and not when the lease has run out.
//!
//! # Invariants
//!
//! 1. *Nothing is in flight.* While a request to Kafka has no answer, the turn under which it was sent is not given back:
//!    it runs out, as after a kill. What lands after another replica has read the end of the topic is there twice, and
//!    behind newer events of its task.
//! 2. *What may be ours is given back*: after an error the row may be this process's for as long as its lease, whether the
//!    statement was a claim, a renewal or a release. Where the connection is at fault, another one does it.
//! 3. *By the term*: given back late, it is nobody's next turn that ends.
//! 4. *At once*: a stop, and the way to another server, wait for no statement that may take as long as the lease leaves.

use std::time::Duration;

use task_events::database::{DatabaseError, Session};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::shared::Shared;
use super::turn::{self, LEASE, TURN_TIMEOUT, TurnError};

/// Time for the relay to let a turn go that was lost. It does so as soon as it runs.
const LET_GO_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for the connection that is there: one whose peer is gone gives no answer.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for all attempts. Together with a statement that is under way, a stop waits for it.
const GIVE_BACK_TIMEOUT: Duration = Duration::from_millis(2_500);
/// Between two attempts.
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// Who wants the turn.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted {
    /// How many relays do.
    pub(super) relays: usize,
    /// When the lease has run out of a turn that was let go with something in flight.
    runs_out: Option<Instant>,
}

impl Wanted {
    /// One wants it less. What is in flight was sent under its turn, and has no answer.
    pub(super) fn let_go(&mut self, is_in_flight: bool) {
        self.relays = self.relays.saturating_sub(1);
        if is_in_flight {
            self.runs_out = Some(Instant::now() + LEASE);
        }
    }

    fn is_in_flight(&self) -> bool {
        self.runs_out.is_some_and(|runs_out| Instant::now() < runs_out)
    }
}

/// Returns when the relay has let go a turn that it has lost: only then it is known what is in flight.
pub(super) async fn let_go(wanted: &mut watch::Receiver<Wanted>) {
    let _ = timeout(LET_GO_TIMEOUT, wanted.changed()).await;
}

/// The terms that the row may have by this process, and when each has ended.
#[derive(Debug, Default)]
pub(super) struct OwnTerms(Vec<(Uuid, Instant)>);

impl OwnTerms {
    /// One whose last claim or renewal is over, whatever became of it.
    pub(super) fn add(&mut self, term: Uuid) {
        let now = Instant::now();
        // So there are as many as claims in the time of a lease.
        self.0.retain(|(_, ends)| *ends > now);
        self.0.push((term, now + LEASE));
    }
}

/// Gives a turn back, on the connection that is there or on a new one; unless something is in flight.
pub(super) async fn give_back(
    shared: &Shared,
    session: &mut Option<Session>,
    own: OwnTerms,
    wanted: &watch::Receiver<Wanted>,
) {
    let now = Instant::now();
    let terms: Vec<Uuid> = own.0.into_iter().filter(|(_, ends)| *ends > now).map(|(term, _)| term).collect();
    if terms.is_empty() {
        return;
    }
    if wanted.borrow().is_in_flight() {
        log::warn!(
            "the relay's turn on the {} is not given back, for Kafka has not answered what was sent last: it ends with its lease, within {} s, and then another replica looks for that in the topic and goes on",
            shared.place,
            LEASE.as_secs()
        );
        return;
    }
    let mut failure = TurnError::from(DatabaseError::timeout("connect"));
    let given_back = async {
        loop {
            match attempt(shared, session, &terms).await {
                Ok(()) => return,
                Err(error) => failure = error,
            }
            // Something may still run on it.
            if let Some(session) = session.take() {
                session.abandon();
            }
            sleep(RETRY_EVERY).await;
        }
    };
    if timeout(GIVE_BACK_TIMEOUT, given_back).await.is_err() {
        log::warn!(
            "the relay's turn on the {} cannot be given back: {failure}; it ends with its lease, within {} s, and then another replica goes on",
            shared.place,
            LEASE.as_secs()
        );
    }
}

async fn attempt(shared: &Shared, session: &mut Option<Session>, terms: &[Uuid]) -> Result<(), TurnError> {
    let session = match session {
        Some(session) if !session.is_closed() && shared.is_current(session) => session,
        _ => session.insert(shared.connect().await?),
    };
    let released = timeout(ATTEMPT_TIMEOUT, turn::release(session, terms)).await;
    released.unwrap_or_else(|_| Err(TurnError::timeout()))
}

/// A statement of the turn, while it is worth waiting for: once nobody wants the turn any more, for [`TURN_TIMEOUT`], and
/// no longer once new connections lead to another server.
pub(super) async fn while_wanted(
    shared: &Shared,
    session: &Session,
    wanted: &watch::Receiver<Wanted>,
    statement: impl Future<Output = Result<(), TurnError>>,
) -> Result<(), TurnError> {
    let mut wanted = wanted.clone();
    let is_left = async {
        let _ = wanted.wait_for(|wanted| wanted.relays == 0).await;
        sleep(TURN_TIMEOUT).await;
    };
    let leads_elsewhere = async {
        while shared.is_current(session) {
            sleep(RETRY_EVERY).await;
        }
    };
    tokio::select! {
        biased;
        () = leads_elsewhere => Err(TurnError::Lost),
        result = statement => result,
        () = is_left => Err(TurnError::timeout()),
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use harness::Postgres;
    use task_events::database::{DatabaseUrl, connect};

    use super::*;

    /// What has to come to its end.
    async fn soon<T>(work: impl Future<Output = T>) -> T {
        timeout(Duration::from_secs(30), work).await.expect("it does not end")
    }

    #[tokio::test]
    async fn a_stop_and_the_way_to_another_server_wait_for_no_statement_without_an_end() {
        let Some(server) = Postgres::shared().unwrap() else { return };
        server.create_database("statements").unwrap();
        let endpoint = DatabaseUrl::new(&server.url("statements")).endpoint().await.unwrap();
        let shared = Shared::new(endpoint, "database".to_owned());
        let (sender, wanted) = watch::channel(Wanted { relays: 1, runs_out: None });

        let elsewhere = connect(&shared.endpoint, None).await.unwrap();
        let left = soon(while_wanted(&shared, &elsewhere, &wanted, pending())).await;
        assert!(matches!(left, Err(TurnError::Lost)), "{left:?}");

        let session = shared.connect().await.unwrap();
        let stopped = async { sender.send_modify(|wanted| wanted.let_go(false)) };
        let statement = while_wanted(&shared, &session, &wanted, pending());
        let (given_up, ()) = soon(async { tokio::join!(statement, stopped) }).await;
        assert!(matches!(given_up, Err(TurnError::Database(_))), "{given_up:?}");
        while_wanted(&shared, &session, &wanted, ready(Ok(()))).await.unwrap();
    }
}
