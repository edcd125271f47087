//! A database whose tasks were moved into an embedded store: no API serves it any more.
//!
//! # Invariants
//!
//! 1. *Closed as a whole.* [`close`] and [`record`] belong into the transaction that reads the tasks: whoever sees the row
//!    finds tables that take no change, also from a replica that was paused meanwhile and wakes up.
//! 2. *Older programs refuse it, too*: the schema says that it needs a program which knows of departures.

use chrono::{DateTime, Utc};
use tokio_postgres::Client;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::error::{DatabaseError, Trouble};
use crate::time::format_time;

/// No row is added or changed. What is there stays.
const CLOSE: &str = "ALTER TABLE task_events.relay ADD CONSTRAINT moved_away CHECK (false) NOT VALID; \
    ALTER TABLE task_events.tasks ADD CONSTRAINT moved_away CHECK (false) NOT VALID; \
    ALTER TABLE task_events.outbox ADD CONSTRAINT moved_away CHECK (false) NOT VALID; \
    ALTER TABLE task_events.answers ADD CONSTRAINT moved_away CHECK (false) NOT VALID; \
    LOCK TABLE task_events.positions IN SHARE ROW EXCLUSIVE MODE; \
    UPDATE task_events.migrations SET works_from = 3 WHERE version = 3";
const REOPEN: &str = "ALTER TABLE task_events.relay DROP CONSTRAINT IF EXISTS moved_away; \
    ALTER TABLE task_events.tasks DROP CONSTRAINT IF EXISTS moved_away; \
    ALTER TABLE task_events.outbox DROP CONSTRAINT IF EXISTS moved_away; \
    ALTER TABLE task_events.answers DROP CONSTRAINT IF EXISTS moved_away; \
    UPDATE task_events.migrations SET works_from = 1 WHERE version = 3; \
    DELETE FROM task_events.departures";

/// Where the tasks of a database went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure {
    /// Names the move, here and in the folder.
    pub id: Uuid,
    /// The folder of the embedded store.
    pub folder: String,
    /// The machine that it is on.
    pub host: String,
}

/// In a transaction: from now on nobody else reads the tables, and after it none of them takes a change.
pub async fn close(client: &Client) -> Result<(), DatabaseError> {
    Ok(client.batch_execute(CLOSE).await?)
}

/// In the transaction that closed the tables: notes where the tasks are from its commit on.
pub async fn record(client: &Client, departure: &Departure) -> Result<(), DatabaseError> {
    let Departure { id, folder, host } = departure;
    let note = "INSERT INTO task_events.departures (id, folder, host) VALUES ($1, $2, $3)";
    client.query_typed(note, &[(id, Type::UUID), (folder, Type::TEXT), (host, Type::TEXT)]).await?;
    Ok(())
}

/// In a transaction: has the database served again, as it was.
pub async fn reopen(client: &Client) -> Result<(), DatabaseError> {
    Ok(client.batch_execute(REOPEN).await?)
}

/// Where its tasks went and when, if they did. Its schema has to be up to date.
pub async fn find(client: &Client) -> Result<Option<(Departure, DateTime<Utc>)>, DatabaseError> {
    let rows = client.query_typed("SELECT id, folder, host, at FROM task_events.departures", &[]).await?;
    Ok(rows.first().map(|row| {
        let departure = Departure { id: row.get(0), folder: row.get(1), host: row.get(2) };
        (departure, row.get(3))
    }))
}

/// Refuses a database whose tasks are elsewhere.
pub(super) async fn check(client: &Client) -> Result<(), DatabaseError> {
    let Some((Departure { id, folder, host }, at)) = find(client).await? else { return Ok(()) };
    let at = format_time(at);
    Err(DatabaseError::new(
        Trouble::MovedAway,
        format!(
            "the tasks of the database were moved to the folder {folder} on {host} at {at} (move {id}): start the API there, without DATABASE_URL; if that folder is lost for good, `taskctl db export --cancel --folder-is-lost` has the database served again as it was then"
        ),
    ))
}
