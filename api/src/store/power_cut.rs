//! The store after a power cut, whatever of the last writes the disk kept: what was answered is there, with
//! its events, and nothing is there partially.

use std::collections::BTreeMap;

use powercut::{Cut, SimDisk, Subject};
use task_events::dedup::Tuning;
use task_events::event::EventType;
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;

use super::wal::Planted;
use super::*;
use crate::task::{Change, NewTask, Task, TaskPatch, TaskStatus};
use crate::title::Title;

mod stored;

use stored::{Stored, equal};

const FOLDER: &str = "/state";
/// A process is killed at one operation of so many.
const KILL_EVERY: usize = 5;

/// Small, so that a short run fills segments, uses them again, and puts several generations into the database.
fn limits(planted: Option<Planted>) -> Limits {
    Limits {
        segment_bytes: 24 << 10,
        group_bytes: 8 << 10,
        generation_bytes: 12 << 10,
        unapplied_bytes: 48 << 10,
        answers: Tuning { ids_in_memory: 8, in_background: false, ..Tuning::default() },
        planted,
    }
}

/// What a client was answered, and when.
struct Answer {
    at: usize,
    mutation: Mutation,
    task: Task,
}

/// What the relay reported to the store, and when the store had it on disk.
struct Delivery {
    at: usize,
    delivered: Delivered,
}

impl Delivery {
    fn is_in(&self, positions: &BTreeMap<i32, i64>) -> bool {
        positions.get(&self.delivered.partition).copied() >= self.delivered.position
    }
}

/// Deleted tasks, and the place of that event in the outbox.
type Deletions = BTreeMap<Uuid, u64>;

/// A workload, and all that came of it.
#[derive(Default)]
struct Run {
    planted: Option<Planted>,
    answers: Vec<Answer>,
    deliveries: Vec<Delivery>,
    /// Every event by its place in the outbox.
    events: BTreeMap<u64, Vec<u8>>,
    /// Every version of each task, with the events that belong to it.
    versions: BTreeMap<Uuid, BTreeMap<u64, (Task, Vec<EventType>)>>,
    deletions: Deletions,
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

fn open(disk: &SimDisk, planted: Option<Planted>) -> Result<(Embedded, thread::JoinHandle<()>), StoreError> {
    Embedded::open_on(Arc::new(disk.clone()), Path::new(FOLDER), limits(planted))
}

fn close(store: Embedded, writer: thread::JoinHandle<()>) -> Result<(), String> {
    drop(store);
    writer.join().map_err(|_| "the writer panicked".to_owned())
}

fn mutation(change: Change, key: Option<String>) -> Mutation {
    let idempotency = key.map(|key| IdempotencyKey { fingerprint: format!("{change:?}"), key });
    let traceparent = idempotency.as_ref().map(|_| format!("00-{}-{}-01", "a".repeat(32), "b".repeat(16)));
    Mutation {
        change,
        preconditions: Preconditions::default(),
        idempotency,
        correlation_id: Uuid::nil(),
        traceparent,
        actor: None,
    }
}

/// What the clients of a round ask for: two new tasks, and changes of those that are there.
fn wanted(round: usize, tasks: &[Uuid]) -> Vec<Mutation> {
    let key = |n: usize| n.is_multiple_of(2).then(|| format!("key-{round}-{n}"));
    let create = |n: usize| {
        let owner_id = (n == 0).then(|| Uuid::from_u128(1 + round as u128 % 3));
        let title = "title ".repeat(1 + 20 * (n + round % 3));
        mutation(Change::Create(NewTask { title: Title::parse(&title).unwrap(), owner_id }), key(n))
    };
    let change = |(n, id): (usize, &Uuid)| {
        let patch = |title: Option<String>, status| {
            let title = title.map(|title| Title::parse(&title).unwrap());
            Change::Patch(*id, TaskPatch { title, status, owner_id: None })
        };
        let change = match n % 5 {
            0 => patch(Some(format!("title {round}")), None),
            1 => patch(Some(format!("title {round}")), Some(TaskStatus::InProgress)),
            2 => patch(Some(format!("title {round}")), Some(TaskStatus::Completed)),
            3 => Change::Complete(*id),
            _ => Change::Delete(*id),
        };
        // What may change nothing has no key: that its answer is there, no version shows.
        let key = if matches!(change, Change::Complete(_)) { None } else { key(n) };
        mutation(change, key)
    };
    let creates = (0..2).map(create);
    // Each task is changed in a few rounds, each time in another way.
    let changes =
        tasks.iter().enumerate().filter(|(n, _)| n % 4 == round % 4).map(|(n, id)| (n + round / 4, id));
    creates.chain(changes.map(change)).collect()
}

impl Run {
    /// Runs the workload: in each round all requests at once, so that the writer takes several as one. In the
    /// middle the store is closed and opened, and the topic has more partitions afterwards.
    fn on(disk: &SimDisk, rounds: usize, planted: Option<Planted>) -> Self {
        let mut run = Self { planted, ..Self::default() };
        let (mut store, mut writer) = open(disk, planted).unwrap();
        let mut topic = PublishedTopic { topic_id: Uuid::from_u128(7), partitions: 1 };
        runtime().block_on(store.publish_to(topic)).unwrap();
        for round in 0..rounds {
            if round == rounds / 2 {
                close(store, writer).unwrap();
                (store, writer) = open(disk, planted).unwrap();
                topic.partitions = 3;
                runtime().block_on(store.publish_to(topic)).unwrap();
            }
            runtime().block_on(run.round(disk, &store, topic, round));
        }
        close(store, writer).unwrap();
        run
    }

    async fn round(&mut self, disk: &SimDisk, store: &Embedded, topic: PublishedTopic, round: usize) {
        let is_there = |id: &&Uuid| !self.deletions.contains_key(id);
        let tasks: Vec<Uuid> = self.versions.keys().filter(is_there).copied().collect();
        let mut clients = tokio::task::JoinSet::new();
        for mutation in wanted(round, &tasks) {
            let (store, disk) = (store.clone(), disk.clone());
            clients.spawn(async move {
                let outcome = store.mutate(mutation.clone()).await.unwrap();
                let Outcome::Done(task) = outcome else { panic!("{mutation:?}: {outcome:?}") };
                let task = Task::clone(&task);
                Answer { at: disk.now(), mutation, task }
            });
        }
        for answer in clients.join_all().await {
            self.note(answer);
        }
        let waiting = store.outbox_after(0, usize::MAX).await.unwrap();
        self.events.extend(waiting.iter().map(|entry| (entry.seq, entry.payload.clone())));
        let deleted = waiting.iter().filter(|entry| entry.event.event_type == EventType::Deleted);
        self.deletions.extend(deleted.map(|entry| (entry.event.data.task_id, entry.seq)));
        for partition in 0..topic.partitions {
            let is_here = |entry: &&Arc<OutboxEntry>| {
                partition_of(entry.event.data.task_id, topic.partitions) == partition
            };
            let mut seqs: Vec<u64> = waiting.iter().filter(is_here).map(|entry| entry.seq).collect();
            // In some rounds the relay sends nothing. It leaves the last ones for later, and finds one of those.
            if round.is_multiple_of(3) || seqs.len() < 3 {
                continue;
            }
            let scattered = seqs.split_off(seqs.len() - 1);
            seqs.pop();
            let before = self.deliveries.iter().filter(|other| other.delivered.partition == partition);
            let position = Some(before.map(|other| other.delivered.seqs.len() as i64 + 1).sum::<i64>() + 1);
            let delivered = Delivered { topic, partition, seqs, scattered, position };
            if round % 3 == 1 {
                store.delivered(delivered.clone()).await.unwrap();
            } else {
                store.delivered_with_others(delivered.clone()).await.unwrap();
            }
            self.deliveries.push(Delivery { at: disk.now(), delivered });
        }
    }

    fn note(&mut self, answer: Answer) {
        let task = answer.task.clone();
        if matches!(answer.mutation.change, Change::Delete(_)) {
            return self.answers.push(answer);
        }
        let versions = self.versions.entry(task.id).or_default();
        let status_before = versions.get(&(task.version - 1)).map(|(before, _)| before.status);
        let completes =
            task.status == TaskStatus::Completed && status_before.is_some_and(|before| before != task.status);
        let events = match (&answer.mutation.change, completes) {
            (Change::Create(_), _) => vec![EventType::Created],
            (Change::Patch(..), false) => vec![EventType::Updated],
            (Change::Patch(..), true) => vec![EventType::Updated, EventType::Completed],
            (Change::Complete(_), _) => vec![EventType::Completed],
            (Change::Delete(_), _) => Vec::new(),
        };
        versions.entry(task.version).or_insert((task, events));
        self.answers.push(answer);
    }
}

impl Subject for Run {
    type Opened = (Embedded, thread::JoinHandle<()>);
    const CUT_TWICE: Option<usize> = Some(50);

    fn open(&self, disk: &SimDisk) -> Result<Self::Opened, String> {
        open(disk, self.planted).map_err(|error| error.to_string())
    }

    fn check(&self, (store, writer): Self::Opened, cut: &Cut) -> Result<(), String> {
        let stored = runtime().block_on(Stored::read(&store))?;
        stored.is_whole(self)?;
        let promised: Vec<&Answer> = self.answers.iter().filter(|answer| answer.at <= cut.at).collect();
        for answer in &promised {
            if !stored.has(answer, &self.deletions) {
                return Err(format!("{:?} was answered and is not there", answer.task));
            }
        }
        for delivery in self.deliveries.iter().filter(|delivery| delivery.at <= cut.at) {
            if !delivery.is_in(&stored.positions) {
                return Err(format!("{:?} was taken in and is not there", delivery.delivered));
            }
        }
        runtime().block_on(goes_on(&store, &stored, &promised))?;

        // Closed, the database has all of it; the next process reads it from there.
        let before = runtime().block_on(Stored::read(&store))?;
        close(store, writer)?;
        let (store, writer) = self.open(&cut.disk)?;
        if store.shared.overlay().unapplied() > 0 {
            return Err("what was closed is not all in the database".to_owned());
        }
        equal("what is stored after a restart", &runtime().block_on(Stored::read(&store))?, &before)?;
        close(store, writer)
    }
}

/// The same on a disk that lies: of a file that lost any of its pages, redb may find out by a panic.
struct OnALyingDisk(Run);

impl Subject for OnALyingDisk {
    type Opened = <Run as Subject>::Opened;
    const CUT_TWICE: Option<usize> = Run::CUT_TWICE;
    const MAY_PANIC: bool = true;

    fn open(&self, disk: &SimDisk) -> Result<Self::Opened, String> {
        Subject::open(&self.0, disk)
    }

    fn check(&self, opened: Self::Opened, cut: &Cut) -> Result<(), String> {
        self.0.check(opened, cut)
    }
}

/// The store takes changes: a repeat under a key changes nothing, and what is new comes after what was.
async fn goes_on(store: &Embedded, stored: &Stored, promised: &[&Answer]) -> Result<(), String> {
    let done = async |mutation: Mutation| match store.mutate(mutation).await {
        Ok(Outcome::Done(task) | Outcome::Repeated(task)) => Ok(Task::clone(&task)),
        other => Err(format!("{other:?}")),
    };
    let last_seq = || store.outbox().borrow().last_seq;
    if let Some(answer) = promised.iter().rev().find(|answer| answer.mutation.idempotency.is_some()) {
        equal("a repeat's answer", &done(answer.mutation.clone()).await?, &answer.task)?;
        equal("the events after a repeat", &last_seq(), &stored.outbox_state.last_seq)?;
    }
    let new = NewTask { title: Title::parse("new").unwrap(), owner_id: None };
    let created = done(mutation(Change::Create(new), None)).await?;
    if stored.tasks.keys().any(|id| *id >= created.id) {
        return Err(format!("the id of {created:?} is not the highest"));
    }
    equal("the events after a creation", &last_seq(), &(stored.outbox_state.last_seq + 1))?;
    let Some(before) = stored.tasks.values().next() else { return Ok(()) };
    let patch = TaskPatch { title: Some(Title::parse("changed").unwrap()), ..TaskPatch::default() };
    let changed = done(mutation(Change::Patch(before.id, patch), None)).await?;
    equal("the version after a change", &changed.version, &(before.version + 1))
}

#[test]
fn after_a_power_cut_what_was_answered_is_there_with_its_events_and_nothing_partially() {
    let disk = SimDisk::new();
    let run = Run::on(&disk, 18, None);
    let tried = disk.cut_everywhere(&run);
    println!("store: {tried}");
    assert!(run.answers.len() > 30 && run.deliveries.len() > 2, "{} answers", run.answers.len());
    assert!(run.deletions.len() > 5, "{} deletions", run.deletions.len());
    assert!(tried.states > 1_000, "{tried}");
}

/// What the next process sees after a kill it may answer, and its relay may send: it has to be on disk,
/// whatever the killed one had not synced.
#[test]
fn a_power_cut_after_a_kill_takes_nothing_that_the_next_process_saw() {
    let disk = SimDisk::new();
    let mut run = Run::on(&disk, 6, None);
    let tried = disk.kill_everywhere(KILL_EVERY, |killed, _| {
        let (store, writer) = open(killed, None).unwrap();
        let seen = runtime().block_on(Stored::read(&store)).unwrap();
        for answer in &mut run.answers {
            answer.at = if seen.has(answer, &run.deletions) { killed.now() } else { usize::MAX };
        }
        for delivery in &mut run.deliveries {
            delivery.at = if delivery.is_in(&seen.positions) { killed.now() } else { usize::MAX };
        }
        let tried = killed.cut_everywhere(&run);
        close(store, writer).unwrap();
        tried
    });
    println!("store after kills: {tried}");
    assert!(tried.states > 1_000, "{tried}");
}

#[test]
fn a_store_on_a_disk_that_does_not_sync_is_found_out() {
    for lie in ["tasks.redb", "state", "tasks.log-1"] {
        let disk = SimDisk::that_lies_about(lie);
        let run = OnALyingDisk(Run::on(&disk, 12, None));
        println!("{lie}: {}", disk.cut_until_found(&run));
    }
}

#[test]
fn mistakes_in_the_log_are_found_out() {
    for planted in [Planted::NoSync, Planted::NameFirst, Planted::AnyFrame, Planted::PositionApart] {
        let disk = SimDisk::new();
        let run = Run::on(&disk, 12, Some(planted));
        println!("{planted:?}: {}", disk.cut_until_found(&run));
    }
}

#[test]
fn an_answer_before_the_sync_is_found_out() {
    let disk = SimDisk::new();
    let mut run = Run::on(&disk, 3, None);
    for answer in &mut run.answers {
        answer.at = answer.at.saturating_sub(1);
    }
    let found = disk.cut_until_found(&run);
    assert!(found.why.contains("was answered and is not there"), "{found}");
}
