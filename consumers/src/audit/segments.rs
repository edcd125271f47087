//! Sealed segments: earlier parts of the log, each a file beside it.
//!
//! By their names: see [`task_events::segments`]. Which segments there are matters only where the
//! index has to be made from them: otherwise it holds their ids, and they may be archived.

use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use flate2::bufread::MultiGzDecoder;
use task_events::disk::Disk;
use task_events::segments::{is_segment, sealed_path};
use uuid::Uuid;

use super::file::{Files, Lines, Section, Storage};
use super::line;

/// An open segment.
#[derive(Debug)]
pub(super) struct Segment<F> {
    pub(super) file: F,
    pub(super) length: u64,
    is_compressed: bool,
}

impl<F: Storage> Segment<F> {
    pub(super) fn open<S: Files<File = F>>(files: &S, path: &Path) -> io::Result<Self> {
        let (file, length) = files.segment(path).map_err(|error| named(path, error))?;
        let is_compressed = path.extension().is_some_and(|extension| extension == "gz");
        Ok(Self { file, length, is_compressed })
    }

    /// Its lines from that byte on.
    pub(super) fn lines(&self, from: u64) -> Lines<Box<dyn Read + '_>> {
        if self.is_compressed {
            let bytes = BufReader::new(Section::new(&self.file, 0, self.length));
            return Lines::new(Box::new(MultiGzDecoder::new(bytes)), 0);
        }
        Lines::new(Box::new(Section::new(&self.file, from, self.length)), from)
    }

    /// Its first event. `None`: it holds no line.
    pub(super) fn first_id(&self) -> io::Result<Option<Uuid>> {
        self.first_line(|line| line.event_id)
    }

    /// When its first event was audited. `None`: it holds no line.
    fn since(&self) -> io::Result<Option<String>> {
        self.first_line(|line| line.audited_at.into_owned())
    }

    /// What is asked for of the first line that is whole. Bytes in front of it do not hide the segment.
    fn first_line<T>(&self, of: impl FnOnce(line::Line<'_>) -> T) -> io::Result<Option<T>> {
        let mut lines = self.lines(0);
        while let Some((_, bytes)) = lines.next()? {
            if let Some(line) = line::parse(bytes) {
                return Ok(Some(of(line)));
            }
        }
        Ok(None)
    }
}

/// The segments beside the log, oldest first; in front of them those that hold no line, but bytes. One that cannot be read
/// is an error: an index without it would let its events be written again.
pub(super) fn beside<F: Files>(files: &F, log: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(name) = log.file_name().and_then(|name| name.to_str()) else { return Ok(Vec::new()) };
    let mut segments = Vec::new();
    for path in files.beside(log)? {
        if !path.file_name().and_then(|other| other.to_str()).is_some_and(|other| is_segment(name, other)) {
            continue;
        }
        let segment = Segment::open(files, &path)?;
        if segment.length > 0 {
            segments.push((segment.since().map_err(|error| named(&path, error))?, path));
        }
    }
    segments.sort();
    Ok(segments.into_iter().map(|(_, path)| path).collect())
}

/// The error, with the segment that it is about.
pub(super) fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("segment {}: {error}", path.display()))
}

/// The name for a segment that begins with that event and is sealed at that time: `audit-<first>.log`. Numbers start
/// again where lines were lost; a name that is taken by then gets the time behind the log's instead.
pub(super) fn free_name(disk: &dyn Disk, log: &Path, first: u64, time: DateTime<Utc>) -> io::Result<PathBuf> {
    let numbered = sealed_path(log, first);
    // What was compressed has its number as well.
    if !disk.exists(&numbered)? && !disk.exists(&with_suffix(&numbered, "gz"))? {
        return Ok(numbered);
    }
    let timed = with_suffix(log, &time.format("%Y%m%dT%H%M%S%.6fZ").to_string());
    match disk.exists(&timed)? {
        false => Ok(timed),
        true => Err(io::Error::other(format!("{} is already there", timed.display()))),
    }
}

/// The log's path with that behind its name.
pub(super) fn with_suffix(log: &Path, suffix: &str) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}
