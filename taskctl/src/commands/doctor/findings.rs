//! What was found so far, and how it is shown.

use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::time::Duration;

use serde::Serialize;

use crate::output::{cell, table};

/// What to do about a file that is configured and cannot be used.
pub(super) const UNUSABLE_FILE: &str = "mount or mend the file, or take its variable out";

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    Warn,
    Fail,
}

/// What was examined, and what was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    subject: String,
    found: String,
    /// What to do.
    remedy: Option<String>,
}

/// The findings so far.
#[derive(Debug, Default)]
pub(super) struct Findings(pub(super) Vec<Finding>);

impl Findings {
    pub(super) fn ok(&mut self, subject: impl Display, found: impl Display) {
        self.add(Level::Ok, subject, found, None);
    }

    pub(super) fn warn(&mut self, subject: impl Display, found: impl Display, remedy: impl Display) {
        self.add(Level::Warn, subject, found, Some(remedy.to_string()));
    }

    pub(super) fn fail(&mut self, subject: impl Display, found: impl Display, remedy: impl Display) {
        self.add(Level::Fail, subject, found, Some(remedy.to_string()));
    }

    /// A file or folder that cannot be read: it may be on another machine, but what may not be read is here.
    pub(super) fn unreadable(&mut self, subject: impl Display, error: &io::Error, remedy: &str) {
        let level = if error.kind() == ErrorKind::PermissionDenied { Level::Fail } else { Level::Warn };
        self.add(level, subject, format!("it cannot be read: {error}"), Some(remedy.to_owned()));
    }

    fn add(&mut self, level: Level, subject: impl Display, found: impl Display, remedy: Option<String>) {
        self.0.push(Finding { level, subject: subject.to_string(), found: found.to_string(), remedy });
    }
}

/// A line for each.
pub(super) fn text(findings: &[Finding]) -> String {
    let rows = findings.iter().map(|finding| {
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "fail",
        };
        [level.to_owned(), finding.subject.clone(), finding.found.clone(), cell(finding.remedy.as_ref())]
    });
    table(["LEVEL", "SUBJECT", "FOUND", "REMEDY"], rows)
}

/// A duration in words.
pub(super) fn words(time: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match time.as_secs() {
        seconds if seconds >= 2 * DAY => format!("{} d", seconds / DAY),
        seconds if seconds >= 2 * HOUR => format!("{} h", seconds / HOUR),
        seconds if seconds >= 2 * MINUTE => format!("{} min", seconds / MINUTE),
        seconds => format!("{seconds} s"),
    }
}
