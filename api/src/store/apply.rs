//! Makes changes: one after the other, on top of what is stored and of what the same group has changed already.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use redb::{Database, ReadTransaction, ReadableDatabase};
use task_events::event::TaskEvent;
use uuid::Uuid;

use super::answers::KEEP_ANSWER_MS;
use super::change::{Changed, TaskIds, changed, refusal};
use super::delivery::OutboxEntry;
use super::draft::{Draft, Effect};
use super::failure::ChangeError;
use super::mutation::{Answer, Mutation, Outcome};
use super::operation::{Change as ChangeFrame, EventBytes, Operation, TaskWrite};
use super::overlay::Overlay;
use super::schema::{TASKS, fingerprint, read_task};
use super::shared::Shared;
use crate::task::Task;

/// What the writer sees: its draft, what the log has, and the database.
pub(super) struct View<'a> {
    draft: &'a mut Draft,
    shared: &'a Shared,
    database: &'a Database,
    /// Begun after the overlay was looked into: what leaves that meanwhile is in it.
    read: Option<ReadTransaction>,
    /// Events up to here have their numbers.
    last_seq: u64,
}

impl<'a> View<'a> {
    pub(super) fn new(
        draft: &'a mut Draft,
        shared: &'a Shared,
        database: &'a Database,
        last_seq: u64,
    ) -> Self {
        Self { draft, shared, database, read: None, last_seq }
    }

    pub(super) fn frame_bytes(&self) -> usize {
        self.draft.frames.len()
    }

    pub(super) fn draft(&mut self) -> &mut Draft {
        self.draft
    }

    /// Makes a change, or says why not. Nothing is written of it unless the outcome is `Done`: whatever may be
    /// unreadable is read first.
    pub(super) fn mutate(
        &mut self,
        mutation: &Mutation,
        ids: &TaskIds,
        now: DateTime<Utc>,
    ) -> Result<Outcome, ChangeError> {
        let now_ms = u64::try_from(now.timestamp_millis()).unwrap_or(0);
        if let Some(outcome) = self.answered_before(mutation, now_ms)? {
            return Ok(outcome);
        }
        let before = match mutation.change.task() {
            None => None,
            Some(id) => match self.existing(id, mutation)? {
                Ok(before) => Some(before),
                Err(outcome) => return Ok(outcome),
            },
        };
        let Some(Changed { task, write, events }) = changed(before.as_ref(), mutation, now, || ids.next(now))
        else {
            return Ok(Outcome::NotFound);
        };
        self.write(Arc::clone(&task), write, events, mutation, now_ms)?;
        Ok(Outcome::Done(task))
    }

    /// The task that is to be changed, or why it is not.
    fn existing(&mut self, id: Uuid, mutation: &Mutation) -> Result<Result<Arc<Task>, Outcome>, ChangeError> {
        let Some(task) = self.task(id)? else { return Ok(Err(Outcome::NotFound)) };
        Ok(match refusal(&mutation.preconditions, task.version) {
            Some(refusal) => Err(refusal),
            None => Ok(task),
        })
    }

    fn write(
        &mut self,
        task: Arc<Task>,
        write: TaskWrite,
        events: Vec<TaskEvent>,
        mutation: &Mutation,
        now_ms: u64,
    ) -> Result<(), redb::Error> {
        let answer = mutation.idempotency.as_ref().map(|idempotency| {
            let answer = Answer {
                fingerprint: fingerprint(&idempotency.fingerprint),
                expires_ms: now_ms + KEEP_ANSWER_MS,
                task: Arc::clone(&task),
            };
            (Box::from(idempotency.key.as_str()), answer)
        });
        if write == TaskWrite::None && answer.is_none() {
            return Ok(());
        }
        let first_event = self.last_seq + 1;
        let (format, actor) = (self.shared.event_format(), mutation.actor.as_deref());
        let mut entries = Vec::with_capacity(events.len());
        for (seq, event) in (first_event..).zip(events) {
            let event = event.by(actor);
            let encoded = format.encode(&event);
            let (payload, encoding) = encoded.map_err(|why| redb::Error::Io(std::io::Error::other(why)))?;
            let traceparent = mutation.traceparent.clone();
            entries.push(Arc::new(OutboxEntry { seq, event, payload, encoding, traceparent }));
        }
        let events = entries.iter().map(|entry| EventBytes::of(entry)).collect();
        let change = ChangeFrame { task, write, answer, first_event, events };
        let operation = Operation::Change(change);
        let at = self.draft.frames.add(|out| operation.write(out));
        let Operation::Change(ChangeFrame { task, answer, .. }) = operation else { return Ok(()) };
        let answer = answer.map(|(key, answer)| (key, Arc::new(answer)));
        match write {
            TaskWrite::None => {}
            TaskWrite::Put => drop(self.draft.tasks.insert(task.id.into_bytes(), Some(Arc::clone(&task)))),
            TaskWrite::Delete => drop(self.draft.tasks.insert(task.id.into_bytes(), None)),
        }
        if let Some((key, answer)) = &answer {
            self.draft.answers.insert(key.clone(), Arc::clone(answer));
        }
        let count = entries.len() as u64;
        self.last_seq += count;
        self.draft.events.extend(entries);
        let effect = Effect::Change { task, write, answer, first_event, events: count };
        self.draft.effects.push((at, effect));
        Ok(())
    }

    fn task(&mut self, id: Uuid) -> Result<Option<Arc<Task>>, ChangeError> {
        let key = id.into_bytes();
        let in_log = |overlay: &Overlay| overlay.task(&key);
        let found = self.draft.tasks.get(&key).cloned().or_else(|| in_log(&self.shared.overlay()));
        if let Some(found) = found {
            return Ok(found);
        }
        let stored = self.database()?.open_table(TASKS).map_err(redb::Error::from)?;
        let stored = stored.get(key)?.map(|task| read_task(id, task.value()));
        Ok(stored.transpose()?.map(Arc::new))
    }

    fn answer(&mut self, key: &str) -> Result<Option<Arc<Answer>>, ChangeError> {
        let found = self.draft.answers.get(key).cloned().or_else(|| self.shared.overlay().answer(key));
        if found.is_some() {
            return Ok(found);
        }
        let shared = self.shared;
        Ok(shared.answers.find(key, || self.database())?.map(Arc::new))
    }

    /// The database as it is after the overlay was looked into: so a transaction for each look.
    fn database(&mut self) -> Result<&ReadTransaction, redb::Error> {
        let read = self.database.begin_read()?;
        Ok(self.read.insert(read))
    }

    fn answered_before(&mut self, mutation: &Mutation, now_ms: u64) -> Result<Option<Outcome>, ChangeError> {
        let Some(idempotency) = &mutation.idempotency else { return Ok(None) };
        let Some(stored) = self.answer(&idempotency.key)? else { return Ok(None) };
        Ok(if stored.expires_ms <= now_ms {
            None
        } else if stored.fingerprint == fingerprint(&idempotency.fingerprint) {
            Some(Outcome::Repeated(Arc::clone(&stored.task)))
        } else {
            Some(Outcome::KeyReused)
        })
    }
}
