//! Rows as values, and values as parameters.

use std::borrow::Borrow;

use chrono::{DateTime, Utc};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::super::delivery::OutboxEntry;
use super::super::failure::Unreadable;
use super::ledger::Pulled;
use crate::event_format::Encoding;
use crate::task::{Task, TaskStatus};

/// Parameters of an unnamed statement, with their types: no statement is prepared by name, which poolers that give
/// out a connection for each transaction do not know.
pub(in crate::store) type Parameters<'a> = Vec<Parameter<'a>>;
pub(in crate::store) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// The columns of a task, in the order of [`task`].
pub(in crate::store) const TASK: &str = "id, title, status, owner_id, version, created_at, updated_at";

/// Tasks as arrays: a column each, in the order of [`TASK`].
#[derive(Default)]
pub(in crate::store) struct TaskColumns {
    pub(super) ids: Vec<Uuid>,
    pub(super) titles: Vec<String>,
    pub(super) statuses: Vec<i16>,
    pub(super) owners: Vec<Option<Uuid>>,
    pub(super) versions: Vec<i64>,
    created: Vec<DateTime<Utc>>,
    pub(super) updated: Vec<DateTime<Utc>>,
}

impl TaskColumns {
    pub(in crate::store) fn of<T: Borrow<Task>>(tasks: &[T]) -> Self {
        let tasks = || tasks.iter().map(T::borrow);
        Self {
            ids: tasks().map(|task| task.id).collect(),
            titles: tasks().map(|task| task.title.clone()).collect(),
            statuses: tasks().map(|task| task.status.code().into()).collect(),
            owners: tasks().map(|task| task.owner_id).collect(),
            versions: tasks().map(|task| i64::try_from(task.version).unwrap_or(i64::MAX)).collect(),
            created: tasks().map(|task| task.created_at).collect(),
            updated: tasks().map(|task| task.updated_at).collect(),
        }
    }

    pub(in crate::store) fn parameters(&self) -> Parameters<'_> {
        vec![
            (&self.ids, Type::UUID_ARRAY),
            (&self.titles, Type::TEXT_ARRAY),
            (&self.statuses, Type::INT2_ARRAY),
            (&self.owners, Type::UUID_ARRAY),
            (&self.versions, Type::INT8_ARRAY),
            (&self.created, Type::TIMESTAMPTZ_ARRAY),
            (&self.updated, Type::TIMESTAMPTZ_ARRAY),
        ]
    }
}

/// The columns of an event, in the order of [`pulled`].
pub(in crate::store) const EVENT: &str = "o.seq, o.event_id, o.hash, o.encoding, o.payload, o.traceparent";

pub(in crate::store) fn task(row: &Row) -> Result<Task, Unreadable> {
    let id: Uuid = column(row, 0)?;
    let wrong = |why: &str| Unreadable::new(format!("task {id}"), why);
    let code: i16 = column(row, 2)?;
    let status = TaskStatus::ALL.into_iter().find(|status| i16::from(status.code()) == code);
    let version: i64 = column(row, 4)?;
    Ok(Task {
        id,
        title: column(row, 1)?,
        status: status.ok_or_else(|| wrong("its status is unknown"))?,
        owner_id: column(row, 3)?,
        version: u64::try_from(version).map_err(|_| wrong("its version is negative"))?,
        created_at: column(row, 5)?,
        updated_at: column(row, 6)?,
    })
}

/// The event in the columns from `first` on.
pub(in crate::store) fn pulled(row: &Row, first: usize) -> Result<Pulled, Unreadable> {
    let (seq, event_id, hash): (i64, Uuid, i32) =
        (column(row, first)?, column(row, first + 1)?, column(row, first + 2)?);
    let what = || format!("event {event_id} of the outbox");
    let (number, payload): (i16, &[u8]) = (column(row, first + 3)?, column(row, first + 4)?);
    let traceparent = column(row, first + 5)?;
    let encoding = Encoding::from_number(u8::try_from(number).unwrap_or(u8::MAX));
    let entry =
        encoding.decode(payload).map_err(|why| Unreadable::new(what(), why)).map(|event| OutboxEntry {
            seq: u64::try_from(seq).unwrap_or(0),
            event,
            payload: payload.to_vec(),
            encoding,
            traceparent,
        });
    Ok(Pulled { seq, event_id, hash, entry })
}

pub(in crate::store) fn column<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    index: usize,
) -> Result<T, Unreadable> {
    row.try_get(index).map_err(|error| Unreadable::new("a row of the database", error))
}
