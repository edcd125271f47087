//! Begins and ends the faults of a plan, and records what was hurt when.

use std::time::Duration;

use harness::requests::{Micros, now};
use harness::{Dice, Mode, Result, Service};
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep, sleep_until};

use super::evidence::{End, Holder, Hurt, Manner, Part, Strike};
use super::group::Group;
use super::plan::{Action, ScaledFault, ScaledPlan, ScaledPlanned, Target};
use super::shares::owners;
use super::system::{LISTENS, REPLICAS, Scaled};

/// For an instance in order to end; the contract has 5 s, and the machine is busy.
const END_LIMIT: Duration = Duration::from_secs(30);

/// For a replica to listen that was restarted; it connects to PostgreSQL first.
const START_LIMIT: Duration = Duration::from_secs(60);

/// For another replica to publish: its turn's lease, on a busy machine.
const RELAY_LIMIT: Duration = Duration::from_secs(30);

/// What was done, to whom.
#[derive(Debug, Default)]
pub(super) struct FaultLog {
    pub(super) hurts: Vec<Hurt>,
    pub(super) ends: Vec<End>,
    pub(super) strikes: Vec<Strike>,
    /// What could not be done, or did not come back.
    pub(super) troubles: Vec<String>,
}

impl FaultLog {
    /// The pause is over.
    fn resumed(&mut self, holder: &Holder) {
        let is_paused = |end: &&mut End| end.holder == *holder && end.manner == Manner::Paused(Micros::MAX);
        if let Some(end) = self.ends.iter_mut().find(is_paused) {
            end.manner = Manner::Paused(now());
        }
    }
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
pub(super) async fn run(system: &mut Scaled, plan: &ScaledPlan) -> FaultLog {
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
        let done = if begins {
            faults.begin(system, planned.fault).await
        } else {
            faults.end(system, planned.fault).await
        };
        if let Err(error) = done {
            faults.log.troubles.push(format!("{}: {error}", planned.fault.name()));
        }
    }
    if let Err(error) = faults.recovered(system).await {
        faults.log.troubles.push(error.to_string());
    }
    sleep_until(start + plan.load).await;
    faults.log
}

struct Faults {
    dice: Dice,
    hits: Vec<Hit>,
    log: FaultLog,
}

impl Faults {
    async fn begin(&mut self, system: &mut Scaled, fault: ScaledFault) -> Result<()> {
        let (action, target) = fault.parts();
        if target == Target::Relay {
            self.relay_exists(system).await;
        }
        let from = now();
        let strike = |whom| Strike { fault: fault.name(), at: from, whom };
        let whom = match target {
            Target::Api | Target::Relay => {
                let Some(number) = self.replica(system, target) else {
                    self.log.strikes.push(strike(None));
                    return Ok(());
                };
                let Some(replica) = system.replicas.get_mut(number) else { return Ok(()) };
                self.log.strikes.push(strike(Some(format!("replica {}", number + 1))));
                let manner = end(&mut replica.service, action).await?;
                self.end_of(Holder::Replica(number), manner, from);
                Whom::Replica(number)
            }
            Target::Owner(group) | Target::Member(group) if action == Action::Join => {
                let name = system.join(group)?;
                self.log.strikes.push(strike(Some(name)));
                return Ok(());
            }
            Target::Owner(group) | Target::Member(group) => {
                let Some(place) = self.instance(system, group) else {
                    self.log.strikes.push(strike(None));
                    return Ok(());
                };
                self.log.strikes.push(strike(system.instances.get(place).map(|one| one.name.clone())));
                self.strike(system, place, action).await?;
                Whom::Instance(place)
            }
            Target::Database => {
                self.log.strikes.push(strike(Some("PostgreSQL".to_owned())));
                match action {
                    Action::Kill => block_in_place(|| system.postgres.crash())?,
                    Action::Cut => system.database.set(Mode::Cut, 100),
                    _ => system.database.set(Mode::Stall, 100),
                }
                Whom::Database
            }
            Target::Broker => {
                self.log.strikes.push(strike(Some("the broker".to_owned())));
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
                        self.log.resumed(&Holder::Replica(number));
                        replica.service.resume()?;
                    } else {
                        // That it listens is waited for at the end: it may need what another fault has.
                        replica.service.restart()?;
                    }
                }
                // Other faults go on meanwhile, also of what it needs: that it answers is waited for at the end.
                Some(match action {
                    Action::Pause => Part::Paused(number),
                    Action::Leave => Part::Stopped(number),
                    _ => Part::Down(number),
                })
            }
            Whom::Instance(number) => {
                let Some(instance) = system.instances.get_mut(number) else { return Ok(()) };
                instance.hurt = false;
                if action == Action::Pause {
                    let (group, id) = (instance.group, instance.instance_id().unwrap_or_default());
                    self.log.resumed(&Holder::Instance { group, id });
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

    /// Waits until all that was restarted serves again, and records since when it does.
    async fn recovered(&mut self, system: &mut Scaled) -> Result<()> {
        system.broker.wait_until_ready().await?;
        system.offsets.read().await?;
        for (number, replica) in system.replicas.iter_mut().enumerate() {
            let listens = replica.service.wait_for_line(LISTENS, START_LIMIT).await;
            self.log.troubles.extend(listens.err().map(|error| format!("replica {}: {error}", number + 1)));
        }
        for hurt in &mut self.log.hurts {
            let until = match hurt.part {
                Part::Broker => system.offsets.served_after(hurt.until),
                Part::Down(number) | Part::Stopped(number) => {
                    system.replicas.get(number).and_then(|replica| replica.listened_after(hurt.from))
                }
                Part::Paused(_) | Part::Instance(_) | Part::Database => Some(hurt.until),
            };
            hurt.until = until.unwrap_or_else(now);
        }
        Ok(())
    }

    /// Records an end. `asked`: before it was done; what was killed or paused did something until it was.
    fn end_of(&mut self, holder: Holder, manner: Manner, asked: Micros) {
        let at = if matches!(manner, Manner::Stopped(_)) { asked } else { now() };
        self.log.ends.push(End { holder, manner, at });
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

    /// One that answers, and that nothing has hurt yet.
    fn replica(&mut self, system: &Scaled, target: Target) -> Option<usize> {
        let is_hurt = |number: &usize| {
            self.hits.iter().any(|hit| matches!(hit.whom, Whom::Replica(hurt) if hurt == *number))
        };
        let listens = |number: &usize| {
            system.replicas.get(*number).is_some_and(|replica| replica.service.count(LISTENS) > 0)
        };
        let well: Vec<usize> = (0..REPLICAS).filter(|number| !is_hurt(number) && listens(number)).collect();
        match target {
            Target::Relay => system.publishing().filter(|number| well.contains(number)),
            _ => self.dice.pick(&well).copied(),
        }
    }

    /// An instance that owns something, as far as was read.
    fn instance(&mut self, system: &Scaled, group: Group) -> Option<usize> {
        let owners = owners(&system.offsets.known(), group);
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
        let manner = end(&mut instance.service, action).await?;
        if let Some(id) = id {
            self.end_of(Holder::Instance { group, id }, manner, asked);
        }
        if group == Group::Audit && manner == Manner::Killed { system.snapshot() } else { Ok(()) }
    }
}

/// Does it to a process. Until when a pause lasts is known only at its end.
async fn end(service: &mut Service, action: Action) -> Result<Manner> {
    match action {
        Action::Pause => service.pause().map(|()| Manner::Paused(Micros::MAX)),
        Action::Leave => Ok(Manner::Stopped(service.terminate(END_LIMIT).await?.code())),
        _ => {
            service.kill9();
            Ok(Manner::Killed)
        }
    }
}
