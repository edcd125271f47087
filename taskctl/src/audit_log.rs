//! Looks for lines in an audit log, its segments included.

use std::io;
use std::path::Path;

use memchr::memmem::Finder;
use serde::Deserialize;
use task_events::operate::Progress as _;
use uuid::Uuid;

use crate::log_files::{LogLine, files};
use crate::progress::Progress;

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
    let files = files(log)?;
    let mut progress =
        Progress::new("reading the audit log", files.iter().map(|file| file.bytes).sum(), "bytes");
    let finder = Finder::new(text);
    let mut found = Vec::new();
    for file in files {
        let mut lines = file.lines()?;
        while let Some(LogLine { number, bytes, .. }) = lines.next()? {
            progress.add(bytes.len() as u64);
            if finder.find(bytes).is_none() {
                continue;
            }
            // A line that is no event is what `audit verify` is for.
            if let Ok(line) = serde_json::from_slice(bytes) {
                found.push(Found { place: format!("{}:{number}", file.name), line });
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
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
