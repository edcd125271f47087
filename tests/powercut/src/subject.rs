//! The one form of a power-cut test: something that is opened, and that checks what it was promised to keep.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::cuts::{Cut, Found, Tried};
use crate::disk::SimDisk;

/// Of the states that are drawn by chance: the same ones each time.
const SEED: u64 = 1;

/// A program's state on disk, with what was promised of it and by when.
pub trait Subject {
    /// The state, opened.
    type Opened;
    /// Every so many cuts the power is cut once more, in the middle of what opening did; never where it is `None`.
    const CUT_TWICE: Option<usize> = None;
    /// Whether a panic counts as a failure to open or to check, as where damage is found by an assertion.
    const MAY_PANIC: bool = false;

    /// The moment from which on there is something to be checked.
    fn since(&self) -> usize {
        0
    }

    /// Opens what a cut left.
    fn open(&self, disk: &SimDisk) -> Result<Self::Opened, String>;

    /// Whether all holds that was promised by the moment of the cut.
    fn check(&self, opened: Self::Opened, cut: &Cut) -> Result<(), String>;
}

impl SimDisk {
    /// Cuts the power at each moment of the recording, and fails the test with the first state in which something
    /// does not hold.
    pub fn cut_everywhere<S: Subject>(&self, subject: &S) -> Tried {
        self.try_everywhere(subject).unwrap_or_else(|found| found.raise())
    }

    /// The same for a planted bug: returns what is found, and fails the test where nothing is.
    pub fn cut_until_found<S: Subject>(&self, subject: &S) -> Found {
        match self.try_everywhere(subject) {
            Err(found) => found,
            Ok(tried) => panic!("the planted bug is in none of {tried}"),
        }
    }

    /// Kills the process at one of so many operations. `next` gets the disk as the next process finds it and the
    /// moment of the kill, lets that process work, and cuts the power.
    pub fn kill_everywhere(&self, every: usize, mut next: impl FnMut(&Self, usize) -> Tried) -> Tried {
        let mut tried = Tried::default();
        for moment in (0..self.now()).step_by(every) {
            tried += next(&self.killed_at(moment), moment);
        }
        tried
    }

    fn try_everywhere<S: Subject>(&self, subject: &S) -> Result<Tried, Found> {
        self.each_cut(SEED, |cut| if cut.at < subject.since() { Ok(()) } else { look(subject, cut) })
    }
}

fn look<S: Subject>(subject: &S, cut: &Cut) -> Result<(), String> {
    let look = || {
        let opened = subject.open(&cut.disk)?;
        if let Some(every) = S::CUT_TWICE {
            cut.once_more(every, |again| look(subject, again))?;
        }
        subject.check(opened, cut)
    };
    if !S::MAY_PANIC {
        return look();
    }
    catch_unwind(AssertUnwindSafe(look))
        .unwrap_or_else(|panic| Err(format!("it panicked: {}", text(&*panic))))
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref().copied()).unwrap_or("with no text")
}
