//! The ids of handled events, on disk, in bounded memory, at a cost that hardly depends on their number.
//!
//! A log-structured merge tree made for one kind of key: new ids go to a log and into memory; when those are
//! many, they are put into a sorted run, and runs are merged in the background. With them goes one mark, a few
//! bytes of the owner's that are written in the same frame as the ids they belong to.
//!
//! ```text
//! record / append ──> log (synced) ──> newest ids in memory ──ended log──> run ──> merged runs
//! known / numbers <── newest ids, then runs: range, filter, page
//! ```
//!
//! | part | file | what it is |
//! | --- | --- | --- |
//! | [`manifest`] | `dedup` | which runs and logs there are; replaced whole |
//! | [`id_log`] | `dedup.log-N` | batches in the order in which they came |
//! | [`run`], [`mod@write`], [`filter`] | `dedup.run-N` | ids sorted, with their numbers |
//! | [`engine`], [`background`], [`merge`] | | callers' work, and what is done behind their backs |
//! | [`recovery`], [`migrate`] | | what a start does |
//!
//! # Invariants
//!
//! 1. *Exact*: a filter only says that an id is not in a run; that it is there, the id itself says.
//! 2. *Ids and mark are one frame*: a crash leaves both or neither, and of the batches a prefix.
//! 3. *A change of the set of runs is one switch of the manifest*, to files that are durable before it.
//! 4. *Bounded*: in memory are the ids of at most two logs ([`Tuning::ids_in_memory`] each), filters
//!    ([`Tuning::filter_bytes`]; of ids that come sorted, as those of version 7 nearly do, none is ever read),
//!    16 bytes for 16,320 ids of a run, and what a merge reads at once (4 MiB at most). Opening takes time with
//!    the logs.
//! 5. *Nobody waits for a merge* until there are 64 runs, nor for a run to be written until a second log is
//!    full: then whoever records waits. With steady work there are a run for each doubling of the ids.
//! 6. *Whole buckets are forgotten*: with a window, an id belongs to the bucket of the time when it was recorded,
//!    a quarter of the window long. Runs of different buckets are not mixed. A run is dropped once all of its
//!    bucket is older than the window: so an id is known for the window at least, and for 1.25 of it at most.
//! 7. After an I/O error nothing more is written to the log in hand. The store is closed, and opened again by
//!    the next call; a batch whose call failed may be known then, or not.
//!
//! One process uses a store: its folder is locked by [`StateDir`](crate::state_dir::StateDir).

mod background;
mod engine;
mod files;
mod filter;
mod id_log;
mod manifest;
mod merge;
mod migrate;
mod page;
mod part;
mod recovery;
mod run;
mod worker;
mod write;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::spawn_blocking;
use uuid::Uuid;

use self::engine::{Engine, Table};
use self::id_log::IdLog;
use self::manifest::FOR_EVER;
use crate::disk::{Disk, FileSystem};

/// Buckets of a window.
const BUCKETS: u64 = 4;

/// How long ids are kept, and how safely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// Ids older than this are forgotten; each batch is on disk when [`Dedup::record`] returns.
    Window(Duration),
    /// All ids are kept, and numbered: the owner adds them with [`Dedup::append`]. A crash, or an I/O error,
    /// may take the last batches with it. The owner has them elsewhere: after either it compares the mark
    /// with what it knows, and adds again what is missing.
    ForeverRebuildable,
}

/// What memory is used for, and when runs are made.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    /// Ids of one log; at most two logs are in memory, at 33 bytes an id.
    pub ids_in_memory: usize,
    /// Bytes for filters of runs. What is not in memory is read, 64 bytes for each look-up in a run.
    pub filter_bytes: u64,
    /// Whether a thread of its own makes and merges runs; else the caller does, for tests that have to do the
    /// same each time.
    pub in_background: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        // 7/8 of a power of two: what a table holds before it grows; 2.2 MB for each of the two. And filters of
        // 12 million ids: beyond them, a look-up of a random id costs half a microsecond more.
        Self { ids_in_memory: 57_344, filter_bytes: 16 << 20, in_background: true }
    }
}

/// Why the store failed, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("dedup state {path}: {detail}")]
pub struct DedupError {
    path: String,
    detail: String,
}

/// Why a step failed.
#[derive(Debug)]
enum Failure {
    Io(io::Error),
    Damaged { file: String, why: String },
    Redb(Box<redb::Error>),
}

impl Failure {
    fn damaged(file: &Path, why: String) -> Self {
        let name = file.file_name().unwrap_or(file.as_os_str());
        Self::Damaged { file: name.to_string_lossy().into_owned(), why }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Damaged { file, why } => write!(
                f,
                "{file} is damaged: {why}; restore the whole folder from a backup, or move all its files away to begin without the ids that it holds"
            ),
            Self::Redb(error) => write!(f, "the state of the previous version cannot be read: {error}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The set of handled ids. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Dedup(Arc<Store>);

#[derive(Debug)]
struct Store {
    config: Arc<Config>,
    engine: Mutex<Option<Arc<Engine>>>,
}

/// What stays the same when a store is opened again.
#[derive(Debug)]
struct Config {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    retention: Retention,
    tuning: Tuning,
}

impl Dedup {
    /// Opens the store, or makes it. Blocks.
    pub fn open(path: &Path, retention: Retention) -> Result<Self, DedupError> {
        Self::open_on(Arc::new(FileSystem), path, retention)
    }

    /// As [`open`](Self::open), on that disk.
    pub fn open_on(disk: Arc<dyn Disk>, path: &Path, retention: Retention) -> Result<Self, DedupError> {
        Self::open_with(disk, path, retention, Tuning::default())
    }

    /// As [`open_on`](Self::open_on), with that tuning.
    pub fn open_with(
        disk: Arc<dyn Disk>,
        path: &Path,
        retention: Retention,
        tuning: Tuning,
    ) -> Result<Self, DedupError> {
        let config = Arc::new(Config { disk, path: path.to_owned(), retention, tuning });
        let store = Store { config, engine: Mutex::new(None) };
        store.opened()?;
        Ok(Self(Arc::new(store)))
    }

    /// Which of the ids are known.
    pub async fn known(&self, ids: Vec<Uuid>) -> Result<Vec<bool>, DedupError> {
        self.blocking(move |store| {
            Ok(store.numbers(&ids)?.into_iter().map(|number| number.is_some()).collect())
        })
        .await
    }

    /// Adds the ids, and sets the mark if there is one. For a window; where all are kept, see
    /// [`append`](Self::append).
    pub async fn record(&self, ids: Vec<Uuid>, mark: Option<Vec<u8>>) -> Result<(), DedupError> {
        self.blocking(move |store| store.record(&ids, mark.as_deref(), since_1970()).map(drop)).await
    }

    /// As [`record`](Self::record), at that time, in ms since 1970. Returns the number of the first id; the others
    /// have those that follow. Blocks.
    pub fn record_at(&self, ids: &[Uuid], mark: Option<&[u8]>, now: u64) -> Result<u64, DedupError> {
        self.0.record(ids, mark, now)
    }

    /// Adds those of the ids that are new, under the next numbers, and sets the mark that `mark` makes of the
    /// number of all ids. Returns that number. On disk when it returns only if `durable`. Blocks.
    pub fn append(
        &self,
        ids: &[Uuid],
        durable: bool,
        mark: impl FnOnce(u64) -> Vec<u8>,
    ) -> Result<u64, DedupError> {
        self.0.write(|engine, log| engine.append(log, &keys(ids), durable, mark))
    }

    /// As [`append`](Self::append), of ids of which [`numbers`](Self::numbers) just said that they are new,
    /// each there once: they are not looked up again. Only for whoever alone adds ids.
    pub fn append_new(
        &self,
        ids: &[Uuid],
        durable: bool,
        mark: impl FnOnce(u64) -> Vec<u8>,
    ) -> Result<u64, DedupError> {
        self.0.write(|engine, log| engine.append_new(log, &keys(ids), durable, mark))
    }

    /// Forgets all ids but the first `kept`, and sets the mark, at once; durable when it returns. Takes time
    /// with the number of ids in the run that is cut. Blocks.
    pub fn truncate(&self, kept: u64, mark: &[u8]) -> Result<(), DedupError> {
        self.0.write(|engine, log| engine.truncate(log, kept, mark))
    }

    /// The numbers of those ids that are known; of one that was recorded more than once, the last. Blocks.
    pub fn numbers(&self, ids: &[Uuid]) -> Result<Vec<Option<u64>>, DedupError> {
        self.0.numbers(ids)
    }

    /// The number that the next id gets. Blocks.
    pub fn next_number(&self) -> Result<u64, DedupError> {
        Ok(lock(&self.0.opened()?.view).total)
    }

    /// The number of ids; with a window, one that was recorded again may count once more. Takes the same time
    /// however many there are. Blocks.
    pub fn len(&self) -> Result<u64, DedupError> {
        Ok(self.0.opened()?.len())
    }

    /// Whether there are none. Blocks.
    pub fn is_empty(&self) -> Result<bool, DedupError> {
        Ok(self.len()? == 0)
    }

    /// The mark, if one was ever set. Blocks.
    pub fn mark(&self) -> Result<Option<Vec<u8>>, DedupError> {
        Ok(lock(&self.0.opened()?.view).mark.clone())
    }

    /// Makes all that was recorded durable. Blocks.
    pub fn checkpoint(&self) -> Result<(), DedupError> {
        self.0.write(|_, log| log.sync())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, DedupError> + Send + 'static,
    ) -> Result<T, DedupError> {
        let store = Arc::clone(&self.0);
        let joined = spawn_blocking(move || work(&store)).await;
        joined.unwrap_or_else(|error| Err(self.0.config.error(error)))
    }
}

impl Store {
    fn numbers(&self, ids: &[Uuid]) -> Result<Vec<Option<u64>>, DedupError> {
        let engine = self.opened()?;
        engine.numbers(&keys(ids)).map_err(|failure| {
            engine.mark_broken(None);
            self.config.error(failure)
        })
    }

    fn record(&self, ids: &[Uuid], mark: Option<&[u8]>, now: u64) -> Result<u64, DedupError> {
        self.write(|engine, log| engine.record(log, &keys(ids), mark, now))
    }

    /// Does what writes, one at a time. After a failure the store is closed.
    fn write<T>(
        &self,
        work: impl FnOnce(&Arc<Engine>, &mut IdLog) -> Result<T, Failure>,
    ) -> Result<T, DedupError> {
        loop {
            let engine = self.opened()?;
            let mut log = lock(&engine.log);
            // Another caller's failure came first.
            if engine.is_broken() {
                continue;
            }
            return work(&engine, &mut log).map_err(|failure| {
                engine.mark_broken(None);
                self.config.error(failure)
            });
        }
    }

    /// The open store. One that is broken is closed and opened again.
    fn opened(&self) -> Result<Arc<Engine>, DedupError> {
        let mut open = lock(&self.engine);
        if let Some(engine) = open.as_ref().filter(|engine| !engine.is_broken()) {
            return Ok(Arc::clone(engine));
        }
        if let Some(engine) = open.take() {
            close(&engine);
        }
        let engine =
            recovery::open(&self.config, since_1970()).map_err(|failure| self.config.error(failure))?;
        Ok(Arc::clone(open.insert(Arc::new(engine))))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(engine) = lock(&self.engine).take() {
            close(&engine);
        }
    }
}

/// Waits until nobody writes any more.
fn close(engine: &Engine) {
    engine.mark_broken(None);
    drop(lock(&engine.log));
    engine.worker.stop();
}

impl Config {
    fn is_numbered(&self) -> bool {
        self.retention == Retention::ForeverRebuildable
    }

    /// The end of the bucket of that time, in ms since 1970.
    fn bucket(&self, now: u64) -> u64 {
        match self.retention {
            Retention::ForeverRebuildable => FOR_EVER,
            Retention::Window(window) => {
                let length = (millis(window) / BUCKETS).max(1);
                (now / length).saturating_add(1).saturating_mul(length)
            }
        }
    }

    /// Whether all ids of the bucket that ends then are older than the window.
    fn is_expired(&self, until: u64, now: u64) -> bool {
        match self.retention {
            Retention::ForeverRebuildable => false,
            Retention::Window(window) => until <= now.saturating_sub(millis(window)),
        }
    }

    /// An empty table, for the ids of a bucket.
    fn table(&self, until: u64) -> Table {
        Table::new(until, self.tuning.ids_in_memory)
    }

    fn error(&self, detail: impl ToString) -> DedupError {
        DedupError { path: self.path.display().to_string(), detail: detail.to_string() }
    }
}

/// A panic elsewhere leaves no half-done state: each lock's owner sets it in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keys(ids: &[Uuid]) -> Vec<u128> {
    ids.iter().map(Uuid::as_u128).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn since_1970() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests;
