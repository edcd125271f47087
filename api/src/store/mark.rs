//! Reading and writing the mark of a store that was moved ([`Moved`]). The folder is locked by the caller, and the store
//! in it closed.

use std::path::Path;

use task_events::disk::FileSystem;

use super::failure::{self, StoreError};
use super::moved::Moved;
use super::schema::{self, Meta};

/// The mark of the store in the folder, if it has one. Blocks.
pub(super) fn find(dir: &Path) -> Result<Option<Moved>, StoreError> {
    within(dir, |path| Ok(schema::open_present(&FileSystem, path)?.1.and_then(|meta| meta.moved)))
}

/// What a marked store has beside its tasks. Blocks.
pub(super) fn read(dir: &Path) -> Result<Meta, StoreError> {
    within(dir, |path| Ok(schema::reopen(&FileSystem, path)?.1))
}

/// Marks the store in the folder, or takes its mark away. On disk when it returns. Blocks.
pub(super) fn write(dir: &Path, moved: Option<Moved>) -> Result<(), StoreError> {
    within(dir, |path| {
        let (database, meta) = schema::reopen(&FileSystem, path)?;
        let write = schema::begin(&database)?;
        schema::write_meta(&write, &meta.marked(moved))?;
        Ok(write.commit()?)
    })
}

fn within<T>(dir: &Path, work: impl FnOnce(&Path) -> Result<T, redb::Error>) -> Result<T, StoreError> {
    let path = dir.join("tasks.redb");
    work(&path).map_err(|error| {
        StoreError::Unavailable(format!("{}: {error}; {}", path.display(), failure::remedy(&error)))
    })
}
