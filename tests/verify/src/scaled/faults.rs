//! Begins and ends the faults of a plan, and records what was hurt when.

use std::collections::BTreeMap;
use std::time::Duration;

use harness::requests::{Micros, now};
use harness::{Dice, Mode, Result};
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep_until};

use super::evidence::{Death, Hurt, Part};
use super::plan::{Action, ScaledFault, ScaledPlan, ScaledPlanned, Target};
use super::system::{Group, REPLICAS, Scaled};
use crate::evidence::OffsetsSaid;

/// For an instance in order to end; the contract has 5 s, and the machine is busy.
const END_LIMIT: Duration = Duration::from_secs(30);

/// What was done, to whom.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) hurts: Vec<Hurt>,
    pub(super) deaths: Vec<Death>,
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
pub(super) async fn run(system: &mut Scaled, plan: &ScaledPlan) -> Result<Done> {
    let start = Instant::now();
    let mut steps: Vec<(Duration, bool, ScaledPlanned)> = Vec::new();
    for planned in &plan.faults {
        steps.push((planned.at, true, *planned));
        steps.push((planned.at + planned.lasts.max(Duration::from_millis(1)), false, *planned));
    }
    steps.sort_by_key(|(at, begins, _)| (*at, *begins));
    let mut faults = Faults { dice: Dice::new(plan.seed), hits: Vec::new(), done: Done::default() };
    for (at, begins, planned) in steps {
        sleep_until(start + at).await;
        if begins {
            faults.begin(system, planned.fault).await?;
        } else {
            faults.end(system, planned.fault).await?;
        }
    }
    system.broker.wait_until_ready().await?;
    let broker = faults.done.hurts.iter_mut().filter(|hurt| hurt.part == Part::Broker);
    broker.for_each(|hurt| hurt.until = now());
    sleep_until(start + plan.load).await;
    Ok(faults.done)
}

struct Faults {
    dice: Dice,
    hits: Vec<Hit>,
    done: Done,
}

impl Faults {
    async fn begin(&mut self, system: &mut Scaled, fault: ScaledFault) -> Result<()> {
        let from = now();
        let (action, target) = fault.parts();
        let whom = match target {
            Target::Api | Target::Relay => {
                let Some(number) = self.replica(system, target) else { return Ok(()) };
                let Some(replica) = system.replicas.get_mut(number) else { return Ok(()) };
                if action == Action::Kill {
                    replica.service.kill9()
                } else {
                    replica.service.pause()?
                }
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
                    if action == Action::Kill {
                        replica.service.restart()?;
                        replica.service.url().await?;
                    } else {
                        replica.service.resume()?;
                    }
                }
                Some(if action == Action::Kill { Part::Killed(number) } else { Part::Paused(number) })
            }
            Whom::Instance(number) => {
                if let Some(instance) = system.instances.get_mut(number) {
                    instance.hurt = false;
                    if action == Action::Pause {
                        instance.service.resume()?
                    } else {
                        instance.service.restart()?
                    }
                }
                None
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
        self.done.hurts.extend(part.map(|part| Hurt { part, from, until: now() }));
        Ok(())
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

    /// An instance that owns something, as far as was read; of the DLQ's group any one.
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
        let owners = well.filter(|(_, one)| group == Group::Dlq || owns(one.instance_id()));
        let owners: Vec<usize> = owners.map(|(place, _)| place).collect();
        self.dice.pick(&owners).copied()
    }

    async fn strike(&mut self, system: &mut Scaled, place: usize, action: Action) -> Result<()> {
        let Some(instance) = system.instances.get_mut(place) else { return Ok(()) };
        instance.hurt = true;
        match action {
            Action::Pause => return instance.service.pause(),
            Action::Leave => return instance.service.terminate(END_LIMIT).await.map(drop),
            _ => instance.service.kill9(),
        }
        let (group, id) = (instance.group, instance.instance_id());
        let at = now();
        if group != Group::Dlq {
            let death = |instance_id| Death { group: group.name().to_owned(), instance_id, at };
            self.done.deaths.extend(id.map(death));
        }
        if group == Group::Audit { system.snapshot() } else { Ok(()) }
    }
}
