//! The file of the audit log: opened by one process at a time, read in bounded memory, appended so that a
//! failed write leaves nothing, and compared with what its name leads to.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use task_events::disk::{Disk, FileSystem, lock_soon};
use task_events::metrics::{Histogram, Text};

use super::AuditError;
use super::line::MAX_LINE;

/// The most that is written between two syncs, in bytes: a crash can damage no more than that.
pub(super) const MAX_UNSYNCED: u64 = 4 * 1024 * 1024;
/// Bytes read at once.
const READ: usize = 64 * 1024;
/// Tries to open a name under which the file changes all the time.
const OPEN_TRIES: u32 = 10;

/// The syncs of the process's audit log that succeeded, one for each group of batches.
static SYNCS: LazyLock<Histogram> = LazyLock::new(Histogram::default);

/// Adds what is counted here to a process's metrics.
pub(super) fn render_metrics(text: &mut Text) {
    text.histogram(
        "task_events_audit_fsync_duration_seconds",
        "Time for the disk to take lines of the audit log: one fdatasync.",
        &[],
        &SYNCS.durations(),
    );
}

/// What the log needs of a file.
pub trait Storage: Debug + Send + 'static {
    /// Reads some of the bytes at that place; none at the end.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes all of the bytes at that place.
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Cuts the file, or fills it up with zeros.
    fn set_len(&self, length: u64) -> io::Result<()>;
    /// Returns when all that was written is on disk.
    fn sync_data(&self) -> io::Result<()>;
}

/// What the log needs of a file system.
pub trait Files: Clone + Debug + Send + Sync + 'static {
    /// An open file.
    type File: Storage;

    /// Opens the log, or makes it, and locks it. Returns its length as well. Its folder is not made.
    fn open_log(&self, path: &Path) -> Result<(Self::File, u64), AuditError>;

    /// Opens a segment for reading. Returns its length as well.
    fn segment(&self, path: &Path) -> io::Result<(Self::File, u64)>;

    /// The paths of the files in the log's folder.
    fn beside(&self, path: &Path) -> io::Result<Vec<PathBuf>>;

    /// Compares the file with what the name leads to.
    fn standing(&self, file: &Self::File, path: &Path) -> io::Result<Standing>;

    /// The log's path without symbolic links.
    fn real(&self, path: &Path) -> PathBuf;

    /// The disk that all of it is on.
    fn disk(&self) -> Arc<dyn Disk>;
}

/// An open file, compared with what its name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Bytes in the file.
    pub length: u64,
    /// Whether the file has any name at all.
    pub has_a_name: bool,
    /// Whether it has the name that it was opened by.
    pub has_its_name: bool,
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

impl Files for FileSystem {
    type File = File;

    fn open_log(&self, path: &Path) -> Result<(File, u64), AuditError> {
        let io = |source| AuditError::Open { path: path.to_owned(), source };
        for _ in 0..OPEN_TRIES {
            let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
            let file = options.map_err(io)?;
            if !file.metadata().map_err(io)?.is_file() {
                return Err(io(io::Error::other("it is not a regular file")));
            }
            match lock_soon(&file) {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(AuditError::InUse { path: path.to_owned() }),
                Err(TryLockError::Error(source)) => return Err(io(source)),
            }
            // Under the lock, since another hand may have moved the file before it was locked.
            let standing = self.standing(&file, path).map_err(io)?;
            if standing.has_its_name {
                return Ok((file, standing.length));
            }
        }
        Err(io(io::Error::other("another process keeps replacing it")))
    }

    fn segment(&self, path: &Path) -> io::Result<(File, u64)> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok((file, length))
    }

    fn beside(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let entries = fs::read_dir(folder.unwrap_or(Path::new(".")))?;
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        // To open a pipe would wait for somebody to write to it.
        let may_be_a_file = |path: &PathBuf| fs::metadata(path).map_or(true, |metadata| metadata.is_file());
        paths.filter(|path| path.as_ref().map_or(true, may_be_a_file)).collect()
    }

    fn standing(&self, file: &File, path: &Path) -> io::Result<Standing> {
        let own = match file.metadata() {
            Ok(metadata) => metadata,
            // NFS: removed on the server.
            Err(error) if error.kind() == io::ErrorKind::StaleNetworkFileHandle => {
                return Ok(Standing { length: 0, has_a_name: false, has_its_name: false });
            }
            Err(error) => return Err(error),
        };
        let has_its_name = match fs::metadata(path) {
            Ok(named) => (named.dev(), named.ino()) == (own.dev(), own.ino()),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                false
            }
            Err(error) => return Err(error),
        };
        Ok(Standing { length: own.len(), has_a_name: own.nlink() > 0, has_its_name })
    }

    fn real(&self, path: &Path) -> PathBuf {
        fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(*self)
    }
}

/// Writes the bytes at `length`, which is where the file ends, and returns when they are on disk.
///
/// With `is_dirty` an append at that place failed before. What it left is cut off first, and the cut is
/// synced, so that no crash can mix its bytes with the new ones. All is written again: a failed sync may have
/// marked pages clean that never reached the disk, so that syncing once more would succeed and mean nothing.
pub(super) fn append<S: Storage>(file: &S, bytes: &[u8], length: u64, is_dirty: bool) -> io::Result<()> {
    if is_dirty {
        file.set_len(length)?;
        file.sync_data()?;
    }
    let written = file.write_all_at(bytes, length).and_then(|()| {
        let begun = Instant::now();
        file.sync_data().inspect(|()| SYNCS.record(begun.elapsed()))
    });
    if written.is_err() {
        // At once as well, as far as that works: should the process end before the next append, a start
        // on a disk still full would find a torn line and have no space to keep it aside.
        let _ = file.set_len(length);
    }
    written
}

/// The lines of a stream.
pub(super) struct Lines<R> {
    reader: BufReader<R>,
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

impl<R: Read> Lines<R> {
    /// The lines of a stream that starts at that byte of its file.
    pub(super) fn new(stream: R, at: u64) -> Self {
        Self { reader: BufReader::with_capacity(READ, stream), at, line: Vec::new() }
    }

    /// The next line and where it starts. It lacks its end if the stream ends before, or if it is longer
    /// than any line may be; what follows then counts as the next line.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, &[u8])>> {
        self.line.clear();
        let read = (&mut self.reader).take(MAX_LINE as u64).read_until(b'\n', &mut self.line)?;
        let start = self.at;
        self.at += read as u64;
        Ok((read > 0).then_some((start, self.line.as_slice())))
    }
}
