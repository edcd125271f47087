//! Who comes after a process that was killed, paused or stopped, and how soon.
//!
//! - What a killed instance owned is owned again within a lease: by another, or by itself after its restart. What one owned
//!   that is paused for longer is another's within a lease.
//! - An instance that stops in order gives back what it owns, by a release in the log, and hands over within a second;
//!   where another one of its group is killed or paused at the time, that one may be who the partition is given to, and it
//!   takes a lease; as it does where the broker is hurt at the time, without which nothing is given back.
//! - The same of the replica that publishes, whose lease is that of the relay's turn. One that stops publishes until it gives
//!   its turn back, and that counts.
//! - No limit begins before the broker serves again that was hurt in that time, for a relay the database: nobody can claim
//!   without it.
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
/// A process ends within this, and cannot give anything back without the broker, or the database.
const END_LIMIT: Micros = 10_000_000;

/// That of instances.
pub(super) fn lease() -> Micros {
    Micros::try_from(LEASE.as_micros()).unwrap_or(Micros::MAX)
}

/// A place that was left, and taken again or not.
struct Vacancy {
    what: String,
    /// The longest time that was promised, and how much more is let pass.
    limit: Micros,
    margin: Micros,
    /// `None`: never.
    took: Option<Micros>,
    /// It had to be given back, and was not.
    is_kept: bool,
}

/// After kills and pauses, and after stops.
pub(super) fn check(evidence: &ScaledEvidence, report: &mut Report) {
    let mut ended = Vacancies::default();
    let mut stopped = Vacancies::default();
    for end in &evidence.ends {
        let kind = if let Manner::Stopped(code) = end.manner {
            if code != Some(0) {
                stopped.violations.push(format!("{:?} ended with {code:?} when asked to stop", end.holder));
            }
            &mut stopped
        } else {
            &mut ended
        };
        vacancies(evidence, end).into_iter().for_each(|vacancy| kind.add(vacancy));
    }
    report.checks.push(ended.into_check(names::OWNED, "killed or paused", &mut report.notes));
    report.checks.push(stopped.into_check(names::HANDED_OVER, "stopped", &mut report.notes));
}

#[derive(Default)]
struct Vacancies {
    examined: usize,
    /// By their limit.
    times: Vec<(Micros, Micros)>,
    violations: Vec<String>,
}

impl Vacancies {
    fn add(&mut self, vacancy: Vacancy) {
        let Vacancy { what, limit, margin, took, is_kept } = vacancy;
        self.examined += 1;
        if is_kept {
            self.violations.push(format!("{what} and was not given back by it"));
        }
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

    /// One that ended may have owned nothing: what it had is what was looked at.
    fn into_check(mut self, name: &'static str, manner: &str, notes: &mut Vec<String>) -> Check {
        if self.examined == 0 && self.violations.is_empty() {
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
        Check::new(name, self.examined, self.violations)
    }
}

/// What the process had when it ended.
fn vacancies(evidence: &ScaledEvidence, end: &End) -> Vec<Vacancy> {
    let is_stopped = matches!(end.manner, Manner::Stopped(_));
    match &end.holder {
        Holder::Instance { group, id } => {
            // Without the broker nothing is given back.
            let is_hurt =
                others_are_hurt(evidence, end, *group) || is_near(evidence, Part::Broker, end.at, lease());
            let limit = if is_stopped && !is_hurt { HANDOVER } else { lease() };
            let turns = turns_of(evidence, *group);
            let left = turns.iter().enumerate().filter_map(|(partition, turns)| {
                let (had, next) = successor(turns, id, end.at)?;
                if has_ended_since(evidence, end, had.at) {
                    return None;
                }
                let what = format!("partition {partition} of {} was {id}'s until its end", group.name());
                let is_kept = is_stopped && had.released_at.is_none() && is_renewed(evidence, had, end.at);
                Some(Vacancy { is_kept, ..vacancy(evidence, end, what, limit, next, Part::Broker)? })
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
            // It logs so a moment after the next one may have it.
            let is_before = |at: Micros| next.is_none_or(|next| at <= next + HANDOVER);
            let mut given = evidence.relay_turns_given.iter().filter(|turn| turn.replica == *number);
            let given = given.find(|turn| turn.at >= end.at && is_before(turn.at));
            let is_kept =
                is_stopped && given.is_none() && !is_near(evidence, Part::Database, end.at, RELAY_LEASE);
            let is_given = is_stopped && (given.is_some() || is_kept);
            let end = &End { at: given.map_or(end.at, |turn| turn.at), ..end.clone() };
            let what = format!("the outbox was published by replica {} until its end", number + 1);
            let limit = if is_given { HANDOVER } else { RELAY_LEASE };
            let vacancy = vacancy(evidence, end, what, limit, next, Part::Database);
            vacancy.map(|vacancy| Vacancy { is_kept, ..vacancy }).into_iter().collect()
        }
    }
}

/// `None` where the process was paused for less than what is promised.
fn vacancy(
    evidence: &ScaledEvidence,
    end: &End,
    what: String,
    limit: Micros,
    next: Option<Micros>,
    needed: Part,
) -> Option<Vacancy> {
    let margin = if limit == HANDOVER { evidence.stop_margin } else { evidence.margin };
    // From the end, or from when that part was well again that was hurt before the time was over.
    let mut start = end.at;
    let hurts = evidence.hurts.iter().filter(|hurt| hurt.part == needed);
    let mut hurts: Vec<&Hurt> = hurts.filter(|hurt| next.is_none_or(|next| hurt.from <= next)).collect();
    hurts.sort_unstable_by_key(|hurt| hurt.from);
    for hurt in hurts {
        if hurt.from <= start + limit + margin {
            start = start.max(hurt.until);
        }
    }
    if let Manner::Paused(until) = end.manner
        && until <= start + limit + margin
    {
        return None;
    }
    let took = next.map(|next| next.saturating_sub(start).max(0));
    Some(Vacancy { what, limit, margin, took, is_kept: false })
}

/// Whether that owner still had its lease when it was asked to stop, and could give it back.
fn is_renewed(evidence: &ScaledEvidence, had: &Turn<'_>, at: Micros) -> bool {
    had.last_sign + lease() > at && !is_near(evidence, Part::Broker, at, lease())
}

/// Whether that part was hurt while a process stopped, or so shortly before that its lease may be lost.
fn is_near(evidence: &ScaledEvidence, part: Part, at: Micros, lease: Micros) -> bool {
    let is_near = |hurt: &Hurt| hurt.from <= at + END_LIMIT && hurt.until + lease >= at;
    evidence.hurts.iter().any(|hurt| hurt.part == part && is_near(hurt))
}

/// The turns at each partition of a group.
pub(super) fn turns_of(evidence: &ScaledEvidence, group: Group) -> Vec<Vec<Turn<'_>>> {
    if group == Group::Dlq {
        return vec![turns(&evidence.dead_letters, &evidence.dead_letters_released, group.name())];
    }
    let partitions = evidence.partitions.iter().zip(&evidence.released);
    partitions.map(|(partition, released)| turns(&partition.offsets, released, group.name())).collect()
}

/// Where that instance owned it at that time: its turn, and when the next one claimed, if at all.
fn successor<'a, 'b>(turns: &'a [Turn<'b>], id: &str, at: Micros) -> Option<(&'a Turn<'b>, Option<Micros>)> {
    let last = turns.iter().rposition(|turn| turn.at <= at)?;
    let is_owner = |turn: &&Turn<'_>| turn.instance == id && turn.released_at.is_none_or(|time| time > at);
    let had = turns.get(last).filter(is_owner)?;
    Some((had, turns.get(last + 1).map(|turn| turn.at)))
}

/// It was killed or stopped before, and has not got back what it had by then.
fn has_ended_since(evidence: &ScaledEvidence, end: &End, since: Micros) -> bool {
    let mut ends = evidence.ends.iter().filter(|one| !matches!(one.manner, Manner::Paused(_)));
    ends.any(|one| one.holder == end.holder && (since..end.at).contains(&one.at))
}

/// Somebody else of the group was killed or paused, or had been so for less than a lease: it counted as one that lives.
fn others_are_hurt(evidence: &ScaledEvidence, end: &End, group: Group) -> bool {
    let is_near = |hurt: &&Hurt| hurt.from <= end.at + HANDOVER && hurt.until + lease() >= end.at;
    evidence.hurts.iter().filter(is_near).any(|hurt| hurt.part == Part::Instance(group))
}
