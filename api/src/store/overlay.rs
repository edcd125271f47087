//! What is in the log and not in the database yet: tasks and answers, in memory, as readers see them.
//!
//! One generation is added to, the one before it is being put into the database. Who reads looks into both, and
//! then into the database: in that order, so that what is moved meanwhile is seen in one place or the other.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::sync::Arc;

use uuid::Uuid;

use super::mutation::Answer;
use super::order::Order;
use super::schema::Meta;
use crate::task::Task;

/// A part of the log.
#[derive(Debug, Default)]
pub(super) struct Generation {
    /// The last version of each task that was changed; `None` for those that were deleted.
    pub(super) tasks: BTreeMap<[u8; 16], Option<Arc<Task>>>,
    /// What was answered, by idempotency key.
    pub(super) answers: HashMap<Box<str>, Arc<Answer>>,
    /// Events of the former outbox table that are in the log now.
    pub(super) moved: Vec<u64>,
    /// Bytes of log that it is.
    pub(super) bytes: usize,
}

/// A generation that is complete, and what goes into the database with it.
#[derive(Debug)]
pub(super) struct Frozen {
    pub(super) generation: Generation,
    pub(super) meta: Meta,
}

#[derive(Debug, Default)]
pub(super) struct Overlay {
    pub(super) active: Generation,
    pub(super) frozen: Option<Arc<Frozen>>,
}

/// The overlay as a reader of a page needs it.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// Those that were asked for, by id; at most as many as were asked for.
    pub(super) tasks: BTreeMap<[u8; 16], Arc<Task>>,
    /// Ids of the active generation: what the database has of them is old.
    active: Vec<[u8; 16]>,
    frozen: Option<Arc<Frozen>>,
}

impl Generation {
    pub(super) fn put_task(&mut self, task: Arc<Task>) {
        self.tasks.insert(task.id.into_bytes(), Some(task));
    }

    pub(super) fn has_deletions(&self) -> bool {
        self.tasks.values().any(Option::is_none)
    }

    pub(super) fn delete_task(&mut self, id: Uuid) {
        self.tasks.insert(id.into_bytes(), None);
    }
}

impl Overlay {
    /// What the log has of the task: a version, or that it was deleted; `None` where it has nothing.
    pub(super) fn task(&self, id: &[u8; 16]) -> Option<Option<Arc<Task>>> {
        let frozen = || self.frozen.as_ref().and_then(|frozen| frozen.generation.tasks.get(id));
        self.active.tasks.get(id).or_else(frozen).cloned()
    }

    pub(super) fn answer(&self, key: &str) -> Option<Arc<Answer>> {
        let frozen = || self.frozen.as_ref().and_then(|frozen| frozen.generation.answers.get(key));
        self.active.answers.get(key).or_else(frozen).cloned()
    }

    /// The highest task id, if any.
    pub(super) fn last_task(&self) -> Option<[u8; 16]> {
        let last = |generation: &Generation| generation.tasks.last_key_value().map(|(id, _)| *id);
        last(&self.active).max(self.frozen.as_ref().and_then(|frozen| last(&frozen.generation)))
    }

    /// Bytes of log that the database does not have.
    pub(super) fn unapplied(&self) -> usize {
        self.active.bytes + self.frozen.as_ref().map_or(0, |frozen| frozen.generation.bytes)
    }

    /// The first tasks of those ids, in that order, that fit.
    pub(super) fn snapshot(
        &self,
        ids: &RangeInclusive<[u8; 16]>,
        order: Order,
        most: usize,
        fits: impl Fn(&Task) -> bool,
    ) -> Snapshot {
        let of = |generation: &Generation, is_hidden: &dyn Fn(&[u8; 16]) -> bool| {
            let all = generation.tasks.range(ids.clone());
            let fitting = all.filter_map(|(id, task)| {
                let task = task.as_ref().filter(|task| fits(task) && !is_hidden(id))?;
                Some((*id, Arc::clone(task)))
            });
            match order {
                Order::CreatedAsc => fitting.take(most).collect::<Vec<_>>(),
                Order::CreatedDesc => fitting.rev().take(most).collect(),
            }
        };
        let mut tasks: BTreeMap<_, _> = of(&self.active, &|_| false).into_iter().collect();
        if let Some(frozen) = &self.frozen {
            tasks.extend(of(&frozen.generation, &|id| self.active.tasks.contains_key(id)));
        }
        while tasks.len() > most {
            match order {
                Order::CreatedAsc => tasks.pop_last(),
                Order::CreatedDesc => tasks.pop_first(),
            };
        }
        let active = self.active.tasks.range(ids.clone()).map(|(id, _)| *id).collect();
        Snapshot { tasks, active, frozen: self.frozen.clone() }
    }
}

impl Snapshot {
    /// Whether what the database has of this task is old, or the task was deleted.
    pub(super) fn has(&self, id: &[u8; 16]) -> bool {
        let is_frozen =
            || self.frozen.as_ref().is_some_and(|frozen| frozen.generation.tasks.contains_key(id));
        self.active.binary_search(id).is_ok() || is_frozen()
    }
}
