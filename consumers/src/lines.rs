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
    /// The last lines were not taken in time, and something hindered that.
    is_hindered: bool,
}

impl Lines {
    /// None yet, of that level and target.
    pub fn new(sink: Sink, level: Level, target: &'static str) -> Self {
        let batch = sink.format.block(level, target);
        Self { sink, batch, writing: None, is_hindered: false }
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
        // A reader that is gone is not waited for with each batch. One write that takes long is no such reader.
        let is_gone = self.is_hindered && self.sink.trouble().is_some();
        let limit = if is_gone { Duration::ZERO } else { self.sink.write_timeout };
        let written = spawn_blocking(move || output.flush(limit)).await.unwrap_or(false);
        self.is_hindered = !written && self.sink.trouble().is_some();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, pipe};
    use std::thread;

    use super::*;

    const SOON: Duration = Duration::from_secs(60);

    #[tokio::test(flavor = "multi_thread")]
    async fn once_somebody_reads_again_each_batch_waits_for_its_lines() {
        let (mut reader, writer) = pipe().unwrap();
        let output = Output::start(writer.into(), "stdout", |dropped| format!("{dropped}\n")).unwrap();
        let sink = Sink { output, format: LogFormat::Text, write_timeout: Duration::from_millis(300) };
        let mut lines = Lines::new(sink, Level::Info, "test");
        while !lines.is_hindered {
            (0..1_000).for_each(|_| lines.push(&"x".repeat(100), &[]));
            lines.flush_or_log().await;
        }
        thread::spawn(move || reader.read_to_end(&mut Vec::new()));
        lines.sink.write_timeout = SOON;
        while lines.sink.trouble().is_some() {
            thread::yield_now();
        }
        for number in 0..5 {
            lines.push("a line", &[]);
            lines.flush_or_log().await;
            assert!(lines.sink.output.flush(Duration::ZERO), "batch {number} is written");
        }
    }
}
