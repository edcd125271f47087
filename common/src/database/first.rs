//! With which of several hosts, or addresses, an attempt to connect begins.
//!
//! # Invariants
//!
//! 1. *What was slow is behind the rest the next time*, whether it failed or was given up; what refuses at once costs
//!    nothing, and stays where it is.
//! 2. *What is under way says nothing.* Attempts at the same time begin with the same one; and one that ends late does not
//!    undo what another has found out meanwhile.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// One that takes longer without success is slow.
pub(super) const SLOW: Duration = Duration::from_millis(500);

/// The number of the one to begin with: the last that served, or the one behind what was slow.
#[derive(Debug, Default)]
pub(super) struct First(AtomicUsize);

/// That number, as an attempt has found it, or has set it.
#[derive(Debug)]
pub(super) struct Known(usize);

/// One of several, as it is tried. Dropped, it has failed, or was given up.
#[derive(Debug)]
pub(super) struct Trial<'a> {
    first: &'a First,
    known: &'a mut Known,
    number: usize,
    since: Instant,
    has_served: bool,
}

impl First {
    pub(super) fn known(&self) -> Known {
        Known(self.0.load(Ordering::Relaxed))
    }

    pub(super) fn trial<'a>(&'a self, number: usize, known: &'a mut Known) -> Trial<'a> {
        Trial { first: self, known, number, since: Instant::now(), has_served: false }
    }
}

impl Known {
    /// All of so many, beginning with that one.
    pub(super) fn in_turn(&self, count: usize) -> impl Iterator<Item = usize> + use<> {
        let first = self.0;
        (0..count).map(move |behind| (first + behind) % count)
    }
}

impl Trial<'_> {
    pub(super) fn has_served(mut self) {
        self.has_served = true;
        self.first.0.store(self.number, Ordering::Relaxed);
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if self.has_served || self.since.elapsed() < SLOW {
            return;
        }
        let (first, next) = (&self.first.0, self.number + 1);
        if first.compare_exchange(self.known.0, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.known.0 = next;
        }
    }
}
