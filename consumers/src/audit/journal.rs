//! The log while the service runs: checked before and after each append, so that nothing is acknowledged that
//! was written into the void.
//!
//! | another hand | seen by | then |
//! | --- | --- | --- |
//! | renamed it (logrotate with `create`, `mv`) | the name leads to another file, or to none; the file is whole | the file is a segment: its ids stay; the log goes on in the file under the name |
//! | truncated it (`> audit.log`, copytruncate) | its length, or its last line | see [`gone`]; a complete copy under a segment's name counts as rotated |
//! | deleted it, or put another in its place (`rm`, `sed -i`, a backup) | the file has no name any more | see [`gone`]; a copy with the same lines is simply gone on with |
//! | appended to it | its length | lines are added to the index; anything else is damage, and nothing is written until it is mended |
//!
//! A change between the check and the sync is found by the check that follows the sync. One that follows that
//! one is found before the next append, or within [`IDLE`](super::writer) when there is none.

use std::cell::Cell;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use log::Level;
use task_events::dedup::{Dedup, DedupError};
use task_events::error_code::Code;
use task_events::kafka::Position;
use task_events::logging::log_all;
use uuid::Uuid;

use super::current::Current;
use super::file::{self, Files, Lines, Section};
use super::gone;
use super::hole::cut_hole;
pub(super) use super::journal_error::JournalError;
use super::limits::{Limits, first_time};
use super::mark::Mark;
use super::pending::{NewLines, Part};
use super::recovery::{self, Recovered, holds};
use super::scan::scan;
use super::tree::Tree;
use super::{AuditError, segments};

/// A SIGHUP that comes so soon after a rename belongs to it.
const SIGHUP_FOLLOWS: Duration = Duration::from_secs(60);

/// How far a partition's work is done.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) position: Position,
}

/// The open log and its index.
#[derive(Debug)]
pub(super) struct Journal<F: Files> {
    /// Ends, when this is dropped, before the log's lock does.
    tree: Option<Tree>,
    files: F,
    path: PathBuf,
    /// The path without symbolic links.
    real: PathBuf,
    file: F::File,
    /// A failed append may have left something behind the length that counts.
    is_dirty: bool,
    /// The log as far as it is synced.
    mark: Mark,
    index: Dedup,
    /// When the log was sealed because another hand had renamed it.
    renamed: Option<Instant>,
    /// The length of the log when it was logged that another process had appended to it.
    reported: Option<u64>,
    limits: Limits,
    /// When the file's first event was audited, once that was asked for.
    since: Option<DateTime<Utc>>,
    /// Bytes of the file that were found, and not written by this process: the tree is not told of them yet.
    found: Cell<(u64, u64)>,
}

impl<F: Files> Journal<F> {
    /// Opens log and index, and brings them together.
    pub(super) fn open(files: F, path: &Path, index_path: &Path) -> Result<Self, AuditError> {
        let (file, length) = files.open_log(path)?;
        let real = files.real(path);
        let index = recovery::open_index(&files, path, index_path)?;
        let current = Current { files: &files, file: &file, length, path, real: &real };
        let Recovered { mark, missing, found } = recovery::recover(&current, &index)?;
        if let Some(missing) = missing {
            log::error!("{missing} {}", Code::AuditLinesMissing);
        }
        let (is_dirty, renamed, reported) = (false, None, None);
        let (limits, since, tree) = Default::default();
        let (path, found) = (path.to_owned(), Cell::new(found));
        Ok(Self {
            path,
            real,
            file,
            is_dirty,
            mark,
            index,
            renamed,
            reported,
            limits,
            since,
            tree,
            found,
            files,
        })
    }

    /// The same with limits at which the file is sealed.
    pub(super) fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The same with a tree over its lines.
    pub(super) fn with_tree(self, tree: Option<Tree>) -> Self {
        let with_tree = Self { tree, ..self };
        // Nobody waits for it yet.
        while with_tree.follow() {}
        with_tree
    }

    /// Brings a tree nearer to the log that is not level with it. Whether there is more to do.
    pub(super) fn look_after_tree(&self) -> bool {
        self.tree.as_ref().is_some_and(Tree::lags) && self.follow()
    }

    /// Brings the tree nearer to the log, by one step. Whether there is more to do.
    fn follow(&self) -> bool {
        let Some(tree) = &self.tree else { return false };
        let Self { files, path, real, file, .. } = self;
        tree.follow(&Current { files, file, length: self.mark.length, path, real }, self.found.take())
    }

    pub(super) fn index(&self) -> &Dedup {
        &self.index
    }

    /// What is known of the log.
    pub(super) fn mark(&self) -> &Mark {
        &self.mark
    }

    /// Writes those of the lines whose events are not in the log, syncs them, and keeps how far the
    /// partitions are done. Returns the number of lines written of each part. After an error the same call
    /// may be made again.
    ///
    /// The lines together are no longer than may be unsynced.
    pub(super) fn append(
        &mut self,
        parts: &[Part<'_>],
        progress: &[&Progress],
    ) -> Result<Vec<u64>, JournalError> {
        self.make_ready()?;
        let lags = index_error(&self.path);
        let asked: Vec<Uuid> = parts.iter().flat_map(Part::lines).map(|line| line.event_id).collect();
        let mut known = self.index.numbers(&asked).map_err(&lags)?.into_iter();
        let mut seen = HashSet::with_capacity(asked.len());
        // An answer that is missing counts as a repeat: nothing is ever written twice.
        let new = NewLines::of(parts, |line| known.next() == Some(None) && seen.insert(line.event_id));
        if !new.lines.is_empty() {
            self.write(&new)?;
        }
        let mut beyond_lines = false;
        for Progress { topic, partition, position } in progress {
            let mut lines = new.lines.iter().rev();
            let last = lines.find(|line| line.topic == *topic && line.partition == *partition);
            beyond_lines |= last.is_none_or(|last| last.offset + 1 < position.offset);
            self.mark.advance(topic, *partition, *position);
        }
        // What ended without a line (in the DLQ, say) is known from the index alone.
        let ids: Vec<Uuid> = new.lines.iter().map(|line| line.event_id).collect();
        let recorded = self.index.append_new(&ids, beyond_lines, |ids| self.mark.to_bytes(ids));
        self.mark.ids = recorded.map_err(&lags)?;
        log_all(Level::Info, module_path!(), new.lines.iter().map(|line| (line.notice(), line.fields())));
        Ok(new.counts)
    }

    /// Writes the lines behind the last one, syncs them, and sees that they are where they belong.
    pub(super) fn write(&mut self, new: &NewLines<'_>) -> Result<(), JournalError> {
        let NewLines { lines, bytes, .. } = new;
        let was_dirty = std::mem::replace(&mut self.is_dirty, true);
        file::append(&self.file, bytes, self.mark.length, was_dirty)
            .map_err(|source| JournalError::Write { path: self.path.clone(), source })?;
        let end = self.mark.length + bytes.len() as u64;
        let look = look_error(&self.path);
        let standing = self.files.standing(&self.file, &self.path).map_err(&look)?;
        let follows = holds(&self.file, standing.length, &self.mark).map_err(&look)?;
        if !(standing.has_a_name && standing.length == end && follows) {
            if !follows && standing.length == end {
                // Truncated before the write, which left a hole of zeros in front of these lines.
                cut_hole(&self.file, self.mark.length).map_err(&look)?;
            }
            self.is_dirty = false;
            self.check()?;
            // Whatever it was, it is as before: the lines are written once more.
            return Err(look(io::Error::other("it was changed by another process while it was written")));
        }
        self.is_dirty = false;
        for line in lines {
            self.mark.add(line.event_id, line.bytes.len());
        }
        self.mark.refused = false;
        if let Some(tree) = &self.tree {
            tree.add(bytes, end);
        }
        Ok(())
    }

    /// Looks whether the log is as it was left, and takes up what another hand did.
    pub(super) fn check(&mut self) -> Result<(), JournalError> {
        let look = look_error(&self.path);
        let standing = self.files.standing(&self.file, &self.path).map_err(&look)?;
        let has_its_length =
            standing.length == self.mark.length || (self.is_dirty && standing.length > self.mark.length);
        let is_whole = has_its_length && holds(&self.file, standing.length, &self.mark).map_err(&look)?;
        match (standing.has_its_name, is_whole && standing.has_a_name) {
            (true, true) => Ok(()),
            (true, false) => {
                let is_longer = standing.length > self.mark.length;
                // What is no line stays until somebody removes it, and is seen at each look.
                if is_longer && self.reported.replace(standing.length) != Some(standing.length) {
                    log::warn!(
                        "another process wrote to audit log {}: {} bytes are behind its last line at byte {}",
                        self.path.display(),
                        standing.length - self.mark.length,
                        self.mark.length
                    );
                }
                self.recover(standing.length)
            }
            (false, is_whole) => self.go_on_under_the_name(is_whole),
        }
    }

    /// Seals the file, and goes on in a new one under the same name.
    pub(super) fn rotate(&mut self) -> Result<(), JournalError> {
        self.make_ready()?;
        if self.renamed.take().is_some_and(|at| at.elapsed() < SIGHUP_FOLLOWS) || self.mark.length == 0 {
            log::info!("audit log {} has nothing to rotate", self.path.display());
            return Ok(());
        }
        self.seal()
    }

    /// Seals the file where it is as long or as old as a segment may be.
    pub(super) fn seal_if_due(&mut self) -> Result<(), JournalError> {
        let since = match (self.limits.age, self.mark.length) {
            (None, _) | (_, 0) => None,
            _ => self.since.or(first_time(&self.file, self.mark.length).map_err(look_error(&self.path))?),
        };
        self.since = since;
        if !self.limits.reached(self.mark.length, since) {
            return Ok(());
        }
        self.make_ready()?;
        self.seal()
    }

    fn seal(&mut self) -> Result<(), JournalError> {
        let failed = |source| JournalError::Rotate { path: self.path.clone(), source };
        let disk = self.files.disk();
        let sealed = segments::free_name(&*disk, &self.real, self.mark.sealed_ids(), Utc::now());
        let sealed = sealed.map_err(failed)?;
        disk.rename(&self.real, &sealed).and_then(|()| disk.sync_folder(&sealed)).map_err(failed)?;
        log::info!("rotated audit log {} to {}", self.path.display(), sealed.display());
        self.check()?;
        self.renamed = None;
        Ok(())
    }

    /// Makes all that the index holds durable.
    pub(super) fn checkpoint(&self) -> Result<(), DedupError> {
        if let Some(tree) = &self.tree {
            tree.checkpoint();
        }
        self.index.checkpoint()
    }

    fn make_ready(&mut self) -> Result<(), JournalError> {
        self.check()?;
        self.make_level()
    }

    /// Sees to it that the index holds all that is in the log.
    fn make_level(&mut self) -> Result<(), JournalError> {
        let lags = index_error(&self.path);
        let mark = self.index.mark().map_err(&lags)?;
        let is_level = mark == Some(self.mark.to_bytes(self.mark.ids))
            && self.index.len().map_err(&lags)? == self.mark.ids;
        if is_level { Ok(()) } else { self.catch_up() }
    }

    /// Goes on in the file that now has the log's name; makes it if there is none.
    fn go_on_under_the_name(&mut self, is_whole: bool) -> Result<(), JournalError> {
        if is_whole {
            // The file that is left cannot be found again by its name. Its new name has to be on disk before
            // another file takes the old one.
            self.make_level()?;
            let synced = self.files.disk().sync_folder(&self.real);
            synced.map_err(|source| AuditError::Open { path: self.path.clone(), source })?;
        }
        let (file, length) = self.files.open_log(&self.path)?;
        let real = self.files.real(&self.path);
        let current = Current { files: &self.files, file: &file, length, path: &self.path, real: &real };
        let failed = |source| JournalError::CatchUp { path: self.path.clone(), source };
        let has_the_lines = holds(&file, length, &self.mark).map_err(|error| failed(error.into()))?;
        let is_new = gone::is_new(&current, &self.index).map_err(failed)?;
        if !is_whole || !is_new || (has_the_lines && self.mark.length > 0) {
            (self.file, self.real, self.is_dirty) = (file, real, false);
            return self.recover(length);
        }
        // The new file has its name on disk before the index counts on it.
        let synced = self.files.disk().sync_folder(&real);
        synced.map_err(|source| JournalError::Rotate { path: self.path.clone(), source })?;
        let sealed = self.mark.sealed();
        let recorded = self.index.append(&[], true, |ids| sealed.to_bytes(ids));
        recorded.map_err(|error| failed(error.into()))?;
        log::info!(
            "sealed a segment of audit log {}: {} bytes, {} events so far; continuing in a new file",
            self.path.display(),
            self.mark.length,
            sealed.ids
        );
        (self.file, self.real, self.is_dirty) = (file, real, false);
        (self.mark, self.renamed) = (sealed, Some(Instant::now()));
        if let Some(tree) = &self.tree {
            tree.sealed();
        }
        if length == 0 { self.recover_index(length) } else { self.recover(length) }
    }

    /// Brings index and tree together with the file as at a start.
    fn recover(&mut self, length: u64) -> Result<(), JournalError> {
        let recovered = self.recover_index(length);
        if matches!(recovered, Ok(()) | Err(JournalError::Reread { .. })) {
            self.follow();
        }
        recovered
    }

    fn recover_index(&mut self, length: u64) -> Result<(), JournalError> {
        let Self { files, path, real, file, index, .. } = self;
        let recovered = recovery::recover(&Current { files, file, length, path, real }, index)?;
        let Recovered { mark, missing, found } = recovered;
        if found.0 < found.1 {
            self.found.set(found);
        }
        (self.mark, self.is_dirty, self.since) = (mark, false, None);
        match missing {
            None => Ok(()),
            Some(missing) => Err(JournalError::Reread { missing }),
        }
    }

    /// Adds to the index what it lacks. Needed after lines that were written but not recorded, and after an
    /// I/O error of the index, which takes its last transactions.
    fn catch_up(&mut self) -> Result<(), JournalError> {
        log::warn!("the index lags behind {}: catching up from the log", self.path.display());
        let failed = |source| JournalError::CatchUp { path: self.path.clone(), source };
        let indexed = self.index.mark().map_err(|error| failed(error.into()))?;
        let ids = self.index.len().map_err(|error| failed(error.into()))?;
        let length = self.mark.length;
        let start = indexed.as_deref().and_then(Mark::from_bytes);
        let start = start.filter(|mark| mark.segments() == self.mark.segments() && mark.ids == ids);
        let start = match start {
            Some(start) if holds(&self.file, length, &start).map_err(|error| failed(error.into()))? => start,
            _ => return self.recover(length),
        };
        let mut lines = Lines::new(Section::new(&self.file, start.length, length), start.length);
        let scan = scan(&mut lines, start, u64::MAX, &self.index).map_err(failed)?;
        if scan.mark.length != length {
            return self.recover(length);
        }
        let caught_up = self.index.append(&scan.ids, true, |ids| self.mark.to_bytes(ids));
        self.mark.ids = caught_up.map_err(|error| failed(error.into()))?;
        Ok(())
    }
}

fn index_error(path: &Path) -> impl Fn(DedupError) -> JournalError + use<> {
    let path = path.to_owned();
    move |error| JournalError::CatchUp { path: path.clone(), source: error.into() }
}

fn look_error(path: &Path) -> impl Fn(io::Error) -> JournalError + use<> {
    let path = path.to_owned();
    move |source| JournalError::Look { path: path.clone(), source }
}
