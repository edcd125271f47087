//! What is wrong, in words, and what to do about it.
//!
//! A finding is about what an operator can act on. What follows from a cause that is named is left out: while Kafka is
//! unreachable nothing is said of the groups.

use std::time::Duration;

use task_events::error_code::{Code, Coded};
use task_events::kafka::KafkaError;
use task_events::operate::groups::Life;
use task_events::services;
use tokio::time::Instant;

use super::board::Known;
use super::rows::{Api, Finding, GroupRow};

/// Time that a reader needs to know the topics: before it nothing is said to be missing.
const START: Duration = Duration::from_secs(4);
/// Events that may wait in the outbox for this long, and a group that may stay where it is, before it is said.
const LONG: Duration = Duration::from_secs(10);
/// A group that is further behind than this is said to be.
const MUCH_LAG: i64 = 1_000;
/// The services that a system has, each by the name of its group, and what waits without it.
const SERVICES: [(&str, &str); 3] = [
    (services::NOTIFICATION, "no notification is sent"),
    (services::AUDIT, "nothing is written to the audit log"),
    (services::DLQ_PROCESSOR, "dead letters are not counted"),
];

/// What findings are made of, beside the board.
pub(super) struct Facts<'a> {
    pub(super) api: &'a Api,
    pub(super) groups: &'a [GroupRow],
    /// Why the offsets topic cannot be read.
    pub(super) offsets: Option<KafkaError>,
    /// When reading began.
    pub(super) since: Instant,
}

/// What is wrong, the worst first.
pub(super) fn findings(facts: &Facts<'_>, known: &Known) -> Vec<Finding> {
    let mut findings = Vec::new();
    store(facts.api, &mut findings);
    if let Some(silent) = known.silent_for() {
        findings.push(unreachable(facts.api, known, silent));
        return findings;
    }
    topics(facts, known, &mut findings);
    outbox(facts.api, &mut findings);
    if facts.since.elapsed() > START && facts.offsets.is_none() {
        groups(facts.groups, known, &mut findings);
    }
    dead_letters(known, &mut findings);
    findings.sort_by_key(|finding| finding.level != "error");
    findings
}

fn store(api: &Api, findings: &mut Vec<Finding>) {
    if let Some(failure) = &api.store_failure {
        let what = format!("The API refuses changes: {failure}.");
        findings.push(Finding::error(
            what,
            "Mend the disk or free space, then restart the API.",
            Some(Code::Store),
        ));
    }
}

fn unreachable(api: &Api, known: &Known, silent: Duration) -> Finding {
    let waiting = match api.outbox {
        0 => "no event waits".to_owned(),
        1 => "1 event waits in the outbox".to_owned(),
        waiting => format!("{waiting} events wait in the outbox"),
    };
    let what = format!(
        "Kafka at {} has not answered for {} s. Tasks are created and changed all the same: {waiting}, and nothing is lost.",
        known.bootstrap,
        silent.as_secs()
    );
    let action = "Start Kafka, or check KAFKA_BOOTSTRAP_SERVERS and the network. What waits is published automatically.";
    Finding::error(what, action, Some(Code::KafkaUnreachable))
}

/// Topics that cannot be read: one finding for each cause.
fn topics(facts: &Facts<'_>, known: &Known, findings: &mut Vec<Finding>) {
    let read = [&known.events_topic, &known.dlq_topic].into_iter();
    let failures = read.filter_map(|topic| Some((topic, known.topics.get(topic)?.failure.as_ref()?)));
    for (topic, error) in failures.chain(facts.offsets.iter().map(|error| (&known.offsets_topic, error))) {
        let action = match error {
            KafkaError::UnknownTopic { .. } => "Run `taskctl topics create`.",
            _ => "Run `taskctl doctor`, which names what this user may not do.",
        };
        let what = format!("Topic {topic} cannot be read: {error}.");
        findings.push(Finding::error(what, action, Some(error.code())));
    }
}

fn outbox(api: &Api, findings: &mut Vec<Finding>) {
    let is_long = api.oldest_seconds.is_some_and(|seconds| seconds >= LONG.as_secs());
    if is_long && api.outbox > 0 {
        let seconds = api.oldest_seconds.unwrap_or(0);
        let why = api.waiting_for.as_ref().map(|cause| format!(": {cause}")).unwrap_or_default();
        let what = format!("{} events wait in the outbox, the oldest for {seconds} s{why}.", api.outbox);
        findings.push(Finding::error(what, "Run `taskctl doctor`.", Some(Code::Relay)));
    }
}

fn groups(groups: &[GroupRow], known: &Known, findings: &mut Vec<Finding>) {
    for (service, consequence) in SERVICES {
        let is_it = |row: &&GroupRow| row.service.as_deref() == Some(service) || row.group == service;
        if !groups.iter().any(|row| is_it(&row)) {
            let what = format!("No instance of {service} has run: {consequence}.");
            findings.push(Finding::warning(what, &format!("Start {service}.")));
        }
    }
    for row in groups {
        group(row, known, findings);
    }
}

fn group(row: &GroupRow, known: &Known, findings: &mut Vec<Finding>) {
    let name = &row.group;
    let lag = row.lag.unwrap_or(0);
    let waiting = match lag {
        0 => String::new(),
        1 => ": 1 event waits".to_owned(),
        lag => format!(": {lag} events wait"),
    };
    let start = format!("Start an instance of {}.", row.service.as_deref().unwrap_or(name));
    let ownerless = |life: Life| row.partitions.iter().filter(move |each| each.life == life).count();
    let of_all = |count: usize| match row.partitions.len() {
        1 => String::new(),
        all => format!(" ({count} of {all} partitions)"),
    };
    let (silent, released) =
        (ownerless(Life::Silent), ownerless(Life::Released) + ownerless(Life::Unclaimed));
    if silent > 0 {
        let what = format!(
            "{name}{}: its owner has given no sign of life for its whole lease, and nobody has taken over{waiting}.",
            of_all(silent)
        );
        findings.push(Finding::error(what, &start, None));
    } else if released > 0 {
        let what = format!("{name}{}: no instance runs{waiting}.", of_all(released));
        findings.push(if lag > 0 {
            Finding::error(what, &start, None)
        } else {
            Finding::warning(what, &start)
        });
    } else if let Some(stuck) = known.history.stuck(name).filter(|stuck| *stuck >= LONG) {
        let what = format!("{name} has not moved for {} s{waiting}.", stuck.as_secs());
        let action =
            "Look at its /readyz and its log: an event that fails is tried again, then goes to the DLQ.";
        findings.push(Finding::error(what, action, None));
    } else if lag > MUCH_LAG {
        let action =
            "Wait if it catches up, as its chart shows; else look at its log and at the load of its machine.";
        findings.push(Finding::warning(format!("{name} is {lag} events behind."), action));
    }
}

fn dead_letters(known: &Known, findings: &mut Vec<Finding>) {
    let open = known.letters.iter().filter(|letter| letter.redriven.is_none()).count();
    let what = match open {
        0 => return,
        1 => "1 dead letter is open: an event that its group could not handle.".to_owned(),
        open => format!("{open} dead letters are open: events that their groups could not handle."),
    };
    let action = "See their errors below, mend the cause, and redrive them.";
    findings.push(Finding::warning(what, action));
}
