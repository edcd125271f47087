//! The checks of the scaled system. Those of one partition run on each; the others on all partitions together.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;

use harness::requests::Task;

use super::evidence::{ScaledEvidence, Strike};
use super::turns::{Copy, Turn, Why, turns, why_repeated};
use super::{available, succession, thieves};
use crate::check::{Check, Report, names, of_all, of_partition, require_examined};
use crate::evidence::Evidence;

/// Runs all checks.
pub fn check(evidence: &ScaledEvidence) -> Report {
    let mut report = Report::default();
    let mut union = evidence.union();
    // Failures are judged by what was hurt.
    union.store_failed = true;
    of_all(&union, &mut report);
    report.checks.retain(|check| check.name != names::REFUSED);
    report.checks.push(available::check(evidence, &mut report.notes));
    report.checks.push(Check::new(names::RUNNING, evidence.processes, evidence.troubles.clone()));
    report.checks.push(replicas_agree(&evidence.tasks));
    for partition in &evidence.partitions {
        let mut of_one = Report::default();
        of_partition(&Evidence { requests: evidence.requests.clone(), ..partition.clone() }, &mut of_one);
        report.add(of_one);
    }
    report.checks.push(audited_once(evidence, &mut report.notes));
    report.checks.push(notified_once(evidence, &mut report.notes));
    succession::check(evidence, &mut report);
    report.checks.push(thieves::check(evidence));
    report.notes.extend(strikes(evidence));
    report.notes.push(topic_duplicates(evidence));
    require_examined(&mut report);
    report
}

/// A fault that hit nobody in any of the rounds has proven nothing.
pub fn hits(strikes: &[Strike]) -> Check {
    let mut faults: BTreeMap<&str, bool> = BTreeMap::new();
    for strike in strikes {
        *faults.entry(&strike.fault).or_default() |= strike.whom.is_some();
    }
    let missed = faults.iter().filter(|(_, has_hit)| !**has_hit);
    let missed = missed.map(|(fault, _)| format!("{fault} was planned and hit nobody"));
    Check::new(names::HIT, faults.len(), missed.collect())
}

/// What was hit, to compare with a repeat: the seed decides it only together with who owned what by then.
fn strikes(evidence: &ScaledEvidence) -> impl Iterator<Item = String> {
    evidence.strikes.iter().map(|strike| match &strike.whom {
        Some(whom) => format!("{} hit {whom} at {}", strike.fault, strike.at),
        None => format!("{} hit nobody at {}", strike.fault, strike.at),
    })
}

/// Each replica lists the same tasks.
fn replicas_agree(lists: &[Vec<Task>]) -> Check {
    let Some((first, others)) = lists.split_first() else {
        return Check::without_evidence(names::REPLICAS);
    };
    let mut violations = Vec::new();
    for (number, list) in others.iter().enumerate() {
        let known: HashMap<&str, &Task> = list.iter().map(|task| (task.id.as_str(), task)).collect();
        let differing = first.iter().find(|task| known.get(task.id.as_str()) != Some(task));
        if list.len() != first.len() || differing.is_some() {
            violations.push(format!(
                "replica {} lists {} tasks, the first {}; {differing:?} is not the same",
                number + 2,
                list.len(),
                first.len()
            ));
        }
    }
    Check::new(names::REPLICAS, lists.iter().map(Vec::len).sum(), violations)
}

/// Offsets of each event, in one partition.
fn offsets_of(evidence: &Evidence) -> HashMap<&str, Vec<i64>> {
    let mut offsets: HashMap<&str, Vec<i64>> = HashMap::new();
    for seen in evidence.topic.iter().flatten() {
        offsets.entry(&seen.event_id).or_default().push(seen.offset);
    }
    offsets
}

/// How many repeats are explained by what.
#[derive(Default)]
struct Repeats {
    in_flight: usize,
    twice_in_topic: usize,
    violations: Vec<String>,
}

impl Repeats {
    fn add(&mut self, turns: &[Turn<'_>], what: &dyn Debug, copies: &[Copy<'_>], is_twice: bool) {
        if copies.len() < 2 {
            return;
        }
        match why_repeated(turns, copies, is_twice) {
            Why::InFlight => self.in_flight += 1,
            Why::TwiceInTopic => self.twice_in_topic += 1,
            Why::Unexplained(why) => self.violations.push(format!("{what:?}: {copies:?}: {why}")),
        }
    }

    fn into_check(self, name: &'static str, examined: usize, what: &str, notes: &mut Vec<String>) -> Check {
        notes.push(format!(
            "{what} twice: {} events that were in flight when an owner was killed or lost its lease, {} that Kafka has twice",
            self.in_flight, self.twice_in_topic
        ));
        Check::new(name, examined, self.violations)
    }
}

/// Each event is in one audit log, but for what was in flight when its partition changed hands without order.
fn audited_once(evidence: &ScaledEvidence, notes: &mut Vec<String>) -> Check {
    let (mut repeats, mut examined) = (Repeats::default(), 0);
    for (partition, released) in evidence.partitions.iter().zip(&evidence.released) {
        let turns = turns(&partition.offsets, released, &partition.audit_group);
        let offsets = offsets_of(partition);
        let mut copies: HashMap<&str, Vec<Copy<'_>>> = HashMap::new();
        for log in &partition.audit_logs {
            let instance = log.instance_id.as_deref().unwrap_or_default();
            for line in &log.lines {
                let copy = Copy { instance, at: line.at, offset: line.seen.offset, is_exact: true };
                copies.entry(&line.seen.event_id).or_default().push(copy);
            }
        }
        examined += copies.len();
        for (event, copies) in copies {
            let is_twice = offsets.get(event).is_some_and(|offsets| offsets.len() > 1);
            repeats.add(&turns, &event, &copies, is_twice);
        }
    }
    repeats.into_check(names::UNION, examined, "audited", notes)
}

/// The same of notifications.
fn notified_once(evidence: &ScaledEvidence, notes: &mut Vec<String>) -> Check {
    let (mut repeats, mut examined) = (Repeats::default(), 0);
    for (partition, released) in evidence.partitions.iter().zip(&evidence.released) {
        let turns = turns(&partition.offsets, released, &partition.notification_group);
        let mut offsets: HashMap<(&str, bool), Vec<i64>> = HashMap::new();
        for seen in partition.topic.iter().flatten().filter(|seen| seen.is_told()) {
            let completed = seen.event_type == "task.completed";
            offsets.entry((&seen.task_id, completed)).or_default().push(seen.offset);
        }
        let mut copies: HashMap<(&str, bool), Vec<Copy<'_>>> = HashMap::new();
        for told in partition.told.iter().flatten() {
            let what = (told.task_id.as_str(), told.completed);
            let instance = told.instance_id.as_deref().unwrap_or_default();
            // Of an event that was never in the topic another check has a finding.
            let offset = offsets.get(&what).and_then(|offsets| offsets.last().copied()).unwrap_or(-1);
            copies.entry(what).or_default().push(Copy { instance, at: told.at, offset, is_exact: false });
        }
        examined += copies.len();
        for (what, copies) in copies {
            let is_twice = offsets.get(&what).is_some_and(|offsets| offsets.len() > 1);
            repeats.add(&turns, &what, &copies, is_twice);
        }
    }
    repeats.into_check(names::NOTIFIED_ONCE, examined, "notified", notes)
}

fn topic_duplicates(evidence: &ScaledEvidence) -> String {
    let (mut copies, mut owners) = (0, 0);
    for (partition, released) in evidence.partitions.iter().zip(&evidence.released) {
        copies += offsets_of(partition).values().map(|offsets| offsets.len() - 1).sum::<usize>();
        for group in [&partition.audit_group, &partition.notification_group] {
            let turns = turns(&partition.offsets, released, group);
            owners += turns
                .iter()
                .zip(turns.iter().skip(1))
                .filter(|(one, next)| one.instance != next.instance)
                .count();
        }
    }
    format!("{copies} duplicates in the topic; {owners} times a partition went to another owner")
}
