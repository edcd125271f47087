//! The changes of a task are in the order in which they were made; the audit log in the topic's.

use std::collections::{BTreeMap, HashMap};

use super::operations::{Operation, Operations};
use super::{Check, Report, names};
use crate::evidence::Evidence;

pub(super) fn check(evidence: &Evidence, operations: &Operations<'_>, report: &mut Report) {
    report.checks.push(of_a_task(evidence, operations));
    report.checks.push(of_the_audit_logs(evidence));
}

/// By the versions that were answered; by time where one request ended before another was sent; and
/// within a request by what it makes.
fn of_a_task(evidence: &Evidence, operations: &Operations<'_>) -> Check {
    if evidence.audit_logs.is_empty() && evidence.topic.is_none() {
        return Check::without_evidence(names::ORDER);
    }
    let mut violations = Vec::new();
    let mut tasks: HashMap<&str, Vec<&Operation<'_>>> = HashMap::new();
    for operation in &operations.all {
        let types: Vec<&str> = operation.events.values().map(|seen| seen.event_type.as_str()).collect();
        let expected: Vec<&str> =
            operation.expected().iter().copied().filter(|one| types.contains(one)).collect();
        if types.len() == expected.len() && types != expected {
            violations.push(format!("{types:?}, not {expected:?}: {}", operation.name()));
        }
        if let Some(seen) = operation.events.values().next() {
            tasks.entry(&seen.task_id).or_default().push(operation);
        }
    }
    let examined = tasks.len();
    for mut operations in tasks.into_values() {
        operations.sort_by_key(|operation| operation.events.keys().next().copied());
        let deletion = operations.iter().find(|operation| operation.deletes().is_some());
        let deleted_at = deletion.and_then(|deletion| deletion.events.keys().next().copied());
        let is_behind =
            |operation: &&&Operation<'_>| operation.events.keys().next_back().copied() > deleted_at;
        let behind = operations.iter().filter(|operation| deleted_at.is_some() && is_behind(operation));
        violations.extend(behind.map(|later| format!("{} is behind the deletion of its task", later.name())));
        for (place, later) in operations.iter().enumerate() {
            for earlier in operations.iter().take(place) {
                if must_precede(later, earlier) {
                    violations.push(format!("{} is before {}", earlier.name(), later.name()));
                }
            }
        }
    }
    Check::new(names::ORDER, examined, violations)
}

/// Whether `first` was made before `second`, as far as answers and times tell.
fn must_precede(first: &Operation<'_>, second: &Operation<'_>) -> bool {
    let by_version = match (first.done(), second.done()) {
        (Some(first), Some(second)) => first.version < second.version,
        _ => false,
    };
    let ended = first.requests.iter().find(|request| request.done().is_some()).map(|request| request.ended);
    let sent = second.requests.iter().map(|request| request.sent).min();
    by_version || matches!((ended, sent), (Some(ended), Some(sent)) if ended < sent)
}

fn of_the_audit_logs(evidence: &Evidence) -> Check {
    if evidence.audit_logs.is_empty() {
        return Check::without_evidence(names::TOPIC_ORDER);
    }
    let mut violations = Vec::new();
    let mut examined = 0;
    let in_topic: Option<BTreeMap<i64, &str>> = evidence
        .topic
        .as_ref()
        .map(|topic| topic.iter().map(|seen| (seen.offset, seen.event_id.as_str())).collect());
    for log in &evidence.audit_logs {
        let mut last: Option<i64> = None;
        for line in &log.lines {
            examined += 1;
            let offset = line.seen.offset;
            if let Some(before) = last.filter(|last| *last >= offset) {
                violations.push(format!("{}: offset {offset} after {before}", log.name));
            }
            last = Some(offset);
            let stands = in_topic.as_ref().and_then(|topic| topic.get(&offset));
            if let Some(other) = stands.filter(|id| **id != line.seen.event_id) {
                violations.push(format!(
                    "{}: {} at offset {offset}, where the topic has {other}",
                    log.name, line.seen.event_id
                ));
            }
        }
    }
    Check::new(names::TOPIC_ORDER, examined, violations)
}
