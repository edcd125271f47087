//! What is shown: the logs of all children side by side, and between them what run-all itself says.
//!
//! Whoever reads it, or does not (`cargo run-all | less`), holds up nothing: lines that are not taken are dropped.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};

use task_events::escape::escape_control;
use task_events::logging::{self, LogFormat};
use task_events::output::Output;
use task_events::services::NOTIFICATION;
use task_events::stderr::to_stderr;

/// Width of the names in front of the lines.
const NAME_WIDTH: usize = NOTIFICATION.len();

/// A colour of a name: its number among the foreground colours of a terminal.
pub type Colour = u8;

/// The screen.
#[derive(Debug)]
pub struct Screen {
    output: Output,
    colours: bool,
    /// Lines that wait until the tour is over.
    held: Mutex<Option<Vec<LogLine>>>,
}

#[derive(Debug)]
struct LogLine {
    name: &'static str,
    colour: Colour,
    line: String,
}

impl Screen {
    /// In colours, unless stdout is no terminal or NO_COLOR is set.
    pub fn new() -> io::Result<Self> {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let colours = wanted && io::stdout().is_terminal();
        Ok(Self { output: logging::stdout(LogFormat::Text)?, colours, held: Mutex::new(None) })
    }

    /// Shows a line of a child's log, now or when the tour is over.
    pub fn log(&self, name: &'static str, colour: Colour, line: String) {
        let line = LogLine { name, colour, line };
        match self.held().as_mut() {
            Some(held) => held.push(line),
            None => self.show(&line),
        }
    }

    /// Shows what run-all itself has to say.
    pub fn say(&self, text: &str) {
        self.print(&format!("{text}\n"));
    }

    /// Shows a heading.
    pub fn heading(&self, text: &str) {
        let (bold, plain) = if self.colours { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        self.print(&format!("\n{bold}{text}{plain}\n"));
    }

    /// Shows an error on stderr.
    pub fn error(&self, text: &str) {
        to_stderr(&format!("error: {text}"));
    }

    /// Keeps the logs back from now on.
    pub fn hold(&self) {
        self.held().get_or_insert_default();
    }

    /// Shows what was kept back, and again everything as it comes.
    pub fn release(&self) {
        for line in self.held().take().unwrap_or_default() {
            self.show(&line);
        }
    }

    /// The lines of a child that are kept back.
    pub fn held_lines(&self, name: &str) -> Vec<String> {
        let held = self.held();
        let lines = held.iter().flatten().filter(|line| line.name == name);
        lines.map(|line| line.line.clone()).collect()
    }

    fn show(&self, LogLine { name, colour, line }: &LogLine) {
        let name = format!("{name:NAME_WIDTH$}");
        let line = escape_control(line);
        if self.colours {
            self.print(&format!("\x1b[{colour}m{name} |\x1b[0m {line}\n"));
        } else {
            self.print(&format!("{name} | {line}\n"));
        }
    }

    fn print(&self, text: &str) {
        self.output.log(text.as_bytes());
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<Vec<LogLine>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
