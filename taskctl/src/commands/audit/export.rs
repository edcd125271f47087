//! `taskctl audit export`: the lines of a log and its segments as they are, oldest first.

use std::borrow::Cow;
use std::io::{self, Write};
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::Args;
use serde::Deserialize;
use task_events::error_code::Code;
use task_events::operate::Progress as _;
use uuid::Uuid;

use crate::Error;
use crate::log_files::{LogLine, files};
use crate::progress::Progress;

/// What to export.
#[derive(Debug, Args)]
pub struct Export {
    /// The audit log. It may be in use; what is written meanwhile is not exported
    path: PathBuf,
    /// Only lines that were written at this time or later (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = crate::args::time)]
    since: Option<DateTime<Utc>>,
    /// Only lines that were written before this time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = crate::args::time)]
    until: Option<DateTime<Utc>>,
    /// Only the events of this task
    #[arg(long, value_name = "ID")]
    task: Option<Uuid>,
    /// Only events of this type, such as task.completed
    #[arg(long, value_name = "TYPE")]
    event_type: Option<String>,
}

/// A line, as far as it is chosen by.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    event_type: Cow<'a, str>,
    audited_at: DateTime<Utc>,
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    #[serde(default)]
    task_id: Option<serde_json::Value>,
}

impl Export {
    fn takes_all(&self) -> bool {
        self.since.is_none() && self.until.is_none() && self.task.is_none() && self.event_type.is_none()
    }

    fn takes(&self, line: &Line<'_>) -> bool {
        let task = line.data.task_id.as_ref().and_then(|id| id.as_str()).and_then(|id| id.parse().ok());
        self.since.is_none_or(|since| line.audited_at >= since)
            && self.until.is_none_or(|until| line.audited_at < until)
            && self.task.is_none_or(|wanted| task == Some(wanted))
            && self.event_type.as_ref().is_none_or(|wanted| *wanted == line.event_type)
    }

    /// Writes the chosen lines. What is no event of an audit log is an error: an export that leaves it out in silence
    /// would pass for the log.
    fn write(&self, out: &mut dyn Write) -> Result<(), Error> {
        let refused = |why: String| Error::Refused(Code::File, why);
        let failed =
            |error: io::Error| refused(format!("audit log {} cannot be read: {error}", self.path.display()));
        let files = files(&self.path).map_err(failed)?;
        let total = files.iter().map(|file| file.bytes).sum();
        let mut progress = Progress::new("exporting the audit log", total, "bytes");
        for file in files {
            let mut lines = file.lines().map_err(failed)?;
            while let Some(LogLine { number, at, bytes }) = lines.next().map_err(failed)? {
                progress.add(bytes.len() as u64);
                let line = bytes.strip_suffix(b"\n").ok_or("it has no end".to_owned());
                let line = line.and_then(|json| {
                    serde_json::from_slice::<Line<'_>>(json).map_err(|error| error.to_string())
                });
                let line = line.map_err(|why| {
                    let name = &file.name;
                    refused(format!("{name}:{number} (byte {at}) is not an event of an audit log: {why}; see `taskctl audit verify`"))
                })?;
                if self.takes_all() || self.takes(&line) {
                    out.write_all(bytes)?;
                }
            }
        }
        Ok(out.flush()?)
    }
}

/// Runs the command.
pub fn run(args: &Export) -> Result<(), Error> {
    args.write(&mut io::BufWriter::new(io::stdout().lock()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn line(task: u128, second: u32, event_type: &str) -> String {
        format!(
            "{{\"event_type\":\"{event_type}\",\"data\":{{\"task_id\":\"{}\"}},\"audited_at\":\"2026-01-15T10:30:{second:02}Z\"}}\n",
            Uuid::from_u128(task)
        )
    }

    #[test]
    fn the_lines_of_all_files_are_exported_as_they_are_or_those_that_are_chosen() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (line(1, 1, "task.created"), line(2, 2, "task.created"));
        let (third, fourth) = (line(1, 3, "task.completed"), line(2, 4, "task.updated"));
        fs::write(
            folder.path().join("audit-00000000000000000000.log"),
            [first.clone(), second.clone()].concat(),
        )
        .unwrap();
        fs::write(folder.path().join("audit.log"), [third.clone(), fourth.clone()].concat()).unwrap();
        let time = |second: u32| Some(crate::args::time(&format!("2026-01-15T10:30:{second:02}Z")).unwrap());
        let all = || Export {
            path: folder.path().join("audit.log"),
            since: None,
            until: None,
            task: None,
            event_type: None,
        };
        let cases = [
            (all(), [&*first, &second, &third, &fourth].concat()),
            (Export { since: time(2), until: time(4), ..all() }, [&*second, &third].concat()),
            (Export { task: Some(Uuid::from_u128(2)), ..all() }, [&*second, &fourth].concat()),
            (Export { event_type: Some("task.completed".to_owned()), ..all() }, third.clone()),
        ];
        for (export, expected) in cases {
            let mut out = Vec::new();
            export.write(&mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{export:?}");
        }
        fs::write(folder.path().join("audit.log"), [&*third, "{}\n"].concat()).unwrap();
        let error = all().write(&mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains(&format!("audit.log:2 (byte {})", third.len())), "{error}");
    }
}
