//! One thread writes the log for all partitions, so that a disk that hangs holds up no other thread.
//!
//! Flushes that wait are written together, with one sync (group commit). Each gets its own result.
//! One that nobody waits for any more, since its partition has another owner or the service stops, is left
//! out: after a disk has hung, only the write that hung in the kernel can still come through.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use task_events::dedup::{Dedup, DedupError};
use task_events::error_code::Code;
use task_events::kafka::Position;
use tokio::sync::{oneshot, watch};

use super::AuditError;
use super::file::{Files, MAX_UNSYNCED};
use super::journal::{Journal, JournalError, Progress};
use super::limits::Limits;
use super::pending::{Part, Pending};
use super::tree::{Commits, Tree};

/// How long a change by another hand may go unnoticed while nothing is written.
const IDLE: Duration = Duration::from_secs(1);
/// A problem that stays is logged again after this time.
const LOG_AGAIN: Duration = Duration::from_secs(30);
/// Commands that wait: each partition has one, and a few more whose senders have gone while the disk hung.
const QUEUE: usize = 4_096;

/// The writer of a log. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    commands: SyncSender<Command>,
    generation: watch::Receiver<u64>,
    trouble: watch::Receiver<Option<String>>,
    index: Dedup,
    commits: Option<Commits>,
}

/// Why a flush was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum FlushError {
    /// It may be tried again.
    #[error("{0}")]
    Failed(String),
    /// Lines are gone: the handler has to be opened again, and reading to start where it then says.
    #[error("lines of the audit log are missing: reading again from where it ends")]
    Reread,
    #[error("the writer of the audit log has ended")]
    Ended,
}

/// A partition of the log, as it is opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opened {
    /// Where reading goes on, if there is anything of it.
    pub(super) position: Option<Position>,
    /// Rises when lines are found to be gone.
    pub(super) generation: u64,
}

#[derive(Debug)]
enum Command {
    Open {
        topic: String,
        partition: i32,
        reply: oneshot::Sender<Opened>,
    },
    Flush(Flush),
    Rotate,
    Checkpoint {
        reply: oneshot::Sender<Result<(), DedupError>>,
    },
    /// Ends the thread, and closes the log.
    #[cfg(test)]
    Close {
        reply: oneshot::Sender<()>,
    },
}

#[derive(Debug)]
struct Flush {
    lines: Arc<Pending>,
    progress: Progress,
    generation: u64,
    reply: oneshot::Sender<Result<u64, FlushError>>,
}

impl Writer {
    /// Opens the log, and starts its thread. Blocks.
    pub(super) fn start<F: Files>(
        files: F,
        path: &Path,
        index_path: &Path,
        limits: Limits,
        tree: Option<Tree>,
    ) -> Result<Self, AuditError> {
        let journal = Journal::open(files, path, index_path)?.with_limits(limits);
        let commits = tree.as_ref().map(Tree::commits);
        let journal = journal.with_tree(tree);
        let index = journal.index().clone();
        let (commands, queue) = mpsc::sync_channel(QUEUE);
        let (generation, generation_seen) = watch::channel(0);
        let (trouble, trouble_seen) = watch::channel(None);
        let (logged, sealing_failed, next, tree_is_behind) = Default::default();
        let worker = Worker { journal, generation, trouble, logged, sealing_failed, next, tree_is_behind };
        thread::Builder::new()
            .name("audit-log".to_owned())
            .spawn(move || worker.run(&queue))
            .map_err(|source| AuditError::Recover { path: path.to_owned(), source })?;
        Ok(Self { commands, generation: generation_seen, trouble: trouble_seen, index, commits })
    }

    pub(super) fn index(&self) -> &Dedup {
        &self.index
    }

    /// What commits carry of the tree over the log's lines, if there is one.
    pub(super) fn commits(&self) -> Option<&Commits> {
        self.commits.as_ref()
    }

    /// What the last look found wrong with the log, while nothing was written.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// Rises when lines are found to be gone.
    pub(super) fn generation(&self) -> watch::Receiver<u64> {
        self.generation.clone()
    }

    pub(super) async fn open(&self, topic: &str, partition: i32) -> Result<Opened, FlushError> {
        self.ask(|reply| Command::Open { topic: topic.to_owned(), partition, reply }).await
    }

    /// Returns when the lines are on disk and their ids in the index, and the progress with them: how many
    /// were written, the others being there before.
    pub(super) async fn flush(
        &self,
        lines: Arc<Pending>,
        progress: Progress,
        generation: u64,
    ) -> Result<u64, FlushError> {
        self.ask(|reply| Command::Flush(Flush { lines, progress, generation, reply })).await?
    }

    /// Seals the file and begins a new one, after what waits to be written.
    pub(super) fn rotate(&self) -> Result<(), FlushError> {
        self.send(Command::Rotate)
    }

    /// Makes the whole index durable. Blocks.
    pub(super) fn checkpoint(&self) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Checkpoint { reply }).map_err(|error| error.to_string())?;
        let done = answer.blocking_recv().map_err(|_| FlushError::Ended.to_string())?;
        done.map_err(|error| error.to_string())
    }

    /// Ends the writer. The log is closed, and not locked any more, when this returns.
    #[cfg(test)]
    pub(super) async fn close(&self) -> Result<(), FlushError> {
        self.ask(|reply| Command::Close { reply }).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, FlushError> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply))?;
        answer.await.map_err(|_| FlushError::Ended)
    }

    fn send(&self, command: Command) -> Result<(), FlushError> {
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::TrySendError::Full(_) => FlushError::Failed("the audit log has too much to do".to_owned()),
            mpsc::TrySendError::Disconnected(_) => FlushError::Ended,
        })
    }
}

/// What the thread works with.
struct Worker<F: Files> {
    journal: Journal<F>,
    generation: watch::Sender<u64>,
    trouble: watch::Sender<Option<String>>,
    /// What was logged last of a problem that stays, and when.
    logged: Option<(String, Instant)>,
    /// When the log was not sealed though it was time.
    sealing_failed: Option<Instant>,
    /// What was taken from the queue and is not done yet.
    next: Option<Command>,
    /// The tree has more steps to do, between the commands.
    tree_is_behind: bool,
}

impl<F: Files> Worker<F> {
    fn run(mut self, queue: &Receiver<Command>) {
        loop {
            let command = match self.next.take() {
                Some(command) => command,
                None => match queue.recv_timeout(if self.tree_is_behind { Duration::ZERO } else { IDLE }) {
                    Ok(command) => command,
                    Err(RecvTimeoutError::Timeout) => {
                        self.look_after();
                        self.seal_if_due();
                        self.tree_is_behind = self.journal.look_after_tree();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                },
            };
            match command {
                Command::Flush(first) => {
                    let group = self.group(first, queue);
                    self.flush(group);
                    self.seal_if_due();
                    self.tree_is_behind = self.journal.look_after_tree();
                }
                Command::Open { topic, partition, reply } => {
                    self.look_after();
                    let position = self.journal.mark().position(&topic, partition);
                    // Whoever asked may be gone.
                    let _ = reply.send(Opened { position, generation: *self.generation.borrow() });
                }
                Command::Rotate => {
                    let rotated = self.journal.rotate();
                    self.take_note(&rotated);
                    if let Err(error) = rotated {
                        log::error!("{error} {}", Code::AuditLogRotate);
                    }
                }
                Command::Checkpoint { reply } => {
                    let _ = reply.send(self.journal.checkpoint());
                }
                #[cfg(test)]
                Command::Close { reply } => {
                    drop(self);
                    let _ = reply.send(());
                    return;
                }
            }
        }
    }

    /// Notices while nothing is written what another hand did.
    fn look_after(&mut self) {
        let looked = self.journal.check();
        self.take_note(&looked);
        let trouble = looked.err().filter(|error| !matches!(error, JournalError::Reread { .. }));
        let trouble = trouble.map(|error| error.to_string());
        self.trouble.send_if_modified(|known| std::mem::replace(known, trouble.clone()) != trouble);
        let Some(text) = trouble else {
            self.logged = None;
            return;
        };
        if self.logged.as_ref().is_none_or(|(logged, at)| *logged != text || at.elapsed() >= LOG_AGAIN) {
            log::warn!("{text}");
            self.logged = Some((text, Instant::now()));
        }
    }

    /// Seals the log where it is time. What was flushed is done, whatever becomes of this.
    fn seal_if_due(&mut self) {
        if self.trouble.borrow().is_some() || self.sealing_failed.is_some_and(|at| at.elapsed() < LOG_AGAIN) {
            return;
        }
        let sealed = self.journal.seal_if_due();
        self.take_note(&sealed);
        self.sealing_failed = sealed.is_err().then(Instant::now);
        if let Err(error) = sealed {
            log::error!("{error}; it goes on in the same file meanwhile {}", Code::AuditLogRotate);
        }
    }

    /// Where lines are gone, all that was read is void.
    fn take_note<T>(&self, result: &Result<T, JournalError>) {
        if let Err(JournalError::Reread { missing }) = result {
            log::error!("{missing} {}", Code::AuditLinesMissing);
            self.generation.send_modify(|generation| *generation += 1);
        }
    }

    /// The flushes that wait and may be written with one sync. What comes next and is none of them is kept.
    fn group(&mut self, first: Flush, queue: &Receiver<Command>) -> Vec<Flush> {
        let mut bytes = first.lines.bytes();
        let mut group = vec![first];
        while let Ok(command) = queue.try_recv() {
            match command {
                Command::Flush(flush) if bytes + flush.lines.bytes() <= MAX_UNSYNCED => {
                    bytes += flush.lines.bytes();
                    group.push(flush);
                }
                other => {
                    self.next = Some(other);
                    break;
                }
            }
        }
        group
    }

    /// Writes flushes together, and tells each how it ended.
    fn flush(&mut self, mut group: Vec<Flush>) {
        group.retain(|flush| !flush.reply.is_closed());
        let generation = *self.generation.borrow();
        let (group, void): (Vec<_>, Vec<_>) =
            group.into_iter().partition(|flush| flush.generation == generation);
        let written = self.write(&group);
        self.take_note(&written);
        if written.is_ok() {
            self.trouble.send_if_modified(|trouble| trouble.take().is_some());
        }
        let ended = written.map_err(|error| match error {
            JournalError::Reread { .. } => FlushError::Reread,
            error => FlushError::Failed(error.to_string()),
        });
        for flush in void {
            let _ = flush.reply.send(Err(FlushError::Reread));
        }
        match ended {
            Ok(counts) => group.into_iter().zip(counts).for_each(|(flush, count)| {
                let _ = flush.reply.send(Ok(count));
            }),
            Err(error) => group.into_iter().for_each(|flush| {
                let _ = flush.reply.send(Err(error.clone()));
            }),
        }
    }

    /// Returns how many lines of each flush were written. A part that was written before another failed is
    /// known, and not written again, when all is tried again.
    fn write(&mut self, group: &[Flush]) -> Result<Vec<u64>, JournalError> {
        let mut counts = vec![0; group.len()];
        if group.is_empty() {
            return Ok(counts);
        }
        let mut add = |of: &[usize], written: Vec<u64>| {
            for (flush, count) in of.iter().zip(written) {
                counts.get_mut(*flush).into_iter().for_each(|sum| *sum += count);
            }
        };
        let (mut parts, mut of, mut bytes): (Vec<Part<'_>>, Vec<usize>, u64) = Default::default();
        for (number, flush) in group.iter().enumerate() {
            for part in flush.lines.parts(MAX_UNSYNCED) {
                let length = part.bytes().len() as u64;
                if bytes + length > MAX_UNSYNCED && !parts.is_empty() {
                    add(&of, self.journal.append(&parts, &[])?);
                    (parts, of, bytes) = Default::default();
                    if group.iter().all(|flush| flush.reply.is_closed()) {
                        return Ok(counts);
                    }
                }
                parts.push(part);
                of.push(number);
                bytes += length;
            }
        }
        let progress: Vec<&Progress> = group.iter().map(|flush| &flush.progress).collect();
        add(&of, self.journal.append(&parts, &progress)?);
        Ok(counts)
    }
}
