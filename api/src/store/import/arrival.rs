//! Whether the tasks of a store that was moved are in a database: it has the row of the move, which came with them in one
//! transaction. Its address says nothing: it may be a pooler's or a tunnel's, and another database may have it later.

use std::path::Path;

use task_events::database::{DatabaseError, Session};
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::super::moved::Moved;
use super::error::ImportError;
use super::staging::within;

/// Refuses a database that does not have the tasks of that store. Changes nothing there.
pub async fn check_arrival(
    session: &Session,
    place: &str,
    folder: &Path,
    moved: &Moved,
) -> Result<(), DatabaseError> {
    match has(session, moved.id).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(DatabaseError::address(missing(place, folder, moved))),
        Err(ImportError::Database(error)) => Err(error),
        Err(error) => Err(DatabaseError::address(error)),
    }
}

/// What to do about a database without the tasks.
pub(super) fn missing(place: &str, folder: &Path, moved: &Moved) -> String {
    let Moved { to, id, .. } = moved;
    let folder = folder.display();
    format!(
        "the {place} does not have the tasks of {folder}, which were moved to the {to} (move {id}): name the database that has them, or restore it; if it is lost for good, `taskctl db import --cancel --database-is-lost` has the embedded store served again as it was then"
    )
}

/// Whether the database has what came with that move. Its schema may be of any version, or missing.
pub(super) async fn has(session: &Session, id: Uuid) -> Result<bool, ImportError> {
    let is_known = "SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
        WHERE n.nspname = 'task_events' AND c.relname = 'moves'";
    if within(session.query_typed(is_known, &[])).await?.is_empty() {
        return Ok(false);
    }
    let find = "SELECT FROM task_events.moves WHERE id = $1";
    Ok(!within(session.query_typed(find, &[(&id, Type::UUID)])).await?.is_empty())
}
