//! The end of a move: the transaction by which the database has the tasks, and giving a move up.
//!
//! Both are under the lock of moves and look for the row of the move first: one that was given up is never finished, and
//! one that is finished is never given up, whatever a connection that was lost may still do.

use std::time::Duration;

use task_events::database::Session;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::super::moved::{Contents, Moved};
use super::super::postgres::rows::{Parameters, TASK};
use super::super::schema::Meta;
use super::arrival;
use super::error::ImportError;
use super::staging::{
    DROP_TABLES, Part, check_empty, check_unserved, give_up, has_notes, locked, within, within_time,
};

/// Time for one of the last statements, which writes all rows of a table with its indexes.
const LONG_TIMEOUT: Duration = Duration::from_secs(12 * 60 * 60);
/// The same for the server. A table that somebody else has is not waited for so long: the others are locked meanwhile.
const LONG_SQL: &str = "SET LOCAL statement_timeout = '12h'";
/// Nobody writes there meanwhile; who only reads, reads on.
const LOCK_TABLES: &str = "LOCK TABLE task_events.tasks, task_events.outbox, task_events.answers, task_events.relay, \
    task_events.positions IN SHARE ROW EXCLUSIVE MODE";

/// Why a move did not end.
pub(super) enum Failure {
    /// The database has nothing of the store, and will not.
    NeverCommitted(ImportError),
    /// It may have all: the next run finds out.
    Unfinished(ImportError),
}

enum End {
    Finished,
    Refused(ImportError),
}

/// Has the database take over what is staged, unless it has already.
pub(super) async fn finish(session: &Session, moved: &Moved, meta: &Meta, to: &str) -> Result<(), Failure> {
    let end = locked(session, async {
        within(session.batch_execute(LONG_SQL)).await?;
        match note(session, moved.id).await? {
            None => return Err(unknown(moved, to)),
            Some(Note::Finished) => return Ok(End::Finished),
            Some(Note::GivenUp) => return Ok(End::Refused(given_up())),
            Some(Note::Begun) => {}
        }
        // A standby that took over, or a restored backup, may have the move as it was before its last batches.
        let staged = contents(session, moved.id).await?;
        if staged != moved.contents {
            give_up(session, moved.id).await?;
            return Ok(End::Refused(stepped_back(staged, moved)));
        }
        check_unserved(session).await?;
        within_time(LONG_TIMEOUT, session.batch_execute(LOCK_TABLES)).await?;
        if let Err(error) = check_empty(session).await {
            return match error {
                ImportError::Refused(_) => {
                    give_up(session, moved.id).await?;
                    Ok(End::Refused(error))
                }
                error => Err(error),
            };
        }
        place(session, &moved.contents).await?;
        place_relay(session, meta).await?;
        let arrived = "INSERT INTO task_events.moves (id) VALUES ($1)";
        within(session.execute_typed(arrived, &[(&moved.id, Type::UUID)])).await?;
        let done = "UPDATE task_events_import.moves SET finished_at = now() WHERE id = $1";
        within(session.execute_typed(done, &[(&moved.id, Type::UUID)])).await?;
        within(session.batch_execute(DROP_TABLES)).await?;
        Ok(End::Finished)
    })
    .await;
    match end {
        Ok(End::Finished) => Ok(()),
        Ok(End::Refused(error)) => Err(Failure::NeverCommitted(error)),
        Err(error) => Err(Failure::Unfinished(error)),
    }
}

/// Makes sure that the move is never finished. Of a move that the database does not know it cannot, unless the caller
/// says that the database which has it is lost: this one may just be another.
pub(super) async fn cancel(
    session: &Session,
    moved: &Moved,
    to: &str,
    is_lost: bool,
) -> Result<(), ImportError> {
    locked(session, async {
        match note(session, moved.id).await? {
            Some(Note::GivenUp) => Ok(()),
            Some(Note::Begun) => give_up(session, moved.id).await,
            Some(Note::Finished) => Err(ImportError::Refused(
                "the database has all tasks already: finish the move with `taskctl db import --execute`, if that is not done, and start the API with DATABASE_URL"
                    .to_owned(),
            )),
            None if is_lost => check_empty(session).await,
            None => Err(unknown(moved, to)),
        }
    })
    .await
}

/// What the database knows of a move.
enum Note {
    Begun,
    Finished,
    /// The run that gave it up was killed before it could take the mark away.
    GivenUp,
}

/// `None`: the database does not know the move, or does not have any more what came with it.
async fn note(session: &Session, id: Uuid) -> Result<Option<Note>, ImportError> {
    if arrival::has(session, id).await? {
        return Ok(Some(Note::Finished));
    }
    if !has_notes(session).await? {
        return Ok(None);
    }
    let find = "SELECT finished_at IS NOT NULL, given_up_at IS NOT NULL FROM task_events_import.moves \
        WHERE id = $1 FOR UPDATE";
    let rows = within(session.query_typed(find, &[(&id, Type::UUID)])).await?;
    Ok(rows.first().and_then(|row| match (row.get(0), row.get(1)) {
        (true, _) => None,
        (false, true) => Some(Note::GivenUp),
        (false, false) => Some(Note::Begun),
    }))
}

/// The error of a database that has less than it had confirmed, or more.
fn stepped_back(staged: Contents, moved: &Moved) -> ImportError {
    let Contents { tasks, answers, former_answers, events } = staged;
    let had = moved.contents;
    ImportError::Refused(format!(
        "the database does not have what it confirmed, as after a fail-over to a standby that was behind: {tasks} of {} tasks, {} of {} answers, {events} of {} events are staged; the move is given up and the embedded store is served again: run the import once more",
        had.tasks,
        answers + former_answers,
        had.answers + had.former_answers,
        had.events
    ))
}

fn given_up() -> ImportError {
    let why = "the move was given up before: the embedded store is served again; run the import once more to move it";
    ImportError::Refused(why.to_owned())
}

fn unknown(moved: &Moved, to: &str) -> ImportError {
    let (begun, id) = (&moved.to, moved.id);
    ImportError::Refused(format!(
        "the {to} knows nothing of this move ({id}), which began with the {begun}: set DATABASE_URL to the one that it began with; if that one is lost for good, `--cancel --database-is-lost` has the embedded store served again"
    ))
}

async fn contents(session: &Session, id: Uuid) -> Result<Contents, ImportError> {
    let mut contents = Contents::default();
    let find = "SELECT part, count FROM task_events_import.parts WHERE move = $1";
    for row in within(session.query_typed(find, &[(&id, Type::UUID)])).await? {
        let (name, count): (&str, i64) = (row.get(0), row.get(1));
        let count = u64::try_from(count).unwrap_or(0);
        match Part::ALL.into_iter().find(|part| part.name() == name) {
            Some(Part::Tasks) => contents.tasks = count,
            Some(Part::FormerAnswers) => contents.former_answers = count,
            Some(Part::Answers) => contents.answers = count,
            Some(Part::Events) => contents.events = count,
            None => {}
        }
    }
    Ok(contents)
}

/// All rows, each with the number and the bytes that it has.
async fn place(session: &Session, contents: &Contents) -> Result<(), ImportError> {
    let tasks = format!("INSERT INTO task_events.tasks ({TASK}) SELECT {TASK} FROM task_events_import.tasks");
    let columns = "seq, event_id, task_id, hash, encoding, payload, traceparent";
    let events = format!(
        "INSERT INTO task_events.outbox ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM task_events_import.events"
    );
    for (sql, staged) in [(tasks, contents.tasks), (events, contents.events)] {
        let placed = within_time(LONG_TIMEOUT, session.execute_typed(&sql, &[])).await?;
        if placed != staged {
            return Err(ImportError::Refused(format!(
                "of {staged} staged rows the database has {placed}: somebody changed the tables of task_events_import; give the move up with --cancel and begin again"
            )));
        }
    }
    let answers = "INSERT INTO task_events.answers (key, fingerprint, task, expires_at) \
        SELECT key, fingerprint, task, expires_at FROM task_events_import.answers WHERE expires_at > now()";
    within_time(LONG_TIMEOUT, session.execute_typed(answers, &[])).await?;
    Ok(())
}

/// Where the relay goes on: the topic, its positions, and the numbers that were never given. Who publishes now loses its
/// turn.
async fn place_relay(session: &Session, meta: &Meta) -> Result<(), ImportError> {
    let outbox = &meta.outbox;
    let (topic_id, partitions) =
        outbox.topic.map_or((None, None), |topic| (Some(topic.topic_id), Some(topic.partitions)));
    let relay = "UPDATE task_events.relay SET term = NULL, holder = NULL, host = NULL, turn = turn + 1, \
        expires_at = '-infinity', topic_id = $1, partitions = $2";
    let values: Parameters = vec![(&topic_id, Type::UUID), (&partitions, Type::INT4)];
    within(session.execute_typed(relay, &values)).await?;
    within(session.batch_execute("DELETE FROM task_events.positions")).await?;
    let partitions: Vec<i32> = outbox.positions.keys().copied().collect();
    let offsets: Vec<i64> = outbox.positions.values().copied().collect();
    let positions = "INSERT INTO task_events.positions (partition, position) SELECT * FROM unnest($1::int4[], $2::int8[])";
    let values: Parameters = vec![(&partitions, Type::INT4_ARRAY), (&offsets, Type::INT8_ARRAY)];
    within(session.execute_typed(positions, &values)).await?;
    let last = i64::try_from(outbox.last_seq).unwrap_or(i64::MAX);
    let numbers = "SELECT setval(s, GREATEST($1::int8, nextval(s))) \
        FROM CAST(pg_get_serial_sequence('task_events.outbox', 'seq') AS regclass) s";
    within(session.query_typed(numbers, &[(&last, Type::INT8)])).await?;
    Ok(())
}
