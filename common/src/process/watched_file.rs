//! A file that is read again when it changes, by a thread of its own.
//!
//! The content is compared, not its times: so a file that was renamed into place, written in place, or reached by a
//! symlink that now leads elsewhere (as Kubernetes swaps the files of a secret) is noticed alike.
//!
//! # Invariants
//!
//! 1. *What was good stays* until something good replaces it: an unreadable or wrong file is reported, once, and changes
//!    nothing.
//! 2. *Half a file is not taken*: a new content counts when two looks in a row have found it.
//! 3. No request waits for the file's disk.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::thread;
use std::time::Duration;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(500);
/// Largest file, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// Why a file cannot be used at the start.
#[derive(Debug, thiserror::Error)]
#[error("{variable} {}: {why}", .path.display())]
pub struct FileError {
    variable: &'static str,
    path: PathBuf,
    why: String,
}

/// What a file says, as last read. Cheap to clone.
pub struct WatchedFile<T>(Arc<Shared<T>>);

struct Shared<T> {
    variable: &'static str,
    current: RwLock<Arc<T>>,
    failure: Mutex<Option<String>>,
}

impl<T> Clone for WatchedFile<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: fmt::Debug> fmt::Debug for WatchedFile<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.current().fmt(f)
    }
}

impl<T: fmt::Display + Send + Sync + 'static> WatchedFile<T> {
    /// Reads the file, and goes on to look at it for as long as somebody has this.
    pub fn open(
        variable: &'static str,
        path: &Path,
        parse: fn(&str) -> Result<T, String>,
    ) -> Result<Self, FileError> {
        let failed = |why: String| FileError { variable, path: path.to_owned(), why };
        let text = read(path).map_err(|error| failed(error.to_string()))?;
        let value = parse(&text).map_err(failed)?;
        log::info!("{variable} {}: {value}", path.display());
        let shared =
            Arc::new(Shared { variable, current: RwLock::new(Arc::new(value)), failure: Mutex::new(None) });
        let watch = Watch { shared: Arc::downgrade(&shared), variable, path: path.to_owned(), parse, text };
        let thread = thread::Builder::new().name("watched-file".to_owned());
        thread.spawn(move || watch.run()).map_err(|error| failed(error.to_string()))?;
        Ok(Self(shared))
    }
}

impl<T> WatchedFile<T> {
    /// What the file said when it was last good.
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.0.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The variable that names the file, if that cannot be used as it is now. What is wrong is for the log alone.
    pub fn failure(&self) -> Option<&'static str> {
        let failure = self.0.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.is_some().then_some(self.0.variable)
    }
}

struct Watch<T> {
    shared: Weak<Shared<T>>,
    variable: &'static str,
    path: PathBuf,
    parse: fn(&str) -> Result<T, String>,
    /// What counts now.
    text: String,
}

impl<T: fmt::Display> Watch<T> {
    #[allow(clippy::disallowed_methods, reason = "a thread of its own")]
    fn run(mut self) {
        let mut before: Option<Result<String, String>> = None;
        loop {
            thread::sleep(INTERVAL);
            let found = read(&self.path).map_err(|error| error.to_string());
            let Some(shared) = self.shared.upgrade() else { return };
            if before.as_ref() == Some(&found) {
                self.take(&shared, &found);
            }
            before = Some(found);
        }
    }

    /// Takes what two looks have found.
    fn take(&mut self, shared: &Shared<T>, found: &Result<String, String>) {
        let name = format_args!("{} {}", self.variable, self.path.display()).to_string();
        let mut failure = shared.failure.lock().unwrap_or_else(PoisonError::into_inner);
        let parsed = match found {
            Ok(text) if *text == self.text => {
                if failure.take().is_some() {
                    log::info!("{name} is as it was when it was last read");
                }
                return;
            }
            Ok(text) => (self.parse)(text).map(|value| (text, value)),
            Err(why) => Err(why.clone()),
        };
        match parsed {
            Ok((text, value)) => {
                log::info!("{name} has changed: {value}");
                self.text.clone_from(text);
                *shared.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
                *failure = None;
            }
            Err(why) => {
                let why = format!("{name} is not used as it is: {why}; what it said before still counts");
                if failure.as_ref() != Some(&why) {
                    log::warn!("{why}");
                    *failure = Some(why);
                }
            }
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("it is larger than {MAX_FILE} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::Instant;

    use super::*;

    fn number(text: &str) -> Result<u64, String> {
        text.trim().parse().map_err(|_| "it is no number".to_owned())
    }

    #[track_caller]
    #[allow(clippy::disallowed_methods, reason = "no async thread")]
    fn until(what: &str, holds: impl Fn() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < Duration::from_secs(60), "{what}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn a_file_is_read_again_however_it_was_replaced_and_what_was_good_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "1").unwrap();
        let watched = WatchedFile::open("X", &path, number).unwrap();
        assert_eq!(*watched.current(), 1);
        // In place.
        fs::write(&path, "2").unwrap();
        until("written in place", || *watched.current() == 2);
        // Another file in its place.
        fs::write(dir.path().join("new"), "3").unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        until("renamed into place", || *watched.current() == 3);
        // Wrong, and gone: the last good one counts.
        for (wrong, why) in [(Some("x"), "no number"), (None, "No such file")] {
            match wrong {
                Some(text) => fs::write(&path, text).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            let said = || watched.0.failure.lock().unwrap().clone();
            until(why, || said().is_some_and(|said| said.contains(why)));
            assert_eq!(watched.failure(), Some("X"));
            assert_eq!(*watched.current(), 3);
        }
        // A folder of a secret in Kubernetes: file -> ..data/file, ..data -> a folder that is swapped.
        for (folder, text) in [("a", "4"), ("b", "5")] {
            fs::create_dir(dir.path().join(folder)).unwrap();
            fs::write(dir.path().join(folder).join("file"), text).unwrap();
        }
        symlink("a", dir.path().join("..data")).unwrap();
        symlink("..data/file", &path).unwrap();
        until("a symlink", || *watched.current() == 4 && watched.failure().is_none());
        symlink("b", dir.path().join("..tmp")).unwrap();
        fs::rename(dir.path().join("..tmp"), dir.path().join("..data")).unwrap();
        until("a swapped symlink", || *watched.current() == 5);
    }

    #[test]
    fn a_start_without_a_good_file_says_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let why = || WatchedFile::open("API_X_FILE", &path, number).unwrap_err().to_string();
        assert!(why().contains("API_X_FILE") && why().contains("No such file"), "{}", why());
        fs::write(&path, "x").unwrap();
        assert!(why().contains("it is no number"), "{}", why());
        fs::write(&path, vec![b' '; 1024 * 1024 + 1]).unwrap();
        assert!(why().contains("larger than"), "{}", why());
    }
}
