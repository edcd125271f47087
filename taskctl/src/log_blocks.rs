//! The lines of log files in blocks, for work that is done by several threads.
//!
//! # Invariants
//!
//! 1. *A block has whole lines*, but for a last line that has no end, and one that is longer than any may be: that comes
//!    in parts, as from [`Lines`](crate::log_files::Lines).
//! 2. *Memory is that of the blocks in use*: a block that is given back is filled again. It has at most [`MAX_LINES`] lines,
//!    since what is known of each takes more than a short line does.

use std::io::{self, Read};
use std::sync::mpsc::Receiver;

use crate::log_files::{LogFile, MAX_LINE, named};

/// Bytes that are read at once.
const BLOCK: usize = 512 * 1024;
/// The most that a block has: one line of the longest that may be.
const MAX_BLOCK: usize = MAX_LINE as usize;
/// Lines of a block: several times as many as a block has of real ones.
const MAX_LINES: usize = 8 * 1024;

/// Lines of a file that follow each other.
#[derive(Debug)]
pub struct Block {
    /// The number of the file.
    pub file: usize,
    /// The byte where it starts, in the file as it is when it is not compressed.
    pub at: u64,
    buffer: Vec<u8>,
    used: usize,
}

impl Block {
    /// Its lines.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.used).unwrap_or_default()
    }

    /// What can be filled again.
    pub fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }
}

/// Reads all files, one after the other. `take` says whether it goes on. Buffers come back through `free`.
pub fn read(
    files: &[LogFile],
    free: &Receiver<Vec<u8>>,
    mut take: impl FnMut(Block) -> bool,
) -> io::Result<()> {
    for (file, of) in files.iter().enumerate() {
        let mut stream = of.stream()?;
        let (mut at, mut rest) = (0, Vec::new());
        loop {
            let mut buffer = free.try_recv().unwrap_or_else(|_| vec![0; BLOCK]);
            let filled = fill(&mut *stream, &mut buffer, &rest).map_err(|error| named(&of.path, &error))?;
            let used = lines_of(buffer.get(..filled).unwrap_or_default());
            rest.clear();
            rest.extend_from_slice(buffer.get(used..filled).unwrap_or_default());
            if used == 0 {
                break;
            }
            let block = Block { file, at, buffer, used };
            at += used as u64;
            if !take(block) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Fills a buffer with what was left and what follows: at least one line, if there is one. How much there is.
fn fill(stream: &mut dyn Read, buffer: &mut Vec<u8>, rest: &[u8]) -> io::Result<usize> {
    let wanted = rest.len().max(BLOCK);
    if buffer.len() < wanted {
        buffer.resize(MAX_BLOCK, 0);
    }
    if let Some(start) = buffer.get_mut(..rest.len()) {
        start.copy_from_slice(rest);
    }
    let (mut filled, mut end) = (rest.len(), BLOCK);
    loop {
        while let Some(space) = buffer.get_mut(filled..end).filter(|space| !space.is_empty()) {
            match stream.read(space) {
                Ok(0) => return Ok(filled),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if end == MAX_BLOCK || memchr::memrchr(b'\n', buffer.get(..filled).unwrap_or_default()).is_some() {
            return Ok(filled);
        }
        end = MAX_BLOCK;
        buffer.resize(MAX_BLOCK, 0);
    }
}

/// How much of the bytes are whole lines, at most so many; all, where there is no end of a line.
fn lines_of(bytes: &[u8]) -> usize {
    let end = memchr::memchr_iter(b'\n', bytes).nth(MAX_LINES - 1).or_else(|| memchr::memrchr(b'\n', bytes));
    end.map_or(bytes.len(), |end| end + 1)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc;

    use super::*;
    use crate::log_files::files;

    #[test]
    fn blocks_have_the_same_lines_as_are_read_one_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("audit.log");
        let line = |length: usize| [vec![b'x'; length.saturating_sub(1)], b"\n".to_vec()].concat();
        let parts = [
            vec![0],
            vec![1],
            vec![1, 5, 0],
            vec![BLOCK, 3],
            vec![BLOCK - 1, 1, 1, BLOCK + 1, 9],
            vec![MAX_BLOCK, 7, MAX_BLOCK - 1, MAX_BLOCK, 0],
            vec![MAX_BLOCK + 1, 7],
            vec![7, 3 * MAX_BLOCK + 5, 9, 0],
            vec![BLOCK / 3; 50],
            vec![1; 3 * MAX_LINES + 5],
            [vec![2; MAX_LINES - 1], vec![BLOCK + 1], vec![1; MAX_LINES]].concat(),
        ];
        for lengths in parts {
            // A length of 0 at the end is a last line without its end.
            let mut bytes: Vec<u8> =
                lengths.iter().filter(|length| **length > 0).flat_map(|length| line(*length)).collect();
            if lengths.last() == Some(&0) {
                bytes.extend_from_slice(b"torn");
            }
            fs::write(&log, &bytes).unwrap();
            let files = files(&log).unwrap();
            let mut expected = Vec::new();
            let mut lines = files[0].lines().unwrap();
            while let Some(line) = lines.next().unwrap() {
                expected.push((line.at, line.bytes.len()));
            }
            let (back, free) = mpsc::channel();
            let mut found = Vec::new();
            read(&files, &free, |block| {
                assert!(block.bytes().len() <= MAX_BLOCK);
                assert!(block.bytes().split_inclusive(|byte| *byte == b'\n').count() <= MAX_LINES);
                let mut at = block.at;
                for line in block.bytes().split_inclusive(|byte| *byte == b'\n') {
                    found.push((at, line.len()));
                    at += line.len() as u64;
                }
                back.send(block.into_buffer()).unwrap();
                true
            })
            .unwrap();
            assert_eq!(found, expected, "{lengths:?}");
        }
    }
}
