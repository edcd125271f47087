//! A disk that fails: what was not synced is written again whole, and nothing is left behind what comes next.

use std::fs::File;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use task_events::disk::Disk;

use super::super::file::{Standing, Storage};
use super::*;

/// A file system whose log fails on demand: each operation counts one down, and at zero fails.
#[derive(Debug, Clone)]
struct FailingFiles(Arc<AtomicUsize>);

#[derive(Debug)]
struct Failing {
    file: File,
    left: Arc<AtomicUsize>,
    /// What was written last, and where.
    unsynced: Mutex<(u64, usize)>,
}

impl Failing {
    fn fails(&self) -> io::Result<()> {
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.wrapping_sub(1), Ordering::Relaxed);
        if left == 0 { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
    }
}

impl Files for FailingFiles {
    type File = Failing;

    fn open_log(&self, path: &Path) -> Result<(Failing, u64), AuditError> {
        let (file, length) = FileSystem.open_log(path)?;
        Ok((Failing { file, left: Arc::clone(&self.0), unsynced: Mutex::default() }, length))
    }

    fn segment(&self, path: &Path) -> io::Result<(Failing, u64)> {
        let (file, length) = FileSystem.segment(path)?;
        Ok((Failing { file, left: Arc::clone(&self.0), unsynced: Mutex::default() }, length))
    }

    fn beside(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        FileSystem.beside(path)
    }

    fn standing(&self, file: &Failing, path: &Path) -> io::Result<Standing> {
        FileSystem.standing(&file.file, path)
    }

    fn real(&self, path: &Path) -> PathBuf {
        FileSystem.real(path)
    }

    fn disk(&self) -> Arc<dyn Disk> {
        FileSystem.disk()
    }
}

impl Storage for Failing {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        Storage::read_at(&self.file, buffer, at)
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        if let Err(full) = self.fails() {
            // As a disk that fills up in the middle.
            Storage::write_all_at(&self.file, &bytes[..bytes.len() / 2], at)?;
            return Err(full);
        }
        *self.unsynced.lock().unwrap() = (at, bytes.len());
        Storage::write_all_at(&self.file, bytes, at)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.fails()?;
        Storage::set_len(&self.file, length)
    }

    fn sync_data(&self) -> io::Result<()> {
        if let Err(full) = self.fails() {
            // As pages that are dropped though they never reached the disk.
            let (at, length) = *self.unsynced.lock().unwrap();
            Storage::write_all_at(&self.file, &vec![0; length], at)?;
            return Err(full);
        }
        *self.unsynced.lock().unwrap() = (0, 0);
        Storage::sync_data(&self.file)
    }
}

/// An audit log whose operations fail as the counter says, with 3 events in it.
fn failing(rig: &Rig) -> (Journal<FailingFiles>, Arc<AtomicUsize>) {
    let left = Arc::new(AtomicUsize::new(usize::MAX));
    let mut journal = Journal::open(FailingFiles(Arc::clone(&left)), &rig.log(), &rig.index()).unwrap();
    batch(&mut journal, &events(0..3));
    (journal, left)
}

/// Write, sync.
const OPERATIONS: std::ops::Range<usize> = 0..2;

#[test]
fn a_failed_write_or_sync_is_written_again_whole() {
    for operation in OPERATIONS {
        let rig = Rig::new();
        let (mut journal, left) = failing(&rig);
        left.store(operation, Ordering::Relaxed);
        let error = try_batch(&mut journal, &events(3..6)).unwrap_err().to_string();
        assert!(error.contains("audit.log"), "{error}");
        // Cutting back fails as well, then its sync, then all goes through.
        for operation in 0..2 {
            left.store(operation, Ordering::Relaxed);
            try_batch(&mut journal, &events(3..6)).unwrap_err();
        }
        batch(&mut journal, &events(3..6));
        assert_eq!((rig.numbers(), ids(&journal)), ((0..6).collect(), 6));
        assert_eq!(rig.torn().len(), 0);
    }
}

#[test]
fn a_failed_write_that_is_given_up_leaves_nothing_behind_what_comes_next() {
    for operation in OPERATIONS {
        let rig = Rig::new();
        let (mut journal, left) = failing(&rig);
        left.store(operation, Ordering::Relaxed);
        try_batch(&mut journal, &events(3..6)).unwrap_err();
        journal.check().unwrap();
        batch(&mut journal, &[(9, 0, 9)]);
        assert_eq!(rig.numbers(), [0, 1, 2, 9]);
    }
}

#[test]
fn a_process_that_dies_after_a_failed_write_leaves_a_log_that_recovers() {
    for operation in OPERATIONS {
        let rig = Rig::new();
        let (mut journal, left) = failing(&rig);
        left.store(operation, Ordering::Relaxed);
        try_batch(&mut journal, &events(3..6)).unwrap_err();
        drop(journal);
        let mut journal = rig.open();
        replay(&mut journal, 6);
        assert_eq!(rig.numbers(), (0..6).collect::<Vec<_>>());
    }
}

#[test]
fn a_failed_write_to_a_log_that_was_renamed_is_written_to_the_new_one() {
    for operation in OPERATIONS {
        let rig = Rig::new();
        let (mut journal, left) = failing(&rig);
        left.store(operation, Ordering::Relaxed);
        try_batch(&mut journal, &events(3..6)).unwrap_err();
        fs::rename(rig.log(), rig.path("audit.log.1")).unwrap();
        batch(&mut journal, &events(3..6));
        assert_eq!(rig.numbers(), [3, 4, 5]);
        assert_eq!(numbers(&fs::read(rig.path("audit.log.1")).unwrap()), [0, 1, 2]);
    }
}
