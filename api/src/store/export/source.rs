//! The database as it is read for a move: in one transaction that has its tables closed, so that all of it is one state.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use task_events::database::{DatabaseError, Session, departure};
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::super::delivery::{OutboxEntry, PublishedTopic};
use super::super::failure::Unreadable;
use super::super::import::LOCK;
use super::super::moved::Contents;
use super::super::mutation::Answer;
use super::super::operation::{Bytes, read_task};
use super::super::outbox::Stored;
use super::super::postgres::rows::{self, EVENT, Parameters, TASK, column};
use super::error::ExportError;
use crate::task::Task;

/// Values of a batch: some MB at most.
const BATCH: i64 = 2_000;
/// Time for the answer to one statement: more than the server gives it, so that the server's word counts.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(11 * 60);
/// Counting all rows takes longest. Between two batches the embedded store writes to its disk.
const SETTINGS: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = '10min'; \
    SET LOCAL lock_timeout = '10s'; SET LOCAL idle_in_transaction_session_timeout = '10min'; \
    SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'";
/// What has not expired, by the transaction's time: the same for each statement.
const KEPT: &str = "expires_at > now()";

/// Begins a transaction that waits for every other move to end.
pub(super) async fn begin(session: &Session) -> Result<(), ExportError> {
    within(session.batch_execute(SETTINGS)).await?;
    within(session.batch_execute(LOCK)).await
}

/// Has the tables closed, in that transaction. No replica may be running.
pub(super) async fn close(session: &Session) -> Result<(), ExportError> {
    check_unserved(session).await?;
    in_time(departure::close(session)).await?;
    // One that was started in between.
    check_unserved(session).await
}

pub(super) async fn commit(session: &Session) -> Result<(), ExportError> {
    within(session.batch_execute("COMMIT")).await
}

/// Whether no replica publishes from the database, as one that is started on it does.
pub(super) async fn check_unserved(session: &Session) -> Result<(), ExportError> {
    let look = "SELECT host FROM task_events.relay WHERE expires_at > clock_timestamp()";
    let rows = within(session.query_typed(look, &[])).await?;
    let Some(row) = rows.first() else { return Ok(()) };
    let host: Option<&str> = row.get(0);
    Err(ExportError::Refused(format!(
        "an API is running on the database, on {}: stop all of them and run the export again (one that was killed counts until its turn as the publisher has expired, some seconds)",
        host.unwrap_or("a host without a name")
    )))
}

/// How much there is to be moved.
pub(super) async fn contents(session: &Session) -> Result<Contents, ExportError> {
    let count = format!(
        "SELECT (SELECT count(*) FROM task_events.tasks), \
         (SELECT count(*) FROM task_events.answers WHERE {KEPT}), (SELECT count(*) FROM task_events.outbox)"
    );
    let rows = within(session.query_typed(&count, &[])).await?;
    let count = |index| {
        let count = rows.first().map_or(0, |row| row.get::<_, i64>(index));
        u64::try_from(count).unwrap_or(0)
    };
    Ok(Contents { tasks: count(0), answers: count(1), former_answers: 0, events: count(2) })
}

/// Where the relay goes on, and which numbers were given.
pub(super) async fn outbox(session: &Session) -> Result<Stored, ExportError> {
    let find = "SELECT topic_id, partitions, COALESCE(pg_sequence_last_value( \
        CAST(pg_get_serial_sequence('task_events.outbox', 'seq') AS regclass)), 0) FROM task_events.relay";
    let mut outbox = Stored::default();
    for row in within(session.query_typed(find, &[])).await? {
        if let (Some(topic_id), Some(partitions)) = (row.get(0), row.get(1)) {
            outbox.publish_to(PublishedTopic { topic_id, partitions });
        }
        outbox.last_seq = u64::try_from(row.get::<_, i64>(2)).unwrap_or(0);
    }
    let find = "SELECT partition, position FROM task_events.positions";
    for row in within(session.query_typed(find, &[])).await? {
        outbox.positions.insert(row.get(0), row.get(1));
    }
    Ok(outbox)
}

/// Tasks behind that one, in the order of their ids.
pub(super) async fn tasks(session: &Session, after: Option<Uuid>) -> Result<Vec<Task>, ExportError> {
    let find = format!(
        "SELECT {TASK} FROM task_events.tasks WHERE $1::uuid IS NULL OR id > $1 ORDER BY id LIMIT $2"
    );
    let values: Parameters = vec![(&after, Type::UUID), (&BATCH, Type::INT8)];
    let rows = within(session.query_typed(&find, &values)).await?;
    Ok(rows.iter().map(rows::task).collect::<Result<_, _>>()?)
}

/// An answer, and where it is among the others.
pub(super) struct Kept {
    pub(super) expires_at: DateTime<Utc>,
    pub(super) key: String,
    pub(super) answer: Answer,
}

/// Answers that have not expired, behind that one: those that expire first come first.
pub(super) async fn answers(
    session: &Session,
    after: Option<(DateTime<Utc>, Vec<u8>)>,
) -> Result<Vec<Kept>, ExportError> {
    let find = format!(
        "SELECT key, fingerprint, task, expires_at FROM task_events.answers WHERE {KEPT} \
         AND (expires_at, key) > ($1, $2) ORDER BY expires_at, key LIMIT $3"
    );
    // What expired in 1970 is left out anyway.
    let (expires_at, key) = after.unwrap_or_default();
    let values: Parameters =
        vec![(&expires_at, Type::TIMESTAMPTZ), (&key, Type::BYTEA), (&BATCH, Type::INT8)];
    let rows = within(session.query_typed(&find, &values)).await?;
    Ok(rows.iter().map(kept).collect::<Result<_, _>>()?)
}

fn kept(row: &Row) -> Result<Kept, Unreadable> {
    let key: &[u8] = column(row, 0)?;
    let what = || format!("the answer under the key {:?}", String::from_utf8_lossy(key));
    let task = read_task(&mut Bytes(column(row, 2)?));
    let task = Arc::new(task.ok_or_else(|| Unreadable::new(what(), "it is damaged"))?);
    let expires_at: DateTime<Utc> = column(row, 3)?;
    let expires_ms = u64::try_from(expires_at.timestamp_millis()).unwrap_or(0);
    let fingerprint: &[u8] = column(row, 1)?;
    let answer = Answer { fingerprint: fingerprint.into(), expires_ms, task };
    let key = String::from_utf8(key.to_vec()).map_err(|why| Unreadable::new(what(), why))?;
    Ok(Kept { expires_at, key, answer })
}

/// Events that wait behind that number, in order.
pub(super) async fn events(session: &Session, after: Option<i64>) -> Result<Vec<OutboxEntry>, ExportError> {
    let find = format!(
        "SELECT {EVENT} FROM task_events.outbox o WHERE $1::int8 IS NULL OR o.seq > $1 ORDER BY o.seq LIMIT $2"
    );
    let values: Parameters = vec![(&after, Type::INT8), (&BATCH, Type::INT8)];
    let rows = within(session.query_typed(&find, &values)).await?;
    let events = rows.iter().map(|row| rows::pulled(row, 0)?.entry);
    Ok(events.collect::<Result<_, _>>()?)
}

/// Whether the database was closed for that move.
pub(super) async fn has_left(session: &Session, id: Uuid) -> Result<bool, ExportError> {
    let found = in_time(departure::find(session)).await?;
    Ok(found.is_some_and(|(departure, _)| departure.id == id))
}

pub(super) async fn within<T>(
    call: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, ExportError> {
    in_time(async { Ok(call.await?) }).await
}

pub(super) async fn in_time<T>(
    call: impl Future<Output = Result<T, DatabaseError>>,
) -> Result<T, ExportError> {
    match timeout(STATEMENT_TIMEOUT, call).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(DatabaseError::timeout("the export").into()),
    }
}
