//! Locks of files, taken with a little patience.
//!
//! A lock (flock) ends when the last copy of its file descriptor is closed. A process that is just being started by
//! another thread has such copies until its `exec`: for a moment a lock outlives its owner, and whoever opens the same
//! file again would be told that it is in use.

use std::fs::{File, TryLockError};
use std::time::{Duration, Instant};

/// Longer than a start takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(5);

/// Locks the file for this process alone. Blocks for a second at most, where another one has it.
#[allow(clippy::disallowed_methods, reason = "where files are opened, which blocks in any case")]
pub fn lock_soon(file: &File) -> Result<(), TryLockError> {
    let until = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(PAUSE),
            locked => return locked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a thread of its own")]
    fn a_lock_that_ends_soon_is_waited_for_and_another_one_is_not_for_long() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (first, second) = (File::open(file.path()).unwrap(), File::open(file.path()).unwrap());
        lock_soon(&first).unwrap();
        assert!(matches!(lock_soon(&second), Err(TryLockError::WouldBlock)));
        // As a process that is being started has it.
        let copy = first.try_clone().unwrap();
        drop(first);
        let ends = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(copy);
        });
        lock_soon(&second).unwrap();
        ends.join().unwrap();
    }
}
