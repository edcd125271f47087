//! A disk that fails: each write, sync, name and read of a workload once. The call that failed says so, the
//! next ones go on, and nothing that was acknowledged is lost.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::{Builder, Database, DatabaseError};

use super::*;
use crate::disk::{DiskFile, FileIdentity};

const EIO: i32 = 5;

/// A file system of which one operation fails.
#[derive(Debug, Clone)]
struct Faulty {
    /// Operations until the one that fails.
    left: Arc<AtomicU64>,
}

impl Faulty {
    fn step(&self) -> io::Result<()> {
        match self.left.fetch_sub(1, Ordering::Relaxed) {
            1 => Err(io::Error::from_raw_os_error(EIO)),
            _ => Ok(()),
        }
    }

    fn wrap(&self, file: io::Result<Box<dyn DiskFile>>) -> io::Result<Box<dyn DiskFile>> {
        self.step()?;
        Ok(Box::new(FaultyFile { disk: self.clone(), file: file? }))
    }
}

#[derive(Debug)]
struct FaultyFile {
    disk: Faulty,
    file: Box<dyn DiskFile>,
}

impl DiskFile for FaultyFile {
    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.disk.step()?;
        self.file.read_at(buffer, at)
    }

    /// What fails has written half of it.
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let written = self.disk.step();
        let count = if written.is_ok() { bytes.len() } else { bytes.len() / 2 };
        self.file.write_all_at(&bytes[..count], at)?;
        written
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.step()
    }
}

impl Disk for Faulty {
    fn create(&self, path: &Path, builder: &Builder) -> Result<Database, DatabaseError> {
        FileSystem.create(path, builder)
    }

    fn open(&self, path: &Path, builder: &Builder) -> Result<Database, DatabaseError> {
        FileSystem.open(path, builder)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        FileSystem.exists(path)
    }

    fn identity(&self, path: &Path) -> io::Result<FileIdentity> {
        FileSystem.identity(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        FileSystem.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        FileSystem.rename(from, to)
    }

    fn write_new(&self, path: &Path, content: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        self.make_file(path)?.write_all_at(&bytes, 0)?;
        self.step()
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        self.step()
    }

    fn make_file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.wrap(FileSystem.make_file(path))
    }

    fn open_file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.wrap(FileSystem.open_file(path))
    }

    fn all_beside(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        FileSystem.all_beside(path)
    }
}

/// Runs batches on a disk of which that operation fails. Returns whether it came to it.
fn run(retention: Retention, is_sorted: bool, fails: u64, in_background: bool) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dedup");
    let disk = Faulty { left: Arc::new(AtomicU64::new(0)) };
    let tuning = Tuning { in_background, filter_bytes: 0, ..small() };
    let dedup = Dedup::open_with(Arc::new(disk.clone()), &path, retention, tuning).unwrap();
    disk.left.store(fails, Ordering::Relaxed);
    let place = |number: u64| if is_sorted { number } else { number.reverse_bits() };
    let id = |batch: u64, n: u64| Uuid::from_u64_pair(place(batch * 8 + n), n);
    let batch = |batch: u64| (0..8).map(|n| id(batch, n)).collect::<Vec<_>>();
    let (mut errors, mut all) = (0, Vec::new());
    for number in 0..16 {
        let ids = batch(number);
        // As the runtime does: again, until it is done.
        let mut tries = 0;
        loop {
            tries += 1;
            assert!(tries < 4, "batch {number} is not taken after the fault of operation {fails}");
            let done = match retention {
                Retention::Window(_) => dedup.record_at(&ids, None, since_1970()).map(drop),
                Retention::ForeverRebuildable => dedup.append(&ids, true, |_| Vec::new()).map(|_| ()),
            };
            match done {
                Ok(()) => break,
                Err(error) => {
                    let line = error.to_string();
                    assert!(line.contains("os error 5") && !line.contains('\n'), "{line}");
                    errors += 1;
                }
            }
        }
        all.extend(ids);
        let numbers = |ids: &[Uuid]| dedup.numbers(ids).or_else(|_| dedup.numbers(ids)).unwrap();
        let known = numbers(&all);
        assert!(known.iter().all(Option::is_some), "after the fault of operation {fails}");
        if retention == Retention::ForeverRebuildable {
            assert!(known.into_iter().eq((0..all.len() as u64).map(Some)), "numbers after {fails}");
        }
        assert!(numbers(&batch(number + 1)).iter().all(Option::is_none));
    }
    // It has wrapped round where it failed.
    let has_failed = disk.left.load(Ordering::Relaxed) > u64::MAX / 2;
    drop(dedup);
    disk.left.store(0, Ordering::Relaxed);
    let again = Dedup::open_with(Arc::new(disk), &path, retention, tuning).unwrap();
    assert!(again.numbers(&all).unwrap().iter().all(Option::is_some), "after a restart, {fails}");
    assert!(errors <= 2, "{errors} errors of one fault");
    has_failed
}

#[test]
fn after_any_fault_of_the_disk_the_store_goes_on_and_has_lost_nothing() {
    let window = Retention::Window(Duration::from_secs(60));
    for (retention, is_sorted) in [
        (window, false),
        (window, true),
        (Retention::ForeverRebuildable, false),
        (Retention::ForeverRebuildable, true),
    ] {
        let mut fails = 1;
        while run(retention, is_sorted, fails, false) {
            fails += if retention == Retention::ForeverRebuildable { 3 } else { 1 };
        }
        assert!(fails > 100, "{fails}");
        println!("{retention:?}: {fails} operations");
        for fails in (1..fails).step_by(7) {
            run(retention, is_sorted, fails, true);
        }
    }
}
