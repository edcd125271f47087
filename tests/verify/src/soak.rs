//! Memory over many events: the resident set of each service while they pass.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use harness::Kind as BrokerKind;
use tokio::time::{Instant, sleep};

use crate::evidence::AuditLine;
use crate::system::{System, SystemConfig};
use harness::{Error, Result};
use harness::{Load, LoadConfig, Script};

/// A service may grow by this much, in KiB, once its caches are full.
pub const GROWTH_LIMIT_KIB: u64 = 10 * 1024;
/// Samples over the whole.
const SAMPLES: u64 = 10;
/// Time for the audit log to get all that was answered.
const DRAIN_LIMIT: Duration = Duration::from_secs(600);

/// What was measured.
#[derive(Debug, Clone)]
pub struct Soak {
    /// The services.
    pub names: Vec<String>,
    /// Events so far, and the resident set of each service in KiB. The first is before any event.
    pub samples: Vec<(u64, Vec<u64>)>,
    /// Lines of the audit log that were never asked for, missing, repeated or out of order.
    pub wrong_lines: Vec<String>,
    /// Events a second, from the first request to the last audit line.
    pub rate: f64,
}

impl Soak {
    /// Growth of each service from the second sample, a tenth of the way, to the last, in KiB.
    pub fn growth(&self) -> Vec<(String, i64)> {
        let (Some((_, warm)), Some((_, last))) = (self.samples.get(1), self.samples.last()) else {
            return Vec::new();
        };
        let kib = |value: &u64| i64::try_from(*value).unwrap_or(i64::MAX);
        let growth = warm.iter().zip(last).map(|(warm, last)| kib(last) - kib(warm));
        self.names.iter().cloned().zip(growth).collect()
    }

    /// Whether all stayed within the limit, and the audit log is right.
    pub fn is_sound(&self) -> bool {
        let limit = i64::try_from(GROWTH_LIMIT_KIB).unwrap_or(i64::MAX);
        self.wrong_lines.is_empty() && self.growth().iter().all(|(_, growth)| *growth < limit)
    }
}

/// Runs that many events through a fresh system below that folder.
pub async fn run(
    events: u64,
    rate: Option<u32>,
    broker: BrokerKind,
    folder: &Path,
    mut said: impl FnMut(u64, &[u64]),
) -> Result<Soak> {
    let config = SystemConfig { quiet: true, ..SystemConfig::new(broker, 1) };
    let system = System::start(folder, config).await?;
    // The first events find the consumers at work.
    sleep(Duration::from_secs(3)).await;
    let names = processes(&system).into_iter().map(|(name, _)| name).collect();
    let mut samples = vec![(0, resident(&system)?)];
    let start = Instant::now();
    let load = LoadConfig::new(&system.url, 32, rate, Script::Random { seed: 1 });
    let mut load = Load::start(load, false)?;
    for sample in 1..=SAMPLES {
        let wanted = events * sample / SAMPLES;
        while load.events() < wanted {
            sleep(Duration::from_millis(20)).await;
        }
        let sizes = resident(&system)?;
        said(wanted, &sizes);
        samples.push((wanted, sizes));
    }
    load.finish().await?;
    // Nothing is hurt here: each request is answered, and each event is one of an answer.
    let expected = load.events();
    let log = system.audits.first().and_then(|audit| audit.audit_log.clone());
    let log = log.ok_or_else(|| Error::Failed("there is no audit service".to_owned()))?;
    let wrong_lines = audited(&log, expected, start).await?;
    let rate = expected as f64 / start.elapsed().as_secs_f64();
    samples.push((expected, resident(&system)?));
    Ok(Soak { names, samples, wrong_lines, rate })
}

fn processes(system: &System) -> Vec<(String, u32)> {
    let consumers = system.notifications.iter().chain(&system.audits).chain([&system.dlq]);
    let mut all: Vec<_> = consumers.map(|consumer| (consumer.name.clone(), consumer.service.id())).collect();
    all.insert(0, ("api".to_owned(), system.api.id()));
    all
}

fn resident(system: &System) -> Result<Vec<u64>> {
    processes(system).into_iter().map(|(_, id)| resident_kib(id)).collect()
}

/// The resident set of a process, in KiB.
fn resident_kib(id: u32) -> Result<u64> {
    let path = format!("/proc/{id}/status");
    let status = std::fs::read_to_string(&path).map_err(|error| Error::file(Path::new(&path), error))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let size = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    size.ok_or_else(|| Error::Failed(format!("{path} has no VmRSS")))
}

/// Reads the log as it grows, until it has as many lines as expected.
async fn audited(path: &Path, expected: u64, start: Instant) -> Result<Vec<String>> {
    let file = std::fs::File::open(path).map_err(|error| Error::file(path, error))?;
    let mut reader = BufReader::new(file);
    let (mut ids, mut last, mut lines) = (HashSet::new(), -1, 0);
    let mut wrong = Vec::new();
    let mut line = String::new();
    while lines < expected && start.elapsed() < DRAIN_LIMIT + Duration::from_secs(expected / 500) {
        reader.read_line(&mut line).map_err(|error| Error::file(path, error))?;
        if !line.ends_with('\n') {
            sleep(Duration::from_millis(50)).await;
            continue;
        }
        match AuditLine::parse(&line) {
            None => wrong.push(format!("no audit line: {line}")),
            Some(parsed) => {
                if !ids.insert(parsed.seen.event_id.clone()) || parsed.seen.offset <= last {
                    wrong.push(format!("twice, or out of order: {line}"));
                }
                last = parsed.seen.offset;
            }
        }
        lines += 1;
        line.clear();
    }
    if lines < expected {
        wrong.push(format!("{lines} lines, {expected} events were answered"));
    }
    // What was never asked for would come now.
    sleep(Duration::from_secs(1)).await;
    if reader.read_line(&mut line).map_err(|error| Error::file(path, error))? > 0 {
        wrong.push(format!("more lines than events were answered: {line}"));
    }
    Ok(wrong)
}
