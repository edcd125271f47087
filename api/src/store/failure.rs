//! What the store cannot do, and why: one value, one request, or all changes.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::Path;

use rustix::fs::statvfs;

/// Free space that the store wants before it takes changes again after a failure, in MiB: more than the
/// largest batch takes. With less, a small attempt would succeed and the next batch fail, again and again.
pub(super) const NEEDED_MIB: u64 = 16;
/// Unreadable values that are remembered, so that each is logged once.
const MAX_REMEMBERED: usize = 1_000;

/// Why the store did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// More changes wait than the writer can take soon.
    #[error("too many changes wait for the disk")]
    Overloaded,
    /// The disk took too long. A change that was under way may be stored or not.
    #[error("the disk does not answer")]
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

/// The unreadable values that were met, each logged once: clients can ask for them as often as they like.
#[derive(Debug, Default)]
pub(super) struct Reported(BTreeSet<String>);

impl Reported {
    pub(super) fn report(&mut self, unreadable: &Unreadable) {
        if self.0.len() < MAX_REMEMBERED && self.0.insert(unreadable.what.clone()) {
            log::error!(
                "{unreadable}; only what needs it fails: restore it from a backup of the state folder, or delete it"
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

/// What to do about a file that cannot be opened.
pub(super) fn remedy(error: &redb::Error) -> &'static str {
    match error {
        redb::Error::Io(error) if error.kind() != io::ErrorKind::InvalidData => {
            "check that the folder can be read and written and has room"
        }
        redb::Error::DatabaseAlreadyOpen => "stop the process that has it open",
        _ => {
            "it is damaged: restore the state folder from a backup, or move the file away to begin without tasks (what waited in its outbox is lost then)"
        }
    }
}

/// Space that this process may still use on the file system of the file.
pub(super) fn free_mib(path: &Path) -> Option<u64> {
    let file_system = statvfs(path.parent()?).ok()?;
    Some(file_system.f_bavail.saturating_mul(file_system.f_frsize) >> 20)
}
