//! The checks of the scaled system. Those of one partition run on each; the others on all partitions together.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;

use harness::requests::{Answer, Kind, Micros, Request, Task};

use super::evidence::{Part, ScaledEvidence};
use super::turns::{Copy, Turn, Why, turns, why_repeated};
use crate::check::{Check, Report, names, of_all, of_partition, require_examined};
use crate::evidence::Evidence;

/// What was paused, or lost its database, works again within this, in microseconds: connections are made anew, with
/// back-offs.
const RECOVERY: Micros = 5_000_000;

/// Runs all checks.
pub fn check(evidence: &ScaledEvidence) -> Report {
    let mut report = Report::default();
    let mut union = evidence.union();
    // Failures are judged by what was hurt.
    union.store_failed = true;
    of_all(&union, &mut report);
    report.checks.retain(|check| check.name != names::REFUSED);
    report.checks.push(available(evidence, &mut report.notes));
    report.checks.push(replicas_agree(&evidence.tasks));
    for partition in &evidence.partitions {
        let mut of_one = Report::default();
        of_partition(&Evidence { requests: evidence.requests.clone(), ..partition.clone() }, &mut of_one);
        report.add(of_one);
    }
    report.checks.push(audited_once(evidence, &mut report.notes));
    report.checks.push(notified_once(evidence, &mut report.notes));
    report.checks.push(owned_again(evidence, &mut report.notes));
    report.notes.push(topic_duplicates(evidence));
    require_examined(&mut report);
    report
}

/// 5xx, and no answer, only for requests in flight on a replica that was killed, or while a replica was paused or the
/// database was hurt. Each request asks for what is there and allowed: 4xx only for a key whose first request is not done
/// (409), and for a task that an earlier attempt deleted (404).
fn available(evidence: &ScaledEvidence, notes: &mut Vec<String>) -> Check {
    let mut violations = Vec::new();
    let mut excused = 0;
    let mut unclear: HashSet<&str> = HashSet::new();
    for request in &evidence.requests {
        let key = request.key.as_deref();
        match &request.answer {
            Answer::Done { .. } | Answer::Refused { status: 409 } => {}
            // An earlier attempt has deleted it.
            Answer::Refused { status: 404 }
                if request.kind == Kind::Delete && key.is_some_and(|key| unclear.contains(key)) => {}
            Answer::Refused { status } => violations.push(unwanted(request, &status)),
            Answer::Failed { .. } | Answer::None { .. } => {
                unclear.extend(key);
                if evidence.hurts.iter().any(|hurt| {
                    let (hit, recovery) = match hurt.part {
                        Part::Killed(replica) => (replica == request.replica, 0),
                        Part::Paused(replica) => (replica == request.replica, RECOVERY),
                        Part::Database => (true, RECOVERY),
                        Part::Broker => (false, 0),
                    };
                    hit && request.ended >= hurt.from && request.sent <= hurt.until + recovery
                }) {
                    excused += 1;
                } else {
                    violations.push(unwanted(request, &request.answer));
                }
            }
        }
    }
    notes.push(format!(
        "{excused} requests failed or were not answered, each on a replica, or beside a database, that was hurt"
    ));
    Check::new(names::UNAVAILABLE, evidence.requests.len(), violations)
}

fn unwanted(request: &Request, what: &dyn Debug) -> String {
    let Request { kind, correlation_id, replica, sent, ended, .. } = request;
    format!(
        "{what:?} to {kind:?} after {} ms by replica {}, which was well (sent at {sent}, correlation id {correlation_id})",
        (ended - sent) / 1_000,
        replica + 1
    )
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
                let copy = Copy { instance, at: line.at, offset: line.seen.offset };
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
            copies.entry(what).or_default().push(Copy { instance, at: told.at, offset });
        }
        examined += copies.len();
        for (what, copies) in copies {
            let is_twice = offsets.get(&what).is_some_and(|offsets| offsets.len() > 1);
            repeats.add(&turns, &what, &copies, is_twice);
        }
    }
    repeats.into_check(names::NOTIFIED_ONCE, examined, "notified", notes)
}

/// What a killed consumer owned is owned again in time, by itself or by another; not asked while the broker was hurt.
fn owned_again(evidence: &ScaledEvidence, notes: &mut Vec<String>) -> Check {
    let mut violations = Vec::new();
    let mut times: Vec<Micros> = Vec::new();
    for death in &evidence.deaths {
        for (number, partition) in evidence.partitions.iter().enumerate() {
            let turns = turns(
                &partition.offsets,
                evidence.released.get(number).map_or(&[], Vec::as_slice),
                &death.group,
            );
            let Some(last) = turns.iter().rposition(|turn| turn.at <= death.at) else { continue };
            let had = turns.get(last).is_some_and(|turn| {
                turn.instance == death.instance_id && turn.released_at.is_none_or(|at| at > death.at)
            });
            if !had {
                continue;
            }
            let next = turns.get(last + 1).map_or(Micros::MAX, |turn| turn.at);
            let broker_was_hurt = evidence.hurts.iter().any(|hurt| {
                hurt.part == Part::Broker
                    && hurt.from <= next
                    && hurt.until >= death.at - evidence.owned_within
            });
            times.push(next.saturating_sub(death.at));
            if next.saturating_sub(death.at) > evidence.owned_within && !broker_was_hurt {
                let took = if next == Micros::MAX {
                    "never".to_owned()
                } else {
                    format!("{} ms later", (next - death.at) / 1_000)
                };
                violations.push(format!(
                    "partition {number} of {} was {} 's until its death, and owned again {took}",
                    death.group, death.instance_id
                ));
            }
        }
    }
    if evidence.deaths.is_empty() {
        return Check::without_evidence(names::OWNED);
    }
    if let Some(longest) = times.iter().max() {
        notes.push(format!(
            "{} partitions of killed owners, owned again after {} ms at most",
            times.len(),
            longest / 1_000
        ));
    }
    // An instance may have owned nothing.
    Check::new(names::OWNED, times.len().max(evidence.deaths.len()), violations)
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
