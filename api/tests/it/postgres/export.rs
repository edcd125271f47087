//! The tasks of a database are moved into an embedded store: whole, once, whenever it is cut off.

use std::path::Path;
use std::time::Duration;

use harness::Postgres;
use task_api::store::export::{Action, ExportError, Outcome, Report, export};
use task_api::store::import::Outcome as Imported;
use task_api::store::{
    Delivered, IdempotencyKey, Mutation, Outcome as Changed, PublishedTopic, Store, StoreError,
};
use task_api::task::Change;
use task_events::database::{DatabaseUrl, Trouble, connect as session};
use task_events::operate::Progress;
use task_events::state_dir::StateDirError;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::import::{Cut, all_events, all_tasks, execute as import, folder, made, opened, target};
use super::import_ends::copied;
use super::replicas::titled;
use crate::store::{change, close, create, done, load};
use crate::support::{Writer, connect, eventually};

/// Runs it, again while somebody who was cut off in this process has not closed the file.
async fn run(
    root: &Path,
    url: &DatabaseUrl,
    action: Action,
    progress: &mut dyn Progress,
) -> Result<Report, ExportError> {
    loop {
        match export(root, url, action, progress).await {
            Err(ExportError::Store(StoreError::Unavailable(why))) if why.contains("already open") => {}
            // A process that another test starts has a copy of the lock until it is another program.
            Err(ExportError::StateDir(StateDirError::InUse { .. })) => {}
            done => return done,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn execute(root: &Path, url: &DatabaseUrl) -> Report {
    run(root, url, Action::Execute, &mut ()).await.unwrap()
}

async fn refused(root: &Path, url: &DatabaseUrl, action: Action) -> String {
    match run(root, url, action, &mut ()).await {
        Err(error @ (ExportError::Refused(_) | ExportError::MovedBefore(_))) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

fn keyed(title: &str) -> Mutation {
    let idempotency = Some(IdempotencyKey { key: format!("key of {title}"), fingerprint: "aa".to_owned() });
    Mutation { idempotency, traceparent: Some(format!("trace of {title}")), ..create(title) }
}

/// Whether an API would serve the folder.
fn is_served(root: &Path) -> bool {
    let folder = folder(root);
    while Store::is_in(&folder) {
        match Store::open(&folder) {
            Err(StoreError::Moved { .. }) => return false,
            // By somebody who was cut off in this process.
            Err(StoreError::Unavailable(why)) if why.contains("already open") => {
                std::thread::yield_now();
            }
            opened => return opened.is_ok(),
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_and_back_the_tasks_events_answers_and_positions_are_the_same() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    let from = tempfile::tempdir().unwrap();
    let (store, writer) = opened(from.path()).await;
    let one = done(&store, keyed("one")).await;
    let two = done(&store, keyed("two")).await;
    done(&store, titled(one.id, "one, changed")).await;
    let topic = PublishedTopic { topic_id: Uuid::from_u128(7), partitions: 1 };
    store.publish_to(topic).await.unwrap();
    let delivered = Delivered { topic, partition: 0, seqs: vec![1], scattered: vec![], position: Some(41) };
    store.delivered(delivered).await.unwrap();
    close(store, writer).await;
    let (url, _) = target(server, "export_back").await;
    assert_eq!(import(from.path(), &url).await.outcome, Imported::Moved);

    let (store, writer) = connect(server, "export_back").await;
    done(&store, change(Change::Delete(two.id))).await;
    done(&store, change(Change::Complete(one.id))).await;
    let three = done(&store, keyed("three")).await;
    let tasks = all_tasks(&store).await;
    close(store, Writer::Tasks(writer)).await;
    // As one that expired, and a number that was drawn for nothing.
    server.sql("export_back", "INSERT INTO task_events.answers SELECT 'old', fingerprint, task, now() FROM task_events.answers LIMIT 1; SELECT nextval(pg_get_serial_sequence('task_events.outbox', 'seq'))").unwrap();
    let rows = "SELECT string_agg(seq || ' ' || encode(payload, 'hex') || ' ' || traceparent, ',' ORDER BY seq) FROM task_events.outbox WHERE traceparent IS NOT NULL";
    let rows = server.sql("export_back", rows).unwrap();

    let root = tempfile::tempdir().unwrap();
    let planned = run(root.path(), &url, Action::Plan, &mut ()).await.unwrap();
    assert!(!root.path().join("task-api").exists(), "a look makes nothing");
    let report = execute(root.path(), &url).await;
    assert_eq!((planned.outcome, report.outcome), (Outcome::Planned, Outcome::Moved));
    assert_eq!(planned.contents, report.contents);
    assert_eq!((report.contents.tasks, report.contents.answers, report.contents.events), (2, 3, 5));

    let (store, writer) = opened(root.path()).await;
    assert_eq!(all_tasks(&store).await, tasks);
    assert_eq!((store.positions(), store.published_topic()), (vec![(0, 41)], Some(topic)));
    let events = all_events(&store).await;
    assert!(events.is_sorted_by_key(|(seq, ..)| *seq) && events.len() == 5, "{events:?}");
    let traced = events.iter().filter_map(|(seq, payload, trace)| {
        let payload: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(format!("{seq} {payload} {}", trace.as_ref()?))
    });
    assert_eq!(traced.collect::<Vec<_>>().join(","), rows.trim());
    for (title, task) in [("two", &two), ("three", &three)] {
        let answer = store.mutate(keyed(title)).await.unwrap();
        assert!(matches!(&answer, Changed::Repeated(answered) if **answered == *task), "{answer:?}");
    }
    done(&store, titled(one.id, "goes on")).await;
    let last = all_events(&store).await.last().unwrap().0;
    assert!(last > events[4].0 + 1, "no number is given again");
    // Each leaves the outbox once.
    let seqs = all_events(&store).await.iter().map(|(seq, ..)| *seq).collect();
    let delivered = Delivered { topic, partition: 0, seqs, scattered: vec![], position: Some(47) };
    store.delivered(delivered).await.unwrap();
    assert_eq!((all_events(&store).await.len(), store.outbox().borrow().waiting), (0, 0));
    close(store, writer).await;
    let (store, writer) = opened(root.path()).await;
    assert_eq!(store.positions(), [(0, 47)]);
    close(store, writer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_that_is_cut_off_anywhere_is_served_by_nobody_and_begins_anew() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    let (url, _) = target(server, "export_cut").await;
    let (store, writer) = connect(server, "export_cut").await;
    load(&store, 64, 40, |store, client, number| async move {
        done(&store, keyed(&format!("{client} {number}"))).await;
    })
    .await;
    let tasks = all_tasks(&store).await;
    close(store, Writer::Tasks(writer)).await;
    let root = tempfile::tempdir().unwrap();
    let mut cuts = 0;
    let report = loop {
        let (mut cut, notify) = Cut::after(cuts + 1);
        tokio::select! {
            biased;
            () = notify.notified() => {}
            done = run(root.path(), &url, Action::Execute, &mut cut) => match done {
                // The run before had come as far as to have all, and the database does not know of it.
                Err(ExportError::Refused(why)) if why.contains("ended just before its last step") => {
                    let given_up = run(root.path(), &url, Action::Cancel, &mut ()).await.unwrap();
                    assert_eq!((given_up.outcome, cuts > 0), (Outcome::Cancelled, true));
                    continue;
                }
                done => break done.unwrap(),
            },
        }
        cuts += 1;
        assert!(!is_served(root.path()), "after {cuts} cuts");
        let plan = run(root.path(), &url, Action::Plan, &mut ()).await.unwrap();
        assert_eq!(plan.outcome, Outcome::Unfinished);
    };
    // Two batches of each kind, and three beginnings.
    assert!(cuts >= 9, "{cuts}");
    assert_eq!((report.outcome, report.contents.events), (Outcome::Moved, 2_560));
    let (store, writer) = opened(root.path()).await;
    assert_eq!(all_tasks(&store).await, tasks);
    let events = all_events(&store).await;
    assert!(events.is_sorted_by_key(|(seq, ..)| *seq) && events.len() == 2_560);
    let answer = store.mutate(keyed("63 39")).await.unwrap();
    assert!(matches!(&answer, Changed::Repeated(task) if tasks.contains(task)), "{answer:?}");
    close(store, writer).await;

    // Given up, the database is as it was.
    let other = tempfile::tempdir().unwrap();
    let (url, _) = target(server, "export_given_up").await;
    let (store, writer) = connect(server, "export_given_up").await;
    done(&store, create("one")).await;
    let (mut cut, notify) = Cut::after(2);
    tokio::select! {
        biased;
        () = notify.notified() => {}
        done = run(other.path(), &url, Action::Execute, &mut cut) => panic!("{done:?}"),
    }
    let report = run(other.path(), &url, Action::Cancel, &mut ()).await.unwrap();
    assert_eq!((report.outcome, Store::is_in(&folder(other.path()))), (Outcome::Cancelled, false));
    assert!(refused(other.path(), &url, Action::Cancel).await.contains("nothing to give up"));
    done(&store, create("two")).await;
    close(store, Writer::Tasks(writer)).await;
    assert_eq!(execute(other.path(), &url).await.contents.tasks, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_used_folder_a_running_replica_and_a_second_export_are_refused() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    let (url, _) = target(server, "export_refused").await;
    let (store, writer) = connect(server, "export_refused").await;
    done(&store, create("one")).await;
    let used = tempfile::tempdir().unwrap();
    made(used.path(), "another").await;
    let log = tempfile::tempdir().unwrap();
    std::fs::write(folder(log.path()).join("tasks.log-7"), "of a store whose database is lost").unwrap();
    let root = tempfile::tempdir().unwrap();
    for action in [Action::Plan, Action::Execute] {
        for used in [&used, &log] {
            assert!(refused(used.path(), &url, action).await.contains("holds a store already"));
        }
        let turn = store.turn().await;
        assert!(refused(root.path(), &url, action).await.contains("an API is running on the database"));
        drop(turn);
        let free = "SELECT count(*) FROM task_events.relay WHERE expires_at > clock_timestamp()";
        eventually("the turn is given back", || async {
            server.sql("export_refused", free).unwrap().trim() == "0"
        })
        .await;
    }
    assert!(!is_served(root.path()));
    assert_eq!(execute(root.path(), &url).await.outcome, Outcome::Moved);
    assert!(is_served(root.path()));
    // A replica that was paused meanwhile.
    let late = store.mutate(create("late")).await;
    assert!(late.is_err(), "{late:?}");
    close(store, Writer::Tasks(writer)).await;
    let count = "SELECT (SELECT count(*) FROM task_events.tasks) + (SELECT count(*) FROM task_events.outbox)";
    assert_eq!(server.sql("export_refused", count).unwrap().trim(), "2");
    let again = tempfile::tempdir().unwrap();
    for action in [Action::Plan, Action::Execute] {
        let error = refused(again.path(), &url, action).await;
        let place = folder(root.path()).display().to_string();
        assert!(error.contains(&place) && error.contains("without DATABASE_URL"), "{error}");
        assert!(refused(root.path(), &url, action).await.contains("holds a store already"));
    }
    let started = Store::connect(&url, true).await.map(|_| ()).unwrap_err();
    assert_eq!((started.trouble(), started.may_pass()), (Trouble::MovedAway, false));
    // An older program: its version is too low.
    let needed = "SELECT max(works_from) FROM task_events.migrations";
    assert_eq!(server.sql("export_refused", needed).unwrap().trim(), "3");

    let lost = run(again.path(), &url, Action::CancelLost, &mut ()).await.unwrap();
    assert_eq!(lost.outcome, Outcome::Cancelled);
    assert_eq!(server.sql("export_refused", needed).unwrap().trim(), "1");
    let (store, writer) = connect(server, "export_refused").await;
    done(&store, create("served again")).await;
    close(store, Writer::Tasks(writer)).await;
}

/// An export that waits with its last statement, since somebody holds the table.
async fn held_up(
    server: &'static Postgres,
    root: &Path,
    name: &str,
    url: &DatabaseUrl,
) -> (task_events::database::Session, JoinHandle<Result<Report, ExportError>>) {
    let holder = session(&url.endpoint().await.unwrap(), None).await.unwrap();
    let hold =
        "SET idle_in_transaction_session_timeout = 0; BEGIN; LOCK TABLE task_events.departures IN SHARE MODE";
    holder.batch_execute(hold).await.unwrap();
    let (to, from) = (root.to_owned(), url.clone());
    let exporting = tokio::spawn(async move { run(&to, &from, Action::Execute, &mut ()).await });
    let waits = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND wait_event_type = 'Lock' AND query LIKE 'INSERT INTO task_events.departures%'"
    );
    let is_waiting = || async { server.sql(name, &waits).unwrap().trim() == "1" };
    eventually("the export waits for the table", is_waiting).await;
    (holder, exporting)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_is_not_known_whether_the_database_is_closed_the_folder_is_not_served_and_it_ends_once() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    let (url, _) = target(server, "export_doubtful").await;
    let (store, writer) = connect(server, "export_doubtful").await;
    let task = done(&store, create("one")).await;
    close(store, Writer::Tasks(writer)).await;

    // Killed before the commit: the database has changed nothing.
    let root = tempfile::tempdir().unwrap();
    let (holder, exporting) = held_up(server, root.path(), "export_doubtful", &url).await;
    exporting.abort();
    assert!(exporting.await.is_err() && !is_served(root.path()));
    drop(holder);
    assert!(refused(root.path(), &url, Action::Execute).await.contains("knows nothing of the move"));
    assert_eq!(run(root.path(), &url, Action::Cancel, &mut ()).await.unwrap().outcome, Outcome::Cancelled);
    let (store, writer) = connect(server, "export_doubtful").await;
    assert_eq!(all_tasks(&store).await, std::slice::from_ref(&task));
    close(store, Writer::Tasks(writer)).await;

    // Killed between the commit and the mark's end.
    let (holder, exporting) = held_up(server, root.path(), "export_doubtful", &url).await;
    let copies: [TempDir; 3] = [copied(root.path()), copied(root.path()), copied(root.path())];
    drop(holder);
    assert_eq!(exporting.await.unwrap().unwrap().outcome, Outcome::Moved);
    let other = target(server, "export_other").await.0;
    for copy in &copies {
        assert!(!is_served(copy.path()));
        assert!(refused(copy.path(), &other, Action::Execute).await.contains("knows nothing of the move"));
    }
    assert_eq!(execute(copies[0].path(), &url).await.outcome, Outcome::Moved);
    let (store, writer) = opened(copies[0].path()).await;
    assert_eq!(all_tasks(&store).await, std::slice::from_ref(&task));
    close(store, writer).await;
    let import = task_api::store::import::import;
    let imported = import(copies[1].path(), &other, task_api::store::import::Action::Execute, &mut ()).await;
    assert!(imported.unwrap_err().to_string().contains("taskctl db export --execute"));
    assert_eq!(
        run(copies[2].path(), &url, Action::Cancel, &mut ()).await.unwrap().outcome,
        Outcome::Cancelled
    );
    assert!(!Store::is_in(&folder(copies[2].path())));
    let (store, writer) = connect(server, "export_doubtful").await;
    assert_eq!(all_tasks(&store).await, [task]);
    close(store, Writer::Tasks(writer)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_never_left_out() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    let (url, _) = target(server, "export_damaged").await;
    let (store, writer) = connect(server, "export_damaged").await;
    done(&store, keyed("one")).await;
    close(store, Writer::Tasks(writer)).await;
    let root = tempfile::tempdir().unwrap();
    for (table, damage, repair) in [
        ("tasks", "status = 77", "status = 0"),
        ("outbox", "payload = 'x' || payload", "payload = substr(payload, 2)"),
        ("answers", "task = 'x' || task", "task = substr(task, 2)"),
    ] {
        server.sql("export_damaged", &format!("UPDATE task_events.{table} SET {damage}")).unwrap();
        let error = refused(root.path(), &url, Action::Execute).await;
        assert!(error.contains("cannot be read") || error.contains("unknown"), "{error}");
        assert!(!is_served(root.path()));
        server.sql("export_damaged", &format!("UPDATE task_events.{table} SET {repair}")).unwrap();
    }
    let contents = execute(root.path(), &url).await.contents;
    assert_eq!((contents.tasks, contents.answers, contents.events), (1, 1, 1));
    assert!(is_served(root.path()));
}
