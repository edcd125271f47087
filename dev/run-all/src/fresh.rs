//! `--fresh`: deletes what earlier runs left, and nothing else.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, test_kill_process};

use crate::Failure;
use crate::postgres::FOLDERS_OF_ROOT;
use crate::services::{self, AUDIT_LOG, POSTGRES, STATE_DIR, scaled_folder};

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

/// The same for what `--scaled` left: a folder of its own.
pub fn delete_scaled(root: &Path) -> Result<(), Failure> {
    let folder = root.join(scaled_folder());
    let failed = |error: io::Error| Failure(format!("--fresh cannot read {}: {error}", folder.display()));
    let mut paths = vec![];
    for entry in entries(&folder).map_err(failed)? {
        paths.extend([entry.join("lock"), entry.clone()]);
        paths.extend(entries(&entry).map_err(failed)?.into_iter().map(|one| one.join("lock")));
    }
    // Held until all is deleted, so that nothing starts on it meanwhile.
    let mut locks = Vec::new();
    for path in paths.iter().filter(|path| path.is_file()) {
        locks.push(lock(path)?);
    }
    let postgres = folder.join(POSTGRES);
    if runs(&postgres.join("data/postmaster.pid")) {
        return Err(Failure(format!(
            "--fresh deletes nothing: PostgreSQL runs on {}; stop it first",
            postgres.display()
        )));
    }
    // Where root's is elsewhere.
    if let Ok(real) = fs::read_link(&postgres)
        && real.starts_with(FOLDERS_OF_ROOT)
    {
        gone(fs::remove_dir_all(&real), &real)?;
    }
    gone(fs::remove_dir_all(&folder), &folder)
}

/// What is in a folder; nothing in what is none.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// Whether the process lives that PostgreSQL's own lock names.
fn runs(lock: &Path) -> bool {
    let text = fs::read_to_string(lock).unwrap_or_default();
    let pid = text.lines().next().and_then(|line| Pid::from_raw(line.trim().parse().ok()?));
    pid.is_some_and(|pid| test_kill_process(pid).is_ok())
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

    #[test]
    fn what_the_scaled_system_left_is_deleted_unless_it_runs() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for folder in ["data/scaled/audit-1/audit-service", "data/scaled/postgres/data", "data/task-api"] {
            fs::create_dir_all(path(folder)).unwrap();
        }
        fs::write(path("data/scaled/audit-1.log"), "{}\n").unwrap();
        let held = File::create(path("data/scaled/audit-1/audit-service/lock")).unwrap();
        held.lock().unwrap();
        let refused = delete_scaled(root.path()).unwrap_err().to_string();
        assert!(refused.contains("audit-1/audit-service/lock"), "{refused}");
        drop(held);
        let pid = path("data/scaled/postgres/data/postmaster.pid");
        fs::write(&pid, format!("{}\n/data\n", std::process::id())).unwrap();
        let refused = delete_scaled(root.path()).unwrap_err().to_string();
        assert!(refused.contains("PostgreSQL runs on"), "{refused}");
        assert!(path("data/scaled/audit-1.log").exists());
        fs::remove_file(pid).unwrap();
        delete_scaled(root.path()).unwrap();
        assert!(!path("data/scaled").exists() && path("data/task-api").exists());
        delete_scaled(root.path()).unwrap();
    }
}
