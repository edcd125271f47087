//! Looks for lines in an audit log: the file that the audit service writes, and the segments beside it that were
//! sealed before (`audit.log.20261125T211500.123456Z`, `audit.log.1.gz`).

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use memchr::memmem::Finder;
use serde::Deserialize;
use task_events::operate::Progress as _;
use task_events::segments::is_segment;
use uuid::Uuid;

use crate::progress::Progress;

/// The longest line, in bytes: an event has 256 KiB at most.
const MAX_LINE: u64 = 1024 * 1024;

/// A line that was found.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// `audit.log:12`
    pub place: String,
    pub line: Line,
}

/// What a line says of its event.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Line {
    pub event_id: Uuid,
    pub audited_at: String,
    pub kafka: At,
}

/// Where the event was.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct At {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
}

/// The lines with that text, in log and segments. Blocks.
pub fn find(log: &Path, text: &str) -> io::Result<Vec<Found>> {
    let mut paths = segments(log)?;
    paths.push(log.to_owned());
    let sizes = paths.iter().filter_map(|path| Some(fs::metadata(path).ok()?.len()));
    let mut progress = Progress::new("reading the audit log", sizes.sum(), "bytes");
    let mut found = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = File::open(&path)?;
        let is_compressed = path.extension().is_some_and(|extension| extension == "gz");
        let lines: Box<dyn Read> =
            if is_compressed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
        find_in(BufReader::with_capacity(1 << 16, lines), &name, text, &mut progress, &mut found)?;
    }
    Ok(found)
}

fn find_in(
    mut lines: impl BufRead,
    name: &str,
    text: &str,
    progress: &mut Progress,
    found: &mut Vec<Found>,
) -> io::Result<()> {
    let finder = Finder::new(text);
    let (mut bytes, mut number) = (Vec::new(), 0_u64);
    loop {
        bytes.clear();
        let size = lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes)?;
        if size == 0 {
            return Ok(());
        }
        number += 1;
        progress.add(u64::try_from(size).unwrap_or(0));
        if finder.find(&bytes).is_none() {
            continue;
        }
        // A line that is no event is what `audit verify` is for.
        if let Ok(line) = serde_json::from_slice(&bytes) {
            found.push(Found { place: format!("{name}:{number}"), line });
        }
    }
}

/// The segments beside the log, in the order of their names.
fn segments(log: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = match log.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let Some(log_name) = log.file_name().and_then(|name| name.to_str()) else { return Ok(Vec::new()) };
    let mut segments = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| is_segment(log_name, name)) {
            segments.push(entry.path());
        }
    }
    segments.sort();
    Ok(segments)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn line(id: u128, offset: i64) -> String {
        format!(
            "{{\"event_id\":\"{}\",\"audited_at\":\"t\",\"kafka\":{{\"topic\":\"e\",\"partition\":0,\"offset\":{offset}}}}}\n",
            Uuid::from_u128(id)
        )
    }

    #[test]
    fn lines_are_found_in_the_log_and_in_its_segments() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("audit.log");
        let mut gzip =
            GzEncoder::new(File::create(folder.path().join("audit.log.1.gz")).unwrap(), Compression::fast());
        gzip.write_all([line(1, 0), line(2, 1)].concat().as_bytes()).unwrap();
        gzip.finish().unwrap();
        fs::write(folder.path().join("audit.log-20261125"), line(3, 2)).unwrap();
        for other in ["audit.log.bak", "audit.log.1~", "audit.log.1.swp"] {
            fs::write(folder.path().join(other), line(2, 1)).unwrap();
        }
        fs::write(&log, [line(4, 3), "{}\n".to_owned(), line(2, 4)].concat()).unwrap();
        let found = find(&log, &Uuid::from_u128(2).to_string()).unwrap();
        let places: Vec<_> =
            found.iter().map(|found| (found.place.as_str(), found.line.kafka.offset)).collect();
        assert_eq!(places, [("audit.log.1.gz:2", 1), ("audit.log:3", 4)]);
        assert!(find(&folder.path().join("none.log"), "x").is_err());
    }
}
