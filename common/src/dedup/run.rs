//! A run: ids with their numbers, sorted by id, in a file that never changes.
//!
//! # The file
//!
//! Chunks of 16,320 ids, the last one of those that are left, then the index. A chunk:
//!
//! | part | bytes | content |
//! | --- | --- | --- |
//! | pages, 96 in a full chunk | 4,096 each | up to 170 entries: id (16, big-endian), number (8, little-endian); from byte 4,080 the count of entries (2), zeros, checksum (4) |
//! | filter | 64 for each 48 ids | see [`filter`] |
//! | fences | 16 for each page, and 16 | the first id of each page, zeros, checksum (4) |
//!
//! The index is the first id of each chunk, the last id of the run (16 each), zeros (12) and a checksum (4).
//! How many ids there are is in the manifest; all places follow from that.
//!
//! # What a look-up reads
//!
//! Nothing where the id is not between the run's first and last: so it is with nearly all new ids whose
//! version is 7. Else one block of the filter, from memory or 64 bytes from the file; and where the id may be
//! there, the fences of its chunk and one page. All come from the page cache, if the system has it there.
//!
//! # Invariants
//!
//! 1. What is read counts only if its checksum holds, which covers file and place as well.
//! 2. In memory are 16 bytes for each chunk (10 KB for 10 million ids, 98 KB for 100 million), and of filters what
//!    [`Filters`] were given for.

use std::hint::black_box;
use std::io;
use std::path::Path;
use std::sync::OnceLock;

use super::filter::{self, Hash};
use super::page::{CHUNK, Entry, KEY, PAGE, Place, entries, entry, keys, search, search_within};
use super::part;
use super::{Failure, files};
use crate::disk::{Disk, DiskFile};

/// Chunks among which the next id is looked for first.
const NEAR: usize = 8;

/// Ids whose filter blocks are asked for together.
const TOGETHER: usize = 32;

/// The filters of a run, in memory once they were needed.
#[derive(Debug)]
pub(super) struct Filters(Box<[OnceLock<Vec<u8>>]>);

impl Filters {
    pub(super) fn of(run: &Run) -> Self {
        Self(run.firsts.iter().map(|_| OnceLock::new()).collect())
    }

    /// Bytes for so many ids.
    pub(super) fn bytes(ids: u64) -> u64 {
        ids.div_ceil(CHUNK as u64) * Place::with(0, CHUNK).blocks as u64 * filter::BLOCK as u64
    }
}

/// The parts of a run that were read last, for ids that follow each other.
#[derive(Debug, Default)]
struct Recent {
    page: Vec<u8>,
    fences: Vec<u8>,
    chunk: Option<usize>,
}

/// An id that is looked for in a run.
#[derive(Debug)]
struct Probe<'a> {
    key: u128,
    found_at: usize,
    chunk: usize,
    place: Place,
    hash: Hash,
    /// Its block of the filter, if that is in memory.
    block: Option<&'a [u8; filter::BLOCK]>,
}

/// An open run.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) file: Box<dyn DiskFile>,
    pub(super) number: u64,
    pub(super) ids: u64,
    /// The first id of each chunk.
    firsts: Box<[u128]>,
    last: u128,
}

impl Run {
    /// Opens the run of that number, beside `path`.
    pub(super) fn open(disk: &dyn Disk, path: &Path, number: u64, ids: u64) -> Result<Self, Failure> {
        let damaged = |why: String| Failure::damaged(&files::run(path, number), why);
        let file = match disk.open_file(&files::run(path, number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(damaged("it is missing".to_owned()));
            }
            file => file?,
        };
        let chunks = usize::try_from(ids.div_ceil(CHUNK as u64)).unwrap_or(usize::MAX);
        let last_chunk = Place::of(chunks.saturating_sub(1), ids);
        let at = last_chunk.at + last_chunk.length();
        let length = (chunks as u64 + 2) * KEY as u64;
        if chunks == 0 || file.length()? != at + length {
            return Err(damaged(format!("it is not {} bytes long", at + length)));
        }
        let mut index = vec![0; (chunks + 2) * KEY];
        file.read_exact_at(&mut index, at)?;
        if !part::is_whole(&index, number, at) {
            return Err(damaged(format!("the index at byte {at} has another checksum")));
        }
        let keys: Vec<u128> = keys(&index).take(chunks + 1).collect();
        let Some((last, firsts)) = keys.split_last() else { return Err(damaged("it is empty".to_owned())) };
        Ok(Self { file, number, ids, firsts: firsts.into(), last: *last })
    }

    /// The index of a run whose chunks begin with these ids, as stored from byte `at`.
    pub(super) fn index(firsts: &[u128], last: u128, number: u64, at: u64) -> Vec<u8> {
        let keys = firsts.iter().chain([&last]);
        let mut index: Vec<u8> = keys.flat_map(|key| key.to_be_bytes()).collect();
        index.extend([0; KEY]);
        part::seal(&mut index, number, at);
        index
    }

    /// Looks for ids, which come sorted, each with its place in `found`; sets the numbers of those that are
    /// there.
    pub(super) fn find(
        &self,
        sorted: &[(u128, usize)],
        filters: Option<&Filters>,
        found: &mut [Option<u64>],
    ) -> Result<(), Failure> {
        let first = self.firsts.first().copied().unwrap_or(u128::MAX);
        let within = sorted.partition_point(|(key, _)| *key < first)..;
        let within = sorted.get(within).unwrap_or_default();
        let within = within.get(..within.partition_point(|(key, _)| *key <= self.last)).unwrap_or_default();
        let (mut chunk, mut recent) = (0, Recent::default());
        let mut probes: Vec<Probe<'_>> = Vec::with_capacity(TOGETHER);
        for group in within.chunks(TOGETHER) {
            probes.clear();
            for (key, place) in group {
                if found.get(*place).is_some_and(Option::is_none) {
                    chunk = self.chunk_of(*key, chunk);
                    probes.push(self.probe(*key, *place, chunk, filters)?);
                }
            }
            // Each block is far away: asked for together, they come together.
            let first_bytes = probes.iter().filter_map(|probe| probe.block?.first());
            black_box(first_bytes.fold(0, |all, byte| all ^ byte));
            for probe in &probes {
                let number = self.find_one(probe, &mut recent)?;
                found.get_mut(probe.found_at).into_iter().for_each(|found| *found = number);
            }
        }
        Ok(())
    }

    /// The chunk where the id belongs; one of a lower id is known.
    fn chunk_of(&self, key: u128, lower: usize) -> usize {
        let later = self.firsts.get(lower + 1..).unwrap_or_default();
        // Mostly the same chunk or one of the next.
        if later.first().is_none_or(|first| *first > key) {
            return lower;
        }
        let near = later.get(..NEAR).filter(|near| near.last().is_some_and(|last| *last > key));
        lower + near.unwrap_or(later).partition_point(|first| *first <= key)
    }

    fn probe<'a>(
        &self,
        key: u128,
        found_at: usize,
        chunk: usize,
        filters: Option<&'a Filters>,
    ) -> Result<Probe<'a>, Failure> {
        let place = Place::of(chunk, self.ids);
        let hash = Hash::of(key);
        let block = match filters.and_then(|filters| filters.0.get(chunk)) {
            None => None,
            Some(cell) => {
                let filter = match cell.get() {
                    Some(filter) => filter,
                    None => {
                        let filter = self.read_filter(&place)?;
                        cell.get_or_init(|| filter)
                    }
                };
                filter.as_chunks().0.get(hash.block(place.blocks))
            }
        };
        Ok(Probe { key, found_at, chunk, place, hash, block })
    }

    fn find_one(&self, probe: &Probe<'_>, recent: &mut Recent) -> Result<Option<u64>, Failure> {
        let Probe { key, chunk, place, hash, block, .. } = probe;
        if let Some(found) = search_within(&recent.page, *key) {
            return Ok(found);
        }
        let may_hold = match block {
            Some(block) => filter::may_hold(block, *hash),
            None => {
                let at = place.filter() + (hash.block(place.blocks) * filter::BLOCK) as u64;
                let mut block = [0; filter::BLOCK];
                self.read(&mut block, at, "the filter")?;
                filter::may_hold(&block, *hash)
            }
        };
        if !may_hold {
            return Ok(None);
        }
        if recent.chunk != Some(*chunk) {
            recent.chunk = None;
            recent.fences.resize(place.fences_length(), 0);
            self.read(&mut recent.fences, place.fences(), "the fences")?;
            recent.chunk = Some(*chunk);
        }
        let fences = keys(&recent.fences).take(place.pages);
        let page = fences.take_while(|first| first <= key).count().saturating_sub(1);
        recent.page.resize(PAGE, 0);
        if let Err(error) = self.read(&mut recent.page, place.page(page), "the page") {
            recent.page.clear();
            return Err(error);
        }
        Ok(search(&recent.page, *key))
    }

    fn read_filter(&self, place: &Place) -> Result<Vec<u8>, Failure> {
        let mut filter = vec![0; place.blocks * filter::BLOCK];
        self.file.read_exact_at(&mut filter, place.filter())?;
        for (number, block) in filter.chunks(filter::BLOCK).enumerate() {
            let at = place.filter() + (number * filter::BLOCK) as u64;
            if !part::is_whole(block, self.number, at) {
                return Err(self.damaged("the filter", at));
            }
        }
        Ok(filter)
    }

    fn read(&self, part: &mut [u8], at: u64, what: &str) -> Result<(), Failure> {
        self.file.read_exact_at(part, at)?;
        if part::is_whole(part, self.number, at) { Ok(()) } else { Err(self.damaged(what, at)) }
    }

    fn damaged(&self, what: &str, at: u64) -> Failure {
        Failure::Damaged {
            file: format!("run {}", self.number),
            why: format!("{what} at byte {at} has another checksum"),
        }
    }

    /// All entries, in order. Reads some pages at once.
    pub(super) fn entries(&self) -> Entries<'_> {
        Entries { run: self, chunk: 0, page: 0, pages: Vec::new(), at: 0 }
    }
}

/// Bytes that are read at once while a run is read through.
const READ: usize = 16 * PAGE;

/// Reads a run through.
#[derive(Debug)]
pub(super) struct Entries<'a> {
    run: &'a Run,
    chunk: usize,
    /// The page that is read next.
    page: usize,
    /// Entries of the pages that were read, and how many of them were taken.
    pages: Vec<Entry>,
    at: usize,
}

impl Entries<'_> {
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Failure> {
        if self.at == self.pages.len() && !self.read()? {
            return Ok(None);
        }
        let entry = self.pages.get(self.at).copied();
        self.at += 1;
        Ok(entry)
    }

    fn read(&mut self) -> Result<bool, Failure> {
        let mut place = Place::of(self.chunk, self.run.ids);
        if self.page == place.pages {
            (self.chunk, self.page) = (self.chunk + 1, 0);
            place = Place::of(self.chunk, self.run.ids);
        }
        if self.chunk >= self.run.firsts.len() {
            return Ok(false);
        }
        let count = (place.pages - self.page).min(READ / PAGE);
        let mut bytes = vec![0; count * PAGE];
        self.run.file.read_exact_at(&mut bytes, place.page(self.page))?;
        self.pages.clear();
        for (number, page) in bytes.chunks(PAGE).enumerate() {
            let at = place.page(self.page + number);
            if !part::is_whole(page, self.run.number, at) {
                return Err(self.run.damaged("the page", at));
            }
            self.pages.extend(entries(page).iter().map(entry));
        }
        (self.page, self.at) = (self.page + count, 0);
        Ok(!self.pages.is_empty())
    }
}
