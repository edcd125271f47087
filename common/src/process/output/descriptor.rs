//! A file descriptor that somebody else reads: written to piece by piece, so that no write has to block.

use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::PIPE_BUF;

/// The largest write to a file, which is always ready: large enough for the system call to cost nothing.
const FILE_PIECE: usize = 64 * 1024;
/// A write that finds no space in a descriptor that was said to have some: how long until the next.
const RETRY: Duration = Duration::from_millis(10);

/// A descriptor that is written to.
#[derive(Debug)]
pub(super) struct Descriptor {
    fd: OwnedFd,
    piece: usize,
}

/// Why nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hindrance {
    /// It has no space, since nobody reads from its other end.
    Unread,
    /// The system refused the write.
    Refused(Errno),
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unread => f.write_str("nobody reads it"),
            Self::Refused(Errno::PIPE) => f.write_str("its reader has closed it"),
            Self::Refused(error) => write!(f, "{error}"),
        }
    }
}

impl Descriptor {
    /// The descriptor as it is: its flags are shared with other processes and are left alone.
    pub(super) fn new(fd: OwnedFd) -> Self {
        let file = fd.try_clone().map(File::from).and_then(|file| file.metadata());
        let is_file = file.is_ok_and(|metadata| metadata.is_file());
        // A pipe that is ready has space for PIPE_BUF bytes, and takes them as a whole.
        Self { fd, piece: if is_file { FILE_PIECE } else { PIPE_BUF } }
    }

    /// The most bytes that one write may have.
    pub(super) fn piece(&self) -> usize {
        self.piece
    }

    /// Returns when it has space for a write, or an error that the write will tell.
    pub(super) fn wait_writable(&self, limit: Duration) -> Result<(), Hindrance> {
        wait_writable(self.fd.as_fd(), limit)
    }

    /// Writes a part of the bytes, all of them as a rule. To be called once it is writable.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<usize, Hindrance> {
        write(self.fd.as_fd(), bytes.get(..self.piece).unwrap_or(bytes))
    }
}

/// Writes all of a short text within the time limit, or as much as is taken meanwhile.
pub fn write_within(fd: BorrowedFd<'_>, text: &[u8], limit: Duration) -> Result<(), Hindrance> {
    let end = Instant::now() + limit;
    let mut rest = text;
    while !rest.is_empty() {
        wait_writable(fd, end.saturating_duration_since(Instant::now()))?;
        match write(fd, rest.get(..PIPE_BUF).unwrap_or(rest)) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(Hindrance::Unread) if Instant::now() < end => {}
            Err(hindrance) => return Err(hindrance),
        }
    }
    Ok(())
}

fn wait_writable(fd: BorrowedFd<'_>, limit: Duration) -> Result<(), Hindrance> {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        // A limit of some seconds always fits.
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)], timeout.as_ref()) {
            Ok(0) => return Err(Hindrance::Unread),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(Hindrance::Refused(error)),
        }
    }
}

fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Hindrance> {
    loop {
        match rustix::io::write(fd, bytes) {
            // No device does that; taken for success it would be tried again for ever.
            Ok(0) => return Err(Hindrance::Refused(Errno::IO)),
            Ok(written) => return Ok(written),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                pause(RETRY);
                return Err(Hindrance::Unread);
            }
            Err(error) => return Err(Hindrance::Refused(error)),
        }
    }
}

/// Blocks the thread: the one that writes, or that of a process at its end.
#[allow(clippy::disallowed_methods, reason = "no async thread waits here")]
pub(super) fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
