//! The store after a power cut, whatever of the last writes the disk kept: what was answered is there, with
//! its events, and nothing is there by half.

use std::collections::{BTreeMap, BTreeSet};

use powercut::{Cut, Found, SimDisk, Tried};
use redb::ReadableTable;
use task_events::event::EventType;
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;

use super::schema::{ANSWERS, ANSWERS_BY_EXPIRY, BY_OWNER, BY_STATUS, LAST_SEQ, StoredAnswer, TASKS};
use super::*;
use crate::task::{Change, NewTask, Task, TaskPatch, TaskStatus};

const FOLDER: &str = "/state";
const SEED: u64 = 1;
/// Every so many cuts the power fails once more, while the store is opened again.
const CUT_TWICE: usize = 50;
/// A process is killed at one operation of so many.
const KILL_EVERY: usize = 3;
const PARTITION: i32 = 0;

/// What a client was told, and when.
struct Answer {
    at: usize,
    mutation: Mutation,
    task: Task,
}

/// What the relay told the store, and when the store had it on disk.
struct Delivery {
    at: usize,
    delivered: Delivered,
    offset: i64,
}

/// A workload, and all that came of it.
#[derive(Default)]
struct Run {
    answers: Vec<Answer>,
    deliveries: Vec<Delivery>,
    /// Every event by its place in the outbox.
    events: BTreeMap<u64, Vec<u8>>,
    /// Every version of each task, with the events that belong to it.
    versions: BTreeMap<Uuid, BTreeMap<u64, (Task, Vec<EventType>)>>,
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

fn open(disk: &SimDisk) -> Result<(Store, thread::JoinHandle<()>), StoreError> {
    Store::open_on(Arc::new(disk.clone()), Path::new(FOLDER))
}

fn mutation(change: Change, key: Option<String>) -> Mutation {
    let idempotency = key.map(|key| IdempotencyKey { fingerprint: format!("{change:?}"), key });
    let traceparent = idempotency.as_ref().map(|_| format!("00-{}-{}-01", "a".repeat(32), "b".repeat(16)));
    Mutation { change, if_match: None, idempotency, correlation_id: Uuid::nil(), traceparent }
}

/// What the clients of a round ask for: two new tasks, and changes of those that are there.
fn wanted(round: usize, tasks: &[Uuid]) -> Vec<Mutation> {
    let key = |n: usize| n.is_multiple_of(2).then(|| format!("key-{round}-{n}"));
    let create = |n: usize| {
        let owner_id = (n == 0).then(|| Uuid::from_u128(1 + round as u128 % 3));
        let title = "title ".repeat(1 + 20 * (n + round % 3));
        mutation(Change::Create(NewTask { title: title.trim().to_owned(), owner_id }), key(n))
    };
    let change = |(n, id): (usize, &Uuid)| {
        let patch = |title: Option<String>, status| Change::Patch(*id, TaskPatch { title, status });
        let change = match n % 4 {
            0 => patch(Some(format!("title {round}")), None),
            1 => patch(None, Some(TaskStatus::InProgress)),
            2 => patch(Some(format!("title {round}")), Some(TaskStatus::Completed)),
            _ => Change::Complete(*id),
        };
        mutation(change, key(n))
    };
    let creates = (0..2).map(create);
    // Each task is changed in a few rounds, each time in another way.
    let changes =
        tasks.iter().enumerate().filter(|(n, _)| n % 4 == round % 4).map(|(n, id)| (n + round / 4, id));
    creates.chain(changes.map(change)).collect()
}

impl Run {
    /// Runs the workload: in each round all requests at once, so that the writer takes several as one.
    fn on(disk: &SimDisk, rounds: usize) -> Self {
        let mut run = Self::default();
        let (mut store, mut writer) = open(disk).unwrap();
        for round in 0..rounds {
            if round == rounds / 2 {
                drop(store);
                writer.join().unwrap();
                (store, writer) = open(disk).unwrap();
            }
            runtime().block_on(run.round(disk, &store, round));
        }
        drop(store);
        writer.join().unwrap();
        run
    }

    async fn round(&mut self, disk: &SimDisk, store: &Store, round: usize) {
        let tasks: Vec<Uuid> = self.versions.keys().copied().collect();
        let mut clients = tokio::task::JoinSet::new();
        for mutation in wanted(round, &tasks) {
            let (store, disk) = (store.clone(), disk.clone());
            clients.spawn(async move {
                let outcome = store.mutate(mutation.clone()).await.unwrap();
                let Outcome::Done(task) = outcome else { panic!("{mutation:?}: {outcome:?}") };
                Answer { at: disk.now(), mutation, task }
            });
        }
        for answer in clients.join_all().await {
            self.note(answer);
        }
        let waiting = store.outbox_after(0, usize::MAX).await.unwrap();
        self.events.extend(waiting.iter().map(|entry| (entry.seq, entry.json.clone())));
        if round % 3 == 1 {
            // The relay leaves the last ones for later.
            let seqs: Vec<u64> = waiting.iter().rev().skip(2).map(|entry| entry.seq).collect();
            let offset = self.deliveries.last().map_or(0, |last| last.offset) + seqs.len() as i64;
            let delivered = Delivered { seqs, positions: vec![(PARTITION, offset)] };
            store.delivered(delivered.clone()).await.unwrap();
            self.deliveries.push(Delivery { at: disk.now(), delivered, offset });
        }
    }

    fn note(&mut self, answer: Answer) {
        let task = answer.task.clone();
        let versions = self.versions.entry(task.id).or_default();
        let status_before = versions.get(&(task.version - 1)).map(|(before, _)| before.status);
        let completes =
            task.status == TaskStatus::Completed && status_before.is_some_and(|before| before != task.status);
        let events = match (&answer.mutation.change, completes) {
            (Change::Create(_), _) => vec![EventType::Created],
            (Change::Patch(..), false) => vec![EventType::Updated],
            (Change::Patch(..), true) => vec![EventType::Updated, EventType::Completed],
            (Change::Complete(_), _) => vec![EventType::Completed],
        };
        versions.entry(task.version).or_insert((task, events));
        self.answers.push(answer);
    }
}

/// All that stands in a store.
struct Stored {
    tasks: BTreeMap<Uuid, Task>,
    by_status: BTreeSet<(u8, [u8; 16])>,
    by_owner: BTreeSet<([u8; 16], u8, [u8; 16])>,
    outbox: BTreeMap<u64, Vec<u8>>,
    last_seq: u64,
    position: Option<i64>,
    answers: BTreeMap<String, StoredAnswer>,
    answers_by_expiry: BTreeSet<(u64, String)>,
}

impl Stored {
    fn read(database: &Database) -> Result<Self, redb::Error> {
        let read = database.begin_read()?;
        let mut stored = Self {
            tasks: BTreeMap::new(),
            by_status: BTreeSet::new(),
            by_owner: BTreeSet::new(),
            outbox: BTreeMap::new(),
            last_seq: read.open_table(LAST_SEQ)?.get(())?.map_or(0, |seq| seq.value()),
            position: read.open_table(POSITIONS)?.get(PARTITION)?.map(|offset| offset.value()),
            answers: BTreeMap::new(),
            answers_by_expiry: BTreeSet::new(),
        };
        for entry in read.open_table(TASKS)?.iter()? {
            let (id, task) = entry?;
            let id = Uuid::from_bytes(id.value());
            stored.tasks.insert(id, schema::read_task(id, task.value()).unwrap());
        }
        for entry in read.open_table(BY_STATUS)?.iter()? {
            stored.by_status.insert(entry?.0.value());
        }
        for entry in read.open_table(BY_OWNER)?.iter()? {
            stored.by_owner.insert(entry?.0.value());
        }
        for entry in read.open_table(OUTBOX)?.iter()? {
            let (seq, value) = entry?;
            let entry = schema::read_outbox(seq.value(), value.value()).unwrap();
            stored.outbox.insert(entry.seq, entry.json);
        }
        for entry in read.open_table(ANSWERS)?.iter()? {
            let (key, answer) = entry?;
            let answer = schema::read_answer(key.value(), answer.value()).unwrap();
            stored.answers.insert(key.value().to_owned(), answer);
        }
        for entry in read.open_table(ANSWERS_BY_EXPIRY)?.iter()? {
            let (entry, _) = entry?;
            let (expires_ms, key) = entry.value();
            stored.answers_by_expiry.insert((expires_ms, key.to_owned()));
        }
        Ok(stored)
    }

    fn has(&self, task: &Task) -> bool {
        self.tasks.get(&task.id).is_some_and(|stored| stored.version >= task.version)
    }

    /// Nothing is there by half: each task is one that was, with the events of all its versions, the indexes
    /// and the answers agree with the tasks, and the outbox with the position.
    fn is_whole(&self, run: &Run) -> Result<(), String> {
        let mut events: BTreeMap<Uuid, Vec<EventType>> = BTreeMap::new();
        for seq in 1..=self.last_seq {
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
        equal("the events by task", &events, &owed)?;

        let by_status = self.tasks.values().map(|task| (task.status.code(), task.id.into_bytes())).collect();
        equal("the index by status", &self.by_status, &by_status)?;
        let owned = self.tasks.values().filter_map(|task| {
            task.owner_id.map(|owner| (owner.into_bytes(), task.status.code(), task.id.into_bytes()))
        });
        equal("the index by owner", &self.by_owner, &owned.collect())?;

        let taken = run.deliveries.iter().filter(|delivery| Some(delivery.offset) <= self.position);
        let gone: BTreeSet<u64> = taken.flat_map(|delivery| delivery.delivered.seqs.clone()).collect();
        let left = (1..=self.last_seq).filter(|seq| !gone.contains(seq));
        let left = left.map(|seq| (seq, run.events[&seq].clone())).collect();
        equal("the outbox", &self.outbox, &left)?;

        let keyed = run.answers.iter().filter(|answer| self.has(&answer.task));
        let keyed = keyed.filter_map(|answer| {
            answer.mutation.idempotency.as_ref().map(|key| (key.key.clone(), answer.task.clone()))
        });
        let answers = self.answers.iter().map(|(key, answer)| (key.clone(), answer.task.clone()));
        equal("the answers", &answers.collect::<BTreeMap<_, _>>(), &keyed.collect())?;
        let by_expiry = self.answers.iter().map(|(key, answer)| (answer.expires_ms, key.clone())).collect();
        equal("the answers by expiry", &self.answers_by_expiry, &by_expiry)
    }
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, wanted: &T) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("{what}: {found:?}, not {wanted:?}")) }
}

/// Opens what the cut left, and looks whether all that was promised by `moment` is there.
fn check(cut: &Cut, moment: usize, run: &Run) -> Result<(), String> {
    let (store, writer) = open(&cut.disk).map_err(|error| error.to_string())?;
    cut.once_more(CUT_TWICE, |again| check(again, moment, run))?;
    let stored = {
        let database = store.shared.database.read().unwrap();
        Stored::read(database.as_ref().unwrap()).map_err(|error| error.to_string())?
    };
    stored.is_whole(run)?;
    let waiting = store.outbox().borrow().waiting;
    equal("the count of the outbox", &waiting, &(stored.outbox.len() as u64))?;
    let promised: Vec<&Answer> = run.answers.iter().filter(|answer| answer.at <= moment).collect();
    for answer in &promised {
        if !stored.has(&answer.task) {
            return Err(format!("{:?} was answered and is not there", answer.task));
        }
    }
    for delivery in run.deliveries.iter().filter(|delivery| delivery.at <= moment) {
        if Some(delivery.offset) > stored.position {
            return Err(format!("{:?} was taken in and is not there", delivery.delivered));
        }
    }
    runtime().block_on(goes_on(&store, &stored, &promised))?;
    drop(store);
    writer.join().map_err(|_| "the writer panicked".to_owned())
}

/// The store takes changes: a repeat under a key changes nothing, and what is new comes after what was.
async fn goes_on(store: &Store, stored: &Stored, promised: &[&Answer]) -> Result<(), String> {
    let done = async |mutation: Mutation| match store.mutate(mutation).await {
        Ok(Outcome::Done(task)) => Ok(task),
        other => Err(format!("{other:?}")),
    };
    let last_seq = || store.outbox().borrow().last_seq;
    if let Some(answer) = promised.iter().rev().find(|answer| answer.mutation.idempotency.is_some()) {
        equal("a repeat's answer", &done(answer.mutation.clone()).await?, &answer.task)?;
        equal("the events after a repeat", &last_seq(), &stored.last_seq)?;
    }
    let new = NewTask { title: "new".to_owned(), owner_id: None };
    let created = done(mutation(Change::Create(new), None)).await?;
    if stored.tasks.keys().any(|id| *id >= created.id) {
        return Err(format!("the id of {created:?} is not the highest"));
    }
    equal("the events after a creation", &last_seq(), &(stored.last_seq + 1))?;
    let Some(before) = stored.tasks.values().next() else { return Ok(()) };
    let patch = TaskPatch { title: Some("changed".to_owned()), status: None };
    let changed = done(mutation(Change::Patch(before.id, patch), None)).await?;
    equal("the version after a change", &changed.version, &(before.version + 1))
}

fn cut_everywhere(disk: &SimDisk, run: &Run) -> Result<Tried, Found> {
    disk.each_cut(SEED, |cut| check(cut, cut.at, run))
}

#[test]
fn after_a_power_cut_what_was_answered_is_there_with_its_events_and_nothing_by_half() {
    let disk = SimDisk::new();
    let run = Run::on(&disk, 18);
    let tried = cut_everywhere(&disk, &run).unwrap_or_else(|found| found.raise());
    println!("store: {tried}");
    assert!(run.answers.len() > 30 && run.deliveries.len() > 2, "{} answers", run.answers.len());
    assert!(tried.states > 1_000, "{tried}");
}

/// What the next process sees after a kill it may answer, and its relay may send: it has to be on disk,
/// whatever the killed one had not synced.
#[test]
fn a_power_cut_after_a_kill_takes_nothing_that_the_next_process_saw() {
    let disk = SimDisk::new();
    let mut run = Run::on(&disk, 6);
    let (mut kills, mut tried) = (0, Tried::default());
    for moment in (0..disk.now()).step_by(KILL_EVERY) {
        let killed = disk.killed_at(moment);
        let (store, writer) = open(&killed).unwrap();
        let seen = {
            let database = store.shared.database.read().unwrap();
            Stored::read(database.as_ref().unwrap()).unwrap()
        };
        for answer in &mut run.answers {
            answer.at = if seen.has(&answer.task) { killed.now() } else { usize::MAX };
        }
        for delivery in &mut run.deliveries {
            delivery.at = if Some(delivery.offset) <= seen.position { killed.now() } else { usize::MAX };
        }
        tried += cut_everywhere(&killed, &run).unwrap_or_else(|found| found.raise());
        kills += 1;
        drop(store);
        writer.join().unwrap();
    }
    println!("store after {kills} kills: {tried}");
    assert!(tried.states > 1_000, "{tried}");
}

#[test]
fn a_store_on_a_disk_that_does_not_sync_is_found_out() {
    for lie in ["tasks.redb", "state"] {
        let disk = SimDisk::that_lies_about(lie);
        let run = Run::on(&disk, 2);
        let found = cut_everywhere(&disk, &run).expect_err(lie);
        println!("{lie}: {found}");
    }
}

#[test]
fn an_answer_before_the_sync_is_found_out() {
    let disk = SimDisk::new();
    let mut run = Run::on(&disk, 3);
    for answer in &mut run.answers {
        answer.at = answer.at.saturating_sub(2);
    }
    let found = cut_everywhere(&disk, &run).expect_err("the second sync of a commit makes it durable");
    assert!(found.why.contains("was answered and is not there"), "{found}");
}
