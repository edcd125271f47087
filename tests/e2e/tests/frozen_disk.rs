//! What `hanging_disk.rs` leaves open about a disk that hangs (`fsfreeze`): the instance on it ends on SIGTERM
//! while it hangs, and once it goes on, an instance that was superseded changes nothing and completes its log
//! later. The same for a notifier's dedup state, and for the API's store, whose answers stay bounded in time.
//!
//! The kernel does not let a thread die that waits for a frozen file system. So the end of a process is here
//! that of its main thread; the rest follows when the disk goes on.

use harness::{
    Api, FailingDisk, GroupOffsets, Method, Outcome, Result, SOON, Service, Signal, StatusCode, World,
    audited_offsets, eventually, id_of, keys,
};
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const KIB: u32 = 64 * 1024;
/// Long enough that a busy machine, which delays both the old and the new owner, does not spend the second.
const HANG_LEASE: Duration = Duration::from_secs(6);
/// Within which a service ends after SIGTERM: 5 s at most, and longer on a machine that holds it up.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// Within which the API ends after SIGTERM, whatever its disk does: then it would be killed.
const API_STOP_LIMIT: Duration = Duration::from_secs(20);
/// Within which the API answers, whatever its disk does: its store waits 10 s at most, and the machine may be busy.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
const LAG: &str = "kafka_consumergroup_group_lag{";

/// The owner on a disk that can hang, and its standby on a good one.
struct Pair {
    world: World,
    group: &'static str,
    first: Service,
    health: Api,
    second: Service,
    log: PathBuf,
    produced: usize,
}

impl Pair {
    async fn start(group: &'static str, disk: &FailingDisk) -> Result<Self> {
        let world = World::start().await?;
        let log = disk.path().join("audit.log");
        let program = |name| {
            let program = world.instance(group, name).env("LEASE_MS", HANG_LEASE.as_millis());
            program.env("HEALTH_ADDR", "127.0.0.1:0")
        };
        let first = program("first").env("STATE_DIR", disk.path().join("state").display());
        let mut first = first.env("AUDIT_LOG_PATH", log.display()).start()?;
        first.wait_for_line(": claimed ", SOON).await?;
        let mut second = program("second").start()?;
        second.wait_for_line("standby for ", SOON).await?;
        let health = Api::new(&first.health_url().await?)?;
        let mut pair = Self { world, group, first, health, second, log, produced: 0 };
        pair.produce(50).await?;
        pair.committed().await?;
        Ok(pair)
    }

    async fn produce(&mut self, count: usize) -> Result<()> {
        self.world.produce_events(count).await?;
        self.produced += count;
        Ok(())
    }

    async fn committed(&self) -> Result<()> {
        self.world.committed(self.group, i64::try_from(self.produced).unwrap()).await?;
        Ok(())
    }

    /// How many events the second has done: each of its own log, or each that it notified of.
    fn second_done(&self) -> Result<usize> {
        Ok(match self.group {
            "audit-service" => audited_offsets(&self.world.instance_audit_log("second"))?.len(),
            _ => self.second.count("NOTIFICATION: "),
        })
    }

    /// What the first reports while its disk hangs: why it does not go on, or that another owns now.
    async fn is_stuck(&self) -> Result<()> {
        let stuck = async || {
            let (status, report) = self.health.readiness().await?;
            let report = report.to_string();
            let why = if status == StatusCode::OK { "standby" } else { "makes no progress" };
            Ok(report.contains(why).then_some(()))
        };
        eventually("the first to report that it is stuck or a standby", SOON, stuck).await
    }

    /// An event comes while the disk hangs: the second does it, and the first reports why it does not, is alive, and
    /// keeps its lag.
    async fn taken_over(&mut self) -> Result<()> {
        self.produce(1).await?;
        let waits_since = Instant::now();
        // The audit log of the second is complete, its notifications begin where the first had committed.
        let wanted = if self.group == "audit-service" { self.produced } else { 1 };
        self.is_stuck().await?;
        let done = async || Ok((self.second_done()? >= wanted).then(|| waits_since.elapsed()));
        let waited = eventually("the second to do what waits", SOON, done).await?;
        println!("{}: taken over after {waited:?}, the lease is {HANG_LEASE:?}", self.group);
        self.produce(49).await?;
        self.committed().await?;
        assert_eq!(self.health.call(Method::GET, "/healthz", None).await?.0, StatusCode::OK);
        self.is_stuck().await?;
        let metrics = self.health.request(Method::GET, "/metrics").send().await.unwrap();
        let metrics = metrics.text().await.unwrap();
        assert!(metrics.lines().any(|line| line.starts_with(LAG)), "no lag: {metrics}");
        Ok(())
    }

    /// The first goes on, and changes neither the group nor what is below it.
    async fn superseded(&mut self, release: impl FnOnce()) -> Result<()> {
        let before = self.world.offsets(self.group).await?;
        release();
        self.first.wait_for_line("fenced: another instance has claimed", SOON).await?;
        self.first.wait_for_line("standby for ", SOON).await?;
        let after = self.world.offsets(self.group).await?;
        assert_eq!((after.owner(), after.position()), (before.owner(), before.position()));
        assert_eq!(after.commits.last_key_value().map(|(token, _)| *token), after.owner());
        assert_eq!(self.world.topic(harness::EVENTS).await?.len(), self.produced);
        Ok(())
    }

    /// The first, which was asked to stop while its disk hung, ends: the group is as it was before, and its own log
    /// is in order.
    async fn ends(&mut self, before: &GroupOffsets, release: impl FnOnce()) -> Result<()> {
        release();
        assert_eq!(self.first.wait_exit(SOON).await?.code(), Some(0));
        let after = self.world.offsets(self.group).await?;
        assert_eq!((after.owner(), after.position()), (before.owner(), before.position()));
        let kept = audited_offsets(&self.log)?;
        assert_eq!(kept, first_offsets(kept.len()), "each event once, in order");
        Ok(())
    }
}

fn first_offsets(count: usize) -> Vec<i64> {
    (0..i64::try_from(count).unwrap()).collect()
}

/// Waits until the main thread has ended, as the group leader's state tells.
async fn main_thread_ends(service: &mut Service, limit: Duration) -> Result<()> {
    let stat = format!("/proc/{}/stat", service.id());
    let is_zombie = async || {
        // The state follows the name, which is in parentheses.
        let stat = std::fs::read_to_string(&stat).unwrap_or_default();
        let is_zombie = stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('Z'));
        Ok((stat.is_empty() || is_zombie).then_some(()))
    };
    eventually("the main thread to end", limit, is_zombie).await?;
    Ok(())
}

#[tokio::test]
async fn an_auditor_whose_disk_hangs_is_replaced_and_completes_its_log_later() -> Outcome {
    let Some(disk) = FailingDisk::mount(KIB) else { return Ok(()) };
    let mut pair = Pair::start("audit-service", &disk).await?;
    let hang = disk.hang_until_dropped()?;
    pair.taken_over().await?;
    pair.superseded(|| drop(hang)).await?;
    // The write that hung in the kernel may have come through.
    let kept = audited_offsets(&pair.log)?;
    assert_eq!(kept, first_offsets(kept.len()), "each event once, in order");
    assert!((50..=51).contains(&kept.len()), "{} lines", kept.len());

    // It owns again, and reads what it missed.
    assert_eq!(pair.second.terminate(STOP_LIMIT).await?.code(), Some(0));
    pair.produce(50).await?;
    pair.committed().await?;
    assert_eq!(audited_offsets(&pair.log)?, first_offsets(pair.produced));
    assert_eq!(pair.first.terminate(STOP_LIMIT).await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn an_auditor_whose_disk_hangs_ends_on_sigterm_and_hands_over_at_once() -> Outcome {
    let Some(disk) = FailingDisk::mount(KIB) else { return Ok(()) };
    let mut pair = Pair::start("audit-service", &disk).await?;
    let hang = disk.hang_until_dropped()?;
    pair.produce(1).await?;
    pair.first.wait_for_line("makes no progress", SOON).await?;
    pair.first.signal(Signal::TERM)?;
    main_thread_ends(&mut pair.first, STOP_LIMIT).await?;
    pair.committed().await?;
    let before = pair.world.offsets(pair.group).await?;
    pair.ends(&before, || drop(hang)).await?;
    assert_eq!(audited_offsets(&pair.world.instance_audit_log("second"))?, first_offsets(pair.produced));
    Ok(())
}

#[tokio::test]
async fn an_auditor_that_was_superseded_while_its_disk_hangs_ends_on_sigterm() -> Outcome {
    let Some(disk) = FailingDisk::mount(KIB) else { return Ok(()) };
    let mut pair = Pair::start("audit-service", &disk).await?;
    let hang = disk.hang_until_dropped()?;
    pair.taken_over().await?;
    let before = pair.world.offsets(pair.group).await?;
    pair.first.signal(Signal::TERM)?;
    main_thread_ends(&mut pair.first, STOP_LIMIT).await?;
    pair.ends(&before, || drop(hang)).await?;
    Ok(())
}

#[tokio::test]
async fn a_notifier_whose_dedup_state_hangs_is_replaced_and_notifies_nobody_afterwards() -> Outcome {
    let Some(disk) = FailingDisk::mount(KIB) else { return Ok(()) };
    let mut pair = Pair::start("notification-service", &disk).await?;
    let hang = disk.hang_until_dropped()?;
    pair.taken_over().await?;
    pair.superseded(|| drop(hang)).await?;
    // What it had notified of before its dedup state hung is repeated by the second: at least once.
    let first = pair.first.counted("NOTIFICATION: ", 50).await?;
    assert!((50..=51).contains(&first), "{first} notifications");
    pair.second.settled().await?;
    assert_eq!(pair.second_done()?, 50);
    assert_eq!(pair.first.terminate(STOP_LIMIT).await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn a_task_store_whose_disk_hangs_refuses_within_a_bound_and_goes_on_afterwards() -> Outcome {
    let Some(disk) = FailingDisk::mount(KIB) else { return Ok(()) };
    let world = World::start().await?;
    let program = world.program("task-api").env("STATE_DIR", disk.path().display());
    let (mut service, api) = world.start_api_as(program).await?;
    let mut answered = vec![id_of(&api.create("before").await?)?.to_owned()];
    api.delivered().await?;

    let hang = disk.hang_until_dropped()?;
    for _ in 0..2 {
        let asked = Instant::now();
        let request = api.request(Method::POST, "/tasks").json(&json!({"title": "meanwhile"}));
        let refused = request.timeout(ANSWER_LIMIT).send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.headers().contains_key("retry-after"));
        println!("refused after {:?}", asked.elapsed());
        assert_eq!(api.call(Method::GET, "/healthz", None).await?.0, StatusCode::OK);
        let named = async || {
            let (status, report) = api.readiness().await?;
            let is_named = status == StatusCode::SERVICE_UNAVAILABLE && report["store_failure"].is_string();
            Ok(is_named.then_some(()))
        };
        eventually("/readyz to name the store", SOON, named).await?;
    }
    drop(hang);
    let ready = async || Ok((api.readiness().await?.0 == StatusCode::OK).then_some(()));
    eventually("the store to go on", SOON, ready).await?;
    answered.push(id_of(&api.create("after").await?)?.to_owned());
    api.delivered().await?;
    let told = world.topic(harness::EVENTS).await?;
    let told = keys(&told)?;
    // What was refused only for its time may be stored: it was neither done nor undone.
    assert!(told.len() <= answered.len() + 2, "{told:?}");
    let known: Vec<_> = told.into_iter().filter(|id| answered.contains(id)).collect();
    assert_eq!(known, answered, "each event once, in order");
    assert_eq!(service.terminate(SOON).await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn a_task_store_whose_disk_hangs_ends_on_sigterm_says_why_and_keeps_what_it_answered() -> Outcome {
    let Some(disk) = FailingDisk::mount(KIB) else { return Ok(()) };
    let world = World::start().await?;
    let program = world.program("task-api").env("STATE_DIR", disk.path().display());
    let (mut service, api) = world.start_api_as(program).await?;
    let answered = id_of(&api.create("before").await?)?.to_owned();
    api.delivered().await?;

    let hang = disk.hang_until_dropped()?;
    let request = api.request(Method::POST, "/tasks").json(&json!({"title": "meanwhile"}));
    let unanswered = tokio::spawn(request.send());
    let hangs = async || Ok(api.readiness().await?.1["store_failure"].is_string().then_some(()));
    eventually("the store to hang", SOON, hangs).await?;
    service.signal(Signal::TERM)?;
    main_thread_ends(&mut service, API_STOP_LIMIT).await?;
    let why = service.wait_for_line("the disk has not answered", SOON).await?;
    assert!(why.contains("[TE0203]") && why.contains(&disk.path().display().to_string()), "{why}");
    drop(hang);
    assert_eq!(service.wait_exit(SOON).await?.code(), Some(1));
    // Refused, or cut off: it may be stored or not.
    drop(unanswered.await);

    service.restart()?;
    let api = Api::new(&service.url().await?)?;
    assert_eq!(api.call(Method::GET, &format!("/tasks/{answered}"), None).await?.0, StatusCode::OK);
    api.create("after").await?;
    api.delivered().await?;
    let told = world.topic(harness::EVENTS).await?;
    let told = keys(&told)?;
    assert!(told.first() == Some(&answered) && (2..=3).contains(&told.len()), "{told:?}");
    assert_eq!(service.terminate(SOON).await?.code(), Some(0));
    Ok(())
}
