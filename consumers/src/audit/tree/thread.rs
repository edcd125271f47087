//! What the tree's thread does: it adds lines that are on disk, and publishes what may be signed.

use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use task_events::error_code::Code;
use tokio::sync::Notify;

use super::anchors::Anchors;
use super::growing::Growing;
use super::lock::lock;
use super::trouble::{Trouble, Troubles};
use super::unconfirmed::Unconfirmed;

/// How long the checkpoint on disk may lag behind the log.
const PUBLISH: Duration = Duration::from_secs(1);

/// What the thread is given.
#[derive(Debug)]
pub(super) enum Message {
    /// Lines that are on disk, and where the last of them ends in its file.
    Lines(Vec<u8>, u64),
    /// The file with the last line is sealed.
    Sealed,
    /// Answers when all before it is done.
    Drain(SyncSender<()>),
}

/// What the thread shares with the log and with commits.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) growing: Mutex<Option<Growing>>,
    pub(super) anchors: Mutex<Anchors>,
    /// Lines are missing from the tree.
    pub(super) lags: AtomicBool,
    pub(super) failed: Mutex<Option<Instant>>,
    pub(super) troubles: Troubles,
    pub(super) unconfirmed: Mutex<Unconfirmed>,
    /// Told when there is more of that.
    pub(super) found: Notify,
    /// The tree has been level once: what it lacks from then on was written by this process, or is found by the journal.
    pub(super) is_opened: AtomicBool,
}

impl Shared {
    /// Does what it is given until there is nobody who gives more.
    pub(super) fn run(&self, queue: &Receiver<Message>) {
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
        (tree.is_new() || lock(&self.anchors).may_sign()) && lock(&self.unconfirmed).is_empty()
    }

    /// Lines between these bytes of a file may be by anybody.
    pub(super) fn add_found(&self, path: &Path, found: (u64, u64)) {
        lock(&self.unconfirmed).add(path, found);
        self.found.notify_one();
    }

    /// Compares what Kafka has of this tree with the tree.
    fn confirm(&self, tree: &mut Growing) -> io::Result<()> {
        while let Some(anchor) = { lock(&self.anchors).next_unconfirmed() } {
            let fits = anchor.size <= tree.size() && tree.root_at(anchor.size)? == anchor.root;
            lock(&self.anchors).confirm(&anchor, fits);
        }
        Ok(())
    }

    /// Reports that the tree does not grow.
    pub(super) fn fail(&self, error: &io::Error) {
        self.lags.store(true, Ordering::Relaxed);
        let mut failed = lock(&self.failed);
        let why = format!("the tree beside the audit log does not grow: {error}; the log goes on");
        self.troubles.set(Trouble::Failed, why.clone());
        log::error!("{why} {}", Code::AuditTree);
        *failed = Some(Instant::now());
    }
}
