//! The embedded store as it is read for a move: closed in order before, so that its database has all of its log.

use std::fs;
use std::ops::Bound;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread::JoinHandle;

use redb::{Database, ReadableDatabase, ReadableTableMetadata};
use rustix::process::geteuid;
use task_events::error_code::Code;
use task_events::state_dir::StateDir;
use uuid::Uuid;

use super::super::answers::Answers;
use super::super::failure::{StoreError, Unreadable};
use super::super::moved::Contents;
use super::super::schema::{self, ANSWERS, FORMER, Meta, TASKS, read_task};
use super::super::{Embedded, Store};
use super::batch::Batch;
use super::error::ImportError;
use super::staging::Part;

/// Values of a batch.
const BATCH: usize = 2_000;
/// Bytes of a batch, about, so that a slow line has it within the time of a statement.
const BATCH_BYTES: usize = 1 << 20;
/// What a value takes beside its title or payload, about.
const VALUE_OVERHEAD: usize = 128;

/// An embedded store that nobody else has open.
pub(super) struct Source {
    embedded: Embedded,
    writer: JoinHandle<()>,
    meta: Meta,
}

/// Locks the folder of the store. Blocks.
pub(super) fn lock(root: &Path, name: &str) -> Result<StateDir, ImportError> {
    let dir = root.join(name);
    // Not made where it is missing: that would be the wrong folder.
    if !Store::is_in(&dir) {
        return Err(ImportError::Refused(format!(
            "{} holds no embedded store: set STATE_DIR to the folder that the API had",
            dir.display()
        )));
    }
    refuse_stranger(&dir)?;
    Ok(StateDir::open(root, name)?)
}

/// Root could do it for the user whose files they are, who then could not open what root has written.
fn refuse_stranger(dir: &Path) -> Result<(), ImportError> {
    let owner = fs::metadata(dir.join("tasks.redb")).map_or(0, |file| file.uid());
    if owner == 0 || !geteuid().is_root() {
        return Ok(());
    }
    Err(ImportError::Refused(format!(
        "{} belongs to the user with the id {owner}, who could not open what root writes there: run the import as that user",
        dir.display()
    )))
}

impl Source {
    /// Opens the store of a folder that is locked. Blocks.
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        // What is in its log goes into its database, as with each stop in order.
        let (embedded, writer) = Embedded::open(dir)?;
        drop(embedded);
        join(writer);
        let (embedded, writer) = Embedded::open(dir)?;
        let meta = {
            let unapplied = embedded.shared.overlay().unapplied();
            let database = embedded.shared.database.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            let database = database.as_ref().map_err(|why| StoreError::Unavailable(why.clone()))?;
            schema::read_meta(database)?.filter(|_| unapplied == 0)
        };
        let meta = meta.ok_or_else(|| {
            let why = "what is in its log (tasks.log-*) could not be put into tasks.redb: look at the free space, and start the API on it once";
            StoreError::Unavailable(format!("{}: {why}", dir.display()))
        })?;
        Ok(Self { embedded, writer, meta })
    }

    /// Returns when its files are closed. Blocks.
    pub(super) fn close(self) {
        drop(self.embedded);
        join(self.writer);
    }

    /// Tells this store apart from others.
    pub(super) fn id(&self) -> Uuid {
        self.meta.store
    }

    /// Rises with each change, and with whatever is noted of deliveries.
    pub(super) fn position(&self) -> u64 {
        self.meta.applied.seq
    }

    pub(super) async fn contents(&self) -> Result<Contents, ImportError> {
        let count = |database: &Database| {
            let read = database.begin_read()?;
            let former_answers = match read.open_table(FORMER) {
                Ok(former) => former.len()?,
                Err(redb::TableError::TableDoesNotExist(_)) => 0,
                Err(error) => return Err(error.into()),
            };
            let (tasks, answers) = (read.open_table(TASKS)?.len()?, read.open_table(ANSWERS)?.len()?);
            Ok(Contents { tasks, answers, former_answers, events: 0 })
        };
        let contents = self.embedded.read(count).await?;
        let events = self.embedded.outbox().borrow().waiting;
        Ok(Contents { events, ..contents })
    }

    /// What follows behind `last`, if anything does.
    pub(super) async fn batch(&self, part: Part, last: Option<&[u8]>) -> Result<Option<Batch>, ImportError> {
        match part {
            Part::Tasks => self.tasks(last.and_then(|last| last.try_into().ok())).await,
            Part::FormerAnswers => self.former_answers(last.unwrap_or_default()).await,
            Part::Answers => self.answers(number(last)).await,
            Part::Events => self.events(number(last)).await,
        }
    }

    async fn tasks(&self, after: Option<[u8; 16]>) -> Result<Option<Batch>, ImportError> {
        let read = move |database: &Database| {
            let read = database.begin_read()?;
            let behind = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
            let tasks = read.open_table(TASKS)?.range::<[u8; 16]>(behind)?.take(BATCH).map(|entry| {
                let (id, json) = entry?;
                Ok(read_task(Uuid::from_bytes(id.value()), json.value()))
            });
            tasks.collect::<Result<Vec<_>, redb::Error>>()
        };
        let tasks: Result<Vec<_>, Unreadable> = self.embedded.read(read).await?.into_iter().collect();
        let mut tasks = tasks?;
        limit_bytes(&mut tasks, |task| task.title.len());
        Ok(Batch::of_tasks(&tasks))
    }

    async fn former_answers(&self, after: &[u8]) -> Result<Option<Batch>, ImportError> {
        let after = String::from_utf8_lossy(after).into_owned();
        let read = move |database: &Database| Answers::kept_before(&database.begin_read()?, &after, BATCH);
        let answers: Result<Vec<_>, Unreadable> = self.embedded.read(read).await?.into_iter().collect();
        let mut answers = answers?;
        limit_bytes(&mut answers, |(key, answer)| key.len() + answer.task.title.len());
        let last = answers.last().map(|(key, _)| key.as_bytes().to_vec());
        Ok(last.map(|last| Batch::of_answers(answers, last)))
    }

    async fn answers(&self, after: Option<u64>) -> Result<Option<Batch>, ImportError> {
        let from = after.map_or(0, |after| after + 1);
        let read = move |database: &Database| Answers::kept(&database.begin_read()?, from, BATCH);
        let mut kept = self.embedded.read(read).await?;
        limit_bytes(&mut kept, |(_, answer)| {
            answer.as_ref().map_or(0, |(key, answer)| key.len() + answer.task.title.len())
        });
        let Some((last, _)) = kept.last() else { return Ok(None) };
        let last = last.to_be_bytes().to_vec();
        let answers: Result<Vec<_>, Unreadable> = kept.into_iter().map(|(_, answer)| answer).collect();
        Ok(Some(Batch::of_answers(answers?, last)))
    }

    async fn events(&self, after: Option<u64>) -> Result<Option<Batch>, ImportError> {
        let from = after.map_or(0, |after| after + 1);
        let mut scan = self.embedded.outbox_scan(from, BATCH, |_, _| true).await?;
        if let Some(unreadable) = scan.unreadable.into_iter().next() {
            return Err(unreadable.into());
        }
        if limit_bytes(&mut scan.entries, |entry| entry.payload.len()) {
            scan.next = scan.entries.last().map_or(scan.next, |last| last.seq + 1);
        }
        let is_new = scan.next > from;
        Ok(is_new.then(|| Batch::of_events(&scan.entries, scan.next - 1)))
    }
}

/// Leaves out those behind the first ones that have [`BATCH_BYTES`]. Whether there are any.
fn limit_bytes<T>(values: &mut Vec<T>, size: impl Fn(&T) -> usize) -> bool {
    let (mut bytes, before) = (0, values.len());
    let fit = values.iter().take_while(|value| {
        let is_full = bytes >= BATCH_BYTES;
        bytes += size(value) + VALUE_OVERHEAD;
        !is_full
    });
    let fit = fit.count();
    values.truncate(fit);
    fit < before
}

/// A number as batches name it.
fn number(last: Option<&[u8]>) -> Option<u64> {
    last.and_then(|last| last.try_into().ok()).map(u64::from_be_bytes)
}

fn join(writer: JoinHandle<()>) {
    if writer.join().is_err() {
        log::error!("the store's writer panicked; what was answered is on disk {}", Code::Panic);
    }
}
