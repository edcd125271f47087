//! Nothing is there twice: in an audit log never, in the topic only after an unclear produce.
//!
//! A copy in the topic is explained when the relay could not have seen it: it sent a batch, got no answer,
//! read the topic's tail, did not find the batch, sent it again, and then the first one came in. So the
//! relay's log has a settlement that ended at or before the first copy, close to it, and before the relay
//! went on beyond it. One settlement explains one copy more. A copy with no such settlement was sent
//! blindly.

use std::collections::{HashMap, HashSet};

use super::{Check, Report, names};
use crate::evidence::{Evidence, RelaySaid, Seen};

/// What is unclear is among the first events of the outbox (the relay's window of 2,000), and as many again
/// may have come in late before it.
const NEAR: i64 = 4_000;

pub(super) fn check(evidence: &Evidence, report: &mut Report) {
    report.checks.push(twice_audited(evidence, &mut report.notes));
    report.checks.push(twice_in_topic(evidence, &mut report.notes));
}

fn twice_audited(evidence: &Evidence, notes: &mut Vec<String>) -> Check {
    if evidence.audit_logs.is_empty() {
        return Check::without_evidence(names::TWICE_AUDITED);
    }
    let mut violations = Vec::new();
    let mut examined = 0;
    let mut in_several: HashMap<&str, usize> = HashMap::new();
    for log in &evidence.audit_logs {
        let mut ids = HashSet::new();
        for line in &log.lines {
            examined += 1;
            if ids.insert(line.seen.event_id.as_str()) {
                *in_several.entry(&line.seen.event_id).or_default() += 1;
            } else {
                violations.push(format!("twice in {}: {:?}", log.name, line.seen));
            }
        }
    }
    if evidence.audit_logs.len() > 1 {
        let both = in_several.values().filter(|logs| **logs > 1).count();
        notes.push(format!("{both} events are in more than one audit log: each is completed on its own"));
    }
    Check::new(names::TWICE_AUDITED, examined, violations)
}

fn twice_in_topic(evidence: &Evidence, notes: &mut Vec<String>) -> Check {
    let Some(topic) = &evidence.topic else { return Check::without_evidence(names::TWICE_IN_TOPIC) };
    // What was sent again to a topic that was created again is no copy.
    let is_new = |seen: &Seen| evidence.recreated_at.is_some_and(|start| seen.offset >= start);
    let mut copies: HashMap<(&str, bool), Vec<&Seen>> = HashMap::new();
    for seen in topic {
        copies.entry((&seen.event_id, is_new(seen))).or_default().push(seen);
    }
    let mut repeated: Vec<_> = copies.into_values().filter(|copies| copies.len() > 1).collect();
    repeated.sort_by_key(|copies| copies.first().map(|seen| seen.offset));
    let more: usize = repeated.iter().map(|copies| copies.len() - 1).sum();
    let Some(relay) = &evidence.relay else {
        notes.push(format!(
            "{more} duplicates in the topic; whether they are explained, the API's log would say"
        ));
        return Check::without_evidence(names::TWICE_IN_TOPIC);
    };
    let mut violations = Vec::new();
    for copies in &repeated {
        let Some(first) = copies.first() else { continue };
        if copies.len() - 1 > settlements_before(relay, first.offset) {
            let offsets: Vec<_> = copies.iter().map(|seen| seen.offset).collect();
            violations.push(format!(
                "sent again without a look at the topic: {} at offsets {offsets:?}",
                first.event_id
            ));
        }
    }
    notes.push(format!(
        "{more} duplicates in the topic, {} explained: a produce without an answer came in after the relay had looked for it",
        more - violations.len().min(more)
    ));
    Check::new(names::TWICE_IN_TOPIC, topic.len(), violations)
}

/// Settlements that could not have seen what is at `offset`, and after which it was soon sent.
fn settlements_before(relay: &[RelaySaid], offset: i64) -> usize {
    let beyond = |said: &RelaySaid| match said {
        RelaySaid::Delivered { last, .. } => *last >= offset,
        RelaySaid::Reconciled { end } => *end > offset,
    };
    let before = relay.iter().take_while(|said| !beyond(said));
    before.filter(|said| matches!(said, RelaySaid::Reconciled { end } if offset - end <= NEAR)).count()
}
