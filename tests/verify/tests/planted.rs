//! Bugs planted into the real parts, on a real broker: each has to be reported. A checker that finds
//! nothing proves nothing until it has found something.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use consumers::audit::{self, Entry, EntryDecoder, PartitionAudit};
use harness::requests::{Answer, Kind, Request, Task, now};
use harness::{
    Broker, EVENTS, Kind as BrokerKind, OFFSETS, Outcome, Program, Result, SOON, World, eventually, free_port,
};
use harness::{Load, LoadConfig, Script};
use harness::{Mode, Proxy};
use task_events::event::{Event, Malformed, TaskData, TaskEvent};
use task_events::kafka::{Compression, ConsumerRecord, Kafka, Position, ProducerRecord};
use task_events::offsets::{Claim, Commit, OffsetsLog, Slot};
use task_events::runtime::{
    self, ConsumerConfig, Decoder, Delivery, Done, Handler, HandlerError, Service, Status,
};
use task_events::schemas::EventReader;
use task_events::shutdown;
use task_events::state_dir::Identity;
use tokio::task::JoinHandle;
use uuid::Uuid;
use verify::check::{Report, check, names};
use verify::evidence::{AuditLog, Evidence, OffsetsEntry, OffsetsSaid, RelaySaid, Snapshot, Told};
use verify::system::{position, read_kafka, read_offsets};

const AUDIT_GROUP: &str = "audit-service";

fn kafka(bootstrap: &str) -> Kafka {
    Kafka::new(vec![bootstrap.to_owned()], "planted")
}

/// Requests to a real API, for that long at least.
async fn load(url: &str, time: Duration) -> Result<Vec<Request>> {
    let config = LoadConfig::new(url, 8, Some(300), Script::Random { seed: 1 });
    let mut load = Load::start(config, true)?;
    tokio::time::sleep(time).await;
    // More than that only on a busy machine.
    eventually("enough events", SOON, async || Ok((load.events() > 150).then_some(()))).await?;
    Ok(load.finish().await?.requests)
}

/// The events of the topic, once they are there.
async fn delivered(world: &World, requests: &[Request]) -> Result<i64> {
    let expected: usize =
        requests.iter().filter(|one| one.done().is_some()).map(|one| one.kind.events().len()).sum();
    let all = async || {
        let topic = world.topic(EVENTS).await?;
        Ok((topic.len() >= expected).then(|| topic.last().expect("events").offset + 1))
    };
    eventually("all events in the topic", SOON, all).await
}

async fn evidence(
    bootstrap: &str,
    requests: Vec<Request>,
    logs: &[(&Path, Option<Uuid>)],
) -> Result<Evidence> {
    let mut evidence = read_kafka(bootstrap, EVENTS, OFFSETS).await?;
    evidence.requests = requests;
    evidence.audit_group = AUDIT_GROUP.to_owned();
    evidence.notification_group = "notification-service".to_owned();
    for (path, instance) in logs {
        evidence.audit_logs.push(AuditLog::read(path, instance.map(|id| id.to_string())).unwrap());
    }
    Ok(evidence)
}

fn assert_found(report: &Report, name: &str, text: &str) {
    let found = report.found(name);
    assert!(found.iter().any(|violation| violation.contains(text)), "{name}: {text} is not in\n{report}");
}

/// A consumer in this process, by the real runtime. It ends at once when it is dropped, as by kill -9.
struct Consumer(JoinHandle<()>);

impl Consumer {
    fn start<H: Handler>(bootstrap: &str, handler: H) -> Self {
        let config = ConsumerConfig {
            kafka: kafka(bootstrap),
            topic: EVENTS.to_owned(),
            offsets_topic: OFFSETS.to_owned(),
            dlq_topic: None,
            group: AUDIT_GROUP.to_owned(),
            identity: Identity::in_memory(Uuid::new_v4()),
            service: AUDIT_GROUP.to_owned(),
            host: "here".to_owned(),
            lease: Duration::from_secs(2),
            foreign_group_hint: None,
        };
        let (never, shutdown) = shutdown::channel();
        Self(tokio::spawn(async move {
            let service = Once(std::sync::Mutex::new(Some(handler)));
            runtime::run(config, service, Status::default(), shutdown).await;
            drop(never);
        }))
    }

    async fn kill(self) {
        self.0.abort();
        assert!(self.0.await.unwrap_err().is_cancelled());
    }
}

/// What a handler was given.
struct Taken {
    entry: Entry,
    record: ConsumerRecord,
}

impl Taken {
    fn of(delivery: &Delivery<'_, Entry>) -> Self {
        Self { entry: delivery.message.clone(), record: delivery.record.clone() }
    }

    fn delivery(&self) -> Delivery<'_, Entry> {
        Delivery { message: &self.entry, record: &self.record, topic: EVENTS, partition: 0 }
    }
}

/// Makes its one handler when it is asked for the first time.
struct Once<H>(std::sync::Mutex<Option<H>>);

impl<H: Handler> Service for Once<H> {
    type Handler = H;

    async fn open(&self, _: &str, _: i32) -> std::result::Result<H, HandlerError> {
        let handler = self.0.lock().unwrap().take();
        handler.ok_or_else(|| HandlerError::new("test", "opened twice"))
    }
}

/// Reads events as the audit service does.
macro_rules! reads_as_audit {
    () => {
        type Decoder = EntryDecoder;

        fn decoder(&self) -> EntryDecoder {
            self.audit.decoder()
        }
    };
}

/// The bug: it says that a batch is done, and does it when the next one is there.
struct CommitsFirst {
    audit: PartitionAudit,
    taken: Vec<Taken>,
    promised: Vec<Taken>,
}

impl Handler for CommitsFirst {
    reads_as_audit!();

    async fn handle(&mut self, delivery: &Delivery<'_, Entry>) -> std::result::Result<(), HandlerError> {
        self.taken.push(Taken::of(delivery));
        Ok(())
    }

    async fn flush(&mut self, done: &Done<'_>) -> std::result::Result<u64, HandlerError> {
        for taken in std::mem::take(&mut self.promised) {
            self.audit.handle(&taken.delivery()).await?;
        }
        self.promised = std::mem::take(&mut self.taken);
        self.audit.flush(done).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_commits_first_is_reported() -> Outcome {
    let world = World::start().await?;
    let (_service, api) = world.start_api().await?;
    let bootstrap = world.broker.bootstrap();
    let opened = audit::open(&world.audit_log_path(), &folder(&world, "state"), EventReader::json()).unwrap();
    let handler = CommitsFirst {
        audit: opened.service.open(EVENTS, 0).await.unwrap(),
        taken: Vec::new(),
        promised: Vec::new(),
    };
    let consumer = Consumer::start(&bootstrap, handler);
    let requests = load(api.url(), Duration::from_secs(3)).await?;
    let end = delivered(&world, &requests).await?;
    world.committed(AUDIT_GROUP, end).await?;
    consumer.kill().await;
    let log = world.audit_log_path();
    let report = check(&evidence(&bootstrap, requests, &[(&log, None)]).await?);
    assert_found(&report, names::AHEAD, "µs later");
    assert_found(&report, names::LOST, "not in the audit log");
    Ok(())
}

/// The bug: from some point on it does not sync. It writes through a real audit log and remembers how long
/// that was when it was last synced.
struct SkipsSync {
    audit: PartitionAudit,
    log: PathBuf,
    syncs_left: u32,
    synced: Arc<AtomicU64>,
}

impl Handler for SkipsSync {
    reads_as_audit!();

    async fn handle(&mut self, delivery: &Delivery<'_, Entry>) -> std::result::Result<(), HandlerError> {
        self.audit.handle(delivery).await
    }

    async fn flush(&mut self, done: &Done<'_>) -> std::result::Result<u64, HandlerError> {
        let repeats = self.audit.flush(done).await?;
        if self.syncs_left > 0 {
            self.syncs_left -= 1;
            self.synced.store(fs::metadata(&self.log).unwrap().len(), Ordering::Relaxed);
        }
        Ok(repeats)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_log_that_skips_its_sync_is_reported_after_a_power_cut() -> Outcome {
    let world = World::start().await?;
    let (_service, api) = world.start_api().await?;
    let bootstrap = world.broker.bootstrap();
    let log = world.audit_log_path();
    let opened = audit::open(&log, &folder(&world, "state"), EventReader::json()).unwrap();
    let synced = Arc::<AtomicU64>::default();
    let handler = SkipsSync {
        audit: opened.service.open(EVENTS, 0).await.unwrap(),
        log: log.clone(),
        syncs_left: 5,
        synced: synced.clone(),
    };
    let consumer = Consumer::start(&bootstrap, handler);
    let mut requests = load(api.url(), Duration::from_secs(3)).await?;
    let end = delivered(&world, &requests).await?;
    world.committed(AUDIT_GROUP, end).await?;
    consumer.kill().await;
    drop(opened);
    let unlocked = async || Ok(fs::File::open(&log).unwrap().try_lock().ok());
    eventually("the end of the log's writer", SOON, unlocked).await?;

    // The power cut: what was not synced is gone.
    let length = synced.load(Ordering::Relaxed);
    assert!(length > 0 && length < fs::metadata(&log).unwrap().len(), "something is lost: {length}");
    fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(length).unwrap();
    let on_disk = AuditLog::read(&log, None).unwrap();
    let cut = Snapshot { at: now(), last_offset: on_disk.lines.last().map(|line| line.seen.offset) };

    // The real service completes the log from there: nothing is lost while Kafka has it, and still it is found.
    let _audit = world.program("audit-service").start()?;
    requests.extend(load(api.url(), Duration::from_secs(1)).await?);
    world.committed(AUDIT_GROUP, delivered(&world, &requests).await?).await?;
    let mut evidence = evidence(&bootstrap, requests, &[(&log, None)]).await?;
    evidence.snapshots.push(cut);
    let report = check(&evidence);
    assert_eq!(report.found(names::LOST), &[] as &[String]);
    assert_found(&report, names::AHEAD, "when it was killed, and its log ended");
    assert_found(&report, names::AHEAD, "µs later");
    Ok(())
}

/// The bug: after a produce without an answer it sends again at once.
async fn relay_blindly(bootstrap: &str, events: &[TaskEvent], sent: &AtomicU64) -> Vec<RelaySaid> {
    let topic = kafka(bootstrap).producer(EVENTS, 0);
    let mut said = Vec::new();
    for batch in events.chunks(10) {
        let record = |event: &TaskEvent| ProducerRecord {
            key: Some(event.data.task_id.to_string().into_bytes()),
            value: Some(serde_json::to_vec(event).unwrap()),
            headers: event.headers("application/json", None),
            timestamp: event.occurred_at,
        };
        let offsets = loop {
            let records: Vec<_> = batch.iter().map(record).collect();
            let limit = Duration::from_millis(500);
            if let Ok(offsets) = topic.produce_within(&records, Compression::NoCompression, limit).await {
                break offsets;
            }
        };
        said.push(RelaySaid::Delivered { first: offsets[0], last: offsets[offsets.len() - 1] });
        sent.fetch_add(1, Ordering::Relaxed);
    }
    said
}

/// A task as it would have been answered, and its event.
fn created(number: usize) -> (Request, TaskEvent) {
    let (id, correlation_id) = (Uuid::now_v7(), Uuid::new_v4());
    let title = format!("task {number}");
    let data = TaskData { task_id: id, title: title.clone(), status: "pending".to_owned(), owner_id: None };
    let task = Task { id: id.to_string(), title: title.clone(), status: "pending".to_owned(), version: 1 };
    let request = Request {
        kind: Kind::Create,
        task_id: None,
        title: Some(title),
        key: None,
        correlation_id: correlation_id.to_string(),
        sent: now(),
        ended: now(),
        answer: Answer::Done { task },
        late: None,
        replica: 0,
    };
    (request, TaskEvent::task_created(data, correlation_id))
}

/// The bug: an audit log without dedup.
struct WritesAll(PathBuf);

/// Reads whole events.
struct EventDecoder;

impl Decoder for EventDecoder {
    type Message = Event<'static>;

    fn decode(&self, record: &ConsumerRecord) -> std::result::Result<Event<'static>, Malformed> {
        Event::decode(record.value.as_deref()).map(Event::into_owned)
    }

    fn wants(&self, _: &Event<'static>) -> bool {
        true
    }
}

impl Handler for WritesAll {
    type Decoder = EventDecoder;

    fn decoder(&self) -> EventDecoder {
        EventDecoder
    }

    async fn handle(
        &mut self,
        delivery: &Delivery<'_, Event<'static>>,
    ) -> std::result::Result<(), HandlerError> {
        use std::io::Write;
        let at = audit::At { topic: EVENTS.into(), partition: 0, offset: delivery.record.offset };
        let time = task_events::time::format_time(chrono::Utc::now());
        let line = audit::render(delivery.message, &time, at).unwrap();
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&self.0).unwrap();
        file.write_all(&line).map_err(|error| HandlerError::new("write", error))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_resends_blindly_and_a_consumer_that_does_not_deduplicate_are_reported() -> Outcome {
    let port = free_port()?;
    let proxy = Proxy::start(free_port()?, port, 1).await.unwrap();
    let broker = Broker::start_on(BrokerKind::Dev, port, proxy.port()).await?;
    let bootstrap = broker.bootstrap();
    let taskctl = Program::new("taskctl").env("KAFKA_BOOTSTRAP_SERVERS", &bootstrap);
    assert_eq!(taskctl.args(&["topics", "create"]).run(SOON).await?.code, Some(0));
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("audit.log");
    let consumer = Consumer::start(&bootstrap, WritesAll(log.clone()));

    let (requests, events): (Vec<_>, Vec<_>) = (0..5_000).map(created).unzip();
    let sent = AtomicU64::new(0);
    let losing_replies = async {
        while sent.load(Ordering::Relaxed) < 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        proxy.set(Mode::DropReplies, 100);
        tokio::time::sleep(Duration::from_millis(800)).await;
        proxy.set(Mode::Pass, 100);
    };
    let (said, ()) = tokio::join!(relay_blindly(&bootstrap, &events, &sent), losing_replies);
    let end = read_kafka(&bootstrap, EVENTS, OFFSETS).await?.topic.unwrap().last().unwrap().offset + 1;
    let committed = async || {
        let offsets = read_offsets(&bootstrap, EVENTS, OFFSETS).await?;
        Ok((position(&offsets, AUDIT_GROUP) == Some(end)).then_some(()))
    };
    eventually("all to be committed", SOON, committed).await?;
    consumer.kill().await;

    let mut evidence = evidence(&bootstrap, requests, &[(&log, None)]).await?;
    evidence.relay = Some(said.clone());
    let report = check(&evidence);
    assert_found(&report, names::TWICE_IN_TOPIC, "sent again without a look");
    assert_found(&report, names::TWICE_AUDITED, "twice in audit.log");
    assert_eq!(report.found(names::LOST), &[] as &[String]);

    // Had it looked before it sent again, and not found the batch, the same records would be explained.
    let (mut first_copies, mut ids) = (HashMap::new(), HashMap::new());
    for seen in evidence.topic.iter().flatten() {
        first_copies.entry(seen.event_id.clone()).or_insert(seen.offset);
        ids.insert(seen.offset, seen.event_id.clone());
    }
    let looked = said.iter().flat_map(|one| {
        let RelaySaid::Delivered { first, .. } = one else { panic!("{one:?}") };
        let end = first_copies[&ids[first]];
        std::iter::repeat_n(RelaySaid::Reconciled { end }, 10).chain([*one])
    });
    evidence.relay = Some(looked.collect());
    assert_eq!(check(&evidence).found(names::TWICE_IN_TOPIC), &[] as &[String]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_that_goes_on_is_reported() -> Outcome {
    let world = World::start().await?;
    let (_service, api) = world.start_api().await?;
    let bootstrap = world.broker.bootstrap();
    let requests = load(api.url(), Duration::from_secs(1)).await?;
    delivered(&world, &requests).await?;
    let topic = world.topic(EVENTS).await?;
    let taken = |range: std::ops::Range<usize>| -> Vec<Taken> {
        let records = topic[range].iter().map(|one| ConsumerRecord {
            offset: one.offset,
            timestamp: one.record.timestamp.timestamp_millis(),
            leader_epoch: 0,
            key: one.record.key.clone().map(Into::into),
            value: one.record.value.clone().map(Into::into),
            headers: Default::default(),
        });
        let taken =
            records.map(|record| Taken { entry: EntryDecoder::default().decode(&record).unwrap(), record });
        taken.collect()
    };
    async fn write(audit: &mut PartitionAudit, batch: &[Taken]) {
        for taken in batch {
            audit.handle(&taken.delivery()).await.unwrap();
        }
        let position = Position::at(batch.last().map_or(0, |taken| taken.record.offset + 1));
        audit.flush(&Done { position, ids: &[] }).await.unwrap();
        // Times are distinguished by microseconds.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }

    let slot = Slot { group: AUDIT_GROUP.to_owned(), topic: EVENTS.to_owned(), partition: 0 };
    let offsets = OffsetsLog::open(&kafka(&bootstrap), OFFSETS);
    let (zombie_id, owner_id) = (Uuid::new_v4(), Uuid::new_v4());
    let limit = Duration::from_secs(10);
    let (zombie_log, owner_log) = (world.path("zombie.log"), world.path("owner.log"));
    let mut zombie = audit::open(&zombie_log, &folder(&world, "zombie"), EventReader::json())
        .unwrap()
        .service
        .open(EVENTS, 0)
        .await
        .unwrap();
    let mut owner = audit::open(&owner_log, &folder(&world, "owner"), EventReader::json())
        .unwrap()
        .service
        .open(EVENTS, 0)
        .await
        .unwrap();

    let old = offsets.claim(&slot, &Claim::new(zombie_id, "old", 10_000)).await.unwrap().token;
    write(&mut zombie, &taken(0..10)).await;
    offsets.commit(&slot, old, &Commit::new(10, zombie_id, false), limit).await.unwrap();
    let late = Commit::new(12, zombie_id, false);
    let new = offsets.claim(&slot, &Claim::new(owner_id, "new", 10_000)).await.unwrap().token;
    write(&mut owner, &taken(10..20)).await;
    offsets.commit(&slot, new, &Commit::new(20, owner_id, false), limit).await.unwrap();
    let logs = [(zombie_log.as_path(), Some(zombie_id)), (owner_log.as_path(), Some(owner_id))];

    // So far all is well, also with a commit that was made before and comes in late, and with one that
    // moves nothing.
    offsets.commit(&slot, old, &late, limit).await.unwrap();
    offsets.commit(&slot, old, &Commit::new(12, zombie_id, false), limit).await.unwrap();
    let report = check(&evidence(&bootstrap, requests.clone(), &logs).await?);
    assert_eq!(report.found(names::OWNERS), &[] as &[String]);

    // Longer than it has to learn of the new owner.
    tokio::time::sleep(Duration::from_secs(1)).await;
    write(&mut zombie, &taken(10..30)).await;
    let report = check(&evidence(&bootstrap, requests.clone(), &logs).await?);
    assert_found(&report, names::OWNERS, "after another instance had taken over");

    offsets.commit(&slot, old, &Commit::new(30, zombie_id, false), limit).await.unwrap();
    offsets.commit(&slot, new, &Commit::new(40, zombie_id, false), limit).await.unwrap();
    let report = check(&evidence(&bootstrap, requests, &logs).await?);
    assert_found(&report, names::OWNERS, "a zombie: token");
    assert_found(&report, names::OWNERS, "commits 40 under it");
    Ok(())
}

fn folder(world: &World, name: &str) -> PathBuf {
    let folder = world.path(name);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// The records of a sound run, and for each check a change of them that it has to find.
#[tokio::test(flavor = "multi_thread")]
async fn each_check_finds_what_it_is_for_and_nothing_in_a_sound_run() -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let plan = verify::plan::Plan {
        seed: 1,
        load: Duration::from_secs(2),
        connections: 8,
        rate: Some(300),
        faults: Vec::new(),
    };
    let round = verify::round::run(&plan, BrokerKind::Dev, folder.path()).await.unwrap();
    assert!(round.report.is_sound(), "{}", round.report);
    assert!(round.report.checks.iter().all(|check| check.examined.is_some_and(|examined| examined > 0)));
    let sound = round.evidence;
    let finds = |name: &str, text: &str, plant: &dyn Fn(&mut Evidence)| {
        let mut evidence = sound.clone();
        plant(&mut evidence);
        assert_found(&check(&evidence), name, text);
    };
    let log = |evidence: &mut Evidence| std::mem::take(&mut evidence.audit_logs[0].lines);

    finds(names::LOST, "not in the audit log", &|it| drop(it.audit_logs[0].lines.remove(7)));
    finds(names::LOST, "not in the topic", &|it| drop(it.topic.as_mut().unwrap().remove(7)));
    finds(names::LOST, "half done", &|it| {
        let request = it.requests.iter_mut().find(|one| one.kind == Kind::PatchCompleted).unwrap();
        request.answer = Answer::None { why: "planted".to_owned() };
        let id = request.correlation_id.clone();
        it.audit_logs[0]
            .lines
            .retain(|line| line.seen.correlation_id != id || line.seen.event_type == "task.updated");
    });
    finds(names::LOST_STATE, "does not have it", &|it| drop(it.tasks.as_mut().unwrap().remove(3)));
    finds(names::LOST_STATE, "and the API has", &|it| it.tasks.as_mut().unwrap()[3].title.push('!'));
    finds(names::LOST_STATE, "deleted, and the API has it", &|it| {
        let deletion = it.requests.iter().find(|one| one.kind == Kind::Delete && one.done().is_some());
        let deleted = deletion.unwrap().done().unwrap().clone();
        it.tasks.as_mut().unwrap().push(deleted);
    });
    finds(names::ORDER, "is behind the deletion of its task", &|it| {
        let topic = it.topic.as_mut().unwrap();
        let deletion = topic.iter().position(|seen| seen.event_type == "task.deleted").unwrap();
        let task = topic[deletion].task_id.clone();
        let before = topic[..deletion].iter().rposition(|seen| seen.task_id == task).unwrap();
        let offset = topic[before].offset;
        topic[before].offset = topic[deletion].offset;
        topic[deletion].offset = offset;
        topic.swap(before, deletion);
    });
    finds(names::UNEXPECTED, "nobody asked for", &|it| drop(it.requests.remove(3)));
    finds(names::UNEXPECTED, "refused and done", &|it| {
        it.requests[3].answer = Answer::Refused { status: 422 }
    });
    finds(names::UNEXPECTED, "done twice", &|it| {
        let mut again = it.topic.as_ref().unwrap()[3].clone();
        again.event_id.push('!');
        again.offset = 1_000_000;
        it.topic.as_mut().unwrap().push(again);
    });
    finds(names::UNEXPECTED, "audited, and not in the topic", &|it| {
        it.audit_logs[0].lines[3].seen.event_id.push('!');
    });
    finds(names::ALTERED, "its event says", &|it| it.topic.as_mut().unwrap()[3].title.push('!'));
    finds(names::ALTERED, "the audit log", &|it| it.audit_logs[0].lines[3].seen.status.push('!'));
    finds(names::REFUSED, "503", &|it| it.requests[3].answer = Answer::Failed { status: 503 });
    // A task may be completed twice, and is created once.
    finds(names::NOT_TOLD, "not notified", &|it| {
        let told = it.told.as_mut().unwrap();
        let created = told.iter().position(|told| !told.completed).unwrap();
        told.remove(created);
    });
    finds(names::NOT_DRAINED, "outbox", &|it| it.not_drained = Some(vec!["the outbox".to_owned()]));
    finds(names::TWICE_AUDITED, "twice in", &|it| {
        let again = it.audit_logs[0].lines[3].clone();
        it.audit_logs[0].lines.push(again);
    });
    finds(names::ORDER, "is before", &|it| {
        let task =
            it.requests.iter().find(|one| one.kind == Kind::Complete).unwrap().task_id.clone().unwrap();
        let topic = it.topic.as_mut().unwrap();
        let of_task: Vec<usize> = (0..topic.len()).filter(|place| topic[*place].task_id == task).collect();
        let (first, last) = (of_task[0], *of_task.last().unwrap());
        let offset = topic[first].offset;
        topic[first].offset = topic[last].offset;
        topic[last].offset = offset;
        topic.swap(first, last);
    });
    finds(names::TOPIC_ORDER, "after", &|it| it.audit_logs[0].lines.swap(3, 4));
    finds(names::TOPIC_ORDER, "where the topic has", &|it| {
        let mut lines = log(it);
        lines[3].seen.offset = lines[4].seen.offset;
        lines.remove(4);
        it.audit_logs[0].lines = lines;
    });
    finds(names::AHEAD, "audit-service committed", &|it| it.audit_logs[0].lines[3].at = now());
    finds(names::AHEAD, "when it was killed", &|it| {
        it.snapshots.push(Snapshot { at: now(), last_offset: Some(3) });
    });
    finds(names::AHEAD, "notification-service committed", &|it| {
        it.told.as_mut().unwrap()[3].at = now();
    });
    finds(names::OWNERS, "wrote 2 notifications after", &|it| {
        let claimed = it.offsets.iter().find_map(|entry| match &entry.said {
            OffsetsSaid::Claim { instance_id, .. } if entry.group == "notification-service" => {
                Some(instance_id.clone())
            }
            _ => None,
        });
        let group = "notification-service".to_owned();
        let other = "another".to_owned();
        let claim = OffsetsSaid::Claim { instance_id: other.clone(), claimed_at: now() };
        it.offsets.push(OffsetsEntry { at: 1_000_000, group: group.clone(), said: claim });
        let commit = OffsetsSaid::Commit {
            token: 1_000_000,
            offset: 1,
            topic_id: None,
            instance_id: other,
            committed_at: now(),
        };
        it.offsets.push(OffsetsEntry { at: 1_000_001, group, said: commit });
        let late =
            Told { instance_id: claimed, at: now() + 1_000_000, task_id: "t".to_owned(), completed: false };
        it.told.as_mut().unwrap().extend(std::iter::repeat_n(late, 2));
    });
    finds(names::TWICE_IN_TOPIC, "sent again", &|it| {
        // What waited when the relay connected was reconciled, which would explain the copy.
        it.relay.as_mut().unwrap().retain(|said| matches!(said, RelaySaid::Delivered { .. }));
        let mut again = it.topic.as_ref().unwrap()[3].clone();
        again.offset = 1_000_000;
        it.topic.as_mut().unwrap().push(again);
    });
    Ok(())
}
