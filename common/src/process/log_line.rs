//! The form of log lines.

use std::fmt::{self, Write};

use chrono::Utc;
use log::Level;
use serde::Serialize;

use crate::escape::{escape_control, escape_from};
use crate::time::Rfc3339;

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// `2026-01-15T10:30:00.000000Z INFO  target: message`
    Text,
    /// `{"time", "level", "target", "message"}`
    Json,
}

impl LogFormat {
    /// A line of this form, without its end. For what is written in the form of the log without being of it.
    pub fn line<'a>(self, level: Level, target: &'a str, message: &'a dyn fmt::Display) -> impl fmt::Display {
        Line { format: self, level, target, message }
    }

    /// Appends a line of this form with its end.
    pub(super) fn write(self, line: &mut String, level: Level, target: &str, message: fmt::Arguments<'_>) {
        // An error is that of a value which cannot be formatted: what there is of the line is written.
        let _ = match self {
            Self::Text => {
                line.push_str(Rfc3339::new(Utc::now()).as_str());
                let _ = write!(line, " {level:5} {target}: ");
                let start = line.len();
                let written = line.write_fmt(message);
                escape_from(line, start);
                written
            }
            Self::Json => write!(line, "{}", self.line(level, target, &message)),
        };
        line.push('\n');
    }

    /// No lines yet, of that level and target.
    pub fn block(self, level: Level, target: &'static str) -> Block {
        Block { format: self, level, target, start: String::new(), lines: Vec::new() }
    }
}

/// Lines of one level and target that are written together: all have the time of the first, and each costs
/// hardly more than its bytes.
#[derive(Debug)]
pub struct Block {
    format: LogFormat,
    level: Level,
    target: &'static str,
    /// What all lines of the block start with.
    start: String,
    lines: Vec<u8>,
}

impl Block {
    /// Adds a line.
    pub fn push(&mut self, message: &str) {
        if self.lines.is_empty() {
            self.begin();
        }
        self.lines.extend_from_slice(self.start.as_bytes());
        match self.format {
            LogFormat::Text => self.lines.extend_from_slice(escape_control(message).as_bytes()),
            LogFormat::Json => {
                // A string always serialises, and memory takes it.
                let _ = serde_json::to_writer(&mut self.lines, message);
                self.lines.push(b'}');
            }
        }
        self.lines.push(b'\n');
    }

    /// Whether it has no lines.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Takes the lines, each with its end.
    pub fn take(&mut self) -> Vec<u8> {
        let capacity = self.lines.len();
        std::mem::replace(&mut self.lines, Vec::with_capacity(capacity))
    }

    fn begin(&mut self) {
        let Self { level, target, .. } = self;
        let time = Rfc3339::new(Utc::now());
        let time = time.as_str();
        self.start = match self.format {
            LogFormat::Text => format!("{time} {level:5} {target}: "),
            // A path of modules has nothing to escape.
            LogFormat::Json => {
                format!(r#"{{"time":"{time}","level":"{level}","target":"{target}","message":"#)
            }
        };
    }
}

struct Line<'a> {
    format: LogFormat,
    level: Level,
    target: &'a str,
    message: &'a dyn fmt::Display,
}

#[derive(Serialize)]
struct JsonLine<'a> {
    time: &'a str,
    level: &'a str,
    target: &'a str,
    message: fmt::Arguments<'a>,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { format, level, target, message } = self;
        let time = Rfc3339::new(Utc::now());
        match format {
            LogFormat::Text => {
                write!(f, "{} {level:5} {target}: ", time.as_str())?;
                write!(Escaping(f), "{message}")
            }
            LogFormat::Json => {
                let message = format_args!("{message}");
                let line = JsonLine { time: time.as_str(), level: level.as_str(), target, message };
                f.write_str(&serde_json::to_string(&line).map_err(|_| fmt::Error)?)
            }
        }
    }
}

/// Escapes what is written through it.
struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write_str(&escape_control(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_goes_past_fern_is_the_same() {
        for format in [LogFormat::Text, LogFormat::Json] {
            for message in ["POST /tasks 201 0.4 ms", "Größe", "a\nb\u{1b}[2J \u{2028}", ""] {
                for level in [Level::Error, Level::Warn, Level::Info, Level::Debug] {
                    let mut line = "before\n".to_owned();
                    format.write(&mut line, level, "task_api::http", format_args!("{message}"));
                    let by_fern = format.line(level, "task_api::http", &message).to_string();
                    let without_time = |line: &str| {
                        let (before, after) = line.split_once("Z").unwrap();
                        (before.len(), after.to_owned())
                    };
                    let line = line.strip_prefix("before\n").unwrap().strip_suffix('\n').unwrap();
                    assert_eq!(without_time(line), without_time(&by_fern));
                }
            }
        }
    }

    #[test]
    fn a_line_has_the_form_that_was_asked_for() {
        let line = LogFormat::Json.line(Level::Warn, "t", &"a \"b\"\n").to_string();
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((line["level"].as_str(), line["message"].as_str()), (Some("WARN"), Some("a \"b\"\n")));
        let line = LogFormat::Text.line(Level::Info, "t", &format_args!("a{}", '\n')).to_string();
        assert!(line.ends_with("Z INFO  t: a\\n"), "{line}");
    }

    #[test]
    fn lines_of_a_block_are_those_of_the_log() {
        const TIME: usize = "2026-01-15T10:30:00.000000Z".len();
        let messages = ["plain", "Größe \u{1b}[2J\n\t", "a \"b\" \\ \u{2028}", ""];
        for (format, start) in [(LogFormat::Text, 0), (LogFormat::Json, r#"{"time":""#.len())] {
            let mut block = format.block(Level::Warn, "a::b");
            messages.iter().for_each(|message| block.push(message));
            let lines = String::from_utf8(block.take()).unwrap();
            assert!(block.is_empty() && lines.ends_with('\n'));
            for (line, message) in lines.lines().zip(messages) {
                let alone = format.line(Level::Warn, "a::b", &message).to_string();
                assert_eq!(line[..start], alone[..start]);
                assert_eq!(line[start + TIME..], alone[start + TIME..]);
            }
            assert_eq!(lines.lines().count(), messages.len());
        }
    }
}
