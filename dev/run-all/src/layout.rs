//! Which processes a system is made of: one of each, or with `--scaled` several that share the work.

use std::path::PathBuf;
use std::time::Duration;

use crate::args::Args;
use crate::screen::Colour;
use crate::services::{
    API, AUDIT, AUDIT_LOG, CONSUMERS, DLQ_PROCESSOR, NOTIFICATION, STATE_DIR, scaled_folder,
};

/// Partitions of the topic of events with `--scaled`: they divide evenly by the instances.
const PARTITIONS: &str = "6";
/// The API publishes what waits, for 10 s at most.
const API_STOP_LIMIT: Duration = Duration::from_secs(15);
/// A consumer stops within 5 s.
const CONSUMER_STOP_LIMIT: Duration = Duration::from_secs(8);
/// Processes with `--scaled`: their names, and programs.
const SCALED: [(&str, &str); 9] = [
    ("task-api-1", API),
    ("task-api-2", API),
    ("notification-1", NOTIFICATION),
    ("notification-2", NOTIFICATION),
    ("notification-3", NOTIFICATION),
    ("audit-1", AUDIT),
    ("audit-2", AUDIT),
    ("audit-3", AUDIT),
    (DLQ_PROCESSOR, DLQ_PROCESSOR),
];

/// A process of the system.
#[derive(Debug)]
pub struct Member {
    /// What it is called in front of its lines.
    pub name: &'static str,
    /// Its program.
    pub program: &'static str,
    /// The colour of its name.
    pub colour: Colour,
    /// What it has for itself.
    pub env: Vec<(&'static str, String)>,
    /// How long an orderly stop may take.
    pub stop_limit: Duration,
    /// Those with a lower rank are stopped before it.
    pub stop_rank: u8,
}

/// The whole system.
#[derive(Debug)]
pub struct Layout {
    /// API and consumers.
    pub members: Vec<Member>,
    /// Where the replicas of the API are.
    pub apis: Vec<String>,
    /// The audit logs, one for each audit service.
    pub audit_logs: Vec<PathBuf>,
    /// How many instances share the partitions of events.
    pub sharers: usize,
    /// What the operator's command needs to know of the topics.
    pub topic_args: &'static [&'static str],
}

impl Layout {
    /// As the arguments say.
    pub fn of(args: &Args) -> Self {
        let processes: Vec<(&'static str, &'static str)> = if args.scaled {
            SCALED.to_vec()
        } else {
            std::iter::once(API).chain(CONSUMERS).map(|program| (program, program)).collect()
        };
        let mut members = Vec::new();
        for (name, program) in &processes {
            let replica = members.iter().filter(|member: &&Member| member.program == API).count();
            let mut env = vec![("STATE_DIR", format!("./{STATE_DIR}"))];
            if args.scaled {
                env = vec![("STATE_DIR", format!("{}/{name}", scaled_folder()))];
            }
            match *program {
                API => env.push(("PORT", args.api_port(replica).to_string())),
                AUDIT => env.push(("AUDIT_LOG_PATH", audit_log(args, name).display().to_string())),
                _ => {}
            }
            let (stop_rank, stop_limit) =
                if *program == API { (0, API_STOP_LIMIT) } else { (1, CONSUMER_STOP_LIMIT) };
            members.push(Member { name, program, colour: colour(program), env, stop_limit, stop_rank });
        }
        let replicas = processes.iter().filter(|(_, program)| *program == API).count();
        let audits = processes.iter().filter(|(_, program)| *program == AUDIT);
        Self {
            members,
            apis: (0..replicas).map(|replica| args.api_url(replica)).collect(),
            audit_logs: audits.clone().map(|(name, _)| audit_log(args, name)).collect(),
            sharers: audits.count(),
            topic_args: if args.scaled { &["--partitions", PARTITIONS] } else { &[] },
        }
    }

    /// The names of those that write notifications.
    pub fn notifiers(&self) -> impl Iterator<Item = &'static str> {
        let notifiers = self.members.iter().filter(|member| member.program == NOTIFICATION);
        notifiers.map(|member| member.name)
    }
}

fn audit_log(args: &Args, name: &str) -> PathBuf {
    let name = if args.scaled { format!("{}/{name}.log", scaled_folder()) } else { AUDIT_LOG.to_owned() };
    PathBuf::from(name)
}

fn colour(program: &str) -> Colour {
    match program {
        API => 34,
        NOTIFICATION => 32,
        AUDIT => 35,
        _ => 33,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn processes_that_share_the_work_have_folders_ports_and_logs_of_their_own() {
        let layout =
            |words: &[&str]| Layout::of(&Args::parse_from([&["run-all", "--port", "8000"], words].concat()));
        let scaled = layout(&["--scaled"]);
        let values = |name: &str| {
            let all = scaled.members.iter().flat_map(|member| &member.env);
            let mut values: Vec<_> = all.filter(|(key, _)| *key == name).map(|(_, value)| value).collect();
            let count = values.len();
            values.sort();
            values.dedup();
            (count, values.len())
        };
        assert_eq!((values("STATE_DIR"), values("PORT"), values("AUDIT_LOG_PATH")), ((9, 9), (2, 2), (3, 3)));
        assert_eq!(scaled.apis, ["http://127.0.0.1:8000", "http://127.0.0.1:8001"]);
        assert_eq!((scaled.notifiers().count(), scaled.sharers), (3, 3));
        let one = layout(&[]);
        assert_eq!((one.members.len(), one.apis.len(), one.sharers), (4, 1, 1));
        assert_eq!(one.audit_logs, [PathBuf::from("audit.log")]);
    }
}
