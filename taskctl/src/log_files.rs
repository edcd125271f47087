//! The files of an audit log: the one that the audit service writes, and the segments beside it that were sealed before
//! (`audit-00000000000000001200.log`, `audit.log.1.gz`), with their lines.
//!
//! They are read in the order in which they were written, which is that of their first lines, whatever their names.
//! Of a file that is being written only what was there when it was opened is read. That file is held open, so that one
//! that is sealed meanwhile is read all the same, once. A file that has become shorter by then is an error.

use std::fs::{self, File, Metadata};
use std::io::{self, BufRead, BufReader, Read, Take};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use task_events::segments::is_segment;

/// The longest line, in bytes: an event has 256 KiB at most.
pub const MAX_LINE: u64 = 1024 * 1024;
/// Bytes read at once.
const READ: usize = 256 * 1024;
/// Lines of which one has to say when a file was begun.
const LINES_WITH_TIME: usize = 64;
/// How often the files are looked for, where the log is sealed at that very moment.
const LOOKS: usize = 10;

/// A file of a log.
#[derive(Debug, Clone)]
pub struct LogFile {
    pub path: PathBuf,
    /// Its name without folder, for people.
    pub name: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// The log itself, which may have another name by the time it is read.
    open: Option<Arc<File>>,
}

/// A line, and where it is.
#[derive(Debug, Clone, Copy)]
pub struct LogLine<'a> {
    /// The first is 1.
    pub number: u64,
    /// The byte where it starts, in the file as it is when it is not compressed.
    pub at: u64,
    /// With its end, if it has one.
    pub bytes: &'a [u8],
}

impl LogFile {
    fn new(path: PathBuf) -> io::Result<Self> {
        let metadata = fs::metadata(&path).and_then(no_folder).map_err(|error| named(&path, &error))?;
        Ok(Self { name: name_of(&path), path, bytes: metadata.len(), open: None })
    }

    /// A file that stays open, and which one it is.
    fn held(path: PathBuf) -> io::Result<(Self, (u64, u64))> {
        let failed = |error| named(&path, &error);
        let file = File::open(&path).map_err(failed)?;
        let metadata = file.metadata().and_then(no_folder).map_err(failed)?;
        let (bytes, open) = (metadata.len(), Some(Arc::new(file)));
        Ok((Self { name: name_of(&path), path, bytes, open }, (metadata.dev(), metadata.ino())))
    }

    /// Its lines, from the first.
    pub fn lines(&self) -> io::Result<Lines> {
        Ok(Lines::new(self, self.stream()?, READ))
    }

    /// Its lines between two bytes, at which lines begin; the first has that number. Of a file that is not compressed.
    pub fn lines_between(&self, from: u64, to: u64, number: u64) -> io::Result<Lines> {
        let file = match &self.open {
            Some(file) => Arc::clone(file),
            None => Arc::new(self.open_by_path()?),
        };
        let bytes = to.min(self.bytes).saturating_sub(from);
        let stream = Box::new(Whole(Section { file, at: from }.take(bytes)));
        let at_once = usize::try_from(bytes).map_or(READ, |bytes| bytes.min(READ));
        Ok(Lines { number: number.saturating_sub(1), at: from, ..Lines::new(self, stream, at_once) })
    }

    /// Its bytes, as they are when they are not compressed.
    pub fn stream(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(match &self.open {
            Some(file) => Box::new(Whole(Section { file: Arc::clone(file), at: 0 }.take(self.bytes))),
            None if self.is_compressed() => Box::new(MultiGzDecoder::new(self.open_by_path()?)),
            None => Box::new(Whole(self.open_by_path()?.take(self.bytes))),
        })
    }

    pub fn is_compressed(&self) -> bool {
        self.open.is_none() && self.path.extension().is_some_and(|extension| extension == "gz")
    }

    fn open_by_path(&self) -> io::Result<File> {
        File::open(&self.path).map_err(|error| named(&self.path, &error))
    }
}

/// Reads a file that others read too.
struct Section {
    file: Arc<File>,
    at: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// All of so many bytes: fewer are an error.
struct Whole<R>(Take<R>);

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(buffer)?;
        let left = self.0.limit();
        if read == 0 && left > 0 && !buffer.is_empty() {
            let why = format!(
                "it has {left} bytes less than when it was listed: it was cut off, or replaced, meanwhile; try again"
            );
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        Ok(read)
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The lines of a file.
pub struct Lines {
    path: PathBuf,
    reader: BufReader<Box<dyn Read + Send>>,
    line: Vec<u8>,
    number: u64,
    at: u64,
}

impl Lines {
    fn new(file: &LogFile, stream: Box<dyn Read + Send>, at_once: usize) -> Self {
        let reader = BufReader::with_capacity(at_once, stream);
        Self { path: file.path.clone(), reader, line: Vec::new(), number: 0, at: 0 }
    }

    /// The next line. One that is longer than any may be comes in parts.
    pub fn next(&mut self) -> io::Result<Option<LogLine<'_>>> {
        let at = self.at + self.line.len() as u64;
        self.line.clear();
        let read = (&mut self.reader).take(MAX_LINE).read_until(b'\n', &mut self.line);
        if read.map_err(|error| named(&self.path, &error))? == 0 {
            return Ok(None);
        }
        (self.at, self.number) = (at, self.number + 1);
        Ok(Some(LogLine { number: self.number, at, bytes: &self.line }))
    }
}

/// The files of a log, oldest first; the last is the one that is written.
pub fn files(log: &Path) -> io::Result<Vec<LogFile>> {
    for _ in 0..LOOKS {
        let (active, id) = LogFile::held(log.to_owned())?;
        let mut segments = Vec::new();
        for path in segments_beside(log)? {
            let file = LogFile::new(path)?;
            segments.push((first_time(&file)?, file.path.clone(), file));
        }
        // Sealed meanwhile: whether the segments are all of those before it is not known.
        if !fs::metadata(log).is_ok_and(|now| (now.dev(), now.ino()) == id) {
            continue;
        }
        segments.sort_by(|one, other| (&one.0, &one.1).cmp(&(&other.0, &other.1)));
        let mut files: Vec<LogFile> = segments.into_iter().map(|(_, _, file)| file).collect();
        files.push(active);
        return Ok(files);
    }
    Err(io::Error::other(format!(
        "{}: it was sealed again and again while its segments were listed",
        log.display()
    )))
}

/// When the first line of a file was written, or one behind it, where that is damaged. Files that do not say come first.
fn first_time(file: &LogFile) -> io::Result<Option<String>> {
    #[derive(Deserialize)]
    struct Time {
        audited_at: String,
    }
    let mut lines = file.lines()?;
    for _ in 0..LINES_WITH_TIME {
        // What cannot be read says nothing; whoever reads the file finds out why.
        let Ok(Some(line)) = lines.next() else { break };
        if let Ok(time) = serde_json::from_slice::<Time>(line.bytes) {
            return Ok(Some(time.audited_at));
        }
    }
    Ok(None)
}

fn segments_beside(log: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = match log.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let Some(log_name) = log.file_name().and_then(|name| name.to_str()) else { return Ok(Vec::new()) };
    let mut segments = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| named(folder, &error))? {
        let entry = entry?;
        // To open a pipe would wait for somebody to write to it.
        let is_file = || fs::metadata(entry.path()).map_or(true, |metadata| metadata.is_file());
        if entry.file_name().to_str().is_some_and(|name| is_segment(log_name, name)) && is_file() {
            segments.push(entry.path());
        }
    }
    Ok(segments)
}

/// A folder can be opened as a file is, and has no lines that could be damaged.
fn no_folder(metadata: Metadata) -> io::Result<Metadata> {
    if metadata.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(metadata) }
}

/// The error, with the file that it is about.
pub fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn files_come_in_the_order_in_which_they_were_written_and_lines_with_their_places() {
        let folder = tempfile::tempdir().unwrap();
        let line = |second: u32| format!("{{\"audited_at\":\"2026-01-15T10:30:{second:02}Z\"}}\n");
        let put = |name: &str, text: String| fs::write(folder.path().join(name), text).unwrap();
        put("audit-00000000000000000009.log", line(1));
        put("audit.log.1", line(3));
        put("audit.log", [line(9), "torn".to_owned()].concat());
        for other in ["audit.log.bak", "audit.log.1~", "audit.log.torn-20261125T211500.123456Z"] {
            put(other, line(2));
        }
        fs::create_dir(folder.path().join("audit.log.7")).unwrap();
        let gzip = File::create(folder.path().join("audit-00000000000000000003.log.gz")).unwrap();
        let mut gzip = GzEncoder::new(gzip, Compression::fast());
        gzip.write_all([line(2), line(2)].concat().as_bytes()).unwrap();
        gzip.finish().unwrap();

        let log = folder.path().join("audit.log");
        let found = files(&log).unwrap();
        let names: Vec<_> = found.iter().map(|file| file.name.as_str()).collect();
        let gzip = "audit-00000000000000000003.log.gz";
        assert_eq!(names, ["audit-00000000000000000009.log", gzip, "audit.log.1", "audit.log"]);
        // What is written from now on is not read.
        put("audit.log", [line(9), "torn".to_owned(), line(9)].concat());
        let length = line(0).len() as u64;
        for (file, expected) in [(1, [(1, 0), (2, length)]), (3, [(1, 0), (2, length)])] {
            let mut lines = found[file].lines().unwrap();
            let mut places = Vec::new();
            while let Some(line) = lines.next().unwrap() {
                places.push((line.number, line.at));
            }
            assert_eq!(places, expected);
        }
        // Sealed before its turn came, and written in a new file.
        let found = files(&log).unwrap();
        fs::rename(&log, folder.path().join("audit-00000000000000000012.log")).unwrap();
        put("audit.log", line(12));
        let mut lines = found[3].lines().unwrap();
        assert_eq!(lines.next().unwrap().unwrap().bytes, line(9).as_bytes());
        assert_eq!(files(&log).unwrap().len(), 5);
        fs::remove_file(&log).unwrap();
        assert!(files(&log).unwrap_err().to_string().contains("audit.log: "));
    }

    #[test]
    fn a_file_whose_first_line_or_all_is_damaged_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let line = |second: u32| format!("{{\"audited_at\":\"2026-01-15T10:30:{second:02}Z\"}}\n");
        let put = |name: &str, text: String| fs::write(folder.path().join(name), text).unwrap();
        put("audit.log.3", line(1));
        put("audit.log.2", ["no json\n".to_owned(), "\r\n".to_owned(), line(2)].concat());
        put("audit.log.1", line(3));
        put("audit.log.9.gz", "no gzip".to_owned());
        put("audit.log", line(4));
        let found = files(&folder.path().join("audit.log")).unwrap();
        let names: Vec<_> = found.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["audit.log.9.gz", "audit.log.3", "audit.log.2", "audit.log.1", "audit.log"]);
    }
}
