//! What a change makes of a task, whichever store keeps it: pure functions of the task before and the change.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use task_events::event::TaskEvent;
use uuid::{ContextV7, Timestamp, Uuid};

use super::mutation::{Mutation, Outcome, Preconditions};
use super::operation::TaskWrite;
use crate::task::{Change, Task, TaskPatch, TaskStatus};

/// The task after a change, what is to be written of it, and the events that tell of it.
pub(super) struct Changed {
    pub(super) task: Arc<Task>,
    pub(super) write: TaskWrite,
    pub(super) events: Vec<TaskEvent>,
}

/// Why a task of that version is not to be changed, if it is not.
pub(super) fn refusal(preconditions: &Preconditions, current: u64) -> Option<Outcome> {
    let Preconditions { if_match, if_none_match } = preconditions;
    if if_match.as_ref().is_some_and(|versions| !versions.contain(current)) {
        return Some(Outcome::VersionMismatch { current });
    }
    if if_none_match.as_ref().is_some_and(|versions| versions.contain(current)) {
        return Some(Outcome::VersionExcluded { current });
    }
    None
}

/// Makes the change of the task before it, whose preconditions hold; `None` where it needs one and there is none.
pub(super) fn changed(
    before: Option<&Arc<Task>>,
    mutation: &Mutation,
    now: DateTime<Utc>,
    new_id: impl FnOnce() -> (Uuid, DateTime<Utc>),
) -> Option<Changed> {
    let correlation_id = mutation.correlation_id;
    Some(match (&mutation.change, before) {
        (Change::Create(new), _) => {
            let (id, created_at) = new_id();
            let task = Task {
                id,
                title: new.title.as_str().to_owned(),
                status: TaskStatus::Pending,
                owner_id: new.owner_id,
                version: 1,
                created_at,
                updated_at: created_at,
            };
            let events = vec![TaskEvent::task_created(task.data(), correlation_id)];
            Changed { task: Arc::new(task), write: TaskWrite::Put, events }
        }
        (_, None) => return None,
        (Change::Patch(_, patch), Some(before)) => patched(before, patch, mutation, now),
        (Change::Complete(_), Some(before)) => {
            let patch = TaskPatch { status: Some(TaskStatus::Completed), ..TaskPatch::default() };
            patched(before, &patch, mutation, now)
        }
        (Change::Delete(_), Some(before)) => {
            let events = vec![TaskEvent::task_deleted(before.data(), correlation_id)];
            Changed { task: Arc::clone(before), write: TaskWrite::Delete, events }
        }
    })
}

/// The task after a patch, and its events. Completing by its own call makes one; a patch that completes makes two;
/// one that changes nothing makes none.
fn patched(before: &Arc<Task>, patch: &TaskPatch, mutation: &Mutation, now: DateTime<Utc>) -> Changed {
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
        return Changed { task: Arc::clone(before), write: TaskWrite::None, events: Vec::new() };
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
    Changed { task: Arc::new(task), write: TaskWrite::Put, events }
}

/// Ids of version 7 that only rise, also where the clock is set back, and over restarts.
#[derive(Debug)]
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
