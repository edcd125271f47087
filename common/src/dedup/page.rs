//! Where the parts of a run are, and what a page of it holds.

use super::filter;

/// Bytes of a page.
pub(super) const PAGE: usize = 4_096;
/// Bytes of an entry.
pub(super) const ENTRY: usize = 24;
/// Entries of a page.
pub(super) const ENTRIES: usize = 170;
/// Pages of a full chunk.
const PAGES: usize = 96;
/// Ids of a full chunk.
pub(super) const CHUNK: usize = PAGES * ENTRIES;
/// Bytes of an id.
pub(super) const KEY: usize = 16;

/// An id, as a number that sorts as its bytes do, and its number.
pub(super) type Entry = (u128, u64);

/// Where the parts of a chunk are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Its first page.
    pub(super) at: u64,
    pub(super) pages: usize,
    pub(super) blocks: usize,
}

impl Place {
    /// The chunk of that number in a run of so many ids.
    pub(super) fn of(chunk: usize, ids: u64) -> Self {
        let before = chunk as u64 * CHUNK as u64;
        let ids = usize::try_from(ids.saturating_sub(before)).unwrap_or(CHUNK).min(CHUNK);
        Self { at: chunk as u64 * Self::with(0, CHUNK).length(), ..Self::with(0, ids) }
    }

    /// A chunk of so many ids.
    pub(super) fn with(at: u64, ids: usize) -> Self {
        Self { at, pages: ids.div_ceil(ENTRIES), blocks: filter::blocks(ids) }
    }

    pub(super) fn page(&self, page: usize) -> u64 {
        self.at + (page * PAGE) as u64
    }

    pub(super) fn filter(&self) -> u64 {
        self.page(self.pages)
    }

    pub(super) fn fences(&self) -> u64 {
        self.filter() + (self.blocks * filter::BLOCK) as u64
    }

    pub(super) fn fences_length(&self) -> usize {
        (self.pages + 1) * KEY
    }

    pub(super) fn length(&self) -> u64 {
        self.fences() + self.fences_length() as u64 - self.at
    }
}

/// Bytes of a page before its end, which has the count.
pub(super) const COUNT_AT: usize = ENTRIES * ENTRY;

/// The entries of a page that is whole.
pub(super) fn entries(page: &[u8]) -> &[[u8; ENTRY]] {
    let count =
        page.get(COUNT_AT..).and_then(|end| end.first_chunk()).map_or(0, |count| u16::from_le_bytes(*count));
    page.as_chunks().0.get(..usize::from(count)).unwrap_or_default()
}

pub(super) fn entry(bytes: &[u8; ENTRY]) -> Entry {
    let (key, number) = bytes.split_at(KEY);
    (key_of(key), number.first_chunk().map_or(0, |number| u64::from_le_bytes(*number)))
}

pub(super) fn key_of(bytes: &[u8]) -> u128 {
    bytes.first_chunk().map_or(0, |key| u128::from_be_bytes(*key))
}

pub(super) fn keys(bytes: &[u8]) -> impl Iterator<Item = u128> {
    bytes.as_chunks::<KEY>().0.iter().map(|key| u128::from_be_bytes(*key))
}

pub(super) fn search(page: &[u8], key: u128) -> Option<u64> {
    let entries = entries(page);
    let found = entries.binary_search_by(|entry| key_of(entry).cmp(&key)).ok()?;
    entries.get(found).map(|found| entry(found).1)
}

/// What the page says of an id that belongs in it; `None` of one that does not.
pub(super) fn search_within(page: &[u8], key: u128) -> Option<Option<u64>> {
    let entries = entries(page);
    let (first, last) = (entries.first()?, entries.last()?);
    (key_of(first) <= key && key <= key_of(last)).then(|| search(page, key))
}
