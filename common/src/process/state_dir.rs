//! The state folder of one service: locked by one process at a time, with the instance's id in it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::disk::{Disk, FileSystem, lock_soon};

/// A state folder that this process has locked. The lock ends with the value, or with the process.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    identity: Identity,
    _lock: File,
}

/// The id by which an instance is known: kept in its state folder, over restarts, and replaced when the
/// folder turns out to be a copy of another instance's. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Identity(Arc<Kept>);

#[derive(Debug)]
struct Kept {
    id: Mutex<Uuid>,
    folder: Option<PathBuf>,
}

impl Identity {
    /// An id that lives no longer than the process.
    pub fn in_memory(id: Uuid) -> Self {
        Self(Arc::new(Kept { id: Mutex::new(id), folder: None }))
    }

    /// The id.
    pub fn id(&self) -> Uuid {
        *self.lock()
    }

    /// Replaces the id that another instance uses as well, unless that has been done. Returns the id that
    /// counts now; [`persist`](Self::persist) keeps it.
    pub fn replace(&self, twin: Uuid) -> Uuid {
        let mut id = self.lock();
        if *id == twin {
            *id = Uuid::new_v4();
        }
        *id
    }

    /// Writes the id to its folder. Blocks.
    pub fn persist(&self) -> io::Result<()> {
        let id = self.id();
        self.0.folder.as_deref().map_or(Ok(()), |folder| write_id(folder, id))
    }

    fn lock(&self) -> MutexGuard<'_, Uuid> {
        self.0.id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// Another process works in it.
    #[error("state folder {path} is in use by another process: stop it, or set another STATE_DIR")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The folder cannot be made, read or written.
    #[error(
        "state folder {path} cannot be used: {source}; make it a folder that this user may write, or set another STATE_DIR"
    )]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl StateDir {
    /// Makes the folder `name` below `root` if need be, and locks it.
    pub fn open(root: &Path, name: &str) -> Result<Self, StateDirError> {
        let path = root.join(name);
        let io = |source| StateDirError::Io { path: path.clone(), source };
        make(&path).map_err(io)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .map_err(io)?;
        match lock_soon(&lock) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateDirError::InUse { path }),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        let id = Mutex::new(instance_id(&path).map_err(io)?);
        let identity = Identity(Arc::new(Kept { id, folder: Some(path.clone()) }));
        Ok(Self { path, identity, _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names this instance for as long as the folder lives, over restarts, unless it has a twin.
    pub fn identity(&self) -> Identity {
        self.identity.clone()
    }

    /// The id of this instance as it is now.
    pub fn instance_id(&self) -> Uuid {
        self.identity.id()
    }
}

/// Makes the folder and those above it. Their names have to survive a power cut: all state goes with them.
fn make(path: &Path) -> io::Result<()> {
    let (was_there, new) = (path.exists(), new_names(path));
    fs::create_dir_all(path)?;
    new.into_iter().try_for_each(|name| match FileSystem.sync_folder(name) {
        // In a folder of somebody else's, who made it and saw to its name: a volume, say.
        Err(error) if was_there && may_be_anothers(&error) => Ok(()),
        synced => synced,
    })
}

fn may_be_anothers(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    matches!(error.kind(), PermissionDenied | InvalidInput | Unsupported)
}

/// The names that may not be durable: those that are missing now, and the folder's own, since the process
/// that made it may have died right after.
fn new_names(path: &Path) -> Vec<&Path> {
    let above = path.ancestors().skip(1).take_while(|name| name.file_name().is_some() && !name.exists());
    std::iter::once(path).chain(above).collect()
}

/// The id kept in the folder, or a new one. A file that holds no uuid is replaced: the id only tells a
/// restart from another instance, so a new one costs no more than one lease of waiting.
fn instance_id(dir: &Path) -> io::Result<Uuid> {
    let path = dir.join("instance_id");
    let mut text = String::new();
    if let Ok(mut file) = File::open(&path) {
        file.read_to_string(&mut text)?;
    }
    if let Ok(id) = text.trim().parse() {
        return Ok(id);
    }
    let id = Uuid::new_v4();
    write_id(dir, id)?;
    Ok(id)
}

/// Replaces the file whole: a crash leaves the old id or the new one.
fn write_id(dir: &Path, id: Uuid) -> io::Result<()> {
    let path = dir.join("instance_id");
    let fresh = dir.join("instance_id.new");
    let mut file = File::create(&fresh)?;
    writeln!(file, "{id}")?;
    file.sync_all()?;
    fs::rename(&fresh, &path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_outlives_the_process_and_a_second_process_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let first = StateDir::open(root.path(), "s").unwrap();
        let refused = StateDir::open(root.path(), "s").unwrap_err();
        assert!(matches!(refused, StateDirError::InUse { .. }), "{refused}");
        let id = first.instance_id();
        drop(first);
        assert_eq!(StateDir::open(root.path(), "s").unwrap().instance_id(), id);
        assert_ne!(StateDir::open(root.path(), "other").unwrap().instance_id(), id);
    }

    #[test]
    fn an_id_that_a_twin_uses_is_replaced_once_and_for_good() {
        let root = tempfile::tempdir().unwrap();
        let folder = StateDir::open(root.path(), "s").unwrap();
        let old = folder.instance_id();
        let new = folder.identity().replace(old);
        assert_ne!(new, old);
        assert_eq!(folder.identity().replace(old), new, "another partition finds the same twin");
        folder.identity().persist().unwrap();
        drop(folder);
        assert_eq!(StateDir::open(root.path(), "s").unwrap().instance_id(), new);
    }

    #[test]
    fn the_names_of_new_folders_are_made_durable() {
        let root = tempfile::tempdir().unwrap();
        let [there, missing] = [root.path().to_owned(), root.path().join("a/b")];
        assert_eq!(new_names(&there.join("s")), [there.join("s")]);
        assert_eq!(new_names(&missing.join("s")), [missing.join("s"), missing.clone(), there.join("a")]);
        assert_eq!(new_names(Path::new("no/s")), [Path::new("no/s"), Path::new("no")]);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_one_clear_line() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let line = StateDir::open(&file, "s").unwrap_err().to_string();
        assert!(line.contains("STATE_DIR") && !line.contains('\n'), "{line}");
    }
}
