//! The file of the audit log: opened by one process at a time, read in bounded memory, appended so that a
//! failed write leaves nothing.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::AuditError;
use super::line::MAX_LINE;

/// The most that is written between two syncs, in bytes: a crash can damage no more than that.
pub(super) const MAX_UNSYNCED: u64 = 4 * 1024 * 1024;
/// Bytes read at once.
const READ: usize = 64 * 1024;

/// What the log needs of a file.
pub trait Storage: Send + 'static {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    fn set_len(&self, length: u64) -> io::Result<()>;
    fn sync_data(&self) -> io::Result<()>;
}

impl Storage for File {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, at)
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, at)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        File::set_len(self, length)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }
}

/// Opens the log, or makes it, and locks it. Returns its length as well. Its folder is not made.
pub(super) fn open(path: &Path) -> Result<(File, u64), AuditError> {
    let io = |source| AuditError::Open { path: path.to_owned(), source };
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(io(io::Error::other("it is not a regular file")));
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(AuditError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => return Err(io(source)),
    }
    // Asked again under the lock.
    let length = file.metadata().map_err(io)?.len();
    Ok((file, length))
}

/// Appends; after a failure the next append starts over.
#[derive(Debug)]
pub(super) struct Appender<S> {
    storage: S,
    /// Something unsynced may stand behind the length that counts.
    dirty: bool,
}

impl<S: Storage> Appender<S> {
    pub(super) fn new(storage: S) -> Self {
        Self { storage, dirty: false }
    }

    pub(super) fn storage(&self) -> &S {
        &self.storage
    }

    /// Writes the bytes at `length`, which is where the log ends, and returns when they are on disk.
    ///
    /// After a failure the same or other bytes may be appended at the same length. What the failed call
    /// left is cut off first, and all is written again: a failed sync may have marked pages clean that
    /// never reached the disk, so that syncing once more would succeed and mean nothing.
    pub(super) fn append(&mut self, bytes: &[u8], length: u64) -> io::Result<()> {
        if self.dirty {
            self.storage.set_len(length)?;
        }
        self.dirty = true;
        let written = self.storage.write_all_at(bytes, length).and_then(|()| self.storage.sync_data());
        if let Err(error) = written {
            // At once as well, as far as that works: should the process end before the next append, a start
            // on a disk still full would find a torn line and have no room to keep it aside.
            let _ = self.storage.set_len(length);
            return Err(error);
        }
        self.dirty = false;
        Ok(())
    }
}

/// The lines of a part of a log.
pub(super) struct Lines<'a, S> {
    reader: BufReader<Section<'a, S>>,
    at: u64,
    line: Vec<u8>,
}

/// A part of a file as a stream.
pub(super) struct Section<'a, S> {
    storage: &'a S,
    at: u64,
    end: u64,
}

impl<'a, S: Storage> Section<'a, S> {
    pub(super) fn new(storage: &'a S, start: u64, end: u64) -> Self {
        Self { storage, at: start, end }
    }
}

impl<S: Storage> Read for Section<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let Some(buffer) = buffer.get_mut(..wanted) else { return Ok(0) };
        let read = self.storage.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl<'a, S: Storage> Lines<'a, S> {
    pub(super) fn new(storage: &'a S, start: u64, end: u64) -> Self {
        let reader = BufReader::with_capacity(READ, Section::new(storage, start, end));
        Self { reader, at: start, line: Vec::new() }
    }

    /// The next line and where it starts. It lacks its end if the part ends before, or if it is longer
    /// than any line may be; what follows then counts as the next line.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, &[u8])>> {
        self.line.clear();
        let read = (&mut self.reader).take(MAX_LINE as u64).read_until(b'\n', &mut self.line)?;
        let start = self.at;
        self.at += read as u64;
        Ok((read > 0).then_some((start, self.line.as_slice())))
    }
}
