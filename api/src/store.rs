//! The durable store: tasks, the outbox and the answers under idempotency keys.
//!
//! A [`Store`] is one of two: the embedded one, which is described here, or tables of PostgreSQL that replicas share
//! ([`postgres`]). `facade` has what both do for their callers.
//!
//! ```text
//! mutate ──> writer ──> log (write, fdatasync) ──> answer; overlay, events in memory ──> readers, relay
//!                        │                              │
//!                        └── read after a start, ───────┴──> applier ──> database, in bulk
//!                            and by a relay that fell behind
//! ```
//!
//! | part | what |
//! | --- | --- |
//! | `writer`, `apply`, `draft` | the one thread that makes changes, a group at a time |
//! | [`wal`], `operation` | the log: its format and invariants; what a frame says |
//! | `overlay` | what the log has and the database does not yet, as readers see it |
//! | `answers` | what was answered under idempotency keys |
//! | `applier`, `bulk` | the thread that puts it into the database, some thousands of changes at a time |
//! | `outbox` | which events wait, and where they are |
//! | `schema` | the database's tables |
//! | `startup` | opening: what the log has is read back, what a former version left is brought up to date |
//! | `mutation`, `delivery` | the types of a caller's change and its outcome; those that store and relay exchange |
//! | `job`, `shared` | work for the writer; what the threads share |
//! | `placement` | whether the files are where they were |
//! | `change` | what a change makes of a task, in either store |
//! | `import`, `export` | moving an embedded store into PostgreSQL, and back |
//! | `moved`, `mark` | the mark of a store that was moved, and reading and writing it |
//! | `query`, `order`, `failure` | pages, and their order; what cannot be done, and why |
//!
//! # Invariants
//!
//! 1. *One frame.* A change, its events and its stored answer are one frame of the log, on disk before the answer is
//!    sent ([`wal`]).
//! 2. *One writer.* All changes pass through one thread, which takes what waits as one group: many requests
//!    share an fdatasync, and the order of frames is the order of ids, of outbox sequence numbers and of versions.
//! 3. *The outbox is a queue.* Events leave it only after Kafka acknowledged them or they were found in
//!    the topic; that is noted together with the new position of the topic's tail, in the next group.
//! 4. *Opening does not read the history.* The log behind the database is bounded, and every commit of that saves
//!    what redb needs to open after a crash.
//! 5. *One value, one failure.* A stored value that cannot be read fails what needs it, and nothing else: not
//!    the other changes of the group, not the page, not the events behind it.
//! 6. *Nothing into the void.* A change is made only while the files have their names: one that was deleted, moved
//!    or replaced by somebody would take the change with it.

mod answers;
mod applier;
mod apply;
#[cfg(test)]
mod bad_disk;
mod bulk;
mod change;
mod delivery;
mod draft;
pub mod export;
mod facade;
mod failure;
pub mod import;
mod job;
mod mark;
mod moved;
mod mutation;
mod operation;
mod order;
mod outbox;
mod overlay;
mod placement;
pub mod postgres;
#[cfg(test)]
mod power_cut;
mod query;
mod schema;
mod shared;
mod startup;
mod wal;
mod writer;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use redb::Database;
use task_events::disk::{Disk, FileSystem};
use task_events::metrics::Durations;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::event_format::EventFormat;
use crate::reply::Desk;
pub use delivery::{Delivered, OutboxEntry, OutboxState, PublishedTopic};
pub use facade::{Store, Turn};
pub use failure::{StoreError, Unreadable, WriteFailure};
use job::{Job, MutateResult};
pub use moved::{Contents, Moved};
pub use mutation::{IdempotencyKey, Mutation, Outcome, Preconditions, VersionSet};
pub use order::Order;
pub use outbox::OutboxScan;
pub(crate) use outbox::partition_of;
pub use query::{Filter, Page, Query};
use shared::Shared;
use startup::Opened;
use wal::Limits;

/// Reads under way, at most; further ones wait.
const MAX_READS: usize = 256;
/// Pages read at one time: each keeps a processor busy, and single tasks are to be read between them.
const MAX_PAGE_READS: usize = 4;
/// Time for the disk to do what was asked.
const DISK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a delivery waits for changes to be written with, before it is written alone.
const MAX_DELIVERY_DELAY: Duration = Duration::from_millis(100);

/// The embedded store. Cheap to clone; closed when the last clone is dropped and the writer has finished.
#[derive(Debug, Clone)]
pub struct Embedded {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Job>,
    /// Held by a read until the disk has done it, also where nobody waits for it any more: what hangs does
    /// not pile up.
    reads: Arc<Semaphore>,
    pages: Arc<Semaphore>,
    disk_timeout: Duration,
}

thread_local! {
    /// For the writer's replies to this thread.
    static REPLIES: Desk<MutateResult> = const { Desk::new() };
}

impl Embedded {
    /// Opens the store in the folder, or makes it. Blocks. The handle is the writer's thread, which ends
    /// when all clones of the store are dropped.
    pub fn open(dir: &Path) -> Result<(Self, thread::JoinHandle<()>), StoreError> {
        Self::open_on(Arc::new(FileSystem), dir, Limits::default())
    }

    /// As [`open`](Self::open), on that disk and with those limits.
    fn open_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        limits: Limits,
    ) -> Result<(Self, thread::JoinHandle<()>), StoreError> {
        let Opened { shared, queue, writer } = startup::open(disk, dir, limits)?;
        let (reads, pages) = (Arc::new(Semaphore::new(MAX_READS)), Arc::new(Semaphore::new(MAX_PAGE_READS)));
        Ok((Self { shared, queue, reads, pages, disk_timeout: DISK_TIMEOUT }, writer))
    }

    /// Has the events of later changes encoded so: as JSON, unless this is called before the first of them.
    pub fn encode_events_as(&self, format: EventFormat) {
        // The first call counts.
        let _ = self.shared.event_format.set(format);
    }

    /// Makes a change. When this returns [`Outcome::Done`], change and events are on disk.
    pub async fn mutate(&self, mutation: Mutation) -> Result<Outcome, StoreError> {
        if let Some(failure) = self.shared.write_failure() {
            return Err(StoreError::Refused(failure));
        }
        let (reply, answer) = REPLIES.with(Desk::open);
        self.queue.try_send(Job::Mutate(Box::new(mutation), reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => StoreError::Unavailable("it is closed".to_owned()),
        })?;
        match timeout(self.disk_timeout, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(StoreError::Unavailable("it was closed meanwhile".to_owned())),
            Err(_) => {
                self.shared.refused_as_slow(self.disk_timeout);
                Err(StoreError::Slow)
            }
        }
    }

    /// Takes delivered events out of the outbox. Returns when that is on disk.
    pub async fn delivered(&self, delivered: Delivered) -> Result<(), StoreError> {
        self.written(|reply| Job::Delivered(delivered, reply)).await
    }

    /// The same for deliveries that nothing depends on: they are written with the next changes, or a moment later,
    /// or when somebody [hurries](Self::hurry).
    pub async fn delivered_with_others(&self, delivered: Delivered) -> Result<(), StoreError> {
        let (reply, mut answer) = oneshot::channel();
        self.shared.lazy.lock().unwrap_or_else(PoisonError::into_inner).push((delivered, reply));
        let closed = || StoreError::Unavailable("it is closed".to_owned());
        match timeout(MAX_DELIVERY_DELAY, &mut answer).await {
            Ok(written) => written.unwrap_or_else(|_| Err(closed())),
            Err(_) => {
                self.queue.send(Job::Flush).await.map_err(|_| closed())?;
                answer.await.unwrap_or_else(|_| Err(closed()))
            }
        }
    }

    /// Has deliveries written at once that wait for changes.
    pub fn hurry(&self) {
        // A queue that is full is one that is worked on.
        let _ = self.queue.try_send(Job::Flush);
    }

    /// Notes the topic and the partitions that events go to from now on. Positions in another topic are
    /// forgotten. Returns when that, and whatever was delivered before, is on disk.
    pub async fn publish_to(&self, topic: PublishedTopic) -> Result<(), StoreError> {
        self.written(|reply| Job::PublishTo(topic, reply)).await
    }

    async fn written(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<(), StoreError>>) -> Job,
    ) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        let closed = || StoreError::Unavailable("it is closed".to_owned());
        self.queue.send(job(reply)).await.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// What is in the outbox, and word of what comes.
    pub fn outbox(&self) -> watch::Receiver<OutboxState> {
        self.shared.outbox.subscribe()
    }

    /// Groups that were put on disk since the start: under load far fewer than changes.
    pub fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }

    /// How long the disk took for each of them: one write and one fdatasync.
    pub fn appends(&self) -> Durations {
        self.shared.appends.durations()
    }

    /// Whether the store takes changes; if not, why. Also where the disk does not answer.
    pub fn failure(&self) -> Option<String> {
        let hangs = self.shared.hangs(self.disk_timeout);
        // The answer is for the next one who asks: a disk that hangs must not hold up this one.
        if !self.shared.is_looked_for.swap(true, Ordering::Relaxed) && self.queue.try_send(Job::Look).is_err()
        {
            self.shared.is_looked_for.store(false, Ordering::Relaxed);
        }
        let misplaced = self.shared.misplaced.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(failure) = self.shared.write_failure().or(misplaced) {
            return Some(failure.to_string());
        }
        hangs.map(|hangs| format!("the disk has not answered for {} s; changes wait for it", hangs.as_secs()))
    }

    /// How many stored values were found to be unreadable since the start.
    pub fn unreadable_values(&self) -> usize {
        self.shared.reported.lock().unwrap_or_else(PoisonError::into_inner).count()
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl Fn(&Database) -> Result<T, redb::Error> + Clone + Send + 'static,
    ) -> Result<T, StoreError> {
        timeout(self.disk_timeout, self.read_or_reopen(work)).await.unwrap_or(Err(StoreError::Slow))
    }

    /// After an I/O error, whoever met it, redb reads nothing more until the file was reopened: that is asked
    /// for, and the read is done once more.
    async fn read_or_reopen<T: Send + 'static>(
        &self,
        work: impl Fn(&Database) -> Result<T, redb::Error> + Clone + Send + 'static,
    ) -> Result<T, StoreError> {
        match self.read_once(work.clone()).await? {
            Err(redb::Error::Io(_) | redb::Error::PreviousIo) => {}
            result => return Ok(result?),
        }
        let (reply, answer) = oneshot::channel();
        if self.queue.send(Job::Check(reply)).await.is_ok() {
            // What it could do, the second attempt shows.
            let _ = answer.await;
        }
        Ok(self.read_once(work).await??)
    }

    async fn read_once<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<Result<T, redb::Error>, StoreError> {
        let shared = Arc::clone(&self.shared);
        let read = move || {
            let guard = shared.database.read().unwrap_or_else(PoisonError::into_inner);
            guard.as_ref().map(work).map_err(|why| StoreError::Unavailable(why.clone()))
        };
        self.off_thread(read).await?
    }

    /// Does what may wait for the disk, within its time.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        timeout(self.disk_timeout, self.off_thread(work)).await.unwrap_or(Err(StoreError::Slow))
    }

    async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        // Never closed.
        let permit = Arc::clone(&self.reads).acquire_owned().await;
        failure::blocking(move || {
            let _permit = permit;
            work()
        })
        .await
    }
}
