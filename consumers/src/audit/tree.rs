//! The Merkle tree over the log's lines, beside the log: written by a thread of its own, behind the log's fdatasync.
//!
//! # Invariants
//!
//! 1. *Only durable lines are in the tree*: the journal gives lines to it after their sync, in their order. So an anchor
//!    (size and root) may be committed to Kafka at once, though the tree's own files may lag.
//! 2. *A batch waits for one step at most*: lines that do not fit the queue are forgotten, and read again from the log, between
//!    two batches, once the thread has caught up, [`STEP`] bytes at a time. A tree that cannot be written stops growing and is
//!    reported, in the log, `/readyz` and the metrics; the log goes on.
//! 3. *A tree covers one log, from its first line on.* Where the log has not the line that the tree ends with (it was
//!    truncated, replaced, restored), or Kafka has an anchor that the tree does not fit, the tree is set aside whole,
//!    with the time behind its name, and a tree with a new origin begins. Nothing is ever taken out of a tree.
//! 4. *Nothing is signed of a tree that was there before, beyond what was signed, until it is known to fit Kafka's anchor*:
//!    or an old copy that was put back would get a second history under the same origin.
//! 5. *Nothing is signed of lines that were found in the files, until Kafka is known to have their events*: see [`unconfirmed`].
//! 6. *An anchor of another origin is passed on as it is*: no instance judges or removes another's.
//!
//! The format is described in docs/audit-proof.md. There is no tree without a key.

mod anchors;
mod follow;
mod growing;
mod lock;
mod thread;
mod trouble;
mod unconfirmed;

use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use audit_tree::Signer;
use serde_json::{Map, Value};
use task_events::error_code::Code;
use task_events::metrics::Text;

use self::anchors::MAX_TREES;
use self::follow::{Followed, follow};
use self::growing::Growing;
use self::lock::lock;
use self::thread::{Message, Shared};
use self::trouble::{TROUBLES, Trouble};
use super::current::Current;
use super::file::Files;
use super::segments::with_suffix;
pub(super) use unconfirmed::Stretch;

/// Batches that wait for the thread, each of 4 MiB at most.
const QUEUE: usize = 8;
/// A tree that failed is tried again after this time.
const TRY_AGAIN: Duration = Duration::from_secs(30);
/// The longest wait for the thread where the log was changed.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes of the log that are read between two batches: some 150,000 lines, in a fifth of a second.
const STEP: u64 = 64 * 1024 * 1024;

/// The tree of a log. Its thread has ended when this is dropped.
#[derive(Debug)]
pub(super) struct Tree {
    messages: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    signer: Signer,
    step: u64,
    /// A tree that is on its way to be level.
    following: Mutex<Option<Box<Growing>>>,
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
        let (meta, is_anchored) = {
            let mut anchors = lock(&self.0.anchors);
            (anchors.commit_meta(slot, before), !anchors.is_crowded_out())
        };
        let troubles = &self.0.troubles;
        match (is_anchored, troubles.has(Trouble::NotAnchored)) {
            (true, true) => troubles.clear(Trouble::NotAnchored),
            (false, false) => {
                let why = format!(
                    "Kafka has anchors of {MAX_TREES} other trees of the group, as many as a commit may carry: that of this log's tree is not committed; compare the logs with them, stop the group, and remove them by taskctl offsets reset --forget-trees"
                );
                log::error!("{why} {}", Code::AuditTree);
                troubles.set(Trouble::NotAnchored, why);
            }
            _ => {}
        }
        meta
    }

    /// Why the witness has not cosigned the tree, if it has not.
    pub(super) fn witness_failed(&self, why: Option<String>) {
        match why {
            Some(why) => self.0.troubles.set(Trouble::NotWitnessed, why),
            None => self.0.troubles.clear(Trouble::NotWitnessed),
        }
    }

    /// Lines that are to be compared with Kafka.
    pub(super) fn next_unconfirmed(&self) -> Option<Stretch> {
        lock(&self.0.unconfirmed).next()
    }

    /// Returns when there may be some.
    pub(super) async fn found(&self) {
        self.0.found.notified().await;
    }

    /// Kafka has that many lines, but for some whose records it does not have any more.
    pub(super) fn confirm(&self, stretch: &Stretch, lines: u64, untold: u64) {
        let Some(all) = lock(&self.0.unconfirmed).confirm(stretch, untold) else { return };
        let Stretch { path, from, .. } = stretch;
        log::info!(
            "Kafka has {} of {lines} lines that were found in {} from byte {from} on",
            lines - untold,
            path.display()
        );
        if all == 0 {
            self.0.troubles.clear(Trouble::Unconfirmed);
            return;
        }
        let why = format!(
            "{all} lines of {} that were found from byte {from} on are signed, though Kafka has their records no more: another process may have written them",
            path.display()
        );
        self.0.troubles.set(Trouble::Unconfirmed, why.clone());
        log::error!("{why} {}", Code::AuditForeignLine);
    }

    /// Kafka contradicts the line at that byte.
    pub(super) fn refute(&self, stretch: &Stretch, at: u64, reason: &str) {
        if !lock(&self.0.unconfirmed).refute(stretch) {
            return;
        }
        let why = format!(
            "the line at byte {at} of {} is not by this service: {reason}; it and what follows is not signed until it is moved out",
            stretch.path.display()
        );
        self.0.troubles.set(Trouble::Foreign, why.clone());
        log::error!("{why} {}", Code::AuditForeignLine);
    }

    /// Kafka could not be asked.
    pub(super) fn cannot_compare(&self, reason: &str) {
        let why = format!(
            "lines that were found in the audit log are not compared with Kafka yet, and not signed: {reason}"
        );
        let is_known = self.0.troubles.has(Trouble::Unconfirmed);
        self.0.troubles.set(Trouble::Unconfirmed, why.clone());
        if !is_known {
            log::warn!("{why}");
        }
    }

    /// What is wrong with the tree, in words.
    pub(super) fn troubles(&self) -> Vec<String> {
        self.0.troubles.all()
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

impl Tree {
    /// A tree whose thread runs. It is empty until [`follow`](Self::follow).
    pub(super) fn start(signer: Signer) -> io::Result<Self> {
        let (messages, queue) = mpsc::sync_channel(QUEUE);
        let shared = Arc::<Shared>::default();
        shared.lags.store(true, Ordering::Relaxed);
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("audit-tree".to_owned());
        let thread = Some(thread.spawn(move || of_thread.run(&queue))?);
        let (messages, following) = (Some(messages), Mutex::default());
        Ok(Self { messages, thread, shared, signer, step: STEP, following })
    }

    /// The same, which signs no line that was found in the files before it is [confirmed](Commits::confirm).
    pub(super) fn compared(self) -> Self {
        lock(&self.shared.unconfirmed).compare();
        self
    }

    #[cfg(test)]
    pub(super) fn with_step(mut self, step: u64) -> Self {
        self.step = step;
        self
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
            std::thread::sleep(Duration::from_millis(1));
        }
        drained.recv_timeout(DRAIN_TIMEOUT).is_ok()
    }

    /// Whether the tree has to follow the log again.
    pub(super) fn lags(&self) -> bool {
        let shared = &self.shared;
        let is_due = lock(&shared.failed).is_none_or(|at| at.elapsed() >= TRY_AGAIN);
        is_due && (shared.lags.load(Ordering::Relaxed) || lock(&shared.anchors).is_refuted())
    }

    /// Brings the tree nearer to the log, by one step. Whether there is more to do. What goes wrong is logged: the log goes
    /// on without. `found`: bytes of the log's file that the index did not name.
    pub(super) fn follow<F: Files>(&self, current: &Current<'_, F>, found: (u64, u64)) -> bool {
        let shared = &self.shared;
        let begun = lock(&self.following).take();
        if begun.is_none() {
            if !self.drain() {
                shared.fail(&io::Error::other("its thread hangs in a write"));
                return false;
            }
            shared.lags.store(true, Ordering::Relaxed);
            *lock(&shared.growing) = None;
            // What it has to read again may be in other places now, or gone.
            if lock(&shared.unconfirmed).forget() {
                shared.is_opened.store(false, Ordering::Relaxed);
                shared.troubles.clear(Trouble::Foreign);
            }
        }
        shared.add_found(current.real, found);
        let folder = with_suffix(current.real, "tree");
        match follow(&folder, &self.signer, current, shared, (begun, found), self.step) {
            Ok(Followed::Partly(tree)) => {
                *lock(&self.following) = Some(tree);
                return true;
            }
            Ok(Followed::Level(tree)) => {
                let anchor = tree.anchor();
                lock(&shared.anchors).set_newest(anchor);
                shared.lags.store(false, Ordering::Relaxed);
                shared.is_opened.store(true, Ordering::Relaxed);
                *lock(&shared.failed) = None;
                shared.troubles.clear(Trouble::Failed);
                // At the end: what fails from then on is not taken back.
                *lock(&shared.growing) = Some(*tree);
            }
            Err(error) => shared.fail(&error),
        }
        false
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

/// Adds what is wrong to a process's metrics.
pub(super) fn render_metrics(text: &mut Text, commits: Option<&Commits>) {
    let name = "task_events_audit_tree_trouble";
    text.family(
        name,
        "gauge",
        "Troubles of the tree that proves the audit log: 1 where it has that one, which /readyz describes.",
    );
    for (trouble, what) in TROUBLES {
        let has_it = commits.is_some_and(|commits| commits.0.troubles.has(trouble));
        text.series(name, &[("what", what)], if has_it { 1.0 } else { 0.0 });
    }
}
