//! One thread that writes lines to a descriptor, stdout as a rule, for all others.
//!
//! # Invariants
//!
//! - *No caller is blocked* by who reads, or does not read, the other end: a full pipe, a terminal that is
//!   paused, a full disk, a reader that is gone. An error is never fatal; the write is tried again.
//! - *Lines are whole and in order.* One thread writes; a write ends with a line's end, and is small enough
//!   for a pipe to take it as a whole. What was written in part is continued, never repeated.
//! - *Two kinds of lines.* [`Output::log`] and, where one comes with each request or event,
//!   [`Output::log_lines`]: what waits is bounded; beyond that lines are dropped and counted, and a line tells of
//!   it in their place. [`Output::submit`]: never dropped, and acknowledged once written
//!   ([`Receipt`]); written before log lines that wait.

mod descriptor;
mod lines;
mod queue;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use descriptor::Descriptor;
pub use descriptor::{Hindrance, write_within};
use lines::whole_lines;
pub use queue::{Dropped, Receipt, Unwritten};
use queue::{Queue, Source};

/// How long one look lasts for whether a descriptor takes something.
const LOOK: Duration = Duration::from_millis(250);
/// The pauses between tries of a write that the system refuses: the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// The line that tells of dropped ones.
type Notice = Box<dyn Fn(&Dropped) -> String + Send>;

/// The thread that writes to one descriptor. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Output(Arc<Queue>);

impl Output {
    /// Starts the thread, for as long as the process lives. `name` is the descriptor's in messages; `notice`
    /// makes the line, its end included, that tells of dropped ones.
    pub fn start(
        fd: OwnedFd,
        name: &'static str,
        notice: impl Fn(&Dropped) -> String + Send + 'static,
    ) -> io::Result<Self> {
        let queue = Arc::new(Queue::new(name));
        let writer = Writer {
            queue: Arc::clone(&queue),
            descriptor: Descriptor::new(fd),
            notice: Box::new(notice),
            batch: Batch::default(),
            piece: Vec::new(),
        };
        thread::Builder::new().name(format!("{name}-writer")).spawn(move || writer.run())?;
        Ok(Self(queue))
    }

    /// Writes a line, its end included, at once; or drops it where too many wait.
    pub fn log(&self, line: &[u8]) {
        self.0.log(line, true);
    }

    /// Writes lines, each with its end, that come with each request or event: some milliseconds later, with
    /// those that come meanwhile. Those that there is no space for are dropped.
    pub fn log_lines(&self, lines: &[u8]) {
        self.0.log(lines, false);
    }

    /// Writes these lines, each with its end, as soon as the descriptor takes them and
    /// [`Receipt::written`] is waiting.
    pub fn submit(&self, lines: Vec<u8>) -> Receipt {
        Queue::submit(&self.0, lines)
    }

    /// Waits until all log lines are written, no longer than the limit. False if they are not.
    pub fn flush(&self, limit: Duration) -> bool {
        self.0.flush(limit, limit)
    }

    /// The same with another limit while something hinders the writer: where nothing does, all that the lines lack is
    /// a processor for it.
    pub fn flush_unless_hindered(&self, limit: Duration, hindered_limit: Duration) -> bool {
        self.0.flush(limit, hindered_limit)
    }

    /// Why the descriptor takes nothing now, if it does not.
    pub fn trouble(&self) -> Option<String> {
        self.0.hindrance().map(|hindrance| format!("the output is not taken: {hindrance}"))
    }

    /// How many log lines were dropped.
    pub fn dropped(&self) -> u64 {
        self.0.dropped()
    }
}

/// Log lines that were taken from the queue.
#[derive(Debug, Default)]
struct Batch {
    lines: Vec<u8>,
    /// What is written of them.
    at: usize,
}

impl Batch {
    fn rest(&self) -> &[u8] {
        self.lines.get(self.at..).unwrap_or_default()
    }
}

struct Writer {
    queue: Arc<Queue>,
    descriptor: Descriptor,
    notice: Notice,
    batch: Batch,
    /// What is written next: some whole lines.
    piece: Vec<u8>,
}

impl Writer {
    fn run(mut self) {
        let mut pause = PAUSES.0;
        loop {
            self.queue.wait_for_work(!self.batch.rest().is_empty());
            let written = match self.descriptor.wait_writable(LOOK) {
                Ok(()) => self.next_piece(),
                Err(hindrance) => Err(hindrance),
            };
            match written {
                Ok(()) => pause = PAUSES.0,
                Err(hindrance) => self.hindered(hindrance, &mut pause),
            }
        }
    }

    /// Chooses what is most urgent only when the descriptor takes it, and writes it.
    fn next_piece(&mut self) -> Result<(), Hindrance> {
        let limit = self.descriptor.piece();
        let source = match self.queue.next_submitted(limit, &mut self.piece) {
            Some(id) => Source::Submitted(id),
            None => {
                if self.batch.rest().is_empty() {
                    self.batch.at = 0;
                    self.batch.lines.clear();
                    self.queue.take_log(&mut self.batch.lines, &self.notice);
                }
                self.piece.clear();
                self.piece.extend_from_slice(whole_lines(self.batch.rest(), limit));
                Source::Log
            }
        };
        if self.piece.is_empty() {
            return Ok(());
        }
        let written = self.descriptor.write(&self.piece)?;
        self.queue.progressed();
        self.finish_piece(written);
        if matches!(source, Source::Log) {
            self.batch.at += self.piece.len();
        }
        self.queue.wrote(source, self.piece.len());
        Ok(())
    }

    /// Writes what is left of a piece of which the first bytes are written. There is no way back: nothing
    /// else may come between them.
    fn finish_piece(&self, mut written: usize) {
        let mut pause = PAUSES.0;
        while let Some(rest) = self.piece.get(written..).filter(|rest| !rest.is_empty()) {
            match self.descriptor.wait_writable(LOOK).and_then(|()| self.descriptor.write(rest)) {
                Ok(more) => {
                    written += more;
                    pause = PAUSES.0;
                    self.queue.progressed();
                }
                Err(hindrance) => self.hindered(hindrance, &mut pause),
            }
        }
    }

    fn hindered(&self, hindrance: Hindrance, pause: &mut Duration) {
        self.queue.hindered(hindrance);
        if hindrance != Hindrance::Unread {
            descriptor::pause(*pause);
            *pause = (*pause * 2).min(PAUSES.1);
        }
    }
}
