//! The store on a disk that fails or hangs.

use std::fs::File;
use std::io;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use redb::StorageBackend;
use redb::backends::FileBackend;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::*;
use crate::task::{Change, NewTask};

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

/// A disk that hangs is no disk that fails: what is asked of the store's health says so all the same.
#[tokio::test]
#[allow(clippy::await_holding_lock, reason = "the disk hangs while it is held")]
async fn a_disk_that_hangs_is_a_failure_until_it_answers() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, writer) = Store::open(dir.path()).unwrap();
    store.patience = Duration::from_millis(50);
    let (_, hangs) = on_a_bad_disk(&store, dir.path());
    let hanging = hangs.lock().unwrap();
    assert_eq!(store.failure(), None);
    assert_eq!(store.mutate(create()).await, Err(StoreError::Slow));
    let failure = store.failure().unwrap();
    assert!(failure.contains("the disk has not answered"), "{failure}");

    drop(hanging);
    let mut outbox = store.outbox();
    timeout(PATIENCE, outbox.wait_for(|outbox| outbox.waiting == 1)).await.expect("it is done").unwrap();
    store.patience = PATIENCE;
    let Outcome::Done(_) = store.mutate(create()).await.unwrap() else { panic!() };
    assert_eq!(store.failure(), None);
    drop(store);
    tokio::task::spawn_blocking(move || writer.join()).await.unwrap().unwrap();
}
