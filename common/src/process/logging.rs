//! Log lines on stdout: text for people, JSON for machines.
//!
//! Logging never blocks, and nothing that happens to stdout or stderr ends the process: lines go through
//! [`output`](super::output), which drops and counts what nobody reads.

use crate::error_code::Code;
use std::cell::Cell;
use std::fmt::{self, Write};
use std::io;
use std::os::fd::AsFd;
use std::panic::{self, PanicHookInfo};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::config::LogArgs;
use super::log_fields::of_record;
use super::metrics::Text;
use super::output::{Dropped, Output};
use super::stderr::to_stderr;

pub use super::log_fields::{CORRELATION_ID, Field, FieldValue};
pub use super::log_levels::LogLevels;
pub use super::log_line::{Block, LogFormat};

/// Time for the last lines of a process that ends; where stdout is known to take none, or what ends is not to wait, the second.
const LAST_LINES: Duration = Duration::from_secs(2);
const LAST_LINES_BRIEF: Duration = Duration::from_millis(300);
/// From its begin on a stop has 5 s, its last lines included.
const STOP: Duration = Duration::from_millis(4_900);
/// When the process was asked to stop, if it was.
static STOP_BEGAN: OnceLock<Instant> = OnceLock::new();
/// What writes stdout, once something is written.
static STDOUT: OnceLock<Output> = OnceLock::new();
/// The form of log lines, once [`init`] has started logging.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();
/// Which lines are logged, from then on.
static LEVELS: OnceLock<LogLevels> = OnceLock::new();

/// Logs a line for each message with its fields, all at once: what [`log::log!`] does for each alone would cost
/// more than most of what there is to log about an event.
pub fn log_all<'a, const N: usize>(
    level: Level,
    target: &'static str,
    lines: impl Iterator<Item = (&'a str, [Field<'a>; N])>,
) {
    if level > log::max_level()
        || !log::logger().enabled(&Metadata::builder().level(level).target(target).build())
    {
        return;
    }
    let (Some(output), Some(format)) = (STDOUT.get(), FORMAT.get()) else {
        // Another logger than this module's.
        return lines.for_each(|(message, _)| log::log!(target: target, level, "{message}"));
    };
    let mut block = format.block(level, target);
    lines.for_each(|(message, fields)| block.push(message, &fields));
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
    let level = args.log_level.default;
    let mut dispatch = fern::Dispatch::new()
        .level(level)
        // What the HTTP and DNS layers say at debug drowns our own lines.
        .level_for("actix_server", level.min(LevelFilter::Warn))
        .level_for("actix_http", http_level(level))
        .level_for("mio", level.min(LevelFilter::Warn))
        // rskafka logs each error that it also returns, and we say what it means.
        .level_for(
            "rskafka",
            if level == LevelFilter::Trace { LevelFilter::Trace } else { LevelFilter::Off },
        );
    // The last that is given for a target counts.
    for (target, level) in &args.log_level.targets {
        dispatch = dispatch.level_for(target.clone(), *level);
    }
    dispatch
        .format(move |out, message, record| {
            let level = capped(record.level(), record.target());
            let fields = of_record(record);
            out.finish(format_args!("{}", format.line_with(level, record.target(), &fields, message)))
        })
        .chain(Box::new(Lines(stdout(format)?)) as Box<dyn Log>)
        .apply()?;
    // The first call only: a second one has failed above.
    let _ = (FORMAT.set(format), LEVELS.set(args.log_level.clone()));
    panic::set_hook(Box::new(log_panic));
    Ok(LastLines(()))
}

/// Logs a line of this project's own that comes with each request or event: what `log!` writes, without the way
/// through fern. Formatted once, and not at all where the level is off.
pub fn line(level: Level, target: &str, fields: &[Field<'_>], message: fmt::Arguments<'_>) {
    // The levels that `init` itself sets for targets are those of other crates.
    if level > log::max_level() || LEVELS.get().is_some_and(|levels| !levels.allow(level, target)) {
        return;
    }
    match (STDOUT.get(), FORMAT.get()) {
        (Some(output), Some(format)) => with_line(|line| {
            format.write(line, level, target, fields, message);
            match level {
                // What somebody looks for.
                Level::Error | Level::Warn => output.log(line.as_bytes()),
                _ => output.log_lines(line.as_bytes()),
            }
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
        "Log lines that stdout did not take.",
        STDOUT.get().map_or(0, Output::dropped),
    );
}

/// Waits for the log lines so far to be written, though not for long. False if they are not.
pub fn flush() -> bool {
    flush_within(last_lines(STOP_BEGAN.get().map(Instant::elapsed)))
}

/// The same where nothing is to be waited for that can be helped.
pub(super) fn flush_briefly() -> bool {
    flush_within(LAST_LINES_BRIEF)
}

fn flush_within(limit: Duration) -> bool {
    STDOUT.get().is_none_or(|output| output.flush_unless_hindered(limit, LAST_LINES_BRIEF))
}

/// The time for last lines so long after the stop began, if it did.
fn last_lines(stopping: Option<Duration>) -> Duration {
    stopping.map_or(LAST_LINES, |since| STOP.saturating_sub(since).clamp(LAST_LINES_BRIEF, LAST_LINES))
}

/// The process was asked to stop: what it says last is to be within the time of a stop.
pub(super) fn stop_begins() {
    STOP_BEGAN.get_or_init(Instant::now);
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

/// One log line for a panic. Where that is not written, the same on stderr: an abort may follow.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("no message");
    let line = format!("thread {} panicked at {place}: {message}", thread.name().unwrap_or("without a name"));
    log::error!("{line} {}", Code::Panic);
    if !log::log_enabled!(Level::Error) || !flush_briefly() {
        to_stderr(&format!("error: {line} {}", Code::Panic));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_leave_a_stop_its_time() {
        let after = |ms| last_lines(Some(Duration::from_millis(ms)));
        assert_eq!((last_lines(None), after(0), after(2_900)), (LAST_LINES, LAST_LINES, LAST_LINES));
        assert_eq!((after(4_300), after(60_000)), (Duration::from_millis(600), LAST_LINES_BRIEF));
    }

    #[test]
    fn what_clients_do_wrong_is_no_error_of_ours() {
        assert_eq!(http_level(LevelFilter::Info), LevelFilter::Off);
        assert_eq!(http_level(LevelFilter::Debug), LevelFilter::Warn);
        assert_eq!(capped(Level::Error, "actix_http::h1::dispatcher"), Level::Debug);
        assert_eq!(capped(Level::Error, "task_api::store"), Level::Error);
    }
}
