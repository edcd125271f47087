//! Where sorted ids go that were in a log: a piece is appended to a run whose ids are all lower, and what does not
//! fit there is a run of its own.
//!
//! Ids of version 7 come nearly sorted: most of a log are higher than all that came before, and what came late,
//! from another partition or a clock that is behind, is mostly higher than what came late before. Merging
//! such runs would write sorted ids again for nothing; appended, each id is written once, and costs the same
//! however many there are. So what does not fit the first run is offered to another. (Patience sorting deals cards to
//! piles in this way, and needs as few piles as the cards are sorted.)
//!
//! # Invariants
//!
//! 1. *What a manifest lists is never written to*: a piece goes behind those of the manifest that is in force on
//!    the disk, and of every one that a power cut may bring back. So a start makes the manifest's name durable before it
//!    appends, and a run that was cut off is not appended to before the next start, since a reader may have it
//!    open as it was.
//! 2. A piece is durable before the manifest that lists it.
//! 3. A piece has higher ids than all before it in its run, and higher numbers: what is in runs was recorded
//!    before what is in a log.
//! 4. A run that is merged is not appended to meanwhile.
//! 5. Nothing small is appended, nor anything to a small run: pieces are few, and so is what a chance makes sorted.
//! 6. A log gives a run one piece at most, and the run gets at least half of what is left.

use super::config::Config;
use super::engine::Loaded;
use super::failure::Failure;
use super::manifest::{Listed, Manifest, Piece};
use super::page::Entry;
use super::write::RunWriter;

/// Pieces of a run: their list, some 16 bytes each, is written with each manifest.
const MAX_PIECES: usize = 2_048;
/// What has fewer ids than this part of a full log is small: merged at each doubling, it costs some 6 % more.
const SMALL: usize = 64;

/// Where ids went: durable, and not listed yet.
#[derive(Debug, Default)]
pub(super) struct Placement {
    /// Numbers of runs, each with its new piece.
    pieces: Vec<(u64, Piece)>,
    run: Option<Listed>,
}

impl Placement {
    pub(super) fn list_in(self, manifest: &mut Manifest) {
        for (number, piece) in self.pieces {
            let grown = manifest.runs.iter_mut().find(|run| run.number == number);
            grown.into_iter().for_each(|run| run.pieces.push(piece));
        }
        manifest.runs.extend(self.run);
    }
}

impl Config {
    /// Writes entries that are sorted: pieces of runs that are not `busy`, and a run of that number of what is left,
    /// or only either. Durable when this returns, with names.
    pub(super) fn put_into_runs(
        &self,
        runs: &[Loaded],
        busy: &[u64],
        number: u64,
        until: u64,
        mut entries: Vec<Entry>,
    ) -> Result<Placement, Failure> {
        let mut placement = Placement::default();
        let is_open = |loaded: &&Loaded| {
            loaded.listed.until == until && !loaded.is_cut_off && !busy.contains(&loaded.run.number)
        };
        let mut open: Vec<&Loaded> = runs.iter().filter(is_open).collect();
        while let Some((run, lower)) = self.best(&open, &entries) {
            let mut writer = RunWriter::append(&run.run);
            for entry in entries.drain(lower..) {
                writer.push(entry)?;
            }
            placement.pieces.extend(writer.finish()?.map(|written| (run.run.number, written.piece())));
            open.retain(|other| other.run.number != run.run.number);
        }
        placement.run = self.write_run(number, until, entries)?;
        Ok(placement)
    }

    /// The run to which at least half of the entries can be appended, and how many cannot. Of several the one with
    /// the most ids: it would be dearest to merge.
    fn best<'a>(&self, runs: &[&'a Loaded], entries: &[Entry]) -> Option<(&'a Loaded, usize)> {
        let is_small = |ids: usize| ids < (self.tuning.ids_in_memory / SMALL).max(1);
        let fits = |loaded: &'a Loaded| {
            let lower = entries.partition_point(|(key, _)| *key <= loaded.run.last());
            let higher = entries.len() - lower;
            let is_run_small = usize::try_from(loaded.run.ids).is_ok_and(is_small);
            let has_space = loaded.listed.pieces.len() < MAX_PIECES;
            (has_space && !is_run_small && !is_small(higher) && higher >= lower).then_some((loaded, lower))
        };
        runs.iter().copied().filter_map(fits).max_by_key(|(loaded, _)| loaded.run.ids)
    }

    /// Writes a run of entries that are sorted, and makes it durable with its name. Of none there is no run.
    pub(super) fn write_run(
        &self,
        number: u64,
        until: u64,
        entries: Vec<Entry>,
    ) -> Result<Option<Listed>, Failure> {
        if entries.is_empty() {
            return Ok(None);
        }
        let mut run = RunWriter::new(&*self.disk, &self.path, number)?;
        for entry in entries {
            run.push(entry)?;
        }
        let written = run.finish()?;
        self.disk.sync_folder(&self.path)?;
        Ok(written.map(|written| written.listed(number, until)))
    }
}
