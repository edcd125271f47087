//! What is done behind the callers' backs, by one thread that lives while there is something to do: the ids of
//! an ended log are put into a run, runs of buckets that are over are dropped, and runs are merged.
//!
//! # Invariants
//!
//! 1. A change of the set of runs is one switch of the manifest. Before it, the new run is durable, name and
//!    content; after it, what is not named any more is removed.
//! 2. Whatever fails leaves the old manifest or the new one, and the store is opened again: see
//!    [`mark_broken`](Engine::mark_broken).
//! 3. Ids of an ended log do not wait for a merge: it makes way at each chunk. They do not go to a run that is merged.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use super::engine::{Engine, Loaded, load};
use super::manifest::Manifest;
use super::merge::{self, Merge};
use super::write::RunWriter;
use super::{Failure, files, lock};

impl Engine {
    /// Has done what there is to do.
    pub(super) fn start_work(self: &Arc<Self>) -> Result<(), Failure> {
        if !self.config.tuning.in_background {
            return self.work();
        }
        let mut running = lock(&self.worker.thread);
        if running.is_running || self.is_broken() {
            return Ok(());
        }
        let engine = Arc::clone(self);
        let work = move || {
            if let Err(failure) = engine.work() {
                ::log::warn!("dedup state {}: {failure}", engine.config.path.display());
                engine.mark_broken(Some(failure.to_string()));
                lock(&engine.worker.thread).is_running = false;
            }
        };
        running.handle = Some(thread::Builder::new().name("dedup".to_owned()).spawn(work)?);
        running.is_running = true;
        Ok(())
    }

    fn work(&self) -> Result<(), Failure> {
        while !self.worker.must_stop() {
            if self.freeze(&[])? {
                continue;
            }
            let (runs, now) = (lock(&self.manifest).runs.clone(), lock(&self.view).now);
            let expired: Vec<u64> = runs
                .iter()
                .filter(|run| self.config.is_expired(run.until, now))
                .map(|run| run.number)
                .collect();
            if !expired.is_empty() {
                self.switch(&expired, |_| {}, |_| {})?;
            } else if let Some(inputs) = merge::due(&runs, now) {
                self.merge(&inputs)?;
            } else {
                // Who asks for work first sets what there is to do, and then looks whether the thread runs.
                let mut running = lock(&self.worker.thread);
                if lock(&self.view).frozen.is_none() {
                    running.is_running = false;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Puts the ids of an ended log into runs, but not those that are `busy`. Returns whether there was one.
    fn freeze(&self, busy: &[u64]) -> Result<bool, Failure> {
        let (frozen, now, runs) = {
            let view = lock(&self.view);
            (view.frozen.clone(), view.now, Arc::clone(&view.runs))
        };
        let Some(frozen) = frozen else { return Ok(false) };
        let until = frozen.table.until;
        let entries = match self.config.is_expired(until, now) {
            true => Vec::new(),
            false => frozen.table.sorted_below(u64::MAX),
        };
        let number = lock(&self.manifest).take_run();
        let placement = self.config.put_into_runs(&runs, busy, number, until, entries)?;
        let list = |manifest: &mut Manifest| {
            placement.list_in(manifest);
            (manifest.log, manifest.total) = (frozen.log + 1, frozen.total);
            manifest.set_mark(frozen.mark.as_deref());
        };
        self.switch(&[], list, |view| view.frozen = None)?;
        self.config.remove(&files::log(&self.config.path, frozen.log));
        Ok(true)
    }

    /// Reads runs into one.
    pub(super) fn merge(&self, inputs: &[u64]) -> Result<(), Failure> {
        let runs = Arc::clone(&lock(&self.view).runs);
        let is_input = |loaded: &&Loaded| inputs.contains(&loaded.run.number);
        let until =
            lock(&self.manifest).runs.iter().find(|run| inputs.contains(&run.number)).map(|run| run.until);
        let Some(until) = until else { return Ok(()) };
        let number = lock(&self.manifest).take_run();
        let mut merge = Merge::of(runs.iter().filter(is_input).map(|loaded| &*loaded.run))?;
        let mut run = RunWriter::new(&*self.config.disk, &self.config.path, number)?;
        while let Some(entry) = merge.next()? {
            let is_step = run.push(entry)?;
            if is_step && self.worker.must_stop() {
                self.config.remove(&files::run(&self.config.path, number));
                return Ok(());
            }
            if is_step {
                self.freeze(inputs)?;
            }
        }
        let merged = run.finish()?.map(|written| written.listed(number, until));
        self.config.disk.sync_folder(&self.config.path)?;
        self.switch(inputs, |manifest| manifest.replace(inputs, merged), |_| {})
    }

    /// Changes the set of runs: those of `gone` are not in it any more.
    fn switch(
        &self,
        gone: &[u64],
        change: impl FnOnce(&mut Manifest),
        see: impl FnOnce(&mut super::engine::View),
    ) -> Result<(), Failure> {
        let mut manifest = lock(&self.manifest);
        let mut next = manifest.clone();
        change(&mut next);
        next.runs.retain(|run| !gone.contains(&run.number));
        next.save(&*self.config.disk, &self.config.path)?;
        let before = Arc::clone(&lock(&self.view).runs);
        let runs = load(&self.config, &next, &before)?;
        *manifest = next;
        drop(manifest);
        let mut view = lock(&self.view);
        view.runs = runs;
        see(&mut view);
        drop(view);
        self.changed.notify_all();
        gone.iter().for_each(|number| self.config.remove(&files::run(&self.config.path, *number)));
        Ok(())
    }
}

impl super::Config {
    /// Removes a file that is none of the store any more. The next start removes what cannot be removed now.
    pub(super) fn remove(&self, name: &Path) {
        if let Err(error) = self.disk.remove(name) {
            ::log::warn!("{} cannot be removed: {error}; it is not needed any more", name.display());
        }
    }
}
