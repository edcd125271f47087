//! Lines on stdout that are a service's work, not its log: notifications, and what the DLQ processor tells.
//!
//! # Invariants
//!
//! - *They have the log's form*, so that one parser reads all of stdout, but no log level hides them.
//! - *A notification is handled once its line is written.* The lines of a batch are written at its flush. While
//!   stdout takes nothing, the flush fails and is tried again with the same lines: none is dropped, and what is
//!   written of them is not written a second time.

use std::io;
use std::time::Duration;

use log::Level;
use task_events::error_code::{Code, Coded};
use task_events::logging::{self, Block, Field, LogFormat};
use task_events::output::{Output, Receipt};
use task_events::runtime::HandlerError;
use tokio::task::spawn_blocking;

/// The longest time for one try to write a batch: soon enough for /readyz to tell of a stdout that nobody
/// reads.
const MAX_WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// Lines cannot be written to stdout.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to stdout: {0}")]
pub struct NoStdout(#[from] io::Error);

impl Coded for NoStdout {
    fn code(&self) -> Code {
        Code::Stdout
    }
}

/// Where the lines are written.
#[derive(Debug, Clone)]
pub struct Sink {
    output: Output,
    format: LogFormat,
    write_timeout: Duration,
}

impl Sink {
    /// Lines of that format. A try to write them ends well within the lease, which is renewed between tries.
    pub fn new(output: Output, format: LogFormat, lease: Duration) -> Self {
        Self { output, format, write_timeout: (lease / 3).min(MAX_WRITE_TIMEOUT) }
    }

    /// The same on stdout.
    pub fn stdout(format: LogFormat, lease: Duration) -> Result<Self, NoStdout> {
        Ok(Self::new(logging::stdout(format)?, format, lease))
    }
}

impl Sink {
    /// Why nothing can be written now, if it cannot.
    pub fn trouble(&self) -> Option<String> {
        self.output.trouble()
    }
}

/// The lines of one partition. Dropped, it withdraws those that are not yet written.
#[derive(Debug)]
pub struct Lines {
    sink: Sink,
    /// Those of the batch in flight.
    batch: Block,
    /// The same once they are being written.
    writing: Option<Receipt>,
    /// Nobody read the last lines in time.
    is_unread: bool,
}

impl Lines {
    /// None yet, of that level and target.
    pub fn new(sink: Sink, level: Level, target: &'static str) -> Self {
        let batch = sink.format.block(level, target);
        Self { sink, batch, writing: None, is_unread: false }
    }

    /// Adds a line to the batch.
    pub fn push(&mut self, text: &str, fields: &[Field<'_>]) {
        self.batch.push(text, fields);
    }

    /// Returns once the lines of the batch are written. After an error it is to be called again.
    pub async fn flush(&mut self) -> Result<(), HandlerError> {
        if !self.batch.is_empty() {
            self.writing = Some(self.sink.output.submit(self.batch.take()));
        }
        if let Some(writing) = &mut self.writing {
            let written = writing.written(self.sink.write_timeout).await;
            written.map_err(|error| HandlerError::new("output", error))?;
            self.writing = None;
        }
        Ok(())
    }

    /// Returns once the lines of the batch are written; where nobody reads them, without them: then they wait
    /// among the log lines, and are dropped and counted as those are.
    pub async fn flush_or_log(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let output = self.sink.output.clone();
        output.log_lines(&self.batch.take());
        // A reader that was gone is not waited for with each batch.
        let limit = if self.is_unread { Duration::ZERO } else { self.sink.write_timeout };
        let written = spawn_blocking(move || output.flush(limit)).await;
        self.is_unread = !written.unwrap_or(false);
    }
}
