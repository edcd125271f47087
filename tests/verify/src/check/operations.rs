//! Operations: the requests under one idempotency key, or one request; and the events that each caused.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::evidence::{Evidence, Seen};
use harness::requests::{Answer, Kind, Request, Task};

/// All operations, and what belongs to none.
pub(super) struct Operations<'a> {
    pub(super) all: Vec<Operation<'a>>,
    /// Events that no request asked for.
    pub(super) strangers: Vec<&'a Seen>,
    /// Events in the topic that another producer wrote.
    pub(super) foreign: Vec<&'a Seen>,
    /// Ids of events that are only in a topic that was deleted. Whoever had not read them by then cannot.
    pub(super) deleted: HashSet<&'a str>,
}

/// One operation.
pub(super) struct Operation<'a> {
    /// Its attempts in their order; at least one.
    pub(super) requests: Vec<&'a Request>,
    /// Its events in the topic, by id, each with its first offset. Of the audit logs where the topic is
    /// not known.
    pub(super) events: BTreeMap<i64, &'a Seen>,
    /// The ids of its events in the audit logs.
    pub(super) audited: HashMap<&'a str, &'a Seen>,
}

impl<'a> Operation<'a> {
    /// The answer, if any attempt was answered 2xx.
    pub(super) fn done(&self) -> Option<&'a Task> {
        self.requests.iter().find_map(|request| request.done())
    }

    /// Whether it may be done or not.
    pub(super) fn is_unclear(&self) -> bool {
        let unclear = |answer: &Answer| matches!(answer, Answer::None { .. } | Answer::Failed { .. });
        self.done().is_none() && self.requests.iter().any(|request| unclear(&request.answer))
    }

    /// The task that it deletes, if it does.
    pub(super) fn deletes(&self) -> Option<&'a str> {
        let request = self.requests.first().filter(|request| request.kind == Kind::Delete)?;
        request.task_id.as_deref()
    }

    /// The event types that it makes, in their order.
    pub(super) fn expected(&self) -> &'static [&'static str] {
        self.requests.first().map_or(&[], |request| request.kind.events())
    }

    /// For people.
    pub(super) fn name(&self) -> String {
        let Some(request) = self.requests.first() else { return String::new() };
        let task = self.done().map(|task| task.id.as_str()).or(request.task_id.as_deref());
        format!(
            "{:?} of task {} (correlation id {})",
            request.kind,
            task.unwrap_or("?"),
            request.correlation_id
        )
    }
}

impl<'a> Operations<'a> {
    pub(super) fn of(evidence: &'a Evidence) -> Self {
        let mut all: Vec<Operation<'a>> = Vec::new();
        let mut by_key: HashMap<&str, usize> = HashMap::new();
        let mut by_correlation: HashMap<&str, usize> = HashMap::new();
        for request in &evidence.requests {
            let place = match &request.key {
                Some(key) => *by_key.entry(key).or_insert(all.len()),
                None => all.len(),
            };
            by_correlation.insert(&request.correlation_id, place);
            match all.get_mut(place) {
                Some(known) => known.requests.push(request),
                None => all.push(Operation {
                    requests: vec![request],
                    events: BTreeMap::new(),
                    audited: HashMap::new(),
                }),
            }
        }
        let mut strangers = Vec::new();
        let lines = || evidence.audit_logs.iter().flat_map(|log| &log.lines).map(|line| &line.seen);
        for seen in lines() {
            match by_correlation.get(seen.correlation_id.as_str()).and_then(|place| all.get_mut(*place)) {
                Some(operation) => drop(operation.audited.insert(&seen.event_id, seen)),
                None => strangers.push(seen),
            }
        }
        let in_topic: Vec<&Seen> = match &evidence.topic {
            Some(topic) => topic.iter().collect(),
            None => lines().collect(),
        };
        let mut ids = HashSet::new();
        for seen in in_topic {
            let first = ids.insert(&seen.event_id);
            match by_correlation.get(seen.correlation_id.as_str()).and_then(|place| all.get_mut(*place)) {
                Some(operation) if first => drop(operation.events.insert(seen.offset, seen)),
                Some(_) => {}
                None => strangers.push(seen),
            }
        }
        let topic = || evidence.topic.iter().flatten();
        let mut foreign_ids = HashSet::new();
        let foreign = topic().filter(|seen| seen.is_foreign() && foreign_ids.insert(seen.event_id.as_str()));
        let foreign = foreign.collect();
        strangers.retain(|seen| !foreign_ids.contains(seen.event_id.as_str()));
        let start = evidence.recreated_at.unwrap_or(0);
        let kept: HashSet<_> =
            topic().filter(|seen| seen.offset >= start).map(|seen| seen.event_id.as_str()).collect();
        let deleted = topic().map(|seen| seen.event_id.as_str()).filter(|id| !kept.contains(id)).collect();
        Self { all, strangers, foreign, deleted }
    }
}
