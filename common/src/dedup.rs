//! The ids of handled events, on disk, in bounded memory.
//!
//! A store of redb with two tables: the ids, and the order in which they came, by which old ones are
//! forgotten if the store has a window. Beside them stands one mark, a few bytes of the owner's that are
//! written in the same transaction as the ids they belong to.
//!
//! # Invariants
//!
//! - Ids and mark are one transaction: a crash leaves both or neither.
//! - Opening takes the same time however many ids there are: every durable commit saves what redb needs to
//!   open after a crash (`set_quick_repair`).
//! - After an I/O error the store is closed and opened again by the next call, as redb demands; what was
//!   not committed is gone, and the call that failed said so.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redb::{Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use tokio::task::spawn_blocking;
use uuid::Uuid;

use crate::disk::{self, Disk, FileSystem};

/// Id → when it was recorded, in milliseconds since 1970; where all are kept, its number: 0 for the first.
const IDS: TableDefinition<[u8; 16], u64> = TableDefinition::new("ids");
/// The same, the other way round.
const BY_TIME: TableDefinition<(u64, [u8; 16]), ()> = TableDefinition::new("by_time");
const MARK: TableDefinition<(), &[u8]> = TableDefinition::new("mark");

/// Memory that redb may use for pages, in bytes. Ids mostly rise with time, so that the pages in use are
/// few: four times as much was no faster.
const CACHE: usize = 2 << 20;
/// Old ids forgotten for each new one, so that the work is spread.
const FORGET_PER_ID: usize = 2;
/// Batches between two durable commits, where the owner can bring back what is lost.
const SELDOM: u32 = 64;

/// How long ids are kept, and how safely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// Ids older than this are forgotten; each batch is on disk when [`Dedup::record`] returns.
    Window(Duration),
    /// All ids are kept, and numbered: the owner adds them with [`Dedup::append`]. A crash, or an I/O error,
    /// may take the last batches with it. The owner has them elsewhere: after either it compares the mark
    /// with what it knows, and adds again what is missing.
    ForeverRebuildable,
}

/// Why the store failed, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("dedup state {path}: {detail}")]
pub struct DedupError {
    path: String,
    detail: String,
}

/// The set of handled ids. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Dedup(Arc<Store>);

#[derive(Debug)]
struct Store {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    retention: Retention,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    database: Option<Database>,
    /// Commits since the last durable one.
    not_durable: u32,
}

impl Dedup {
    /// Opens the store, or makes it. Blocks.
    pub fn open(path: &Path, retention: Retention) -> Result<Self, DedupError> {
        Self::open_on(Arc::new(FileSystem), path, retention)
    }

    /// As [`open`](Self::open), on that disk.
    pub fn open_on(disk: Arc<dyn Disk>, path: &Path, retention: Retention) -> Result<Self, DedupError> {
        let store = Store { disk, path: path.to_owned(), retention, open: Mutex::default() };
        drop(store.opened()?);
        Ok(Self(Arc::new(store)))
    }

    /// Which of the ids are known.
    pub async fn known(&self, ids: Vec<Uuid>) -> Result<Vec<bool>, DedupError> {
        self.blocking(move |store| store.known(&ids)).await
    }

    /// Adds the ids, and sets the mark if there is one. For a window; where all are kept, see
    /// [`append`](Self::append).
    pub async fn record(&self, ids: Vec<Uuid>, mark: Option<Vec<u8>>) -> Result<(), DedupError> {
        self.blocking(move |store| store.record(&ids, mark.as_deref(), since_1970())).await
    }

    /// Adds those of the ids that are new, under the next numbers, and sets the mark that `mark` makes of the
    /// number of all ids. Returns that number. On disk when it returns only if `durable`. Blocks.
    pub fn append(
        &self,
        ids: &[Uuid],
        durable: bool,
        mark: impl FnOnce(u64) -> Vec<u8>,
    ) -> Result<u64, DedupError> {
        self.0.with(|open, retention| {
            let mut total = 0;
            commit(open, retention, durable, |write| {
                let mut table = write.open_table(IDS)?;
                total = table.len()?;
                for id in ids {
                    if table.get(id.into_bytes())?.is_none() {
                        table.insert(id.into_bytes(), total)?;
                        total += 1;
                    }
                }
                write.open_table(MARK)?.insert((), mark(total).as_slice())?;
                Ok(())
            })?;
            Ok(total)
        })
    }

    /// Forgets all ids but the first `kept`, and sets the mark, in one durable transaction. Takes time with
    /// the number of all ids. Blocks.
    pub fn truncate(&self, kept: u64, mark: &[u8]) -> Result<(), DedupError> {
        self.0.with(|open, retention| {
            commit(open, retention, true, |write| {
                if kept == 0 {
                    write.delete_table(IDS)?;
                }
                write.open_table(IDS)?.retain(|_, number| number < kept)?;
                write.open_table(MARK)?.insert((), mark)?;
                Ok(())
            })
        })
    }

    /// The numbers of those ids that were added with [`append`](Self::append). Blocks.
    pub fn numbers(&self, ids: &[Uuid]) -> Result<Vec<Option<u64>>, DedupError> {
        self.0.numbers(ids)
    }

    /// The number of ids. Takes the same time however many there are. Blocks.
    pub fn len(&self) -> Result<u64, DedupError> {
        self.0.with(|open, _| {
            let read = database(open)?.begin_read()?;
            Ok(read.open_table(IDS)?.len()?)
        })
    }

    /// Whether there are none. Blocks.
    pub fn is_empty(&self) -> Result<bool, DedupError> {
        Ok(self.len()? == 0)
    }

    /// The mark, if one was ever set. Blocks.
    pub fn mark(&self) -> Result<Option<Vec<u8>>, DedupError> {
        self.0.with(|open, _| {
            let read = database(open)?.begin_read()?;
            Ok(read.open_table(MARK)?.get(())?.map(|mark| mark.value().to_vec()))
        })
    }

    /// Makes all that was recorded durable. Blocks.
    pub fn checkpoint(&self) -> Result<(), DedupError> {
        self.0.with(|open, retention| commit(open, retention, true, |_| Ok(())))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, DedupError> + Send + 'static,
    ) -> Result<T, DedupError> {
        let store = Arc::clone(&self.0);
        let joined = spawn_blocking(move || work(&store)).await;
        joined.unwrap_or_else(|error| Err(self.0.error(error)))
    }
}

impl Store {
    fn known(&self, ids: &[Uuid]) -> Result<Vec<bool>, DedupError> {
        Ok(self.numbers(ids)?.into_iter().map(|number| number.is_some()).collect())
    }

    fn numbers(&self, ids: &[Uuid]) -> Result<Vec<Option<u64>>, DedupError> {
        self.with(|open, _| {
            let read = database(open)?.begin_read()?;
            let table = read.open_table(IDS)?;
            ids.iter().map(|id| Ok(table.get(id.into_bytes())?.map(|value| value.value()))).collect()
        })
    }

    fn record(&self, ids: &[Uuid], mark: Option<&[u8]>, now: u64) -> Result<(), DedupError> {
        self.with(|open, retention| {
            commit(open, retention, false, |write| {
                let mut table = write.open_table(IDS)?;
                if let Some(mark) = mark {
                    write.open_table(MARK)?.insert((), mark)?;
                }
                let Retention::Window(window) = retention else {
                    for id in ids {
                        table.insert(id.into_bytes(), now)?;
                    }
                    return Ok(());
                };
                let mut by_time = write.open_table(BY_TIME)?;
                for id in ids {
                    if let Some(before) = table.insert(id.into_bytes(), now)? {
                        by_time.remove((before.value(), id.into_bytes()))?;
                    }
                    by_time.insert((now, id.into_bytes()), ())?;
                }
                let oldest_kept = now.saturating_sub(u64::try_from(window.as_millis()).unwrap_or(u64::MAX));
                for _ in 0..ids.len() * FORGET_PER_ID {
                    let Some((time, id)) = by_time.first()?.map(|(key, _)| key.value()) else { break };
                    if time >= oldest_kept {
                        break;
                    }
                    by_time.remove((time, id))?;
                    table.remove(id)?;
                }
                Ok(())
            })
        })
    }

    /// Runs one transaction. After a failure the store is closed: redb takes nothing more after an I/O
    /// error until it is opened anew.
    fn with<T>(
        &self,
        work: impl FnOnce(&mut Open, Retention) -> Result<T, redb::Error>,
    ) -> Result<T, DedupError> {
        let mut open = self.opened()?;
        work(&mut open, self.retention).map_err(|error| {
            *open = Open::default();
            self.error(error)
        })
    }

    fn opened(&self) -> Result<MutexGuard<'_, Open>, DedupError> {
        // A panic elsewhere leaves no half-done state here: redb's transactions are whole or not at all.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.database.is_none() {
            let fresh = create(&*self.disk, &self.path).map_err(|error| self.error(error))?;
            *open = Open { database: Some(fresh), not_durable: 0 };
        }
        Ok(open)
    }

    fn error(&self, detail: impl ToString) -> DedupError {
        DedupError { path: self.path.display().to_string(), detail: detail.to_string() }
    }
}

fn create(disk: &dyn Disk, path: &Path) -> Result<Database, redb::Error> {
    let database = disk::open_or_create(disk, path, Database::builder().set_cache_size(CACHE))?;
    let mut write = database.begin_write()?;
    write.set_quick_repair(true);
    // Tables exist from the start, so that a read need not ask.
    write.open_table(IDS)?;
    write.open_table(BY_TIME)?;
    write.open_table(MARK)?;
    write.commit()?;
    Ok(database)
}

fn database(open: &Open) -> Result<&Database, redb::Error> {
    open.database.as_ref().ok_or(redb::Error::DatabaseClosed)
}

fn commit(
    open: &mut Open,
    retention: Retention,
    durable: bool,
    work: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
) -> Result<(), redb::Error> {
    let mut write = database(open)?.begin_write()?;
    let durable = durable || retention != Retention::ForeverRebuildable || open.not_durable >= SELDOM;
    if durable {
        write.set_quick_repair(true);
    } else {
        write.set_durability(Durability::None)?;
    }
    work(&write)?;
    write.commit()?;
    open.not_durable = if durable { 0 } else { open.not_durable + 1 };
    Ok(())
}

fn since_1970() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(n: usize) -> Vec<Uuid> {
        (0..n).map(|_| Uuid::now_v7()).collect()
    }

    #[tokio::test]
    async fn what_was_recorded_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dedup");
        let handled = ids(100);
        let dedup = Dedup::open(&path, Retention::Window(Duration::from_secs(60))).unwrap();
        dedup.record(handled.clone(), Some(b"mark".to_vec())).await.unwrap();
        drop(dedup);
        let dedup = Dedup::open(&path, Retention::Window(Duration::from_secs(60))).unwrap();
        assert!(dedup.known(handled).await.unwrap().into_iter().all(|known| known));
        assert!(!dedup.known(ids(1)).await.unwrap()[0]);
        assert_eq!(dedup.mark().unwrap().as_deref(), Some(b"mark".as_slice()));
        assert_eq!(dedup.len().unwrap(), 100);
    }

    #[tokio::test]
    async fn the_window_bounds_what_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let dedup = Dedup::open(&dir.path().join("dedup"), Retention::Window(Duration::ZERO)).unwrap();
        for _ in 0..20 {
            dedup.record(ids(50), None).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(dedup.len().unwrap() <= 100, "{}", dedup.len().unwrap());
    }

    #[test]
    fn ids_that_are_kept_for_ever_are_numbered_once_and_forgotten_from_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let dedup = Dedup::open(&dir.path().join("dedup"), Retention::ForeverRebuildable).unwrap();
        let [first, second] = [ids(3), ids(2)];
        let mark = |total: u64| total.to_be_bytes().to_vec();
        assert_eq!(dedup.append(&first, false, mark).unwrap(), 3);
        assert_eq!(dedup.append(&[first[1], second[0], second[0], second[1]], true, mark).unwrap(), 5);
        assert_eq!(dedup.numbers(&second).unwrap(), [Some(3), Some(4)]);
        assert_eq!(dedup.mark().unwrap(), Some(mark(5)));
        dedup.truncate(4, b"cut").unwrap();
        assert_eq!((dedup.len().unwrap(), dedup.numbers(&second).unwrap()), (4, vec![Some(3), None]));
        dedup.truncate(0, b"none").unwrap();
        assert_eq!((dedup.len().unwrap(), dedup.mark().unwrap().unwrap()), (0, b"none".to_vec()));
        assert_eq!(dedup.append(&second, false, mark).unwrap(), 2);
    }

    #[tokio::test]
    async fn a_clock_that_is_set_back_forgets_nothing_and_one_set_forward_no_more_than_it_has_to() {
        const DAY: u64 = 24 * 60 * 60 * 1_000;
        let dir = tempfile::tempdir().unwrap();
        let window = Retention::Window(Duration::from_millis(8 * DAY));
        let dedup = Dedup::open(&dir.path().join("dedup"), window).unwrap();
        let today = 20_000 * DAY;
        let [first, back, forward] = [ids(3), ids(3), ids(3)];
        let all_known =
            async |ids: &Vec<Uuid>| dedup.known(ids.clone()).await.unwrap().into_iter().all(|known| known);
        dedup.0.record(&first, None, today).unwrap();
        dedup.0.record(&back, None, today - 30 * DAY).unwrap();
        assert!(all_known(&first).await && all_known(&back).await);
        dedup.0.record(&forward, None, today + 7 * DAY).unwrap();
        assert!(all_known(&first).await && all_known(&forward).await);
        assert!(!all_known(&back).await, "by the clock now they are older than the window");
    }

    #[tokio::test]
    async fn a_store_that_cannot_be_opened_says_where() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dedup");
        std::fs::write(&path, b"this is not a redb file, and long enough to be looked at").unwrap();
        let error = Dedup::open(&path, Retention::ForeverRebuildable).unwrap_err().to_string();
        assert!(error.contains("dedup") && !error.contains('\n'), "{error}");
    }
}
