//! Commits in doubt: the question whether a group was committed is one whose reply may be lost, too.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harness::Mode;
use task_api::store::{Filter, IdempotencyKey, Mutation, Outcome, Store};
use task_api::task::Change;
use tokio::task::{JoinSet, spawn_blocking};
use uuid::Uuid;

use super::behind_proxy;
use crate::store::{change, create, done};
use crate::support::eventually;

fn keyed(mutation: Mutation, key: &str) -> Mutation {
    let idempotency = Some(IdempotencyKey { key: key.to_owned(), fingerprint: "aa".to_owned() });
    Mutation { idempotency, ..mutation }
}

async fn events_of(store: &Store, id: Uuid) -> Vec<String> {
    let events = store.outbox_after(0, usize::MAX).await.unwrap();
    let own = events.iter().filter(|entry| entry.event.data.task_id == id);
    own.map(|entry| entry.event.event_type.as_str().to_owned()).collect()
}

/// Sessions that wait for a lock with such a statement.
fn waiting(database: &str, statement: &str) -> String {
    format!(
        "FROM pg_stat_activity WHERE datname = '{database}' AND query LIKE '{statement}%' AND wait_event_type = 'Lock'"
    )
}

const LOCK: &str = "BEGIN; LOCK TABLE task_events.groups IN SHARE MODE; SELECT pg_sleep(60)";
const LOCKING: &str = "FROM pg_stat_activity WHERE datname = 'doubt' AND query LIKE 'BEGIN; LOCK TABLE task_events.groups%' AND pid <> pg_backend_pid()";

/// The group is not committed; the row that fences it off is, and the reply to that is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_reply_to_the_question_makes_no_group_a_committed_one() {
    let Some((server, proxy, store, _tasks)) = behind_proxy("doubt").await else { return };
    let ask = |sql: String| async move {
        spawn_blocking(move || server.sql("doubt", &sql).unwrap()).await.unwrap()
    };
    let task = done(&store, create("before")).await;
    for (round, kind) in ["create", "complete"].into_iter().enumerate() {
        let locking = spawn_blocking(move || server.sql("doubt", LOCK));
        let is = |sql: String, what: &'static str| async move {
            eventually(what, || async { ask(sql.clone()).await != "0" }).await;
        };
        is(format!("SELECT count(*) {LOCKING} AND wait_event = 'PgSleep'"), "the table is locked").await;
        let mutation = || match kind {
            "create" => keyed(create("doubtful"), "create"),
            _ => keyed(change(Change::Complete(task.id)), "complete"),
        };
        let changing = {
            let (store, mutation) = (store.clone(), mutation());
            tokio::spawn(async move { store.mutate(mutation).await })
        };
        // Its commit waits for the table, and is ended.
        let group = waiting("doubt", "WITH noted");
        is(format!("SELECT count(pg_terminate_backend(pid)) {group}"), "its commit is under way").await;
        // A machine that is too slow gives up here: then the answer says so.
        let fence = waiting("doubt", "INSERT INTO task_events.groups (id, is_fence)");
        let is_asked =
            || async { changing.is_finished() || ask(format!("SELECT count(*) {fence}")).await != "0" };
        eventually("the writer asks whether it was committed", is_asked).await;
        proxy.set(Mode::DropReplies, 100);
        ask(format!("SELECT count(pg_terminate_backend(pid)) {LOCKING}")).await;
        drop(locking.await);
        let fences = "SELECT count(*) FROM task_events.groups WHERE is_fence";
        let is_fenced = || async {
            changing.is_finished() || ask(fences.to_owned()).await.parse::<usize>().unwrap() > round
        };
        eventually("the row is there", is_fenced).await;
        proxy.set(Mode::Cut, 100);
        let cut = proxy.counts().cut.load(Ordering::Relaxed);
        let is_cut = || async { proxy.counts().cut.load(Ordering::Relaxed) > cut };
        eventually("connections are cut", is_cut).await;
        proxy.set(Mode::Pass, 100);
        let answer = changing.await.unwrap();
        eventually("changes are taken", || async { store.failure().is_none() }).await;
        if let Ok(Outcome::Done(done)) = &answer {
            assert_eq!(
                store.task(done.id).await.unwrap().as_ref(),
                Some(&**done),
                "{kind}: answered, not made"
            );
        }
        // Asked again it is the same, once.
        let again = done(&store, mutation()).await;
        if let Ok(Outcome::Done(done)) = &answer {
            assert_eq!(**done, again, "{kind}");
        }
        let events =
            if kind == "create" { vec!["task.created"] } else { vec!["task.created", "task.completed"] };
        assert_eq!(events_of(&store, again.id).await, events, "{kind}");
    }
    assert_eq!(store.list(Filter::default(), None, 10).await.unwrap().tasks.len(), 2);
}

/// Each client asks until it is answered, under one key for each change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_is_asked_for_until_it_is_answered_is_made_once() {
    let Some((server, proxy, store, _tasks)) = behind_proxy("asked_again").await else { return };
    let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let mut clients = JoinSet::new();
    for client in 0..8 {
        let (store, stop, made) = (store.clone(), Arc::clone(&stop), Arc::clone(&made));
        clients.spawn(async move {
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let key = format!("{client}/{number}");
                let created = until_answered(&store, &keyed(create(&key), &key)).await;
                let complete = keyed(change(Change::Complete(created)), &format!("{key}/complete"));
                until_answered(&store, &complete).await;
                made.lock().unwrap().push(created);
            }
        });
    }
    for round in 0..6 {
        let before = made.lock().unwrap().len();
        eventually("changes are made", || async { made.lock().unwrap().len() > before }).await;
        // Replies are lost before the cut in one round, and of what asks afterwards in the other.
        let modes = [Mode::DropReplies, Mode::Cut, Mode::DropReplies, Mode::Cut];
        for mode in &modes[if round % 2 == 0 { 0 } else { 1 }..] {
            proxy.set(*mode, 100);
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        proxy.set(Mode::Pass, 100);
    }
    stop.store(true, Ordering::Relaxed);
    clients.join_all().await;
    let mut made = std::mem::take(&mut *made.lock().unwrap());
    made.sort_unstable();
    let tasks = store.list(Filter::default(), None, usize::MAX).await.unwrap().tasks;
    let mut there: Vec<Uuid> = tasks.iter().map(|task| task.id).collect();
    there.sort_unstable();
    assert_eq!(there, made);
    assert!(tasks.iter().all(|task| task.version == 2));
    let events = "SELECT count(*) || ' ' || count(DISTINCT event_id) FROM task_events.outbox";
    let expected = format!("{0} {0}", 2 * made.len());
    assert_eq!(server.sql("asked_again", events).unwrap(), expected);
}

async fn until_answered(store: &Store, mutation: &Mutation) -> Uuid {
    loop {
        match store.mutate(mutation.clone()).await {
            Ok(Outcome::Done(task) | Outcome::Repeated(task)) => return task.id,
            Ok(Outcome::KeyInUse) | Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            Ok(other) => panic!("{other:?}"),
        }
    }
}
