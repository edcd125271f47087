//! A round of the scaled system: replicas of the API on PostgreSQL, and instances that share the partitions, under load
//! and faults. What was seen is kept by partition ([`evidence`]), so that the checks of one partition run on each.

mod available;
pub mod check;
pub mod evidence;
mod faults;
pub mod follower;
pub mod group;
pub mod plan;
mod shares;
mod succession;
pub mod system;
mod thieves;
mod turns;

use std::path::Path;
use std::time::Duration;

use harness::requests::Micros;
use harness::{EVENTS, GROUPS, Kind as BrokerKind, Load, LoadConfig, Result, Script};
use tokio::time::{Instant, sleep};

use self::evidence::ScaledEvidence;
use self::group::Group;
use self::plan::ScaledPlan;
use self::system::{PARTITIONS, Scaled};
use crate::api;
use crate::check::Report;
use crate::evidence::OffsetsEntry;
use crate::system::behind;

/// Time for everything to be done after the last fault: a lease, a turn of the relay, time-outs, and the work itself.
const DRAIN_LIMIT: Duration = Duration::from_secs(180);
/// What a zombie would do, it does at once.
const AFTERMATH: Duration = Duration::from_millis(500);
/// How long an answer that a client has given up is waited for: longer than the API may take.
const LATE_LIMIT: Duration = Duration::from_secs(15);
/// For the instances to share the partitions before the load.
const SHARE_LIMIT: Duration = Duration::from_secs(120);

/// What a round found.
#[derive(Debug, Clone)]
pub struct ScaledRound {
    /// What the checks say.
    pub report: Report,
    /// What they looked at.
    pub evidence: ScaledEvidence,
    /// From the end of the last fault, or of the load, until all was handled and committed.
    pub drained: Duration,
}

/// Runs a round below that folder. With a finding, logs and evidence are kept there. `None` where PostgreSQL is not
/// installed.
pub async fn run(plan: &ScaledPlan, broker: BrokerKind, folder: &Path) -> Result<Option<ScaledRound>> {
    let Some(mut system) = Box::pin(Scaled::start(folder, broker, plan.seed)).await? else {
        return Ok(None);
    };
    harness::eventually("the instances to share the partitions", SHARE_LIMIT, async || {
        let records = system.offsets.read().await?;
        let is_shared = |group: &Group| shares::unshared(&system, &records, *group).is_none();
        Ok(Group::ALL.iter().all(is_shared).then_some(()))
    })
    .await?;
    let load = LoadConfig {
        urls: system.replicas.iter().map(|replica| replica.url.clone()).collect(),
        connections: plan.connections,
        rate: plan.rate,
        script: Script::Random { seed: plan.seed },
        answer_limit: plan.answer_limit,
        late_limit: Some(LATE_LIMIT + plan.margin),
    };
    let mut load = Load::start(load, true)?;
    let faults = Box::pin(faults::run(&mut system, plan)).await;
    let requests = load.finish().await?.requests;
    let start = Instant::now();
    let not_drained = drain(&system).await;
    let drained = start.elapsed();
    sleep(AFTERMATH).await;
    let mut found = ScaledEvidence::new(PARTITIONS);
    found.troubles = faults.troubles;
    // What fails here is a finding, and the rest of the evidence is kept.
    if let Err(error) = collect(&mut system, &mut found).await {
        found.troubles.push(format!("the evidence is not complete: {error}"));
    }
    found.requests = requests;
    found.not_drained = not_drained;
    (found.hurts, found.ends, found.strikes) = (faults.hurts, faults.ends, faults.strikes);
    let micros = |time: Duration| Micros::try_from(time.as_micros()).unwrap_or(Micros::MAX);
    (found.margin, found.stop_margin) = (micros(plan.margin), micros(plan.stop_margin));
    let report = check::check(&found);
    if !report.is_sound() {
        system.write_logs(folder)?;
        found.write(folder)?;
    }
    Ok(Some(ScaledRound { report, evidence: found, drained }))
}

/// Waits until the outbox is empty, as each replica says, and both groups have committed each partition's end, and all
/// groups share their partitions. Returns what is left undone when time is up.
async fn drain(system: &Scaled) -> Vec<String> {
    let start = Instant::now();
    loop {
        let left = left_undone(system).await;
        let left = left.unwrap_or_else(|error| vec![error.to_string()]);
        if left.is_empty() || start.elapsed() > DRAIN_LIMIT {
            return left;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

async fn left_undone(system: &Scaled) -> Result<Vec<String>> {
    let http = harness::http()?;
    let mut left = Vec::new();
    for (number, replica) in system.replicas.iter().enumerate() {
        match api::waiting(&http, &replica.url).await {
            Some(0) => {}
            Some(waiting) => left.push(format!("{waiting} events wait in the outbox")),
            None => left.push(format!("replica {} does not answer, or is not ready", number + 1)),
        }
    }
    if left.is_empty() {
        left = groups_behind(system).await?;
    }
    if left.is_empty() {
        let records = system.offsets.read().await?;
        left.extend(Group::ALL.iter().flat_map(|group| shares::unshared(system, &records, *group)));
    }
    Ok(left)
}

async fn groups_behind(system: &Scaled) -> Result<Vec<String>> {
    let mut ends = [0; PARTITIONS];
    for record in harness::read_topic(&system.broker.bootstrap(), EVENTS).await? {
        if let Some(end) = usize::try_from(record.partition).ok().and_then(|number| ends.get_mut(number)) {
            *end = record.offset + 1;
        }
    }
    let records = system.offsets.read().await?;
    let mut left = Vec::new();
    for (partition, end) in ends.into_iter().enumerate() {
        let of_partition = records.iter().filter(|record| record.partition == partition);
        let offsets: Vec<OffsetsEntry> = of_partition.map(|record| record.entry.clone()).collect();
        let behind = GROUPS.iter().filter_map(|group| behind(&offsets, group, end));
        left.extend(behind.map(|group| format!("partition {partition}: {group}")));
    }
    Ok(left)
}

/// All that can be known once everything is drained; but for the requests, and what was done to the system.
async fn collect(system: &mut Scaled, found: &mut ScaledEvidence) -> Result<()> {
    found.processes = system.replicas.len() + system.instances.len();
    let ended = system.ended()?;
    found.troubles.extend(ended);
    found.add_topic(&harness::read_topic(&system.broker.bootstrap(), EVENTS).await?)?;
    found.add_offsets(&system.offsets.read().await?)?;
    for instance in &system.instances {
        let id = instance.instance_id();
        match instance.group {
            Group::Audit => found.add_audit_log(&instance.audit_log, id.as_deref())?,
            Group::Notification => found.add_notifications(&instance.service.history(), id.as_deref()),
            Group::Dlq => {}
        }
    }
    let relays: Vec<_> = system.replicas.iter().map(|replica| replica.service.history()).collect();
    found.add_relays(&relays);
    for snapshot in &system.snapshots {
        for (evidence, of_partition) in found.partitions.iter_mut().zip(snapshot) {
            evidence.snapshots.push(of_partition.clone());
        }
    }
    for replica in &system.replicas {
        found.tasks.push(api::all_tasks(&replica.url).await?);
    }
    Ok(())
}
