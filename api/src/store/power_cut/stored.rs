//! All that a store says it has, and whether it agrees with what was done to it.

use std::collections::{BTreeMap, BTreeSet};

use redb::ReadableDatabase;
use task_events::event::EventType;
use uuid::Uuid;

use super::super::*;
use super::{Deletions, Run};
use crate::task::{Change, Task, TaskStatus};

/// All that a store says it has.
#[derive(Debug, PartialEq)]
pub(super) struct Stored {
    pub(super) tasks: BTreeMap<Uuid, Task>,
    pub(super) by_status: BTreeSet<(u8, Uuid)>,
    pub(super) by_owner: BTreeSet<(Uuid, Uuid)>,
    pub(super) outbox: BTreeMap<u64, Vec<u8>>,
    pub(super) outbox_state: OutboxState,
    pub(super) positions: BTreeMap<i32, i64>,
    pub(super) answers: BTreeMap<String, (u64, Task)>,
}

impl Stored {
    pub(super) async fn read(store: &Embedded) -> Result<Self, String> {
        let error = |error: StoreError| error.to_string();
        let list = async |filter: Filter| {
            Ok::<_, String>(store.list(filter, None, usize::MAX).await.map_err(error)?.tasks)
        };
        let tasks: BTreeMap<Uuid, Task> =
            list(Filter::default()).await?.into_iter().map(|task| (task.id, task)).collect();
        let (mut by_status, mut by_owner) = (BTreeSet::new(), BTreeSet::new());
        for status in TaskStatus::ALL {
            let found = list(Filter { status: Some(status), ..Filter::default() }).await?;
            by_status.extend(found.iter().map(|task| (status.code(), task.id)));
        }
        for owner in (1..4).map(Uuid::from_u128) {
            let found = list(Filter { owner_id: Some(owner), ..Filter::default() }).await?;
            by_owner.extend(found.iter().map(|task| (owner, task.id)));
        }
        for (id, task) in &tasks {
            if store.task(*id).await.map_err(error)?.as_ref() != Some(task) {
                return Err(format!("task {id} differs between a read of it alone and a page"));
            }
        }
        let outbox = store.outbox_after(0, usize::MAX).await.map_err(error)?;
        if store.unreadable_values() > 0 {
            return Err("a value cannot be read".to_owned());
        }
        Ok(Self {
            tasks,
            by_status,
            by_owner,
            outbox: outbox.iter().map(|entry| (entry.seq, entry.payload.clone())).collect(),
            outbox_state: *store.outbox().borrow(),
            positions: store.positions().into_iter().collect(),
            answers: answers(store).map_err(|error| error.to_string())?,
        })
    }

    /// Whether it has what was answered, or what came of it later.
    pub(super) fn has(&self, answer: &super::Answer, deletions: &Deletions) -> bool {
        let task = &answer.task;
        let is_deleted = deletions.get(&task.id).is_some_and(|seq| *seq <= self.outbox_state.last_seq);
        let is_there = || self.tasks.get(&task.id).is_some_and(|stored| stored.version >= task.version);
        is_deleted || (!matches!(answer.mutation.change, Change::Delete(_)) && is_there())
    }

    /// Nothing is stored partially: each task is one that was, with the events of all its versions, a deleted one is
    /// gone with its last event, the indexes and the answers agree with the tasks, and the outbox with the position.
    pub(super) fn is_whole(&self, run: &Run) -> Result<(), String> {
        let mut events: BTreeMap<Uuid, Vec<EventType>> = BTreeMap::new();
        let last_seq = self.outbox_state.last_seq;
        for seq in 1..=last_seq {
            let json = run.events.get(&seq).ok_or(format!("event {seq} never was"))?;
            let event = task_events::event::Event::decode(Some(json)).unwrap();
            let id = event.task.as_ref().unwrap().task_id;
            events.entry(id).or_default().push(event.known_type().unwrap());
        }
        let mut owed = BTreeMap::new();
        for (id, task) in &self.tasks {
            let versions = run.versions.get(id).ok_or(format!("task {id} never was"))?;
            let (known, _) = versions.get(&task.version).ok_or(format!("{task:?} never was"))?;
            equal("a task", task, known)?;
            let events = versions.range(..=task.version).flat_map(|(_, (_, events))| events.clone());
            owed.insert(*id, events.collect::<Vec<_>>());
        }
        for (id, _) in run.deletions.iter().filter(|(_, seq)| **seq <= last_seq) {
            if self.tasks.contains_key(id) {
                return Err(format!("task {id} was deleted and is there"));
            }
            let events = run.versions[id].values().flat_map(|(_, events)| events.clone());
            owed.insert(*id, events.chain([EventType::Deleted]).collect());
        }
        equal("the events by task", &events, &owed)?;

        let by_status = self.tasks.values().map(|task| (task.status.code(), task.id)).collect();
        equal("the index by status", &self.by_status, &by_status)?;
        let owned = self.tasks.values().filter_map(|task| Some((task.owner_id?, task.id)));
        equal("the index by owner", &self.by_owner, &owned.collect())?;

        let taken = run.deliveries.iter().filter(|delivery| delivery.is_in(&self.positions));
        let gone: BTreeSet<u64> = taken
            .flat_map(|delivery| delivery.delivered.seqs.iter().chain(&delivery.delivered.scattered))
            .copied()
            .collect();
        let left = (1..=last_seq).filter(|seq| !gone.contains(seq));
        let left = left.map(|seq| (seq, run.events[&seq].clone())).collect();
        equal("the outbox", &self.outbox, &left)?;
        equal("the count of the outbox", &self.outbox_state.waiting, &(self.outbox.len() as u64))?;

        let keyed = run.answers.iter().filter(|answer| self.has(answer, &run.deletions));
        let keyed = keyed.filter_map(|answer| {
            answer.mutation.idempotency.as_ref().map(|key| (key.key.clone(), answer.task.clone()))
        });
        let answers = self.answers.iter().map(|(key, (_, task))| (key.clone(), task.clone()));
        equal("the answers", &answers.collect::<BTreeMap<_, _>>(), &keyed.collect())
    }
}

/// The answers under idempotency keys, wherever they are.
fn answers(store: &Embedded) -> Result<BTreeMap<String, (u64, Task)>, redb::Error> {
    let value = |answer: &mutation::Answer| (answer.expires_ms, Task::clone(&answer.task));
    let overlay = store.shared.overlay();
    let database = store.shared.database.read().unwrap();
    let read = database.as_ref().unwrap().begin_read()?;
    let mut answers = BTreeMap::new();
    for (key, _) in store.shared.answers.all(&read) {
        // By way of the index.
        let answer = store.shared.answers.find(&key, || Ok(&read)).unwrap().unwrap();
        answers.insert(key, value(&answer));
    }
    let frozen = overlay.frozen.iter().flat_map(|frozen| &frozen.generation.answers);
    for (key, answer) in frozen.chain(&overlay.active.answers) {
        answers.insert(key.to_string(), value(answer));
    }
    Ok(answers)
}

pub(super) fn equal<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, wanted: &T) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("{what}: {found:?}, not {wanted:?}")) }
}
