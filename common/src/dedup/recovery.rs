//! Opens a store, and cuts one off.
//!
//! | found | then |
//! | --- | --- |
//! | no manifest | a new store; runs and logs that are there belong to one that was moved away, and go |
//! | a redb file in its place | a store of the version before: see [`migrate`] |
//! | logs | their ids are put into runs, and a new log is begun: a process that was killed may have written what is not on disk |
//! | a log that ends in a batch that is not whole | that batch was not acknowledged, and is cut off |
//! | runs and logs that the manifest does not name | left by a crash, and removed |
//! | anything else | damage: nothing is changed |
//!
//! Takes time with what the logs hold, which is bounded, and not with what the runs hold: of each only the
//! index is read, or a few of them where it has several pieces.

use std::sync::Arc;

use super::engine::{Engine, Loaded, View, load};
use super::files::{self, Kind};
use super::id_log::{self, IdLog};
use super::manifest::{Listed, Manifest, Piece};
use super::page::Entry;
use super::write::RunWriter;
use super::{Config, Failure, lock, migrate};

/// Bytes of a manifest up to which it is read; one with 64 runs has some 6 KB, and 16 bytes more for each piece.
const MAX_MANIFEST: u64 = 1 << 20;

/// Opens the store, or makes it.
pub(super) fn open(config: &Arc<Config>, now: u64) -> Result<Engine, Failure> {
    let Config { disk, path, .. } = &**config;
    let (mut manifest, is_new) = read_manifest(config, now)?;
    let beside = disk.all_beside(path)?;
    let kinds: Vec<Kind> = beside.iter().filter_map(|name| files::kind(path, name)).collect();
    let last_log =
        kinds.iter().filter_map(|kind| if let Kind::Log(n) = kind { Some(*n) } else { None }).max();
    manifest.runs.retain(|run| !config.is_expired(run.until, now));
    let mut runs = load(config, &manifest, &[])?;
    if !is_new {
        // What is appended must not be over what a manifest lists that a power cut would bring back.
        disk.sync_folder(path)?;
        runs = read_logs(config, &mut manifest, runs, last_log.unwrap_or(0), now)?;
    }
    let until = config.bucket(now);
    // Makes the names of new runs durable as well.
    let log = IdLog::make(&**disk, path, last_log.unwrap_or(0).max(manifest.log) + 1, until)?;
    manifest.log = log.number;
    manifest.save(&**disk, path)?;
    for (name, kind) in beside.iter().filter_map(|name| Some((name, files::kind(path, name)?))) {
        let is_named = match kind {
            Kind::Run(number) => manifest.runs.iter().any(|run| run.number == number),
            Kind::Log(_) => false,
            // Saving the manifest has taken it away.
            Kind::NewManifest => true,
        };
        if !is_named {
            config.remove(name);
        }
    }
    let (mark, total) = (manifest.mark(), manifest.total);
    let view = View { active: config.table(until), frozen: None, runs, mark, total, now, failure: None };
    Ok(Engine::new(Arc::clone(config), log, manifest, view))
}

/// The manifest, and whether there was none.
fn read_manifest(config: &Config, now: u64) -> Result<(Manifest, bool), Failure> {
    let Config { disk, path, .. } = config;
    if !disk.exists(path)? {
        return Ok((Manifest::new(config.is_numbered()), true));
    }
    let file = disk.open_file(path)?;
    let mut bytes = vec![0; usize::try_from(file.length()?.min(MAX_MANIFEST)).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    if migrate::is_old(&bytes) {
        return Ok((migrate::migrate(config, now)?, true));
    }
    let manifest = Manifest::from_bytes(path, &bytes)?;
    if manifest.is_numbered != config.is_numbered() {
        return Err(Failure::damaged(
            path,
            "it keeps ids in another way (for a window, or for ever)".to_owned(),
        ));
    }
    Ok((manifest, false))
}

/// Puts the ids of the logs into runs. Returns these.
fn read_logs(
    config: &Config,
    manifest: &mut Manifest,
    mut runs: Arc<[Loaded]>,
    last: u64,
    now: u64,
) -> Result<Arc<[Loaded]>, Failure> {
    let Config { disk, path, .. } = config;
    // Where a log ends in what is not whole. Later ones were begun by a start that was cut short.
    let mut torn: Option<Failure> = None;
    for number in manifest.log..=last.max(manifest.log) {
        let name = files::log(path, number);
        let damaged = |why: String| Failure::damaged(&name, why);
        if !disk.exists(&name)? {
            return Err(damaged("it is missing".to_owned()));
        }
        let found = id_log::read(&**disk, path, number)?;
        if let Some(torn) = torn.take_if(|_| !found.frames.is_empty()) {
            return Err(torn);
        }
        // Of a rebuildable store several frames may not have been on disk.
        if let Some(at) = found.damage.filter(|_| !config.is_numbered()) {
            return Err(damaged(format!("the batch at byte {at} is not whole, and others behind it are")));
        }
        if found.rest > 0 {
            ::log::info!(
                "{} ended in {} bytes of a batch that was not acknowledged",
                name.display(),
                found.rest
            );
            torn = Some(damaged(format!(
                "its last {} bytes are not whole, and there is a later log",
                found.rest
            )));
        }
        let mut entries: Vec<Entry> = Vec::new();
        for frame in found.frames {
            if frame.first != manifest.total {
                return Err(damaged(format!("id {} is missing", manifest.total)));
            }
            manifest.total += frame.ids.len() as u64;
            entries.extend(frame.ids.into_iter().zip(frame.first..));
            if let Some(mark) = frame.mark {
                manifest.set_mark(Some(&mark));
            }
        }
        if config.is_expired(found.until, now) {
            continue;
        }
        // Of an id that was recorded more than once, the last counts.
        entries.sort_unstable_by_key(|(key, number)| (*key, std::cmp::Reverse(*number)));
        entries.dedup_by_key(|(key, _)| *key);
        let run = manifest.take_run();
        config.put_into_runs(&runs, &[], run, found.until, entries)?.list_in(manifest);
        runs = load(config, manifest, &runs)?;
    }
    Ok(runs)
}

impl Engine {
    /// Forgets all ids but the first `kept`, and sets the mark; durable when this returns.
    pub(super) fn truncate(&self, log: &mut IdLog, kept: u64, mark: &[u8]) -> Result<(), Failure> {
        self.worker.stop();
        if self.is_broken() {
            return Err(Failure::Io(std::io::Error::other("a run could not be written")));
        }
        let Config { disk, path, .. } = &*self.config;
        let mut manifest = lock(&self.manifest);
        let mut next = manifest.clone();
        let (runs, newest, total) = {
            let view = lock(&self.view);
            let frozen = view.frozen.iter().flat_map(|frozen| frozen.table.sorted_below(kept));
            let mut newest: Vec<Entry> = frozen.chain(view.active.sorted_below(kept)).collect();
            newest.sort_unstable();
            (Arc::clone(&view.runs), newest, view.total)
        };
        next.runs.clear();
        for loaded in runs.iter() {
            let number = next.take_run();
            next.runs.extend(self.config.cut_run(loaded, kept, number)?.into_iter().flatten());
        }
        let until = self.config.bucket(0);
        let number = next.take_run();
        next.runs.extend(self.config.write_run(number, until, newest)?);
        let before = log.number;
        // Makes the names of new runs durable as well.
        *log = IdLog::make(&**disk, path, before + 1, until)?;
        (next.log, next.total) = (log.number, kept.min(total));
        next.set_mark(Some(mark));
        next.save(&**disk, path)?;
        let old_logs = manifest.log..=before;
        let old_runs: Vec<u64> = manifest.runs.iter().map(|run| run.number).collect();
        let loaded = load(&self.config, &next, &runs)?;
        *manifest = next;
        let mut view = lock(&self.view);
        (view.runs, view.frozen, view.active) = (loaded, None, self.config.table(until));
        (view.total, view.mark) = (manifest.total, Some(mark.to_vec()));
        drop(view);
        let gone = old_runs.iter().filter(|number| manifest.runs.iter().all(|run| run.number != **number));
        gone.for_each(|number| self.config.remove(&files::run(path, *number)));
        old_logs.for_each(|number| self.config.remove(&files::log(path, number)));
        Ok(())
    }
}

impl Config {
    /// What is left of a run of the entries that are numbered below `kept`: its first pieces, and a run of that
    /// number with those of the piece that is cut.
    fn cut_run(&self, loaded: &Loaded, kept: u64, number: u64) -> Result<[Option<Listed>; 2], Failure> {
        let Loaded { listed, run, .. } = loaded;
        let whole = listed.pieces.partition_point(|piece| piece.end <= kept);
        let (left, cut) = listed.pieces.split_at_checked(whole).unwrap_or((&listed.pieces, &[]));
        let left = Listed { pieces: left.to_vec(), ..listed.clone() };
        let first = left.end();
        let left = (!left.pieces.is_empty()).then_some(left);
        let Some(Piece { ids, .. }) = cut.first().filter(|_| first < kept) else { return Ok([left, None]) };
        let (mut entries, mut copy) =
            (run.entries_from(whole), RunWriter::new(&*self.disk, &self.path, number)?);
        for _ in 0..*ids {
            let Some(entry) = entries.next()? else { break };
            if entry.1 < kept {
                copy.push(entry)?;
            }
        }
        let copy = copy.finish()?.map(|written| written.listed(number, listed.until));
        if copy.is_none() {
            self.remove(&files::run(&self.path, number));
        }
        Ok([left, copy])
    }
}
