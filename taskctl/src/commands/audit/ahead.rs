//! Reads tiles before they are asked for, so that their files are in the page cache by then: one after the other, tens of
//! thousands of small files take longer than the log itself.
//!
//! # Invariant
//!
//! *It changes nothing but time*: what is read here is dropped, and what cannot be read is found by whoever asks for it.

use std::fs;
use std::path::Path;
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use audit_tree::{TILE, Tile};

/// Tiles that are read before the one that is asked for.
const AHEAD: u64 = 256;
/// Threads that read: so many files does a disk look for at once.
const READERS: usize = 4;

/// Reads the leaves of a tree ahead.
pub(super) struct Ahead {
    tiles: SyncSender<u64>,
    /// The first tile that was not sent yet, and the number of all full ones.
    next: u64,
    end: u64,
}

impl Ahead {
    /// Of a tree of that size. Its threads end when it is dropped.
    pub(super) fn start(folder: &Path, size: u64) -> Self {
        let (tiles, queue) = mpsc::sync_channel::<u64>(2 * AHEAD as usize);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..READERS {
            let (queue, folder) = (Arc::clone(&queue), folder.to_owned());
            let reader = thread::Builder::new().name("tiles".to_owned());
            // Without its threads all is read in time, just later.
            let _ = reader.spawn(move || {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(number) = next else { return };
                    let _ = fs::read(Tile { level: 0, number, width: TILE }.path(&folder));
                }
            });
        }
        Self { tiles, next: 0, end: size / TILE }
    }

    /// That entry is asked for next.
    pub(super) fn at(&mut self, entry: u64) {
        let wanted = (entry / TILE + AHEAD).min(self.end);
        while self.next < wanted && self.tiles.try_send(self.next).is_ok() {
            self.next += 1;
        }
    }
}
