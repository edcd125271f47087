//! Rows as values, and values as parameters.

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
pub(super) type Parameters<'a> = Vec<Parameter<'a>>;
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// The columns of a task, in the order of [`task`].
pub(super) const TASK: &str = "id, title, status, owner_id, version, created_at, updated_at";

/// The columns of an event, in the order of [`pulled`].
pub(super) const EVENT: &str = "o.seq, o.event_id, o.hash, o.encoding, o.payload, o.traceparent";

pub(super) fn task(row: &Row) -> Result<Task, Unreadable> {
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
pub(super) fn pulled(row: &Row, first: usize) -> Result<Pulled, Unreadable> {
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

pub(super) fn column<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    index: usize,
) -> Result<T, Unreadable> {
    row.try_get(index).map_err(|error| Unreadable::new("a row of the database", error))
}
