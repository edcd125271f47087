//! The store alone: order, group commit, restart, overload.

use std::collections::{HashMap, HashSet};

use task_api::store::{
    Delivered, Filter, IdempotencyKey, Mutation, Outcome, Preconditions, Store, StoreError,
};
use task_api::task::{Change, NewTask, Task, TaskPatch, TaskStatus};
use task_api::title::Title;
use task_events::event::EventType;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::{Writer, is_postgres, open};

pub fn create(title: &str) -> Mutation {
    change(Change::Create(NewTask { title: Title::parse(title).unwrap(), owner_id: None }))
}

fn patch(id: Uuid, title: &str) -> Mutation {
    change(Change::Patch(id, TaskPatch { title: Some(Title::parse(title).unwrap()), ..TaskPatch::default() }))
}

pub fn change(change: Change) -> Mutation {
    Mutation {
        change,
        preconditions: Preconditions::default(),
        idempotency: None,
        correlation_id: Uuid::new_v4(),
        traceparent: None,
        actor: None,
    }
}

pub async fn done(store: &Store, mutation: Mutation) -> Task {
    match store.mutate(mutation).await.unwrap() {
        Outcome::Done(task) | Outcome::Repeated(task) => Task::clone(&task),
        other => panic!("{other:?}"),
    }
}

/// Closes the store and waits until the file is free.
pub async fn close(store: Store, writer: Writer) {
    drop(store);
    writer.join().await;
}

/// Runs `clients` tasks that each make the changes `0..each`.
pub async fn load<F: Future<Output = ()> + Send + 'static>(
    store: &Store,
    clients: usize,
    each: usize,
    work: impl Fn(Store, usize, usize) -> F + Copy + Send + 'static,
) {
    let mut running = JoinSet::new();
    for client in 0..clients {
        let store = store.clone();
        running.spawn(async move {
            for number in 0..each {
                work(store.clone(), client, number).await;
            }
        });
    }
    running.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_outbox_has_the_order_of_the_commits() {
    if is_postgres() {
        // Numbers without gaps, and of one writer: those of the log.
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (store, writer) = open(dir.path()).await;
    let shared = done(&store, create("v1")).await.id;
    load(&store, 32, 20, move |store, client, number| async move {
        let own = done(&store, create("v1")).await.id;
        done(&store, patch(own, "v2")).await;
        done(&store, change(Change::Complete(own))).await;
        // The title tells the order in which the shared task was changed, by its version.
        done(&store, patch(shared, &format!("{client} {number}"))).await;
    })
    .await;

    let events = store.outbox_after(0, usize::MAX).await.unwrap();
    assert_eq!(events.len(), 1 + 32 * 20 * 4);
    let seqs: Vec<u64> = events.iter().map(|entry| entry.seq).collect();
    assert_eq!(seqs, (1..=events.len() as u64).collect::<Vec<_>>(), "no gap, none twice");
    let created: Vec<Uuid> = events
        .iter()
        .filter(|entry| entry.event.event_type == EventType::Created)
        .map(|entry| entry.event.data.task_id)
        .collect();
    assert!(created.is_sorted(), "ids rise with the commits");
    let listed = store.list(Filter::default(), None, usize::MAX).await.unwrap().tasks;
    assert_eq!(listed.iter().map(|task| task.id).collect::<Vec<_>>(), created);

    let mut told: HashMap<Uuid, Vec<(EventType, String)>> = HashMap::new();
    for entry in &events {
        let data = &entry.event.data;
        told.entry(data.task_id).or_default().push((entry.event.event_type, data.title.clone()));
    }
    let of_shared = told.remove(&shared).unwrap();
    let last = store.task(shared).await.unwrap().unwrap();
    assert_eq!((of_shared.len() as u64, &of_shared.last().unwrap().1), (last.version, &last.title));
    let own = [(EventType::Created, "v1"), (EventType::Updated, "v2"), (EventType::Completed, "v2")];
    for (id, events) in told {
        assert_eq!(events, own.map(|(kind, title)| (kind, title.to_owned())), "{id}");
    }
    close(store, writer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_changes_share_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    let (store, writer) = open(dir.path()).await;
    const CHANGES: usize = 10_000;
    load(&store, 64, CHANGES.div_ceil(64), |store, _, _| async move {
        done(&store, create("t")).await;
    })
    .await;
    let commits = store.commits();
    let changes = store.outbox_after(0, usize::MAX).await.unwrap().len() as u64;
    assert!(changes >= CHANGES as u64 && commits * 4 < changes, "{commits} commits for {changes} changes");
    close(store, writer).await;
}

#[tokio::test]
async fn a_restart_keeps_everything() {
    if is_postgres() {
        // Numbers without gaps, and of one writer: those of the log.
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut store, mut writer) = open(dir.path()).await;
    let mut with_key = create("with a key");
    let key = IdempotencyKey { key: "k".to_owned(), fingerprint: "f".to_owned() };
    with_key.idempotency = Some(key);
    with_key.traceparent = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned());
    let first = done(&store, with_key.clone()).await;
    let second = done(&store, create("second")).await;
    done(&store, change(Change::Complete(second.id))).await;
    let delivered = Delivered { seqs: vec![1, 2], position: Some(17), ..Delivered::default() };
    store.delivered(delivered).await.unwrap();
    store.delivered(Delivered { partition: 3, position: Some(4), ..Delivered::default() }).await.unwrap();

    let completed = Filter { status: Some(TaskStatus::Completed), ..Filter::default() };
    let contents = async |store: &Store| {
        let waiting = store.outbox_after(0, 10).await.unwrap().into_iter();
        (
            store.list(Filter::default(), None, 10).await.unwrap(),
            store.list(completed.clone(), None, 10).await.unwrap(),
            store.positions(),
            *store.outbox().borrow(),
            waiting
                .map(|entry| (entry.seq, entry.payload.clone(), entry.traceparent.clone()))
                .collect::<Vec<_>>(),
        )
    };
    for _ in 0..2 {
        let before = contents(&store).await;
        close(store, writer).await;
        (store, writer) = open(dir.path()).await;
        assert_eq!(contents(&store).await, before);
        assert_eq!(done(&store, with_key.clone()).await, first, "the answer under the key");
    }
    // A sequence number is never given twice, also where the outbox is empty.
    store.delivered(Delivered { seqs: vec![3], ..Delivered::default() }).await.unwrap();
    close(store, writer).await;
    let (store, writer) = open(dir.path()).await;
    assert_eq!((store.outbox().borrow().waiting, store.outbox().borrow().last_seq), (0, 3));
    let newest = done(&store, create("newest")).await;
    assert!(newest.id > second.id);
    assert_eq!(store.outbox_after(0, 10).await.unwrap()[0].seq, 4);
    close(store, writer).await;
}

#[tokio::test]
async fn what_the_queue_cannot_hold_is_refused_and_the_rest_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let (store, writer) = open(dir.path()).await;
    let mut waiting = JoinSet::new();
    // All of them are queued before the first answer is looked at: this runtime has one thread.
    for _ in 0..20_000 {
        let store = store.clone();
        waiting.spawn(async move { store.mutate(create("t")).await });
    }
    let (mut stored, mut refused) = (HashSet::new(), 0);
    while let Some(outcome) = waiting.join_next().await {
        match outcome.unwrap() {
            Ok(Outcome::Done(task)) => drop(stored.insert(task.id)),
            Err(StoreError::Overloaded) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(refused > 0 && stored.len() >= 4_096, "{refused} refused, {} stored", stored.len());
    let listed = store.list(Filter::default(), None, usize::MAX).await.unwrap().tasks;
    assert_eq!(listed.into_iter().map(|task| task.id).collect::<HashSet<_>>(), stored);
    close(store, writer).await;
}
