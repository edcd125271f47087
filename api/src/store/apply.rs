//! Makes changes: one after the other, on top of what is stored and of what the same group has changed already.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use redb::{Database, ReadTransaction, ReadableDatabase};
use task_events::event::TaskEvent;
use uuid::{ContextV7, Timestamp, Uuid};

use super::answers::KEEP_ANSWER_MS;
use super::delivery::OutboxEntry;
use super::draft::{Draft, Effect};
use super::failure::ChangeError;
use super::mutation::{Answer, Mutation, Outcome, Preconditions};
use super::operation::{Change as ChangeFrame, EventBytes, Operation, TaskWrite};
use super::overlay::Overlay;
use super::schema::{TASKS, fingerprint, read_task};
use super::shared::Shared;
use crate::task::{Change, Task, TaskPatch, TaskStatus};

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
        let (task, write, events) = match &mutation.change {
            Change::Create(new) => {
                let (id, created_at) = ids.next(now);
                let task = Task {
                    id,
                    title: new.title.as_str().to_owned(),
                    status: TaskStatus::Pending,
                    owner_id: new.owner_id,
                    version: 1,
                    created_at,
                    updated_at: created_at,
                };
                let events = vec![TaskEvent::task_created(task.data(), mutation.correlation_id)];
                (Arc::new(task), TaskWrite::Put, events)
            }
            Change::Patch(id, patch) => match self.existing(*id, mutation)? {
                Ok(before) => patched(&before, patch, mutation, now),
                Err(outcome) => return Ok(outcome),
            },
            Change::Complete(id) => match self.existing(*id, mutation)? {
                Ok(before) => {
                    let patch = TaskPatch { status: Some(TaskStatus::Completed), ..TaskPatch::default() };
                    patched(&before, &patch, mutation, now)
                }
                Err(outcome) => return Ok(outcome),
            },
            Change::Delete(id) => match self.existing(*id, mutation)? {
                Ok(task) => {
                    let events = vec![TaskEvent::task_deleted(task.data(), mutation.correlation_id)];
                    (task, TaskWrite::Delete, events)
                }
                Err(outcome) => return Ok(outcome),
            },
        };
        self.write(Arc::clone(&task), write, events, mutation, now_ms)?;
        Ok(Outcome::Done(task))
    }

    /// The task that is to be changed, or why it is not.
    fn existing(&mut self, id: Uuid, mutation: &Mutation) -> Result<Result<Arc<Task>, Outcome>, ChangeError> {
        let Some(task) = self.task(id)? else { return Ok(Err(Outcome::NotFound)) };
        let current = task.version;
        let Preconditions { if_match, if_none_match } = &mutation.preconditions;
        if if_match.as_ref().is_some_and(|versions| !versions.contain(current)) {
            return Ok(Err(Outcome::VersionMismatch { current }));
        }
        if if_none_match.as_ref().is_some_and(|versions| versions.contain(current)) {
            return Ok(Err(Outcome::VersionExcluded { current }));
        }
        Ok(Ok(task))
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

/// The task after a patch, and its events. Completing by its own call makes one; a patch that completes makes two;
/// one that changes nothing makes none.
fn patched(
    before: &Arc<Task>,
    patch: &TaskPatch,
    mutation: &Mutation,
    now: DateTime<Utc>,
) -> (Arc<Task>, TaskWrite, Vec<TaskEvent>) {
    let mut task = Task::clone(before);
    if let Some(title) = &patch.title {
        title.as_str().clone_into(&mut task.title);
    }
    if let Some(status) = patch.status {
        task.status = status;
    }
    if let Some(owner_id) = patch.owner_id {
        task.owner_id = owner_id;
    }
    if task == **before {
        return (Arc::clone(before), TaskWrite::None, Vec::new());
    }
    task.version += 1;
    // A clock that was set back does not turn a task's history round.
    task.updated_at = now.max(before.updated_at);
    let id = mutation.correlation_id;
    let mut events = Vec::with_capacity(2);
    if !matches!(mutation.change, Change::Complete(_)) {
        events.push(TaskEvent::task_updated(task.data(), id));
    }
    if task.status == TaskStatus::Completed && before.status != TaskStatus::Completed {
        events.push(TaskEvent::task_completed(task.data(), id));
    }
    (Arc::new(task), TaskWrite::Put, events)
}

/// Ids of version 7 that only rise, also where the clock is set back, and over restarts.
pub(super) struct TaskIds(ContextV7);

impl TaskIds {
    pub(super) fn after(last: Option<[u8; 16]>) -> Self {
        let context = ContextV7::new();
        let last_time = last.and_then(|id| Uuid::from_bytes(id).get_timestamp()).map(|time| time.to_unix());
        if let Some((seconds, nanos)) = last_time {
            // One millisecond on: within the last one the counter may be higher than a new one begins.
            let next = seconds.saturating_mul(1_000).saturating_add(u64::from(nanos / 1_000_000) + 1);
            let nanos = u32::try_from(next % 1_000).unwrap_or(0) * 1_000_000;
            let _ = Timestamp::from_unix(&context, next / 1_000, nanos);
        }
        Self(context)
    }

    /// The next id, and when its task was created: in the millisecond of the id, so that both have one order, also
    /// where the clock was set back.
    pub(super) fn next(&self, now: DateTime<Utc>) -> (Uuid, DateTime<Utc>) {
        let id = Uuid::new_v7(Timestamp::now(&self.0));
        let (seconds, nanos) = id.get_timestamp().map_or((0, 0), |time| time.to_unix());
        let of_id = i64::try_from(seconds).ok().and_then(|seconds| DateTime::from_timestamp(seconds, nanos));
        (id, of_id.map_or(now, |of_id| now.max(of_id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_also_when_the_clock_was_set_back() {
        let future = Timestamp::from_unix(ContextV7::new(), 4_000_000_000, 0);
        let last = Uuid::new_v7(future);
        let ids = TaskIds::after(Some(last.into_bytes()));
        let mut before = last;
        for _ in 0..10_000 {
            let (next, created_at) = ids.next(Utc::now());
            assert!(next > before, "{next} after {before}");
            let (seconds, nanos) = next.get_timestamp().unwrap().to_unix();
            assert_eq!(
                created_at.timestamp_millis(),
                (seconds * 1_000 + u64::from(nanos / 1_000_000)) as i64
            );
            before = next;
        }
    }
}
