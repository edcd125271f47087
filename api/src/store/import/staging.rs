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

use super::super::postgres::rows::Parameters;
use super::batch::Batch;
use super::error::ImportError;

/// Time for one statement but the last ones.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// One process at a time begins, ends or gives up a move.
pub(super) const LOCK: &str = "SELECT pg_advisory_xact_lock(8386112019268695664)";

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

const NOTES: &str = "CREATE SCHEMA task_events_import; \
    CREATE TABLE task_events_import.moves (id uuid PRIMARY KEY, store uuid NOT NULL, position bigint NOT NULL, \
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

/// Whether the store may be moved there. Changes nothing.
pub(super) async fn check(session: &Session, store: Uuid) -> Result<(), ImportError> {
    if let Some(unfinished) = unfinished(session).await? {
        unfinished.check(store)?;
    }
    check_empty(session).await
}

/// Begins a move of the store as it is at that position of its log, or goes on with it.
pub(super) async fn begin(session: &Session, store: Uuid, position: u64) -> Result<Move, ImportError> {
    let position = i64::try_from(position).unwrap_or(i64::MAX);
    transaction(session, async {
        let found = unfinished(session).await?;
        if let Some(found) = &found {
            found.check(store)?;
            if found.position == position {
                return resumed(session, found.id).await;
            }
            log::warn!(
                "the store has changed since its import began, since an API was started on it: the import begins anew"
            );
            give_up(session, found.id).await?;
        } else if !has_notes(session).await? {
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
pub(super) async fn drop_of(session: &Session, store: Uuid) -> Result<(), ImportError> {
    transaction(session, async {
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
        if within(session.query_typed(&sql, &parameters)).await?.is_empty() {
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
    fn check(&self, store: Uuid) -> Result<(), ImportError> {
        if self.store == store {
            return Ok(());
        }
        Err(ImportError::Refused(
            "an import of another store into this database is not finished: finish it, or give it up with `taskctl db import --cancel` on that store, or with DROP SCHEMA task_events_import CASCADE in the database"
                .to_owned(),
        ))
    }
}

pub(super) async fn has_notes(session: &Session) -> Result<bool, ImportError> {
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

/// Does that in a transaction, under [`LOCK`]. What is looked at after a lock is as it is then.
pub(super) async fn transaction<T>(
    session: &Session,
    work: impl Future<Output = Result<T, ImportError>>,
) -> Result<T, ImportError> {
    within(session.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED")).await?;
    within(session.batch_execute(LOCK)).await?;
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
