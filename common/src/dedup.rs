//! The ids of handled events, on disk, in bounded memory, at a cost that hardly depends on their number.
//!
//! A log-structured merge tree made for one kind of key: new ids go to a log and into memory; when those are
//! many, they are put into a sorted run, and runs are merged in the background. Ids that come sorted, as those of
//! version 7 nearly do, are appended to a run as a piece of it, and never merged. With them goes one mark, a few
//! bytes of the owner's that are written in the same frame as the ids they belong to.
//!
//! ```text
//! record / append ──> log (synced) ──> newest ids in memory ──ended log──> piece of a run, or run ──> merged runs
//! known / numbers <── newest ids, then runs: range, filter, page
//! ```
//!
//! | part | file | what it is |
//! | --- | --- | --- |
//! | [`manifest`] | `dedup` | which runs and logs there are; replaced whole |
//! | [`id_log`] | `dedup.log-N` | batches in the order in which they came |
//! | [`run`], [`pieces`], [`mod@write`], [`filter`] | `dedup.run-N` | ids sorted, with their numbers |
//! | [`placement`] | | which run sorted ids are appended to |
//! | [`engine`], [`background`], [`merge`] | | callers' work, and what is done behind their backs |
//! | [`recovery`], [`migrate`] | | what a start does |
//! | [`config`], [`failure`] | | how a store is kept; why it fails |
//!
//! # Invariants
//!
//! 1. *Exact*: a filter only says that an id is not in a run; that it is there, the id itself says.
//! 2. *Ids and mark are one frame*: a crash leaves both or neither, and of the batches a prefix.
//! 3. *A change of the set of runs, or of their pieces, is one switch of the manifest*, to what is durable before it.
//!    What a manifest lists that a power cut may bring back is never written to.
//! 4. *Bounded*: in memory are the ids of at most two logs ([`Tuning::ids_in_memory`] each), filters
//!    ([`Tuning::filter_bytes`]; of ids that come sorted, as those of version 7 nearly do, none is ever read),
//!    16 bytes for 16,320 ids of a run and some 60 for a piece, of up to 57,344 ids, and what a merge reads at once
//!    (4 MiB at most). Opening takes time with the logs.
//! 5. *Nobody waits for a merge* until there are 64 runs, nor for a run to be written until a second log is
//!    full: then whoever records waits. With steady work there are a run for each doubling of the ids; of sorted
//!    ids one, another for those that came late, and one for each doubling of those few that fit neither.
//! 6. *Whole buckets are forgotten*: with a window, an id belongs to the bucket of the time when it was recorded,
//!    a quarter of the window long. Runs of different buckets are not mixed. A run is dropped once all of its
//!    bucket is older than the window: so an id is known for the window at least, and for 1.25 of it at most.
//! 7. After an I/O error nothing more is written to the current log. The store is closed, and opened again by
//!    the next call; a batch whose call failed may be known then, or not.
//!
//! One process uses a store: its folder is locked by [`StateDir`](crate::state_dir::StateDir).

mod background;
mod config;
mod engine;
mod failure;
mod files;
mod filter;
mod id_log;
mod lock;
mod manifest;
mod merge;
mod migrate;
mod page;
mod part;
mod pieces;
mod placement;
mod recovery;
mod run;
mod worker;
mod write;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::task::spawn_blocking;
use uuid::Uuid;

use self::config::{Config, millis};
use self::engine::Engine;
use self::failure::Failure;
use self::id_log::IdLog;
use self::lock::lock;
use crate::disk::{Disk, FileSystem};

pub use self::config::{Retention, Tuning};
pub use self::failure::DedupError;

/// The set of handled ids. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Dedup(Arc<Store>);

#[derive(Debug)]
struct Store {
    config: Arc<Config>,
    engine: Mutex<Option<Arc<Engine>>>,
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

fn keys(ids: &[Uuid]) -> Vec<u128> {
    ids.iter().map(Uuid::as_u128).collect()
}

fn since_1970() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests;
