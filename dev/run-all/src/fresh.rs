//! `--fresh`: deletes what earlier runs left, and nothing else.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use crate::Failure;
use crate::services::{self, AUDIT_LOG, STATE_DIR};

/// Deletes the state of earlier runs below `root`. Refuses, before anything is deleted, where a process
/// holds the lock of any of it.
pub fn delete(root: &Path) -> Result<(), Failure> {
    let state = root.join(STATE_DIR);
    let audit_log = root.join(AUDIT_LOG);
    // Only these are deleted: the folder may hold what is not ours.
    let folders: Vec<_> = services::with_state().map(|name| state.join(name)).collect();
    // Held until all is deleted, so that nothing starts on it meanwhile.
    let mut locks = Vec::new();
    for path in folders.iter().map(|folder| folder.join("lock")).chain([audit_log.clone()]) {
        locks.push(lock(&path)?);
    }
    for folder in &folders {
        gone(fs::remove_dir_all(folder), folder)?;
    }
    gone(fs::remove_file(&audit_log), &audit_log)
}

/// The lock of a file, if it is there.
fn lock(path: &Path) -> Result<Option<File>, Failure> {
    let failed = |error: io::Error| Failure(format!("--fresh cannot open {}: {error}", path.display()));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(Failure(format!(
            "--fresh deletes nothing: a process works with {}; stop it first",
            path.display()
        ))),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn gone(outcome: io::Result<()>, path: &Path) -> Result<(), Failure> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure(format!("--fresh cannot delete {}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_ours_is_deleted_and_nothing_that_is_in_use() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for folder in ["data/task-api", "data/audit-service", "data/photos"] {
            fs::create_dir_all(path(folder)).unwrap();
        }
        fs::write(path("audit.log"), "{}\n").unwrap();
        let held = File::create(path("data/audit-service/lock")).unwrap();
        held.lock().unwrap();

        let refused = delete(root.path()).unwrap_err().to_string();
        assert!(refused.contains("data/audit-service/lock"), "{refused}");
        assert!(path("data/task-api").exists() && path("audit.log").exists());

        drop(held);
        delete(root.path()).unwrap();
        assert!(path("data/photos").exists());
        for name in ["data/task-api", "data/audit-service", "audit.log"] {
            assert!(!path(name).exists(), "{name}");
        }
        delete(root.path()).unwrap();
    }
}
