//! Writes a piece of a run: entries that come sorted, in memory for one chunk.

use std::path::Path;
use std::sync::Arc;

use super::filter::{self, Hash};
use super::manifest::{Listed, Piece};
use super::page::{CHUNK, COUNT_AT, ENTRIES, ENTRY, Entry, PAGE, Place};
use super::run::Run;
use super::{Failure, files, part};
use crate::disk::{Disk, DiskFile};

/// Bytes between two syncs: what the disk is given at once, so that a batch that is recorded meanwhile does
/// not wait for hundreds of megabytes.
const SYNC_EVERY: u64 = 4 << 20;

/// A piece that is written. Nothing refers to it before the manifest does.
#[derive(Debug)]
pub(super) struct RunWriter {
    file: Arc<dyn DiskFile>,
    number: u64,
    /// Where the chunk goes.
    at: u64,
    synced: u64,
    chunk: Vec<Entry>,
    /// For the index: first ids of chunks of earlier pieces, and of its own.
    firsts: Vec<u128>,
    last: u128,
    written: Written,
}

/// A piece that is written, and durable.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    ids: u64,
    /// Its entries' numbers: the lowest, and the one after the highest.
    first: u64,
    end: u64,
}

impl Written {
    pub(super) fn piece(self) -> Piece {
        Piece { ids: self.ids, end: self.end }
    }

    /// As the only piece of a run.
    pub(super) fn listed(self, number: u64, until: u64) -> Listed {
        Listed { number, until, first: self.first, pieces: vec![self.piece()] }
    }
}

impl RunWriter {
    /// Begins the run of that number, beside `path`. What a crash left under its name is removed.
    pub(super) fn new(disk: &dyn Disk, path: &Path, number: u64) -> Result<Self, Failure> {
        let name = files::run(path, number);
        if disk.exists(&name)? {
            disk.remove(&name)?;
        }
        Ok(Self::at(disk.make_file(&name)?.into(), number, 0, Vec::new()))
    }

    /// Begins the next piece of a run, over what a crash left there.
    pub(super) fn append(run: &Run) -> Self {
        Self::at(Arc::clone(&run.file), run.number, run.next_at(), run.firsts_before_next().to_vec())
    }

    fn at(file: Arc<dyn DiskFile>, number: u64, at: u64, firsts: Vec<u128>) -> Self {
        let written = Written { ids: 0, first: u64::MAX, end: 0 };
        Self { file, number, at, synced: at, chunk: Vec::with_capacity(CHUNK), firsts, last: 0, written }
    }

    /// Adds an entry, whose id is higher than those before. Returns whether a chunk was written.
    pub(super) fn push(&mut self, entry: Entry) -> Result<bool, Failure> {
        let is_full = self.chunk.len() == CHUNK;
        if is_full {
            self.write_chunk()?;
        }
        self.chunk.push(entry);
        let Written { first, end, .. } = &mut self.written;
        (*first, *end) = ((*first).min(entry.1), (*end).max(entry.1.saturating_add(1)));
        Ok(is_full)
    }

    /// Writes what is left, and syncs the file; its name is not durable yet. A piece without ids cannot be listed.
    pub(super) fn finish(mut self) -> Result<Option<Written>, Failure> {
        if self.chunk.is_empty() {
            return Ok(None);
        }
        self.write_chunk()?;
        let index = Run::index(&self.firsts, self.last, self.number, self.at);
        self.file.write_all_at(&index, self.at)?;
        self.file.sync_data()?;
        Ok(Some(self.written))
    }

    fn write_chunk(&mut self) -> Result<(), Failure> {
        let place = Place::with(self.at, self.chunk.len());
        let mut bytes = Vec::with_capacity(place.pages * PAGE);
        for (number, entries) in self.chunk.chunks(ENTRIES).enumerate() {
            let start = bytes.len();
            for (key, number) in entries {
                bytes.extend_from_slice(&key.to_be_bytes());
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            debug_assert!(entries.len() * ENTRY <= COUNT_AT);
            bytes.resize(start + COUNT_AT, 0);
            bytes.extend_from_slice(&(u16::try_from(entries.len()).unwrap_or(0)).to_le_bytes());
            bytes.resize(start + PAGE, 0);
            if let Some(page) = bytes.get_mut(start..) {
                part::seal(page, self.number, place.page(number));
            }
        }
        let hashes: Vec<Hash> = self.chunk.iter().map(|(key, _)| Hash::of(*key)).collect();
        let filter = filter::build(&hashes, self.number, place.filter());
        let firsts = self.chunk.chunks(ENTRIES).filter_map(|page| page.first());
        let mut fences: Vec<u8> = firsts.flat_map(|(key, _)| key.to_be_bytes()).collect();
        fences.resize(place.fences_length(), 0);
        part::seal(&mut fences, self.number, place.fences());
        self.file.write_all_at(&bytes, place.at)?;
        self.file.write_all_at(&[filter, fences].concat(), place.filter())?;
        self.at = place.fences() + place.fences_length() as u64;
        if self.at - self.synced >= SYNC_EVERY {
            self.file.sync_data()?;
            self.synced = self.at;
        }
        self.firsts.extend(self.chunk.first().map(|(key, _)| *key));
        self.last = self.chunk.last().map_or(self.last, |(key, _)| *key);
        self.written.ids += self.chunk.len() as u64;
        self.chunk.clear();
        Ok(())
    }
}
