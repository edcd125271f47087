//! The relay's turn: the right of one replica to publish, as a row with a term, an expiry on the database's clock and a
//! count of what its holder did.
//!
//! # Invariants
//!
//! 1. *A term is never used again*: it is a random id, so that no earlier state of the database, after a failover to a
//!    standby that lagged or a restore, makes one valid.
//! 2. *Whatever the holder writes is scoped* to its term and to the count that it knows. Where either differs, or the
//!    server is another process than before, the database may have gone back in time: the turn is lost, what is held
//!    is void, and the next turn reads the end of the topic first.
//! 3. *A row is deleted by number and id*: after a step back a number may belong to another event.
//! 4. *No clocks are compared.* The expiry is the database's; the holder counts from before it asked, by its own
//!    monotonic clock.
//! 5. *A slow answer costs no turn while the lease lasts.* A statement of the holder may take as long as the lease leaves,
//!    less [`MARGIN`], and is given [`TURN_TIMEOUT`] in any case.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use task_events::database::{DatabaseError, Session};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::Row as DatabaseRow;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::super::delivery::PublishedTopic;
use super::ledger::{Pulled, Row};
use super::rows::{self, EVENT, Parameters};

/// Silence after which another replica may take the turn.
pub(super) const LEASE: Duration = Duration::from_secs(6);
/// The same for the database.
const LEASE_SQL: &str = "interval '6 s'";
/// Time for one statement of the turn: several fit into a lease.
pub(super) const TURN_TIMEOUT: Duration = Duration::from_secs(2);
/// What is left of the lease when a statement of its holder is given up: the requests in flight to Kafka are answered in it.
const MARGIN: Duration = Duration::from_millis(1_500);
/// Events of one pull: with titles of the greatest length some MB.
pub(super) const PULL: usize = 2_000;
/// Numbers of the outbox that one statement looks at where events are passed over: some tenths of a second.
const PART: i64 = 250_000;

/// Why a turn ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum TurnError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("another replica has taken it, or the database went back to an earlier state")]
    Lost,
    #[error(
        "too many events cannot be read by this version: another replica may read them; if none can, no events are published until one of the newest version runs, or what is damaged is set aside (docs/runbook.md#events-that-no-replica-can-read)"
    )]
    Unreadable,
}

impl TurnError {
    pub(super) fn timeout() -> Self {
        Self::Database(DatabaseError::timeout("the relay's turn"))
    }
}

impl From<tokio_postgres::Error> for TurnError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error.into())
    }
}

/// The server process that answers: a failover, a restore and a restart change it.
type Server = DateTime<Utc>;

/// A turn that this process holds.
#[derive(Debug, Clone)]
pub(super) struct Term {
    pub(super) id: Uuid,
    server: Server,
    /// What its holder did last.
    count: Arc<AtomicI64>,
}

/// The holder's side of the row.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) term: Term,
    /// Until when it is surely valid.
    pub(super) valid_until: Instant,
}

/// What a holder begins with.
#[derive(Debug)]
pub(super) struct Begin {
    pub(super) topic: Option<PublishedTopic>,
    pub(super) positions: BTreeMap<i32, i64>,
}

/// What is not pulled.
#[derive(Debug, Default)]
pub(super) struct Without {
    pub(super) rows: Vec<i64>,
    /// Whole tasks, by the hash of their key.
    pub(super) hashes: Vec<i32>,
}

/// What is to be noted with a deletion of rows.
#[derive(Debug, Default)]
pub(super) struct Deletion {
    pub(super) rows: Vec<Row>,
    pub(super) positions: BTreeMap<i32, i64>,
}

/// Takes the turn if it is free, or was this process's own. `None` if it is another's. One that expires later than any
/// can was given before the database's clock was set back: its holder may be dead, and if it lives it has lost the term.
pub(super) async fn claim(
    session: &Session,
    me: Uuid,
    term: Uuid,
) -> Result<Option<(Held, Begin)>, TurnError> {
    let sent = Instant::now();
    let claim = format!(
        "UPDATE task_events.relay SET term = $1, holder = $2, host = $3, turn = turn + 1, \
         expires_at = clock_timestamp() + {LEASE_SQL} WHERE expires_at <= clock_timestamp() OR holder = $2 \
         OR expires_at > clock_timestamp() + 2 * {LEASE_SQL} RETURNING turn, pg_postmaster_start_time(), topic_id, partitions"
    );
    let host = format!("{}/{}", host(), std::process::id());
    let parameters: Parameters = vec![(&term, Type::UUID), (&me, Type::UUID), (&host, Type::TEXT)];
    let claimed = within(async { Ok(session.query_typed(&claim, &parameters).await?) }).await?;
    let Some(row) = claimed.first() else { return Ok(None) };
    let (topic_id, partitions): (Option<Uuid>, Option<i32>) = (row.get(2), row.get(3));
    let topic =
        topic_id.zip(partitions).map(|(topic_id, partitions)| PublishedTopic { topic_id, partitions });
    let read = "SELECT partition, position FROM task_events.positions";
    let positions = within(async { Ok(session.query_typed(read, &[]).await?) }).await?;
    let positions = positions.iter().map(|row| (row.get(0), row.get(1))).collect();
    let term = Term { id: term, server: row.get(1), count: Arc::new(AtomicI64::new(row.get(0))) };
    let held = Held { term, valid_until: sent + LEASE };
    Ok(Some((held, Begin { topic, positions })))
}

impl Held {
    /// Renews the lease.
    pub(super) async fn renew(&mut self, session: &Session) -> Result<(), TurnError> {
        let sent = Instant::now();
        let renew = format!(
            "UPDATE task_events.relay SET turn = turn + 1, expires_at = clock_timestamp() + {LEASE_SQL} \
             WHERE term = $1 AND turn = $2 RETURNING turn, pg_postmaster_start_time()"
        );
        let (term, count) = (self.term.id, self.term.count.load(Ordering::Acquire));
        let parameters: Parameters = vec![(&term, Type::UUID), (&count, Type::INT8)];
        let renewed = self.within(async { Ok(session.query_typed(&renew, &parameters).await?) }).await?;
        self.goes_on(&renewed)?;
        self.valid_until = sent + LEASE;
        Ok(())
    }

    /// Deletes rows and notes positions. Where it is lazy, a crash of the database may forget it, and then all of it:
    /// the events are found in the topic again.
    pub(super) async fn delete(
        &mut self,
        session: &Session,
        deletion: &Deletion,
        is_lazy: bool,
    ) -> Result<(), TurnError> {
        const DELETE: &str = "WITH held AS (UPDATE task_events.relay SET turn = turn + 1 \
            WHERE term = $1 AND turn = $2 RETURNING turn), \
            gone AS (DELETE FROM task_events.outbox o USING held, unnest($3::int8[], $4::uuid[]) AS d (seq, id) \
            WHERE o.seq = d.seq AND o.event_id = d.id), \
            placed AS (INSERT INTO task_events.positions (partition, position) \
            SELECT p.a, p.b FROM held, unnest($5::int4[], $6::int8[]) AS p (a, b) \
            ON CONFLICT (partition) DO UPDATE SET position = EXCLUDED.position) \
            SELECT turn, pg_postmaster_start_time() FROM held";
        let seqs: Vec<i64> = deletion.rows.iter().map(|row| row.seq).collect();
        let ids: Vec<Uuid> = deletion.rows.iter().map(|row| row.event_id).collect();
        let partitions: Vec<i32> = deletion.positions.keys().copied().collect();
        let positions: Vec<i64> = deletion.positions.values().copied().collect();
        let (term, count) = (self.term.id, self.term.count.load(Ordering::Acquire));
        let parameters: Parameters = vec![
            (&term, Type::UUID),
            (&count, Type::INT8),
            (&seqs, Type::INT8_ARRAY),
            (&ids, Type::UUID_ARRAY),
            (&partitions, Type::INT4_ARRAY),
            (&positions, Type::INT8_ARRAY),
        ];
        let deleted = if is_lazy {
            self.within(async {
                let (begun, deleted, committed) = tokio::join!(
                    biased;
                    session.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = off"),
                    session.query_typed(DELETE, &parameters),
                    session.batch_execute("COMMIT"),
                );
                begun?;
                let deleted = deleted?;
                committed?;
                Ok(deleted)
            })
            .await?
        } else {
            self.within(async { Ok(session.query_typed(DELETE, &parameters).await?) }).await?
        };
        self.goes_on(&deleted)
    }

    /// Notes where events go. Positions in another topic are forgotten.
    pub(super) async fn publish_to(
        &mut self,
        session: &Session,
        topic: PublishedTopic,
        is_another: bool,
    ) -> Result<(), TurnError> {
        const PUBLISH_TO: &str = "WITH held AS (UPDATE task_events.relay SET turn = turn + 1, topic_id = $3, \
            partitions = $4 WHERE term = $1 AND turn = $2 RETURNING turn), \
            gone AS (DELETE FROM task_events.positions USING held WHERE $5) \
            SELECT turn, pg_postmaster_start_time() FROM held";
        let (term, count) = (self.term.id, self.term.count.load(Ordering::Acquire));
        let parameters: Parameters = vec![
            (&term, Type::UUID),
            (&count, Type::INT8),
            (&topic.topic_id, Type::UUID),
            (&topic.partitions, Type::INT4),
            (&is_another, Type::BOOL),
        ];
        let noted = self.within(async { Ok(session.query_typed(PUBLISH_TO, &parameters).await?) }).await?;
        self.goes_on(&noted)
    }

    /// A statement of the holder.
    async fn within<T>(&self, work: impl Future<Output = Result<T, TurnError>>) -> Result<T, TurnError> {
        let least = Instant::now() + TURN_TIMEOUT;
        let until = self.valid_until.checked_sub(MARGIN).map_or(least, |until| until.max(least));
        timeout_at(until, work).await.unwrap_or_else(|_| Err(TurnError::timeout()))
    }

    fn goes_on(&mut self, rows: &[DatabaseRow]) -> Result<(), TurnError> {
        let row = rows.first().ok_or(TurnError::Lost)?;
        self.term.count.store(row.get(0), Ordering::Release);
        if row.get::<_, Server>(1) == self.term.server { Ok(()) } else { Err(TurnError::Lost) }
    }
}

/// Gives back a turn that has one of those terms.
pub(super) async fn release(session: &Session, terms: &[Uuid]) -> Result<(), TurnError> {
    let release = "UPDATE task_events.relay SET expires_at = '-infinity', holder = NULL WHERE term = ANY($1)";
    within(async { Ok(session.query_typed(release, &[(&terms, Type::UUID_ARRAY)]).await?) }).await.map(drop)
}

impl Term {
    /// The next events, in order, without those rows and without those of the partitions that have enough; and whether
    /// there may be more. All is read in one state of the database, together with the term. Where partitions or tasks are
    /// left out, a part of the outbox at a time: whatever has piled up for them, no statement takes long.
    pub(super) async fn pull(
        &self,
        session: &Session,
        without: &Without,
        partitions: i32,
        full: &[i32],
        until: Instant,
    ) -> Result<(Vec<Pulled>, bool), TurnError> {
        if usize::try_from(partitions).is_ok_and(|partitions| full.len() >= partitions) {
            return Ok((Vec::new(), false));
        }
        // Read before the state of the database is: there the count is the same or higher, unless it went back.
        let known = self.count.load(Ordering::Acquire);
        if full.is_empty() && without.hashes.is_empty() {
            let events = self.part(session, without, partitions, full, (0, i64::MAX), known).await?;
            let is_limited = events.len() >= PULL;
            return Ok((events, is_limited));
        }
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        within(async { Ok(session.batch_execute(begin).await?) }).await?;
        let ends = "SELECT min(seq), max(seq) FROM task_events.outbox";
        let ends = within(async { Ok(session.query_typed(ends, &[]).await?) }).await?;
        let ends =
            ends.first().and_then(|row| row.get::<_, Option<i64>>(0).zip(row.get::<_, Option<i64>>(1)));
        let (mut events, mut is_limited) = (Vec::new(), false);
        if let Some((mut first, last)) = ends {
            while first <= last && !is_limited {
                let part = (first, first.saturating_add(PART - 1));
                events.extend(self.part(session, without, partitions, full, part, known).await?);
                first = first.saturating_add(PART);
                is_limited = events.len() >= PULL || (Instant::now() >= until && first <= last);
            }
        }
        within(async { Ok(session.batch_execute("COMMIT").await?) }).await?;
        Ok((events, is_limited))
    }

    async fn part(
        &self,
        session: &Session,
        without: &Without,
        partitions: i32,
        full: &[i32],
        (first, last): (i64, i64),
        known: i64,
    ) -> Result<Vec<Pulled>, TurnError> {
        let pull = format!(
            "SELECT r.term, pg_postmaster_start_time(), r.turn, {EVENT} FROM task_events.relay r LEFT JOIN LATERAL \
             (SELECT * FROM task_events.outbox i WHERE i.seq BETWEEN $4 AND $5 AND i.seq <> ALL($1::int8[]) \
             AND i.hash % $2 <> ALL($3::int4[]) AND i.hash <> ALL($6::int4[]) ORDER BY i.seq LIMIT {PULL}) o ON true ORDER BY o.seq"
        );
        let parameters: Parameters = vec![
            (&without.rows, Type::INT8_ARRAY),
            (&partitions, Type::INT4),
            (&full, Type::INT4_ARRAY),
            (&first, Type::INT8),
            (&last, Type::INT8),
            (&without.hashes, Type::INT4_ARRAY),
        ];
        let found = within(async { Ok(session.query_typed(&pull, &parameters).await?) }).await?;
        let row = found.first().ok_or(TurnError::Lost)?;
        let is_ours =
            row.get::<_, Option<Uuid>>(0) == Some(self.id) && row.get::<_, Server>(1) == self.server;
        // A count below that of then: the database went back.
        if !is_ours || row.get::<_, i64>(2) < known {
            return Err(TurnError::Lost);
        }
        // Without an event there is one row, without values.
        let events = found.iter().filter(|row| row.get::<_, Option<i64>>(3).is_some());
        Ok(events.filter_map(|row| rows::pulled(row, 3).ok()).collect())
    }
}

async fn within<T>(work: impl Future<Output = Result<T, TurnError>>) -> Result<T, TurnError> {
    timeout(TURN_TIMEOUT, work).await.unwrap_or_else(|_| Err(TurnError::timeout()))
}

/// The name of this machine or container, for people.
pub(in crate::store) fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

#[cfg(test)]
mod tests;
