//! The embedded store as it is built: marked from its first moment, so that no API serves a part of it.
//!
//! Its name appears once the mark is in it, and when it is removed it goes last: whatever a kill leaves is marked, or no
//! store at all.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::Database;
use rustix::process::geteuid;
use task_events::disk::{Disk, FileSystem};

use super::super::answers::Answers;
use super::super::delivery::OutboxEntry;
use super::super::draft::Draft;
use super::super::failure::{self, StoreError};
use super::super::moved::Moved;
use super::super::outbox::{Ledger, Stored};
use super::super::overlay::Overlay;
use super::super::schema;
use super::super::startup::{State, append, apply_now};
use super::super::wal::Limits;
use super::super::wal::appender::Appender;
use super::super::wal::files::Files;
use super::super::{Store, mark};
use super::error::ExportError;
use super::source::Kept;
use crate::task::Task;

/// The store before it has its mark.
const UNMARKED: [&str; 2] = ["tasks.arriving", "tasks.new"];
/// The file that makes a folder a store.
const DATABASE: &str = "tasks.redb";

/// A store that is being filled.
pub(super) struct Destination {
    path: PathBuf,
    database: Database,
    answers: Answers,
    appender: Appender,
    state: State,
    limits: Limits,
}

/// The mark of a move into that folder which is not finished; anything else there is refused. Blocks.
pub(super) fn look(dir: &Path) -> Result<Option<Moved>, ExportError> {
    if Store::is_in(dir) {
        if let Some(moved) = mark::find(dir)?.filter(|moved| moved.arrives) {
            return Ok(Some(moved));
        }
        return Err(used(dir, DATABASE));
    }
    let files = files(dir).map_err(|error| of_folder(dir, &error))?;
    match files.iter().find(|name| !UNMARKED.contains(&name.as_str())) {
        Some(name) => Err(used(dir, name)),
        None => Ok(None),
    }
}

fn used(dir: &Path, name: &str) -> ExportError {
    let dir = dir.display();
    ExportError::Refused(format!(
        "{dir} holds a store already ({name}), and two cannot be merged: set STATE_DIR to another folder, or move the files tasks.* away"
    ))
}

/// Root could do it for the user whose folder it is, who then could not open what root has written. Blocks.
pub(super) fn refuse_stranger(dir: &Path) -> Result<(), ExportError> {
    let folder =
        dir.ancestors().find_map(|folder| fs::metadata(folder).ok().map(|found| (folder, found.uid())));
    match folder {
        Some((folder, owner)) if owner != 0 && geteuid().is_root() => Err(ExportError::Refused(format!(
            "{} belongs to the user with the id {owner}, who could not open what root writes there: run the export as that user",
            folder.display()
        ))),
        _ => Ok(()),
    }
}

/// Names of a store's files in the folder.
fn files(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: io::Result<Vec<String>> = names.collect();
    Ok(names?.into_iter().filter(|name| name.starts_with("tasks.")).collect())
}

/// Removes what a move that is given up has left. Blocks.
pub(super) fn clear(dir: &Path) -> Result<(), StoreError> {
    let clear = || {
        let path = dir.join(DATABASE);
        for name in files(dir)?.iter().filter(|name| *name != DATABASE) {
            FileSystem.remove(&dir.join(name))?;
        }
        FileSystem.sync_folder(&path)?;
        if FileSystem.exists(&path)? {
            FileSystem.remove(&path)?;
        }
        FileSystem.sync_folder(&path)
    };
    clear().map_err(|error| of_folder(dir, &error))
}

fn of_folder(dir: &Path, error: &io::Error) -> StoreError {
    StoreError::Unavailable(format!("{}: {error}", dir.display()))
}

impl Destination {
    /// An empty store with that mark, in a folder that holds none. Blocks.
    pub(super) fn create(dir: &Path, moved: Moved, outbox: Stored) -> Result<Self, StoreError> {
        let path = dir.join(DATABASE);
        let at_path = |error: redb::Error| at(&path, &error);
        let unmarked = dir.join(UNMARKED[0]);
        {
            let (database, meta) = schema::open(&FileSystem, &unmarked).map_err(at_path)?;
            let write = schema::begin(&database).map_err(at_path)?;
            schema::write_meta(&write, &meta.arriving(outbox, moved)).map_err(at_path)?;
            write.commit().map_err(|error| at_path(error.into()))?;
        }
        let named = FileSystem.rename(&unmarked, &path).and_then(|()| FileSystem.sync_folder(&path));
        named.map_err(|error| at_path(error.into()))?;
        Self::open(path.clone()).map_err(at_path)
    }

    fn open(path: PathBuf) -> Result<Self, redb::Error> {
        let (disk, limits): (Arc<dyn Disk>, _) = (Arc::new(FileSystem), Limits::default());
        let (database, meta) = schema::reopen(&*disk, &path)?;
        let answers = Answers::open(Arc::clone(&disk), &path, &database, limits.answers)?;
        let files = Arc::new(Files::find(disk, &path, meta.store, limits)?);
        let appender = Appender::after(files, limits, meta.applied.seq)?;
        let ledger = Ledger::from_stored(meta.outbox.clone());
        let state = State { overlay: Overlay::default(), ledger, position: meta.applied, meta };
        Ok(Self { path, database, answers, appender, state, limits })
    }

    /// Blocks; on disk when it returns.
    pub(super) fn add_tasks(&mut self, tasks: Vec<Task>) -> Result<(), StoreError> {
        tasks.into_iter().for_each(|task| self.state.overlay.active.put_task(Arc::new(task)));
        self.apply()
    }

    /// Blocks; on disk when it returns.
    pub(super) fn add_answers(&mut self, answers: Vec<Kept>) -> Result<(), StoreError> {
        for Kept { key, answer, .. } in answers {
            self.state.overlay.active.answers.insert(key.into(), Arc::new(answer));
        }
        self.apply()
    }

    /// Adds events to the log, each with its number and bytes. Blocks; on disk when it returns.
    pub(super) fn add_events(&mut self, events: &[OutboxEntry]) -> Result<(), StoreError> {
        let mut draft = Draft::default();
        for event in events {
            draft.moved(event);
            if draft.frames.len() >= self.limits.group_bytes {
                self.append(&mut draft)?;
            }
        }
        self.append(&mut draft)?;
        self.apply()
    }

    /// Has the mark say that all is there. Blocks.
    pub(super) fn complete(self) -> Result<(), StoreError> {
        let moved = self.state.meta.moved.clone().map(|moved| Moved { is_done: true, ..moved });
        let path = self.path;
        // The file is to be free.
        drop((self.database, self.answers, self.appender));
        mark::write(path.parent().unwrap_or(Path::new(".")), moved)
    }

    fn append(&mut self, draft: &mut Draft) -> Result<(), StoreError> {
        append(&mut self.appender, draft, &mut self.state).map_err(|error| at(&self.path, &error))?;
        Ok(())
    }

    fn apply(&mut self) -> Result<(), StoreError> {
        apply_now(&self.database, &self.answers, &mut self.state, &self.limits)
            .map_err(|error| at(&self.path, &error))
    }
}

fn at(path: &Path, error: &redb::Error) -> StoreError {
    StoreError::Unavailable(format!("{}: {error}; {}", path.display(), failure::remedy(error)))
}
