//! A round: a fresh system under load, the planned faults, healing, waiting until all is drained, checks.

use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::Kind as BrokerKind;
use tokio::time::{Instant, sleep, sleep_until};

use crate::api;
use crate::check::{Report, check};
use crate::evidence::Evidence;
use crate::others::Others;
use crate::plan::{Fault, Plan, Planned};
use crate::system::{self, Consumer, Disk, Flaw, System, SystemConfig, owner};
use harness::Mode;
use harness::Result;
use harness::until;
use harness::{Load, LoadConfig, Script, Service};

/// Time for everything to be done after the last fault: time-outs of 10 s, back-offs, and the work itself.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);
/// What a zombie would do, it does at once.
const AFTERMATH: Duration = Duration::from_millis(500);
/// Until another instance owns in place of one that is paused or whose disk hangs: its lease, and a busy machine.
const TAKE_OVER_LIMIT: Duration = Duration::from_secs(20);
/// How far a clock is stepped, in seconds.
const STEP: i64 = 2 * 60 * 60;

/// What a round found.
#[derive(Debug, Clone)]
pub struct Round {
    /// What the checks say.
    pub report: Report,
    /// What they looked at.
    pub evidence: Evidence,
    /// From the end of the last fault, or of the load, until all was handled and committed.
    pub drained: Duration,
}

/// Runs a round below that folder. With a finding, logs and evidence are kept there.
pub async fn run(plan: &Plan, broker: BrokerKind, folder: &Path) -> Result<Round> {
    let flaw = |fault, flaw| plan.has(fault).then_some(flaw);
    let config = SystemConfig {
        audits: if plan.has(Fault::PauseAudit) || plan.has(Fault::HangAudit) { 2 } else { 1 },
        audit_disk: flaw(Fault::FullAudit, Flaw::Full)
            .or(flaw(Fault::EioAudit, Flaw::Failing))
            .or(flaw(Fault::HangAudit, Flaw::Hanging)),
        store_disk: flaw(Fault::FullStore, Flaw::Full).or(flaw(Fault::EioStore, Flaw::Failing)),
        state_disk: flaw(Fault::EioState, Flaw::Failing),
        stepped_clock: plan.has(Fault::ClockBack) || plan.has(Fault::ClockForward),
        api_log_level: if plan.has(Fault::StallApiLog) { "debug" } else { "info" },
        ..SystemConfig::new(broker, plan.seed)
    };
    let mut system = System::start(folder, config).await?;
    let load = LoadConfig::new(&system.url, plan.connections, plan.rate, Script::Random { seed: plan.seed });
    let mut load = Load::start(load, true)?;
    faults(&mut system, plan).await?;
    let requests = load.finish().await?.requests;
    let start = Instant::now();
    let not_drained = drain(&system).await?;
    let drained = start.elapsed();
    sleep(AFTERMATH).await;
    let mut evidence = system.evidence().await?;
    evidence.requests = requests;
    evidence.not_drained = Some(not_drained);
    if plan.has(Fault::StallApiLog) {
        // Lines of the relay may have been dropped.
        evidence.relay = None;
    }
    evidence.store_failed = system.store_disk.is_some();
    evidence.clock_stepped = system.clock.is_some();
    let report = check(&evidence);
    if !report.is_sound() {
        system.write_logs(folder)?;
        evidence.write(folder)?;
    }
    Ok(Round { report, evidence, drained })
}

/// Begins and ends each fault at its time, and returns at the end of the load, when all are over.
async fn faults(system: &mut System, plan: &Plan) -> Result<()> {
    let start = Instant::now();
    let mut steps: Vec<(Duration, bool, Planned)> = Vec::new();
    for planned in &plan.faults {
        steps.push((planned.at, true, *planned));
        steps.push((planned.at + planned.lasts.max(Duration::from_millis(1)), false, *planned));
    }
    steps.sort_by_key(|(at, begins, _)| (*at, *begins));
    let mut hit = Hit::default();
    let mut others = Others::new(plan.seed);
    for (at, begins, planned) in steps {
        sleep_until(start + at).await;
        if begins {
            begin(system, planned, &mut hit)?;
            others.begin(system, planned.fault).await?;
        } else {
            let waits = is_alone(plan, planned);
            end(system, planned.fault, waits, &mut hit).await?;
            others.end(system, planned.fault).await?;
        }
    }
    system.broker.wait_until_ready().await?;
    sleep_until(start + plan.load).await;
    Ok(())
}

/// Which instance a fault hit: the owner changes meanwhile.
#[derive(Debug, Default)]
struct Hit {
    notification: Option<String>,
    audit: Option<String>,
}

fn begin(system: &mut System, planned: Planned, hit: &mut Hit) -> Result<()> {
    let network = |mode| system.proxy.set(mode, planned.percent);
    match planned.fault {
        Fault::KillApi => system.api.kill9(),
        Fault::PauseApi => system.api.pause()?,
        Fault::KillNotification => {
            hit.notification = strike(&mut system.notifications, |it| {
                it.kill9();
                Ok(())
            })?
        }
        Fault::PauseNotification => hit.notification = strike(&mut system.notifications, |it| it.pause())?,
        Fault::KillAudit => {
            hit.audit = strike(&mut system.audits, |it| {
                it.kill9();
                Ok(())
            })?;
            system.snapshot()?;
        }
        Fault::PauseAudit => hit.audit = strike(&mut system.audits, |it| it.pause())?,
        Fault::KillDlq => system.dlq.service.kill9(),
        Fault::KillBroker => system.broker.kill9(),
        Fault::PauseBroker => system.broker.pause()?,
        Fault::NetDelay => network(Mode::Delay(Duration::from_millis(150))),
        Fault::NetStall => network(Mode::Stall),
        Fault::NetCut => network(Mode::Cut),
        Fault::NetHalfOpen => network(Mode::HalfOpen),
        Fault::NetTrickle => network(Mode::Trickle),
        Fault::NetDropReplies => network(Mode::DropReplies),
        Fault::FullAudit | Fault::EioAudit => {
            system.audit_disk.as_ref().map_or(Ok(()), Disk::hurt)?;
        }
        Fault::HangAudit => {
            hit.audit = strike(&mut system.audits, |_| Ok(()))?;
            system.audit_disk.as_ref().map_or(Ok(()), Disk::hurt)?;
        }
        Fault::FullStore | Fault::EioStore => system.store_disk.as_ref().map_or(Ok(()), Disk::hurt)?,
        Fault::EioState => system.state_disk.as_ref().map_or(Ok(()), Disk::hurt)?,
        Fault::ClockBack => system.clock.as_ref().map_or(Ok(()), |clock| clock.set(-STEP))?,
        Fault::ClockForward => system.clock.as_ref().map_or(Ok(()), |clock| clock.set(STEP))?,
        Fault::StallApiLog => system.api.stop_reading(),
        Fault::StallNotificationLog => {
            hit.notification = strike(&mut system.notifications, |it| {
                it.stop_reading();
                Ok(())
            })?;
        }
        Fault::ForeignTransaction
        | Fault::ForeignBatches
        | Fault::RecreateTopic
        | Fault::RestoreAudit
        | Fault::RotateAudit => {}
    }
    Ok(())
}

async fn end(system: &mut System, fault: Fault, waits: bool, hit: &mut Hit) -> Result<()> {
    match fault {
        Fault::KillApi => {
            system.api.restart()?;
            system.api.url().await?;
        }
        Fault::PauseApi => system.api.resume()?,
        Fault::KillNotification => {
            heal(&mut system.notifications, hit.notification.take(), |it| it.restart())?
        }
        Fault::PauseNotification => {
            is_taken_over(&mut system.notifications, hit.notification.as_deref(), waits).await;
            heal(&mut system.notifications, hit.notification.take(), |it| it.resume())?
        }
        Fault::KillAudit => heal(&mut system.audits, hit.audit.take(), |it| it.restart())?,
        Fault::PauseAudit => {
            is_taken_over(&mut system.audits, hit.audit.as_deref(), waits).await;
            heal(&mut system.audits, hit.audit.take(), |it| it.resume())?
        }
        Fault::KillDlq => system.dlq.service.restart()?,
        // The network may be down still: it is waited for when all faults are over.
        Fault::KillBroker => system.broker.start_again()?,
        Fault::PauseBroker => system.broker.resume()?,
        Fault::NetDelay
        | Fault::NetStall
        | Fault::NetCut
        | Fault::NetHalfOpen
        | Fault::NetTrickle
        | Fault::NetDropReplies => {
            system.proxy.set(Mode::Pass, 100);
        }
        Fault::FullAudit | Fault::EioAudit | Fault::HangAudit => {
            if fault == Fault::HangAudit && system.audit_disk.is_some() {
                is_taken_over(&mut system.audits, hit.audit.take().as_deref(), waits).await;
            }
            system.audit_disk.as_ref().map_or(Ok(()), Disk::mend)?;
            supervise(&mut system.audits)?;
        }
        Fault::FullStore | Fault::EioStore => system.store_disk.as_ref().map_or(Ok(()), Disk::mend)?,
        Fault::EioState => {
            system.state_disk.as_ref().map_or(Ok(()), Disk::mend)?;
            supervise(&mut system.notifications)?;
        }
        Fault::ClockBack | Fault::ClockForward => {
            system.clock.as_ref().map_or(Ok(()), |clock| clock.set(0))?
        }
        Fault::StallApiLog => system.api.read_on(),
        Fault::StallNotificationLog => {
            heal(&mut system.notifications, hit.notification.take(), |it| {
                it.read_on();
                Ok(())
            })?;
        }
        Fault::ForeignTransaction
        | Fault::ForeignBatches
        | Fault::RecreateTopic
        | Fault::RestoreAudit
        | Fault::RotateAudit => {}
    }
    Ok(())
}

/// Hits the instance that owns, and returns its name.
fn strike(
    consumers: &mut [Consumer],
    how: impl FnOnce(&mut Service) -> Result<()>,
) -> Result<Option<String>> {
    let Some(consumer) = owner(consumers) else { return Ok(None) };
    how(&mut consumer.service)?;
    Ok(Some(consumer.name.clone()))
}

/// Whether no other fault is there at the same time: it could keep any other instance from taking over, and those behind
/// it would wait for that.
fn is_alone(plan: &Plan, planned: Planned) -> bool {
    let end = |one: &Planned| one.at + one.lasts;
    let meets = |other: &&Planned| other.at <= end(&planned) && planned.at <= end(other);
    plan.faults.iter().filter(meets).count() == 1
}

/// Returns when another instance owns than the one that was hit, where that is waited for.
async fn is_taken_over(consumers: &mut [Consumer], hit: Option<&str>, waits: bool) {
    if !waits {
        return;
    }
    let is_another = async || owner(consumers).is_some_and(|owner| Some(owner.name.as_str()) != hit);
    let _ = until("another owner", TAKE_OVER_LIMIT, is_another).await;
}

fn heal(
    consumers: &mut [Consumer],
    name: Option<String>,
    how: impl FnOnce(&mut Service) -> Result<()>,
) -> Result<()> {
    let consumer = consumers.iter_mut().find(|consumer| Some(&consumer.name) == name.as_ref());
    consumer.map_or(Ok(()), |consumer| how(&mut consumer.service))
}

/// Starts again what ended because it found a bad disk at its start, as a supervisor does.
fn supervise(consumers: &mut [Consumer]) -> Result<()> {
    for consumer in consumers {
        if consumer.service.has_ended()? {
            consumer.service.restart()?;
        }
    }
    Ok(())
}

/// Waits until the outbox is empty and both groups have committed the topic's end. Returns what is left
/// undone when time is up.
async fn drain(system: &System) -> Result<Vec<String>> {
    let start = Instant::now();
    let http = harness::http()?;
    let bootstrap = system.broker.bootstrap();
    loop {
        let mut left = Vec::new();
        match api::waiting(&http, &system.url).await {
            Some(0) => {
                let end = harness::read_topic(&bootstrap, harness::EVENTS).await?;
                let mut end = end.last().map_or(0, |last| last.offset + 1);
                let mut offsets = system::read_offsets(&bootstrap, harness::EVENTS, harness::OFFSETS).await?;
                if let Some(first_life) = &system.first_life {
                    first_life.move_commits(&mut offsets);
                    end += first_life.end();
                }
                let groups = harness::GROUPS;
                left.extend(groups.iter().filter_map(|group| system::behind(&offsets, group, end)));
            }
            Some(waiting) => left.push(format!("{waiting} events wait in the outbox")),
            None => left.push("the API does not answer, or is not ready".to_owned()),
        }
        if left.is_empty() || start.elapsed() > DRAIN_LIMIT {
            return Ok(left);
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// A folder for a round, empty.
pub fn folder_for(root: &Path, seed: u64) -> Result<PathBuf> {
    let folder = root.join(format!("round-{seed}"));
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(|error| harness::Error::file(&folder, error))?;
    }
    std::fs::create_dir_all(&folder).map_err(|error| harness::Error::file(&folder, error))?;
    Ok(folder)
}
