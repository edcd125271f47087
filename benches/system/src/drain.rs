//! How fast a consumer works off a topic that was full before it started.

use std::time::{Duration, Instant};

use harness::{EVENTS, Error, Event, Result, produce, record};
use uuid::Uuid;

use crate::build::Build;
use crate::figures::Figures;
use crate::usage;

/// Events of one produce.
const BATCH: usize = 500;
/// How often the group's position is looked at.
const LOOK: Duration = Duration::from_millis(20);
const LIMIT: Duration = Duration::from_secs(300);

pub async fn audit(build: &Build, events: usize, ordered_ids: bool) -> Result<Figures> {
    drain(build, "audit-service", events, ordered_ids).await
}

pub async fn notification(build: &Build, events: usize, ordered_ids: bool) -> Result<Figures> {
    drain(build, "notification-service", events, ordered_ids).await
}

async fn drain(build: &Build, service: &str, events: usize, ordered_ids: bool) -> Result<Figures> {
    let world = build.world().await?;
    let bootstrap = world.broker.bootstrap();
    for first in (0..events).step_by(BATCH) {
        let batch = (first..events.min(first + BATCH)).map(|number| {
            let id = if ordered_ids { Uuid::now_v7() } else { Uuid::new_v4() };
            let event = Event::created(&format!("task {number}")).with("/event_id", id.to_string())?;
            Ok(record(Some(event.task_id().as_bytes()), Some(&build.encoded(event.bytes()))))
        });
        produce(&bootstrap, EVENTS, batch.collect::<Result<_>>()?).await?;
    }
    let log = world.path("service.log");
    let stdout = std::fs::File::create(&log).expect("a file for its log");
    let address = format!("127.0.0.1:{}", harness::free_port()?);
    let mut command = build.program(&world, service).env("HEALTH_ADDR", &address).command()?;
    let http = harness::http()?;
    let mut child = command.stdout(stdout).spawn().expect("it starts");
    let started = Instant::now();
    // Its own count: reading the offsets topic would take time from what is measured.
    let (mut first, mut last) = (None, None);
    while last.is_none() && started.elapsed() < LIMIT {
        if let Some(lag) = lag(&http, &address).await {
            if lag < events as f64 {
                first.get_or_insert((Instant::now(), lag));
            }
            if lag == 0.0 {
                last = Some(Instant::now());
                continue;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    let cpu = usage::cpu_us(child.id());
    let (memory, peak) = usage::memory(child.id());
    child.kill().and_then(|()| child.wait()).expect("it ends");
    let (Some((since, left)), Some(until)) = (first, last) else {
        return Err(Error::timeout("the end of the topic", LIMIT));
    };
    let rate = if left > 0.0 { left / (until - since).as_secs_f64() } else { f64::NAN };
    Ok(vec![
        ("events/s", rate),
        ("seconds from the start", (until - started).as_secs_f64()),
        ("µs an event", cpu / events as f64),
        ("MiB at the end", memory),
        ("MiB at most", peak),
    ])
}

/// How many events the service has not yet committed; none while it does not know.
async fn lag(http: &reqwest::Client, address: &str) -> Option<f64> {
    let text = http.get(format!("http://{address}/metrics")).send().await.ok()?.text().await.ok()?;
    let line = text.lines().find(|line| line.starts_with("kafka_consumergroup_group_lag{"))?;
    line.rsplit_once(' ')?.1.parse().ok()
}
