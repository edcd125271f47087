//! The versions of the schema: one after the other, forward only.
//!
//! A migration adds what its program needs and takes nothing away that the program before it uses: old and new replicas
//! work side by side during an update. What is no longer used is removed one version later.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::departure;
use super::error::{DatabaseError, Trouble};

/// One step of the schema.
#[derive(Debug)]
pub struct Migration {
    /// Rises by one.
    pub version: i32,
    /// What it adds.
    pub name: &'static str,
    /// Programs that know this version at least work with it.
    works_from: i32,
    sql: &'static str,
}

/// All of them, in order.
const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "tasks, outbox, answers, groups, relay, positions",
        works_from: 1,
        sql: include_str!("0001.sql"),
    },
    Migration { version: 2, name: "moves of embedded stores", works_from: 1, sql: include_str!("0002.sql") },
    // At least 3, while a database's tasks are moved away.
    Migration { version: 3, name: "moves to embedded stores", works_from: 1, sql: include_str!("0003.sql") },
];

/// Tells the lock of migrations from those of other programs in the database.
const LOCK: i64 = 0x7461_736b_6576_6e74;
/// Time to read what the database has: a server that freezes behind a login may not be missed otherwise.
const STATE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for another process to finish its migrations, and for our own.
const MIGRATE_TIMEOUT: Duration = Duration::from_secs(300);

/// A version that the database has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Its number.
    pub version: i32,
    /// What it added.
    pub name: String,
    /// When.
    pub applied_at: DateTime<Utc>,
    works_from: i32,
}

/// The schema of a database, as this program sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaState {
    /// What it has, in order.
    pub applied: Vec<Applied>,
}

impl SchemaState {
    /// The version, 0 for none.
    pub fn version(&self) -> i32 {
        self.applied.last().map_or(0, |applied| applied.version)
    }

    /// What it lacks.
    pub fn pending(&self) -> impl Iterator<Item = &'static Migration> + use<> {
        let version = self.version();
        MIGRATIONS.iter().filter(move |migration| migration.version > version)
    }

    /// Whether this program can work with it; if not, what to do.
    pub fn check(&self) -> Result<(), DatabaseError> {
        let known = MIGRATIONS.last().map_or(0, |migration| migration.version);
        let version = self.version();
        if version < known {
            return Err(DatabaseError::new(
                Trouble::Schema,
                format!(
                    "the database's schema has version {version}, and this program needs {known}: run `taskctl db migrate`"
                ),
            ));
        }
        let needed = self.applied.iter().map(|applied| applied.works_from).max().unwrap_or(0);
        if needed > known {
            return Err(DatabaseError::new(
                Trouble::Schema,
                format!(
                    "the database's schema has version {version}, which needs a program that knows version {needed}, and this one knows {known}: start the newer program"
                ),
            ));
        }
        Ok(())
    }
}

/// What the database has.
pub async fn state(client: &Client) -> Result<SchemaState, DatabaseError> {
    let read = timeout(STATE_TIMEOUT, read(client)).await;
    read.unwrap_or_else(|_| Err(DatabaseError::timeout("look at its schema")))
}

async fn read(client: &Client) -> Result<SchemaState, DatabaseError> {
    // Read from the catalogue: a name that was looked up before, and was missing, is missing in the server's cache still
    // when the lock of migrations has been waited for.
    let there = "SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
        WHERE n.nspname = 'task_events' AND c.relname = 'migrations'";
    if client.query_typed(there, &[]).await?.is_empty() {
        return Ok(SchemaState { applied: Vec::new() });
    }
    let rows = "SELECT version, name, applied_at, works_from FROM task_events.migrations ORDER BY version";
    let rows = client.query_typed(rows, &[]).await?;
    let applied = rows.iter().map(|row| Applied {
        version: row.get(0),
        name: row.get(1),
        applied_at: row.get(2),
        works_from: row.get(3),
    });
    Ok(SchemaState { applied: applied.collect() })
}

/// Brings the schema up to date, one process at a time, all or nothing. Returns what was applied.
pub async fn migrate(client: &Client) -> Result<Vec<&'static Migration>, DatabaseError> {
    let migrated = timeout(MIGRATE_TIMEOUT, migrate_locked(client)).await;
    migrated.unwrap_or_else(|_| Err(DatabaseError::timeout("migrate")))
}

async fn migrate_locked(client: &Client) -> Result<Vec<&'static Migration>, DatabaseError> {
    client
        .batch_execute(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = '290s'; SET LOCAL lock_timeout = '290s'",
        )
        .await?;
    let migrated = apply(client).await;
    let end = client.batch_execute(if migrated.is_ok() { "COMMIT" } else { "ROLLBACK" }).await;
    let applied = migrated?;
    end?;
    Ok(applied)
}

async fn apply(client: &Client) -> Result<Vec<&'static Migration>, DatabaseError> {
    client.query_typed("SELECT 1 FROM pg_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)]).await?;
    // Whoever waits for a table has all others wait behind it: shortly, and again later.
    client.batch_execute("SET LOCAL lock_timeout = '2s'").await?;
    let state = state(client).await?;
    if state.applied.is_empty() {
        client
            .batch_execute(
                "CREATE SCHEMA IF NOT EXISTS task_events; \
                 CREATE TABLE task_events.migrations (version integer PRIMARY KEY, name text NOT NULL, \
                 works_from integer NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())",
            )
            .await?;
    }
    let mut applied = Vec::new();
    for migration in state.pending() {
        client.batch_execute(migration.sql).await?;
        let note = "INSERT INTO task_events.migrations (version, name, works_from) VALUES ($1, $2, $3)";
        let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] = [
            (&migration.version, Type::INT4),
            (&migration.name, Type::TEXT),
            (&migration.works_from, Type::INT4),
        ];
        client.query_typed(note, &values).await?;
        applied.push(migration);
    }
    Ok(applied)
}

/// Has the schema as this program needs it: brings it up to date where `migrates`, else refuses one that is not. A database
/// whose tasks were moved away is refused, too.
pub async fn ensure(client: &Client, migrates: bool) -> Result<(), DatabaseError> {
    let mut found = state(client).await?;
    if migrates && found.pending().next().is_some() {
        for migration in migrate(client).await? {
            log::info!("the database's schema has version {} now: {}", migration.version, migration.name);
        }
        found = state(client).await?;
    }
    found.check()?;
    departure::check(client).await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Barrier;
    use tokio::task::JoinSet;

    use super::super::{DatabaseUrl, connect};
    use super::*;

    const REPLICAS: usize = 6;

    /// As replicas do that are started together.
    #[tokio::test]
    async fn of_several_that_find_an_empty_database_one_migrates_and_all_go_on() {
        let Some(server) = harness::Postgres::shared().unwrap() else { return };
        for round in 0..5 {
            let name = format!("together{round}");
            server.create_database(&name).unwrap();
            let level = if round % 2 == 0 { "read committed" } else { "serializable" };
            let level = format!("ALTER DATABASE {name} SET default_transaction_isolation = '{level}'");
            server.sql("postgres", &level).unwrap();
            let endpoint = DatabaseUrl::new(&server.url(&name)).endpoint().await.unwrap();
            let looked = Arc::new(Barrier::new(REPLICAS));
            let mut replicas = JoinSet::new();
            for _ in 0..REPLICAS {
                let (endpoint, looked) = (endpoint.clone(), Arc::clone(&looked));
                replicas.spawn(async move {
                    let session = connect(&endpoint, None).await.unwrap();
                    assert_eq!(state(&session).await.unwrap().version(), 0);
                    looked.wait().await;
                    let applied = migrate(&session).await.unwrap().len();
                    ensure(&session, true).await.unwrap();
                    applied
                });
            }
            let applied: usize = replicas.join_all().await.into_iter().sum();
            assert_eq!(applied, MIGRATIONS.len(), "once");
        }
    }

    /// As a server whose disk hangs, and whose kernel goes on to acknowledge.
    #[tokio::test]
    async fn a_server_that_freezes_behind_the_login_is_left_in_time() {
        let Some(server) = harness::Postgres::shared().unwrap() else { return };
        server.create_database("frozen").unwrap();
        let proxy = harness::Proxy::start(0, server.port(), 1).await.unwrap();
        let endpoint = DatabaseUrl::new(&server.url_at(proxy.port(), "frozen")).endpoint().await.unwrap();
        let session = connect(&endpoint, None).await.unwrap();
        proxy.set(harness::Mode::HalfOpen, 100);
        tokio::time::pause();
        for migrates in [false, true] {
            let left = timeout(2 * STATE_TIMEOUT, ensure(&session, migrates)).await.expect("in time");
            assert!(left.unwrap_err().may_pass(), "it is tried again");
        }
    }

    #[test]
    fn versions_rise_by_one_and_the_program_before_works_with_each() {
        for (index, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(migration.version, index as i32 + 1);
            assert!(migration.works_from <= (migration.version - 1).max(1), "{}", migration.name);
        }
    }

    #[test]
    fn a_schema_that_does_not_work_with_this_program_is_refused() {
        let at = |version, works_from| Applied {
            version,
            name: String::new(),
            applied_at: DateTime::default(),
            works_from,
        };
        let known = MIGRATIONS.len() as i32;
        let schema = |applied| SchemaState { applied };
        assert!(schema(vec![]).check().unwrap_err().to_string().contains("taskctl db migrate"));
        assert!(schema(vec![at(known, 1)]).check().is_ok());
        assert!(schema(vec![at(known, 1), at(known + 1, known)]).check().is_ok(), "one newer");
        let error = schema(vec![at(known, 1), at(known + 2, known + 1)]).check().unwrap_err();
        assert!(error.to_string().contains("newer program"), "{error}");
    }
}
