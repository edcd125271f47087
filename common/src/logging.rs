//! Log lines on stdout: text for people, JSON for machines.

use std::io::{self, Write};

use chrono::Utc;
use log::{LevelFilter, Record};
use serde::Serialize;

use crate::config::LogArgs;
use crate::event::format_time;

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// `2026-01-15T10:30:00.000000Z INFO  target: message`
    Text,
    /// `{"time", "level", "target", "message"}`
    Json,
}

#[derive(Serialize)]
struct JsonLine<'a> {
    time: String,
    level: &'a str,
    target: &'a str,
    message: String,
}

/// Starts logging. To be called once, before anything logs.
pub fn init(args: &LogArgs) -> Result<(), fern::InitError> {
    let format = args.log_format;
    fern::Dispatch::new()
        .level(args.log_level)
        // What the HTTP and DNS layers say at debug drowns our own lines.
        .level_for("actix_server", args.log_level.min(LevelFilter::Warn))
        .level_for("actix_http", args.log_level.min(LevelFilter::Warn))
        .level_for("mio", args.log_level.min(LevelFilter::Warn))
        // rskafka logs each error that it also returns, and we say what it means.
        .level_for(
            "rskafka",
            if args.log_level == LevelFilter::Trace { LevelFilter::Trace } else { LevelFilter::Off },
        )
        .format(move |out, message, record| match format {
            LogFormat::Text => out.finish(format_args!("{}", text_line(&message.to_string(), record))),
            LogFormat::Json => out.finish(format_args!("{}", json_line(message.to_string(), record))),
        })
        .chain(io::stdout())
        .apply()?;
    Ok(())
}

fn text_line(message: &str, record: &Record<'_>) -> String {
    let target = record.target();
    format!("{} {:5} {target}: {}", format_time(Utc::now()), record.level(), escape_control(message))
}

fn json_line(message: String, record: &Record<'_>) -> String {
    let line = JsonLine {
        time: format_time(Utc::now()),
        level: record.level().as_str(),
        target: record.target(),
        message,
    };
    // Strings always serialise; the fallback keeps the message all the same.
    serde_json::to_string(&line).unwrap_or(line.message)
}

/// Escapes control characters, so that a title cannot forge a log line or drive a terminal.
pub fn escape_control(text: &str) -> std::borrow::Cow<'_, str> {
    if !text.contains(is_control) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_control(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped.into()
}

/// Control characters, and the marks that end a line or change its direction in a terminal.
pub fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Ends the process with one line on stderr. The single way out of a binary whose start failed.
pub fn exit_with(error: impl std::fmt::Display) -> ! {
    let _ = writeln!(io::stderr(), "error: {}", escape_control(&error.to_string()));
    std::process::exit(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_cannot_forge_a_line() {
        assert_eq!(escape_control("a\nb\u{1b}[2J"), "a\\nb\\u{1b}[2J");
        assert_eq!(escape_control("Größe – ok"), "Größe – ok");
        assert_eq!(escape_control("\u{202e}x\u{2028}"), "\\u{202e}x\\u{2028}");
    }

    #[test]
    fn a_json_line_is_one_json_object() {
        let record = Record::builder().level(log::Level::Warn).target("t").build();
        let line: serde_json::Value =
            serde_json::from_str(&json_line("a \"b\"\n".to_owned(), &record)).unwrap();
        assert_eq!((line["level"].as_str(), line["message"].as_str()), (Some("WARN"), Some("a \"b\"\n")));
    }
}
