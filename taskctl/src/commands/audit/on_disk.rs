//! Compares the tiles on disk with what they have to be. A tile is a small file of its own, and read one after the other they
//! would take most of the time where they are not cached: several threads read and compare them.
//!
//! # Invariants
//!
//! 1. *It fits only if every tile that was given is on disk as it was given*: also where a thread has ended early.
//! 2. *Memory is bounded*: one part is being given, so many wait, and one is in each thread's work; who gives more waits.
//! 3. *The threads end with it*.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use audit_tree::{Hash, TILE, Tile};

use super::diagnosis::read_tile;

/// Threads that read: as many reads as disks answer well at once.
const READERS: usize = 16;
/// Tiles that a thread takes at once: to wake one for each takes as long as to read it from memory.
const PART: usize = 8;
/// Parts that wait for a thread.
const QUEUE: usize = READERS;
/// The stack of a thread that reads.
const STACK_BYTES: usize = 128 * 1024;

/// Tiles, with their hashes.
type Part = Vec<(Tile, Vec<Hash>)>;

/// The comparison of a tree's tiles.
pub(super) struct OnDisk {
    differs: Arc<AtomicBool>,
    /// The next part, as far as it was given.
    part: Part,
    parts: SyncSender<Part>,
    readers: Vec<JoinHandle<()>>,
}

impl OnDisk {
    /// For the tiles in a folder.
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        let differs = Arc::new(AtomicBool::new(false));
        let (parts, receiver) = mpsc::sync_channel(QUEUE);
        let receiver = Arc::new(Mutex::new(receiver));
        let reader = |_| {
            let (folder, receiver, differs) =
                (folder.to_owned(), Arc::clone(&receiver), Arc::clone(&differs));
            let thread = thread::Builder::new().name("tiles".to_owned()).stack_size(STACK_BYTES);
            thread.spawn(move || compare_all(&folder, &receiver, &differs))
        };
        let readers = (0..READERS).map(reader).collect::<io::Result<_>>()?;
        Ok(Self { differs, part: Vec::new(), parts, readers })
    }

    /// Compares a tile with these hashes, once there are enough for a thread, or at the end.
    pub(super) fn compare(&mut self, tile: Tile, hashes: &[Hash]) {
        self.part.push((tile, hashes.to_vec()));
        if self.part.len() == PART {
            self.send();
        }
    }

    fn send(&mut self) {
        if self.parts.send(std::mem::take(&mut self.part)).is_err() {
            self.differs.store(true, Ordering::Relaxed);
        }
    }

    /// Whether one is known to be another by now.
    pub(super) fn differs(&self) -> bool {
        self.differs.load(Ordering::Relaxed)
    }

    /// Whether all that were given are as they were given.
    pub(super) fn finish(mut self) -> bool {
        self.send();
        drop(self.parts);
        let ended = self.readers.into_iter().all(|reader| reader.join().is_ok());
        ended && !self.differs.load(Ordering::Relaxed)
    }
}

fn compare_all(folder: &Path, parts: &Mutex<Receiver<Part>>, differs: &AtomicBool) {
    loop {
        let part = parts.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(part) = part else { return };
        // Once one is another, all are looked at by who names it.
        let fits = |(tile, hashes): &(Tile, Vec<Hash>)| {
            differs.load(Ordering::Relaxed) || is_stored(folder, *tile, hashes)
        };
        if !part.iter().all(fits) {
            differs.store(true, Ordering::Relaxed);
        }
    }
}

/// Whether a tile on disk is what it has to be. In the place of a partial one, what a later state has left serves as well.
fn is_stored(folder: &Path, tile: Tile, hashes: &[Hash]) -> bool {
    match read_to(&tile.path(folder), hashes.as_flattened().len()) {
        Ok(bytes) => bytes == hashes.as_flattened(),
        Err(error) if error.kind() == io::ErrorKind::NotFound && tile.width < TILE => {
            read_tile(folder, tile).is_ok_and(|row| row == hashes)
        }
        Err(_) => false,
    }
}

/// A file of that many bytes, and of one that is longer, no more than tells so.
fn read_to(path: &Path, length: usize) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut bytes = Vec::with_capacity(length + 1);
    file.take(length as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, Instant};

    use audit_tree::leaf_hash;

    use super::*;

    const TILES: u64 = (3 * QUEUE * PART + 1) as u64;

    fn tile(number: u64) -> (Tile, Vec<Hash>) {
        let hashes = (0..TILE).map(|leaf| leaf_hash(&(number * TILE + leaf).to_be_bytes()));
        (Tile { level: 0, number, width: TILE }, hashes.collect())
    }

    /// A folder with tiles, and these.
    fn stored() -> (tempfile::TempDir, Vec<(Tile, Vec<Hash>)>) {
        let folder = tempfile::tempdir().unwrap();
        let tiles: Vec<_> = (0..TILES).map(tile).collect();
        for (tile, hashes) in &tiles {
            let path = tile.path(folder.path());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, hashes.as_flattened()).unwrap();
        }
        (folder, tiles)
    }

    fn fits(folder: &Path, tiles: &[(Tile, Vec<Hash>)]) -> bool {
        let mut on_disk = OnDisk::new(folder).unwrap();
        tiles.iter().for_each(|(tile, hashes)| on_disk.compare(*tile, hashes));
        on_disk.finish()
    }

    #[test]
    fn one_tile_that_is_another_missing_short_or_longer_is_found_among_many() {
        let (folder, tiles) = stored();
        assert!(fits(folder.path(), &tiles));
        for number in [0, 1, TILES / 2, TILES - 1] {
            let (tile, hashes) = &tiles[number as usize];
            let (path, whole) = (tile.path(folder.path()), hashes.as_flattened());
            let mut other = whole.to_vec();
            other[17] ^= 1;
            for bytes in [&other[..], &whole[..whole.len() - 32], &[whole, &[0]].concat(), b""] {
                fs::write(&path, bytes).unwrap();
                assert!(!fits(folder.path(), &tiles), "{number}: {} bytes", bytes.len());
            }
            fs::remove_file(&path).unwrap();
            assert!(!fits(folder.path(), &tiles), "{number}: missing");
            fs::create_dir(&path).unwrap();
            assert!(!fits(folder.path(), &tiles), "{number}: unreadable");
            fs::remove_dir(&path).unwrap();
            fs::write(&path, whole).unwrap();
        }
        assert!(fits(folder.path(), &tiles));
    }

    #[test]
    fn of_a_tile_that_somebody_made_huge_no_more_is_read_than_tells_so() {
        let (folder, tiles) = stored();
        let path = tiles[0].0.path(folder.path());
        File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read_to(&path, 8_192).unwrap().len(), 8_193);
        assert!(!fits(folder.path(), &tiles));
    }

    #[test]
    fn a_difference_is_known_before_the_end() {
        let (folder, tiles) = stored();
        let mut on_disk = OnDisk::new(folder.path()).unwrap();
        let (first, hashes) = &tiles[0];
        (0..PART).for_each(|_| on_disk.compare(*first, &hashes[1..]));
        let until = Instant::now() + Duration::from_secs(60);
        while !on_disk.differs() && Instant::now() < until {
            thread::yield_now();
        }
        assert!(on_disk.differs());
        assert!(!on_disk.finish());
    }
}
