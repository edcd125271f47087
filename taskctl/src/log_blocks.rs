//! The lines of log files in blocks, for work that is done by several threads.
//!
//! # Invariants
//!
//! 1. *A block has whole lines*, but for a last line that has no end, and one that is longer than any may be: that comes
//!    in parts, as from [`Lines`](crate::log_files::Lines).
//! 2. *Memory is that of the caller's buffers*, and of what was read of the next block: less than one. A block has at most
//!    [`MAX_LINES`] lines, since what is known of each takes more than a short line does.
//! 3. *A file that cannot be read to its end ends nothing*: its lines up to there come, then why, then the next file; also
//!    where it becomes shorter meanwhile. One that cannot be opened is an error.

use std::io::{self, Read};

use crate::log_files::{LogFile, MAX_LINE};

/// Bytes that are read at once: what stays in the cache of the core that read it until it is done with it.
const BLOCK: usize = 512 * 1024;
/// The most that a block has: one line of the longest that may be.
const MAX_BLOCK: usize = MAX_LINE as usize;
/// Lines of a block: several times as many as a block has of real ones.
const MAX_LINES: usize = 8 * 1024;

/// Lines of a file that follow each other, at the beginning of a buffer.
#[derive(Debug)]
pub struct Block {
    /// The number of the file.
    pub file: usize,
    /// The byte where it starts, in the file as it is when it is not compressed.
    pub at: u64,
    /// How many bytes it has.
    pub length: usize,
    /// Why the rest of the file cannot be read; then it is the last block of its file.
    pub damage: Option<String>,
}

/// The blocks of all files, one after the other.
pub struct Blocks<'a> {
    files: &'a [LogFile],
    /// The number of the file that is read.
    file: usize,
    /// What is left of it, once it is open.
    stream: Option<Box<dyn Read + Send>>,
    /// The byte where the next block starts.
    at: u64,
    /// What was read of the next block.
    rest: Vec<u8>,
    /// Why what is left cannot be read.
    damage: Option<String>,
}

impl<'a> Blocks<'a> {
    pub fn new(files: &'a [LogFile]) -> Self {
        Self { files, file: 0, stream: None, at: 0, rest: Vec::new(), damage: None }
    }

    /// Reads the next block into a buffer, which is enlarged as needed. `None`: there are no more.
    pub fn next(&mut self, buffer: &mut Vec<u8>) -> io::Result<Option<Block>> {
        while let Some(of) = self.files.get(self.file) {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                None => self.stream.insert(of.stream()?),
            };
            let (filled, error) = fill(&mut **stream, buffer, &self.rest);
            if let Some(error) = error {
                (self.damage, *stream) = (Some(error.to_string()), Box::new(io::empty()));
            }
            let read = buffer.get(..filled).unwrap_or_default();
            // Of a line that was cut off by damage the beginning is no line.
            let is_over = self.damage.is_some() && memchr::memchr(b'\n', read).is_none();
            let length = if is_over { 0 } else { lines_of(read) };
            let damage = self.damage.take_if(|_| is_over);
            let block = Block { file: self.file, at: self.at, length, damage };
            if length == 0 {
                *self = Self { file: self.file + 1, ..Self::new(self.files) };
                if block.damage.is_none() {
                    continue;
                }
            } else {
                self.at += length as u64;
                self.rest.clear();
                self.rest.extend_from_slice(read.get(length..).unwrap_or_default());
            }
            return Ok(Some(block));
        }
        Ok(None)
    }
}

/// Fills a buffer with what was left and what follows: at least one line, if there is one. How much there is, and why
/// there is no more.
fn fill(stream: &mut dyn Read, buffer: &mut Vec<u8>, rest: &[u8]) -> (usize, Option<io::Error>) {
    if buffer.len() < BLOCK {
        buffer.resize(BLOCK, 0);
    }
    // What was left is no longer than that.
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
    // Counted first: to count them is faster than to look at each.
    let mut ends = memchr::memchr_iter(b'\n', bytes);
    let end = match ends.clone().count() > MAX_LINES {
        true => ends.nth(MAX_LINES - 1),
        false => memchr::memrchr(b'\n', bytes),
    };
    end.map_or(bytes.len(), |end| end + 1)
}

#[cfg(test)]
mod tests {
    use std::fs;

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
            let (mut blocks, mut buffer, mut found) = (Blocks::new(&files), Vec::new(), Vec::new());
            while let Some(block) = blocks.next(&mut buffer).unwrap() {
                let bytes = &buffer[..block.length];
                assert!(bytes.len() <= MAX_BLOCK);
                assert!(bytes.split_inclusive(|byte| *byte == b'\n').count() <= MAX_LINES);
                let mut at = block.at;
                for line in bytes.split_inclusive(|byte| *byte == b'\n') {
                    found.push((at, line.len()));
                    at += line.len() as u64;
                }
            }
            assert_eq!(found, expected, "{lengths:?}");
        }
    }

    #[test]
    fn a_file_that_becomes_shorter_meanwhile_is_not_taken_for_a_shorter_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("audit.log");
        fs::write(folder.path().join("audit.log.1"), "before\n").unwrap();
        let whole = 2 * BLOCK;
        for (left, lines, what) in
            [(whole, whole, "behind a line"), (whole + 3, whole, "within a line"), (0, 0, "to nothing")]
        {
            fs::write(&log, "0123456\n".repeat(BLOCK / 2)).unwrap();
            let files = files(&log).unwrap();
            fs::File::options().write(true).open(&log).unwrap().set_len(left as u64).unwrap();
            let (mut blocks, mut buffer) = (Blocks::new(&files), Vec::new());
            let (mut read, mut damage) = (0, None);
            while let Some(block) = blocks.next(&mut buffer).unwrap() {
                assert_eq!(damage, None, "{what}: it is the last of its file");
                read += if files[block.file].path == log { block.length } else { 0 };
                damage = block.damage;
            }
            assert_eq!(read, lines, "{what}");
            assert!(damage.unwrap().contains("it was cut off"), "{what}");
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
            let (mut blocks, mut buffer) = (Blocks::new(&files), Vec::new());
            let (mut text, mut damaged) = (Vec::new(), Vec::new());
            while let Some(block) = blocks.next(&mut buffer).unwrap() {
                let bytes = &buffer[..block.length];
                assert!(bytes.iter().filter(|byte| **byte == b'\n').count() <= MAX_LINES);
                text.extend_from_slice(bytes);
                damaged.extend(block.damage.as_ref().map(|_| block.file));
            }
            let text = String::from_utf8(text).unwrap();
            let whole = text.strip_suffix("last\n").unwrap();
            assert!(lines.starts_with(whole) && (whole.is_empty() || whole.ends_with('\n')), "{kind}");
            assert_eq!((whole == lines, damaged), (kind == "junk", vec![0]), "{kind}");
        }
    }
}
