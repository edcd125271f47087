//! Whether the store's files are where they were: one that was deleted, moved or replaced by somebody would take
//! with it what is written to it.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use task_events::disk::{Disk, FileIdentity};
use task_events::error_code::Code;

use super::failure::WriteFailure;
use super::shared::Shared;

/// What the files are that the store writes to.
pub(super) struct Placement {
    disk: Arc<dyn Disk>,
    /// The database.
    path: PathBuf,
    shared: Arc<Shared>,
    /// The segment that is written to, and what its file is; `None` where the disk did not say.
    segment: Option<(u64, Option<FileIdentity>)>,
}

impl Placement {
    pub(super) fn new(disk: Arc<dyn Disk>, path: PathBuf, shared: Arc<Shared>) -> Self {
        Self { disk, path, shared, segment: None }
    }

    /// Looks for the database and for the segment that is written to. A change of what is found is logged.
    pub(super) fn look(&mut self, segment: Option<u64>) -> Option<WriteFailure> {
        let failure = self.find(segment);
        let before = {
            let mut misplaced = self.shared.misplaced.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *misplaced, failure.clone())
        };
        match (&before, &failure) {
            (None, Some(failure)) => log::error!("{failure} {}", Code::StoreUnwritable),
            (Some(_), None) => log::info!("{} is back: changes are taken again", self.path.display()),
            _ => {}
        }
        failure
    }

    fn find(&mut self, segment: Option<u64>) -> Option<WriteFailure> {
        let is_in_place = |own: Option<FileIdentity>, found: io::Result<FileIdentity>| match found {
            Ok(file) => own.is_none_or(|own| own == file),
            // What the disk does not say, the next write shows.
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        };
        if !is_in_place(self.shared.identity(), self.disk.identity(&self.path)) {
            return Some(WriteFailure::misplaced(&self.path));
        }
        let number = segment?;
        let found = self.shared.files.identity(number);
        let own = match self.segment {
            Some((known, own)) if known == number => own,
            _ => {
                let own = found.as_ref().ok().copied();
                self.segment = Some((number, own));
                own
            }
        };
        (!is_in_place(own, found)).then(|| WriteFailure::misplaced(&self.shared.files.path(number)))
    }
}
