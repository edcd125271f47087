//! The Merkle tree over the log's lines, beside the log: written by a thread of its own, behind the log's fdatasync.
//!
//! # Invariants
//!
//! 1. *Only durable lines are in the tree*: the journal gives lines to it after their sync, in their order. So an anchor
//!    (size and root) may be committed to Kafka at once, though the tree's own files may lag.
//! 2. *A batch never waits for the tree*: lines that do not fit the queue are forgotten, and read again from the log, between
//!    two batches, once the thread has caught up. A tree that cannot be written stops growing and is reported; the log goes on.
//! 3. *A tree covers one log, from its first line on.* Where the log has not the line that the tree ends with (it was
//!    truncated, replaced, restored), or Kafka has an anchor that the tree does not fit, the tree is set aside whole,
//!    with the time behind its name, and a tree with a new origin begins. Nothing is ever taken out of a tree.
//! 4. *Nothing is signed of a tree that was there before, beyond what was signed, until it is known to fit Kafka's anchor*:
//!    or an old copy that was put back would get a second history under the same origin.
//! 5. *An anchor of another origin is passed on as it is*: no instance judges or removes another's.
//!
//! The format is described in docs/audit-proof.md. There is no tree without a key.

mod anchors;
mod growing;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use audit_tree::Signer;
use serde_json::{Map, Value};
use task_events::error_code::Code;

use self::anchors::Anchors;
use self::growing::{End, Found, Growing};
use super::current::Current;
use super::file::{Files, Lines, Section};
use super::segments::{self, Segment, with_suffix};

/// Batches that wait for the thread, each of 4 MiB at most.
const QUEUE: usize = 8;
/// How long the checkpoint on disk may lag behind the log.
const PUBLISH: Duration = Duration::from_secs(1);
/// A tree that failed is tried again after this time.
const TRY_AGAIN: Duration = Duration::from_secs(30);
/// The longest wait for the thread where the log was changed.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug)]
enum Message {
    /// Lines that are on disk, and where the last of them ends in its file.
    Lines(Vec<u8>, u64),
    /// The file with the last line is sealed.
    Sealed,
    /// Answers when all before it is done.
    Drain(SyncSender<()>),
}

/// The tree of a log. Its thread has ended when this is dropped.
#[derive(Debug)]
pub(super) struct Tree {
    messages: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    signer: Signer,
}

/// Of what a commit kept beside its offset, what the next one passes on: the trees of this log and of others.
pub(super) fn passed_on(mut before: Map<String, Value>) -> Map<String, Value> {
    before.retain(|name, _| name == anchors::TREES);
    before
}

/// What commits carry of a tree. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Commits(Arc<Shared>);

impl Commits {
    /// What a commit of that partition keeps beside its offset, where the last one kept `before`.
    pub(super) fn commit_meta(&self, slot: (&str, i32), before: Map<String, Value>) -> Map<String, Value> {
        lock(&self.0.anchors).commit_meta(slot, before)
    }

    /// Another instance may have owned the partition meanwhile.
    pub(super) fn reopen(&self, slot: (&str, i32)) {
        lock(&self.0.anchors).reopen(slot);
    }

    #[cfg(test)]
    pub(super) fn is_confirmed(&self, slot: (&str, i32)) -> bool {
        lock(&self.0.anchors).is_confirmed(slot)
    }
}

#[derive(Debug, Default)]
struct Shared {
    growing: Mutex<Option<Growing>>,
    anchors: Mutex<Anchors>,
    /// Lines are missing from the tree.
    lags: AtomicBool,
    failed: Mutex<Option<Instant>>,
}

impl Tree {
    /// A tree whose thread runs. It is empty until [`follow`](Self::follow).
    pub(super) fn start(signer: Signer) -> io::Result<Self> {
        let (messages, queue) = mpsc::sync_channel(QUEUE);
        let shared = Arc::<Shared>::default();
        shared.lags.store(true, Ordering::Relaxed);
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new().name("audit-tree".to_owned());
        let thread = Some(thread.spawn(move || of_thread.run(&queue))?);
        Ok(Self { messages: Some(messages), thread, shared, signer })
    }

    /// What commits carry of it.
    pub(super) fn commits(&self) -> Commits {
        Commits(Arc::clone(&self.shared))
    }

    /// Adds lines that are on disk; the last ends at that byte of its file.
    pub(super) fn add(&self, lines: &[u8], end: u64) {
        if !self.shared.lags.load(Ordering::Relaxed) {
            self.send(Message::Lines(lines.to_vec(), end));
        }
    }

    /// The file with the last line is sealed, and may be moved anywhere.
    pub(super) fn sealed(&self) {
        if !self.shared.lags.load(Ordering::Relaxed) {
            self.send(Message::Sealed);
        }
    }

    fn send(&self, message: Message) {
        let is_sent = self.messages.as_ref().is_some_and(|messages| messages.try_send(message).is_ok());
        if !is_sent {
            self.shared.lags.store(true, Ordering::Relaxed);
        }
    }

    /// Waits until the thread has done what it was given, and made it durable. Whether it has.
    #[allow(clippy::disallowed_methods, reason = "on the log's own thread, or one that may block")]
    fn drain(&self) -> bool {
        let (reply, drained) = mpsc::sync_channel(1);
        let Some(messages) = &self.messages else { return false };
        // A queue that is full is a moment from having space, unless the thread hangs.
        let begun = Instant::now();
        let mut message = Message::Drain(reply);
        loop {
            match messages.try_send(message) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) if begun.elapsed() < DRAIN_TIMEOUT => message = back,
                Err(_) => return false,
            }
            thread::sleep(Duration::from_millis(1));
        }
        drained.recv_timeout(DRAIN_TIMEOUT).is_ok()
    }

    /// Whether the tree has to follow the log again.
    pub(super) fn lags(&self) -> bool {
        let shared = &self.shared;
        let is_due = lock(&shared.failed).is_none_or(|at| at.elapsed() >= TRY_AGAIN);
        is_due && (shared.lags.load(Ordering::Relaxed) || lock(&shared.anchors).is_refuted())
    }

    /// Brings the tree level with the log. What goes wrong is logged: the log goes on without.
    pub(super) fn follow<F: Files>(&self, current: &Current<'_, F>) {
        let shared = &self.shared;
        if !self.drain() {
            return shared.fail(&io::Error::other("its thread hangs in a write"));
        }
        let folder = with_suffix(current.real, "tree");
        let mut growing = lock(&shared.growing);
        match follow(&folder, &self.signer, current, &shared.anchors) {
            Ok(followed) => {
                let anchor = followed.anchor();
                *growing = Some(followed);
                drop(growing);
                lock(&shared.anchors).set_newest(anchor);
                shared.lags.store(false, Ordering::Relaxed);
                *lock(&shared.failed) = None;
            }
            Err(error) => {
                *growing = None;
                drop(growing);
                shared.fail(&error);
            }
        }
    }

    /// Makes what the tree has durable. Blocks.
    pub(super) fn checkpoint(&self) {
        self.drain();
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.messages = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self, queue: &Receiver<Message>) {
        let mut published = Instant::now();
        loop {
            let message = match queue.recv_timeout(PUBLISH) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => {
                    let done = lock(&self.growing).as_mut().map(|tree| self.make_durable(tree));
                    if let Some(Err(error)) = done {
                        self.fail(&error);
                    }
                    return;
                }
            };
            let mut growing = lock(&self.growing);
            let mut reply = None;
            let done = match (&mut *growing, message) {
                (_, Some(Message::Drain(drained))) => {
                    reply = Some(drained);
                    growing.as_mut().map_or(Ok(()), |tree| self.make_durable(tree))
                }
                (Some(tree), Some(Message::Lines(lines, end))) => tree.add(&lines, end).and_then(|()| {
                    lock(&self.anchors).set_newest(tree.anchor());
                    self.confirm(tree)?;
                    if published.elapsed() < PUBLISH { Ok(()) } else { tree.publish(self.may_sign(tree)) }
                }),
                (Some(tree), Some(Message::Sealed)) => {
                    self.confirm(tree).and_then(|()| tree.seal(self.may_sign(tree)))
                }
                (Some(tree), None) => self.confirm(tree).and_then(|()| tree.publish(self.may_sign(tree))),
                (None, _) => Ok(()),
            };
            if published.elapsed() >= PUBLISH {
                published = Instant::now();
            }
            if let Err(error) = done {
                *growing = None;
                self.fail(&error);
            }
            drop(growing);
            if let Some(reply) = reply {
                let _ = reply.send(());
            }
        }
    }

    fn make_durable(&self, tree: &mut Growing) -> io::Result<()> {
        self.confirm(tree)?;
        tree.publish(self.may_sign(tree))?;
        tree.sync()
    }

    /// Whether the tree as it is now may be signed.
    fn may_sign(&self, tree: &Growing) -> bool {
        tree.is_new() || lock(&self.anchors).may_sign()
    }

    /// Compares what Kafka has of this tree with the tree.
    fn confirm(&self, tree: &mut Growing) -> io::Result<()> {
        while let Some(anchor) = { lock(&self.anchors).next_unconfirmed() } {
            let fits = anchor.size <= tree.size() && tree.root_at(anchor.size)? == anchor.root;
            lock(&self.anchors).confirm(&anchor, fits);
        }
        Ok(())
    }

    fn fail(&self, error: &io::Error) {
        self.lags.store(true, Ordering::Relaxed);
        let mut failed = lock(&self.failed);
        log::error!(
            "the tree beside the audit log does not grow: {error}; the log goes on {}",
            Code::AuditTree
        );
        *failed = Some(Instant::now());
    }
}

/// The tree in the folder, with all lines of the log; another one, if the log does not go on where it ends.
fn follow<F: Files>(
    folder: &Path,
    signer: &Signer,
    current: &Current<'_, F>,
    anchors: &Mutex<Anchors>,
) -> io::Result<Growing> {
    let mut files = segments::beside(current.files, current.real)?;
    files.push(current.real.to_owned());
    let is_refuted = lock(anchors).is_refuted();
    let why = match Growing::open(folder, signer)? {
        Found::Tree(_) if is_refuted => {
            "Kafka has an anchor that it does not fit: log and tree were restored or rewritten"
        }
        Found::Tree(mut tree) => match find_end(current, &files, &tree.end())? {
            Some((file, from)) => {
                let later = files.iter().skip(file + 1).map(|path| (path, 0));
                for (path, from) in files.get(file).map(|path| (path, from)).into_iter().chain(later) {
                    add_file(&mut tree, current, path, from)?;
                }
                if tree.fits_checkpoint() {
                    tree.publish(false)?;
                    return Ok(*tree);
                }
                "its last checkpoint is of other lines: they were changed while the service was stopped"
            }
            None => "the log has not the line that it ends with: it was truncated, replaced or restored",
        },
        Found::Nothing => "",
        Found::Unusable(why) => why,
    };
    if !why.is_empty() {
        let aside = growing::set_aside(folder)?;
        log::error!(
            "the tree of audit log {} is set aside as {}: {why}; a new tree begins {}",
            current.path.display(),
            aside.display(),
            Code::AuditTree
        );
    }
    lock(anchors).forget();
    let mut tree = Growing::create(folder, signer)?;
    for path in &files {
        add_file(&mut tree, current, path, 0)?;
    }
    tree.publish(true)?;
    log::info!("audit log {} has a tree of {} lines: {}", current.path.display(), tree.size(), tree.origin());
    Ok(tree)
}

/// The file with the line that the tree ends with, and where that line ends.
fn find_end<F: Files>(
    current: &Current<'_, F>,
    files: &[PathBuf],
    end: &End,
) -> io::Result<Option<(usize, u64)>> {
    let Some(leaf) = end.leaf else { return Ok(Some((0, 0))) };
    for (number, path) in files.iter().enumerate().rev() {
        let found = with_lines(current, path, end.start, |lines| {
            while let Some((at, bytes)) = lines.next()? {
                if at >= end.start {
                    let is_it = at == end.start && growing::leaf_of(bytes) == Some(leaf);
                    return Ok(is_it.then_some(at + bytes.len() as u64));
                }
            }
            Ok(None)
        })?;
        if let Some(at) = found {
            return Ok(Some((number, at)));
        }
    }
    // A segment that was archived elsewhere: all that is in the file came after it.
    Ok(end.sealed.then(|| (files.len().saturating_sub(1), 0)))
}

fn add_file<F: Files>(
    tree: &mut Growing,
    current: &Current<'_, F>,
    path: &Path,
    from: u64,
) -> io::Result<()> {
    with_lines(current, path, from, |lines| {
        while let Some((at, bytes)) = lines.next()? {
            if at >= from {
                tree.add(bytes, at + bytes.len() as u64)?;
                tree.sync_if_due()?;
            }
        }
        Ok(())
    })
}

/// Reads the lines of the log's file, as far as they count, or of a segment; of one that is not compressed from there.
fn with_lines<F: Files, T>(
    current: &Current<'_, F>,
    path: &Path,
    from: u64,
    read: impl FnOnce(&mut Lines<Box<dyn io::Read + '_>>) -> io::Result<T>,
) -> io::Result<T> {
    if path == current.real {
        let section: Box<dyn io::Read> =
            Box::new(Section::new(current.file, from.min(current.length), current.length));
        return read(&mut Lines::new(section, from.min(current.length)));
    }
    let segment = Segment::open(current.files, path)?;
    read(&mut segment.lines(from))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
