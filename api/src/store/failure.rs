//! What the store cannot do, and why: one value, one request, or all changes.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::statvfs;
use task_events::database::{DatabaseError, Trouble};
use task_events::error_code::Code;
use tokio::task::spawn_blocking;

use super::moved::Moved;
use super::wal::files::SegmentError;
use super::wal::recovery::LogError;

/// Free space that the store wants before it takes changes again after a failure, in MiB: more than the
/// largest batch takes. With less, a small attempt would succeed and the next batch fail, again and again.
pub(super) const NEEDED_MIB: u64 = 16;
/// How often it is logged that changes are still refused.
const REMIND_EVERY: Duration = Duration::from_secs(60);
/// Unreadable values that are remembered, so that each is logged once.
const MAX_REMEMBERED: usize = 1_000;

/// Does what blocks off the async threads. The error is that of work that panicked.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreError> {
    spawn_blocking(work).await.map_err(|error| StoreError::Unavailable(error.to_string()))
}

/// Why the store did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// More changes wait than the writer can take soon.
    #[error("too many changes wait for the disk")]
    Overloaded,
    /// The disk or the database took too long. A change that was under way may be stored or not.
    #[error("the store does not answer in time")]
    Slow,
    /// The disk failed or is full, and changes are not even tried.
    #[error("{0}")]
    Refused(WriteFailure),
    /// The disk failed or is full. A change that was under way may be stored or not.
    #[error("the store cannot be used: {0}")]
    Unavailable(String),
    /// One stored value, which was needed, cannot be read. Nothing was changed.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// Its tasks are in a database.
    #[error("{}: {moved}", folder.display())]
    Moved {
        /// Where the store is.
        folder: PathBuf,
        /// Where its tasks are.
        moved: Moved,
    },
}

impl From<redb::Error> for StoreError {
    fn from(error: redb::Error) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// A stored value that cannot be decoded: damaged, or written by a newer program. Only what needs it fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot be read: {why}")]
pub struct Unreadable {
    what: String,
    why: String,
}

impl Unreadable {
    pub(super) fn new(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self { what: what.into(), why: why.to_string() }
    }

    /// Which value it is.
    pub fn what(&self) -> &str {
        &self.what
    }
}

/// Why a change was not made: it alone, or the group failed as a whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChangeError {
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error(transparent)]
    Database(#[from] redb::Error),
}

impl From<redb::StorageError> for ChangeError {
    fn from(error: redb::StorageError) -> Self {
        Self::Database(error.into())
    }
}

/// The unreadable values that were met, each logged once: clients can ask for them as often as they like.
#[derive(Debug, Default)]
pub(super) struct Reported(BTreeSet<String>);

impl Reported {
    pub(super) fn report(&mut self, unreadable: &Unreadable) {
        if self.0.len() < MAX_REMEMBERED && self.0.insert(unreadable.what.clone()) {
            log::error!(
                "{unreadable}; only what needs it fails: restore it from a backup of the state folder, or delete it {}",
                Code::StoredValue
            );
        }
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}

/// Why changes are refused, and what ends that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteFailure {
    why: String,
    remedy: String,
}

impl WriteFailure {
    /// The disk fails or is full.
    pub(super) fn new(why: &str, path: &Path) -> Self {
        let free = free_mib(path).map_or("unknown how much is".to_owned(), |free| format!("{free} MiB are"));
        let remedy = format!(
            "changes are refused until it can be written again, with {NEEDED_MIB} MiB of free space beside it ({free} free now)"
        );
        Self { why: why.to_owned(), remedy }
    }

    /// The file has lost its name: what is written to it would be gone with this process.
    pub(super) fn misplaced(path: &Path) -> Self {
        let why = format!("{} was deleted, moved or replaced while it is in use", path.display());
        let remedy = format!(
            "changes are refused until it is back; where it was deleted, copy it from /proc/{}/fd to its place and start the service again; to go on with what is in its place now, start it again",
            std::process::id()
        );
        Self { why, remedy }
    }

    /// The database does not take changes. What it reported is for the log; clients learn of which kind it is.
    pub(super) fn of_database(place: &str, error: &DatabaseError) -> Self {
        let kind = match error.trouble() {
            Trouble::Connection => "the database cannot be reached",
            Trouble::Crowded => "the database has no connection left",
            Trouble::ReadOnly => "the database is read-only: a standby, or a failover is under way",
            Trouble::Full => "the database has no space or no memory left",
            Trouble::Timeout => "the database does not answer in time",
            Trouble::Conflict => "the database is busy with other changes",
            Trouble::Address | Trouble::Schema | Trouble::Statement | Trouble::MovedAway => {
                "the database refuses the change"
            }
        };
        let remedy = format!("{kind}; changes are taken again as soon as it does");
        Self { why: format!("{place}: {error}"), remedy }
    }

    /// A database that was not used yet.
    pub(super) fn not_open(place: &str) -> Self {
        let why = format!("{place}: its schema is being looked at, or brought up to date");
        Self { why, remedy: "requests are answered once the database is ready".to_owned() }
    }

    /// What has to be, for changes to be taken again.
    pub fn remedy(&self) -> &str {
        &self.remedy
    }
}

impl fmt::Display for WriteFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.why, self.remedy)
    }
}

/// What can fail independently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Log,
    Database,
}

/// What cannot be written at present. Logged when it begins, now and then, and when it is over.
#[derive(Debug, Default)]
pub(super) struct Failures {
    parts: Vec<(Part, String, WriteFailure)>,
    /// When it began, and when it was last logged.
    times: Option<(Instant, Instant)>,
}

impl Failures {
    /// Why changes are refused, while they are.
    pub(super) fn current(&self) -> Option<&WriteFailure> {
        self.parts.first().map(|(_, _, failure)| failure)
    }

    pub(super) fn begin(&mut self, part: Part, path: &Path, why: String) {
        let failure = WriteFailure::new(&why, path);
        if self.times.is_none() {
            log::error!("the store cannot be written: {failure} {}", Code::StoreUnwritable);
            self.times = Some((Instant::now(), Instant::now()));
        }
        self.parts.retain(|(other, ..)| *other != part);
        self.parts.push((part, why, failure));
    }

    /// From now on the refusal names the free space as it is now.
    pub(super) fn renew(&mut self, path: &Path) {
        for (_, why, failure) in &mut self.parts {
            *failure = WriteFailure::new(why, path);
        }
        let Some((began, reminded)) = &mut self.times else { return };
        if let Some((_, _, failure)) = self.parts.first()
            && reminded.elapsed() >= REMIND_EVERY
        {
            log::warn!("the store cannot be written since {} s: {failure}", began.elapsed().as_secs());
            *reminded = Instant::now();
        }
    }

    pub(super) fn end(&mut self, part: Part, path: &Path) {
        self.parts.retain(|(other, ..)| *other != part);
        if self.parts.is_empty()
            && let Some((began, _)) = self.times.take()
        {
            let free = free_mib(path).map_or(String::new(), |free| format!(", {free} MiB are free"));
            log::info!("the store can be written again after {:.1} s{free}", began.elapsed().as_secs_f64());
        }
    }
}

/// Whether there is free space for a batch beside the file. Asks by writing: quotas and limits count, too.
pub(super) fn has_free_space(path: &Path) -> bool {
    let scratch = path.with_extension("space");
    let fill = || -> io::Result<()> {
        let mut file = File::create(&scratch)?;
        let chunk = vec![0; 1 << 20];
        for _ in 0..NEEDED_MIB {
            file.write_all(&chunk)?;
        }
        file.sync_data()
    };
    let filled = fill().is_ok();
    let removed = fs::remove_file(&scratch).is_ok();
    filled && removed
}

/// What to do about a file that cannot be opened.
pub(super) fn remedy(error: &redb::Error) -> &'static str {
    match error {
        redb::Error::Io(error) if error.kind() != io::ErrorKind::InvalidData => {
            "check that the folder can be read and written and has free space"
        }
        redb::Error::DatabaseAlreadyOpen => "stop the process that has it open",
        _ => {
            "it is damaged: restore the state folder from a backup, or move the file and its log (tasks.log-*) away to begin without tasks (what waited in its outbox is lost then)"
        }
    }
}

/// What to do about a log that cannot be used.
pub(super) fn log_remedy(error: &LogError) -> &'static str {
    match error {
        LogError::Segment(SegmentError::Io(error)) if error.kind() != io::ErrorKind::InvalidData => {
            "check that the folder can be read and written and has free space"
        }
        _ => {
            "restore the state folder from a backup, as a whole; or move all of the log (tasks.log-*) away to go on without what only the log has: the last changes before the stop, and the events that wait"
        }
    }
}

/// Space that this process may still use on the file system of the file.
pub(super) fn free_mib(path: &Path) -> Option<u64> {
    let file_system = statvfs(path.parent()?).ok()?;
    Some(file_system.f_bavail.saturating_mul(file_system.f_frsize) >> 20)
}
