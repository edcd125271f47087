//! POST /tasks: as many as it takes, and some of them up to the audit line.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use harness::{Result, SOON, Service, World, eventually};
use std::io::Read;

use crate::build::Build;
use crate::figures::{Figures, quantile};
use crate::{http, usage};

const CONNECTIONS: usize = 64;
/// Requests before the count begins.
const WARM_UP: Duration = Duration::from_secs(1);
/// How often the audit log is looked at: the error of a time.
const LOOK: Duration = Duration::from_micros(200);

/// The API of a build, ready, and its address.
pub async fn start_api(build: &Build, world: &World) -> Result<(Service, SocketAddr)> {
    let (api, client) = world.start_api_as(build.program(world, "task-api")).await?;
    client.delivered().await?;
    let address = client.url().trim_start_matches("http://").parse().expect("an address");
    Ok((api, address))
}

/// Each connection has one request in flight.
pub async fn closed_loop(build: &Build, seconds: u64, keyed: bool) -> Result<Figures> {
    let world = build.world().await?;
    let (api, address) = start_api(build, &world).await?;
    let broker = world.broker.process().id();
    let run = |time| http::closed_loop(address, CONNECTIONS, Instant::now() + time, usize::MAX, keyed);
    run(WARM_UP);
    let before = (usage::cpu_us(api.id()), usage::cpu_us(broker));
    let mut took = run(Duration::from_secs(seconds));
    let requests = took.len() as f64;
    let api_us = (usage::cpu_us(api.id()) - before.0) / requests;
    let broker_us = (usage::cpu_us(broker) - before.1) / requests;
    Ok(vec![
        ("requests/s", requests / seconds as f64),
        ("API µs a request", api_us),
        ("broker µs a request", broker_us),
        ("p50 ms", quantile(&mut took, 0.5)),
        ("p99 ms", quantile(&mut took, 0.99)),
        ("API MiB at most", usage::memory(api.id()).1),
    ])
}

/// So many requests a second, as long as each of eight senders has its answer in time; from the moment of sending to the line in
/// the audit log.
pub async fn at_rate(build: &Build, seconds: u64, rate: u32) -> Result<Figures> {
    let world = build.world().await?;
    let (api, address) = start_api(build, &world).await?;
    let audit = build.program(&world, "audit-service").start()?;
    let log = world.audit_log_path();
    http::closed_loop(address, 1, Instant::now() + SOON, 1, false);
    eventually("the first audit line", SOON, async || Ok((!world.audit_log()?.is_empty()).then_some(())))
        .await?;

    let count = usize::try_from(seconds * u64::from(rate)).expect("few");
    let tail = std::thread::spawn({
        let log = log.clone();
        move || tail(&log, count)
    });
    let before = (usage::cpu_us(api.id()), usage::cpu_us(audit.id()));
    let sent = http::on_one_thread(send(address, count, rate));
    let seen = tail.join().expect("the reader of the log does not fail");
    let api_us = (usage::cpu_us(api.id()) - before.0) / count as f64;
    let audit_us = (usage::cpu_us(audit.id()) - before.1) / count as f64;
    let times =
        sent.iter().filter_map(|(title, (sent, answered))| Some((*sent, *answered, *seen.get(title)?)));
    let times: Vec<(Instant, Instant, Instant)> = times.collect();
    assert_eq!(times.len(), count, "each task has its line");
    let ms = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1e3;
    let mut to_lines: Vec<f64> = times.iter().map(|(sent, _, seen)| ms(*sent, *seen)).collect();
    let mut answers: Vec<f64> = times.iter().map(|(sent, answered, _)| ms(*sent, *answered)).collect();
    let mut behind = behind(&times);
    let sent = || times.iter().map(|(sent, ..)| *sent);
    let took = sent().max().zip(sent().min()).map_or(Duration::ZERO, |(last, first)| last - first);
    Ok(vec![
        ("requests/s", (count - 1) as f64 / took.as_secs_f64()),
        ("POST to audit line p50 ms", quantile(&mut to_lines, 0.5)),
        ("POST to audit line p99 ms", quantile(&mut to_lines, 0.99)),
        ("answer p50 ms", quantile(&mut answers, 0.5)),
        ("answer p99 ms", quantile(&mut answers, 0.99)),
        ("API µs an event", api_us),
        ("audit µs an event", audit_us),
        ("answered, without a line: p90", quantile(&mut behind, 0.9)),
        ("answered, without a line: at most", quantile(&mut behind, 1.0)),
    ])
}

/// How many were answered and had no line yet, whenever one was answered: the lag of the group, with what was on its way
/// to the topic. Of each there is when it was sent, when it was answered and when it had its line.
fn behind(times: &[(Instant, Instant, Instant)]) -> Vec<f64> {
    let mut answered: Vec<_> = times.iter().map(|(_, answered, _)| *answered).collect();
    // One that had its line before it was answered was never behind.
    let mut seen: Vec<_> = times.iter().map(|(_, answered, seen)| *seen.max(answered)).collect();
    answered.sort_unstable();
    seen.sort_unstable();
    let with_line = |at: &Instant| seen.partition_point(|seen| seen <= at);
    (1..).zip(&answered).map(|(count, at)| f64::from(count) - with_line(at) as f64).collect()
}

/// When each was sent and answered, by its title.
async fn send(address: SocketAddr, count: usize, rate: u32) -> HashMap<String, (Instant, Instant)> {
    const SENDERS: usize = 8;
    let start = tokio::time::Instant::now() + Duration::from_millis(50);
    let mut running = tokio::task::JoinSet::new();
    for sender in 0..SENDERS {
        running.spawn_local(async move {
            let mut connection = http::Connection::open(address).await;
            let mut sent = Vec::new();
            for number in (sender..count).step_by(SENDERS) {
                let at = Duration::from_secs(1) * u32::try_from(number).expect("few") / rate;
                tokio::time::sleep_until(start + at).await;
                let title = format!("measured {number}");
                let before = Instant::now();
                connection.create(&title, false).await;
                sent.push((title, (before, Instant::now())));
            }
            sent
        });
    }
    running.join_all().await.into_iter().flatten().collect()
}

/// When the line of each task was first there.
fn tail(log: &Path, count: usize) -> HashMap<String, Instant> {
    let mut file = std::fs::File::open(log).expect("the audit log");
    let mut rest = Vec::new();
    let mut seen = HashMap::new();
    let end = Instant::now() + Duration::from_secs(120);
    while seen.len() < count && Instant::now() < end {
        let read = file.read_to_end(&mut rest).expect("the audit log is read");
        let now = Instant::now();
        if read == 0 {
            pause(LOOK);
            continue;
        }
        while let Some(line_end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=line_end).collect();
            let line: serde_json::Value = serde_json::from_slice(&line).expect("a line of JSON");
            let title = line["data"]["title"].as_str().unwrap_or_default();
            if title.starts_with("measured ") {
                seen.insert(title.to_owned(), now);
            }
        }
    }
    seen
}

#[allow(clippy::disallowed_methods, reason = "a thread of its own")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
