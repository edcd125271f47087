//! The store on a disk that fails or hangs.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Instant;

use redb::backends::FileBackend;
use redb::{Builder, DatabaseError, StorageBackend};
use task_events::disk::{Disk, DiskFile};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::startup::MAX_QUEUED_CHANGES;
use super::*;
use crate::task::{Change, NewTask, Task};
use crate::title::Title;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use task_events::disk::FileIdentity;

/// A disk that fails once the test says so. The database has no cache on it.
#[derive(Debug, Clone, Default)]
struct BadDisk(Arc<Faults>);

#[derive(Debug, Default)]
struct Faults {
    database_reads_fail: AtomicBool,
    database_syncs_fail: AtomicBool,
    /// As with a real one, what was written may be on disk all the same.
    log_syncs_fail: AtomicBool,
    /// Held by the test while the disk hangs.
    hangs: Mutex<()>,
}

impl Faults {
    fn set(&self, fault: &AtomicBool, fails: bool) {
        fault.store(fails, Ordering::SeqCst);
    }

    /// Waits while the disk hangs, and fails if it has that fault.
    fn meet(&self, fault: &AtomicBool) -> io::Result<()> {
        drop(self.hangs.lock());
        if fault.load(Ordering::SeqCst) { Err(io::Error::other("the disk is bad")) } else { Ok(()) }
    }
}

#[derive(Debug)]
struct BadDatabase(FileBackend, Arc<Faults>);

impl StorageBackend for BadDatabase {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.1.meet(&self.1.database_reads_fail)?;
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.1.meet(&self.1.database_syncs_fail)?;
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        drop(self.1.hangs.lock());
        self.0.write(offset, data)
    }
}

#[derive(Debug)]
struct BadFile(Box<dyn DiskFile>, Arc<Faults>);

impl DiskFile for BadFile {
    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.0.read_at(buffer, at)
    }
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        drop(self.1.hangs.lock());
        self.0.write_all_at(bytes, at)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.1.meet(&self.1.log_syncs_fail)?;
        self.0.sync_data()
    }
}

impl Disk for BadDisk {
    fn create(&self, path: &Path, _: &Builder) -> Result<Database, DatabaseError> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let backend = BadDatabase(FileBackend::new(file)?, Arc::clone(&self.0));
        Database::builder().set_cache_size(0).create_with_backend(backend)
    }
    fn open(&self, path: &Path, builder: &Builder) -> Result<Database, DatabaseError> {
        self.create(path, builder)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        FileSystem.exists(path)
    }
    fn identity(&self, path: &Path) -> io::Result<FileIdentity> {
        FileSystem.identity(path)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        FileSystem.remove(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        FileSystem.rename(from, to)
    }
    fn write_new(&self, path: &Path, content: &mut dyn Read) -> io::Result<()> {
        FileSystem.write_new(path, content)
    }
    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        FileSystem.sync_folder(path)
    }
    fn make_file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(BadFile(FileSystem.make_file(path)?, Arc::clone(&self.0))))
    }
    fn open_file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(BadFile(FileSystem.open_file(path)?, Arc::clone(&self.0))))
    }
    fn all_beside(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        FileSystem.all_beside(path)
    }
}

impl BadDisk {
    fn open_store(&self, dir: &Path) -> (Embedded, thread::JoinHandle<()>) {
        Embedded::open_on(Arc::new(self.clone()), dir, Limits::default()).unwrap()
    }
}

fn create() -> Mutation {
    Mutation {
        change: Change::Create(NewTask { title: Title::parse("t").unwrap(), owner_id: None }),
        preconditions: Preconditions::default(),
        idempotency: None,
        correlation_id: Uuid::new_v4(),
        traceparent: None,
        actor: None,
    }
}

async fn created(store: &Embedded) -> Task {
    let Outcome::Done(task) = store.mutate(create()).await.unwrap() else { panic!() };
    Task::clone(&task)
}

async fn close(store: Embedded, writer: thread::JoinHandle<()>) {
    drop(store);
    tokio::task::spawn_blocking(move || writer.join()).await.unwrap().unwrap();
}

async fn listed(store: &Embedded) -> Vec<Task> {
    store.list(Filter::default(), None, usize::MAX).await.unwrap().tasks
}

/// Waits until changes are taken again.
async fn taken_again(store: &Embedded) {
    let taken = async {
        while store.failure().is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(3 * DISK_TIMEOUT, taken).await.expect("it is mended");
}

#[tokio::test]
async fn a_read_that_failed_does_not_end_all_reading() {
    let dir = tempfile::tempdir().unwrap();
    let disk = BadDisk::default();
    let (store, writer) = disk.open_store(dir.path());
    let task = created(&store).await;
    close(store, writer).await;
    // Closed, the database has it.
    let (store, writer) = disk.open_store(dir.path());
    assert_eq!(store.task(task.id).await.unwrap().as_ref(), Some(&task));
    disk.0.set(&disk.0.database_reads_fail, true);
    assert!(store.task(task.id).await.is_err());
    disk.0.set(&disk.0.database_reads_fail, false);
    taken_again(&store).await;
    assert_eq!(store.task(task.id).await.unwrap(), Some(task));
    created(&store).await;
    close(store, writer).await;
}

/// A disk that hangs: every caller is refused in time, what hangs is bounded, and it goes on afterwards.
#[tokio::test]
#[allow(clippy::await_holding_lock, reason = "the disk hangs while it is held")]
async fn with_a_disk_that_hangs_callers_get_an_answer_and_nothing_piles_up() {
    let dir = tempfile::tempdir().unwrap();
    let disk = BadDisk::default();
    let (store, writer) = disk.open_store(dir.path());
    let task = created(&store).await;
    close(store, writer).await;
    let (mut store, writer) = disk.open_store(dir.path());
    store.disk_timeout = Duration::from_millis(300);
    let hanging = disk.0.hangs.lock().unwrap();

    let begun = Instant::now();
    let (mut changes, mut reads) = (JoinSet::new(), JoinSet::new());
    for _ in 0..3 * MAX_QUEUED_CHANGES {
        let store = store.clone();
        changes.spawn(async move { store.mutate(create()).await });
    }
    for _ in 0..4 * MAX_READS {
        let store = store.clone();
        reads.spawn(async move { store.task(task.id).await });
    }
    let changes = changes.join_all().await;
    let reads = reads.join_all().await;
    let shed = changes.iter().filter(|result| **result == Err(StoreError::Overloaded)).count();
    let slow = changes.iter().filter(|result| **result == Err(StoreError::Slow)).count();
    assert_eq!(shed + slow, 3 * MAX_QUEUED_CHANGES);
    assert!(slow <= MAX_QUEUED_CHANGES + 1_024, "{slow} wait: the queue, and the writer's group in flight");
    assert!(reads.iter().all(|result| *result == Err(StoreError::Slow)), "{:?}", reads.first());
    assert_eq!(store.reads.available_permits(), 0, "as many hang as may, and no more");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());

    drop(hanging);
    store.disk_timeout = DISK_TIMEOUT;
    assert_eq!(store.task(task.id).await.unwrap().as_ref(), Some(&task));
    let made = 1 + slow as u64;
    let mut outbox = store.outbox();
    let done = outbox.wait_for(|outbox| outbox.waiting == made);
    timeout(3 * DISK_TIMEOUT, done).await.expect("what was called slow is done").unwrap();
    created(&store).await;
    assert_eq!(store.outbox().borrow().waiting, made + 1, "what was shed is not done");
    close(store, writer).await;
}

/// A disk that hangs is no disk that fails: what is asked of the store's health says so all the same.
#[tokio::test]
#[allow(clippy::await_holding_lock, reason = "the disk hangs while it is held")]
async fn a_disk_that_hangs_is_a_failure_until_it_answers() {
    let dir = tempfile::tempdir().unwrap();
    let disk = BadDisk::default();
    let (mut store, writer) = disk.open_store(dir.path());
    created(&store).await;
    assert_eq!(store.failure(), None);
    // What was looked for then is done, so that the next batch is that of the change.
    created(&store).await;
    store.disk_timeout = Duration::from_millis(50);
    let hanging = disk.0.hangs.lock().unwrap();
    assert_eq!(store.mutate(create()).await, Err(StoreError::Slow));
    // At once: who was refused and asks why is told.
    let failure = store.failure().expect("it is a failure");
    assert!(failure.contains("the disk has not answered"), "{failure}");

    drop(hanging);
    let mut outbox = store.outbox();
    timeout(3 * DISK_TIMEOUT, outbox.wait_for(|outbox| outbox.waiting == 3))
        .await
        .expect("it is done")
        .unwrap();
    store.disk_timeout = DISK_TIMEOUT;
    taken_again(&store).await;
    created(&store).await;
    close(store, writer).await;
}

/// As where the writer's thread is stalled: it has not begun with the change, or is not through with the batch before.
#[tokio::test]
async fn who_is_refused_before_the_writer_has_begun_finds_the_store_failing() {
    for has_batch_before in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (store, writer) = BadDisk::default().open_store(dir.path());
        if has_batch_before {
            store.shared.begin_writing();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        store.shared.refused_as_slow(Duration::ZERO);
        if has_batch_before {
            store.shared.end_writing();
        }
        let failure = store.failure().expect("it is a failure");
        assert!(failure.contains("the disk has not answered"), "{failure}");
        // What was just asked has the writer begin another batch, and end it.
        taken_again(&store).await;
        created(&store).await;
        close(store, writer).await;
    }
}

/// The answer and the end of the time for it meet: what is known to be done is no failure.
#[tokio::test]
async fn a_change_that_was_refused_while_it_was_answered_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let (store, writer) = BadDisk::default().open_store(dir.path());
    created(&store).await;
    // Answered behind the end of the first one's batch.
    created(&store).await;
    // It was sent before both.
    store.shared.refused_as_slow(Duration::from_secs(60));
    assert_eq!(store.failure(), None);
    close(store, writer).await;
}

/// What could not be synced may be on disk. It is not built upon: the log goes on in another segment.
#[tokio::test]
async fn a_group_that_could_not_be_synced_is_refused_and_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let disk = BadDisk::default();
    let (store, writer) = disk.open_store(dir.path());
    let mut tasks = vec![created(&store).await];
    for _ in 0..2 {
        disk.0.set(&disk.0.log_syncs_fail, true);
        for _ in 0..3 {
            let refused = store.mutate(create()).await;
            assert!(
                matches!(refused, Err(StoreError::Unavailable(_) | StoreError::Refused(_))),
                "{refused:?}"
            );
        }
        assert!(store.failure().unwrap().contains("tasks.log-"), "{:?}", store.failure());
        assert_eq!(listed(&store).await, tasks, "reads go on");
        disk.0.set(&disk.0.log_syncs_fail, false);
        taken_again(&store).await;
        tasks.push(created(&store).await);
    }
    // As a kill leaves it: nothing of it is in the database.
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    close(store, writer).await;
    for dir in [copy.path(), dir.path()] {
        let (store, writer) = Embedded::open(dir).unwrap();
        assert_eq!(listed(&store).await, tasks);
        let events = store.outbox_after(0, usize::MAX).await.unwrap();
        let seqs: Vec<u64> = events.iter().map(|entry| entry.seq).collect();
        assert_eq!(seqs, [1, 2, 3]);
        assert_eq!(store.outbox().borrow().waiting, 3);
        close(store, writer).await;
    }
}

/// The log is on disk, so nothing is lost; and changes are refused before there is too much of it.
#[tokio::test]
async fn a_database_that_cannot_be_written_refuses_changes_until_it_can_and_loses_none() {
    let dir = tempfile::tempdir().unwrap();
    let disk = BadDisk::default();
    let limits = Limits { generation_bytes: 4_096, ..Limits::default() };
    let (store, writer) = Embedded::open_on(Arc::new(disk.clone()), dir.path(), limits).unwrap();
    disk.0.set(&disk.0.database_syncs_fail, true);
    let mut tasks = Vec::new();
    let refused = loop {
        match store.mutate(create()).await {
            Ok(Outcome::Done(task)) => tasks.push(Task::clone(&task)),
            refused => break refused,
        }
    };
    // Unavailable: while the database is opened again, in vain.
    assert!(matches!(refused, Err(StoreError::Refused(_) | StoreError::Unavailable(_))), "{refused:?}");
    assert!(store.failure().unwrap().contains("tasks.redb"), "{:?}", store.failure());
    disk.0.set(&disk.0.database_syncs_fail, false);
    taken_again(&store).await;
    for _ in 0..20 {
        tasks.push(created(&store).await);
    }
    assert_eq!(listed(&store).await, tasks);
    close(store, writer).await;
    let (store, writer) = Embedded::open(dir.path()).unwrap();
    assert_eq!(listed(&store).await, tasks);
    assert_eq!(store.outbox().borrow().waiting, tasks.len() as u64);
    close(store, writer).await;
}
