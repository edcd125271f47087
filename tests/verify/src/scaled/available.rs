//! The replicas answer, and what they answer.
//!
//! - Each request asks for what is there and allowed, so 4xx only for a key whose first request may still be running (409),
//!   and no longer than a request may take.
//! - 5xx never because of a replica that is killed or stopped. No answer only from a replica that is killed, in flight or not,
//!   or that was asked to stop before the request was sent. Both from a replica that is paused, and while the database is
//!   hurt, and until they work again.
//! - A client gives up sooner than a busy replica may answer, and its answer is waited for all the same: it has to come, and
//!   counts like any other.

use std::collections::HashMap;
use std::fmt::Debug;

use harness::TIMEOUT;
use harness::requests::{Answer, Late, Micros, Request};

use super::evidence::{Part, ScaledEvidence};
use crate::check::{Check, names};

/// A process that was paused, or whose database was down, works again within this time, in microseconds: it reconnects
/// with back-off.
const RECOVERY: Micros = 5_000_000;

/// The API answers within 10 s, if by 503, on whatever disk or database.
const ANSWER_LIMIT: Micros = 10_000_000;

/// A request that was sent this much before a replica was asked to stop is there: it takes a millisecond on its way.
const ON_ITS_WAY: Micros = 100_000;

pub(super) fn check(evidence: &ScaledEvidence, notes: &mut Vec<String>) -> Check {
    let unclear = unclear(&evidence.requests);
    let mut violations = Vec::new();
    let (mut excused, mut slow) = (0, 0);
    for request in &evidence.requests {
        let is_given_up = matches!(&request.answer, Answer::None { why } if why == TIMEOUT);
        let Late { ended, answer } = match &request.late {
            Some(late) if is_given_up => late.clone(),
            _ => Late { ended: request.ended, answer: request.answer.clone() },
        };
        let is_in_time = ended - request.sent <= ANSWER_LIMIT + evidence.margin;
        match &answer {
            Answer::Done { .. } if is_in_time => slow += usize::from(is_given_up),
            Answer::Refused { status: 409 } if may_run(evidence, request, &unclear) => {}
            Answer::Refused { .. } => violations.push(unwanted(request, ended, &answer)),
            _ if is_excused(evidence, request, ended, matches!(answer, Answer::Failed { .. })) => {
                excused += 1
            }
            _ => violations.push(unwanted(request, ended, &answer)),
        }
    }
    notes.push(format!(
        "{excused} requests failed or were not answered, each on a replica that was hurt, or beside a database that was; {slow} were answered after their client had given up"
    ));
    Check::new(names::UNAVAILABLE, evidence.requests.len(), violations)
}

fn is_excused(evidence: &ScaledEvidence, request: &Request, ended: Micros, is_failed: bool) -> bool {
    evidence.hurts.iter().any(|hurt| {
        let (is_hit, recovery) = match hurt.part {
            Part::Down(replica) => (replica == request.replica && !is_failed, 0),
            Part::Stopped(replica) => {
                let is_received = request.sent + ON_ITS_WAY + evidence.stop_margin < hurt.from;
                (replica == request.replica && !is_failed && !is_received, 0)
            }
            Part::Paused(replica) => (replica == request.replica, RECOVERY + evidence.margin),
            Part::Database => (true, RECOVERY + evidence.margin),
            Part::Instance(_) | Part::Broker => (false, 0),
        };
        is_hit && ended >= hurt.from && request.sent <= hurt.until + recovery
    })
}

/// By key, when its requests without a clear answer were sent, and when they ended.
fn unclear(requests: &[Request]) -> HashMap<&str, Vec<(Micros, Micros)>> {
    let mut unclear: HashMap<&str, Vec<(Micros, Micros)>> = HashMap::new();
    for request in requests {
        if let (Some(key), Answer::None { .. } | Answer::Failed { .. }) = (&request.key, &request.answer) {
            unclear.entry(key).or_default().push((request.sent, request.ended));
        }
    }
    unclear
}

/// Whether an earlier request with that key may still be running.
fn may_run(
    evidence: &ScaledEvidence,
    request: &Request,
    unclear: &HashMap<&str, Vec<(Micros, Micros)>>,
) -> bool {
    let others = request.key.as_deref().and_then(|key| unclear.get(key));
    others
        .into_iter()
        .flatten()
        .any(|(sent, ended)| *sent < request.sent && request.sent <= ended + ANSWER_LIMIT + evidence.margin)
}

fn unwanted(request: &Request, ended: Micros, what: &dyn Debug) -> String {
    let Request { kind, correlation_id, replica, sent, .. } = request;
    format!(
        "{what:?} to {kind:?} after {} ms by replica {}, which was well (sent at {sent}, correlation id {correlation_id})",
        (ended - sent) / 1_000,
        replica + 1
    )
}
