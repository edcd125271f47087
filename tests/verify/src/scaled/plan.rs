//! What a round of the scaled system does, and when: from a seed alone. Whom it hits depends on who publishes and owns then.

use std::time::Duration;

use clap::ValueEnum;
use harness::Dice;

use super::group::Group;

/// Shorter than most pauses: what a paused replica has in flight is asked for again, under its key, of another one.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// A fault of the scaled system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScaledFault {
    /// kill -9 of a replica of the API
    KillApi,
    /// A pause of a replica of the API
    PauseApi,
    /// A replica of the API ends in order, and is started again
    StopApi,
    /// kill -9 of the replica that publishes
    KillRelay,
    /// A pause of the replica that publishes, beyond its lease
    PauseRelay,
    /// The replica that publishes ends in order, and is started again
    StopRelay,
    /// kill -9 of a notification service that owns partitions
    KillNotification,
    /// A pause of one, beyond its lease
    PauseNotification,
    /// kill -9 of an audit service that owns partitions
    KillAudit,
    /// A pause of one, beyond its lease
    PauseAudit,
    /// kill -9 of the DLQ processor that owns the partition
    KillDlq,
    /// A pause of one, beyond a lease
    PauseDlq,
    /// PostgreSQL ends at once, and recovers
    CrashDatabase,
    /// PostgreSQL does not answer, as if it was paused
    StallDatabase,
    /// Connections to PostgreSQL break, and new ones at once
    CutDatabase,
    /// kill -9 of the broker
    KillBroker,
    /// A pause of the broker
    PauseBroker,
    /// One more notification service
    JoinNotification,
    /// One more audit service
    JoinAudit,
    /// A notification service ends in order, and is started again
    LeaveNotification,
    /// An audit service ends in order, and is started again
    LeaveAudit,
}

/// Whom a fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Any replica of the API.
    Api,
    /// The one that publishes.
    Relay,
    /// An instance of a group that owns.
    Owner(Group),
    /// An instance of a group, or a new one.
    Member(Group),
    /// PostgreSQL.
    Database,
    /// Kafka.
    Broker,
}

/// What is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It dies, and is started again.
    Kill,
    /// It does nothing for a while.
    Pause,
    /// Its connections break.
    Cut,
    /// It joins.
    Join,
    /// It ends in order, and is started again.
    Leave,
}

impl ScaledFault {
    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// What it does, to whom.
    pub fn parts(self) -> (Action, Target) {
        match self {
            Self::KillApi => (Action::Kill, Target::Api),
            Self::PauseApi => (Action::Pause, Target::Api),
            Self::StopApi => (Action::Leave, Target::Api),
            Self::KillRelay => (Action::Kill, Target::Relay),
            Self::PauseRelay => (Action::Pause, Target::Relay),
            Self::StopRelay => (Action::Leave, Target::Relay),
            Self::KillNotification => (Action::Kill, Target::Owner(Group::Notification)),
            Self::PauseNotification => (Action::Pause, Target::Owner(Group::Notification)),
            Self::KillAudit => (Action::Kill, Target::Owner(Group::Audit)),
            Self::PauseAudit => (Action::Pause, Target::Owner(Group::Audit)),
            Self::KillDlq => (Action::Kill, Target::Owner(Group::Dlq)),
            Self::PauseDlq => (Action::Pause, Target::Owner(Group::Dlq)),
            Self::CrashDatabase => (Action::Kill, Target::Database),
            Self::StallDatabase => (Action::Pause, Target::Database),
            Self::CutDatabase => (Action::Cut, Target::Database),
            Self::KillBroker => (Action::Kill, Target::Broker),
            Self::PauseBroker => (Action::Pause, Target::Broker),
            Self::JoinNotification => (Action::Join, Target::Member(Group::Notification)),
            Self::JoinAudit => (Action::Join, Target::Member(Group::Audit)),
            Self::LeaveNotification => (Action::Leave, Target::Member(Group::Notification)),
            Self::LeaveAudit => (Action::Leave, Target::Member(Group::Audit)),
        }
    }

    /// How long it lasts, in milliseconds. A pause of the relay outlasts the 6 s of its turn, one of an owner its lease.
    fn lasts(self, dice: &mut Dice) -> u64 {
        match self.parts() {
            (Action::Pause, Target::Relay) => dice.between(6_500, 9_000),
            (Action::Pause, Target::Owner(_)) => dice.between(3_000, 6_000),
            (Action::Pause, Target::Broker) => dice.between(500, 5_000),
            (Action::Pause, _) => dice.between(500, 4_000),
            (Action::Kill, Target::Relay | Target::Owner(_)) => dice.between(0, 8_000),
            (Action::Kill | Action::Leave, _) => dice.between(0, 3_000),
            (Action::Cut, _) => dice.between(300, 2_000),
            (Action::Join, _) => 0,
        }
    }
}

/// A fault at its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScaledPlanned {
    /// What.
    pub fault: ScaledFault,
    /// When, from the start of the load.
    pub at: Duration,
    /// How long.
    pub lasts: Duration,
}

/// What a round does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScaledPlan {
    /// Names the round, and gives the chances within it.
    pub seed: u64,
    /// How long the load lasts.
    pub load: Duration,
    /// Clients, spread over the replicas.
    pub connections: usize,
    /// Requests a second, all together; none for as many as are answered.
    pub rate: Option<u32>,
    /// How long a client waits for an answer before it asks the next replica.
    pub answer_limit: Duration,
    /// How much longer than promised the place of a process that was killed or paused may be nobody's.
    pub margin: Duration,
    /// The same of one that stopped in order.
    pub stop_margin: Duration,
    /// By their time.
    pub faults: Vec<ScaledPlanned>,
}

impl ScaledPlan {
    /// The plan of a seed: three to five of the faults, no two of the same target, at random moments.
    pub fn of(
        seed: u64,
        faults: &[ScaledFault],
        load: Duration,
        rate: Option<u32>,
        [margin, stop_margin]: [Duration; 2],
    ) -> Self {
        let mut dice = Dice::new(seed);
        let connections = usize::try_from(dice.between(12, 48)).unwrap_or(12);
        let chosen_rate = dice.pick(&[200, 400, 800]).copied();
        let load_ms = u64::try_from(load.as_millis()).unwrap_or(u64::MAX);
        let mut planned: Vec<ScaledPlanned> = Vec::new();
        for _ in 0..dice.between(3, 5) {
            let Some(fault) = dice.pick(faults).copied() else { break };
            // Drawn even if it is not used, so that a plan depends on nothing but its seed.
            let (at, lasts) = (dice.between(0, load_ms * 7 / 10), fault.lasts(&mut dice));
            if planned.iter().all(|other| other.fault.parts().1 != fault.parts().1) {
                let (at, lasts) = (Duration::from_millis(at), Duration::from_millis(lasts));
                planned.push(ScaledPlanned { fault, at, lasts });
            }
        }
        planned.sort_by_key(|planned| planned.at);
        let rate = rate.or(chosen_rate).filter(|rate| *rate > 0);
        Self {
            seed,
            load,
            connections,
            rate,
            answer_limit: ANSWER_LIMIT,
            margin,
            stop_margin,
            faults: planned,
        }
    }

    /// The faults in words.
    pub fn describe(&self) -> String {
        let faults = self.faults.iter().map(|planned| {
            let (at, lasts) = (planned.at.as_secs_f32(), planned.lasts.as_secs_f32());
            format!("{} at {at:.1} s for {lasts:.1} s", planned.fault.name())
        });
        let faults: Vec<_> = faults.collect();
        if faults.is_empty() { "no fault".to_owned() } else { faults.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_its_seeds_and_every_fault_comes_up() {
        let all = ScaledFault::value_variants();
        let plan =
            |seed| ScaledPlan::of(seed, all, Duration::from_secs(10), None, [Duration::from_secs(5); 2]);
        assert_eq!(plan(7), plan(7));
        let plans: Vec<_> = (1..=100).map(plan).collect();
        for fault in all {
            let planned = |plan: &ScaledPlan| plan.faults.iter().any(|planned| planned.fault == *fault);
            assert!(plans.iter().any(planned), "{fault:?}");
        }
        for plan in plans {
            assert!((1..=5).contains(&plan.faults.len()) && plan.faults.is_sorted_by_key(|one| one.at));
        }
    }
}
