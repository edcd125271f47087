//! One file of record batches and its sparse index.
//!
//! `00000000000000000042.log` holds the batches from offset 42 on. While it is the active segment
//! (the last one) its index is in memory; a closed segment's index is a file beside it, read by
//! position, so that neither start-up nor memory grows with the log.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

use bytes::{Buf, BufMut};
use task_events::kafka::records::{BatchHeader, HEADER_BYTES, crc_matches};

/// A new index entry every so many bytes of log.
const INDEX_EVERY_BYTES: u64 = 16 * 1024;
const INDEX_MAGIC: &[u8; 8] = b"DEVBIDX1";
const INDEX_HEADER_BYTES: usize = 52;
const ENTRY_BYTES: usize = 24;

/// What is known of a segment's content. `size` counts only bytes that are safe on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub size: u64,
    pub next_offset: i64,
    /// Milliseconds, -1 when there is none.
    pub max_timestamp: i64,
    /// The last offset of the batch with that timestamp.
    pub max_timestamp_offset: i64,
}

impl Extent {
    pub fn empty(base_offset: i64) -> Self {
        Self { size: 0, next_offset: base_offset, max_timestamp: -1, max_timestamp_offset: -1 }
    }

    /// The extent after one more batch of `size` bytes.
    pub fn with(mut self, header: &BatchHeader, size: u64) -> Self {
        self.size += size;
        self.next_offset = header.next_offset();
        if header.max_timestamp > self.max_timestamp {
            self.max_timestamp = header.max_timestamp;
            self.max_timestamp_offset = header.last_offset();
        }
        self
    }
}

/// A place to start scanning from.
#[derive(Debug, Clone, Copy)]
struct Entry {
    offset: i64,
    position: u64,
    /// The largest timestamp of all batches before `position`.
    max_timestamp_before: i64,
}

impl Entry {
    fn read(mut bytes: &[u8]) -> io::Result<Self> {
        Ok(Self {
            offset: bytes.try_get_i64()?,
            position: bytes.try_get_u64()?,
            max_timestamp_before: bytes.try_get_i64()?,
        })
    }
}

#[derive(Debug)]
enum Index {
    Memory(Vec<Entry>),
    File { file: File, entries: u64 },
}

impl Index {
    fn len(&self) -> u64 {
        match self {
            Index::Memory(entries) => entries.len() as u64,
            Index::File { entries, .. } => *entries,
        }
    }

    fn get(&self, n: u64) -> io::Result<Entry> {
        match self {
            Index::Memory(entries) => usize::try_from(n)
                .ok()
                .and_then(|n| entries.get(n).copied())
                .ok_or_else(|| io::Error::other("index entry out of range")),
            Index::File { file, .. } => {
                let mut bytes = [0; ENTRY_BYTES];
                let at = INDEX_HEADER_BYTES as u64 + n * ENTRY_BYTES as u64;
                file.read_exact_at(&mut bytes, at)?;
                Entry::read(&bytes)
            }
        }
    }

    /// The position of the last entry for which `before` holds; 0 when there is none.
    fn position_of_last(&self, before: impl Fn(&Entry) -> bool) -> io::Result<u64> {
        let (mut low, mut high) = (0, self.len());
        let mut position = 0;
        while low < high {
            let middle = low.midpoint(high);
            let entry = self.get(middle)?;
            if before(&entry) {
                position = entry.position;
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(position)
    }
}

/// One segment. Reads go by position, so any number of readers share it.
#[derive(Debug)]
pub(crate) struct Segment {
    pub base_offset: i64,
    path: PathBuf,
    file: File,
    extent: Mutex<Extent>,
    index: RwLock<Index>,
}

/// The file name of the segment that starts at `base_offset`.
pub(crate) fn log_name(base_offset: i64) -> String {
    format!("{base_offset:020}.log")
}

fn index_path(log: &Path) -> PathBuf {
    log.with_extension("index")
}

impl Segment {
    /// Makes a new empty segment file. The caller syncs the folder.
    pub fn create(path: PathBuf, base_offset: i64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        Ok(Self {
            base_offset,
            path,
            file,
            extent: Mutex::new(Extent::empty(base_offset)),
            index: RwLock::new(Index::Memory(Vec::new())),
        })
    }

    /// Opens a closed segment by its index file; scans the log only when that does not fit it.
    pub fn open_closed(path: PathBuf, base_offset: i64) -> io::Result<Self> {
        let file = File::open(&path)?;
        if let Some((extent, index)) = read_index(&index_path(&path), &file) {
            return Ok(Self {
                base_offset,
                path,
                file,
                extent: Mutex::new(extent),
                index: RwLock::new(index),
            });
        }
        log::warn!("index of {} is missing or stale, rebuilding it", path.display());
        let segment = Self::open_active(path, base_offset, |_, _| {})?;
        segment.close()?;
        Ok(segment)
    }

    /// Opens the last segment: every batch is read and checked, and whatever follows the last
    /// whole one is cut off (it was never acknowledged). `each` sees every batch.
    pub fn open_active(
        path: PathBuf,
        base_offset: i64,
        mut each: impl FnMut(&BatchHeader, &[u8]),
    ) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let length = file.metadata()?.len();
        let mut extent = Extent::empty(base_offset);
        let mut entries = Vec::new();
        while let Some(header) = read_header(&file, extent.size, length)? {
            let mut bytes = vec![0; header.size()];
            file.read_exact_at(&mut bytes, extent.size)?;
            if header.base_offset < extent.next_offset || !crc_matches(&header, &bytes) {
                break;
            }
            each(&header, &bytes);
            note(&mut entries, &extent, &header);
            extent = extent.with(&header, bytes.len() as u64);
        }
        if extent.size < length {
            log::warn!(
                "{}: cut off {} bytes of an unfinished write after offset {}",
                path.display(),
                length - extent.size,
                extent.next_offset - 1
            );
            file.set_len(extent.size)?;
            file.sync_data()?;
        }
        Ok(Self {
            base_offset,
            path,
            file,
            extent: Mutex::new(extent),
            index: RwLock::new(Index::Memory(entries)),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What readers may see.
    pub fn extent(&self) -> Extent {
        *self.extent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets readers see everything up to `extent`. The caller has synced the file.
    pub fn publish(&self, extent: Extent) {
        *self.extent.lock().unwrap_or_else(PoisonError::into_inner) = extent;
    }

    /// Writes one batch after `before`, unsynced and unseen by readers. On an error the file ends
    /// where it did.
    pub fn write(&self, before: &Extent, header: &BatchHeader, bytes: &[u8]) -> io::Result<Extent> {
        if let Err(error) = self.file.write_all_at(bytes, before.size) {
            self.file.set_len(before.size)?;
            return Err(error);
        }
        if let Index::Memory(entries) = &mut *self.index_mut() {
            note(entries, before, header);
        }
        Ok(before.with(header, bytes.len() as u64))
    }

    /// Makes what was written durable.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Writes the index file of a segment that takes no more batches. The caller syncs the folder.
    pub fn close(&self) -> io::Result<()> {
        let extent = self.extent();
        let mut index = self.index_mut();
        let Index::Memory(entries) = &*index else {
            return Ok(());
        };
        let bytes = encode_index(&extent, entries);
        let path = index_path(&self.path);
        crate::durable::replace(&path, &bytes)?;
        *index = Index::File { file: File::open(&path)?, entries: entries.len() as u64 };
        Ok(())
    }

    /// Moves a freshly written, closed segment to the name `base_offset` has in `dir`, replacing
    /// what is there. The old index goes first, durably: a crash in between leaves a log
    /// without index, which is rebuilt, never an index that belongs to another log.
    pub fn rename_into(mut self, dir: &Path) -> io::Result<Self> {
        let target = dir.join(log_name(self.base_offset));
        match fs::remove_file(index_path(&target)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => crate::durable::sync_dir(dir)?,
        }
        fs::rename(&self.path, &target)?;
        fs::rename(index_path(&self.path), index_path(&target))?;
        crate::durable::sync_dir(dir)?;
        self.path = target;
        Ok(self)
    }

    /// Deletes the files. Readers that hold the segment go on reading it.
    pub fn remove_files(&self) -> io::Result<()> {
        for path in [index_path(&self.path), self.path.clone()] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn index_mut(&self) -> std::sync::RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self) -> std::sync::RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The position of the first batch whose last offset is at least `offset`, or `None`.
    pub fn position_of(&self, offset: i64) -> io::Result<Option<u64>> {
        let from = self.index().position_of_last(|entry| entry.offset <= offset)?;
        Ok(self.find(from, |header| header.last_offset() >= offset)?.map(|(position, _)| position))
    }

    /// Position and header of the first batch with a timestamp of at least `timestamp`.
    pub fn batch_at_time(&self, timestamp: i64) -> io::Result<Option<(u64, BatchHeader)>> {
        let from = self.index().position_of_last(|entry| entry.max_timestamp_before < timestamp)?;
        self.find(from, |header| header.max_timestamp >= timestamp)
    }

    fn find(
        &self,
        from: u64,
        wanted: impl Fn(&BatchHeader) -> bool,
    ) -> io::Result<Option<(u64, BatchHeader)>> {
        let mut position = from;
        while let Some(header) = self.header_at(position)? {
            if wanted(&header) {
                return Ok(Some((position, header)));
            }
            position += header.size() as u64;
        }
        Ok(None)
    }

    /// The header of the batch at `position`; `None` at the end of the visible log.
    pub fn header_at(&self, position: u64) -> io::Result<Option<BatchHeader>> {
        read_header(&self.file, position, self.extent().size)
    }

    /// Reads exactly `size` bytes.
    pub fn read(&self, position: u64, size: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; size];
        self.file.read_exact_at(&mut bytes, position)?;
        Ok(bytes)
    }
}

/// `None` when no whole batch lies between `position` and `end`.
fn read_header(file: &File, position: u64, end: u64) -> io::Result<Option<BatchHeader>> {
    // Where an index entry is damaged, the position may be any.
    let left = end.saturating_sub(position);
    if left < HEADER_BYTES as u64 {
        return Ok(None);
    }
    let mut bytes = [0; HEADER_BYTES];
    file.read_exact_at(&mut bytes, position)?;
    Ok(BatchHeader::parse(&bytes).filter(|header| header.size() as u64 <= left))
}

/// Adds an index entry for the batch that follows `before`, when one is due.
fn note(entries: &mut Vec<Entry>, before: &Extent, header: &BatchHeader) {
    let due = entries.last().is_none_or(|last| before.size >= last.position + INDEX_EVERY_BYTES);
    if due {
        entries.push(Entry {
            offset: header.base_offset,
            position: before.size,
            max_timestamp_before: before.max_timestamp,
        });
    }
}

fn encode_index(extent: &Extent, entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(INDEX_HEADER_BYTES + entries.len() * ENTRY_BYTES);
    bytes.put_slice(INDEX_MAGIC);
    bytes.put_u64(extent.size);
    bytes.put_i64(extent.next_offset);
    bytes.put_i64(extent.max_timestamp);
    bytes.put_i64(extent.max_timestamp_offset);
    bytes.put_u64(entries.len() as u64);
    bytes.put_u32(crc32c::crc32c(&bytes));
    for entry in entries {
        bytes.put_i64(entry.offset);
        bytes.put_u64(entry.position);
        bytes.put_i64(entry.max_timestamp_before);
    }
    bytes
}

/// `None` when the index is missing, damaged or of another log file.
fn read_index(path: &Path, log: &File) -> Option<(Extent, Index)> {
    let file = File::open(path).ok()?;
    let mut header = [0; INDEX_HEADER_BYTES];
    file.read_exact_at(&mut header, 0).ok()?;
    let (covered, mut crc) = header.split_at_checked(INDEX_HEADER_BYTES - 4)?;
    if crc.try_get_u32().ok()? != crc32c::crc32c(covered) {
        return None;
    }
    let mut fields = covered.strip_prefix(INDEX_MAGIC.as_slice())?;
    let extent = Extent {
        size: fields.try_get_u64().ok()?,
        next_offset: fields.try_get_i64().ok()?,
        max_timestamp: fields.try_get_i64().ok()?,
        max_timestamp_offset: fields.try_get_i64().ok()?,
    };
    let entries = fields.try_get_u64().ok()?;
    let whole = INDEX_HEADER_BYTES as u64 + entries.checked_mul(ENTRY_BYTES as u64)?;
    let fits = file.metadata().ok()?.len() == whole && log.metadata().ok()?.len() == extent.size;
    fits.then_some((extent, Index::File { file, entries }))
}
