//! Applies one mutation within the writer's transaction.

use chrono::{DateTime, Utc};
use redb::{ReadableTable, Table, WriteTransaction};
use serde_json::value::RawValue;
use task_events::event::TaskEvent;
use uuid::{ContextV7, Timestamp, Uuid};

use super::schema::{
    ANSWERS, ANSWERS_BY_EXPIRY, BY_OWNER, BY_STATUS, Delivered, LAST_SEQ, OUTBOX, OutboxValue, POSITIONS,
    PUBLISHED_TOPIC, PublishedTopic, StoredAnswer, TASKS, read_answer, read_task, to_json,
};
use super::{Mutation, OutboxState, Outcome, Unreadable};
use crate::task::{Change, Task, TaskPatch, TaskStatus};

/// How long an answer is kept under its idempotency key.
const KEEP_ANSWER_MS: u64 = 24 * 60 * 60 * 1_000;
/// Expired answers removed for each mutation, so that the work is spread.
const FORGET_PER_MUTATION: usize = 2;

/// Why a change was not made: it alone, or the transaction failed as a whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChangeError {
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error(transparent)]
    Transaction(#[from] redb::Error),
}

impl From<redb::StorageError> for ChangeError {
    fn from(error: redb::StorageError) -> Self {
        Self::Transaction(error.into())
    }
}

/// The tables, opened once for a whole batch.
pub(super) struct Tables<'t> {
    tasks: Table<'t, [u8; 16], &'static [u8]>,
    by_status: Table<'t, (u8, [u8; 16]), ()>,
    by_owner: Table<'t, ([u8; 16], u8, [u8; 16]), ()>,
    outbox: Table<'t, u64, &'static [u8]>,
    positions: Table<'t, i32, i64>,
    published_topic: Table<'t, (), (u128, i32)>,
    last_seq: Table<'t, (), u64>,
    answers: Table<'t, &'static str, &'static [u8]>,
    answers_by_expiry: Table<'t, (u64, &'static str), ()>,
    state: OutboxState,
}

impl<'t> Tables<'t> {
    pub(super) fn open(write: &'t WriteTransaction, state: OutboxState) -> Result<Self, redb::Error> {
        Ok(Self {
            tasks: write.open_table(TASKS)?,
            by_status: write.open_table(BY_STATUS)?,
            by_owner: write.open_table(BY_OWNER)?,
            outbox: write.open_table(OUTBOX)?,
            positions: write.open_table(POSITIONS)?,
            published_topic: write.open_table(PUBLISHED_TOPIC)?,
            last_seq: write.open_table(LAST_SEQ)?,
            answers: write.open_table(ANSWERS)?,
            answers_by_expiry: write.open_table(ANSWERS_BY_EXPIRY)?,
            state,
        })
    }

    /// What stands in the outbox once the transaction is committed.
    pub(super) fn finish(mut self) -> Result<OutboxState, redb::Error> {
        self.last_seq.insert((), self.state.last_seq)?;
        Ok(self.state)
    }

    /// Takes delivered events out of the outbox.
    pub(super) fn delivered(&mut self, delivered: &Delivered) -> Result<(), redb::Error> {
        for seq in &delivered.seqs {
            if self.outbox.remove(seq)?.is_some() {
                self.state.waiting = self.state.waiting.saturating_sub(1);
            }
        }
        for (partition, offset) in &delivered.positions {
            self.positions.insert(partition, offset)?;
        }
        Ok(())
    }

    /// Notes where events go from now on.
    pub(super) fn publish_to(&mut self, topic: PublishedTopic) -> Result<(), redb::Error> {
        let before = self.published_topic.get(())?.map(|topic| PublishedTopic::from(topic.value()));
        if before.is_some_and(|before| topic.is_another_than(&before)) {
            self.positions.retain(|_, _| false)?;
        }
        self.published_topic.insert((), topic.into_value())?;
        Ok(())
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
        self.forget_expired(now_ms)?;
        if let Some(outcome) = self.answered_before(mutation, now_ms)? {
            return Ok(outcome);
        }
        let outcome = match &mutation.change {
            Change::Create(new) => {
                let (title, owner_id) = (new.title.clone(), new.owner_id);
                let status = TaskStatus::Pending;
                let task = Task {
                    id: ids.next(),
                    title,
                    status,
                    owner_id,
                    version: 1,
                    created_at: now,
                    updated_at: now,
                };
                self.put(None, &task)?;
                self.publish(&TaskEvent::task_created(task.data(), mutation.correlation_id), mutation)?;
                Outcome::Done(task)
            }
            Change::Patch(id, patch) => self.change(*id, patch, false, mutation, now)?,
            Change::Complete(id) => {
                let patch = TaskPatch { title: None, status: Some(TaskStatus::Completed) };
                self.change(*id, &patch, true, mutation, now)?
            }
        };
        if let (Outcome::Done(task), Some(_)) = (&outcome, &mutation.idempotency) {
            self.keep_answer(mutation, task, now_ms + KEEP_ANSWER_MS)?;
        }
        Ok(outcome)
    }

    /// Changes a task. Completing by its own call makes one event; a patch that completes makes two.
    fn change(
        &mut self,
        id: Uuid,
        patch: &TaskPatch,
        completing: bool,
        mutation: &Mutation,
        now: DateTime<Utc>,
    ) -> Result<Outcome, ChangeError> {
        let stored = self.tasks.get(id.into_bytes())?.map(|task| read_task(id, task.value()));
        let Some(before) = stored.transpose()? else { return Ok(Outcome::NotFound) };
        if mutation.if_match.as_ref().is_some_and(|if_match| !if_match.allows(before.version)) {
            return Ok(Outcome::VersionMismatch { current: before.version });
        }
        let mut task = before.clone();
        if let Some(title) = &patch.title {
            task.title.clone_from(title);
        }
        if let Some(status) = patch.status {
            task.status = status;
        }
        if task == before {
            return Ok(Outcome::Done(task));
        }
        task.version += 1;
        // A clock that was set back does not turn a task's history round.
        task.updated_at = now.max(before.updated_at);
        self.put(Some(&before), &task)?;
        if !completing {
            self.publish(&TaskEvent::task_updated(task.data(), mutation.correlation_id), mutation)?;
        }
        if task.status == TaskStatus::Completed && before.status != TaskStatus::Completed {
            self.publish(&TaskEvent::task_completed(task.data(), mutation.correlation_id), mutation)?;
        }
        Ok(Outcome::Done(task))
    }

    fn put(&mut self, before: Option<&Task>, task: &Task) -> Result<(), redb::Error> {
        let id = task.id.into_bytes();
        self.tasks.insert(id, to_json(task)?.as_slice())?;
        if before.is_some_and(|before| before.status == task.status) {
            return Ok(());
        }
        if let Some(before) = before {
            self.by_status.remove((before.status.code(), id))?;
        }
        self.by_status.insert((task.status.code(), id), ())?;
        if let Some(owner) = task.owner_id.map(Uuid::into_bytes) {
            if let Some(before) = before {
                self.by_owner.remove((owner, before.status.code(), id))?;
            }
            self.by_owner.insert((owner, task.status.code(), id), ())?;
        }
        Ok(())
    }

    fn publish(&mut self, event: &TaskEvent, mutation: &Mutation) -> Result<(), redb::Error> {
        let json =
            String::from_utf8(to_json(event)?).map_err(|error| redb::Error::Corrupted(error.to_string()))?;
        let event = RawValue::from_string(json).map_err(|error| redb::Error::Corrupted(error.to_string()))?;
        let value = OutboxValue { event, traceparent: mutation.traceparent.clone() };
        self.state.last_seq += 1;
        self.state.waiting += 1;
        self.outbox.insert(self.state.last_seq, to_json(&value)?.as_slice())?;
        Ok(())
    }

    fn answered_before(&self, mutation: &Mutation, now_ms: u64) -> Result<Option<Outcome>, ChangeError> {
        let Some(idempotency) = &mutation.idempotency else { return Ok(None) };
        let Some(stored) = self.answers.get(idempotency.key.as_str())? else { return Ok(None) };
        let stored = read_answer(&idempotency.key, stored.value())?;
        Ok(match stored {
            expired if expired.expires_ms <= now_ms => None,
            same if same.fingerprint == idempotency.fingerprint => Some(Outcome::Done(same.task)),
            _ => Some(Outcome::KeyReused),
        })
    }

    fn keep_answer(&mut self, mutation: &Mutation, task: &Task, expires_ms: u64) -> Result<(), redb::Error> {
        let Some(idempotency) = &mutation.idempotency else { return Ok(()) };
        let key = idempotency.key.as_str();
        let answer =
            StoredAnswer { fingerprint: idempotency.fingerprint.clone(), expires_ms, task: task.clone() };
        self.answers.insert(key, to_json(&answer)?.as_slice())?;
        self.answers_by_expiry.insert((expires_ms, key), ())?;
        Ok(())
    }

    fn forget_expired(&mut self, now_ms: u64) -> Result<(), redb::Error> {
        for _ in 0..FORGET_PER_MUTATION {
            let Some((expires_ms, key)) = self.answers_by_expiry.first()?.map(|(entry, _)| {
                let (expires_ms, key) = entry.value();
                (expires_ms, key.to_owned())
            }) else {
                break;
            };
            if expires_ms > now_ms {
                break;
            }
            self.answers_by_expiry.remove((expires_ms, key.as_str()))?;
            // The key may have been used again since: then its answer expires later. One that cannot be read
            // has no other time to go.
            let stored = self.answers.get(key.as_str())?.map(|stored| read_answer(&key, stored.value()));
            if stored.is_some_and(|stored| stored.map_or(true, |stored| stored.expires_ms <= now_ms)) {
                self.answers.remove(key.as_str())?;
            }
        }
        Ok(())
    }
}

/// Ids of version 7 that only rise, also where the clock is set back, and over restarts.
pub(super) struct TaskIds(ContextV7);

impl TaskIds {
    pub(super) fn after(last: Option<[u8; 16]>) -> Self {
        let context = ContextV7::new();
        let last_time = last.and_then(|id| Uuid::from_bytes(id).get_timestamp()).map(|time| time.to_unix());
        if let Some((seconds, nanos)) = last_time {
            // One millisecond on: within the last one the counter may stand higher than a new one begins.
            let next = seconds.saturating_mul(1_000).saturating_add(u64::from(nanos / 1_000_000) + 1);
            let nanos = u32::try_from(next % 1_000).unwrap_or(0) * 1_000_000;
            let _ = Timestamp::from_unix(&context, next / 1_000, nanos);
        }
        Self(context)
    }

    pub(super) fn next(&self) -> Uuid {
        Uuid::new_v7(Timestamp::now(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use redb::{Database, ReadableTableMetadata, backends::InMemoryBackend};

    use super::super::{IdempotencyKey, schema};
    use super::*;
    use crate::task::NewTask;

    fn create(key: &str, fingerprint: &str) -> Mutation {
        let idempotency = IdempotencyKey { key: key.to_owned(), fingerprint: fingerprint.to_owned() };
        Mutation {
            change: Change::Create(NewTask { title: "t".to_owned(), owner_id: None }),
            if_match: None,
            idempotency: Some(idempotency),
            correlation_id: Uuid::new_v4(),
            traceparent: None,
        }
    }

    fn id(outcome: Outcome) -> Uuid {
        let Outcome::Done(task) = outcome else { panic!("{outcome:?}") };
        task.id
    }

    #[test]
    fn an_answer_is_kept_for_a_day_and_then_forgotten() {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let write = schema::begin(&database).unwrap();
        let mut tables = Tables::open(&write, OutboxState::default()).unwrap();
        let ids = TaskIds::after(None);
        let start = Utc::now();
        let day = TimeDelta::days(1);
        let moment = TimeDelta::milliseconds(1);

        let first = id(tables.mutate(&create("k", "a"), &ids, start).unwrap());
        for keys in 0..10 {
            tables.mutate(&create(&format!("other-{keys}"), "a"), &ids, start).unwrap();
        }
        assert_eq!(id(tables.mutate(&create("k", "a"), &ids, start + day - moment).unwrap()), first);
        let other = tables.mutate(&create("k", "b"), &ids, start + day - moment).unwrap();
        assert_eq!(other, Outcome::KeyReused);

        let second = id(tables.mutate(&create("k", "b"), &ids, start + day).unwrap());
        assert_ne!(second, first, "the key is free again");
        assert_eq!(id(tables.mutate(&create("k", "b"), &ids, start + day).unwrap()), second);
        for _ in 0..10 {
            tables.mutate(&create("k", "b"), &ids, start + day).unwrap();
        }
        assert_eq!((tables.answers.len().unwrap(), tables.answers_by_expiry.len().unwrap()), (1, 1));
        assert_eq!(id(tables.mutate(&create("k", "b"), &ids, start + day).unwrap()), second);
    }

    #[test]
    fn ids_rise_also_when_the_clock_was_set_back() {
        let future = Timestamp::from_unix(ContextV7::new(), 4_000_000_000, 0);
        let last = Uuid::new_v7(future);
        let ids = TaskIds::after(Some(last.into_bytes()));
        let mut before = last;
        for _ in 0..10_000 {
            let next = ids.next();
            assert!(next > before, "{next} after {before}");
            before = next;
        }
    }
}
