//! The disk as programs see it: what they write is recorded.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{Builder, Database, DatabaseError, StorageBackend};
use task_events::disk::{Disk, DiskFile, FileIdentity};

use crate::image::{self, Image, Op};

/// A disk that records. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<Recording>>);

#[derive(Clone, Default)]
pub(crate) struct Recording {
    /// What was there at first, all of it durable.
    start: Image,
    /// What programs see.
    now: Image,
    pub(crate) journal: Vec<Op>,
    /// Syncs of such names do nothing, once so many have been done.
    lies_about: Option<String>,
    honest_syncs: usize,
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty disk on which a sync of a file or folder of that name does nothing: a planted bug.
    pub fn that_lies_about(name: &str) -> Self {
        let recording = Recording { lies_about: Some(name.to_owned()), ..Recording::default() };
        Self(Arc::new(Mutex::new(recording)))
    }

    /// As [`that_lies_about`](Self::that_lies_about), after so many syncs of that name that are done.
    pub fn that_lies_later(name: &str, honest_syncs: usize) -> Self {
        let disk = Self::that_lies_about(name);
        disk.recording().honest_syncs = honest_syncs;
        disk
    }

    pub(crate) fn found(image: Image) -> Self {
        let recording = Recording { start: image.clone(), now: image, ..Recording::default() };
        Self(Arc::new(Mutex::new(recording)))
    }

    /// The disk as the next process finds it where one was killed at that moment and the power stayed: all
    /// that was written is seen, and what was not synced may still be lost.
    pub fn killed_at(&self, moment: usize) -> Self {
        let recording = self.recording();
        let mut start = recording.start_with_all_files();
        let mut now = start.clone();
        let mut journal = Vec::new();
        for op in &recording.journal[..moment] {
            op.apply(&mut now);
            if op.is_sync() {
                image::settle(&mut journal, op, &mut start);
            } else {
                journal.push(op.clone());
            }
        }
        Self(Arc::new(Mutex::new(Recording {
            start,
            now,
            journal,
            lies_about: recording.lies_about.clone(),
            honest_syncs: recording.honest_syncs,
        })))
    }

    /// The moment of the recording: what is promised now has to hold after each cut at this moment or later.
    pub fn now(&self) -> usize {
        self.recording().journal.len()
    }

    /// Opens a file, or makes it.
    pub fn file(&self, path: &Path) -> SimFile {
        let mut recording = self.recording();
        let file = match recording.now.names.get(path) {
            Some(file) => *file,
            None => recording.make(path),
        };
        drop(recording);
        SimFile { disk: self.clone(), file }
    }

    /// The content of a file, if it is there.
    pub fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let recording = self.recording();
        let content = &recording.now.files[*recording.now.names.get(path)?];
        let mut bytes = vec![0; usize::try_from(content.len).unwrap()];
        content.read(0, &mut bytes);
        Some(bytes)
    }

    /// The names of an open file; none where it was removed.
    pub fn names_of(&self, file: &SimFile) -> Vec<PathBuf> {
        let recording = self.recording();
        let named = recording.now.names.iter().filter(|(_, other)| **other == file.file);
        named.map(|(name, _)| name.clone()).collect()
    }

    /// The names of all files.
    pub fn names(&self) -> Vec<PathBuf> {
        self.recording().now.names.keys().cloned().collect()
    }

    pub(crate) fn recording(&self) -> MutexGuard<'_, Recording> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimDisk").field(&self.names()).finish()
    }
}

impl Recording {
    /// Files have their numbers from the start, so that operations can be applied in any choice.
    pub(crate) fn start_with_all_files(&self) -> Image {
        let mut start = self.start.clone();
        start.files.resize_with(self.now.files.len(), Default::default);
        start
    }

    fn change(&mut self, op: Op) {
        op.apply(&mut self.now);
        self.journal.push(op);
    }

    fn make(&mut self, path: &Path) -> usize {
        let file = self.now.files.len();
        self.now.files.push(image::Content::default());
        self.change(Op::Link { path: path.to_owned(), file });
        file
    }

    fn sync(&mut self, op: Op, name: Option<&Path>) {
        let name = name.and_then(Path::file_name).and_then(|name| name.to_str());
        if name.is_none() || name != self.lies_about.as_deref() {
            self.change(op);
        } else if let Some(left) = self.honest_syncs.checked_sub(1) {
            self.honest_syncs = left;
            self.change(op);
        }
    }
}

/// An open file.
#[derive(Debug, Clone)]
pub struct SimFile {
    disk: SimDisk,
    file: usize,
}

impl SimFile {
    /// Reads what there is, at most as much as fits.
    pub fn read_at(&self, out: &mut [u8], at: u64) -> usize {
        let recording = self.disk.recording();
        let content = &recording.now.files[self.file];
        let count = out.len().min(usize::try_from(content.len.saturating_sub(at)).unwrap());
        content.read(at, &mut out[..count]);
        count
    }
}

impl StorageBackend for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.recording().now.files[self.file].len)
    }

    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        let whole = self.read_at(out, at) == out.len();
        if whole { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.recording().change(Op::SetLen { file: self.file, len });
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut recording = self.disk.recording();
        let mut names = recording.now.names.iter();
        let name = names.find(|(_, file)| **file == self.file).map(|(name, _)| name.clone());
        recording.sync(Op::Sync { file: self.file }, name.as_deref());
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.recording().change(Op::Write { file: self.file, at, bytes: bytes.into() });
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn length(&self) -> io::Result<u64> {
        self.len()
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        Ok(Self::read_at(self, buffer, at))
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write(at, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        StorageBackend::sync_data(self)
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &Path, builder: &Builder) -> Result<Database, DatabaseError> {
        builder.create_with_backend(self.file(path))
    }

    fn open(&self, path: &Path, builder: &Builder) -> Result<Database, DatabaseError> {
        if !self.exists(path)? {
            return Err(io::Error::from(io::ErrorKind::NotFound).into());
        }
        self.create(path, builder)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.recording().now.names.contains_key(path))
    }

    /// Nobody else is there who could put another file in its place.
    fn identity(&self, _: &Path) -> io::Result<FileIdentity> {
        Ok(FileIdentity::default())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.recording().change(Op::Unlink { path: path.to_owned() });
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.recording().change(Op::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn write_new(&self, path: &Path, content: &mut dyn Read) -> io::Result<()> {
        if self.exists(path)? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        let file = self.file(path);
        file.write(0, &bytes)?;
        StorageBackend::sync_data(&file)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let name = folder.clone();
        self.recording().sync(Op::SyncFolder { folder }, Some(&name));
        Ok(())
    }

    fn make_file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        if self.exists(path)? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(Box::new(self.file(path)))
    }

    fn open_file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        if !self.exists(path)? {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Box::new(self.file(path)))
    }

    fn all_beside(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(self.names().into_iter().filter(|name| name.parent() == path.parent()).collect())
    }
}
