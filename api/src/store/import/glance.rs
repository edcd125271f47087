//! A look at an embedded store that changes nothing in it: the tables of a former version stay as they are, and what is in
//! the log only stays there.

use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTableMetadata};
use task_events::disk::FileSystem;
use uuid::Uuid;

use super::super::failure::{self, StoreError};
use super::super::moved::{Contents, Moved};
use super::super::outbox::Ledger;
use super::super::schema::{self, ANSWERS, FORMER, OUTBOX, TASKS};
use super::super::wal::Limits;
use super::super::wal::files::Files;
use super::super::wal::recovery::{LogError, read_tail};

/// What is seen.
pub(super) struct Glance {
    /// `None`: it is of a version before the log.
    pub(super) id: Option<Uuid>,
    pub(super) moved: Option<Moved>,
    /// Without what is in the log only.
    pub(super) contents: Contents,
    /// Changes, and notes of deliveries, that are in the log only: the store was not closed in order.
    pub(super) unapplied: u64,
}

impl Glance {
    /// Looks at the store of a folder that is locked. Blocks.
    pub(super) fn at(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("tasks.redb");
        let of_database = |error: redb::Error| {
            StoreError::Unavailable(format!("{}: {error}; {}", path.display(), failure::remedy(&error)))
        };
        let of_log =
            |error: LogError| StoreError::Unavailable(format!("{error}; {}", failure::log_remedy(&error)));
        let (database, meta) = schema::open_present(&FileSystem, &path).map_err(of_database)?;
        let mut contents = stored(&database).map_err(of_database)?;
        let Some(meta) = meta else {
            return Ok(Self { id: None, moved: None, contents, unapplied: 0 });
        };
        contents.events += Ledger::from_stored(meta.outbox).state().waiting;
        let mut unapplied = 0;
        if meta.moved.is_none() {
            let (disk, limits) = (Arc::new(FileSystem), Limits::default());
            let files = Files::find(disk, &path, meta.store, limits).map_err(|error| of_log(error.into()))?;
            let read = read_tail(&FileSystem, &files, &limits, meta.applied, |_, _| {
                unapplied += 1;
                Ok(())
            });
            read.map_err(of_log)?;
        }
        Ok(Self { id: Some(meta.store), moved: meta.moved, contents, unapplied })
    }
}

/// What the tables have. Of the events only those of a former version.
fn stored(database: &Database) -> Result<Contents, redb::Error> {
    let read = database.begin_read()?;
    Ok(Contents {
        tasks: count(&read, TASKS)?,
        answers: count(&read, ANSWERS)?,
        former_answers: count(&read, FORMER)?,
        events: count(&read, OUTBOX)?,
    })
}

fn count<K: redb::Key + 'static, V: redb::Value + 'static>(
    read: &ReadTransaction,
    table: redb::TableDefinition<'_, K, V>,
) -> Result<u64, redb::Error> {
    match read.open_table(table) {
        Ok(table) => Ok(table.len()?),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
