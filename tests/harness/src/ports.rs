//! Ports for what a test starts.
//!
//! Invariant: of the test processes of one user that run at the same time no two get the same port. The ports are cut
//! into blocks, and a process takes ports only from blocks whose lock file it holds until it ends. So a port that is given
//! out but not bound yet, as while a JVM starts, is nobody else's.

use crate::{Error, Result};
use std::fs::{File, TryLockError};
use std::net::TcpListener;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Ports given out are from here on, below the ones that the system takes for outgoing connections, so that none of those
/// holds a broker's port while the broker is down (a client that dials its own port on loopback even connects to itself).
const FIRST: u16 = 12_000;
/// How many ports a lock is for, and how many of those there are.
const BLOCK_PORTS: u16 = 50;
const BLOCKS: u16 = 360;
/// How many blocks a process takes before it uses its own again, so that there are some for the others.
const MAX_HELD: usize = 20;

/// A port on 127.0.0.1 that nobody listens on, each time another one.
pub fn free_port() -> Result<u16> {
    static PORTS: Mutex<Ports> = Mutex::new(Ports::new());
    PORTS.lock().unwrap_or_else(PoisonError::into_inner).next()
}

/// The ports of one process.
struct Ports {
    /// Its blocks, with the locks on them.
    held: Vec<(u16, File)>,
    /// How many blocks were tried.
    tried: u16,
    /// How often a block was used again, as there was no other.
    reused: usize,
    left: Range<u16>,
}

impl Ports {
    const fn new() -> Self {
        Self { held: Vec::new(), tried: 0, reused: 0, left: 0..0 }
    }

    fn next(&mut self) -> Result<u16> {
        for _ in 0..=BLOCKS * BLOCK_PORTS {
            match self.left.next() {
                Some(port) if TcpListener::bind(("127.0.0.1", port)).is_ok() => return Ok(port),
                Some(_) => {}
                None => self.left = ports_of(self.next_block()?),
            }
        }
        Err(Error::failed(format!("no free port from {FIRST} to {}", FIRST + BLOCKS * BLOCK_PORTS)))
    }

    /// A block that nobody else holds; where there is none left, or this process has many, one of its own again.
    fn next_block(&mut self) -> Result<u16> {
        // Most processes find a block at once where they begin at different ones.
        let start = u16::try_from(std::process::id() % u32::from(BLOCKS)).unwrap_or(0);
        while self.tried < BLOCKS && self.held.len() < MAX_HELD {
            let block = (start + self.tried) % BLOCKS;
            self.tried += 1;
            let path = lock_file(block)?;
            let file = File::options().create(true).truncate(false).write(true).open(&path);
            let file = file.map_err(|error| Error::file(&path, error))?;
            match file.try_lock() {
                Ok(()) => {
                    self.held.push((block, file));
                    return Ok(block);
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(Error::file(&path, error)),
            }
        }
        let again = self.held.get(self.reused % self.held.len().max(1));
        self.reused += 1;
        again.map(|(block, _)| *block).ok_or_else(|| {
            Error::failed(format!("each of the {BLOCKS} blocks of ports is held by another test process"))
        })
    }
}

fn ports_of(block: u16) -> Range<u16> {
    let first = FIRST + block * BLOCK_PORTS;
    first..first + BLOCK_PORTS
}

/// One for each user: nobody can open another's.
fn lock_file(block: u16) -> Result<PathBuf> {
    let user = rustix::process::geteuid().as_raw();
    let folder = std::env::temp_dir().join(format!("task-events-ports-{user}"));
    std::fs::create_dir_all(&folder).map_err(|error| Error::file(&folder, error))?;
    Ok(folder.join(block.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// A lock is of the file that was opened, so two values here are as two processes.
    #[test]
    fn two_processes_that_begin_at_the_same_block_get_no_port_in_common() {
        let (mut one, mut other) = (Ports::new(), Ports::new());
        // More than a block.
        let ports: Vec<u16> =
            (0..60).flat_map(|_| [one.next(), other.next()]).collect::<Result<_>>().unwrap();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), ports.len(), "{ports:?}");
        let taken: HashSet<_> = one.held.iter().map(|(block, _)| *block).collect();
        assert!(other.held.iter().all(|(block, _)| !taken.contains(block)));
    }

    #[test]
    fn a_process_that_has_used_up_all_blocks_begins_again_with_its_own() {
        let mut ports = Ports::new();
        let first = ports.next().unwrap();
        ports.tried = BLOCKS;
        let rest: Vec<_> = (0..BLOCK_PORTS).map(|_| ports.next().unwrap()).collect();
        assert!(rest.contains(&first), "{first}: {rest:?}");
    }
}
