//! A group of changes, decided one after the other on top of what was locked for them and of what the group has
//! changed already. Nothing here waits.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use task_events::event::TaskEvent;
use uuid::Uuid;

use super::super::change::{Changed, TaskIds, changed, refusal};
use super::super::failure::{StoreError, Unreadable};
use super::super::mutation::{Mutation, Outcome};
use super::super::operation::TaskWrite;
use super::super::schema::fingerprint;
use crate::event_format::{Encoding, EventFormat};
use crate::task::Task;

/// What became of a change.
#[derive(Debug)]
pub(super) enum Decision {
    /// This is to be answered, once the group is committed.
    Answer(Result<Outcome, StoreError>),
    /// Another replica changes the task at this moment, or has the key: to be tried again, and to be answered so where
    /// the time is over.
    Later(Result<Outcome, StoreError>),
}

/// What was answered under a key.
#[derive(Debug, Clone)]
pub(super) struct Answered {
    pub(super) fingerprint: Box<[u8]>,
    pub(super) task: Result<Arc<Task>, Unreadable>,
}

/// What was locked and read for a group.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The tasks that are locked.
    pub(super) tasks: HashMap<Uuid, Result<Arc<Task>, Unreadable>>,
    /// Those that exist, locked by us or by others.
    pub(super) existing: HashSet<Uuid>,
    /// Locks of keys.
    pub(super) keys: HashSet<i64>,
    pub(super) answers: HashMap<Box<str>, Answered>,
}

/// An event to be written.
#[derive(Debug)]
pub(super) struct EventRow {
    pub(super) event: TaskEvent,
    pub(super) payload: Vec<u8>,
    pub(super) encoding: Encoding,
    pub(super) traceparent: Option<String>,
}

/// What a group has changed so far.
#[derive(Debug, Default)]
pub(super) struct Draft {
    known: Known,
    /// Tasks of this group; `None` where it was deleted.
    tasks: HashMap<Uuid, Option<Arc<Task>>>,
    written: BTreeSet<Uuid>,
    answers: HashMap<Box<str>, Answered>,
    pub(super) events: Vec<EventRow>,
}

/// What is to be written of the tasks.
#[derive(Debug, Default)]
pub(super) struct TaskRows {
    pub(super) made: Vec<Arc<Task>>,
    pub(super) changed: Vec<Arc<Task>>,
    pub(super) deleted: Vec<Uuid>,
}

impl Draft {
    pub(super) fn new(known: Known) -> Self {
        Self { known, ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.written.is_empty() && self.answers.is_empty() && self.events.is_empty()
    }

    /// Decides the next change. Where its answer is an error, nothing of it is written.
    pub(super) fn decide(
        &mut self,
        mutation: &Mutation,
        ids: &TaskIds,
        format: EventFormat,
        now: DateTime<Utc>,
    ) -> Decision {
        if let Some(decision) = self.answered_before(mutation) {
            return decision;
        }
        let before = match mutation.change.task() {
            None => None,
            Some(id) => match self.task(id) {
                Some(Ok(task)) => match refusal(&mutation.preconditions, task.version) {
                    Some(refusal) => return Decision::Answer(Ok(refusal)),
                    None => Some(task),
                },
                Some(Err(unreadable)) => return Decision::Answer(Err(unreadable.into())),
                None if self.is_busy(id) => return Decision::Later(Err(StoreError::Overloaded)),
                None => return Decision::Answer(Ok(Outcome::NotFound)),
            },
        };
        let change = changed(before.as_ref(), mutation, now, || ids.next(now));
        let Some(Changed { task, write, events }) = change else {
            return Decision::Answer(Ok(Outcome::NotFound));
        };
        let mut rows = Vec::with_capacity(events.len());
        for event in events {
            let event = event.by(mutation.actor.as_deref());
            match format.encode(&event) {
                Ok((payload, encoding)) => {
                    let traceparent = mutation.traceparent.clone();
                    rows.push(EventRow { event, payload, encoding, traceparent });
                }
                Err(why) => return Decision::Answer(Err(StoreError::Unavailable(why))),
            }
        }
        self.events.extend(rows);
        match write {
            TaskWrite::None => {}
            TaskWrite::Put => self.put(task.id, Some(Arc::clone(&task))),
            TaskWrite::Delete => self.put(task.id, None),
        }
        if let Some(key) = &mutation.idempotency {
            let answered =
                Answered { fingerprint: fingerprint(&key.fingerprint), task: Ok(Arc::clone(&task)) };
            self.answers.insert(key.key.as_str().into(), answered);
        }
        Decision::Answer(Ok(Outcome::Done(task)))
    }

    fn put(&mut self, id: Uuid, task: Option<Arc<Task>>) {
        self.tasks.insert(id, task);
        self.written.insert(id);
    }

    fn task(&self, id: Uuid) -> Option<Result<Arc<Task>, Unreadable>> {
        match self.tasks.get(&id) {
            Some(task) => task.clone().map(Ok),
            None => self.known.tasks.get(&id).cloned(),
        }
    }

    fn is_busy(&self, id: Uuid) -> bool {
        !self.tasks.contains_key(&id) && self.known.existing.contains(&id)
    }

    fn answered_before(&self, mutation: &Mutation) -> Option<Decision> {
        let key = mutation.idempotency.as_ref()?;
        if !self.known.keys.contains(&lock_of(&key.key)) {
            // Its transaction may be one that is over already, and whose server has not noticed.
            return Some(Decision::Later(Ok(Outcome::KeyInUse)));
        }
        let found = |answers: &HashMap<Box<str>, Answered>| answers.get(key.key.as_str()).cloned();
        let answered = found(&self.answers).or_else(|| found(&self.known.answers))?;
        if answered.fingerprint != fingerprint(&key.fingerprint) {
            return Some(Decision::Answer(Ok(Outcome::KeyReused)));
        }
        Some(Decision::Answer(answered.task.map(Outcome::Repeated).map_err(StoreError::from)))
    }

    /// What is to be written of the tasks: each once, as it is after the group.
    pub(super) fn tasks(&self) -> TaskRows {
        let mut rows = TaskRows::default();
        for id in &self.written {
            let existed = self.known.tasks.contains_key(id);
            match (self.tasks.get(id).and_then(Option::as_ref), existed) {
                (Some(task), false) => rows.made.push(Arc::clone(task)),
                (Some(task), true) => rows.changed.push(Arc::clone(task)),
                (None, true) => rows.deleted.push(*id),
                (None, false) => {}
            }
        }
        rows
    }

    /// The answers to be kept, by key: in one order in all replicas.
    pub(super) fn answers(&self) -> Vec<(&str, &Answered)> {
        let mut answers: Vec<_> = self.answers.iter().map(|(key, answered)| (&**key, answered)).collect();
        answers.sort_unstable_by_key(|(key, _)| *key);
        answers
    }
}

/// The number of a key's advisory lock. Two keys may share one: then one of them waits, as if it were in use.
pub(super) fn lock_of(key: &str) -> i64 {
    let digest = Sha256::new_with_prefix(b"task-events idempotency key ").chain_update(key).finalize();
    digest.iter().take(8).fold(0, |number, byte| number << 8 | i64::from(*byte))
}
