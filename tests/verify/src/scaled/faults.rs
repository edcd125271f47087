//! Begins and ends the faults of a plan, and records what was hurt when.

use std::collections::BTreeMap;
use std::time::Duration;

use harness::requests::{Micros, now};
use harness::{Dice, Mode, Result, Service};
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep, sleep_until};

use super::evidence::{End, Holder, Hurt, Manner, Part};
use super::group::Group;
use super::plan::{Action, ScaledFault, ScaledPlan, ScaledPlanned, Target};
use super::system::{REPLICAS, Scaled};
use crate::evidence::{OffsetsSaid, micros};

/// For an instance in order to end; the contract has 5 s, and the machine is busy.
const END_LIMIT: Duration = Duration::from_secs(30);

/// For another replica to publish: its turn's lease, on a busy machine.
const RELAY_LIMIT: Duration = Duration::from_secs(30);

/// What was done, to whom.
#[derive(Debug, Default)]
pub(super) struct FaultLog {
    pub(super) hurts: Vec<Hurt>,
    pub(super) ends: Vec<End>,
}

/// Whom a fault hit, since when.
struct Hit {
    fault: ScaledFault,
    whom: Whom,
    from: Micros,
}

/// Numbers are places in the system's lists.
enum Whom {
    Replica(usize),
    Instance(usize),
    Database,
    Broker,
}

/// Runs the plan's faults, and returns at the end of the load, when all are over.
pub(super) async fn run(system: &mut Scaled, plan: &ScaledPlan) -> Result<FaultLog> {
    let start = Instant::now();
    let mut steps: Vec<(Duration, bool, ScaledPlanned)> = Vec::new();
    for planned in &plan.faults {
        steps.push((planned.at, true, *planned));
        steps.push((planned.at + planned.lasts.max(Duration::from_millis(1)), false, *planned));
    }
    steps.sort_by_key(|(at, begins, _)| (*at, *begins));
    let mut faults = Faults { dice: Dice::new(plan.seed), hits: Vec::new(), log: FaultLog::default() };
    for (at, begins, planned) in steps {
        sleep_until(start + at).await;
        if begins {
            faults.begin(system, planned.fault).await?;
        } else {
            faults.end(system, planned.fault).await?;
        }
    }
    system.broker.wait_until_ready().await?;
    for replica in &mut system.replicas {
        replica.service.url().await?;
    }
    for hurt in &mut faults.log.hurts {
        let Part::Down(number) = hurt.part else { continue };
        let history =
            system.replicas.get(number).map(|replica| replica.service.history()).unwrap_or_default();
        let listening = history.iter().filter(|line| line.contains("listening on http"));
        let mut times = listening.filter_map(|line| micros(line.split(' ').next()?));
        hurt.until = times.find(|time| *time > hurt.until).unwrap_or_else(now);
    }
    sleep_until(start + plan.load).await;
    system.offsets.read().await?;
    let broker = faults.log.hurts.iter_mut().filter(|hurt| hurt.part == Part::Broker);
    broker.for_each(|hurt| hurt.until = system.offsets.served_after(hurt.until).unwrap_or_else(now));
    Ok(faults.log)
}

struct Faults {
    dice: Dice,
    hits: Vec<Hit>,
    log: FaultLog,
}

impl Faults {
    async fn begin(&mut self, system: &mut Scaled, fault: ScaledFault) -> Result<()> {
        let from = now();
        let (action, target) = fault.parts();
        let whom = match target {
            Target::Api | Target::Relay => {
                if target == Target::Relay {
                    self.relay_exists(system).await;
                }
                let Some(number) = self.replica(system, target) else { return Ok(()) };
                let Some(replica) = system.replicas.get_mut(number) else { return Ok(()) };
                let manner = end(&mut replica.service, action).await?;
                let holder = Holder::Replica(number);
                self.log.ends.extend(manner.map(|manner| End { holder, manner, at: from }));
                Whom::Replica(number)
            }
            Target::Owner(group) | Target::Member(group) if action == Action::Join => {
                system.join(group)?;
                return Ok(());
            }
            Target::Owner(group) | Target::Member(group) => {
                let Some(place) = self.instance(system, group) else { return Ok(()) };
                self.strike(system, place, action).await?;
                Whom::Instance(place)
            }
            Target::Database => {
                match action {
                    Action::Kill => block_in_place(|| system.postgres.crash())?,
                    Action::Cut => system.database.set(Mode::Cut, 100),
                    _ => system.database.set(Mode::Stall, 100),
                }
                Whom::Database
            }
            Target::Broker => {
                if action == Action::Kill {
                    system.broker.kill9()
                } else {
                    system.broker.pause()?
                }
                Whom::Broker
            }
        };
        self.hits.push(Hit { fault, whom, from });
        Ok(())
    }

    async fn end(&mut self, system: &mut Scaled, fault: ScaledFault) -> Result<()> {
        let Some(place) = self.hits.iter().position(|hit| hit.fault == fault) else { return Ok(()) };
        let Hit { whom, from, .. } = self.hits.remove(place);
        let (action, _) = fault.parts();
        let part = match whom {
            Whom::Replica(number) => {
                if let Some(replica) = system.replicas.get_mut(number) {
                    if action == Action::Pause {
                        replica.service.resume()?;
                    } else {
                        // That it listens is waited for at the end: it may need what another fault has.
                        replica.service.restart()?;
                    }
                }
                Some(if action == Action::Pause { Part::Paused(number) } else { Part::Down(number) })
            }
            Whom::Instance(number) => {
                let Some(instance) = system.instances.get_mut(number) else { return Ok(()) };
                instance.hurt = false;
                if action == Action::Pause {
                    instance.service.resume()?
                } else {
                    instance.service.restart()?
                }
                Some(Part::Instance(instance.group)).filter(|_| action != Action::Leave)
            }
            Whom::Database => {
                match action {
                    Action::Kill => block_in_place(|| system.postgres.start_again())?,
                    _ => system.database.set(Mode::Pass, 100),
                }
                Some(Part::Database)
            }
            Whom::Broker => {
                // Other faults go on meanwhile: that it is ready again is waited for at the end.
                if action == Action::Kill {
                    system.broker.start_again()?
                } else {
                    system.broker.resume()?
                }
                Some(Part::Broker)
            }
        };
        self.log.hurts.extend(part.map(|part| Hurt { part, from, until: now() }));
        Ok(())
    }

    /// Waits until a replica publishes, where one can.
    async fn relay_exists(&self, system: &Scaled) {
        let is_hurt = |hit: &Hit| matches!(hit.whom, Whom::Database);
        let start = Instant::now();
        while system.publishing().is_none() && !self.hits.iter().any(is_hurt) && start.elapsed() < RELAY_LIMIT
        {
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// One that nothing has hurt yet.
    fn replica(&mut self, system: &Scaled, target: Target) -> Option<usize> {
        let is_hurt = |number: &usize| {
            self.hits.iter().any(|hit| matches!(hit.whom, Whom::Replica(hurt) if hurt == *number))
        };
        let well: Vec<usize> = (0..REPLICAS).filter(|number| !is_hurt(number)).collect();
        match target {
            Target::Relay => system.publishing().filter(|number| well.contains(number)),
            _ => self.dice.pick(&well).copied(),
        }
    }

    /// An instance that owns something, as far as was read.
    fn instance(&mut self, system: &Scaled, group: Group) -> Option<usize> {
        let mut owners: BTreeMap<usize, String> = BTreeMap::new();
        for record in system.offsets.known() {
            if record.entry.group != group.name() {
                continue;
            }
            match record.entry.said {
                OffsetsSaid::Claim { instance_id, .. } => drop(owners.insert(record.partition, instance_id)),
                OffsetsSaid::Commit { .. } if record.released => drop(owners.remove(&record.partition)),
                OffsetsSaid::Commit { .. } => {}
            }
        }
        let owns = |id: Option<String>| owners.values().any(|owner| Some(owner) == id.as_ref());
        let all = system.instances.iter().enumerate();
        let well = all.filter(|(_, one)| one.group == group && !one.hurt);
        let owners = well.filter(|(_, one)| owns(one.instance_id()));
        let owners: Vec<usize> = owners.map(|(place, _)| place).collect();
        self.dice.pick(&owners).copied()
    }

    async fn strike(&mut self, system: &mut Scaled, place: usize, action: Action) -> Result<()> {
        let Some(instance) = system.instances.get_mut(place) else { return Ok(()) };
        instance.hurt = true;
        let (group, id, asked) = (instance.group, instance.instance_id(), now());
        let Some(manner) = end(&mut instance.service, action).await? else { return Ok(()) };
        let at = if manner == Manner::Killed { now() } else { asked };
        let holder = id.map(|id| Holder::Instance { group, id });
        self.log.ends.extend(holder.map(|holder| End { holder, manner, at }));
        if group == Group::Audit && manner == Manner::Killed { system.snapshot() } else { Ok(()) }
    }
}

/// Does it to a process. `None`: it was only paused.
async fn end(service: &mut Service, action: Action) -> Result<Option<Manner>> {
    match action {
        Action::Pause => return service.pause().map(|()| None),
        Action::Leave => {
            let status = service.terminate(END_LIMIT).await?;
            return Ok(Some(Manner::Stopped(status.code())));
        }
        _ => service.kill9(),
    }
    Ok(Some(Manner::Killed))
}
