//! Faults of the database and of the way to it: no change is answered as made that is not, none that was is lost.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use harness::{Mode, Postgres};
use task_api::store::postgres::MAX_CONNECTIONS;
use task_api::store::{Filter, Outcome, Store, StoreError};
use task_events::database::DatabaseUrl;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{behind_proxy, replicas};
use crate::store::{create, done};
use crate::support::eventually;

/// What clients are to do, and have done.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    made: AtomicUsize,
}

impl Load {
    /// Returns when more tasks were made than there are clients: one was not only begun before.
    async fn goes_on(&self) {
        let before = self.made.load(Ordering::Relaxed);
        eventually("tasks are made", async || self.made.load(Ordering::Relaxed) > before + 16).await;
    }
}

/// Creates tasks until told to stop: those that were answered as made, and how many were refused.
fn load(store: &Store, load: &Arc<Load>) -> JoinSet<(Vec<Uuid>, Vec<StoreError>)> {
    let mut clients = JoinSet::new();
    for _ in 0..16 {
        let (store, load) = (store.clone(), Arc::clone(load));
        clients.spawn(async move {
            let (mut made, mut refused) = (Vec::new(), Vec::new());
            while !load.stop.load(Ordering::Relaxed) {
                match store.mutate(create("t")).await {
                    Ok(Outcome::Done(task)) => {
                        made.push(task.id);
                        load.made.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(other) => panic!("{other:?}"),
                    Err(error) => {
                        refused.push(error);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
            (made, refused)
        });
    }
    clients
}

/// What was answered as made is there, with its event; returns how many there are beyond that.
async fn all_there(store: &Store, made: &HashSet<Uuid>) -> usize {
    let tasks = store.list(Filter::default(), None, usize::MAX).await.unwrap().tasks;
    let there: HashSet<Uuid> = tasks.iter().map(|task| task.id).collect();
    assert!(made.is_subset(&there), "lost: {:?}", made.difference(&there).collect::<Vec<_>>());
    let events = store.outbox_after(0, usize::MAX).await.unwrap();
    let with_event: HashSet<Uuid> = events.iter().map(|entry| entry.event.data.task_id).collect();
    assert_eq!((events.len(), &with_event), (there.len(), &there), "one event each");
    there.len() - made.len()
}

async fn ended(
    load: &Load,
    clients: JoinSet<(Vec<Uuid>, Vec<StoreError>)>,
) -> (HashSet<Uuid>, Vec<StoreError>) {
    load.stop.store(true, Ordering::Relaxed);
    let (mut made, mut refused) = (HashSet::new(), Vec::new());
    for (ids, errors) in clients.join_all().await {
        made.extend(ids);
        refused.extend(errors);
    }
    (made, refused)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_break_or_lose_replies_fail_no_change_and_make_none_twice() {
    let Some((server, proxy, store, _tasks)) = behind_proxy("cut").await else { return };
    let begun = Arc::default();
    let clients = load(&store, &begun);
    for round in 0..10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        // Replies are lost, and then the connections: the commits under way have no answer.
        proxy.set(if round % 2 == 0 { Mode::DropReplies } else { Mode::Pass }, 100);
        tokio::time::sleep(Duration::from_millis(20)).await;
        proxy.set(Mode::Cut, 100);
        tokio::time::sleep(Duration::from_millis(50)).await;
        proxy.set(Mode::Pass, 100);
    }
    begun.goes_on().await;
    let (made, refused) = ended(&begun, clients).await;
    // Where the machine is too slow to find out within a request's time, the answer says so.
    let in_doubt = refused.iter().filter(|error| !matches!(error, StoreError::Refused(_))).count();
    let beyond = all_there(&store, &made).await;
    assert!(beyond <= in_doubt, "{} made, {beyond} more, {refused:?}", made.len());
    let count =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = 'cut' AND backend_type = 'client backend'";
    let is_bounded = || async {
        // The one that asks, and those that the server has not missed yet.
        server.sql("postgres", count).unwrap().parse::<usize>().unwrap() <= MAX_CONNECTIONS
    };
    eventually("sessions do not pile up", is_bounded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_hangs_refuses_in_time_and_leaves_no_sessions_behind() {
    let Some((_server, proxy, store, _tasks)) = behind_proxy("hangs").await else { return };
    done(&store, create("before")).await;
    proxy.set(Mode::Stall, 100);
    let asked = Instant::now();
    let refused = store.mutate(create("meanwhile")).await;
    assert!(refused.is_err() && asked.elapsed() < Duration::from_secs(30), "{refused:?}");
    let is_known = || async { store.failure().is_some() };
    eventually("it is known", is_known).await;
    proxy.set(Mode::Pass, 100);
    let is_back = || async { store.mutate(create("after")).await.is_ok() };
    eventually("changes are taken again", is_back).await;
    eventually("and that is known", || async { store.failure().is_none() }).await;
    let titles = store.list(Filter::default(), None, 10).await.unwrap().tasks;
    let meanwhile = titles.iter().filter(|task| task.title == "meanwhile").count();
    assert!(meanwhile <= 1, "{titles:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_the_database_loses_nothing_that_was_answered() {
    let Some(server) = Postgres::start("-c fsync=on").unwrap() else { return };
    let (store, _tasks) = crate::support::connect(&server, "crash").await;
    let begun = Arc::default();
    let clients = load(&store, &begun);
    for _ in 0..3 {
        begun.goes_on().await;
        server.crash().unwrap();
        server.start_again().unwrap();
    }
    begun.goes_on().await;
    eventually("changes are taken again", || async { store.failure().is_none() }).await;
    let (made, refused) = ended(&begun, clients).await;
    let beyond = all_there(&store, &made).await;
    let in_doubt = refused.iter().filter(|error| !matches!(error, StoreError::Refused(_))).count();
    assert!(beyond <= in_doubt, "{beyond} more than answered: {refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_database_refuses_changes_and_is_left_for_one_that_is_not() {
    let Some((server, stores)) = replicas("read_only", 1).await else { return };
    let store = &stores[0].0;
    let task = done(store, create("t")).await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'read_only' AND pid <> pg_backend_pid()";
    let set = |value: &str| format!("ALTER DATABASE read_only SET default_transaction_read_only = {value}");
    server.sql("postgres", &set("on")).unwrap();
    server.sql("postgres", end).unwrap();
    let refused = store.mutate(create("u")).await.unwrap_err();
    assert!(!matches!(refused, StoreError::Overloaded | StoreError::Unreadable(_)), "{refused:?}");
    server.sql("postgres", &set("off")).unwrap();
    let works = || async { store.mutate(create("v")).await.is_ok() };
    eventually("changes are taken again", works).await;
    assert_eq!(store.task(task.id).await.unwrap(), Some(task));
    let titles: Vec<String> = store
        .list(Filter::default(), None, 10)
        .await
        .unwrap()
        .tasks
        .into_iter()
        .map(|task| task.title)
        .collect();
    assert!(
        titles.len() >= 2 && titles[0] == "t" && titles[1..].iter().all(|title| title == "v"),
        "{titles:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_another_session_locks_holds_up_no_other_task() {
    const LOCKING: &str =
        "FROM pg_stat_activity WHERE datname = 'locked' AND query LIKE '%FOR UPDATE; SELECT pg_sleep(60)%'";
    let Some((server, stores)) = replicas("locked", 1).await else { return };
    let store = &stores[0].0;
    let task = done(store, create("t")).await;
    let lock = format!(
        "BEGIN; SELECT 1 FROM task_events.tasks WHERE id = '{}' FOR UPDATE; SELECT pg_sleep(60)",
        task.id
    );
    let locking = tokio::task::spawn_blocking(move || server.sql("locked", &lock));
    let is_locked = || async {
        let sleeping = format!("SELECT count(*) {LOCKING} AND wait_event = 'PgSleep'");
        server.sql("postgres", &sleeping).unwrap() == "1"
    };
    eventually("the task is locked", is_locked).await;
    let completing = {
        let store = store.clone();
        tokio::spawn(async move {
            store.mutate(crate::store::change(task_api::task::Change::Complete(task.id))).await.unwrap()
        })
    };
    done(store, create("other")).await;
    assert!(!completing.is_finished(), "it waits for its row");
    server.sql("postgres", &format!("SELECT pg_terminate_backend(pid) {LOCKING}")).unwrap();
    drop(locking.await);
    assert!(matches!(completing.await.unwrap(), Outcome::Done(task) if task.version == 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_and_a_wrong_schema_are_refused_with_what_is_known() {
    let Some((server, stores)) = replicas("full_disk", 1).await else { return };
    let store = &stores[0].0;
    done(store, create("t")).await;
    let full = "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no space left' USING ERRCODE = '53100'; END $$; \
        CREATE TRIGGER full_disk BEFORE INSERT ON task_events.outbox FOR EACH ROW EXECUTE FUNCTION full_disk(); \
        CREATE TRIGGER full_disk BEFORE INSERT ON task_events.groups FOR EACH ROW EXECUTE FUNCTION full_disk()";
    server.sql("full_disk", full).unwrap();
    match store.mutate(create("u")).await.unwrap_err() {
        StoreError::Refused(failure) => assert!(failure.remedy().contains("no space"), "{failure}"),
        other => panic!("{other:?}"),
    }
    assert!(store.failure().is_some());
    // Also once changes are refused without an attempt, reads go on.
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        let refused = store.mutate(create("u")).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
        assert_eq!(store.list(Filter::default(), None, 10).await.unwrap().tasks.len(), 1);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    server.sql("full_disk", "DROP FUNCTION full_disk CASCADE").unwrap();
    let works = || async { store.mutate(create("v")).await.is_ok() };
    eventually("changes are taken again", works).await;
    server.sql("full_disk", "UPDATE task_events.migrations SET works_from = 99").unwrap();
    let newer = Store::connect(&DatabaseUrl::new(&server.url("full_disk")), true).await.unwrap_err();
    assert!(newer.to_string().contains("newer program"), "{newer}");
}

/// As for a program that skipped a version, or one whose rights were withdrawn: the database answers all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_refuses_every_change_is_a_failure_until_it_takes_them() {
    let Some((server, stores)) = replicas("another_schema", 1).await else { return };
    let store = &stores[0].0;
    done(store, create("t")).await;
    let rename = |from, to| format!("ALTER TABLE task_events.outbox RENAME COLUMN {from} TO {to}");
    server.sql("another_schema", &rename("traceparent", "trace")).unwrap();
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        let refused = store.mutate(create("u")).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
        // Not only until it is next looked at.
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert!(store.failure().is_some_and(|failure| failure.contains("traceparent")));
        assert_eq!(store.list(Filter::default(), None, 10).await.unwrap().tasks.len(), 1);
    }
    server.sql("another_schema", &rename("trace", "traceparent")).unwrap();
    let works = || async { store.mutate(create("v")).await.is_ok() };
    eventually("changes are taken again", works).await;
    assert_eq!(store.failure(), None);
}
