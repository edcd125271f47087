//! What a round does, chosen by its seed alone.

use std::time::Duration;

use clap::ValueEnum;

use harness::Dice;

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum Fault {
    /// kill -9 of the API, and a start after a while
    KillApi,
    /// kill -9 of the notification instance that owns the topic
    KillNotification,
    /// kill -9 of the audit service
    KillAudit,
    /// kill -9 of the DLQ processor
    KillDlq,
    /// kill -9 of the broker
    KillBroker,
    /// The API is paused (SIGSTOP)
    PauseApi,
    /// The notification instance that owns is paused past its lease
    PauseNotification,
    /// The audit instance that owns is paused past its lease; another waits, with a log of its own
    PauseAudit,
    /// The broker is paused
    PauseBroker,
    /// Everything between services and broker comes late
    NetDelay,
    /// Nothing comes through for a while, and then all of it, also what its sender has given up
    NetStall,
    /// Connections to the broker break, and new ones are refused
    NetCut,
    /// Connections to the broker fall silent, and stay so
    NetHalfOpen,
    /// A few bytes at a time
    NetTrickle,
    /// The broker gets every request, and its replies are lost
    NetDropReplies,
    /// No free space for the audit log (needs root, for a file system of its own)
    FullAudit,
    /// No free space for the API's store (needs root)
    FullStore,
    /// The disk of the audit log fails: nothing reaches it, and each sync fails (needs root)
    EioAudit,
    /// The disk of the API's store fails (needs root)
    EioStore,
    /// The disk of the notification services' state fails (needs root)
    EioState,
    /// The wall clock of all services is two hours slow for a while (needs libfaketime)
    ClockBack,
    /// The wall clock of all services is two hours fast for a while (needs libfaketime)
    ClockForward,
    /// Another producer keeps a transaction open in the topic of events, then commits or aborts it
    ForeignTransaction,
    /// Others write what this system never writes, to the topic of events and to the offsets topic
    ForeignBatches,
    /// The topic of events is deleted, and created again after a while
    RecreateTopic,
    /// The audit log, and by chance the state beside it, is restored from a backup
    RestoreAudit,
    /// The audit log is rotated by SIGHUP or renamed, or truncated
    RotateAudit,
    /// The disk of the audit log hangs; another instance waits, with a log of its own (needs root)
    HangAudit,
    /// Nobody reads the API's log for a while
    StallApiLog,
    /// Nobody reads the output of the notification instance that owns for a while
    StallNotificationLog,
}

/// What a fault hits. Faults of one round hit different things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Api,
    Notification,
    Audit,
    AuditDisk,
    Dlq,
    Broker,
    Network,
    Store,
    Clock,
    Topic,
}

impl Fault {
    /// Whether it needs a file system of its own, and so root.
    pub fn needs_root(self) -> bool {
        matches!(
            self,
            Self::FullAudit
                | Self::FullStore
                | Self::EioAudit
                | Self::EioStore
                | Self::EioState
                | Self::HangAudit
        )
    }

    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// A service that starts on a disk that fails ends at once: so where a disk fails, its service is not
    /// killed. Other producers and administrators of these rounds are no heroes: they need a broker. Where the
    /// topic is deleted, what it held is known only while the API writes nothing; and what an audit log held
    /// when it was killed is known by its offsets, which then begin again.
    fn targets(self) -> &'static [Target] {
        match self {
            Self::KillApi | Self::PauseApi => &[Target::Api],
            Self::KillNotification | Self::PauseNotification | Self::EioState => &[Target::Notification],
            Self::KillAudit | Self::PauseAudit => &[Target::Audit],
            Self::FullAudit => &[Target::AuditDisk],
            Self::EioAudit => &[Target::Audit, Target::AuditDisk],
            Self::KillDlq => &[Target::Dlq],
            Self::KillBroker | Self::PauseBroker => &[Target::Broker],
            Self::NetDelay
            | Self::NetStall
            | Self::NetCut
            | Self::NetHalfOpen
            | Self::NetTrickle
            | Self::NetDropReplies => &[Target::Network],
            Self::FullStore => &[Target::Store],
            Self::EioStore => &[Target::Api, Target::Store],
            Self::ClockBack | Self::ClockForward => &[Target::Clock],
            Self::ForeignTransaction | Self::ForeignBatches => {
                &[Target::Topic, Target::Broker, Target::Network]
            }
            Self::RecreateTopic => {
                &[Target::Topic, Target::Broker, Target::Network, Target::Api, Target::Store, Target::Audit]
            }
            Self::RestoreAudit | Self::RotateAudit | Self::HangAudit => &[Target::Audit, Target::AuditDisk],
            Self::StallApiLog => &[Target::Api],
            Self::StallNotificationLog => &[Target::Notification],
        }
    }

    fn hits(self, target: Target) -> bool {
        self.targets().contains(&target)
    }

    /// How long it lasts, in milliseconds. Pauses of owners outlast their lease of 2 s.
    fn lasts(self, dice: &mut Dice) -> u64 {
        match self {
            Self::KillApi | Self::KillNotification | Self::KillAudit | Self::KillDlq => {
                dice.between(0, 2_500)
            }
            Self::KillBroker => dice.between(0, 3_000),
            Self::PauseNotification | Self::PauseAudit => dice.between(3_000, 6_000),
            Self::PauseApi => dice.between(500, 3_000),
            // Beyond the time-out of a produce, 10 s, it may come in after it was given up.
            Self::PauseBroker | Self::NetStall => dice.between(500, 14_000),
            Self::NetDelay | Self::NetCut | Self::NetHalfOpen | Self::NetTrickle | Self::NetDropReplies => {
                dice.between(300, 4_000)
            }
            Self::FullAudit | Self::FullStore | Self::EioAudit | Self::EioStore | Self::EioState => {
                dice.between(500, 3_000)
            }
            Self::ClockBack | Self::ClockForward => dice.between(500, 4_000),
            Self::ForeignTransaction | Self::ForeignBatches => dice.between(500, 5_000),
            Self::RecreateTopic => dice.between(0, 3_000),
            Self::RestoreAudit => dice.between(1_000, 4_000),
            Self::RotateAudit => 0,
            // Beyond two leases.
            Self::HangAudit => dice.between(4_500, 8_000),
            Self::StallApiLog | Self::StallNotificationLog => dice.between(2_000, 6_000),
        }
    }
}

/// A fault at its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// What.
    pub fault: Fault,
    /// When, from the start of the load.
    pub at: Duration,
    /// How long.
    pub lasts: Duration,
    /// Network faults hit each connection with this probability, in percent.
    pub percent: u64,
}

/// What a round does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Names the round, and gives the chances within it.
    pub seed: u64,
    /// How long the load lasts.
    pub load: Duration,
    /// Connections to the API.
    pub connections: usize,
    /// Requests a second, all connections together; none for as many as the API answers.
    pub rate: Option<u32>,
    /// By their time.
    pub faults: Vec<Planned>,
}

impl Plan {
    /// The plan of a seed: up to four of the faults, at random moments.
    pub fn of(seed: u64, faults: &[Fault], load: Duration, rate: Option<u32>) -> Self {
        let mut dice = Dice::new(seed);
        let connections = usize::try_from(dice.between(16, 64)).unwrap_or(16);
        let chosen_rate = dice.pick(&[300, 600, 1_200, 0]).copied();
        let load_ms = u64::try_from(load.as_millis()).unwrap_or(u64::MAX);
        let mut planned: Vec<Planned> = Vec::new();
        for _ in 0..dice.between(2, 4) {
            let Some(fault) = dice.pick(faults).copied() else { break };
            // Drawn even if it is not used, so that a plan depends on nothing but its seed.
            let (at, lasts) = (dice.between(0, load_ms * 7 / 10), fault.lasts(&mut dice));
            let percent = if dice.percent(50) { 100 } else { 50 };
            if planned.iter().all(|other| !fault.targets().iter().any(|target| other.fault.hits(*target))) {
                let (at, lasts) = (Duration::from_millis(at), Duration::from_millis(lasts));
                planned.push(Planned { fault, at, lasts, percent });
            }
        }
        planned.sort_by_key(|planned| planned.at);
        Self { seed, load, connections, rate: rate.or(chosen_rate).filter(|rate| *rate > 0), faults: planned }
    }

    /// The faults in words.
    pub fn describe(&self) -> String {
        let faults = self.faults.iter().map(|planned| {
            let part = if planned.fault.hits(Target::Network) && planned.percent < 100 {
                format!(" on {} % of the connections", planned.percent)
            } else {
                String::new()
            };
            let (at, lasts) = (planned.at.as_secs_f32(), planned.lasts.as_secs_f32());
            format!("{} at {at:.1} s for {lasts:.1} s{part}", planned.fault.name())
        });
        let faults: Vec<_> = faults.collect();
        if faults.is_empty() { "no fault".to_owned() } else { faults.join(", ") }
    }

    /// Whether one of the faults is planned.
    pub fn has(&self, fault: Fault) -> bool {
        self.faults.iter().any(|planned| planned.fault == fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_its_seeds_and_every_fault_comes_up() {
        let plan = |seed| Plan::of(seed, Fault::value_variants(), Duration::from_secs(10), None);
        assert_eq!(plan(7), plan(7));
        let plans: Vec<_> = (1..=100).map(plan).collect();
        for fault in Fault::value_variants() {
            assert!(plans.iter().any(|plan| plan.has(*fault)), "{fault:?}");
        }
        for plan in plans {
            assert!((1..=4).contains(&plan.faults.len()) && (16..=64).contains(&plan.connections));
            assert!(plan.faults.iter().all(|planned| planned.at <= Duration::from_secs(7)));
            assert!(plan.faults.is_sorted_by_key(|planned| planned.at));
        }
    }
}
