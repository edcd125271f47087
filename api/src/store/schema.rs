//! The tables of the store's file, and opening it.

use std::io;
use std::path::Path;

use redb::{
    Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use task_events::disk::{self, Disk};
use uuid::Uuid;

use super::failure::Unreadable;
use super::{OutboxEntry, OutboxState};
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
/// Sequence number → [`OutboxValue`] as JSON.
pub(super) const OUTBOX: TableDefinition<u64, &[u8]> = TableDefinition::new("outbox");
/// Partition → the offset behind the last event that is known to stand in it.
pub(super) const POSITIONS: TableDefinition<i32, i64> = TableDefinition::new("positions");
/// [`PublishedTopic`]: topic id, partitions.
pub(super) const PUBLISHED_TOPIC: TableDefinition<(), (u128, i32)> = TableDefinition::new("published_topic");
/// The last sequence number that was given. It outlives the outbox's entries.
pub(super) const LAST_SEQ: TableDefinition<(), u64> = TableDefinition::new("last_seq");
/// Idempotency key → [`StoredAnswer`] as JSON.
pub(super) const ANSWERS: TableDefinition<&str, &[u8]> = TableDefinition::new("answers");
/// (when it expires in milliseconds since 1970, idempotency key)
pub(super) const ANSWERS_BY_EXPIRY: TableDefinition<(u64, &str), ()> =
    TableDefinition::new("answers_by_expiry");

/// An event as it waits.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OutboxValue {
    pub(super) event: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) traceparent: Option<String>,
}

/// The topic that the positions are about, and by how many partitions its events are spread. Another count
/// is used only after all that was sent by this one has been acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedTopic {
    /// Its id, by which a topic that was created again is told apart; nil where the broker has none.
    pub topic_id: Uuid,
    /// How many partitions are used.
    pub partitions: i32,
}

impl From<(u128, i32)> for PublishedTopic {
    fn from((topic_id, partitions): (u128, i32)) -> Self {
        Self { topic_id: Uuid::from_u128(topic_id), partitions }
    }
}

impl PublishedTopic {
    /// Whether this is a topic that was created again. By its id, or, where there is none, because a topic
    /// never loses partitions.
    pub fn is_another_than(&self, before: &Self) -> bool {
        let have_ids = !self.topic_id.is_nil() && !before.topic_id.is_nil();
        (have_ids && self.topic_id != before.topic_id) || self.partitions < before.partitions
    }

    pub(super) fn into_value(self) -> (u128, i32) {
        (self.topic_id.as_u128(), self.partitions)
    }
}

/// What was answered under an idempotency key.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredAnswer {
    pub(super) fingerprint: String,
    pub(super) expires_ms: u64,
    pub(super) task: Task,
}

/// Events that Kafka has, to be taken out of the outbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Their sequence numbers.
    pub seqs: Vec<u64>,
    /// For each partition concerned: the offset behind the last of them.
    pub positions: Vec<(i32, i64)>,
}

/// Opens the file, or makes it with all its tables.
pub(super) fn open(disk: &dyn Disk, path: &Path) -> Result<(Database, OutboxState), redb::Error> {
    let database = disk::open_or_create(disk, path, Database::builder().set_cache_size(CACHE))?;
    if database.begin_read()?.open_table(PUBLISHED_TOPIC).is_err() {
        let write = begin(&database)?;
        write.open_table(TASKS)?;
        write.open_table(BY_STATUS)?;
        write.open_table(BY_OWNER)?;
        write.open_table(OUTBOX)?;
        write.open_table(POSITIONS)?;
        write.open_table(PUBLISHED_TOPIC)?;
        write.open_table(LAST_SEQ)?;
        write.open_table(ANSWERS)?;
        write.open_table(ANSWERS_BY_EXPIRY)?;
        write.commit()?;
    }
    let outbox = outbox_state(&database)?;
    Ok((database, outbox))
}

/// Opens the file, which must be there: an empty one in its place would be a loss that nobody sees.
pub(super) fn reopen(disk: &dyn Disk, path: &Path) -> Result<(Database, OutboxState), redb::Error> {
    let database = disk.open(path, Database::builder().set_cache_size(CACHE))?;
    let outbox = outbox_state(&database)?;
    Ok((database, outbox))
}

fn outbox_state(database: &Database) -> Result<OutboxState, redb::Error> {
    let read = database.begin_read()?;
    let last_seq = read.open_table(LAST_SEQ)?.get(())?.map_or(0, |seq| seq.value());
    let waiting = read.open_table(OUTBOX)?.len()?;
    Ok(OutboxState { last_seq, waiting })
}

/// Commits a transaction that changes nothing.
pub(super) fn touch(database: &Database) -> Result<(), redb::Error> {
    let write = begin(database)?;
    write.open_table(POSITIONS)?;
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

pub(super) fn read_task(id: Uuid, json: &[u8]) -> Result<Task, Unreadable> {
    decode(|| format!("task {id}"), json)
}

pub(super) fn read_outbox(seq: u64, json: &[u8]) -> Result<OutboxEntry, Unreadable> {
    let what = || format!("event {seq} of the outbox");
    let value: OutboxValue = decode(what, json)?;
    let json = value.event.get().as_bytes().to_vec();
    let event = decode(what, &json)?;
    Ok(OutboxEntry { seq, event, json, traceparent: value.traceparent })
}

pub(super) fn read_answer(key: &str, json: &[u8]) -> Result<StoredAnswer, Unreadable> {
    decode(|| format!("the answer under the Idempotency-Key {key:?}"), json)
}

/// What this program wrote it can read; if not, the value is damaged.
fn decode<T: DeserializeOwned>(what: impl FnOnce() -> String, json: &[u8]) -> Result<T, Unreadable> {
    serde_json::from_slice(json).map_err(|error| Unreadable::new(what(), error))
}

pub(super) fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>, redb::Error> {
    serde_json::to_vec(value).map_err(|error| redb::Error::Io(io::Error::other(error)))
}
