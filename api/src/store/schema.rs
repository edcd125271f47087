//! The tables of the database, and opening it.

use std::path::Path;

use redb::{
    Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use task_events::disk::{self, Disk};
use uuid::Uuid;

use super::delivery::{OutboxEntry, PublishedTopic};
use super::failure::Unreadable;
use super::moved::Moved;
use super::operation::EventBytes;
use super::outbox::Stored;
use super::wal::Position;
use crate::event_format::Encoding;
use crate::task::Task;

/// Memory that redb may use for pages, in bytes. Half of it takes what a transaction changes; four times as
/// much was no faster.
const CACHE: usize = 8 << 20;

/// Task id → the task as JSON. Ids are version 7 and given by the writer: their order is that of creation.
pub(super) const TASKS: TableDefinition<[u8; 16], &[u8]> = TableDefinition::new("tasks");
/// (status, task id)
pub(super) const BY_STATUS: TableDefinition<(u8, [u8; 16]), ()> = TableDefinition::new("tasks_by_status");
/// (owner, status, task id)
pub(super) const BY_OWNER: TableDefinition<([u8; 16], u8, [u8; 16]), ()> =
    TableDefinition::new("tasks_by_owner");
/// Number → format, when it expires, key, fingerprint, task.
pub(super) const ANSWERS: TableDefinition<u64, &[u8]> = TableDefinition::new("answers_by_number");
/// The number of the index's first key, and the number that the next answer gets.
pub(super) const NUMBERS: TableDefinition<(), (u64, u64)> = TableDefinition::new("answer_numbers");
/// What a former version had: idempotency key → [`FormerAnswer`] as JSON.
pub(super) const FORMER: TableDefinition<&str, &[u8]> = TableDefinition::new("answers");
/// And (when it expires in milliseconds since 1970, idempotency key).
pub(super) const FORMER_BY_EXPIRY: TableDefinition<(u64, &str), ()> =
    TableDefinition::new("answers_by_expiry");
/// [`Meta`] as JSON. The name is that of a table of former versions, with other types: a program that does not
/// know the log refuses the file, rather than to go on without it.
pub(super) const META: TableDefinition<(), &[u8]> = TableDefinition::new("published_topic");

/// What former versions had in place of the log. Sequence number → [`OutboxValue`] as JSON.
pub(super) const OUTBOX: TableDefinition<u64, &[u8]> = TableDefinition::new("outbox");
const FORMER_POSITIONS: TableDefinition<i32, i64> = TableDefinition::new("positions");
const FORMER_TOPIC: TableDefinition<(), (u128, i32)> = TableDefinition::new("published_topic");
const FORMER_LAST_SEQ: TableDefinition<(), u64> = TableDefinition::new("last_seq");

/// Space for a task or an event as JSON, with a title of usual length.
const JSON_BYTES: usize = 512;

/// The format of [`Meta`] and of the log. It rises with the first deletion: versions that know no deletions would
/// take one whose event still waits in the log for damage.
const FORMAT: u32 = 1;
const FORMAT_WITH_DELETIONS: u32 = 2;
/// That of a store which was moved into a database: versions that do not know the mark refuse it, too.
const FORMAT_MOVED: u32 = 3;

/// What belongs to the changes that the database has.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Meta {
    format: u32,
    /// Tells segments of this store apart from those of others.
    pub(super) store: Uuid,
    /// Up to where the database has the log.
    pub(super) applied: Position,
    pub(super) outbox: Stored,
    /// Where the tasks are in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) moved: Option<Moved>,
    /// The format before it was moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    format_before: Option<u32>,
}

/// An event as it waited in the table of a former version.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OutboxValue {
    pub(super) event: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) traceparent: Option<String>,
}

/// An answer as former versions stored it.
#[derive(Deserialize)]
pub(super) struct FormerAnswer {
    pub(super) fingerprint: String,
    pub(super) expires_ms: u64,
    pub(super) task: Task,
}

/// A fingerprint as it is stored: a hexadecimal one in half the bytes.
pub(super) fn fingerprint(text: &str) -> Box<[u8]> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    match bytes.collect::<Option<Box<[u8]>>>() {
        Some(bytes) if rest.is_empty() && bytes.len() == 32 => bytes,
        _ => text.as_bytes().into(),
    }
}

impl Meta {
    fn new(outbox: Stored) -> Self {
        let (store, applied) = (Uuid::new_v4(), Position::default());
        Self { format: FORMAT, store, applied, outbox, moved: None, format_before: None }
    }

    /// Of a store whose tasks come from a database: it may have events of deletions.
    pub(super) fn arriving(&self, outbox: Stored, moved: Moved) -> Self {
        let mut meta = self.at(self.applied, outbox);
        meta.has_deletions();
        meta.marked(Some(moved))
    }

    pub(super) fn at(&self, applied: Position, outbox: Stored) -> Self {
        Self { applied, outbox, ..self.clone() }
    }

    /// With that mark, or without one.
    pub(super) fn marked(&self, moved: Option<Moved>) -> Self {
        let before = self.format_before.unwrap_or(self.format);
        let (format, format_before) =
            if moved.is_some() { (FORMAT_MOVED, Some(before)) } else { (before, None) };
        Self { format, format_before, moved, ..self.clone() }
    }

    /// From the first deletion on.
    pub(super) fn has_deletions(&mut self) {
        self.format = FORMAT_WITH_DELETIONS;
    }
}

/// Opens the file, or makes it with all its tables; brings one of a former version up to date.
pub(super) fn open(disk: &dyn Disk, path: &Path) -> Result<(Database, Meta), redb::Error> {
    let database = disk::open_or_create(disk, path, Database::builder().set_cache_size(CACHE))?;
    if let Some(meta) = read_meta(&database)? {
        return Ok((database, meta));
    }
    let write = begin(&database)?;
    write.open_table(TASKS)?;
    write.open_table(BY_STATUS)?;
    write.open_table(BY_OWNER)?;
    write.open_table(OUTBOX)?;
    write.open_table(ANSWERS)?;
    write.open_table(NUMBERS)?;
    let outbox = take_former(&write)?;
    let meta = Meta::new(outbox);
    write_meta(&write, &meta)?;
    write.commit()?;
    Ok((database, meta))
}

/// What a former version stored beside the tasks, which is in [`Meta`] from now on.
fn take_former(write: &WriteTransaction) -> Result<Stored, redb::Error> {
    let mut outbox = Stored::default();
    for (partition, offset) in write.open_table(FORMER_POSITIONS)?.range::<i32>(..)?.flatten() {
        outbox.positions.insert(partition.value(), offset.value());
    }
    if let Some(topic) = write.open_table(FORMER_TOPIC)?.get(())? {
        let (topic_id, partitions) = topic.value();
        outbox.publish_to(PublishedTopic { topic_id: Uuid::from_u128(topic_id), partitions });
    }
    if let Some(seq) = write.open_table(FORMER_LAST_SEQ)?.get(())? {
        outbox.last_seq = seq.value();
    }
    write.delete_table(FORMER_POSITIONS)?;
    write.delete_table(FORMER_TOPIC)?;
    write.delete_table(FORMER_LAST_SEQ)?;
    Ok(outbox)
}

/// `None`: it is of a version before the log.
pub(super) fn read_meta(database: &Database) -> Result<Option<Meta>, redb::Error> {
    let read = database.begin_read()?;
    let table = match read.open_table(META) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_) | redb::TableError::TableTypeMismatch { .. }) => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let Some(stored) = table.get(())? else { return Ok(None) };
    let damaged = |why: String| redb::Error::Corrupted(why);
    let meta: Meta = serde_json::from_slice(stored.value())
        .map_err(|error| damaged(format!("its position in the log cannot be read: {error}")))?;
    if meta.format > FORMAT_MOVED {
        let format = meta.format;
        return Err(damaged(format!(
            "it has format {format}, and this program knows {FORMAT_MOVED}: start a newer one"
        )));
    }
    Ok(Some(meta))
}

pub(super) fn write_meta(write: &WriteTransaction, meta: &Meta) -> Result<(), redb::Error> {
    let json = to_json(meta)?;
    write.open_table(META)?.insert((), json.as_slice())?;
    Ok(())
}

/// Opens the file, which must be there: an empty one in its place would be a loss that nobody sees.
pub(super) fn reopen(disk: &dyn Disk, path: &Path) -> Result<(Database, Meta), redb::Error> {
    let (database, meta) = open_present(disk, path)?;
    Ok((database, meta.ok_or_else(|| redb::Error::Corrupted("it has no position".to_owned()))?))
}

/// Opens the file, which must be there, of whatever version.
pub(super) fn open_present(disk: &dyn Disk, path: &Path) -> Result<(Database, Option<Meta>), redb::Error> {
    let database = disk.open(path, Database::builder().set_cache_size(CACHE))?;
    let meta = read_meta(&database)?;
    Ok((database, meta))
}

/// Commits a transaction that changes nothing.
pub(super) fn touch(database: &Database) -> Result<(), redb::Error> {
    let write = begin(database)?;
    write.open_table(TASKS)?;
    Ok(write.commit()?)
}

/// Begins a transaction whose commit is on disk when it returns, and saves what opening needs.
pub(super) fn begin(database: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut write = database.begin_write()?;
    write.set_quick_repair(true);
    Ok(write)
}

/// The task with the highest id.
pub(super) fn last_task(database: &Database) -> Result<Option<[u8; 16]>, redb::Error> {
    let read = database.begin_read()?;
    let tasks = read.open_table(TASKS)?;
    Ok(tasks.last()?.map(|(id, _)| id.value()))
}

/// How many events of a former version's table are not in the log yet.
pub(super) fn former_events(database: &Database) -> Result<u64, redb::Error> {
    Ok(database.begin_read()?.open_table(OUTBOX)?.len()?)
}

pub(super) fn read_task(id: Uuid, json: &[u8]) -> Result<Task, Unreadable> {
    decode(|| format!("task {id}"), json)
}

/// An event of a former version's table: itself as JSON, and its trace context.
pub(super) fn read_former_event(seq: u64, json: &[u8]) -> Result<OutboxEntry, Unreadable> {
    let value: OutboxValue = decode(|| event_name(seq), json)?;
    let (payload, traceparent) = (value.event.get().as_bytes(), value.traceparent.as_deref());
    read_event(seq, EventBytes { payload, encoding: Encoding::Json, traceparent })
}

pub(super) fn read_event(seq: u64, event: EventBytes<'_>) -> Result<OutboxEntry, Unreadable> {
    let EventBytes { payload, encoding, traceparent } = event;
    let event = encoding.decode(payload).map_err(|why| Unreadable::new(event_name(seq), why))?;
    let (payload, traceparent) = (payload.to_vec(), traceparent.map(str::to_owned));
    Ok(OutboxEntry { seq, event, payload, encoding, traceparent })
}

fn event_name(seq: u64) -> String {
    format!("event {seq} of the outbox")
}

/// What this program wrote it can read; if not, the value is damaged.
fn decode<T: DeserializeOwned>(what: impl FnOnce() -> String, json: &[u8]) -> Result<T, Unreadable> {
    serde_json::from_slice(json).map_err(|error| Unreadable::new(what(), error))
}

pub(super) fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>, redb::Error> {
    let mut json = Vec::with_capacity(JSON_BYTES);
    match serde_json::to_writer(&mut json, value) {
        Ok(()) => Ok(json),
        Err(error) => Err(redb::Error::Io(std::io::Error::other(error))),
    }
}
