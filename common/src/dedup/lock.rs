//! Locks of a store.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A panic elsewhere leaves no half-done state: each lock's owner sets it in one step.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
