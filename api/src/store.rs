//! The durable store: tasks, the outbox and the answers under idempotency keys, in one redb file.
//!
//! # Invariants
//!
//! 1. *One transaction.* A change, its events and its stored answer are committed together, on disk before
//!    the answer is sent.
//! 2. *One writer.* All changes pass through one thread ([`writer`]), which takes what waits as one
//!    transaction: many requests share an fsync, and the order of commits is the order of ids, of outbox
//!    sequence numbers and of versions.
//! 3. *The outbox is a queue.* Events leave it only after Kafka acknowledged them or they were found in
//!    the topic; they leave together with the new position of the topic's tail.
//! 4. *Opening does not read the history.* Every commit saves what redb needs to open after a crash.
//! 5. *One value, one failure.* A stored value that cannot be read fails what needs it, and nothing else: not
//!    the other changes of the batch, not the page, not the events behind it.
//! 6. *Nothing into the void.* A change is made only while the file has its name: one that was deleted, moved or
//!    replaced by somebody would take the change with it.

mod apply;
#[cfg(test)]
mod bad_disk;
mod failure;
mod mutation;
mod outbox;
#[cfg(test)]
mod power_cut;
mod query;
mod schema;
mod writer;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase};
use task_events::disk::{Disk, FileSystem};
use task_events::event::TaskEvent;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::reply::{Desk, Reply};
use failure::Reported;
pub use failure::{StoreError, Unreadable, WriteFailure};
pub use mutation::{IdempotencyKey, IfMatch, Mutation, Outcome};
pub use outbox::OutboxScan;
pub use query::{Filter, Page};
pub use schema::{Delivered, PublishedTopic};
use schema::{OUTBOX, POSITIONS};

/// Changes that wait for the writer, at most; beyond that callers are told to come back.
const QUEUE: usize = 4_096;

/// Reads under way, at most; further ones wait.
const READS: usize = 256;
/// Pages read at one time: each keeps a processor busy, and single tasks are to be read between them.
const PAGES: usize = 4;
/// Time for the disk to do what was asked.
const PATIENCE: Duration = Duration::from_secs(10);

/// An event that waits for Kafka.
#[derive(Debug, Clone)]
pub struct OutboxEntry {
    /// Its place in the queue.
    pub seq: u64,
    /// The event.
    pub event: TaskEvent,
    /// The event as JSON, as it goes to Kafka.
    pub json: Vec<u8>,
    /// W3C trace context to pass on.
    pub traceparent: Option<String>,
}

/// The store. Cheap to clone; closed when the last clone is dropped and the writer has finished.
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Job>,
    /// Held by a read until the disk has done it, also where nobody waits for it any more: what hangs does
    /// not pile up.
    reads: Arc<Semaphore>,
    pages: Arc<Semaphore>,
    patience: Duration,
}

#[derive(Debug)]
struct Shared {
    /// Empty while the writer reopens the file after a failure: redb takes nothing more after an I/O error.
    database: RwLock<Result<Database, String>>,
    /// Why changes are refused, while they are.
    write_failure: Mutex<Option<WriteFailure>>,
    /// That the file is not where it was opened, while it is not.
    misplaced: Mutex<Option<WriteFailure>>,
    /// The writer was asked to look where the file is, and has not yet.
    is_looked_for: AtomicBool,
    /// Since when the writer has been waiting for the disk, while it does.
    writing_since: Mutex<Option<Instant>>,
    /// What was found to be unreadable.
    reported: Mutex<Reported>,
    /// What stands in the outbox: the last sequence number on disk, and how many events wait.
    outbox: watch::Sender<OutboxState>,
    /// Transactions of the writer since the start.
    commits: AtomicU64,
}

/// What stands in the outbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutboxState {
    /// The highest sequence number that was ever given, 0 for none.
    pub last_seq: u64,
    /// How many events wait for Kafka.
    pub waiting: u64,
}

/// What a caller is told of its change.
type MutateResult = Result<Outcome, StoreError>;

thread_local! {
    /// For the writer's replies to this thread.
    static REPLIES: Desk<MutateResult> = const { Desk::new() };
}

/// Work for the writer.
#[derive(Debug)]
enum Job {
    Mutate(Box<Mutation>, Reply<MutateResult>),
    Delivered(Delivered, oneshot::Sender<Result<(), StoreError>>),
    PublishTo(PublishedTopic, oneshot::Sender<Result<(), StoreError>>),
    /// A read met an I/O error: is the file still good?
    Check(oneshot::Sender<Result<(), StoreError>>),
    /// Is the file still in its place?
    Look,
}

impl Store {
    /// Opens the store in the folder, or makes it. Blocks. The handle is the writer's thread, which ends
    /// when all clones of the store are dropped.
    pub fn open(dir: &Path) -> Result<(Self, thread::JoinHandle<()>), StoreError> {
        Self::open_on(Arc::new(FileSystem), dir)
    }

    fn open_on(disk: Arc<dyn Disk>, dir: &Path) -> Result<(Self, thread::JoinHandle<()>), StoreError> {
        let path = dir.join("tasks.redb");
        let (database, outbox) = schema::open(&*disk, &path).map_err(|error| {
            StoreError::Unavailable(format!("{}: {error}; {}", path.display(), failure::remedy(&error)))
        })?;
        let shared = Arc::new(Shared {
            database: RwLock::new(Ok(database)),
            write_failure: Mutex::default(),
            misplaced: Mutex::default(),
            is_looked_for: AtomicBool::new(false),
            writing_since: Mutex::default(),
            reported: Mutex::default(),
            outbox: watch::Sender::new(outbox),
            commits: AtomicU64::new(0),
        });
        let (queue, jobs) = mpsc::channel(QUEUE);
        let writer = writer::Writer::new(disk, path, Arc::clone(&shared));
        let thread = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(jobs))
            .map_err(|error| StoreError::Unavailable(format!("cannot start the writer: {error}")))?;
        let (reads, pages) = (Arc::new(Semaphore::new(READS)), Arc::new(Semaphore::new(PAGES)));
        Ok((Self { shared, queue, reads, pages, patience: PATIENCE }, thread))
    }

    /// Makes a change. When this returns [`Outcome::Done`], change and events are on disk.
    pub async fn mutate(&self, mutation: Mutation) -> Result<Outcome, StoreError> {
        if let Some(failure) = self.write_failure() {
            return Err(StoreError::Refused(failure));
        }
        let (reply, answer) = REPLIES.with(Desk::open);
        self.queue.try_send(Job::Mutate(Box::new(mutation), reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => StoreError::Unavailable("it is closed".to_owned()),
        })?;
        match timeout(self.patience, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(StoreError::Unavailable("it was closed meanwhile".to_owned())),
            Err(_) => Err(StoreError::Slow),
        }
    }

    /// Takes delivered events out of the outbox. Returns when that is on disk.
    pub async fn delivered(&self, delivered: Delivered) -> Result<(), StoreError> {
        self.written(|reply| Job::Delivered(delivered, reply)).await
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

    /// The first events in the outbox behind `seq`, at most `limit`. One that cannot be read stays there, is
    /// reported, and hides none of those after it.
    pub async fn outbox_after(&self, seq: u64, limit: usize) -> Result<Vec<OutboxEntry>, StoreError> {
        let (entries, unreadable) = self
            .read(move |database| {
                let read = database.begin_read()?;
                let table = read.open_table(OUTBOX)?;
                let (mut entries, mut unreadable) = (Vec::new(), Vec::new());
                for entry in table.range(seq.saturating_add(1)..)? {
                    if entries.len() >= limit {
                        break;
                    }
                    let (seq, value) = entry?;
                    match schema::read_outbox(seq.value(), value.value()) {
                        Ok(entry) => entries.push(entry),
                        Err(error) => unreadable.push(error),
                    }
                }
                Ok((entries, unreadable))
            })
            .await?;
        for unreadable in &unreadable {
            self.shared.report(unreadable);
        }
        Ok(entries)
    }

    /// For each partition that was ever written to: the offset behind the last acknowledged event.
    pub async fn positions(&self) -> Result<Vec<(i32, i64)>, StoreError> {
        self.read(|database| {
            let read = database.begin_read()?;
            let table = read.open_table(POSITIONS)?;
            let positions = table
                .range::<i32>(..)?
                .map(|entry| entry.map(|(partition, offset)| (partition.value(), offset.value())));
            Ok(positions.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// What stands in the outbox, and word of what comes.
    pub fn outbox(&self) -> watch::Receiver<OutboxState> {
        self.shared.outbox.subscribe()
    }

    /// Transactions since the start: under load far fewer than changes.
    pub fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }

    /// Whether the store takes changes; if not, why. Also where the disk does not answer.
    pub fn failure(&self) -> Option<String> {
        // The answer is for the next one who asks: a disk that hangs must not hold up this one.
        if !self.shared.is_looked_for.swap(true, Ordering::Relaxed) && self.queue.try_send(Job::Look).is_err()
        {
            self.shared.is_looked_for.store(false, Ordering::Relaxed);
        }
        let misplaced = self.shared.misplaced.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(failure) = self.write_failure().or(misplaced) {
            return Some(failure.to_string());
        }
        let since = *self.shared.writing_since.lock().unwrap_or_else(PoisonError::into_inner);
        let hangs = since.map(|since| since.elapsed()).filter(|hangs| *hangs >= self.patience);
        hangs.map(|hangs| format!("the disk has not answered for {} s; changes wait for it", hangs.as_secs()))
    }

    /// How many stored values were found to be unreadable since the start.
    pub fn unreadable_values(&self) -> usize {
        self.shared.reported.lock().unwrap_or_else(PoisonError::into_inner).count()
    }

    fn write_failure(&self) -> Option<WriteFailure> {
        self.shared.write_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl Fn(&Database) -> Result<T, redb::Error> + Clone + Send + 'static,
    ) -> Result<T, StoreError> {
        timeout(self.patience, self.read_or_reopen(work)).await.unwrap_or(Err(StoreError::Slow))
    }

    /// After an I/O error, whoever met it, redb reads nothing more until the writer has opened the file anew:
    /// it is told to, and the read is done once more.
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
        // Never closed.
        let permit = Arc::clone(&self.reads).acquire_owned().await;
        let joined = spawn_blocking(move || {
            let _permit = permit;
            let guard = shared.database.read().unwrap_or_else(PoisonError::into_inner);
            guard.as_ref().map(work).map_err(|why| StoreError::Unavailable(why.clone()))
        })
        .await;
        joined.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string())))
    }
}

impl Shared {
    fn report(&self, unreadable: &Unreadable) {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner).report(unreadable);
    }
}
