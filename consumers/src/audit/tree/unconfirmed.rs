//! Lines that the tree took from the log's files, and of which it is not known that this service wrote them: another process
//! may have appended them. Nothing is signed until Kafka is known to have their events.
//!
//! # Invariants
//!
//! 1. *Whoever only writes to the log gets nothing signed*: while a line is unconfirmed no checkpoint is made, and
//!    `state.json` stays behind it, so that each further start finds it again.
//! 2. Bounded: what is kept is where they are, a stretch for each file and start.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::read::MultiGzDecoder;

use super::super::file::Lines;

/// Lines of a file that follow each other.
#[derive(Debug, Clone)]
pub(in crate::audit) struct Stretch {
    number: u64,
    pub(in crate::audit) path: PathBuf,
    pub(in crate::audit) from: u64,
    pub(in crate::audit) to: u64,
    /// Opened when they were found: it may have another name by now.
    file: Arc<io::Result<File>>,
}

impl Stretch {
    /// The lines of the file, those before the stretch included where it is compressed.
    pub(in crate::audit) fn lines(&self) -> io::Result<Lines<Box<dyn Read + Send>>> {
        let mut file = match &*self.file {
            Ok(file) => file.try_clone()?,
            Err(error) => return Err(io::Error::new(error.kind(), error.to_string())),
        };
        if self.path.extension().is_some_and(|extension| extension == "gz") {
            file.rewind()?;
            return Ok(Lines::new(Box::new(MultiGzDecoder::new(file)), 0));
        }
        file.seek(SeekFrom::Start(self.from))?;
        Ok(Lines::new(Box::new(file.take(self.to - self.from)), self.from))
    }
}

/// What is not confirmed.
#[derive(Debug, Default)]
pub(super) struct Unconfirmed {
    /// Somebody asks Kafka.
    is_compared: bool,
    found: u64,
    stretches: VecDeque<Stretch>,
    refuted: bool,
    /// Lines whose records Kafka does not have any more.
    untold: u64,
}

impl Unconfirmed {
    /// From now on what is found is kept.
    pub(super) fn compare(&mut self) {
        self.is_compared = true;
    }

    /// Whether what is found is kept.
    pub(super) fn is_compared(&self) -> bool {
        self.is_compared
    }

    pub(super) fn add(&mut self, path: &Path, (from, to): (u64, u64)) {
        let is_known = |known: &Stretch| known.path == path && known.from <= from && to <= known.to;
        if !self.is_compared || from >= to || self.stretches.iter().any(is_known) {
            return;
        }
        self.found += 1;
        let (number, file) = (self.found, Arc::new(File::open(path)));
        self.stretches.push_back(Stretch { number, path: path.to_owned(), from, to, file });
    }

    /// The tree begins anew behind its checkpoint, or as another one. Whether something was not confirmed.
    pub(super) fn forget(&mut self) -> bool {
        let is_empty = self.is_empty();
        self.stretches.clear();
        self.refuted = false;
        !is_empty
    }

    /// Whether all that is in the tree may be signed.
    pub(super) fn is_empty(&self) -> bool {
        self.stretches.is_empty() && !self.refuted
    }

    /// What is to be compared next.
    pub(super) fn next(&self) -> Option<Stretch> {
        self.stretches.front().cloned()
    }

    /// Takes a stretch that was compared off the list. Whether it was on it.
    fn take(&mut self, stretch: &Stretch) -> bool {
        let before = self.stretches.len();
        self.stretches.retain(|other| other.number != stretch.number);
        self.stretches.len() < before
    }

    /// Kafka has them, but for so many whose records are gone. How many those are by now; `None`: it does not matter any more.
    pub(super) fn confirm(&mut self, stretch: &Stretch, untold: u64) -> Option<u64> {
        self.take(stretch).then(|| {
            self.untold += untold;
            self.untold
        })
    }

    /// Kafka has something else. Whether that matters still.
    pub(super) fn refute(&mut self, stretch: &Stretch) -> bool {
        let is_taken = self.take(stretch);
        self.refuted |= is_taken;
        is_taken
    }
}
