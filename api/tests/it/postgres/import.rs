//! An embedded store is moved into PostgreSQL: whole, once, whenever it is cut off.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use harness::Postgres;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use task_api::store::import::{Action, ImportError, Outcome, Report, import};
use task_api::store::{
    Delivered, Filter, IdempotencyKey, OutboxEntry, Outcome as Changed, PublishedTopic, Store, StoreError,
};
use task_api::task::Task;
use task_events::database::{DatabaseUrl, Session, connect as session, ensure};
use task_events::operate::Progress;
use task_events::state_dir::StateDirError;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::log::{OUTBOX, TASKS, write_former};
use crate::model::{Call, Model, calls, runtime};
use crate::store::{close, create, done, load};
use crate::support::{Writer, connect};

/// An empty database with the schema, and a connection to it.
pub(super) async fn target(server: &Postgres, name: &str) -> (DatabaseUrl, Session) {
    server.create_database(name).unwrap();
    // As an operator may have it, for other programs.
    let level = format!("ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'");
    server.sql("postgres", &level).unwrap();
    let url = DatabaseUrl::new(&server.url(name));
    let session = session(&url.endpoint().await.unwrap(), None).await.unwrap();
    ensure(&session, true).await.unwrap();
    (url, session)
}

/// The folder of the API below a state folder.
pub(super) fn folder(root: &Path) -> std::path::PathBuf {
    let folder = root.join("task-api");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

pub(super) async fn opened(root: &Path) -> (Store, Writer) {
    let folder = folder(root);
    loop {
        let folder = folder.clone();
        match tokio::task::spawn_blocking(move || Store::open(&folder)).await.unwrap() {
            // By somebody who was cut off in this process.
            Err(StoreError::Unavailable(why)) if why.contains("already open") => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            opened => {
                let (store, writer) = opened.unwrap();
                return (store, Writer::Thread(writer));
            }
        }
    }
}

/// Makes a task in the store, and closes it.
pub(super) async fn made(root: &Path, title: &str) -> Task {
    let (store, writer) = opened(root).await;
    let task = done(&store, create(title)).await;
    close(store, writer).await;
    task
}

/// Runs it, again while somebody who was cut off in this process has not closed the file.
pub(super) async fn run(
    root: &Path,
    url: &DatabaseUrl,
    action: Action,
    progress: &mut dyn Progress,
) -> Result<Report, ImportError> {
    loop {
        match import(root, url, action, progress).await {
            Err(ImportError::Store(StoreError::Unavailable(why))) if why.contains("already open") => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            // A process that another test starts has a copy of the lock until it is another program.
            Err(ImportError::StateDir(StateDirError::InUse { .. })) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            done => return done,
        }
    }
}

pub(super) async fn execute(root: &Path, url: &DatabaseUrl) -> Report {
    run(root, url, Action::Execute, &mut ()).await.unwrap()
}

pub(super) async fn refused(root: &Path, url: &DatabaseUrl, action: Action) -> String {
    match run(root, url, action, &mut ()).await {
        Err(error @ ImportError::Refused(_)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Cuts the import off at its n-th sign of progress.
pub(super) struct Cut {
    left: usize,
    notify: Arc<Notify>,
}

impl Cut {
    /// And what is notified when it is to be cut off.
    pub(super) fn after(left: usize) -> (Self, Arc<Notify>) {
        let notify = Arc::new(Notify::new());
        (Self { left, notify: Arc::clone(&notify) }, notify)
    }

    fn step(&mut self) {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            self.notify.notify_one();
        }
    }
}

impl Progress for Cut {
    fn begin(&mut self, _: &'static str, _: &'static str) {
        self.step();
    }

    fn add_total(&mut self, _: u64) {}

    fn add(&mut self, _: u64) {
        self.step();
    }
}

/// `None`: it was cut off there, as by a kill.
pub(super) async fn cut_off(root: &Path, url: &DatabaseUrl, after: usize) -> Option<Report> {
    let (mut cut, notify) = Cut::after(after);
    tokio::select! {
        biased;
        () = notify.notified() => None,
        done = run(root, url, Action::Execute, &mut cut) => Some(done.unwrap()),
    }
}

pub(super) async fn all_tasks(store: &Store) -> Vec<Task> {
    let (mut tasks, mut after) = (Vec::new(), None);
    loop {
        let page = store.list(Filter::default(), after, 200).await.unwrap();
        tasks.extend(page.tasks);
        match page.next {
            Some(next) => after = Some(next),
            None => return tasks,
        }
    }
}

pub(super) async fn all_events(store: &Store) -> Vec<(u64, Vec<u8>, Option<String>)> {
    let events = store.outbox_after(0, usize::MAX).await.unwrap();
    events
        .iter()
        .map(|entry: &Arc<OutboxEntry>| (entry.seq, entry.payload.clone(), entry.traceparent.clone()))
        .collect()
}

async fn make(store: &Store, model: &mut Model, calls: &[Call]) -> Result<(), TestCaseError> {
    for call in calls {
        let mutation = model.mutation(call);
        let outcome = store.mutate(mutation.clone()).await.unwrap();
        model.check(call, &mutation, &outcome)?;
    }
    Ok(())
}

#[test]
fn any_store_is_moved_whole_and_the_database_goes_on_as_it_would_have() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    let runtime = runtime();
    let config = ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() };
    let case = Cell::new(0);
    let strategy =
        (calls(), calls(), 0..6_u64, proptest::collection::btree_set(0..12_u64, 0..4), any::<bool>());
    let moved = TestRunner::new(config).run(&strategy, |(before, after, delivered, scattered, was_restarted)| {
        case.set(case.get() + 1);
        let name = format!("import_model{}", case.get());
        runtime.block_on(async {
            let root = tempfile::tempdir().unwrap();
            let (mut store, mut writer) = opened(root.path()).await;
            let mut model = Model::default();
            make(&store, &mut model, &before).await?;
            let count = model.events.len() as u64;
            let topic = PublishedTopic { topic_id: Uuid::from_u128(7), partitions: 1 };
            store.publish_to(topic).await.unwrap();
            let seqs: Vec<u64> = (1..=delivered.min(count)).collect();
            let scattered: Vec<u64> =
                scattered.into_iter().filter(|seq| *seq > delivered + 1 && *seq <= count).collect();
            let gone: Vec<u64> = seqs.iter().chain(&scattered).copied().collect();
            let position = Some(40 + delivered as i64);
            let report = Delivered { topic, partition: 0, seqs, scattered, position };
            store.delivered(report).await.unwrap();
            let mut seq = 0;
            model.events.retain(|_| {
                seq += 1;
                !gone.contains(&seq)
            });
            if was_restarted {
                close(store, writer).await;
                (store, writer) = opened(root.path()).await;
            }
            let (tasks, events) = (all_tasks(&store).await, all_events(&store).await);
            close(store, writer).await;

            let (url, _) = target(server, &name).await;
            let planned = run(root.path(), &url, Action::Plan, &mut ()).await.unwrap();
            let report = execute(root.path(), &url).await;
            prop_assert_eq!((planned.outcome, report.outcome), (Outcome::Planned, Outcome::Moved));
            prop_assert_eq!(planned.contents, report.contents);
            let contents = report.contents;
            prop_assert_eq!((contents.tasks, contents.events), (tasks.len() as u64, events.len() as u64));

            let relay = "SELECT topic_id, partitions, (SELECT string_agg(partition || ':' || position, ' ') FROM task_events.positions) FROM task_events.relay";
            let relay = server.sql(&name, relay).unwrap();
            let wanted = format!("{}|1|0:{}", topic.topic_id, 40 + delivered);
            prop_assert_eq!(relay.trim(), wanted);
            let (store, writer) = connect(server, &name).await;
            prop_assert_eq!(all_tasks(&store).await, tasks);
            prop_assert_eq!(&all_events(&store).await, &events);
            model.compare(&store, 0).await?;
            make(&store, &mut model, &after).await?;
            model.compare(&store, 0).await?;
            let later = all_events(&store).await;
            let given_again = later.iter().find(|event| !events.contains(event) && event.0 <= count);
            prop_assert_eq!(given_again, None, "no number is given again");
            close(store, Writer::Tasks(writer)).await;
            Ok(())
        })
    });
    moved.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_is_cut_off_anywhere_goes_on_where_it_was() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    let root = tempfile::tempdir().unwrap();
    let (store, writer) = opened(root.path()).await;
    load(&store, 64, 80, |store, client, number| async move {
        let mut mutation = create(&format!("{client} {number}"));
        let key = format!("{client} {number}");
        mutation.idempotency = Some(IdempotencyKey { key, fingerprint: "aa".to_owned() });
        done(&store, mutation).await;
    })
    .await;
    let (tasks, events) = (all_tasks(&store).await, all_events(&store).await);
    close(store, writer).await;
    assert_eq!((tasks.len(), events.len()), (5_120, 5_120));
    let (url, _) = target(server, "import_cut").await;
    let (mut staged, mut cuts, mut after) = (0, 0, 1);
    let report = loop {
        if let Some(report) = cut_off(root.path(), &url, after).await {
            break report;
        }
        (cuts, after) = (cuts + 1, after + 1);
        let count = "SELECT coalesce(sum(count), 0) FROM task_events_import.parts";
        let count: u64 = server.sql("import_cut", count).unwrap().trim().parse().unwrap();
        assert!(count >= staged, "it does not begin anew: {count} after {staged}");
        staged = count;
    };
    // Three batches of each kind, and four beginnings.
    assert!(cuts >= 10, "{cuts}");
    assert_eq!((report.outcome, report.contents.tasks), (Outcome::Moved, 5_120));
    assert_eq!(run(root.path(), &url, Action::Execute, &mut ()).await.unwrap().outcome, Outcome::MovedBefore);
    let (store, writer) = connect(server, "import_cut").await;
    assert_eq!(all_tasks(&store).await, tasks);
    assert_eq!(all_events(&store).await, events);
    for number in [0, 79] {
        let mut again = create(&format!("63 {number}"));
        let key = format!("63 {number}");
        again.idempotency = Some(IdempotencyKey { key, fingerprint: "aa".to_owned() });
        let answer = store.mutate(again).await.unwrap();
        assert!(matches!(&answer, Changed::Repeated(task) if tasks.contains(task)), "{answer:?}");
    }
    close(store, Writer::Tasks(writer)).await;
}

/// Does that with a closed store's database.
pub(super) fn tampered(root: &Path, work: impl FnOnce(&redb::WriteTransaction)) {
    let database = redb::Database::open(folder(root).join("tasks.redb")).unwrap();
    let write = database.begin_write().unwrap();
    work(&write);
    write.commit().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_a_former_version_is_moved_and_what_cannot_be_read_is_never_left_out() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    let root = tempfile::tempdir().unwrap();
    let tasks = write_former(&folder(root.path()), 20, 3);
    let (url, _) = target(server, "import_former").await;
    let error = refused(root.path(), &url, Action::Execute).await;
    assert!(error.contains("event 6 of the outbox cannot be read"), "{error}");
    assert_eq!(Store::moved(&folder(root.path())).unwrap(), None);
    tampered(root.path(), |write| {
        let mut outbox = write.open_table(OUTBOX).unwrap();
        for seq in [6, 8, 10, 12] {
            outbox.remove(seq).unwrap();
        }
        write.open_table(TASKS).unwrap().insert([0xff; 16], &b"damaged"[..]).unwrap();
    });
    let error = refused(root.path(), &url, Action::Execute).await;
    assert!(error.contains(&format!("task {} cannot be read", Uuid::from_bytes([0xff; 16]))), "{error}");
    tampered(root.path(), |write| {
        write.open_table(TASKS).unwrap().remove([0xff; 16]).unwrap();
    });
    let contents = execute(root.path(), &url).await.contents;
    assert_eq!((contents.tasks, contents.former_answers, contents.answers, contents.events), (20, 1, 0, 13));

    let (store, writer) = connect(server, "import_former").await;
    assert_eq!(serde_json::to_value(all_tasks(&store).await).unwrap(), serde_json::json!(tasks));
    let events = all_events(&store).await;
    let seqs: Vec<u64> = events.iter().map(|(seq, ..)| *seq).collect();
    assert_eq!(seqs, [4, 5, 7, 9, 11, 13, 14, 15, 16, 17, 18, 19, 20]);
    assert_eq!(events[0].2.as_deref(), Some("trace 4"));
    let mut repeated = create("task 1");
    repeated.idempotency = Some(IdempotencyKey { key: "key".to_owned(), fingerprint: "f".repeat(64) });
    let answer = store.mutate(repeated.clone()).await.unwrap();
    assert!(matches!(&answer, Changed::Repeated(task) if task.title == "task 1"), "{answer:?}");
    repeated.idempotency = Some(IdempotencyKey { key: "key".to_owned(), fingerprint: "0".repeat(64) });
    assert_eq!(store.mutate(repeated).await.unwrap(), Changed::KeyReused);
    close(store, Writer::Tasks(writer)).await;
}
