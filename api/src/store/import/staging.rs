//! The move as the database knows it, and the tables in which all is collected: the schema `task_events_import`.
//!
//! What was added is noted in the same statement, and only where it follows what was added last: a run that another one
//! has overtaken changes nothing.

use std::collections::HashMap;
use std::time::Duration;

use task_events::database::{DatabaseError, Session};
use tokio::time::timeout;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::super::moved::Contents;
use super::super::postgres::rows::Parameters;
use super::batch::Batch;
use super::error::ImportError;

/// Time for the answer to one statement but the last ones: more than the server gives it, so that the server's word counts.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(40);
/// In each transaction, and for it alone: a pooler may give the next one another connection. What is noted as staged has
/// to be on disk.
const SETTINGS: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = '30s'; \
    SET LOCAL lock_timeout = '10s'; \
    SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'";
/// One process at a time begins, ends or gives up a move.
pub(in crate::store) const LOCK: &str = "SELECT pg_advisory_xact_lock(8386112019268695664)";

/// What a move consists of, in this order: what is added later takes the place of earlier answers under the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Part {
    Tasks,
    FormerAnswers,
    Answers,
    Events,
}

impl Part {
    pub(super) const ALL: [Self; 4] = [Self::Tasks, Self::FormerAnswers, Self::Answers, Self::Events];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tasks => "tasks",
            Self::FormerAnswers => "former_answers",
            Self::Answers => "answers",
            Self::Events => "events",
        }
    }
}

/// A move that has begun.
pub(super) struct Move {
    id: Uuid,
    /// How many values are staged, and which was the last.
    staged: HashMap<Part, (u64, Option<Vec<u8>>)>,
}

const SCHEMA: &str = "CREATE SCHEMA task_events_import";
const NOTES: &str = "CREATE TABLE task_events_import.moves (id uuid PRIMARY KEY, store uuid NOT NULL, position bigint NOT NULL, \
    begun_at timestamptz NOT NULL DEFAULT now(), finished_at timestamptz, given_up_at timestamptz); \
    CREATE TABLE task_events_import.parts (move uuid REFERENCES task_events_import.moves ON DELETE CASCADE, \
    part text, count bigint NOT NULL DEFAULT 0, last bytea, PRIMARY KEY (move, part))";
const TABLES: &str = "CREATE TABLE task_events_import.tasks (id uuid NOT NULL, title text NOT NULL, \
    status smallint NOT NULL, owner_id uuid, version bigint NOT NULL, created_at timestamptz NOT NULL, \
    updated_at timestamptz NOT NULL); \
    CREATE TABLE task_events_import.answers (key bytea PRIMARY KEY, fingerprint bytea NOT NULL, task bytea NOT NULL, \
    expires_at timestamptz NOT NULL); \
    CREATE TABLE task_events_import.events (seq bigint NOT NULL, event_id uuid NOT NULL, task_id uuid NOT NULL, \
    hash integer NOT NULL, encoding smallint NOT NULL, payload bytea NOT NULL, traceparent text)";
pub(super) const DROP_TABLES: &str = "DROP TABLE IF EXISTS task_events_import.tasks, task_events_import.answers, \
    task_events_import.events";

/// Whether the store may be moved there; one of a version before the log has no number. Changes nothing.
pub(super) async fn check(session: &Session, store: Option<Uuid>) -> Result<(), ImportError> {
    if let Some(unfinished) = unfinished(session).await? {
        unfinished.check(store)?;
    }
    check_unserved(session).await?;
    check_empty(session).await
}

/// Begins a move of the store as it is at that position of its log, or goes on with it.
pub(super) async fn begin(session: &Session, store: Uuid, position: u64) -> Result<Move, ImportError> {
    let position = i64::try_from(position).unwrap_or(i64::MAX);
    locked(session, async {
        let found = unfinished(session).await?;
        if let Some(found) = &found {
            found.check(Some(store))?;
            if found.position == position {
                return resumed(session, found.id).await;
            }
            log::warn!(
                "the store has changed since its import began, since an API was started on it: the import begins anew"
            );
            give_up(session, found.id).await?;
        } else if !has_notes(session).await? {
            // Who may not make one is given it by an administrator.
            if !has_schema(session).await? {
                within(session.batch_execute(SCHEMA)).await?;
            }
            within(session.batch_execute(NOTES)).await?;
        }
        check_empty(session).await?;
        let id = Uuid::new_v4();
        let note = "INSERT INTO task_events_import.moves (id, store, position) VALUES ($1, $2, $3)";
        let values: Parameters = vec![(&id, Type::UUID), (&store, Type::UUID), (&position, Type::INT8)];
        within(session.query_typed(note, &values)).await?;
        let parts: Vec<&str> = Part::ALL.iter().map(|part| part.name()).collect();
        let parts: Parameters = vec![(&id, Type::UUID), (&parts, Type::TEXT_ARRAY)];
        let note = "INSERT INTO task_events_import.parts (move, part) SELECT $1, unnest($2::text[])";
        within(session.query_typed(note, &parts)).await?;
        within(session.batch_execute(TABLES)).await?;
        Ok(Move { id, staged: HashMap::new() })
    })
    .await
}

/// Gives up what was staged of that store, if anything was.
pub(super) async fn drop_of(session: &Session, store: Option<Uuid>) -> Result<(), ImportError> {
    locked(session, async {
        if let Some(found) = unfinished(session).await? {
            found.check(store)?;
            give_up(session, found.id).await?;
        }
        Ok(())
    })
    .await
}

impl Move {
    pub(super) fn id(&self) -> Uuid {
        self.id
    }

    /// How much is staged.
    pub(super) fn contents(&self) -> Contents {
        Contents {
            tasks: self.count(Part::Tasks),
            answers: self.count(Part::Answers),
            former_answers: self.count(Part::FormerAnswers),
            events: self.count(Part::Events),
        }
    }

    pub(super) fn count(&self, part: Part) -> u64 {
        self.staged.get(&part).map_or(0, |(count, _)| *count)
    }

    pub(super) fn last(&self, part: Part) -> Option<&[u8]> {
        self.staged.get(&part).and_then(|(_, last)| last.as_deref())
    }

    /// Adds what follows. Returns how many values that are.
    pub(super) async fn add(
        &mut self,
        session: &Session,
        part: Part,
        batch: &Batch,
    ) -> Result<u64, ImportError> {
        let sql = format!(
            "WITH noted AS (UPDATE task_events_import.parts SET count = count + $3, last = $4 \
             WHERE move = $1 AND part = $2 AND last IS NOT DISTINCT FROM $5 RETURNING part), \
             added AS ({}) SELECT part FROM noted",
            batch.rows.statement()
        );
        let (name, count) = (part.name(), i64::try_from(batch.count).unwrap_or(i64::MAX));
        let staged = self.staged.entry(part).or_default();
        let mut parameters: Parameters = vec![
            (&self.id, Type::UUID),
            (&name, Type::TEXT),
            (&count, Type::INT8),
            (&batch.last, Type::BYTEA),
            (&staged.1, Type::BYTEA),
        ];
        parameters.extend(batch.rows.parameters());
        let added = transaction(session, within(session.query_typed(&sql, &parameters))).await?;
        if added.is_empty() {
            drop(parameters);
            // The last batch of a run that was killed came through after this one began: go on behind it.
            *self = resumed(session, self.id).await?;
            if self.staged.is_empty() {
                let why = "the import was given up meanwhile, by a run with --cancel";
                return Err(ImportError::Refused(why.to_owned()));
            }
            return Ok(0);
        }
        staged.0 += batch.count;
        staged.1 = Some(batch.last.clone());
        Ok(batch.count)
    }
}

/// A move that has begun and not ended.
struct Unfinished {
    id: Uuid,
    store: Uuid,
    position: i64,
}

impl Unfinished {
    fn check(&self, store: Option<Uuid>) -> Result<(), ImportError> {
        if Some(self.store) == store {
            return Ok(());
        }
        Err(ImportError::Refused(
            "an import of another store into this database is not finished: finish it, or give it up with `taskctl db import --cancel` on that store, or with DROP SCHEMA task_events_import CASCADE in the database"
                .to_owned(),
        ))
    }
}

pub(super) async fn has_notes(session: &Session) -> Result<bool, ImportError> {
    let there = "SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
        WHERE n.nspname = 'task_events_import' AND c.relname = 'moves'";
    Ok(!within(session.query_typed(there, &[])).await?.is_empty())
}

async fn has_schema(session: &Session) -> Result<bool, ImportError> {
    let there = "SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'task_events_import'";
    Ok(!within(session.query_typed(there, &[])).await?.is_empty())
}

async fn unfinished(session: &Session) -> Result<Option<Unfinished>, ImportError> {
    if !has_notes(session).await? {
        return Ok(None);
    }
    let find = "SELECT id, store, position FROM task_events_import.moves \
        WHERE finished_at IS NULL AND given_up_at IS NULL";
    let rows = within(session.query_typed(find, &[])).await?;
    Ok(rows.first().map(|row| Unfinished { id: row.get(0), store: row.get(1), position: row.get(2) }))
}

async fn resumed(session: &Session, id: Uuid) -> Result<Move, ImportError> {
    let find = "SELECT part, count, last FROM task_events_import.parts WHERE move = $1";
    let rows = within(session.query_typed(find, &[(&id, Type::UUID)])).await?;
    let staged = rows.iter().filter_map(|row| {
        let part = Part::ALL.into_iter().find(|part| part.name() == row.get::<_, &str>(0))?;
        Some((part, (u64::try_from(row.get::<_, i64>(1)).unwrap_or(0), row.get(2))))
    });
    Ok(Move { id, staged: staged.collect() })
}

/// In a transaction that has [`LOCK`]: a move that is never finished. It stays noted as such, for a store that is marked.
pub(super) async fn give_up(session: &Session, id: Uuid) -> Result<(), ImportError> {
    let note =
        "UPDATE task_events_import.moves SET given_up_at = now() WHERE id = $1 AND finished_at IS NULL";
    let parts = "DELETE FROM task_events_import.parts WHERE move = $1";
    for sql in [note, parts] {
        within(session.execute_typed(sql, &[(&id, Type::UUID)])).await?;
    }
    within(session.batch_execute(DROP_TABLES)).await
}

/// Whether the store's tables are empty.
pub(super) async fn check_empty(session: &Session) -> Result<(), ImportError> {
    let look = "SELECT EXISTS (SELECT FROM task_events.tasks) OR EXISTS (SELECT FROM task_events.outbox) \
        OR EXISTS (SELECT FROM task_events.answers)";
    let rows = within(session.query_typed(look, &[])).await?;
    if rows.first().is_some_and(|row| row.get(0)) {
        return Err(ImportError::Refused(
            "the database has tasks, events or answers already, and two stores cannot be merged: import into an empty one"
                .to_owned(),
        ));
    }
    Ok(())
}

/// Whether no replica publishes from the database, as one that is started on it does: its callers would get 503, and see
/// an empty store, for as long as the last transaction takes.
pub(super) async fn check_unserved(session: &Session) -> Result<(), ImportError> {
    let look = "SELECT host FROM task_events.relay WHERE expires_at > clock_timestamp()";
    let rows = within(session.query_typed(look, &[])).await?;
    let Some(row) = rows.first() else { return Ok(()) };
    let host: Option<&str> = row.get(0);
    Err(ImportError::Refused(format!(
        "an API is running on the database, on {}: stop all of them and run the import again (one that was killed counts until its turn as the publisher has expired, some seconds)",
        host.unwrap_or("a host without a name")
    )))
}

/// Does that in a transaction, under [`LOCK`]. What is looked at after a lock is as it is then.
pub(super) async fn locked<T>(
    session: &Session,
    work: impl Future<Output = Result<T, ImportError>>,
) -> Result<T, ImportError> {
    let work = async {
        within(session.batch_execute(LOCK)).await?;
        work.await
    };
    transaction(session, work).await
}

async fn transaction<T>(
    session: &Session,
    work: impl Future<Output = Result<T, ImportError>>,
) -> Result<T, ImportError> {
    within(session.batch_execute(SETTINGS)).await?;
    let done = work.await;
    let end = within(session.batch_execute(if done.is_ok() { "COMMIT" } else { "ROLLBACK" })).await;
    let done = done?;
    end?;
    Ok(done)
}

pub(super) async fn within<T>(
    call: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, ImportError> {
    within_time(STATEMENT_TIMEOUT, call).await
}

pub(super) async fn within_time<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, ImportError> {
    match timeout(limit, call).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(DatabaseError::timeout("the import").into()),
    }
}
