//! Reading tasks: one, or a page of them.
//!
//! A task that cannot be read, or that an index does not fit, is left out of a page and reported. A page ends by
//! its ids, so that nothing behind such an entry is lost.
//!
//! An id begins with the millisecond in which its task was created, so a span of time is a range of ids: no more is
//! read than is answered, but for tasks of the first and the last milliseconds of the span.

use std::iter::Peekable;
use std::ops::RangeInclusive;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use redb::{Database, ReadTransaction, ReadableDatabase};
use tokio::time::timeout;
use uuid::Uuid;

use super::Embedded;
use super::failure::{StoreError, Unreadable};
use super::order::Order;
use super::overlay::Snapshot;
use super::schema::{self, BY_OWNER, BY_STATUS, TASKS};
use crate::task::{Task, TaskStatus};

/// By how much an id may be later than its task, in milliseconds: former versions took the two times one after the
/// other.
const ID_DELAY_MS: u128 = 10;
/// The bits of an id behind its milliseconds.
const ID_BITS: u32 = 80;
/// The last millisecond that an id can have.
const LAST_MS: u128 = (1 << 48) - 1;

/// Which tasks to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only those of this status.
    pub status: Option<TaskStatus>,
    /// Only those of this owner.
    pub owner_id: Option<Uuid>,
    /// Only those that were created later.
    pub created_after: Option<DateTime<Utc>>,
    /// Only those that were created earlier.
    pub created_before: Option<DateTime<Utc>>,
}

impl Filter {
    fn fits(&self, task: &Task) -> bool {
        self.fits_indexes(task) && self.fits_times(task)
    }

    fn fits_indexes(&self, task: &Task) -> bool {
        self.status.is_none_or(|status| task.status == status)
            && self.owner_id.is_none_or(|owner| task.owner_id == Some(owner))
    }

    fn fits_times(&self, task: &Task) -> bool {
        self.created_after.is_none_or(|time| task.created_at > time)
            && self.created_before.is_none_or(|time| task.created_at < time)
    }
}

/// Which tasks to list, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Which.
    pub filter: Filter,
    /// In which order.
    pub order: Order,
}

impl From<Filter> for Query {
    fn from(filter: Filter) -> Self {
        Self { filter, order: Order::default() }
    }
}

impl Query {
    /// The ids that a page behind the task `after` can have; `None` where there are none.
    pub(super) fn ids(&self, after: Option<Uuid>) -> Option<RangeInclusive<[u8; 16]>> {
        let ms = |time: DateTime<Utc>| u128::try_from(time.timestamp_millis()).unwrap_or(0).min(LAST_MS);
        let Filter { created_after, created_before, .. } = &self.filter;
        let mut first = created_after.map_or(0, |time| ms(time) << ID_BITS);
        let mut last = created_before
            .map_or(u128::MAX, |time| (((ms(time) + ID_DELAY_MS).min(LAST_MS) + 1) << ID_BITS) - 1);
        match (after, self.order) {
            (Some(after), Order::CreatedAsc) => first = first.max(after.as_u128().checked_add(1)?),
            (Some(after), Order::CreatedDesc) => last = last.min(after.as_u128().checked_sub(1)?),
            (None, _) => {}
        }
        (first <= last).then(|| first.to_be_bytes()..=last.to_be_bytes())
    }
}

/// Tasks in the order that was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// At most as many as were asked for.
    pub tasks: Vec<Task>,
    /// The task after which the next page begins, if there is one.
    pub next: Option<Uuid>,
}

impl Embedded {
    /// One task.
    pub async fn task(&self, id: Uuid) -> Result<Option<Task>, StoreError> {
        // In this order: what leaves the overlay is in the database by then.
        let in_log = self.shared.overlay().task(id.as_bytes());
        if let Some(task) = in_log {
            return Ok(task.as_deref().cloned());
        }
        let found = self
            .read(move |database| {
                let read = database.begin_read()?;
                let task = read.open_table(TASKS)?.get(id.into_bytes())?;
                Ok(task.map(|task| schema::read_task(id, task.value())))
            })
            .await?;
        Ok(found.transpose().inspect_err(|unreadable| self.shared.report(unreadable))?)
    }

    /// Up to `limit` tasks, after the task `after` if given, which need not be there any more.
    pub async fn list(
        &self,
        query: impl Into<Query>,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let query = query.into();
        let Some(ids) = query.ids(after) else { return Ok(Page::default()) };
        let page = async {
            // Never closed.
            let _turn = self.pages.acquire().await;
            let shared = Arc::clone(&self.shared);
            let read = move |database: &Database| {
                // One more than asked for shows whether there is a next page.
                let most = limit.saturating_add(1);
                let fits = |task: &Task| query.filter.fits(task);
                let in_log = shared.overlay().snapshot(&ids, query.order, most, fits);
                list(database, &in_log, &query, &ids, limit)
            };
            self.read_or_reopen(read).await
        };
        let (page, left_out) = timeout(self.disk_timeout, page).await.unwrap_or(Err(StoreError::Slow))?;
        for unreadable in &left_out {
            self.shared.report(unreadable);
        }
        Ok(page)
    }
}

/// A task that may be of the page: its id, and itself where it was read on the way.
type Candidate = ([u8; 16], Option<Result<Task, Unreadable>>);
type Candidates<'a> = Box<dyn Iterator<Item = Result<Candidate, redb::Error>> + 'a>;

/// A page, and what was left out of it.
fn list(
    database: &Database,
    in_log: &Snapshot,
    query: &Query,
    ids: &RangeInclusive<[u8; 16]>,
    limit: usize,
) -> Result<(Page, Vec<Unreadable>), redb::Error> {
    let read = database.begin_read()?;
    let tasks = read.open_table(TASKS)?;
    let mut sources = stored(&read, in_log, query, ids)?;
    let of_log = in_log.tasks.iter().map(|(id, task)| Ok((*id, Some(Ok(Task::clone(task))))));
    sources.push(in_order(of_log, query.order));

    let (mut page, mut left_out) = (Page::default(), Vec::new());
    let (mut seen, mut last) = (0, None);
    for candidate in merged(sources, query.order) {
        let (id, task) = candidate?;
        if last == Some(id) {
            continue;
        }
        let of_index =
            |why| Unreadable::new(format!("the index entry of task {}", Uuid::from_bytes(id)), why);
        let task = match task {
            Some(task) => task,
            None => match tasks.get(id)? {
                Some(task) => schema::read_task(Uuid::from_bytes(id), task.value()),
                None => Err(of_index("there is no such task")),
            },
        };
        let task = task.and_then(|task| {
            if query.filter.fits_indexes(&task) {
                Ok(task)
            } else {
                Err(of_index("the task has changed since"))
            }
        });
        if task.as_ref().is_ok_and(|task| !query.filter.fits_times(task)) {
            continue;
        }
        if seen == limit {
            page.next = last.map(Uuid::from_bytes);
            break;
        }
        match task {
            Ok(task) => page.tasks.push(task),
            Err(unreadable) => left_out.push(unreadable),
        }
        (seen, last) = (seen + 1, Some(id));
    }
    Ok((page, left_out))
}

/// What the database has, by way of the narrowest index: each source in the order of the query.
fn stored<'a>(
    read: &'a ReadTransaction,
    in_log: &'a Snapshot,
    query: &Query,
    ids: &RangeInclusive<[u8; 16]>,
) -> Result<Vec<Candidates<'a>>, redb::Error> {
    let (first, last) = (*ids.start(), *ids.end());
    let is_current = |id: &[u8; 16]| !in_log.has(id);
    let of_index = move |id: Result<[u8; 16], redb::Error>| match id {
        Ok(id) => is_current(&id).then_some(Ok((id, None))),
        Err(error) => Some(Err(error)),
    };
    Ok(match (query.filter.owner_id, query.filter.status) {
        (None, None) => {
            let rows = read.open_table(TASKS)?.range(first..=last)?.filter_map(move |row| match row {
                Ok((id, task)) => is_current(&id.value()).then(|| {
                    let id = id.value();
                    Ok((id, Some(schema::read_task(Uuid::from_bytes(id), task.value()))))
                }),
                Err(error) => Some(Err(error.into())),
            });
            vec![in_order(rows, query.order)]
        }
        (None, Some(status)) => {
            let range = (status.code(), first)..=(status.code(), last);
            let entries = read.open_table(BY_STATUS)?.range(range)?;
            let ids = entries.map(|entry| Ok(entry?.0.value().1));
            vec![in_order(ids.filter_map(of_index), query.order)]
        }
        (Some(owner), status) => {
            let (index, owner) = (read.open_table(BY_OWNER)?, owner.into_bytes());
            let statuses = status.map_or(TaskStatus::ALL.to_vec(), |status| vec![status]);
            let of_status = |status: TaskStatus| {
                let range = (owner, status.code(), first)..=(owner, status.code(), last);
                let ids = index.range(range)?.map(|entry| Ok(entry?.0.value().2));
                Ok(in_order(ids.filter_map(of_index), query.order))
            };
            statuses.into_iter().map(of_status).collect::<Result<_, redb::Error>>()?
        }
    })
}

/// What is sorted by id, in that order.
fn in_order<'a>(
    rising: impl DoubleEndedIterator<Item = Result<Candidate, redb::Error>> + 'a,
    order: Order,
) -> Candidates<'a> {
    match order {
        Order::CreatedAsc => Box::new(rising),
        Order::CreatedDesc => Box::new(rising.rev()),
    }
}

/// Several sources, each in that order, as one. An error comes first.
fn merged(
    sources: Vec<Candidates<'_>>,
    order: Order,
) -> impl Iterator<Item = Result<Candidate, redb::Error>> {
    let mut sources: Vec<Peekable<_>> = sources.into_iter().map(Iterator::peekable).collect();
    std::iter::from_fn(move || {
        let mut first: Option<([u8; 16], usize)> = None;
        for (index, source) in sources.iter_mut().enumerate() {
            let id = match source.peek() {
                Some(Ok((id, _))) => *id,
                Some(Err(_)) => return source.next(),
                None => continue,
            };
            let is_first = first.is_none_or(|(best, _)| match order {
                Order::CreatedAsc => id < best,
                Order::CreatedDesc => id > best,
            });
            if is_first {
                first = Some((id, index));
            }
        }
        sources.get_mut(first?.1)?.next()
    })
}
