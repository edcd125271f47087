//! An embedded store is moved into a database that is slow, steps back, is served, or is another one; and a look at the
//! store changes nothing in it.

use harness::Postgres;
use redb::{ReadableDatabase, ReadableTableMetadata, TableDefinition};
use task_api::store::Store;
use task_api::store::import::{Action, ImportError, Outcome, check_arrival};
use task_events::operate::Progress;

use super::import::{all_events, all_tasks, cut_off, execute, folder, made, opened, refused, run, target};
use super::import_ends::{copied, held_up};
use crate::log::{OUTBOX, write_former};
use crate::store::{close, create, done};
use crate::support::{Writer, connect, eventually};

/// As after a fail-over to a standby that had not got the last batches when the store was marked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_stepped_back_does_not_become_the_store() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    let root = tempfile::tempdir().unwrap();
    for title in ["one", "two"] {
        made(root.path(), title).await;
    }
    let (url, session) = target(server, "import_back").await;
    let (holder, importing) = held_up(server, root.path(), "import_back", &url).await;
    importing.abort();
    assert!(importing.await.is_err());
    drop(holder);
    let back = "DELETE FROM task_events_import.tasks WHERE title = 'two'; \
        UPDATE task_events_import.parts SET count = 1 WHERE part = 'tasks'";
    session.batch_execute(back).await.unwrap();
    let error = refused(root.path(), &url, Action::Execute).await;
    assert!(error.contains("1 of 2 tasks, 0 of 0 answers, 2 of 2 events"), "{error}");
    assert_eq!(Store::moved(&folder(root.path())).unwrap(), None);
    let report = execute(root.path(), &url).await;
    assert_eq!((report.outcome, report.contents.tasks), (Outcome::Moved, 2));

    // Behind the last transaction: the store is not served again without a word.
    let back = "TRUNCATE task_events.tasks, task_events.outbox, task_events.moves; \
        UPDATE task_events_import.moves SET finished_at = NULL";
    session.batch_execute(back).await.unwrap();
    for action in [Action::Plan, Action::Execute, Action::Cancel] {
        assert!(refused(root.path(), &url, action).await.contains("--database-is-lost"));
    }
    let report = run(root.path(), &url, Action::CancelLost, &mut ()).await.unwrap();
    assert_eq!(report.outcome, Outcome::Cancelled);
    let (store, writer) = opened(root.path()).await;
    assert_eq!(all_tasks(&store).await.len(), 2);
    close(store, writer).await;
}

/// The table of a former version, with the number of its last event.
const LAST_SEQ: TableDefinition<(), u64> = TableDefinition::new("last_seq");

fn is_former(root: &std::path::Path) -> bool {
    let database = redb::Database::open(folder(root).join("tasks.redb")).unwrap();
    let read = database.begin_read().unwrap();
    read.open_table(LAST_SEQ).is_ok() && read.open_table(OUTBOX).unwrap().len().unwrap() == 17
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_and_a_refusal_leave_a_store_of_a_former_version_as_it_is() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    let root = tempfile::tempdir().unwrap();
    write_former(&folder(root.path()), 20, 3);
    assert!(is_former(root.path()));
    let (url, session) = target(server, "import_look").await;
    let plan = run(root.path(), &url, Action::Plan, &mut ()).await.unwrap();
    assert_eq!((plan.outcome, plan.is_former, plan.contents.tasks), (Outcome::Planned, true, 20));
    assert_eq!(run(root.path(), &url, Action::Cancel, &mut ()).await.unwrap().outcome, Outcome::Cancelled);
    let insert = "INSERT INTO task_events.tasks VALUES (gen_random_uuid(), 't', 0, NULL, 1, now(), now())";
    session.batch_execute(insert).await.unwrap();
    assert!(refused(root.path(), &url, Action::Execute).await.contains("has tasks"));
    assert!(is_former(root.path()));
}

/// Copied while it is open: as after a kill, or a power cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_killed_is_moved_with_what_is_in_its_log_only() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    let root = tempfile::tempdir().unwrap();
    made(root.path(), "before").await;
    let (store, writer) = opened(root.path()).await;
    for number in 0..20 {
        done(&store, create(&format!("task {number}"))).await;
    }
    let (tasks, events) = (all_tasks(&store).await, all_events(&store).await);
    let killed = copied(root.path());
    close(store, writer).await;
    let (url, _) = target(server, "import_killed").await;
    let plan = run(killed.path(), &url, Action::Plan, &mut ()).await.unwrap();
    assert!(plan.unapplied > 0, "{plan:?}");
    let report = execute(killed.path(), &url).await;
    assert_eq!((report.contents.tasks, report.contents.events), (21, 21));
    let (store, writer) = connect(server, "import_killed").await;
    assert_eq!((all_tasks(&store).await, all_events(&store).await), (tasks, events));
    close(store, Writer::Tasks(writer)).await;
}

/// The greatest batch.
#[derive(Default)]
struct Greatest(u64);

impl Progress for Greatest {
    fn begin(&mut self, _: &'static str, _: &'static str) {}

    fn add_total(&mut self, _: u64) {}

    fn add(&mut self, count: u64) {
        self.0 = self.0.max(count);
    }
}

/// Has each batch of tasks take longer than statements of replicas may, once the staging tables are there.
struct Slow(&'static Postgres);

impl Progress for Slow {
    fn begin(&mut self, _: &'static str, unit: &'static str) {
        let trigger = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \
            'BEGIN PERFORM pg_sleep(6); RETURN NULL; END'; \
            CREATE TRIGGER slow AFTER INSERT ON task_events_import.tasks EXECUTE FUNCTION slow()";
        if unit == "tasks" {
            self.0.sql("import_slow", trigger).unwrap();
        }
    }

    fn add_total(&mut self, _: u64) {}

    fn add(&mut self, _: u64) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_has_its_time_and_is_bounded_in_bytes() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    let root = tempfile::tempdir().unwrap();
    made(root.path(), "one").await;
    let (url, _) = target(server, "import_slow").await;
    let report = run(root.path(), &url, Action::Execute, &mut Slow(server)).await.unwrap();
    assert_eq!(report.outcome, Outcome::Moved);

    let root = tempfile::tempdir().unwrap();
    let (store, writer) = opened(root.path()).await;
    let title = "\u{1F980}".repeat(500);
    for _ in 0..800 {
        done(&store, create(&title)).await;
    }
    let (tasks, events) = (all_tasks(&store).await, all_events(&store).await);
    close(store, writer).await;
    let (url, _) = target(server, "import_bytes").await;
    let mut greatest = Greatest::default();
    let report = run(root.path(), &url, Action::Execute, &mut greatest).await.unwrap();
    assert_eq!((report.contents.tasks, report.contents.events), (800, 800));
    assert!(greatest.0 < 600, "{}", greatest.0);
    let (store, writer) = connect(server, "import_bytes").await;
    assert_eq!((all_tasks(&store).await, all_events(&store).await), (tasks, events));
    close(store, Writer::Tasks(writer)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_make_a_schema_uses_the_one_that_was_made_for_it() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    let root = tempfile::tempdir().unwrap();
    made(root.path(), "one").await;
    let (_, session) = target(server, "import_granted").await;
    let grants = "CREATE ROLE mover LOGIN; CREATE SCHEMA task_events_import AUTHORIZATION mover; \
        GRANT USAGE ON SCHEMA task_events TO mover; \
        GRANT ALL ON ALL TABLES IN SCHEMA task_events TO mover; \
        GRANT ALL ON ALL SEQUENCES IN SCHEMA task_events TO mover";
    session.batch_execute(grants).await.unwrap();
    let as_mover = server.url("import_granted").replace("postgres@", "mover@");
    let mover = task_events::database::DatabaseUrl::new(&as_mover);
    assert_ne!(as_mover, server.url("import_granted"));
    assert_eq!(execute(root.path(), &mover).await.outcome, Outcome::Moved);
    let moved = Store::moved(&folder(root.path())).unwrap().unwrap();
    check_arrival(&session, &mover.place(), root.path(), &moved).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_with_replicas_is_refused_and_the_move_goes_on_when_they_are_stopped() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    let root = tempfile::tempdir().unwrap();
    made(root.path(), "one").await;
    let (url, session) = target(server, "import_served").await;
    let serve = "UPDATE task_events.relay SET host = 'elsewhere', expires_at = now() + interval '1 hour'";
    let stop = "UPDATE task_events.relay SET expires_at = '-infinity'";
    session.batch_execute(serve).await.unwrap();
    for action in [Action::Plan, Action::Execute] {
        assert!(refused(root.path(), &url, action).await.contains("on elsewhere: stop all"));
    }
    assert_eq!(Store::moved(&folder(root.path())).unwrap(), None);
    session.batch_execute(stop).await.unwrap();
    let (holder, importing) = held_up(server, root.path(), "import_served", &url).await;
    importing.abort();
    assert!(importing.await.is_err());
    drop(holder);
    session.batch_execute(serve).await.unwrap();
    assert!(refused(root.path(), &url, Action::Execute).await.contains("on elsewhere: stop all"));
    assert!(!Store::moved(&folder(root.path())).unwrap().unwrap().is_done);
    session.batch_execute(stop).await.unwrap();
    assert_eq!(execute(root.path(), &url).await.outcome, Outcome::Moved);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_database_that_has_the_tasks_is_taken_in_place_of_the_store() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    let root = tempfile::tempdir().unwrap();
    made(root.path(), "one").await;
    let (url, session) = target(server, "import_arrived").await;
    assert_eq!(execute(root.path(), &url).await.outcome, Outcome::Moved);
    let moved = Store::moved(&folder(root.path())).unwrap().unwrap();
    session.batch_execute("DROP SCHEMA task_events_import CASCADE").await.unwrap();
    check_arrival(&session, &url.place(), root.path(), &moved).await.unwrap();
    let (migrated, _) = target(server, "import_elsewhere").await;
    server.create_database("import_nowhere").unwrap();
    let empty = task_events::database::DatabaseUrl::new(&server.url("import_nowhere"));
    for other in [migrated, empty] {
        let session = task_events::database::connect(&other.endpoint().await.unwrap(), None).await.unwrap();
        let error = check_arrival(&session, &other.place(), root.path(), &moved).await.unwrap_err();
        assert!(!error.may_pass() && error.to_string().contains("does not have the tasks"), "{error}");
    }
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'task%'";
    assert_eq!(server.sql("import_nowhere", schemas).unwrap().trim(), "0");
}

/// What sleeps, whether the store is marked by then, and the database.
const STEPS: [(&str, bool, &str); 3] = [
    ("TRIGGER slow AFTER INSERT ON task_events_import.tasks", false, "import_lost_batch"),
    ("TRIGGER slow AFTER INSERT ON task_events.tasks", true, "import_lost_rows"),
    (
        "CONSTRAINT TRIGGER slow AFTER INSERT ON task_events.tasks DEFERRABLE INITIALLY DEFERRED FOR EACH ROW",
        true,
        "import_lost_commit",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_lost_in_a_batch_the_last_rows_or_the_commit_is_made_good_by_the_next_run() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    for (trigger, is_marked, name) in STEPS {
        let root = tempfile::tempdir().unwrap();
        let task = made(root.path(), "one").await;
        let (url, session) = target(server, name).await;
        // The staging tables are there then, and empty.
        assert!(cut_off(root.path(), &url, 1).await.is_none());
        let slow = format!(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(25); RETURN NULL; END'; \
             CREATE {trigger} EXECUTE FUNCTION slow()"
        );
        session.batch_execute(&slow).await.unwrap();
        let (from, to) = (root.path().to_owned(), url.clone());
        let importing = tokio::spawn(async move { run(&from, &to, Action::Execute, &mut ()).await });
        let end = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND wait_event = 'PgSleep'"
        );
        let is_ended = || async { server.sql(name, &end).unwrap().trim() == "t" };
        eventually("the import is in that step", is_ended).await;
        let lost = importing.await.unwrap();
        assert!(matches!(lost, Err(ImportError::Database(_))), "{lost:?}");
        let moved = Store::moved(&folder(root.path())).unwrap();
        assert!(moved.is_some() == is_marked && moved.is_none_or(|moved| !moved.is_done), "{name}");
        session.batch_execute("DROP FUNCTION slow CASCADE").await.unwrap();
        assert_eq!(execute(root.path(), &url).await.outcome, Outcome::Moved);
        let (store, writer) = connect(server, name).await;
        assert_eq!((all_tasks(&store).await, all_events(&store).await.len()), (vec![task], 1));
        close(store, Writer::Tasks(writer)).await;
    }
}
