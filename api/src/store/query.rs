//! Reading tasks: one, or a page of them.
//!
//! A task that cannot be read, or that an index does not fit, is left out of a page and reported. A page ends by
//! its ids, so that nothing behind such an entry is lost.

use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;

use redb::{Database, ReadableDatabase};
use tokio::time::timeout;
use uuid::Uuid;

use super::Store;
use super::failure::{StoreError, Unreadable};
use super::overlay::Snapshot;
use super::schema::{self, BY_OWNER, BY_STATUS, TASKS};
use crate::task::{Task, TaskStatus};

/// Which tasks to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only those of this status.
    pub status: Option<TaskStatus>,
    /// Only those of this owner.
    pub owner_id: Option<Uuid>,
}

impl Filter {
    fn fits(&self, task: &Task) -> bool {
        self.status.is_none_or(|status| task.status == status)
            && self.owner_id.is_none_or(|owner| task.owner_id == Some(owner))
    }
}

/// Tasks in the order of their creation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// At most as many as were asked for.
    pub tasks: Vec<Task>,
    /// The task after which the next page begins, if there is one.
    pub next: Option<Uuid>,
}

impl Store {
    /// One task.
    pub async fn task(&self, id: Uuid) -> Result<Option<Task>, StoreError> {
        // In this order: what leaves the overlay is in the database by then.
        let in_log = self.shared.overlay().task(id.as_bytes());
        if let Some(task) = in_log {
            return Ok(Some(Task::clone(&task)));
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

    /// Up to `limit` tasks in the order of creation, after the task `after` if given.
    pub async fn list(&self, filter: Filter, after: Option<Uuid>, limit: usize) -> Result<Page, StoreError> {
        let page = async {
            // Never closed.
            let _turn = self.pages.acquire().await;
            let shared = Arc::clone(&self.shared);
            let read = move |database: &Database| {
                // One more than asked for tells whether there is a next page.
                let most = limit.saturating_add(1);
                let in_log = shared.overlay().snapshot(after, most, |task| filter.fits(task));
                list(database, &in_log, &filter, after, limit)
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

/// By way of the narrowest index, so that no more is read than is answered. With what was left out.
fn list(
    database: &Database,
    in_log: &Snapshot,
    filter: &Filter,
    after: Option<Uuid>,
    limit: usize,
) -> Result<(Page, Vec<Unreadable>), redb::Error> {
    let read = database.begin_read()?;
    let tasks = read.open_table(TASKS)?;
    let first = after.map_or([0; 16], Uuid::into_bytes);
    let is_new = |id: &[u8; 16]| after.is_none_or(|after| *id > after.into_bytes()) && !in_log.has(id);
    let last = [0xff; 16];
    let most = limit.saturating_add(1);

    let mut found = Vec::new();
    match (filter.owner_id, filter.status) {
        (None, None) => {
            let from = after.map_or(Unbounded, |after| Excluded(after.into_bytes()));
            for entry in tasks.range::<[u8; 16]>((from, Included(last)))? {
                if found.len() >= most {
                    break;
                }
                let (id, task) = entry?;
                if !in_log.has(&id.value()) {
                    let id = Uuid::from_bytes(id.value());
                    found.push((id, Some(schema::read_task(id, task.value()))));
                }
            }
        }
        (None, Some(status)) => {
            let index = read.open_table(BY_STATUS)?;
            let range = index.range((status.code(), first)..=(status.code(), last))?;
            let ids = page(range.map(|entry| Ok(entry?.0.value().1)), is_new, most)?;
            found.extend(ids.into_iter().map(|id| (Uuid::from_bytes(id), None)));
        }
        (Some(owner), status) => {
            let index = read.open_table(BY_OWNER)?;
            let owner = owner.into_bytes();
            let mut ids = Vec::new();
            // A page of each status, then the first of them all.
            for status in status.map_or(TaskStatus::ALL.to_vec(), |status| vec![status]) {
                let range = index.range((owner, status.code(), first)..=(owner, status.code(), last))?;
                ids.extend(page(range.map(|entry| Ok(entry?.0.value().2)), is_new, most)?);
            }
            ids.sort_unstable();
            ids.dedup();
            ids.truncate(most);
            found.extend(ids.into_iter().map(|id| (Uuid::from_bytes(id), None)));
        }
    }
    let in_log = in_log.tasks.iter().map(|(id, task)| (Uuid::from_bytes(*id), Some(Ok(Task::clone(task)))));
    found.extend(in_log);
    found.sort_unstable_by_key(|(id, _)| *id);
    let has_next = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| has_next).map(|(id, _)| *id);

    let (mut page, mut left_out) = (Page { tasks: Vec::with_capacity(found.len()), next }, Vec::new());
    for (id, task) in found {
        let task = match task {
            Some(task) => task,
            None => match tasks.get(id.into_bytes())? {
                Some(task) => schema::read_task(id, task.value()),
                None => {
                    Err(Unreadable::new(format!("the index entry of task {id}"), "there is no such task"))
                }
            },
        };
        match task {
            Ok(task) if filter.fits(&task) => page.tasks.push(task),
            Ok(_) => left_out
                .push(Unreadable::new(format!("the index entry of task {id}"), "the task has changed since")),
            Err(unreadable) => left_out.push(unreadable),
        }
    }
    Ok((page, left_out))
}

fn page(
    ids: impl Iterator<Item = Result<[u8; 16], redb::Error>>,
    is_new: impl Fn(&[u8; 16]) -> bool,
    limit: usize,
) -> Result<Vec<[u8; 16]>, redb::Error> {
    ids.filter(|id| id.as_ref().map_or(true, &is_new)).take(limit).collect()
}
