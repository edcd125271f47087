//! How a move ends that does not end well: in doubt, refused, given up, or in a database that is lost.

use std::path::Path;

use harness::Postgres;
use task_api::store::import::{Action, ImportError, Outcome, Report, import};
use task_api::store::{Store, StoreError};
use task_events::database::{DatabaseUrl, Session, connect as session, ensure};
use tokio::task::JoinHandle;

use super::import::{all_tasks, cut_off, execute, folder, made, opened, refused, run, target};
use super::replicas::titled;
use crate::store::{close, create, done};
use crate::support::{SOON, Writer, connect, eventually};

pub(super) fn copied(root: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let to = folder(copy.path());
    for entry in std::fs::read_dir(folder(root)).unwrap() {
        let from = entry.unwrap().path();
        std::fs::copy(&from, to.join(from.file_name().unwrap())).unwrap();
    }
    copy
}

/// An import that waits for its last transaction, since somebody holds a table.
pub(super) async fn held_up(
    server: &'static Postgres,
    root: &Path,
    name: &str,
    url: &DatabaseUrl,
) -> (Session, JoinHandle<Result<Report, ImportError>>) {
    let holder = session(&url.endpoint().await.unwrap(), None).await.unwrap();
    holder
        .batch_execute(
            "SET idle_in_transaction_session_timeout = 0; BEGIN; LOCK TABLE task_events.tasks IN SHARE MODE",
        )
        .await
        .unwrap();
    let (from, to) = (root.to_owned(), url.clone());
    let importing = tokio::spawn(async move { run(&from, &to, Action::Execute, &mut ()).await });
    let waits = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND wait_event_type = 'Lock' AND query LIKE 'LOCK TABLE%'"
    );
    let is_waiting = || async { server.sql(name, &waits).unwrap().trim() == "1" };
    eventually("the import waits for the table", is_waiting).await;
    (holder, importing)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_is_not_known_where_the_tasks_are_no_store_is_served_and_it_ends_once() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    let root = tempfile::tempdir().unwrap();
    made(root.path(), "one").await;
    let (url, _) = target(server, "import_doubtful").await;
    let (holder, importing) = held_up(server, root.path(), "import_doubtful", &url).await;
    importing.abort();
    assert!(importing.await.is_err());
    let folder = folder(root.path());
    let moved = match Store::open(&folder) {
        Err(StoreError::Moved { moved, .. }) => moved,
        other => panic!("{other:?}"),
    };
    assert!(!moved.is_done, "{moved:?}");
    assert_eq!(Store::moved(&folder).unwrap(), Some(moved));
    let plan = run(root.path(), &url, Action::Plan, &mut ()).await.unwrap();
    assert_eq!(plan.outcome, Outcome::Unfinished);
    let (other, _) = target(server, "import_other").await;
    let error = refused(root.path(), &other, Action::Execute).await;
    assert!(error.contains("database import_doubtful at") && error.contains("knows nothing"), "{error}");
    assert!(refused(root.path(), &other, Action::Cancel).await.contains("knows nothing"));
    // As it is after a kill between the commit and the last mark.
    let copy = copied(root.path());
    drop(holder);
    assert_eq!(execute(root.path(), &url).await.outcome, Outcome::Moved);
    let (store, tasks) = connect(server, "import_doubtful").await;
    done(&store, create("two")).await;
    assert!(refused(copy.path(), &url, Action::Cancel).await.contains("has all tasks already"));
    let report = execute(copy.path(), &url).await;
    assert_eq!((report.outcome, report.contents.tasks), (Outcome::Moved, 1));
    assert_eq!(all_tasks(&store).await.len(), 2, "once");
    for root in [root.path(), copy.path()] {
        let moved = Store::moved(&root.join("task-api")).unwrap().unwrap();
        assert!(moved.is_done && Store::open(&root.join("task-api")).is_err(), "{moved:?}");
    }
    close(store, Writer::Tasks(tasks)).await;
    let before = run(root.path(), &url, Action::Execute, &mut ()).await.unwrap();
    assert_eq!((before.outcome, before.to), (Outcome::MovedBefore, url.place()));
    for action in [Action::Plan, Action::Execute] {
        let error = refused(root.path(), &other, action).await;
        assert!(error.contains("does not have the tasks") && error.contains(&url.place()), "{error}");
    }
    // An empty database is no proof that the one with the tasks is lost.
    assert!(refused(root.path(), &other, Action::Cancel).await.contains("--database-is-lost"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_with_tasks_is_refused_at_the_last_moment_too_and_the_embedded_store_is_served_again() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    let root = tempfile::tempdir().unwrap();
    let task = made(root.path(), "one").await;
    let (url, _) = target(server, "import_taken").await;
    let (holder, importing) = held_up(server, root.path(), "import_taken", &url).await;
    // As they are after a kill between the database's last word and the mark's end.
    let copies = [copied(root.path()), copied(root.path())];
    let insert =
        "INSERT INTO task_events.tasks VALUES (gen_random_uuid(), 't', 0, NULL, 1, now(), now()); COMMIT";
    holder.batch_execute(insert).await.unwrap();
    let error = importing.await.unwrap().unwrap_err();
    assert!(matches!(error, ImportError::Refused(_)) && error.to_string().contains("has tasks"), "{error}");
    for action in [Action::Plan, Action::Execute] {
        assert!(refused(root.path(), &url, action).await.contains("has tasks"));
    }
    let (store, writer) = opened(root.path()).await;
    assert_eq!(all_tasks(&store).await, [task]);
    close(store, writer).await;
    assert!(refused(copies[0].path(), &url, Action::Execute).await.contains("was given up before"));
    let report = run(copies[1].path(), &url, Action::Cancel, &mut ()).await.unwrap();
    assert_eq!(report.outcome, Outcome::Cancelled);
    for copy in &copies {
        let (store, writer) = opened(copy.path()).await;
        assert_eq!(all_tasks(&store).await.len(), 1);
        close(store, writer).await;
    }
    let count = "SELECT count(*) FROM task_events.tasks";
    assert_eq!(server.sql("import_taken", count).unwrap().trim(), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_is_given_up_before_it_is_finished_and_another_store_waits_for_that() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for root in [root.path(), other.path()] {
        made(root, "one").await;
    }
    let (url, _) = target(server, "import_given_up").await;
    let (holder, importing) = held_up(server, root.path(), "import_given_up", &url).await;
    importing.abort();
    assert!(importing.await.is_err());
    drop(holder);
    assert!(refused(other.path(), &url, Action::Execute).await.contains("another store"));
    let report = run(root.path(), &url, Action::Cancel, &mut ()).await.unwrap();
    assert_eq!(report.outcome, Outcome::Cancelled);
    made(root.path(), "two").await;
    let staged =
        "SELECT count(*) FROM pg_tables WHERE schemaname = 'task_events_import' AND tablename = 'tasks'";
    assert_eq!(server.sql("import_given_up", staged).unwrap().trim(), "0");

    // What was staged before the store changed counts for nothing.
    assert!(cut_off(root.path(), &url, 3).await.is_none());
    let (store, writer) = opened(root.path()).await;
    done(&store, create("three")).await;
    let first = all_tasks(&store).await[0].id;
    done(&store, titled(first, "one, renamed")).await;
    let tasks = all_tasks(&store).await;
    close(store, writer).await;
    assert_eq!(execute(root.path(), &url).await.contents.tasks, 3);
    let (store, writer) = connect(server, "import_given_up").await;
    assert_eq!(all_tasks(&store).await, tasks);
    close(store, Writer::Tasks(writer)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_store_or_is_in_use_is_refused() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    let root = tempfile::tempdir().unwrap();
    let (url, _) = target(server, "import_refusing").await;
    assert!(refused(root.path(), &url, Action::Execute).await.contains("no embedded store"));
    assert!(!root.path().join("task-api").exists(), "none is made");
    let (store, writer) = opened(root.path()).await;
    close(store, writer).await;
    let lock = task_events::state_dir::StateDir::open(root.path(), "task-api").unwrap();
    let in_use = import(root.path(), &url, Action::Execute, &mut ()).await;
    assert!(matches!(in_use, Err(ImportError::StateDir(_))), "{in_use:?}");
    drop(lock);
    let file = folder(root.path()).join("tasks.redb");
    // Only root can do what is refused, and give a file to somebody.
    if std::os::unix::fs::chown(&file, Some(65_532), None).is_ok() {
        assert!(refused(root.path(), &url, Action::Execute).await.contains("with the id 65532"));
        std::os::unix::fs::chown(&file, Some(0), None).unwrap();
    }
    let report = tokio::time::timeout(SOON, execute(root.path(), &url)).await.unwrap();
    assert_eq!((report.outcome, report.contents), (Outcome::Moved, Default::default()));
}

/// As after a failover to a standby that had nothing yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_database_was_lost_is_served_again_by_a_decision_only() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    let root = tempfile::tempdir().unwrap();
    let task = made(root.path(), "one").await;
    let (url, session) = target(server, "import_lost").await;
    assert_eq!(execute(root.path(), &url).await.outcome, Outcome::Moved);
    assert!(refused(root.path(), &url, Action::Cancel).await.contains("has all tasks already"));
    session.batch_execute("DROP SCHEMA task_events_import CASCADE").await.unwrap();
    for action in [Action::Cancel, Action::CancelLost] {
        assert!(refused(root.path(), &url, action).await.contains("has all tasks already"));
    }
    session.batch_execute("DROP SCHEMA task_events CASCADE").await.unwrap();
    ensure(&session, true).await.unwrap();
    assert!(refused(root.path(), &url, Action::Execute).await.contains("does not have the tasks"));
    assert!(refused(root.path(), &url, Action::Cancel).await.contains("--database-is-lost"));
    let report = run(root.path(), &url, Action::CancelLost, &mut ()).await.unwrap();
    assert_eq!(report.outcome, Outcome::Cancelled);
    let (store, writer) = opened(root.path()).await;
    assert_eq!(all_tasks(&store).await, [task]);
    close(store, writer).await;
}
