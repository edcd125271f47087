//! An open store: the newest ids in memory and in the log, the others in runs.
//!
//! # Locks
//!
//! Taken in this order, if more than one is: the log (whoever records holds it, also while the disk syncs), the
//! manifest (whoever changes the set of runs), the view (for no longer than it takes to look into memory). A
//! look-up takes the view only to look at the newest ids and to get hold of the runs, so it waits for no disk
//! but its own reads.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::id_log::IdLog;
use super::manifest::{Listed, Manifest};
use super::merge;
use super::page::Entry;
use super::run::{Filters, Run};
use super::worker::Worker;
use super::{Config, Failure, lock};

/// Runs up to which the caller does not wait for merges.
const MAX_RUNS: usize = 64;
/// Bytes of the log up to which no new one is begun: marks may come without ids.
const MAX_LOG: u64 = 4 << 20;
/// Batches between two syncs, where the owner can bring back what is lost.
const BATCHES_PER_SYNC: u32 = 64;

/// An open store.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) config: Arc<Config>,
    pub(super) log: Mutex<IdLog>,
    pub(super) manifest: Mutex<Manifest>,
    pub(super) view: Mutex<View>,
    /// The view has fewer ids or runs to be worked on, or there was a failure.
    pub(super) changed: Condvar,
    /// After a failure nothing more is written: the store has to be opened again.
    is_broken: AtomicBool,
    pub(super) worker: Worker,
}

/// What is known.
#[derive(Debug)]
pub(super) struct View {
    /// Ids of the log that is written.
    pub(super) active: Table,
    /// Ids of the log before it, until they are in a run.
    pub(super) frozen: Option<Arc<Frozen>>,
    pub(super) runs: Arc<[Loaded]>,
    pub(super) mark: Option<Vec<u8>>,
    /// Ids that were ever recorded and are not cut off; the number of the next.
    pub(super) total: u64,
    /// When the last batch was recorded, in ms since 1970.
    pub(super) now: u64,
    /// Why work in the background failed.
    pub(super) failure: Option<String>,
}

/// Ids of one log in memory.
#[derive(Debug, Default)]
pub(super) struct Table {
    numbers: HashMap<u128, u64>,
    /// The end of their bucket.
    pub(super) until: u64,
}

/// Ids that are to be put into a run, and what was known when their log ended.
#[derive(Debug)]
pub(super) struct Frozen {
    pub(super) table: Table,
    pub(super) log: u64,
    pub(super) total: u64,
    pub(super) mark: Option<Vec<u8>>,
}

/// An open run, with its filters if there is memory for them.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) listed: Listed,
    pub(super) run: Arc<Run>,
    filters: Option<Arc<Filters>>,
    /// Pieces of it are not listed any more, and somebody may still read them.
    pub(super) is_cut_off: bool,
}

impl Loaded {
    /// The run as it is listed now; `before` is what was listed of it.
    fn open(config: &Config, listed: &Listed, before: Option<&Self>) -> Result<Self, Failure> {
        let run = Run::open(&*config.disk, &config.path, listed)?;
        let before_filters = before.and_then(|before| before.filters.as_deref());
        let filters = before_filters.map(|filters| Arc::new(Filters::of(&run, Some(filters))));
        let is_shorter = |before: &Self| before.listed.pieces.len() > listed.pieces.len();
        let is_cut_off = before.is_some_and(|before| before.is_cut_off || is_shorter(before));
        Ok(Self { listed: listed.clone(), run: Arc::new(run), filters, is_cut_off })
    }
}

impl View {
    /// Whether the background has to come after before more is begun.
    fn must_wait(&self) -> bool {
        let runs = || self.runs.iter().map(|loaded| loaded.listed.clone()).collect::<Vec<_>>();
        self.frozen.is_some() || (self.runs.len() >= MAX_RUNS && merge::due(&runs(), self.now).is_some())
    }
}

impl Table {
    pub(super) fn new(until: u64, ids: usize) -> Self {
        Self { numbers: HashMap::with_capacity(ids), until }
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    fn insert(&mut self, first: u64, ids: &[u128]) {
        self.numbers.extend(ids.iter().copied().zip(first..));
    }

    /// Those that are numbered below `end`, sorted by id.
    pub(super) fn sorted_below(&self, end: u64) -> Vec<Entry> {
        let all = self.numbers.iter().map(|(key, number)| (*key, *number));
        let mut entries: Vec<Entry> = all.filter(|(_, number)| *number < end).collect();
        entries.sort_unstable();
        entries
    }
}

/// Opens the runs of the manifest that are not open yet, or have other pieces. The smallest have their filters in memory, as many as
/// there is memory for: there are the most of them.
pub(super) fn load(
    config: &Config,
    manifest: &Manifest,
    before: &[Loaded],
) -> Result<Arc<[Loaded]>, Failure> {
    let open = |listed: &Listed| match before.iter().find(|loaded| loaded.run.number == listed.number) {
        Some(loaded) if loaded.listed.pieces.len() == listed.pieces.len() => Ok(loaded.clone()),
        other => Loaded::open(config, listed, other),
    };
    let loaded = manifest.runs.iter().map(open);
    let mut loaded = loaded.collect::<Result<Vec<_>, Failure>>()?;
    let mut smallest: Vec<&mut Loaded> = loaded.iter_mut().collect();
    smallest.sort_by_key(|loaded| loaded.run.ids);
    let mut left = config.tuning.filter_bytes;
    for loaded in smallest {
        left = left.saturating_sub(loaded.run.filter_bytes());
        if left == 0 {
            loaded.filters = None;
        } else if loaded.filters.is_none() {
            loaded.filters = Some(Arc::new(Filters::of(&loaded.run, None)));
        }
    }
    Ok(loaded.into())
}

impl Config {
    /// An empty table, for the ids of a bucket.
    pub(super) fn table(&self, until: u64) -> Table {
        Table::new(until, self.tuning.ids_in_memory)
    }
}

impl Engine {
    pub(super) fn new(config: Arc<Config>, log: IdLog, manifest: Manifest, view: View) -> Self {
        let (log, manifest, view) = (Mutex::new(log), Mutex::new(manifest), Mutex::new(view));
        let (changed, is_broken, worker) = (Condvar::new(), AtomicBool::new(false), Worker::default());
        Self { config, log, manifest, view, changed, is_broken, worker }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Acquire)
    }

    /// Lets nothing more be written. Who waits for the background waits no longer.
    pub(super) fn mark_broken(&self, failure: Option<String>) {
        let mut view = lock(&self.view);
        self.is_broken.store(true, Ordering::Release);
        view.failure = failure.or(view.failure.take());
        drop(view);
        self.changed.notify_all();
    }

    /// The numbers of the ids that are known.
    pub(super) fn numbers(&self, keys: &[u128]) -> Result<Vec<Option<u64>>, Failure> {
        let view = lock(&self.view);
        let frozen = view.frozen.as_deref();
        let in_memory = |key| {
            let active = view.active.numbers.get(key);
            active.or_else(|| frozen.and_then(|frozen| frozen.table.numbers.get(key))).copied()
        };
        let mut found: Vec<Option<u64>> = keys.iter().map(in_memory).collect();
        let runs = Arc::clone(&view.runs);
        drop(view);
        let is_open = |(place, number): (usize, &Option<u64>)| number.is_none().then_some(place);
        let open = found.iter().enumerate().filter_map(is_open);
        let mut sorted: Vec<(u128, usize)> =
            open.filter_map(|place| Some((*keys.get(place)?, place))).collect();
        sorted.sort_unstable();
        // The newest first: repeats are mostly of the last ids.
        for Loaded { listed, run, filters, .. } in runs.iter().rev() {
            // Where all are kept, each is there once.
            let end = if self.config.is_numbered() { 0 } else { listed.end() };
            run.find(&sorted, filters.as_deref(), &mut found, end)?;
        }
        Ok(found)
    }

    /// Adds the ids; on disk when this returns the number of the first.
    pub(super) fn record(
        self: &Arc<Self>,
        log: &mut IdLog,
        keys: &[u128],
        mark: Option<&[u8]>,
        now: u64,
    ) -> Result<u64, Failure> {
        self.make_space(log, keys.len(), now)?;
        let first = lock(&self.view).total;
        log.append(first, keys, mark)?;
        log.sync()?;
        self.insert(keys, mark);
        Ok(first)
    }

    /// Adds those of the ids that are new, and the mark. Returns the number of all.
    pub(super) fn append(
        self: &Arc<Self>,
        log: &mut IdLog,
        keys: &[u128],
        durable: bool,
        mark: impl FnOnce(u64) -> Vec<u8>,
    ) -> Result<u64, Failure> {
        let mut seen = HashSet::with_capacity(keys.len());
        let known = self.numbers(keys)?;
        let is_new = |(key, known): &(&u128, Option<u64>)| known.is_none() && seen.insert(**key);
        let new: Vec<u128> = keys.iter().zip(known).filter(is_new).map(|(key, _)| *key).collect();
        self.append_new(log, &new, durable, mark)
    }

    /// Adds ids that are new, each there once, and the mark. Returns the number of all.
    pub(super) fn append_new(
        self: &Arc<Self>,
        log: &mut IdLog,
        keys: &[u128],
        durable: bool,
        mark: impl FnOnce(u64) -> Vec<u8>,
    ) -> Result<u64, Failure> {
        self.make_space(log, keys.len(), 0)?;
        let first = lock(&self.view).total;
        let total = first + keys.len() as u64;
        let mark = mark(total);
        log.append(first, keys, Some(&mark))?;
        if durable || log.unsynced > BATCHES_PER_SYNC {
            log.sync()?;
        }
        self.insert(keys, Some(&mark));
        Ok(total)
    }

    fn insert(&self, keys: &[u128], mark: Option<&[u8]>) {
        let mut view = lock(&self.view);
        let first = view.total;
        view.active.insert(first, keys);
        view.total += keys.len() as u64;
        if let Some(mark) = mark {
            view.mark = Some(mark.to_vec());
        }
    }

    /// Begins a new log, and has the ids of the one before put into a run, if there are too many of them, or if
    /// a new bucket begins. Waits only where that came twice before the background had done it once, or had
    /// left too many runs.
    fn make_space(self: &Arc<Self>, log: &mut IdLog, adding: usize, now: u64) -> Result<(), Failure> {
        let until = self.config.bucket(now);
        let mut view = lock(&self.view);
        view.now = now;
        let ids = view.active.len();
        let is_full = ids > 0 && ids + adding > self.config.tuning.ids_in_memory;
        if !is_full && log.at < MAX_LOG && view.active.until == until {
            return Ok(());
        }
        while view.must_wait() && !self.is_broken() {
            drop(view);
            self.start_work()?;
            let waiting = |view: &mut View| view.must_wait() && !self.is_broken();
            view = self.changed.wait_while(lock(&self.view), waiting).unwrap_or_else(PoisonError::into_inner);
        }
        if self.is_broken() {
            let failure = view.failure.clone().unwrap_or_else(|| "it failed before".to_owned());
            return Err(Failure::Io(std::io::Error::other(failure)));
        }
        drop(view);
        log.sync()?;
        let next = IdLog::make(&*self.config.disk, &self.config.path, log.number + 1, until)?;
        let before = std::mem::replace(log, next);
        let mut view = lock(&self.view);
        let table = std::mem::replace(&mut view.active, self.config.table(until));
        let (total, mark) = (view.total, view.mark.clone());
        view.frozen = Some(Arc::new(Frozen { table, log: before.number, total, mark }));
        drop(view);
        self.start_work()
    }

    /// The number of ids.
    pub(super) fn len(&self) -> u64 {
        let view = lock(&self.view);
        let in_runs: u64 = view.runs.iter().map(|loaded| loaded.run.ids).sum();
        let frozen = view.frozen.as_ref().map_or(0, |frozen| frozen.table.len());
        in_runs + (frozen + view.active.len()) as u64
    }
}
