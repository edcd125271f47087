//! One owner at a time.
//!
//! - A claim belongs to one instance: all commits under its token are of that instance.
//! - Once a newer token has committed, an older one makes no progress. A commit that was made before and
//!   came in late tells of work that was done, and counts for nothing; nor does one that moves nothing.
//! - An audit log's lines were taken while its instance owned: not after another owner's first commit. What
//!   a paused owner had in flight it must not write when it wakes up.
//! - A notification cannot be taken back: a paused owner may write the one in flight, and no more.
//!
//! All but the first go by times, and are not asked where the clock was stepped. An owner learns of a newer claim by
//! reading the topic, so that what it does within [`LEARNS`] of the newer owner's first commit is no violation.

use std::collections::{BTreeMap, HashMap};

use super::{Check, Report, names};
use crate::evidence::{Evidence, OffsetsEntry, OffsetsSaid};
use harness::requests::Micros;

/// Time to read that another instance has claimed, on a machine that is busy.
const LEARNS: Micros = 500_000;

/// A claim.
struct Claim<'a> {
    token: i64,
    instance: &'a str,
    at: Micros,
    /// When its owner first committed. By then the claim was in the topic; since when it was there
    /// is not known, as a claim may come in long after it was sent.
    first_commit: Option<Micros>,
}

pub(super) fn check(evidence: &Evidence, report: &mut Report) {
    if evidence.topic.is_none() {
        report.checks.push(Check::without_evidence(names::OWNERS));
        return;
    }
    let mut groups: BTreeMap<&str, Vec<&OffsetsEntry>> = BTreeMap::new();
    for entry in &evidence.offsets {
        groups.entry(&entry.group).or_default().push(entry);
    }
    let mut violations = Vec::new();
    for (group, entries) in &groups {
        tokens(group, entries, !evidence.clock_stepped, &mut violations);
    }
    let by_time = |group: &str| groups.get(group).filter(|_| !evidence.clock_stepped);
    if let Some(entries) = by_time(&evidence.audit_group) {
        audit_lines(evidence, &claims(entries), &mut violations);
    }
    if let Some(entries) = by_time(&evidence.notification_group) {
        notifications(evidence, &claims(entries), &mut violations, &mut report.notes);
    }
    report.checks.push(Check::new(names::OWNERS, evidence.offsets.len(), violations));
    let takeovers: usize = groups.values().map(|entries| takeovers(&claims(entries))).sum();
    report.notes.push(format!("{takeovers} times an instance took over from another"));
}

fn claims<'a>(entries: &[&'a OffsetsEntry]) -> Vec<Claim<'a>> {
    let mut first_commits: HashMap<i64, Micros> = HashMap::new();
    for entry in entries {
        if let OffsetsSaid::Commit { token, committed_at, .. } = entry.said {
            first_commits.entry(token).or_insert(committed_at);
        }
    }
    let claims = entries.iter().filter_map(|entry| match &entry.said {
        OffsetsSaid::Claim { instance_id, claimed_at } => Some(Claim {
            token: entry.at,
            instance: instance_id,
            at: *claimed_at,
            first_commit: first_commits.get(&entry.at).copied(),
        }),
        OffsetsSaid::Commit { .. } => None,
    });
    claims.collect()
}

fn takeovers(claims: &[Claim<'_>]) -> usize {
    claims
        .windows(2)
        .filter(|pair| matches!(pair, [before, after] if before.instance != after.instance))
        .count()
}

fn tokens(group: &str, entries: &[&OffsetsEntry], by_time: bool, violations: &mut Vec<String>) {
    let owners: HashMap<i64, &str> =
        claims(entries).iter().map(|claim| (claim.token, claim.instance)).collect();
    // The newest token that has committed, since when; and how far each token came.
    let mut newest: Option<(i64, Micros)> = None;
    let mut reached: HashMap<i64, i64> = HashMap::new();
    let mut committers: HashMap<i64, &str> = HashMap::new();
    let mut position: Option<(i64, i64)> = None;
    for entry in entries {
        let OffsetsSaid::Commit { token, offset, instance_id, committed_at, .. } = &entry.said else {
            // Its owner starts at the group's position.
            reached.extend(position.map(|(_, start)| (entry.at, start)));
            continue;
        };
        if position.is_none_or(|(newest, _)| newest <= *token) {
            position = Some((*token, *offset));
        }
        // A claim that compaction took is known by the first that commits under it.
        let owner = owners.get(token).copied();
        let owner = owner.unwrap_or_else(|| committers.entry(*token).or_insert(instance_id));
        if owner != instance_id {
            violations.push(format!(
                "{group}: token {token} is {owner}'s, and {instance_id} commits {offset} under it"
            ));
        }
        let before = reached.insert(*token, *offset);
        // The first commit of a group's first owners may say no more than where they started.
        let moves = before.is_some_and(|before| before < *offset);
        match newest {
            Some((newer, since)) if *token < newer => {
                if by_time && moves && *committed_at > since + LEARNS {
                    violations.push(format!(
                        "{group}: a zombie: token {token} moves to {offset}, {} ms after token {newer} committed",
                        (committed_at - since) / 1_000
                    ));
                }
            }
            Some((newer, _)) if *token == newer => {}
            _ => newest = Some((*token, *committed_at)),
        }
    }
}

/// From when on another instance owned, until this one claimed again.
fn intervals_of_others<'a>(claims: &'a [Claim<'a>], instance: &'a str) -> Vec<(Micros, Micros)> {
    let mut intervals = Vec::new();
    let mut has_owned = false;
    let mut other_since: Option<Micros> = None;
    for claim in claims {
        if claim.instance == instance {
            has_owned = true;
            intervals.extend(other_since.take().map(|since| (since, claim.at)));
        } else if has_owned {
            other_since = other_since.or(claim.first_commit.map(|first| first + LEARNS));
        }
    }
    intervals.extend(other_since.map(|since| (since, Micros::MAX)));
    intervals
}

fn audit_lines(evidence: &Evidence, claims: &[Claim<'_>], violations: &mut Vec<String>) {
    for log in &evidence.audit_logs {
        let Some(instance) = &log.instance_id else { continue };
        for (since, until) in intervals_of_others(claims, instance) {
            let lines = log.lines.iter().filter(|line| line.at > since && line.at < until);
            violations.extend(lines.map(|line| {
                format!(
                    "{}: offset {} was taken {} ms after another instance had taken over",
                    log.name,
                    line.seen.offset,
                    (line.at - since + LEARNS) / 1_000
                )
            }));
        }
    }
}

fn notifications(
    evidence: &Evidence,
    claims: &[Claim<'_>],
    violations: &mut Vec<String>,
    notes: &mut Vec<String>,
) {
    let Some(told) = &evidence.told else { return };
    let mut by_instance: BTreeMap<&str, Vec<Micros>> = BTreeMap::new();
    for told in told {
        if let Some(instance) = &told.instance_id {
            by_instance.entry(instance).or_default().push(told.at);
        }
    }
    let mut all = 0;
    for (instance, times) in by_instance {
        for (since, until) in intervals_of_others(claims, instance) {
            let late = times.iter().filter(|at| **at > since && **at < until).count();
            all += late;
            // The one in flight.
            if late > 1 {
                violations.push(format!(
                    "instance {instance} wrote {late} notifications after another had taken over"
                ));
            }
        }
    }
    if all > 0 {
        notes.push(format!(
            "{all} notifications were written by an owner that had been paused with them in flight"
        ));
    }
}
