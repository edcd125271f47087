//! One model for both stores: any sequence of changes, with conditions and keys, has the outcomes, the tasks, the pages
//! and the events that a map in memory has.

use std::collections::BTreeMap;

use harness::Postgres;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use task_api::store::{
    Filter, IdempotencyKey, Mutation, Order, Outcome, Preconditions, Query, Store, VersionSet,
};
use task_api::task::{Change, NewTask, Task, TaskPatch, TaskStatus};
use task_api::title::Title;
use uuid::Uuid;

use crate::store::change;
use crate::support::{Writer, connect};

#[derive(Debug, Clone)]
enum Step {
    Create { owner: Option<u8> },
    Patch { task: usize, title: u8, status: Option<TaskStatus>, owner: Option<Option<u8>> },
    Complete { task: usize },
    Delete { task: usize },
}

#[derive(Debug, Clone)]
pub struct Call {
    step: Step,
    key: Option<u8>,
    /// Of the version of then, so much later.
    if_match: Option<i64>,
    if_none_match: bool,
}

fn owner(number: u8) -> Uuid {
    Uuid::from_u128(u128::from(number) + 1)
}

pub fn calls() -> impl Strategy<Value = Vec<Call>> {
    let task = 0..8_usize;
    let status =
        prop_oneof![Just(TaskStatus::Pending), Just(TaskStatus::InProgress), Just(TaskStatus::Completed)];
    let step = prop_oneof![
        3 => proptest::option::of(0..2_u8).prop_map(|owner| Step::Create { owner }),
        4 => (task.clone(), 0..3_u8, proptest::option::of(status), proptest::option::of(proptest::option::of(0..2_u8)))
            .prop_map(|(task, title, status, owner)| Step::Patch { task, title, status, owner }),
        1 => task.clone().prop_map(|task| Step::Complete { task }),
        1 => task.prop_map(|task| Step::Delete { task }),
    ];
    let condition = (
        proptest::option::weighted(0.2, 0..3_u8),
        proptest::option::weighted(0.2, -1..2_i64),
        prop::bool::weighted(0.1),
    );
    let call = (step, condition).prop_map(|(step, (key, if_match, if_none_match))| Call {
        step,
        key,
        if_match,
        if_none_match,
    });
    vec(call, 1..25)
}

/// What a store has to have.
#[derive(Default)]
pub struct Model {
    tasks: BTreeMap<Uuid, Task>,
    answers: BTreeMap<u8, (String, Task)>,
    pub events: Vec<(String, Uuid, String, String, Option<String>)>,
    ids: Vec<Uuid>,
}

impl Model {
    pub fn mutation(&self, call: &Call) -> Mutation {
        let id = |task: usize| self.ids.get(task).copied().unwrap_or(Uuid::from_u128(9));
        let of_step = match &call.step {
            Step::Create { owner: number } => {
                Change::Create(NewTask { title: Title::parse("new").unwrap(), owner_id: number.map(owner) })
            }
            Step::Patch { task, title, status, owner: number } => {
                let title = (*title > 0).then(|| Title::parse(&format!("title {title}")).unwrap());
                let owner_id = number.map(|number| number.map(owner));
                Change::Patch(id(*task), TaskPatch { title, status: *status, owner_id })
            }
            Step::Complete { task } => Change::Complete(id(*task)),
            Step::Delete { task } => Change::Delete(id(*task)),
        };
        let current = of_step.task().and_then(|id| self.tasks.get(&id)).map_or(1, |task| task.version);
        let versions = |difference| VersionSet::Versions(vec![current.saturating_add_signed(difference)]);
        let is_create = matches!(of_step, Change::Create(_));
        let preconditions = Preconditions {
            if_match: call.if_match.filter(|_| !is_create).map(versions),
            if_none_match: (call.if_none_match && !is_create).then(|| versions(0)),
        };
        let fingerprint = format!("{of_step:?} {preconditions:?}");
        let idempotency = call.key.map(|key| IdempotencyKey { key: format!("key {key}"), fingerprint });
        let actor = call.if_none_match.then(|| "alice".into());
        Mutation { preconditions, idempotency, actor, ..change(of_step) }
    }

    /// Takes the outcome of a store, which has to be what it must be. A new task has the id that the store gave it.
    pub fn check(
        &mut self,
        call: &Call,
        mutation: &Mutation,
        outcome: &Outcome,
    ) -> Result<(), TestCaseError> {
        let fingerprint = mutation.idempotency.as_ref().map(|key| key.fingerprint.clone());
        if let Some((stored, task)) = call.key.and_then(|key| self.answers.get(&key)) {
            let is_same = Some(stored) == fingerprint.as_ref();
            let wanted = if is_same { Outcome::Repeated(task.clone().into()) } else { Outcome::KeyReused };
            prop_assert_eq!(outcome, &wanted);
            return Ok(());
        }
        let before = match mutation.change.task() {
            None => None,
            Some(id) => match self.tasks.get(&id).cloned() {
                None => {
                    prop_assert_eq!(outcome, &Outcome::NotFound);
                    return Ok(());
                }
                before => before,
            },
        };
        if let Some(before) = &before {
            let current = before.version;
            let Preconditions { if_match, if_none_match } = &mutation.preconditions;
            if if_match.as_ref().is_some_and(|versions| !versions.contain(current)) {
                prop_assert_eq!(outcome, &Outcome::VersionMismatch { current });
                return Ok(());
            }
            if if_none_match.as_ref().is_some_and(|versions| versions.contain(current)) {
                prop_assert_eq!(outcome, &Outcome::VersionExcluded { current });
                return Ok(());
            }
        }
        let Outcome::Done(task) = outcome else {
            return Err(TestCaseError::fail(format!("{mutation:?}: {outcome:?}")));
        };
        let mut wanted = before.clone().unwrap_or_else(|| Task::clone(task));
        let mut types = Vec::new();
        match &mutation.change {
            Change::Create(new) => {
                prop_assert_eq!((task.version, task.status), (1, TaskStatus::Pending));
                prop_assert_eq!((task.title.as_str(), task.owner_id), (new.title.as_str(), new.owner_id));
                prop_assert!(self.ids.last().is_none_or(|last| task.id > *last), "ids rise");
                self.ids.push(task.id);
                types.push("task.created");
            }
            Change::Delete(_) => types.push("task.deleted"),
            Change::Patch(_, patch) => {
                if let Some(title) = &patch.title {
                    wanted.title = title.as_str().to_owned();
                }
                wanted.status = patch.status.unwrap_or(wanted.status);
                wanted.owner_id = patch.owner_id.unwrap_or(wanted.owner_id);
                types.push("task.updated");
            }
            Change::Complete(_) => wanted.status = TaskStatus::Completed,
        }
        if let (Some(before), Change::Patch(..) | Change::Complete(_)) = (&before, &mutation.change) {
            if wanted == *before {
                types.clear();
            } else {
                wanted.version += 1;
                prop_assert!(task.updated_at >= before.updated_at);
                wanted.updated_at = task.updated_at;
                if wanted.status == TaskStatus::Completed && before.status != TaskStatus::Completed {
                    types.push("task.completed");
                }
            }
        }
        prop_assert_eq!(&**task, &wanted);
        for event in types {
            let status = wanted.status.as_str().to_owned();
            let actor = mutation.actor.as_deref().map(str::to_owned);
            self.events.push((event.to_owned(), wanted.id, wanted.title.clone(), status, actor));
        }
        match &mutation.change {
            Change::Delete(id) => drop(self.tasks.remove(id)),
            _ => drop(self.tasks.insert(wanted.id, wanted.clone())),
        }
        if let (Some(key), Some(fingerprint)) = (call.key, fingerprint) {
            self.answers.insert(key, (fingerprint, wanted));
        }
        Ok(())
    }

    pub async fn compare(&self, store: &Store, first_seq: u64) -> Result<(), TestCaseError> {
        for id in &self.ids {
            let stored = store.task(*id).await.unwrap();
            prop_assert_eq!(stored.as_ref(), self.tasks.get(id));
        }
        let statuses = TaskStatus::ALL.map(Some).into_iter().chain([None]);
        for status in statuses {
            for owner_id in [None, Some(owner(0)), Some(owner(1))] {
                for order in Order::ALL {
                    let filter = Filter { status, owner_id, ..Filter::default() };
                    self.compare_pages(store, Query { filter, order }).await?;
                }
            }
        }
        let events = store.outbox_after(first_seq, usize::MAX).await.unwrap();
        let events: Vec<_> = events
            .iter()
            .map(|entry| {
                let (event, data) = (&entry.event, &entry.event.data);
                let actor = event.metadata.actor.clone();
                let (kind, title) = (event.event_type.as_str().to_owned(), data.title.clone());
                (kind, data.task_id, title, data.status.clone(), actor)
            })
            .collect();
        prop_assert_eq!(&events, &self.events);
        Ok(())
    }

    /// Page by page, two tasks each; only those of this case, which are the newest.
    async fn compare_pages(&self, store: &Store, query: Query) -> Result<(), TestCaseError> {
        let fits = |task: &&Task| {
            query.filter.status.is_none_or(|status| task.status == status)
                && query.filter.owner_id.is_none_or(|owner| task.owner_id == Some(owner))
        };
        let mut wanted: Vec<Task> = self.tasks.values().filter(fits).cloned().collect();
        let Some(first) = self.ids.first() else { return Ok(()) };
        // The id before the first one of this case.
        let before = Uuid::from_u128(first.as_u128() - 1);
        let mut after = (query.order == Order::CreatedAsc).then_some(before);
        if query.order == Order::CreatedDesc {
            wanted.reverse();
        }
        let mut found = Vec::new();
        loop {
            let page = store.list(query.clone(), after, 2).await.unwrap();
            prop_assert!(page.tasks.len() <= 2);
            found.extend(page.tasks.into_iter().filter(|task| task.id >= *first));
            match page.next {
                Some(next) if next >= *first => after = Some(next),
                _ => break,
            }
        }
        prop_assert_eq!(found, wanted);
        Ok(())
    }
}

/// Runs cases against a store, all on the same one: each case knows its own tasks, keys and events.
fn run(store: &Store, runtime: &tokio::runtime::Runtime, cases: u32) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let case = std::cell::Cell::new(0);
    let answered = TestRunner::new(config).run(&calls(), |calls| {
        case.set(case.get() + 1);
        let case = case.get();
        runtime.block_on(async {
            let waiting = store.outbox_after(0, usize::MAX).await.unwrap();
            let first_seq = waiting.last().map_or(0, |last| last.seq);
            let mut model = Model::default();
            for call in &calls {
                let mut mutation = model.mutation(call);
                if let Some(key) = &mut mutation.idempotency {
                    key.key = format!("case {case} {}", key.key);
                }
                let outcome = store.mutate(mutation.clone()).await.unwrap();
                model.check(call, &mutation, &outcome)?;
            }
            model.compare(store, first_seq).await
        })
    });
    answered.unwrap();
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn the_embedded_store_is_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let (store, writer) = Store::open(dir.path()).unwrap();
    let runtime = runtime();
    run(&store, &runtime, 40);
    drop(store);
    runtime.block_on(Writer::Thread(writer).join());
}

#[test]
fn the_store_in_postgresql_is_the_model() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    let runtime = runtime();
    let (store, tasks) = runtime.block_on(connect(server, "model"));
    run(&store, &runtime, 40);
    drop(store);
    runtime.block_on(Writer::Tasks(tasks).join());
}
