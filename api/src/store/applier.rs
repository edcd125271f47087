//! The thread behind the writer: puts what is in the log into the database, and sees to the log's segments.
//!
//! It is the only one that writes to the database, reopens it after an I/O error (redb takes nothing more after
//! one) and reports whether it can be written.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use task_events::disk::Disk;
use tokio::sync::oneshot;

use super::failure::Part;
use super::overlay::Frozen;
use super::shared::Shared;
use super::wal::Limits;
use super::wal::files::Files;
use super::{bulk, schema};

/// Time between two attempts to write again after a failure.
pub(super) const RETRY_EVERY: Duration = Duration::from_millis(250);

/// What is to be done. The frozen generation is where readers see it.
#[derive(Debug)]
pub(super) enum Work {
    Apply,
    /// Make the next segment.
    Prepare,
    /// Segments may be free.
    Tidy,
    /// A read met an I/O error: is the database still good?
    Check(oneshot::Sender<()>),
}

pub(super) struct Applier {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    shared: Arc<Shared>,
    files: Arc<Files>,
    limits: Limits,
    /// What failed is tried again.
    is_failing: bool,
}

impl Applier {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        path: PathBuf,
        shared: Arc<Shared>,
        files: Arc<Files>,
        limits: Limits,
    ) -> Self {
        Self { disk, path, shared, files, limits, is_failing: false }
    }

    /// Runs until the writer is gone and its last generation is in the database, or cannot be put there.
    pub(super) fn run(mut self, work: &Receiver<Work>) {
        loop {
            let next = if self.is_failing {
                work.recv_timeout(RETRY_EVERY)
            } else {
                work.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            match next {
                Ok(Work::Prepare) => self.prepare(),
                Ok(Work::Check(reply)) => {
                    if !self.is_failing {
                        self.check();
                    }
                    let _ = reply.send(());
                }
                Ok(Work::Apply | Work::Tidy) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.go_on();
                    return;
                }
            }
            self.go_on();
        }
    }

    /// Does what there is to do.
    fn go_on(&mut self) {
        if self.is_failing && !self.recover() {
            return;
        }
        let frozen = self.shared.overlay().frozen.clone();
        match frozen.map(|frozen| self.apply(&frozen)) {
            Some(Err(error)) => self.fail(&error),
            Some(Ok(())) | None => self.tidy(),
        }
    }

    fn apply(&self, frozen: &Frozen) -> Result<(), redb::Error> {
        {
            let guard = self.shared.database.read().unwrap_or_else(PoisonError::into_inner);
            let database = guard.as_ref().map_err(|why| redb::Error::Corrupted(why.clone()))?;
            bulk::apply(database, &self.shared.answers, frozen, &self.limits)?;
        }
        self.shared.applied(frozen.meta.applied);
        Ok(())
    }

    /// Frees the segments of which the database has everything and all events are delivered.
    fn tidy(&self) {
        let applied = self.shared.applied_position();
        let mut free = self.files.numbers();
        {
            let ledger = self.shared.ledger();
            let needed: BTreeSet<u64> = ledger.needed_segments().collect();
            free.retain(|number| *number < applied.end.segment && !needed.contains(number));
        }
        for number in free {
            if let Err(error) = self.files.retire(number) {
                // It takes space, and is tried again with the next.
                log::warn!("{} cannot be removed: {error}", self.files.path(number).display());
                return;
            }
        }
    }

    fn prepare(&self) {
        if let Err(error) = self.files.prepare() {
            // The writer needs it later, and says so where it still fails then.
            log::debug!("the next segment of the log cannot be made yet: {error}");
        }
    }

    fn check(&mut self) {
        let touched = {
            let guard = self.shared.database.read().unwrap_or_else(PoisonError::into_inner);
            guard.as_ref().map_err(|why| redb::Error::Corrupted(why.clone())).and_then(schema::touch)
        };
        if let Err(error) = touched {
            self.fail(&error);
            self.recover();
        }
    }

    fn fail(&mut self, error: &redb::Error) {
        self.is_failing = true;
        let why = format!("{}: {error}", self.path.display());
        self.shared.failing(Part::Database, &self.path, why.clone());
        // At once: reads go on.
        self.reopen(&why);
    }

    /// Whether the database can be written again.
    fn recover(&mut self) -> bool {
        let why = format!("{} cannot be opened", self.path.display());
        if self.is_open() || self.reopen(&why) {
            let works = super::failure::has_free_space(&self.path) && self.works();
            if works {
                self.is_failing = false;
                self.shared.works(Part::Database, &self.path);
                return true;
            }
            if !self.works() {
                self.reopen(&why);
            }
        }
        self.shared.still_failing(&self.path);
        false
    }

    fn is_open(&self) -> bool {
        self.shared.database.read().unwrap_or_else(PoisonError::into_inner).is_ok()
    }

    fn works(&self) -> bool {
        let guard = self.shared.database.read().unwrap_or_else(PoisonError::into_inner);
        guard.as_ref().is_ok_and(|database| schema::touch(database).is_ok())
    }

    /// Closes the file and opens it again. Readers hold the lock for one read each; those that come
    /// meanwhile wait, rather than to find it closed.
    fn reopen(&self, why: &str) -> bool {
        let mut database = self.shared.database.write().unwrap_or_else(PoisonError::into_inner);
        *database = Err(why.to_owned());
        let Ok((reopened, meta)) = schema::reopen(&*self.disk, &self.path) else { return false };
        if !self.files.belong_to(meta.store) || meta.applied.seq < self.shared.applied_position().seq {
            *database =
                Err(format!("{} was replaced by another store, or an older one", self.path.display()));
            return false;
        }
        *database = Ok(reopened);
        self.shared.set_identity(self.disk.identity(&self.path).ok());
        true
    }
}
