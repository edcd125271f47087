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

mod apply;
#[cfg(test)]
mod power_cut;
mod schema;
mod writer;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use redb::{Database, ReadableDatabase};
use task_events::disk::{Disk, FileSystem};
use task_events::event::TaskEvent;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use uuid::Uuid;

use crate::task::{Change, Task, TaskStatus};

pub use schema::Delivered;
use schema::{BY_OWNER, BY_STATUS, OUTBOX, OutboxValue, POSITIONS, TASKS};

/// Changes that wait for the writer, at most; beyond that callers are told to come back.
const QUEUE: usize = 4_096;

/// Reads under way, at most; further ones wait.
const READS: usize = 256;
/// Pages read at one time: each keeps a processor busy, and single tasks are to be read between them.
const PAGES: usize = 4;
/// Time for the disk to do what was asked.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the store did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// More changes wait than the writer can take soon.
    #[error("too many changes wait for the disk")]
    Overloaded,
    /// The disk took too long. A change that was under way may be stored or not.
    #[error("the disk does not answer")]
    Slow,
    /// The disk failed or is full. A change that was under way may be stored or not.
    #[error("the store cannot be used: {0}")]
    Unavailable(String),
}

impl From<redb::Error> for StoreError {
    fn from(error: redb::Error) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// A change, and under which conditions it is made.
#[derive(Debug, Clone)]
pub struct Mutation {
    /// What to change.
    pub change: Change,
    /// The version that the caller believes current.
    pub if_match: Option<IfMatch>,
    /// The caller's key, and a fingerprint of the request.
    pub idempotency: Option<IdempotencyKey>,
    /// Ties the events to the request.
    pub correlation_id: Uuid,
    /// W3C trace context to pass on.
    pub traceparent: Option<String>,
}

/// The versions that an `If-Match` header allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// `*`: any, as long as the task exists.
    Any,
    /// One of these.
    Versions(Vec<u64>),
}

impl IfMatch {
    /// Whether a task of this version may be changed.
    pub fn allows(&self, version: u64) -> bool {
        match self {
            Self::Any => true,
            Self::Versions(versions) => versions.contains(&version),
        }
    }
}

/// A key that names a request, so that it can be sent twice and done once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The caller's key.
    pub key: String,
    /// SHA-256 of what the request asks for, in hexadecimal.
    pub fingerprint: String,
}

/// What became of a mutation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done, now or under the same key before: the task as it then stood.
    Done(Task),
    /// There is no such task.
    NotFound,
    /// The task has another version than the caller believes.
    VersionMismatch {
        /// The version it has.
        current: u64,
    },
    /// The key was used with another request.
    KeyReused,
}

/// Which tasks to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only those of this status.
    pub status: Option<TaskStatus>,
    /// Only those of this owner.
    pub owner_id: Option<Uuid>,
}

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
    write_failure: Mutex<Option<String>>,
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

/// Work for the writer.
#[derive(Debug)]
enum Job {
    Mutate(Box<Mutation>, oneshot::Sender<Result<Outcome, StoreError>>),
    Delivered(Delivered, oneshot::Sender<Result<(), StoreError>>),
    /// A read met an I/O error: is the file still good?
    Check(oneshot::Sender<Result<(), StoreError>>),
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
            StoreError::Unavailable(format!(
                "{}: {error}; check that the folder can be written and has room",
                path.display()
            ))
        })?;
        let shared = Arc::new(Shared {
            database: RwLock::new(Ok(database)),
            write_failure: Mutex::default(),
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
        if let Some(why) = self.failure() {
            return Err(StoreError::Unavailable(why));
        }
        let (reply, answer) = oneshot::channel();
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
        let (reply, answer) = oneshot::channel();
        let closed = || StoreError::Unavailable("it is closed".to_owned());
        self.queue.send(Job::Delivered(delivered, reply)).await.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// One task.
    pub async fn task(&self, id: Uuid) -> Result<Option<Task>, StoreError> {
        self.read(move |database| {
            let read = database.begin_read()?;
            let task =
                read.open_table(TASKS)?.get(id.into_bytes())?.map(|task| schema::read_task(task.value()));
            task.transpose()
        })
        .await
    }

    /// Up to `limit` tasks in the order of creation, after the task `after` if given.
    pub async fn list(
        &self,
        filter: Filter,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<Task>, StoreError> {
        let page = async {
            // Never closed.
            let _turn = self.pages.acquire().await;
            self.read_or_reopen(move |database| list(database, &filter, after, limit)).await
        };
        timeout(self.patience, page).await.unwrap_or(Err(StoreError::Slow))
    }

    /// The first events in the outbox behind `seq`, at most `limit`.
    pub async fn outbox_after(&self, seq: u64, limit: usize) -> Result<Vec<OutboxEntry>, StoreError> {
        self.read(move |database| {
            let read = database.begin_read()?;
            let table = read.open_table(OUTBOX)?;
            let entries = table.range(seq.saturating_add(1)..)?.take(limit).map(|entry| {
                let (seq, value) = entry?;
                let value: OutboxValue = schema::from_json(value.value())?;
                let json = value.event.get().as_bytes().to_vec();
                let event = schema::from_json(&json)?;
                Ok(OutboxEntry { seq: seq.value(), event, json, traceparent: value.traceparent })
            });
            entries.collect()
        })
        .await
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

    /// Whether the store takes changes; if not, why.
    pub fn failure(&self) -> Option<String> {
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

/// Tasks by way of the narrowest index, so that no more is read than is answered.
fn list(
    database: &Database,
    filter: &Filter,
    after: Option<Uuid>,
    limit: usize,
) -> Result<Vec<Task>, redb::Error> {
    use std::ops::Bound::{Excluded, Included, Unbounded};

    let read = database.begin_read()?;
    let tasks = read.open_table(TASKS)?;
    let first = after.map_or([0; 16], Uuid::into_bytes);
    let is_new = |id: &[u8; 16]| after.is_none_or(|after| *id > after.into_bytes());
    let last = [0xff; 16];

    let ids: Vec<[u8; 16]> = match (filter.owner_id, filter.status) {
        (None, None) => {
            let from = after.map_or(Unbounded, |after| Excluded(after.into_bytes()));
            let page = tasks.range::<[u8; 16]>((from, Included(last)))?.take(limit);
            return page.map(|entry| schema::read_task(entry?.1.value())).collect();
        }
        (None, Some(status)) => {
            let index = read.open_table(BY_STATUS)?;
            let range = index.range((status.code(), first)..=(status.code(), last))?;
            page(range.map(|entry| Ok(entry?.0.value().1)), is_new, limit)?
        }
        (Some(owner), status) => {
            let index = read.open_table(BY_OWNER)?;
            let owner = owner.into_bytes();
            let mut ids = Vec::new();
            // A page of each status, then the first of them all.
            for status in status.map_or(TaskStatus::ALL.to_vec(), |status| vec![status]) {
                let range = index.range((owner, status.code(), first)..=(owner, status.code(), last))?;
                ids.extend(page(range.map(|entry| Ok(entry?.0.value().2)), is_new, limit)?);
            }
            ids.sort_unstable();
            ids.truncate(limit);
            ids
        }
    };
    let found = ids.into_iter().filter_map(|id| tasks.get(id).transpose());
    found.map(|task| schema::read_task(task?.value())).collect()
}

fn page(
    ids: impl Iterator<Item = Result<[u8; 16], redb::Error>>,
    is_new: impl Fn(&[u8; 16]) -> bool,
    limit: usize,
) -> Result<Vec<[u8; 16]>, redb::Error> {
    ids.filter(|id| id.as_ref().map_or(true, &is_new)).take(limit).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io;
    use std::sync::atomic::AtomicBool;
    use std::time::Instant;

    use redb::StorageBackend;
    use redb::backends::FileBackend;
    use tokio::task::JoinSet;

    use super::*;
    use crate::task::NewTask;

    /// A file whose disk goes bad once it is told so.
    #[derive(Debug)]
    struct Bad {
        file: FileBackend,
        fails: Arc<AtomicBool>,
        /// Held by the test while the disk hangs.
        hangs: Arc<Mutex<()>>,
    }

    impl StorageBackend for Bad {
        fn len(&self) -> io::Result<u64> {
            self.file.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            drop(self.hangs.lock());
            if self.fails.load(Ordering::SeqCst) {
                return Err(io::Error::other("the disk cannot be read"));
            }
            self.file.read(offset, out)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.file.set_len(len)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.file.sync_data()
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            drop(self.hangs.lock());
            self.file.write(offset, data)
        }
    }

    fn create() -> Mutation {
        Mutation {
            change: Change::Create(NewTask { title: "t".to_owned(), owner_id: None }),
            if_match: None,
            idempotency: None,
            correlation_id: Uuid::new_v4(),
            traceparent: None,
        }
    }

    /// From now on the store uses a copy of its file, without a cache, on a disk that can go bad.
    fn on_a_bad_disk(store: &Store, dir: &Path) -> (Arc<AtomicBool>, Arc<Mutex<()>>) {
        let copy = dir.join("copy.redb");
        std::fs::copy(dir.join("tasks.redb"), &copy).unwrap();
        let file = FileBackend::new(File::options().read(true).write(true).open(&copy).unwrap()).unwrap();
        let (fails, hangs): (Arc<AtomicBool>, Arc<Mutex<()>>) = Default::default();
        let backend = Bad { file, fails: Arc::clone(&fails), hangs: Arc::clone(&hangs) };
        let bad = Database::builder().set_cache_size(0).create_with_backend(backend).unwrap();
        *store.shared.database.write().unwrap() = Ok(bad);
        (fails, hangs)
    }

    #[tokio::test]
    async fn a_read_that_failed_does_not_end_all_reading() {
        let dir = tempfile::tempdir().unwrap();
        let (store, writer) = Store::open(dir.path()).unwrap();
        let Outcome::Done(task) = store.mutate(create()).await.unwrap() else { panic!() };

        let (fails, _) = on_a_bad_disk(&store, dir.path());
        assert_eq!(store.task(task.id).await.unwrap().as_ref(), Some(&task));
        fails.store(true, Ordering::SeqCst);

        assert_eq!(store.task(task.id).await.unwrap(), Some(task));
        drop(store);
        tokio::task::spawn_blocking(move || writer.join()).await.unwrap().unwrap();
    }

    /// A disk that hangs: everybody is told so in time, what hangs is bounded, and it goes on afterwards.
    #[tokio::test]
    #[allow(clippy::await_holding_lock, reason = "the disk hangs while it is held")]
    async fn with_a_disk_that_hangs_callers_are_told_and_nothing_piles_up() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, writer) = Store::open(dir.path()).unwrap();
        store.patience = Duration::from_millis(300);
        let Outcome::Done(task) = store.mutate(create()).await.unwrap() else { panic!() };
        let (_, hangs) = on_a_bad_disk(&store, dir.path());
        let hanging = hangs.lock().unwrap();

        let begun = Instant::now();
        let (mut changes, mut reads) = (JoinSet::new(), JoinSet::new());
        for _ in 0..3 * QUEUE {
            let store = store.clone();
            changes.spawn(async move { store.mutate(create()).await });
        }
        for _ in 0..4 * READS {
            let store = store.clone();
            reads.spawn(async move { store.task(task.id).await });
        }
        let changes = changes.join_all().await;
        let reads = reads.join_all().await;
        let shed = changes.iter().filter(|result| **result == Err(StoreError::Overloaded)).count();
        let slow = changes.iter().filter(|result| **result == Err(StoreError::Slow)).count();
        assert_eq!(shed + slow, 3 * QUEUE);
        assert!(slow <= QUEUE + 1_024, "{slow} wait: the queue, and what the writer has in hand");
        assert!(reads.iter().all(|result| *result == Err(StoreError::Slow)), "{:?}", reads.first());
        assert_eq!(store.reads.available_permits(), 0, "as many hang as may, and no more");
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());

        drop(hanging);
        store.patience = PATIENCE;
        assert_eq!(store.task(task.id).await.unwrap().as_ref(), Some(&task));
        let made = 1 + slow as u64;
        let mut outbox = store.outbox();
        let done = outbox.wait_for(|outbox| outbox.waiting == made);
        timeout(PATIENCE, done).await.expect("what was called slow is done").unwrap();
        let Outcome::Done(_) = store.mutate(create()).await.unwrap() else { panic!() };
        assert_eq!(store.outbox().borrow().waiting, made + 1, "what was shed is not done");
        drop(store);
        tokio::task::spawn_blocking(move || writer.join()).await.unwrap().unwrap();
    }
}
