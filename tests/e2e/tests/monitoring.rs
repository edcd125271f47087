//! The alert rules and the dashboard of manifests/monitoring against a running system and Debian's Prometheus: all is
//! quiet and every query has data, then each planted fault raises its alert, and no other.
//!
//! `.ci/monitoring` sets `E2E_MONITORING` to a folder with `prometheus`, `promtool`, and the rules with short times
//! (`live.yaml`: see manifests/check/rules.py). Without it nothing is tried.

#[path = "monitoring/prometheus.rs"]
mod prometheus;

use harness::{
    Api, CONSUMERS, EVENTS, Event, FailingDisk, Outcome, Program, Result, SOON, Service, World,
    configure_topic, eventually, free_port, http, id_of, produce, record,
};
use serde_json::json;
use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use prometheus::{LATE_FILE, Prometheus, dashboard_queries, lint};

/// The disk of the services that have one that hangs.
const DISK_KIB: u32 = 128 * 1024;
/// More log lines than a pipe, and the queue behind it, hold.
const MANY_EVENTS: usize = 20_000;
/// Time in which an alert that has no reason would fire: the longest `for`, and a range.
const QUIET: Duration = Duration::from_secs(15);

async fn events(world: &World, count: usize) -> Result<()> {
    for first in (0..count).step_by(500) {
        let values = (first..count.min(first + 500)).map(|n| Event::created(&format!("task {n}")).bytes());
        let records = values.map(|value| record(Some(b"key"), Some(&value))).collect();
        produce(&world.broker.bootstrap(), EVENTS, records).await?;
    }
    Ok(())
}

fn consumer(world: &World, name: &str) -> Result<Program> {
    Ok(world.program(name).env("HEALTH_ADDR", format!("127.0.0.1:{}", free_port()?)))
}

/// What the API has open beside connections, and connections that it may have: few, so that they are all taken soon.
const FILES: usize = 200;
const CONNECTIONS: usize = 40;
/// For each step on a disk that hangs: beyond what an alert takes for slow, within the lease of the service.
const SLOW: Duration = Duration::from_millis(1_200);
/// How long a broker with a quota throttles each produce.
const THROTTLE_MS: &str = "800";
const DAMAGED: &str = "A title that will be damaged";

/// Requests and flushes that take long, on a disk that hangs again and again, by way of a broker that throttles.
async fn slow(world: &World, api: &Api, prometheus: &Prometheus, disk: Option<&FailingDisk>) -> Result<()> {
    let throttle = async |value| {
        configure_topic(&world.broker.bootstrap(), EVENTS, "devbroker.produce.throttle.ms", value).await
    };
    throttle(Some(THROTTLE_MS)).await?;
    let alerts: &[&str] = match disk {
        Some(_) => &["TaskEventsThrottled", "TaskApiSlow", "TaskEventsFlushSlow"],
        None => &["TaskEventsThrottled"],
    };
    tokio::select! {
        fired = prometheus.fires(alerts) => fired?,
        ended = create_slowly(api, disk) => match ended {
            Ok(never) => match never {},
            Err(error) => return Err(error),
        }
    }
    throttle(None).await
}

/// Creates tasks, for ever, while the disk hangs. The event of each is notified while it hangs for the next.
async fn create_slowly(api: &Api, disk: Option<&FailingDisk>) -> Result<Infallible> {
    loop {
        let hang = disk.map(FailingDisk::hang_until_dropped).transpose()?;
        let slow = async {
            tokio::time::sleep(SLOW).await;
            drop(hang);
        };
        let (created, ()) = tokio::join!(api.create("slow"), slow);
        created?;
    }
}

/// A service that ends again and again.
async fn restarts(service: &mut Service, job: &str, prometheus: &Prometheus) -> Result<()> {
    let started = async || {
        let series = prometheus.query(&format!("process_start_time_seconds{{job=\"{job}\"}}")).await;
        series.first().map(|one| one["value"][1].to_string())
    };
    for _ in 0..4 {
        let before = started().await;
        // Its start time has whole seconds on some systems.
        tokio::time::sleep(Duration::from_secs(1)).await;
        service.restart()?;
        let scraped = async || Ok(started().await.filter(|now| Some(now) != before.as_ref()));
        eventually("the new process to be scraped", SOON, scraped).await?;
    }
    prometheus.fires(&["TaskEventsRestarting"]).await
}

/// More connections than the API takes.
async fn crowds(api: &Api, prometheus: &Prometheus) -> Result<()> {
    let address = api.url().trim_start_matches("http://");
    let crowd = async {
        let mut open = VecDeque::new();
        loop {
            if let Ok(stream) = tokio::net::TcpStream::connect(address).await {
                open.push_back(stream);
            }
            if open.len() > 2 * CONNECTIONS {
                open.pop_front();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    };
    tokio::select! {
        fired = prometheus.fires(&["TaskApiShedding"]) => fired,
        () = crowd => Ok(()),
    }
}

/// A receiver of webhooks that is not there, and an issuer whose keys cannot be fetched.
async fn nobody_answers(world: &World, api: &Api, prometheus: &Prometheus, data: &Path) -> Result<()> {
    let nobody = format!("http://127.0.0.1:{}", free_port()?);
    let secrets = world.path("secrets");
    std::fs::write(&secrets, "whsec_b2xkLXNlY3JldC1vbGQtc2VjcmV0LW9sZC1zZWNyZXQ=\n").unwrap();
    let webhooks = world.instance("notification-service", "webhooks").env("GROUP", "webhooks");
    let mut webhooks = webhooks
        .env("HEALTH_ADDR", format!("127.0.0.1:{}", free_port()?))
        .env("NOTIFIER", "webhook")
        .env("WEBHOOK_URL", &nobody)
        .env("WEBHOOK_SECRET_FILE", secrets.display())
        .env("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8")
        .start()?;
    let with_jwts = world
        .instance("task-api", "jwts")
        .env("API_JWKS_URL", &nobody)
        .env("API_JWT_ISSUER", "issuer")
        .env("API_JWT_AUDIENCE", "audience");
    let (_with_jwts, other) = world.start_api_as(with_jwts).await?;
    let targets = [webhooks.health_url().await?, other.url().to_owned()];
    let targets: Vec<&str> = targets.iter().map(|url| url.trim_start_matches("http://")).collect();
    let late = data.join("late.new");
    std::fs::write(&late, json!([{"targets": targets}]).to_string()).unwrap();
    std::fs::rename(late, data.join(LATE_FILE)).unwrap();
    let alerts = ["TaskEventsWebhookParked", "TaskEventsWebhookFailing", "TaskApiJwksStale"];
    let tasks = async {
        loop {
            api.create("nobody is notified").await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        fired = prometheus.fires(&alerts) => fired,
        ended = tasks => ended,
    }
}

/// A stored task of which the disk has changed a byte.
async fn is_damaged(service: &mut Service, api: &Api, store: &Path, prometheus: &Prometheus) -> Result<()> {
    let task = api.create(DAMAGED).await?;
    api.delivered().await?;
    service.terminate(SOON).await?;
    let mut bytes = std::fs::read(store).unwrap();
    let places: Vec<usize> =
        (0..bytes.len()).filter(|at| bytes[*at..].starts_with(DAMAGED.as_bytes())).collect();
    assert!(!places.is_empty(), "the store has the task when it is closed");
    for at in places {
        // No text any more.
        bytes[at] = 0xff;
    }
    std::fs::write(store, bytes).unwrap();
    service.restart()?;
    service.url().await?;
    let read = api.call(harness::Method::GET, &format!("/tasks/{}", id_of(&task)?), None).await?;
    assert_eq!(read.0, harness::StatusCode::INTERNAL_SERVER_ERROR, "{read:?}");
    prometheus.fires(&["TaskApiStoreDamaged"]).await
}

#[tokio::test]
async fn each_alert_fires_for_its_fault_and_for_no_other() -> Outcome {
    let Some(folder) = std::env::var_os("E2E_MONITORING").map(PathBuf::from) else {
        eprintln!("E2E_MONITORING is not set: nothing is tried");
        return Ok(());
    };
    let mut world = World::start().await?;
    // The store of the API, and what the notifier remembers, are on a disk that can hang.
    let disk = FailingDisk::mount(DISK_KIB);
    let state = disk.as_ref().map_or_else(|| world.state_dir(), |disk| disk.path().to_owned());
    let files = (FILES + CONNECTIONS).to_string();
    let program = world.program("task-api").env("STATE_DIR", state.display());
    let program = program.wrapped(&["prlimit", &format!("--nofile={files}:{files}"), "--"]);
    let (mut api_service, api) = world.start_api_as(program).await?;
    let key = world.audit_key().await?.display().to_string();
    let start = |name: &&str| {
        let program = consumer(&world, name)?;
        let lease_ms = 5 * SLOW.as_millis();
        match *name {
            "notification-service" => {
                program.env("STATE_DIR", state.display()).env("LEASE_MS", lease_ms).start()
            }
            "audit-service" => program.env("AUDIT_KEY_FILE", &key).start(),
            _ => program.start(),
        }
    };
    let mut consumers = CONSUMERS.iter().map(start).collect::<Result<Vec<_>>>()?;
    let mut targets = vec![("task-api".to_owned(), api.url().to_owned())];
    for (name, service) in CONSUMERS.iter().zip(&mut consumers) {
        targets.push(((*name).to_owned(), service.health_url().await?));
    }
    let data = world.path("prometheus");
    std::fs::create_dir(&data).unwrap();

    // Poison from before: old dead letters, which are no alert, and data for each panel.
    produce(&world.broker.bootstrap(), EVENTS, vec![record(None, Some(b"no event"))]).await?;
    api.complete(&api.create("one").await?).await?;
    for group in ["notification-service", "audit-service"] {
        world.committed(group, 3).await?;
    }
    let prometheus = Prometheus::start(&folder, &data, &targets)?;
    let up = async || Ok(prometheus.get("/api/v1/query?query=up").await);
    eventually("Prometheus", SOON, up).await?;
    // Before its first scrapes, everything is absent.
    let all_up = async || Ok((prometheus.query("up == 1").await.len() == targets.len()).then_some(()));
    eventually("all targets are up", SOON, all_up).await?;
    // Of a process that has just started, every dead letter counts.
    let young = "time() - process_start_time_seconds < 12";
    let old = async || Ok(prometheus.query(young).await.is_empty().then_some(()));
    eventually("all processes are old enough", SOON, old).await?;
    let quiet = async || Ok(prometheus.firing().await.is_empty().then_some(()));
    eventually("no alert fires", SOON, quiet).await?;
    let quiet_since = Instant::now();
    for _ in 0..QUIET.as_secs() {
        api.complete(&api.create("two").await?).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for (name, url) in &targets {
        let text = http()?.get(format!("{url}/metrics")).send().await.unwrap().text().await.unwrap();
        lint(&folder.join("promtool"), &text);
        assert_eq!(prometheus.query(&format!("up{{job=\"{name}\"}} == 1")).await.len(), 1, "{name}");
    }
    for (panel, query) in dashboard_queries() {
        let series = prometheus.query(&query).await;
        let values = series.iter().filter(|one| one["value"][1].as_str().is_some_and(|value| value != "NaN"));
        assert!(values.count() > 0, "{panel} has no data: {query}: {series:?}");
    }
    assert_eq!(prometheus.have_fired(quiet_since).await, BTreeSet::new(), "nothing is wrong");

    let [notification, audit, dlq] = consumers.as_mut_slice() else { panic!("three consumers") };
    let (slow, restarts) = tokio::join!(
        slow(&world, &api, &prometheus, disk.as_ref()),
        restarts(dlq, "dlq-processor", &prometheus)
    );
    slow?;
    restarts?;
    crowds(&api, &prometheus).await?;
    let store = state.join("task-api/tasks.redb");
    is_damaged(&mut api_service, &api, &store, &prometheus).await?;

    // Something is in the way of the tree beside the audit log.
    let tree = world.audit_log_path().with_extension("log.tree");
    let is_in_its_way = async || {
        // The service writes to it.
        let _ = std::fs::remove_dir_all(&tree);
        Ok(std::fs::write(&tree, "in its way").ok())
    };
    eventually("a file in place of the tree", SOON, is_in_its_way).await?;
    api.create("not proved").await?;
    prometheus.fires(&["TaskEventsAuditTree"]).await?;

    // Nobody reads the notifications, nor the log of the audit service; a poison event; nobody looks after the DLQ.
    notification.stop_reading();
    audit.stop_reading();
    produce(&world.broker.bootstrap(), EVENTS, vec![record(None, Some(b"no event"))]).await?;
    events(&world, MANY_EVENTS).await?;
    prometheus.fires(&["TaskEventsDeadLetters", "TaskEventsLogLinesDropped"]).await?;
    prometheus.fires(&["TaskEventsPartitionBlocked", "TaskEventsLagging"]).await?;
    audit.read_on();
    dlq.kill9();
    prometheus.fires(&["TaskEventsGroupDown"]).await?;

    // An owner that is not scraped takes over from one that was paused, and dies with a long lease.
    let lease_ms = SOON.as_millis() * 2;
    audit.pause()?;
    let mut other = world.instance("audit-service", "other").env("LEASE_MS", lease_ms).start()?;
    other.wait_for_line("claimed audit-service/task-events/0", SOON).await?;
    other.kill9();
    audit.resume()?;
    prometheus.fires(&["TaskEventsNoOwner"]).await?;

    nobody_answers(&world, &api, &prometheus, &data).await?;

    world.broker.pause()?;
    api.create("three").await?;
    prometheus.fires(&["TaskApiOutboxGrowing", "TaskApiKafkaUnreachable"]).await?;

    std::fs::rename(&store, store.with_extension("away")).unwrap();
    prometheus.fires(&["TaskApiStoreNotWritable"]).await?;
    std::fs::rename(store.with_extension("away"), &store).unwrap();
    api_service.kill9();
    prometheus.fires(&["TaskApiDown"]).await?;

    let on_disk = ["TaskApiSlow", "TaskEventsFlushSlow"];
    let planted = [
        "TaskEventsThrottled",
        "TaskEventsRestarting",
        "TaskApiShedding",
        "TaskApiStoreDamaged",
        "TaskEventsAuditTree",
        "TaskEventsDeadLetters",
        "TaskEventsLogLinesDropped",
        "TaskEventsPartitionBlocked",
        "TaskEventsLagging",
        "TaskEventsGroupDown",
        "TaskEventsNoOwner",
        "TaskEventsWebhookParked",
        "TaskEventsWebhookFailing",
        "TaskApiJwksStale",
        "TaskApiOutboxGrowing",
        "TaskApiKafkaUnreachable",
        "TaskApiStoreNotWritable",
        "TaskApiDown",
    ];
    let planted = planted.into_iter().chain(on_disk.into_iter().filter(|_| disk.is_some()));
    assert_eq!(prometheus.have_fired(quiet_since).await, planted.map(str::to_owned).collect());
    Ok(())
}
