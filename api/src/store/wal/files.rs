//! The segments as files: made ahead of time, used again, found at a start.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use task_events::disk::{Disk, DiskFile, FileIdentity};
use uuid::Uuid;

use super::Limits;
use super::frame::FrameReader;

/// Where frames begin: a page of its own for the header, which is never written again.
pub(in crate::store) const FIRST_FRAME: u64 = 4096;
const HEADER_BYTES: usize = 36;
const MAGIC: &[u8; 8] = b"tasklog1";
/// Zeros that are written at once: a page. Linux caches what is written at once in one piece, and counts all of it as
/// written whenever a part of it is: a change would cost 1 MiB then.
const ZEROS: usize = 4096;

/// An open segment.
#[derive(Debug, Clone)]
pub(in crate::store) struct Segment {
    pub(in crate::store) number: u64,
    pub(super) file: Arc<dyn DiskFile>,
    /// What the checksums of its frames begin with.
    pub(super) seed: u32,
}

impl Segment {
    pub(in crate::store) fn frames_from(&self, offset: u64) -> FrameReader {
        FrameReader::new(Arc::clone(&self.file), self.seed, offset)
    }
}

/// Why a segment cannot be used.
#[derive(Debug, thiserror::Error)]
pub(in crate::store) enum SegmentError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Foreign(String),
}

/// All segments of a store.
#[derive(Debug)]
pub(in crate::store) struct Files {
    disk: Arc<dyn Disk>,
    /// The database's path: segments are beside it, and named after it.
    database: PathBuf,
    store: Uuid,
    limits: Limits,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The highest number that was ever used.
    last_number: u64,
    /// The next segment, made ahead of time.
    next: Option<Segment>,
    /// All that have a name, but for the next one.
    numbers: BTreeSet<u64>,
    /// Those of them that could not be written: they are removed, and not used again.
    failed: BTreeSet<u64>,
}

impl Files {
    /// Looks at what there is beside the database. Segments whose making was cut short are removed.
    pub(in crate::store) fn find(
        disk: Arc<dyn Disk>,
        database: &Path,
        store: Uuid,
        limits: Limits,
    ) -> io::Result<Self> {
        let files = Self { disk, database: database.to_owned(), store, limits, inner: Mutex::default() };
        files.remove_unfinished()?;
        let found = files.disk.all_beside(database).map_err(|error| naming(database, &error))?;
        let numbers = found.into_iter().filter_map(|path| files.number_of(&path));
        let numbers: BTreeSet<u64> = numbers.collect();
        let last_number = numbers.last().copied().unwrap_or(0);
        *files.inner() = Inner { last_number, numbers, ..Inner::default() };
        Ok(files)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::store) fn path(&self, number: u64) -> PathBuf {
        self.named(&format!("log-{number}"))
    }

    fn spare(&self) -> PathBuf {
        self.named("log-spare")
    }

    fn unfinished(&self) -> PathBuf {
        self.named("log-unfinished")
    }

    fn named(&self, extension: &str) -> PathBuf {
        self.database.with_extension(extension)
    }

    fn number_of(&self, path: &Path) -> Option<u64> {
        let name = path.file_name()?.to_str()?;
        let stem = self.database.file_stem()?.to_str()?;
        let number = name.strip_prefix(stem)?.strip_prefix(".log-")?;
        number.parse().ok().filter(|number| self.path(*number).file_name() == path.file_name())
    }

    /// The numbers of all segments, rising.
    pub(in crate::store) fn numbers(&self) -> Vec<u64> {
        self.inner().numbers.iter().copied().collect()
    }

    /// Whether they are segments of that store.
    pub(in crate::store) fn belong_to(&self, store: Uuid) -> bool {
        self.store == store
    }

    /// What distinguishes the file from one that takes its place.
    pub(in crate::store) fn identity(&self, number: u64) -> io::Result<FileIdentity> {
        self.disk.identity(&self.path(number))
    }

    /// Opens a segment that is there.
    pub(in crate::store) fn open(&self, number: u64) -> Result<Segment, SegmentError> {
        let path = self.path(number);
        let file: Arc<dyn DiskFile> =
            self.disk.open_file(&path).map_err(|error| naming(&path, &error))?.into();
        let wanted = header(self.store, number);
        let mut found = [0; HEADER_BYTES];
        let is_ours = match file.read_exact_at(&mut found, 0) {
            Ok(()) => found == wanted,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
            Err(error) => return Err(naming(&path, &error).into()),
        };
        if !is_ours {
            return Err(SegmentError::Foreign(format!(
                "{} is damaged, or is not of this store",
                path.display()
            )));
        }
        Ok(Segment { number, file, seed: seed(&wanted) })
    }

    /// The next segment to write to: it has its name, which is durable.
    pub(in crate::store) fn take_next(&self) -> io::Result<Segment> {
        let mut inner = self.inner();
        let next = match inner.next.take() {
            Some(next) => next,
            None => self.make(&mut inner)?,
        };
        inner.numbers.insert(next.number);
        Ok(next)
    }

    /// Makes the next segment, so that the writer does not have to.
    pub(in crate::store) fn prepare(&self) -> io::Result<()> {
        let mut inner = self.inner();
        if inner.next.is_none() {
            inner.next = Some(self.make(&mut inner)?);
        }
        Ok(())
    }

    /// A segment is not needed any more: it is used again, or removed.
    pub(in crate::store) fn retire(&self, number: u64) -> io::Result<()> {
        // Held all the time: what is made the next one is looked for among the spare ones.
        let mut inner = self.inner();
        let (path, spare) = (self.path(number), self.spare());
        let retire = || {
            if inner.failed.contains(&number) || self.disk.exists(&spare)? {
                self.disk.remove(&path)?;
            } else {
                self.disk.rename(&path, &spare)?;
            }
            // Before it is written to under another name: it must not come back under this one.
            self.disk.sync_folder(&path)
        };
        retire().map_err(|error| naming(&path, &error))?;
        inner.numbers.remove(&number);
        inner.failed.remove(&number);
        Ok(())
    }

    /// A segment could not be written.
    pub(super) fn set_failed(&self, number: u64) {
        self.inner().failed.insert(number);
    }

    fn make(&self, inner: &mut Inner) -> io::Result<Segment> {
        let number = inner.last_number + 1;
        let segment = self.make_named(number).map_err(|error| naming(&self.path(number), &error))?;
        inner.last_number = number;
        Ok(segment)
    }

    fn make_named(&self, number: u64) -> io::Result<Segment> {
        self.remove_unfinished()?;
        let (spare, unfinished, path) = (self.spare(), self.unfinished(), self.path(number));
        let file: Arc<dyn DiskFile> = if self.disk.exists(&spare)? {
            self.disk.rename(&spare, &unfinished)?;
            self.disk.open_file(&unfinished)?.into()
        } else {
            self.disk.make_file(&unfinished)?.into()
        };
        self.fill_with_zeros(&*file)?;
        let header = header(self.store, number);
        file.write_all_at(&header, 0)?;
        #[cfg(test)]
        let names_first = self.limits.plants(super::Planted::NameFirst);
        #[cfg(not(test))]
        let names_first = false;
        if !names_first {
            file.sync_data()?;
        }
        self.disk.rename(&unfinished, &path)?;
        self.disk.sync_folder(&path)?;
        Ok(Segment { number, file, seed: seed(&header) })
    }

    fn remove_unfinished(&self) -> io::Result<()> {
        let unfinished = self.unfinished();
        let remove = || if self.disk.exists(&unfinished)? { self.disk.remove(&unfinished) } else { Ok(()) };
        remove().map_err(|error| naming(&unfinished, &error))
    }

    /// Up to its full length: what is written later changes no length and takes no new block.
    fn fill_with_zeros(&self, file: &dyn DiskFile) -> io::Result<()> {
        let mut at = file.length()?.min(self.limits.segment_bytes);
        let zeros = vec![0; ZEROS];
        while at < self.limits.segment_bytes {
            let left = usize::try_from(self.limits.segment_bytes - at).unwrap_or(ZEROS);
            let part = zeros.get(..left.min(ZEROS)).unwrap_or_default();
            file.write_all_at(part, at)?;
            at += part.len() as u64;
        }
        Ok(())
    }
}

/// The error with the file that it is about.
pub(super) fn naming(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn header(store: Uuid, number: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    let before = MAGIC.iter().copied().chain(store.into_bytes()).chain(number.to_le_bytes());
    let before: Vec<u8> = before.collect();
    let checksum = crc32c::crc32c(&before).to_le_bytes();
    for (byte, value) in header.iter_mut().zip(before.into_iter().chain(checksum)) {
        *byte = value;
    }
    header
}

/// Without the header's own checksum: with it, all headers have the same.
fn seed(header: &[u8; HEADER_BYTES]) -> u32 {
    crc32c::crc32c(header.get(..HEADER_BYTES - 4).unwrap_or_default())
}
