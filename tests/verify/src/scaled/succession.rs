//! Who comes after a process that was killed or stopped, and how soon.
//!
//! - What a killed instance owned is owned again within a lease: by another, or by itself after its restart.
//! - An instance that stops in order hands over within a second; where another one of its group is killed or paused at the
//!   time, that one may be who the partition is given to, and it takes a lease.
//! - The same of the replica that publishes, whose lease is that of the relay's turn. One that stops publishes until it gives
//!   its turn back, and that counts.
//! - No limit begins before the broker serves again that was hurt, for a relay the database: nobody can claim without it.
//! - Whoever is asked to stop ends with exit code 0.

use super::evidence::{End, Holder, Hurt, Manner, Part, ScaledEvidence};
use super::group::Group;
use super::turns::{Turn, turns};
use crate::check::{Check, Report, names};
use crate::system::LEASE;
use harness::requests::Micros;

/// After a stop in order.
const HANDOVER: Micros = 1_000_000;
/// How long nobody else takes the turn to publish of a replica that is silent.
const RELAY_LEASE: Micros = 6_000_000;

/// That of instances.
fn lease() -> Micros {
    Micros::try_from(LEASE.as_micros()).unwrap_or(Micros::MAX)
}

/// A place that was left, and taken again or not.
struct Vacancy {
    what: String,
    /// The longest time that was promised.
    limit: Micros,
    /// `None`: never.
    took: Option<Micros>,
}

/// After kills, and after stops.
pub(super) fn check(evidence: &ScaledEvidence, report: &mut Report) {
    let mut killed = Vacancies::default();
    let mut stopped = Vacancies::default();
    for end in &evidence.ends {
        let kind = match end.manner {
            Manner::Killed => &mut killed,
            Manner::Stopped(code) => {
                if code != Some(0) {
                    stopped
                        .violations
                        .push(format!("{:?} ended with {code:?} when asked to stop", end.holder));
                }
                &mut stopped
            }
        };
        kind.ends += 1;
        for vacancy in vacancies(evidence, end) {
            kind.add(vacancy, evidence.margin);
        }
    }
    report.checks.push(killed.into_check(names::OWNED, "killed", &mut report.notes));
    report.checks.push(stopped.into_check(names::HANDED_OVER, "stopped", &mut report.notes));
}

#[derive(Default)]
struct Vacancies {
    ends: usize,
    /// By their limit.
    times: Vec<(Micros, Micros)>,
    violations: Vec<String>,
}

impl Vacancies {
    fn add(&mut self, vacancy: Vacancy, margin: Micros) {
        let Vacancy { what, limit, took } = vacancy;
        match took {
            Some(took) => {
                self.times.push((limit, took));
                if took > limit + margin {
                    let (took, limit) = (took / 1_000, limit / 1_000);
                    self.violations
                        .push(format!("{what} and taken again after {took} ms in place of {limit} ms"));
                }
            }
            None => self.violations.push(format!("{what} and never taken again")),
        }
    }

    fn into_check(mut self, name: &'static str, manner: &str, notes: &mut Vec<String>) -> Check {
        if self.ends == 0 {
            return Check::without_evidence(name);
        }
        self.times.sort_unstable();
        for equals in self.times.chunk_by(|(one, _), (other, _)| one == other) {
            let (Some((limit, middle)), Some((_, longest))) = (equals.get(equals.len() / 2), equals.last())
            else {
                continue;
            };
            let (limit, middle, longest) = (limit / 1_000, middle / 1_000, longest / 1_000);
            let count = equals.len();
            notes.push(format!(
                "{count} places of processes that were {manner}, promised within {limit} ms, were taken after {middle} ms in the middle, {longest} ms at most"
            ));
        }
        // One that ended may have owned nothing.
        Check::new(name, self.times.len().max(self.ends), self.violations)
    }
}

/// What the process had when it ended.
fn vacancies(evidence: &ScaledEvidence, end: &End) -> Vec<Vacancy> {
    match &end.holder {
        Holder::Instance { group, id } => {
            let limit = if end.manner == Manner::Killed || others_are_hurt(evidence, end, *group) {
                lease()
            } else {
                HANDOVER
            };
            let turns = turns_of(evidence, *group);
            let left = turns.iter().enumerate().filter_map(|(partition, turns)| {
                let (since, next) = successor(turns, id, end.at)?;
                if has_ended_since(evidence, end, since) {
                    return None;
                }
                let what = format!("partition {partition} of {} was {id}'s until its end", group.name());
                Some(Vacancy { what, limit, took: took(evidence, end, next, Part::Broker) })
            });
            left.collect()
        }
        Holder::Replica(number) => {
            let turns = &evidence.relay_turns;
            let Some(last) = turns.iter().rposition(|turn| turn.at <= end.at) else { return Vec::new() };
            let had = turns.get(last).filter(|turn| turn.replica == *number);
            if had.is_none_or(|turn| has_ended_since(evidence, end, turn.at)) {
                return Vec::new();
            }
            let next = turns.get(last + 1).map(|turn| turn.at);
            let mut given = evidence.relay_turns_given.iter().filter(|turn| turn.replica == *number);
            let given = given.find(|turn| turn.at >= end.at && next.is_none_or(|next| turn.at <= next));
            let end = &End { at: given.map_or(end.at, |turn| turn.at), ..end.clone() };
            let what = format!("the outbox was published by replica {} until its end", number + 1);
            let limit = if end.manner == Manner::Killed { RELAY_LEASE } else { HANDOVER };
            vec![Vacancy { what, limit, took: took(evidence, end, next, Part::Database) }]
        }
    }
}

/// The turns at each partition of a group.
fn turns_of(evidence: &ScaledEvidence, group: Group) -> Vec<Vec<Turn<'_>>> {
    if group == Group::Dlq {
        return vec![turns(&evidence.dead_letters, &evidence.dead_letters_released, group.name())];
    }
    let partitions = evidence.partitions.iter().zip(&evidence.released);
    partitions.map(|(partition, released)| turns(&partition.offsets, released, group.name())).collect()
}

/// Where that instance owned it at that time: since when, and when the next one claimed, if at all.
fn successor(turns: &[Turn<'_>], id: &str, at: Micros) -> Option<(Micros, Option<Micros>)> {
    let last = turns.iter().rposition(|turn| turn.at <= at)?;
    let is_owner = |turn: &&Turn<'_>| turn.instance == id && turn.released_at.is_none_or(|time| time > at);
    let had = turns.get(last).filter(is_owner)?;
    Some((had.at, turns.get(last + 1).map(|turn| turn.at)))
}

/// It ended before, and has not got back what it had by then.
fn has_ended_since(evidence: &ScaledEvidence, end: &End, since: Micros) -> bool {
    evidence.ends.iter().any(|one| one.holder == end.holder && (since..end.at).contains(&one.at))
}

/// From the end, or from when that part was well again, to the successor.
fn took(evidence: &ScaledEvidence, end: &End, next: Option<Micros>, needed: Part) -> Option<Micros> {
    let next = next?;
    let hurts = evidence.hurts.iter().filter(|hurt| hurt.part == needed && hurt.from <= next);
    let start = hurts.map(|hurt| hurt.until).fold(end.at, Micros::max);
    Some(next.saturating_sub(start).max(0))
}

/// Somebody else of the group was killed or paused, or had been so for less than a lease: it counted as one that lives.
fn others_are_hurt(evidence: &ScaledEvidence, end: &End, group: Group) -> bool {
    let is_near = |hurt: &&Hurt| hurt.from <= end.at + HANDOVER && hurt.until + lease() >= end.at;
    evidence.hurts.iter().filter(is_near).any(|hurt| hurt.part == Part::Instance(group))
}
