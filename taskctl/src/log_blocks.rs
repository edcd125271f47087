//! The lines of log files in blocks, for work that is done by several threads.
//!
//! # Invariants
//!
//! 1. *A block has whole lines*, but for a last line that has no end, and one that is longer than any may be: that comes
//!    in parts, as from [`Lines`](crate::log_files::Lines).
//! 2. *Memory is that of the blocks in use*: a block that is given back is filled again. It has at most [`MAX_LINES`] lines,
//!    since what is known of each takes more than a short line does.
//! 3. *A file that cannot be read to its end ends nothing*: its lines up to there come, then why, then the next file. One
//!    that cannot be opened is an error.

use std::io::{self, Read};
use std::sync::mpsc::Receiver;

use crate::log_files::{LogFile, MAX_LINE};

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
    /// Why the rest of the file cannot be read; then it is the last block of its file.
    pub damage: Option<String>,
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
        let (mut at, mut rest, mut damage) = (0, Vec::new(), None);
        loop {
            let mut buffer = free.try_recv().unwrap_or_else(|_| vec![0; BLOCK]);
            let (filled, error) = fill(&mut *stream, &mut buffer, &rest);
            if let Some(error) = error {
                (damage, stream) = (Some(error.to_string()), Box::new(io::empty()));
            }
            let read = buffer.get(..filled).unwrap_or_default();
            // Of a line that was cut off by damage the beginning is no line.
            let is_over = damage.is_some() && memchr::memchr(b'\n', read).is_none();
            let used = if is_over { 0 } else { lines_of(read) };
            rest.clear();
            rest.extend_from_slice(buffer.get(used..filled).unwrap_or_default());
            let damage = damage.take_if(|_| is_over);
            if used == 0 && damage.is_none() {
                break;
            }
            if !take(Block { file, at, damage, buffer, used }) {
                return Ok(());
            }
            if is_over {
                break;
            }
            at += used as u64;
        }
    }
    Ok(())
}

/// Fills a buffer with what was left and what follows: at least one line, if there is one. How much there is, and why
/// there is no more.
fn fill(stream: &mut dyn Read, buffer: &mut Vec<u8>, rest: &[u8]) -> (usize, Option<io::Error>) {
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
                Ok(0) => return (filled, None),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (filled, Some(error)),
            }
        }
        if end == MAX_BLOCK || memchr::memrchr(b'\n', buffer.get(..filled).unwrap_or_default()).is_some() {
            return (filled, None);
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

    #[test]
    fn a_file_that_is_damaged_has_its_lines_up_to_there_and_the_next_file_comes() {
        let folder = tempfile::tempdir().unwrap();
        let lines: String = (0..3 * MAX_LINES).map(|number| format!("{number:08}\n")).collect();
        for (kind, keep, junk) in [("cut", 60, &b""[..]), ("junk", 100, b"junk"), ("no gzip", 0, b"junk")] {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            io::Write::write_all(&mut gzip, lines.as_bytes()).unwrap();
            let mut bytes = gzip.finish().unwrap();
            bytes.truncate(bytes.len() * keep / 100);
            bytes.extend_from_slice(junk);
            fs::write(folder.path().join("audit.log.1.gz"), bytes).unwrap();
            fs::write(folder.path().join("audit.log"), "last\n").unwrap();
            let files = files(&folder.path().join("audit.log")).unwrap();
            let (_back, free) = mpsc::channel();
            let (mut text, mut damaged) = (Vec::new(), Vec::new());
            read(&files, &free, |block| {
                assert!(block.bytes().iter().filter(|byte| **byte == b'\n').count() <= MAX_LINES);
                text.extend_from_slice(block.bytes());
                damaged.extend(block.damage.as_ref().map(|_| block.file));
                true
            })
            .unwrap();
            let text = String::from_utf8(text).unwrap();
            let whole = text.strip_suffix("last\n").unwrap();
            assert!(lines.starts_with(whole) && (whole.is_empty() || whole.ends_with('\n')), "{kind}");
            assert_eq!((whole == lines, damaged), (kind == "junk", vec![0]), "{kind}");
        }
    }
}
