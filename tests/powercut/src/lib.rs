//! A disk in memory that records what is written, and brings back every state that a power cut may leave.
//!
//! A test runs a workload on a [`SimDisk`], notes with [`SimDisk::now`] at which moment of the recording
//! something was promised, and then has [`SimDisk::each_cut`] call its check with the disk as a power cut
//! may leave it, over and over. The check opens what it finds there and looks whether all that had been
//! promised by then holds. What it does is recorded as well, so that the power can be cut once more.
//!
//! # What a power cut may leave
//!
//! What was synced is there. Of what was not synced, any part may be there: nothing, all, the first
//! operations, all but one, one alone, and a choice for each sector of 512 bytes of how much of what was
//! written to it arrived (drawn by chance, from a seed). One write may be torn, at a sector or at any byte.
//! A file's length may be there before the bytes are: then these are zeros. Files are independent of each
//! other, and so are names of contents: a new, moved or removed name is durable once its folder was synced.
//!
//! States are made for the moments before each sync and for the end. All others are among them: what may be
//! lost between two syncs only grows, and each prefix of what was written is one of the states.
//!
//! # What is assumed of the disk
//!
//! What redb assumes ("Assumptions about underlying media" in its `docs/design.md`): a byte is written whole
//! or not at all, what was synced stays, and a write changes no byte outside of its range. Nothing here is
//! kinder than that.

mod cuts;
mod image;

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{Builder, Database, DatabaseError};
use task_events::disk::{Disk, DiskFile, FileIdentity};

pub use cuts::{Cut, Found, Tried};
use image::{Image, Op};
pub use redb::StorageBackend;

/// A disk that records. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<Recording>>);

#[derive(Clone, Default)]
struct Recording {
    /// What stood there at first, all of it durable.
    start: Image,
    /// What programs see.
    now: Image,
    journal: Vec<Op>,
    /// Syncs of such names do nothing.
    lies_about: Option<String>,
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

    fn found(image: Image) -> Self {
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

    fn recording(&self) -> MutexGuard<'_, Recording> {
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
    fn start_with_all_files(&self) -> Image {
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
    /// Reads what there is, at most as much as has room.
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const FILE: &str = "/folder/file";

    /// All that the file may hold after a cut at that moment; `None` where it has no name.
    fn left(disk: &SimDisk, at: usize) -> BTreeSet<Option<Vec<u8>>> {
        let mut left = BTreeSet::new();
        let all = disk.each_cut(1, |cut| {
            if cut.at == at {
                left.insert(cut.disk.read(Path::new(FILE)));
            }
            Ok(())
        });
        all.unwrap();
        left
    }

    #[test]
    fn what_is_not_synced_may_be_there_in_any_part_and_what_is_synced_is_there() {
        let disk = SimDisk::new();
        let file = disk.file(Path::new(FILE));
        disk.sync_folder(Path::new(FILE)).unwrap();
        file.write(0, b"old").unwrap();
        StorageBackend::sync_data(&file).unwrap();
        file.write(0, b"new").unwrap();
        file.write(600, b"more").unwrap();
        let before = disk.now();
        StorageBackend::sync_data(&file).unwrap();

        let mut gap = vec![0; 604];
        gap[600..].copy_from_slice(b"more");
        let with = |start: &[u8]| Some([start, &gap[3..]].concat());
        let states = left(&disk, before);
        for state in [Some(b"old".to_vec()), Some(b"new".to_vec()), with(b"old"), with(b"new")] {
            assert!(states.contains(&state), "{states:?}");
        }
        let torn = |state: &Option<Vec<u8>>| {
            state.as_ref().is_some_and(|bytes| bytes.len() > 600 && bytes.len() < 604)
        };
        assert!(states.iter().any(torn), "{states:?}");
        let zeros = |state: &Option<Vec<u8>>| {
            state.as_ref().is_some_and(|bytes| bytes.len() == 604 && bytes[601] == 0)
        };
        assert!(states.iter().any(zeros), "{states:?}");
        assert_eq!(left(&disk, disk.now()), BTreeSet::from([with(b"new")]));
    }

    #[test]
    fn a_name_is_there_for_sure_once_its_folder_was_synced() {
        let disk = SimDisk::new();
        let file = disk.file(Path::new(FILE));
        file.write(0, b"x").unwrap();
        StorageBackend::sync_data(&file).unwrap();
        let synced = disk.now();
        disk.sync_folder(Path::new(FILE)).unwrap();
        assert_eq!(left(&disk, synced), BTreeSet::from([None, Some(b"x".to_vec())]));
        assert_eq!(left(&disk, disk.now()), BTreeSet::from([Some(b"x".to_vec())]));
    }

    #[test]
    fn a_disk_that_lies_keeps_nothing_for_sure() {
        let disk = SimDisk::that_lies_about("file");
        let file = disk.file(Path::new(FILE));
        disk.sync_folder(Path::new(FILE)).unwrap();
        file.write(0, b"x").unwrap();
        StorageBackend::sync_data(&file).unwrap();
        assert!(left(&disk, disk.now()).contains(&Some(Vec::new())));
    }

    #[test]
    fn what_is_found_says_where_and_keeps_the_files() {
        let disk = SimDisk::new();
        disk.file(Path::new(FILE)).write(0, b"x").unwrap();
        let check = |cut: &Cut| match cut.disk.read(Path::new(FILE)) {
            Some(bytes) if !bytes.is_empty() => Err("it is there".to_owned()),
            _ => Ok(()),
        };
        let found = disk.each_cut(7, check).unwrap_err();
        let text = found.to_string();
        assert!(text.starts_with("it is there\n") && text.contains("(seed 7)"), "{text}");
        let folder = std::env::temp_dir().join(format!("powercut-test-{}", std::process::id()));
        found.keep(&folder).unwrap();
        assert_eq!(std::fs::read(folder.join("file")).unwrap(), b"x");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
