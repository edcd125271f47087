//! What was answered is there, and nothing else is.

use std::collections::{HashMap, HashSet};

use super::operations::{Operation, Operations};
use super::{Check, Report, names};
use crate::evidence::Evidence;
use harness::requests::{Answer, Task};

pub(super) fn check(evidence: &Evidence, operations: &Operations<'_>, report: &mut Report) {
    report.checks.push(lost(evidence, operations));
    report.checks.push(lost_state(evidence, operations));
    report.checks.push(unexpected(evidence, operations, &mut report.notes));
    report.checks.push(altered(evidence, operations));
    report.checks.push(refused(evidence));
    report.checks.push(not_told(evidence, operations));
    report.checks.push(match &evidence.not_drained {
        Some(left) => Check::new(names::NOT_DRAINED, 1, left.clone()),
        None => Check::without_evidence(names::NOT_DRAINED),
    });
}

/// Each event of what was answered 2xx is in the audit log and in the topic; what was not answered
/// is there whole or not at all. Events of other producers are audited as ours are. What was deleted with
/// its topic may be missing in the audit log.
fn lost(evidence: &Evidence, operations: &Operations<'_>) -> Check {
    // What is still on its way is not lost: that it did not arrive is a finding of its own.
    if !evidence.is_drained() || (evidence.audit_logs.is_empty() && evidence.topic.is_none()) {
        return Check::without_evidence(names::LOST);
    }
    let mut violations = Vec::new();
    let mut examined = 0;
    for operation in &operations.all {
        let done = operation.done().is_some();
        examined += usize::from(done);
        let audited: Vec<&str> = operation.audited.values().map(|seen| seen.event_type.as_str()).collect();
        let in_topic: Vec<&str> = operation.events.values().map(|seen| seen.event_type.as_str()).collect();
        let mut accounts = Vec::new();
        if !evidence.audit_logs.is_empty() {
            accounts.push(("the audit log", audited));
        }
        if evidence.topic.is_some() {
            accounts.push(("the topic", in_topic));
        }
        for (place, found) in accounts {
            let is_deleted = |event_type: &str| {
                let mut of_type = operation.events.values().filter(|seen| seen.event_type == event_type);
                of_type.any(|seen| operations.deleted.contains(seen.event_id.as_str()))
            };
            let expected = operation.expected().iter();
            let missing: Vec<_> = expected.filter(|it| !found.contains(it) && !is_deleted(it)).collect();
            if done && !missing.is_empty() {
                violations.push(format!("answered 2xx, not in {place}: {missing:?} of {}", operation.name()));
            } else if operation.is_unclear() && !found.is_empty() && !missing.is_empty() {
                violations.push(format!("half done, not in {place}: {missing:?} of {}", operation.name()));
            }
        }
    }
    if !evidence.audit_logs.is_empty() {
        examined += operations.foreign.len();
        let lines = evidence.audit_logs.iter().flat_map(|log| &log.lines);
        let audited: HashSet<&str> = lines.map(|line| line.seen.event_id.as_str()).collect();
        let missing = operations.foreign.iter().filter(|seen| !audited.contains(seen.event_id.as_str()));
        violations.extend(missing.map(|seen| format!("another producer's, not in the audit log: {seen:?}")));
    }
    Check::new(names::LOST, examined, violations)
}

/// The API lists each task at least as new as it was answered, and as it was answered where nothing
/// unclear came after; and none that was deleted.
fn lost_state(evidence: &Evidence, operations: &Operations<'_>) -> Check {
    let Some(tasks) = &evidence.tasks else { return Check::without_evidence(names::LOST_STATE) };
    let tasks: HashMap<&str, &Task> = tasks.iter().map(|task| (task.id.as_str(), task)).collect();
    let mut newest: HashMap<&str, &Task> = HashMap::new();
    for task in operations.all.iter().filter_map(Operation::done) {
        let known = newest.entry(&task.id).or_insert(task);
        if known.version < task.version {
            *known = task;
        }
    }
    let deletions: HashMap<&str, bool> = operations
        .all
        .iter()
        .filter_map(|operation| {
            let is_done = operation.done().is_some() || !operation.events.is_empty();
            operation.deletes().filter(|_| is_done || operation.is_unclear()).map(|id| (id, is_done))
        })
        .collect();
    let wrong = |task: &Task| match tasks.get(task.id.as_str()) {
        Some(now) if deletions.get(task.id.as_str()) == Some(&true) => {
            Some(format!("deleted, and the API has it: {now:?}"))
        }
        None if deletions.contains_key(task.id.as_str()) => None,
        None => Some(format!("answered 2xx, and the API does not have it: {task:?}")),
        Some(now) if now.version < task.version || (now.version == task.version && **now != *task) => {
            Some(format!("answered {task:?}, and the API has {now:?}"))
        }
        Some(_) => None,
    };
    Check::new(names::LOST_STATE, newest.len(), newest.into_values().filter_map(wrong).collect())
}

/// Every event was asked for, by a request that was not refused, and once for each.
fn unexpected(evidence: &Evidence, operations: &Operations<'_>, notes: &mut Vec<String>) -> Check {
    if evidence.audit_logs.is_empty() && evidence.topic.is_none() {
        return Check::without_evidence(names::UNEXPECTED);
    }
    let mut violations = Vec::new();
    let mut examined = 0;
    let ids: HashSet<&str> = operations.strangers.iter().map(|seen| seen.event_id.as_str()).collect();
    if evidence.shared {
        notes.push(format!("{} events that others asked for", ids.len()));
    } else {
        let strangers = operations.strangers.iter();
        violations.extend(strangers.map(|seen| format!("nobody asked for {seen:?}")));
    }
    let (mut unclear, mut unclear_and_done) = (0, 0);
    for operation in &operations.all {
        examined += operation.events.len();
        if operation.is_unclear() {
            unclear += 1;
            unclear_and_done += usize::from(!operation.events.is_empty());
        }
        if operation.done().is_none() && !operation.is_unclear() && !operation.events.is_empty() {
            violations.push(format!("refused and done all the same: {}", operation.name()));
        }
        let mut types: Vec<&str> = Vec::new();
        for seen in operation.events.values() {
            if !operation.expected().contains(&seen.event_type.as_str()) {
                violations.push(format!("{} is no event of {}", seen.event_type, operation.name()));
            } else if types.contains(&seen.event_type.as_str()) {
                violations.push(format!("done twice, under two event ids: {}", operation.name()));
            }
            types.push(&seen.event_type);
        }
    }
    if let Some(topic) = &evidence.topic {
        let in_topic: HashSet<&str> = topic.iter().map(|seen| seen.event_id.as_str()).collect();
        let lines = evidence.audit_logs.iter().flat_map(|log| &log.lines);
        for line in lines.filter(|line| !in_topic.contains(line.seen.event_id.as_str())) {
            violations.push(format!("audited, and not in the topic: {:?}", line.seen));
        }
    }
    notes.push(format!("{unclear} operations without a clear answer, {unclear_and_done} of them were done"));
    Check::new(names::UNEXPECTED, examined, violations)
}

/// Events say what was asked for and answered; the audit log says what the topic says.
fn altered(evidence: &Evidence, operations: &Operations<'_>) -> Check {
    if evidence.audit_logs.is_empty() && evidence.topic.is_none() {
        return Check::without_evidence(names::ALTERED);
    }
    let mut violations = Vec::new();
    let mut examined = 0;
    for operation in &operations.all {
        examined += operation.events.len();
        let title = operation.requests.first().and_then(|request| request.title.as_deref());
        for seen in operation.events.values() {
            let wrong_title = title.is_some_and(|title| title != seen.title);
            let done = operation.done();
            let wrong_task = done.is_some_and(|task| {
                (&task.id, &task.title, &task.status) != (&seen.task_id, &seen.title, &seen.status)
            });
            if wrong_title || wrong_task {
                violations
                    .push(format!("{} was answered {done:?}, its event says {seen:?}", operation.name()));
            }
            let line = operation.audited.get(seen.event_id.as_str());
            if let Some(line) = line.filter(|line| (&line.title, &line.status) != (&seen.title, &seen.status))
            {
                violations.push(format!("the topic says {seen:?}, the audit log {line:?}"));
            }
        }
    }
    Check::new(names::ALTERED, examined, violations)
}

fn refused(evidence: &Evidence) -> Check {
    let failed = evidence.requests.iter().filter_map(|request| match &request.answer {
        Answer::Failed { status } if !evidence.store_failed => {
            Some(format!("{status} to {:?} (correlation id {})", request.kind, request.correlation_id))
        }
        _ => None,
    });
    Check::new(names::REFUSED, evidence.requests.len(), failed.collect())
}

/// Every created and every completed task was notified, but for what was deleted with its topic.
fn not_told(evidence: &Evidence, operations: &Operations<'_>) -> Check {
    let told = evidence.told.as_ref().filter(|_| evidence.is_drained());
    let Some(told) = told else { return Check::without_evidence(names::NOT_TOLD) };
    let known: HashSet<(&str, bool)> =
        told.iter().map(|told| (told.task_id.as_str(), told.completed)).collect();
    let wanted = operations.all.iter().flat_map(|operation| operation.events.values());
    let wanted = wanted.chain(&operations.foreign).copied();
    let wanted = wanted.filter(|seen| !operations.deleted.contains(seen.event_id.as_str()));
    let wanted: Vec<_> = wanted.filter(|seen| seen.is_told()).collect();
    let missing = wanted.iter().filter(|seen| {
        let completed = seen.event_type == "task.completed";
        !known.contains(&(seen.task_id.as_str(), completed))
    });
    let violations = missing.map(|seen| format!("not notified: {seen:?}")).collect();
    Check::new(names::NOT_TOLD, wanted.len(), violations)
}
