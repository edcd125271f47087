//! No commit is ahead of its work.
//!
//! A commit carries the time at which it was made; an audit line the time at which the event was taken, and
//! a notification the time of its log line, each by the clock of its machine. So when a commit of offset N
//! was made, every event below N must have been taken before. That holds whatever became of the process
//! since. And at the moment after kill -9 of the audit service, its log on disk must hold every event below
//! what it had committed: so a commit before the write is seen, too, and with a log that a power cut took
//! back, a commit before the sync. Where the clock was stepped, times say nothing, and it is only asked
//! whether all below a commit was taken at all.

use std::collections::HashMap;

use super::{Check, Report, names};
use crate::evidence::{Evidence, OffsetsSaid, Seen};
use harness::requests::Micros;

/// A commit of the offset to read next, when.
struct Commit {
    offset: i64,
    at: Micros,
}

pub(super) fn check(evidence: &Evidence, report: &mut Report) {
    let known =
        evidence.topic.as_ref().filter(|_| !evidence.audit_logs.is_empty() || evidence.told.is_some());
    let Some(topic) = known else {
        report.checks.push(Check::without_evidence(names::AHEAD));
        return;
    };
    let events = first_copies(topic);
    let mut violations = Vec::new();

    let mut examined = 0;
    let comparable = |at: &Micros| if evidence.clock_stepped { Micros::MIN } else { *at };
    if !evidence.audit_logs.is_empty() {
        let commits = commits_of(evidence, &evidence.audit_group, &mut violations);
        examined += commits.len();
        let audited = audited(evidence);
        let taken = |seen: &Seen| audited.get(seen.event_id.as_str()).map(comparable);
        for (events, commits) in lives(evidence, &events, &commits) {
            ahead(&evidence.audit_group, events, &commits, taken, &mut violations);
        }
        if evidence.clock_stepped {
            report.notes.push("the clock was stepped: no times were compared".to_owned());
        } else {
            at_kill(evidence, &events, &commits, &mut violations);
        }
    }

    if let Some(told) = &evidence.told {
        let mut first: HashMap<(&str, bool), Micros> = HashMap::new();
        for told in told {
            let at = first.entry((&told.task_id, told.completed)).or_insert(told.at);
            *at = told.at.min(*at);
        }
        let wanted: Vec<&Seen> = events.iter().copied().filter(|seen| seen.is_told()).collect();
        let commits = commits_of(evidence, &evidence.notification_group, &mut violations);
        examined += commits.len();
        let taken = |seen: &Seen| {
            let completed = seen.event_type == "task.completed";
            first.get(&(seen.task_id.as_str(), completed)).map(comparable)
        };
        for (wanted, commits) in lives(evidence, &wanted, &commits) {
            ahead(&evidence.notification_group, wanted, &commits, taken, &mut violations);
        }
    }
    report.checks.push(Check::new(names::AHEAD, examined, violations));
}

/// Events and commits of a topic, or of each life of one that was created again: there a commit says nothing of
/// what was deleted.
fn lives<'a, 'e>(
    evidence: &Evidence,
    events: &'a [&'e Seen],
    commits: &'a [Commit],
) -> [(&'a [&'e Seen], Vec<&'a Commit>); 2] {
    let start = evidence.recreated_at.unwrap_or(0);
    let (old, new) = events.split_at(events.partition_point(|seen| seen.offset < start));
    let (of_new, of_old) = commits.iter().partition(|commit| commit.offset >= start);
    [(old, of_old), (new, of_new)]
}

/// In the topic's order.
fn first_copies(topic: &[Seen]) -> Vec<&Seen> {
    let mut ids = std::collections::HashSet::new();
    topic.iter().filter(|seen| ids.insert(seen.event_id.as_str())).collect()
}

/// A group whose work is known has committed: without a commit it goes by another name.
fn commits_of(evidence: &Evidence, group: &str, violations: &mut Vec<String>) -> Vec<Commit> {
    let of_group = evidence.offsets.iter().filter(|entry| entry.group == group);
    let commits = of_group.filter_map(|entry| match entry.said {
        OffsetsSaid::Commit { offset, committed_at: at, .. } => Some(Commit { offset, at }),
        OffsetsSaid::Claim { .. } => None,
    });
    let commits: Vec<_> = commits.collect();
    if commits.is_empty() {
        violations.push(format!("{group} has not committed anything: is that its name?"));
    }
    commits
}

/// When each event was first taken.
fn audited(evidence: &Evidence) -> HashMap<&str, Micros> {
    let mut first = HashMap::new();
    let lines = evidence.audit_logs.iter().flat_map(|log| &log.lines);
    for line in lines.chain(&evidence.rewritten) {
        let at = first.entry(line.seen.event_id.as_str()).or_insert(line.at);
        *at = line.at.min(*at);
    }
    first
}

/// `events` and their times in the topic's order; a commit must come after all below it.
fn ahead(
    group: &str,
    events: &[&Seen],
    commits: &[&Commit],
    taken: impl Fn(&Seen) -> Option<Micros>,
    violations: &mut Vec<String>,
) {
    // For each event the latest time up to it, and where that one is.
    let mut latest: Option<(Micros, i64)> = None;
    let mut up_to: Vec<(i64, (Micros, i64))> = Vec::with_capacity(events.len());
    for seen in events {
        let at = (taken(seen).unwrap_or(Micros::MAX), seen.offset);
        latest = latest.max(Some(at));
        up_to.extend(latest.map(|latest| (seen.offset, latest)));
    }
    for commit in commits {
        let below = up_to.partition_point(|(offset, _)| *offset < commit.offset);
        let Some((_, (at, offset))) = below.checked_sub(1).and_then(|index| up_to.get(index)) else {
            continue;
        };
        if *at == Micros::MAX {
            violations.push(format!(
                "{group} committed {}, and the event at offset {offset} was never handled",
                commit.offset
            ));
        } else if *at > commit.at {
            violations.push(format!(
                "{group} committed {}, and handled the event at offset {offset} {} µs later",
                commit.offset,
                at - commit.at
            ));
        }
    }
}

fn at_kill(evidence: &Evidence, events: &[&Seen], commits: &[Commit], violations: &mut Vec<String>) {
    for snapshot in &evidence.snapshots {
        let committed = commits.iter().filter(|commit| commit.at <= snapshot.at);
        let Some(committed) = committed.map(|commit| commit.offset).max() else { continue };
        let below = events.partition_point(|seen| seen.offset < committed);
        let Some(last) = below.checked_sub(1).and_then(|index| events.get(index)) else { continue };
        if snapshot.last_offset.is_none_or(|on_disk| on_disk < last.offset) {
            violations.push(format!(
                "{} had committed {committed} when it was killed, and its log ended at offset {:?}",
                evidence.audit_group, snapshot.last_offset
            ));
        }
    }
}
