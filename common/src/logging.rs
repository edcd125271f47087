//! Log lines on stdout: text for people, JSON for machines.
//!
//! Logging never blocks, and nothing that happens to stdout or stderr ends the process: lines go through
//! [`output`](crate::output), which drops and counts what nobody reads.

use std::cell::Cell;
use std::fmt::{self, Write};
use std::io;
use std::os::fd::AsFd;
use std::panic::{self, PanicHookInfo};
use std::sync::OnceLock;
use std::time::Duration;

use chrono::Utc;
use log::{Level, LevelFilter, Log, Metadata, Record};
use serde::Serialize;

use crate::config::LogArgs;
use crate::metrics::Text;
use crate::output::{Dropped, Output, write_within};
use crate::time::Rfc3339;

/// Time for the last lines of a process that ends.
const LAST_LINES: Duration = Duration::from_millis(300);
/// Time for a line on stderr.
const STDERR_LIMIT: Duration = Duration::from_millis(500);

/// What writes stdout, once something is written.
static STDOUT: OnceLock<Output> = OnceLock::new();
/// The form of log lines, once [`init`] has started logging.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

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
    fn write(self, line: &mut String, level: Level, target: &str, message: fmt::Arguments<'_>) {
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

/// Logs a line for each message, all at once: what [`log::log!`] does for each alone would cost more than most
/// of what there is to log about an event.
pub fn log_all<'a>(level: Level, target: &'static str, messages: impl Iterator<Item = &'a str>) {
    if level > log::max_level()
        || !log::logger().enabled(&Metadata::builder().level(level).target(target).build())
    {
        return;
    }
    let (Some(output), Some(format)) = (STDOUT.get(), FORMAT.get()) else {
        // Another logger than this module's.
        return messages.for_each(|message| log::log!(target: target, level, "{message}"));
    };
    let mut block = format.block(level, target);
    messages.for_each(|message| block.push(message));
    output.log_lines(&block.take());
}

/// Waits, when it is dropped, for the last lines to be written, though not for long.
#[derive(Debug)]
#[must_use = "the last lines of the process are lost without it"]
pub struct LastLines(());

impl Drop for LastLines {
    fn drop(&mut self) {
        flush();
    }
}

/// Starts logging. To be called once, before anything logs. What it returns is to be kept until `main` ends.
pub fn init(args: &LogArgs) -> Result<LastLines, fern::InitError> {
    let format = args.log_format;
    fern::Dispatch::new()
        .level(args.log_level)
        // What the HTTP and DNS layers say at debug drowns our own lines.
        .level_for("actix_server", args.log_level.min(LevelFilter::Warn))
        .level_for("actix_http", http_level(args.log_level))
        .level_for("mio", args.log_level.min(LevelFilter::Warn))
        // rskafka logs each error that it also returns, and we say what it means.
        .level_for(
            "rskafka",
            if args.log_level == LevelFilter::Trace { LevelFilter::Trace } else { LevelFilter::Off },
        )
        .format(move |out, message, record| {
            let level = capped(record.level(), record.target());
            out.finish(format_args!("{}", format.line(level, record.target(), message)))
        })
        .chain(Box::new(Lines(stdout(format)?)) as Box<dyn Log>)
        .apply()?;
    // The first call only: a second one has failed above.
    let _ = FORMAT.set(format);
    panic::set_hook(Box::new(log_panic));
    Ok(LastLines(()))
}

/// Logs a line of this project's own that comes with each request or event: what `log!` writes, without the way
/// through fern. Formatted once, and not at all where the level is off.
pub fn line(level: Level, target: &str, message: fmt::Arguments<'_>) {
    // The levels that `init` sets below the global one are those of other crates.
    if level > log::max_level() {
        return;
    }
    match (STDOUT.get(), FORMAT.get()) {
        (Some(output), Some(format)) => with_line(|line| {
            format.write(line, level, target, message);
            output.log(line.as_bytes());
        }),
        // Another logger, as in a test.
        _ => log::log!(target: target, level, "{message}"),
    }
}

/// What is taken from actix_http: its errors are those of clients, any of which could fill the log with them.
/// They are debugging aids, and nothing below them is wanted.
fn http_level(level: LevelFilter) -> LevelFilter {
    if level < LevelFilter::Debug { LevelFilter::Off } else { LevelFilter::Warn }
}

/// The level that a line is written with.
fn capped(level: Level, target: &str) -> Level {
    if target.starts_with("actix_http") { level.max(Level::Debug) } else { level }
}

/// What writes stdout, for output beside the log; started if it is not there yet. Everything that a process
/// writes to stdout goes through it, so that no two lines mix.
pub fn stdout(format: LogFormat) -> io::Result<Output> {
    if let Some(output) = STDOUT.get() {
        return Ok(output.clone());
    }
    let notice = move |dropped: &Dropped| format!("{}\n", format.line(Level::Warn, module_path!(), dropped));
    let output = Output::start(io::stdout().as_fd().try_clone_to_owned()?, "stdout", notice)?;
    Ok(STDOUT.get_or_init(|| output).clone())
}

/// Adds what logging counts to a process's metrics.
pub fn render_metrics(text: &mut Text) {
    text.single(
        "log_lines_dropped_total",
        "counter",
        "Log lines that stdout did not take, since the process started",
        STDOUT.get().map_or(0, Output::dropped),
    );
}

/// Waits for the log lines so far to be written, though not for long. False if they are not.
pub fn flush() -> bool {
    STDOUT.get().is_none_or(|output| output.flush(LAST_LINES))
}

/// Fern's way into the output.
struct Lines(Output);

thread_local! {
    /// The memory of the last line: a line then costs no allocation.
    static LAST_LINE: Cell<String> = const { Cell::new(String::new()) };
}

/// Lends an empty line.
fn with_line(use_it: impl FnOnce(&mut String)) {
    // Another one where a value logs while it is formatted, or while its thread ends.
    let mut line = LAST_LINE.try_with(Cell::take).unwrap_or_default();
    line.clear();
    use_it(&mut line);
    let _ = LAST_LINE.try_with(|last| last.set(line));
}

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        with_line(|line| {
            // An error is that of a value which cannot be formatted: what there is of the line is written.
            let _ = writeln!(line, "{}", record.args());
            self.0.log(line.as_bytes());
        });
    }

    fn flush(&self) {
        flush();
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

/// Escapes control characters, so that a title cannot forge a log line or drive a terminal.
pub fn escape_control(text: &str) -> std::borrow::Cow<'_, str> {
    if !has_control(text) {
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

/// Escapes what was appended to a line.
fn escape_from(line: &mut String, start: usize) {
    let appended = line.get(start..).unwrap_or_default();
    if has_control(appended) {
        let escaped = escape_control(appended).into_owned();
        line.truncate(start);
        line.push_str(&escaped);
    }
}

fn has_control(text: &str) -> bool {
    // Printable ASCII, as nearly all of it is, is seen to be that many bytes at once.
    let is_plain = text.bytes().fold(true, |plain, byte| plain & (b' '..0x7f).contains(&byte));
    !is_plain && text.contains(is_control)
}

/// Control characters, and the marks that end a line or change its direction in a terminal.
pub fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Ends the process with one line on stderr. The single way out of a binary whose start failed.
pub fn exit_with(error: impl fmt::Display) -> ! {
    exit_saying(&format!("error: {error}"), 1)
}

/// Ends the process with that line on stderr and that exit code, whoever reads stderr, or does not.
pub fn exit_saying(line: &str, code: i32) -> ! {
    flush();
    to_stderr(line);
    std::process::exit(code)
}

/// Writes a line to stderr, if that is taken within a moment.
pub fn to_stderr(line: &str) {
    // Nobody is left to be told of a stderr that nobody reads.
    let _ =
        write_within(io::stderr().as_fd(), format!("{}\n", escape_control(line)).as_bytes(), STDERR_LIMIT);
}

/// One log line for a panic. Where that is not written, the same on stderr: an abort may follow.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("no message");
    let line = format!("thread {} panicked at {place}: {message}", thread.name().unwrap_or("without a name"));
    log::error!("{line}");
    if !log::log_enabled!(Level::Error) || !flush() {
        to_stderr(&format!("error: {line}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_do_wrong_is_no_error_of_ours() {
        assert_eq!(http_level(LevelFilter::Info), LevelFilter::Off);
        assert_eq!(http_level(LevelFilter::Debug), LevelFilter::Warn);
        assert_eq!(capped(Level::Error, "actix_http::h1::dispatcher"), Level::Debug);
        assert_eq!(capped(Level::Error, "task_api::store"), Level::Error);
    }

    #[test]
    fn a_title_cannot_forge_a_line() {
        assert_eq!(escape_control("a\nb\u{1b}[2J"), "a\\nb\\u{1b}[2J");
        assert_eq!(escape_control("Größe – ok"), "Größe – ok");
        assert_eq!(escape_control("\u{202e}x\u{2028}"), "\\u{202e}x\\u{2028}");
    }

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
