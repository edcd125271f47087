//! A run: ids with their numbers, sorted by id, in a file to which pieces are appended.
//!
//! # The file
//!
//! Pieces, each with higher ids than those before it: chunks of 16,320 ids, the last one of those that are left,
//! then the index. Most runs have one piece; see [`placement`](super::placement). A chunk:
//!
//! | part | bytes | content |
//! | --- | --- | --- |
//! | pages, 96 in a full chunk | 4,096 each | up to 170 entries: id (16, big-endian), number (8, little-endian); from byte 4,080 the count of entries (2), zeros, checksum (4) |
//! | filter | 64 for each 48 ids | see [`filter`] |
//! | fences | 16 for each page, and 16 | the first id of each page, zeros, checksum (4) |
//!
//! The index is the first id of each chunk, the last id of the piece (16 each), zeros (12) and a checksum (4). Some
//! have the chunks of earlier pieces, too: see [`pieces`]. How many ids each piece has is in the manifest; all
//! places follow from that.
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
//! 2. In memory are 16 bytes for each chunk (10 KB for 10 million ids, 98 KB for 100 million), 24 for each piece, and
//!    of filters what [`Filters`] were given for.
//! 3. What is read does not change while a [`Run`] is open: pieces are appended behind those that it knows, and
//!    who wants to see them opens the run again.

use std::hint::black_box;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::filter::{self, Hash};
use super::manifest::Listed;
use super::page::{Entry, KEY, PAGE, Place, entries, entry, keys, search, search_within};
use super::part;
use super::pieces::{self, Pieces};
use super::{Failure, files};
use crate::disk::{Disk, DiskFile};

/// Chunks among which the next id is looked for first.
const NEAR: usize = 8;

/// Ids whose filter blocks are asked for together.
const TOGETHER: usize = 32;

/// The filters of a run, in memory once they were needed.
#[derive(Debug)]
pub(super) struct Filters(Box<[Arc<OnceLock<Vec<u8>>>]>);

impl Filters {
    /// Those of the run, and of them those that are there from when it had fewer pieces, or more.
    pub(super) fn of(run: &Run, before: Option<&Self>) -> Self {
        let there = before.map_or(&[][..], |before| &before.0);
        let there = there.iter().take(run.firsts.len()).cloned();
        let new = (there.len()..run.firsts.len()).map(|_| Arc::default());
        Self(there.chain(new).collect())
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
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) number: u64,
    pub(super) ids: u64,
    pieces: Pieces,
    /// The first id of each chunk.
    firsts: Box<[u128]>,
    last: u128,
}

impl Run {
    /// Opens the run that is listed, beside `path`.
    pub(super) fn open(disk: &dyn Disk, path: &Path, listed: &Listed) -> Result<Self, Failure> {
        let number = listed.number;
        let damaged = |why: String| Failure::damaged(&files::run(path, number), why);
        let file = match disk.open_file(&files::run(path, number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(damaged("it is missing".to_owned()));
            }
            file => file?,
        };
        let pieces = Pieces::of(&listed.pieces);
        if file.length()? < pieces.end() {
            return Err(damaged(format!("it is shorter than {} bytes", pieces.end())));
        }
        if listed.pieces.is_empty() || listed.pieces.iter().any(|piece| piece.ids == 0) {
            return Err(damaged("a piece of it is empty".to_owned()));
        }
        let (mut firsts, mut last) = (vec![0; pieces.chunks()], None);
        let mut left = pieces.count();
        while let Some(piece) = left.checked_sub(1) {
            let place = pieces.index(piece);
            let mut index = vec![0; place.length()];
            file.read_exact_at(&mut index, place.at)?;
            if !part::is_whole(&index, number, place.at) {
                return Err(damaged(another_checksum("the index", place.at, piece, &pieces)));
            }
            let covered = firsts.get_mut(place.chunks.clone()).unwrap_or_default();
            covered.iter_mut().zip(keys(&index)).for_each(|(first, key)| *first = key);
            last = last.or_else(|| keys(&index).nth(place.chunks.len()));
            left = pieces::first_covered(piece);
        }
        let (ids, last) = (listed.ids(), last.unwrap_or(0));
        Ok(Self { file: file.into(), number, ids, pieces, firsts: firsts.into(), last })
    }

    /// Its highest id.
    pub(super) fn last(&self) -> u128 {
        self.last
    }

    /// Bytes of all its filters.
    pub(super) fn filter_bytes(&self) -> u64 {
        self.pieces.filter_bytes()
    }

    /// Where the next piece begins.
    pub(super) fn next_at(&self) -> u64 {
        self.pieces.next_at()
    }

    /// What the index of the next piece begins with.
    pub(super) fn firsts_before_next(&self) -> &[u128] {
        self.firsts.get(self.pieces.before_next()).unwrap_or_default()
    }

    /// The index for chunks that begin with these ids, as stored from byte `at`.
    pub(super) fn index(firsts: &[u128], last: u128, number: u64, at: u64) -> Vec<u8> {
        let keys = firsts.iter().chain([&last]);
        let mut index: Vec<u8> = keys.flat_map(|key| key.to_be_bytes()).collect();
        index.extend([0; KEY]);
        part::seal(&mut index, number, at);
        index
    }

    /// Looks for ids, which come sorted, each with its place in `found`; sets the numbers of those that are
    /// there. Of one that was found, a number is looked for if it may be higher: below `end`.
    pub(super) fn find(
        &self,
        sorted: &[(u128, usize)],
        filters: Option<&Filters>,
        found: &mut [Option<u64>],
        end: u64,
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
                if found.get(*place).is_some_and(|found| found.is_none_or(|number| number < end)) {
                    chunk = self.chunk_of(*key, chunk);
                    probes.push(self.probe(*key, *place, chunk, filters)?);
                }
            }
            // Each block is far away: asked for together, they come together.
            let first_bytes = probes.iter().filter_map(|probe| probe.block?.first());
            black_box(first_bytes.fold(0, |all, byte| all ^ byte));
            for probe in &probes {
                let number = self.find_one(probe, &mut recent)?;
                found.get_mut(probe.found_at).into_iter().for_each(|found| *found = number.max(*found));
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
        let place = self.pieces.place(chunk);
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
            why: another_checksum(what, at, self.pieces.at(at), &self.pieces),
        }
    }

    /// All entries, in order. Reads some pages at once.
    pub(super) fn entries(&self) -> Entries<'_> {
        self.entries_from(0)
    }

    /// Those of the pieces from that one on.
    pub(super) fn entries_from(&self, piece: usize) -> Entries<'_> {
        Entries { run: self, chunk: self.pieces.chunks_from(piece).start, page: 0, pages: Vec::new(), at: 0 }
    }
}

fn another_checksum(what: &str, at: u64, piece: usize, pieces: &Pieces) -> String {
    format!("{what} at byte {at}, in piece {} of {}, has another checksum", piece + 1, pieces.count())
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
        let mut place = self.run.pieces.place(self.chunk);
        if self.page == place.pages {
            (self.chunk, self.page) = (self.chunk + 1, 0);
            place = self.run.pieces.place(self.chunk);
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
