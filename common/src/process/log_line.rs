//! The form of log lines.

use std::fmt::{self, Write};

use chrono::Utc;
use log::Level;
use serde::Serialize;

use super::log_fields::{Field, code_of, write_json, write_text};
use crate::escape::{escape_control, escape_from};
use crate::time::Rfc3339;

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// `2026-01-15T10:30:00.000000Z INFO  target{correlation_id=…}: message`
    Text,
    /// `{"time", "level", "target", "message"}`, with the line's fields behind
    Json,
}

impl LogFormat {
    /// A line of this form, without its end. For what is written in the form of the log without being of it.
    pub fn line<'a>(self, level: Level, target: &'a str, message: &'a dyn fmt::Display) -> impl fmt::Display {
        self.line_with(level, target, &[], message)
    }

    /// The same, with fields.
    pub(super) fn line_with<'a>(
        self,
        level: Level,
        target: &'a str,
        fields: &'a [Field<'a>],
        message: &'a dyn fmt::Display,
    ) -> impl fmt::Display {
        Line { format: self, level, target, fields, message }
    }

    /// Appends a line of this form with its end.
    pub(super) fn write(
        self,
        line: &mut String,
        level: Level,
        target: &str,
        fields: &[Field<'_>],
        message: fmt::Arguments<'_>,
    ) {
        // An error is that of a value which cannot be formatted: what there is of the line is written.
        let _ = match self {
            Self::Text => {
                write_start(line, level, target);
                write_text(line, fields);
                line.push_str(": ");
                let start = line.len();
                let written = line.write_fmt(message);
                escape_from(line, start);
                written
            }
            Self::Json => write!(line, "{}", self.line_with(level, target, fields, &message)),
        };
        line.push('\n');
    }

    /// No lines yet, of that level and target.
    pub fn block(self, level: Level, target: &'static str) -> Block {
        Block { format: self, level, target, start: String::new(), lines: String::new() }
    }
}

/// What a text line starts with.
fn write_start(line: &mut String, level: Level, target: &str) {
    line.push_str(Rfc3339::new(Utc::now()).as_str());
    // A string takes it.
    let _ = write!(line, " {level:5} {target}");
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
    lines: String,
}

impl Block {
    /// Adds a line.
    pub fn push(&mut self, message: &str, fields: &[Field<'_>]) {
        if self.lines.is_empty() {
            self.begin();
        }
        self.lines.push_str(&self.start);
        match self.format {
            LogFormat::Text => {
                write_text(&mut self.lines, fields);
                self.lines.push_str(": ");
                self.lines.push_str(&escape_control(message));
            }
            LogFormat::Json => {
                // A string always serialises, and memory takes it.
                let _ = serde_json::to_string(message).map(|message| self.lines.push_str(&message));
                let _ = write_json(&mut self.lines, fields);
                self.lines.push('}');
            }
        }
        self.lines.push('\n');
    }

    /// Whether it has no lines.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Takes the lines, each with its end.
    pub fn take(&mut self) -> Vec<u8> {
        let capacity = self.lines.len();
        std::mem::replace(&mut self.lines, String::with_capacity(capacity)).into_bytes()
    }

    fn begin(&mut self) {
        let Self { level, target, start, .. } = self;
        start.clear();
        match self.format {
            LogFormat::Text => write_start(start, *level, target),
            // A path of modules has nothing to escape.
            LogFormat::Json => {
                let time = Rfc3339::new(Utc::now());
                let time = time.as_str();
                *start = format!(r#"{{"time":"{time}","level":"{level}","target":"{target}","message":"#);
            }
        }
    }
}

struct Line<'a> {
    format: LogFormat,
    level: Level,
    target: &'a str,
    fields: &'a [Field<'a>],
    message: &'a dyn fmt::Display,
}

#[derive(Serialize)]
struct JsonLine<'a> {
    time: &'a str,
    level: &'a str,
    target: &'a str,
    message: &'a str,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { format, level, target, fields, message } = self;
        match format {
            LogFormat::Text => {
                let mut start = String::new();
                write_start(&mut start, *level, target);
                write_text(&mut start, fields);
                write!(f, "{start}: ")?;
                write!(Escaping(f), "{message}")
            }
            LogFormat::Json => {
                let (time, message) = (Rfc3339::new(Utc::now()), message.to_string());
                let line = JsonLine { time: time.as_str(), level: level.as_str(), target, message: &message };
                let mut line = serde_json::to_string(&line).map_err(|_| fmt::Error)?;
                line.pop();
                write_json(&mut line, fields)?;
                write_json(&mut line, code_of(&message).as_slice())?;
                line.push('}');
                f.write_str(&line)
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
    use uuid::Uuid;

    use super::super::log_fields::CORRELATION_ID;
    use super::*;

    #[test]
    fn a_line_that_goes_past_fern_is_the_same() {
        for format in [LogFormat::Text, LogFormat::Json] {
            for message in ["POST /tasks 201 0.4 ms", "Größe", "a\nb\u{1b}[2J \u{2028}", ""] {
                for level in [Level::Error, Level::Warn, Level::Info, Level::Debug] {
                    let mut line = "before\n".to_owned();
                    let fields = [Field::new(CORRELATION_ID, Uuid::nil()), Field::new("offset", 7)];
                    format.write(&mut line, level, "task_api::http", &fields, format_args!("{message}"));
                    let by_fern = format.line_with(level, "task_api::http", &fields, &message).to_string();
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
    fn fields_are_json_fields_and_in_text_the_correlation_id_comes_before_the_message() {
        let id = Uuid::from_u128(0xabc);
        let fields = [Field::new(CORRELATION_ID, id), Field::new("topic", "a\n"), Field::new("offset", 7)];
        let line = |format: LogFormat| {
            format.line_with(Level::Error, "t", &fields, &"lost a/0/7 [TE0304]").to_string()
        };
        let text = line(LogFormat::Text);
        assert!(text.ends_with(&format!("Z ERROR t{{correlation_id={id}}}: lost a/0/7 [TE0304]")), "{text}");
        let json: serde_json::Value = serde_json::from_str(&line(LogFormat::Json)).unwrap();
        let field = |name: &str| json[name].as_str().unwrap();
        assert_eq!(field("correlation_id"), id.to_string());
        assert_eq!((field("topic"), json["offset"].as_i64(), field("code")), ("a\n", Some(7), "TE0304"));
    }

    #[test]
    fn lines_of_a_block_are_those_of_the_log() {
        const TIME: usize = "2026-01-15T10:30:00.000000Z".len();
        let messages = ["plain", "Größe \u{1b}[2J\n\t", "a \"b\" \\ \u{2028}", ""];
        for (format, start) in [(LogFormat::Text, 0), (LogFormat::Json, r#"{"time":""#.len())] {
            let mut block = format.block(Level::Warn, "a::b");
            let fields = [Field::new(CORRELATION_ID, Uuid::nil()), Field::new("topic", "a \"b\"")];
            messages.iter().for_each(|message| block.push(message, &fields));
            let lines = String::from_utf8(block.take()).unwrap();
            assert!(block.is_empty() && lines.ends_with('\n'));
            for (line, message) in lines.lines().zip(messages) {
                let alone = format.line_with(Level::Warn, "a::b", &fields, &message).to_string();
                assert_eq!(line[..start], alone[..start]);
                assert_eq!(line[start + TIME..], alone[start + TIME..]);
            }
            assert_eq!(lines.lines().count(), messages.len());
        }
    }
}
