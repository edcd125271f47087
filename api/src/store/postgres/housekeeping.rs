//! What is done now and then: counting what waits, looking whether the database takes changes, and removing what has
//! expired. Each step is bounded, whatever has piled up.

use std::sync::Arc;
use std::time::Duration;

use task_events::database::{DatabaseError, Session, Trouble};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::shared::Shared;

const EVERY: Duration = Duration::from_secs(1);
/// While changes fail: how soon it is noticed that they are taken again.
const EVERY_WHILE_FAILING: Duration = Duration::from_millis(250);
/// How often another connection is made, which leads to the primary: the former one may go on to answer after a failover.
const CONNECT_EVERY: Duration = Duration::from_secs(10);
/// Time for it, where there is one: new logins may hang while those that are there work.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for one round, and for counting and removing in it.
const ROUND_TIMEOUT: Duration = Duration::from_secs(8);
const KEEP_TIMEOUT: Duration = Duration::from_secs(4);
/// Rows that are removed at a time, and how often in a round.
const SWEPT: usize = 5_000;
const MAX_SWEEPS: usize = 10;
/// Events that are counted, at most: beyond that it is "so many at least".
const MAX_COUNTED: i64 = 100_000;

const COUNT: &str = "SELECT count(*) FROM (SELECT 1 FROM task_events.outbox LIMIT $1) o";
/// Rows of groups are kept for longer than any statement that may still write one.
const SWEEPS: [&str; 2] = [
    "DELETE FROM task_events.groups WHERE id IN (SELECT id FROM task_events.groups \
     WHERE at < now() - interval '5 minutes' ORDER BY at LIMIT 5000 FOR UPDATE SKIP LOCKED) RETURNING 1",
    "DELETE FROM task_events.answers WHERE key IN (SELECT key FROM task_events.answers \
     WHERE expires_at <= now() ORDER BY expires_at LIMIT 5000 FOR UPDATE SKIP LOCKED) RETURNING 1",
];

pub(super) async fn run(shared: Arc<Shared>) {
    let mut session = None;
    shared.open().await;
    loop {
        let round = timeout(ROUND_TIMEOUT, round(&shared, &mut session)).await;
        match round.unwrap_or_else(|_| Err(DatabaseError::timeout("look at the database"))) {
            Ok(()) => shared.health.answers(),
            // The others' connections may work.
            Err(error) if error.trouble() == Trouble::Crowded => {
                log::debug!("no connection is left to look at the database with: {error}");
            }
            Err(error) => {
                shared.health.failed(&shared.place, &error);
                if let Some((session, _)) = session.take() {
                    session.abandon();
                }
            }
        }
        sleep(if shared.health.failure().is_some() { EVERY_WHILE_FAILING } else { EVERY }).await;
    }
}

/// A connection, and when it was made.
type Connected = (Session, Instant);

async fn round(shared: &Shared, connected: &mut Option<Connected>) -> Result<(), DatabaseError> {
    let there = connected.take_if(|(session, _)| session.is_closed() || !shared.is_current(session));
    drop(there);
    let is_fresh = |(_, made): &Connected| made.elapsed() < CONNECT_EVERY;
    if !connected.as_ref().is_some_and(is_fresh) {
        let reconnected = match connected {
            Some(_) => timeout(RECONNECT_TIMEOUT, shared.connect())
                .await
                .unwrap_or_else(|_| Err(DatabaseError::timeout("connect"))),
            None => shared.connect().await,
        };
        match reconnected {
            Ok(session) => *connected = Some((session, Instant::now())),
            Err(error) if connected.is_none() => return Err(error),
            // What there is tells more.
            Err(error) => log::debug!("no other connection can be made: {error}"),
        }
    }
    let Some((session, _)) = connected else { return Err(DatabaseError::timeout("connect")) };
    session.query_typed("SELECT 1", &[]).await?;
    shared.health.is_there();
    if shared.health.failure().is_some() {
        let probe = "INSERT INTO task_events.groups (id) VALUES ($1)";
        session.query_typed(probe, &[(&Uuid::now_v7(), Type::UUID)]).await?;
    }
    // What fails from here on says nothing about changes.
    let kept = async {
        let counted = session.query_typed(COUNT, &[(&MAX_COUNTED, Type::INT8)]).await?;
        if let Some(row) = counted.first() {
            let waiting: i64 = row.get(0);
            shared.set_waiting(u64::try_from(waiting).unwrap_or(0));
        }
        if shared.has_turn() {
            for sweep in SWEEPS {
                for _ in 0..MAX_SWEEPS {
                    if session.query_typed(sweep, &[]).await?.len() < SWEPT {
                        break;
                    }
                }
            }
        }
        Ok::<(), DatabaseError>(())
    };
    match timeout(KEEP_TIMEOUT, kept).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("what waits cannot be counted, or what has expired removed: {error}"),
        Err(_) => log::debug!("counting what waits, or removing what has expired, takes too long"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use harness::{Postgres, Proxy};
    use task_events::database::{DatabaseUrl, ensure};
    use tokio::net::TcpListener;

    use super::*;

    /// As with a slow look-up of host names, or a pooler whose pool is full.
    #[tokio::test]
    async fn where_new_logins_hang_the_connection_that_is_there_tells_more() {
        let Some(server) = Postgres::shared().unwrap() else { return };
        server.create_database("logins").unwrap();
        let proxy = Proxy::start(0, server.port(), 1).await.unwrap();
        let url = DatabaseUrl::new(&server.url_at(proxy.port(), "logins"));
        let shared = Shared::new(url.endpoint().await.unwrap(), url.place());
        let session = shared.connect().await.unwrap();
        ensure(&session, true).await.unwrap();
        // The system accepts for it, and nobody reads.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        proxy.lead_to(silent.local_addr().unwrap().port());
        let mut connected = Some((session, Instant::now().checked_sub(CONNECT_EVERY).unwrap()));
        let round = timeout(ROUND_TIMEOUT, round(&shared, &mut connected)).await;
        assert!(matches!(round, Ok(Ok(()))), "{round:?}");
        assert!(connected.is_some_and(|(session, _)| !session.is_closed()));
    }
}
