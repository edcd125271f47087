//! Groups: whether their owners live, how far they are behind, and what in the offsets topic is not theirs.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use task_events::kafka::OffsetAt;
use task_events::offsets::Slot;
use task_events::operate::groups::{Life, SlotReport, short, watch};
use task_events::operate::members::{MemberRow, members};

use super::findings::Findings;
use super::parts;
use crate::Context;

/// How long owners are watched for a sign of life: the default lease, and a little.
const WATCH: Duration = Duration::from_secs(12);
/// A clock that differs by more than this makes times in audit lines and logs misleading.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::seconds(2);

pub(super) async fn examine(context: &Context, findings: &mut Findings) {
    let offsets = match context.offsets().await {
        Ok(offsets) => offsets,
        // It is among the topics.
        Err(_) => return,
    };
    let slots = match watch(&offsets, Some(WATCH), |_| true).await {
        Ok(slots) => slots,
        Err(error) => {
            return findings.fail("groups", error, "try again when the offsets topic can be read");
        }
    };
    if slots.is_empty() {
        findings.warn("groups", "no group has ever claimed a partition", "start the consumers");
    }
    for (slot, report) in &slots {
        life(slot, report, findings);
        lag(context, slot, report, findings).await;
    }
    let counts = context.kafka.topics().await.unwrap_or_default();
    let members = members(&offsets.view().borrow(), None, |topic| counts.get(topic).copied().unwrap_or(0));
    sharing(&members, findings);
    parts::examine(&offsets.view().borrow(), &members, findings);
    foreign(&offsets.view().borrow(), findings);
    clocks(&offsets.view().borrow(), &slots, findings);
}

fn life(slot: &Slot, report: &SlotReport, findings: &mut Findings) {
    let subject = format!("group {slot}");
    let owner = report.owner.as_ref().map(short).unwrap_or_default();
    match report.life {
        Life::Active(_) => findings.ok(subject, format!("owned by {owner}, which is alive")),
        Life::Released | Life::Unclaimed => {
            findings.warn(subject, "nobody owns it", "start an instance of its service");
        }
        Life::Silent => findings.fail(
            subject,
            format!("its owner {owner} has been silent for its lease, and nobody has taken over"),
            "look at /readyz of its instances, or start one",
        ),
        Life::Unknown => findings.warn(
            subject,
            format!("no sign of life of {owner} in {} s; its lease is longer", WATCH.as_secs()),
            "look again with `taskctl groups describe`",
        ),
    }
}

async fn lag(context: &Context, slot: &Slot, report: &SlotReport, findings: &mut Findings) {
    let Slot { topic, partition, .. } = slot;
    let start = context.kafka.list_offset(topic, *partition, OffsetAt::Earliest).await;
    let end = context.kafka.list_offset(topic, *partition, OffsetAt::Latest).await;
    let (Ok(start), Ok(end)) = (start, end) else { return };
    let Some(position) = report.position else { return };
    let subject = format!("group {slot}");
    if position < start {
        findings.fail(
            subject,
            format!("events {position} to {} were deleted by retention before it read them", start - 1),
            "restore them from a backup of the topic if there is one; keep lag below retention.ms",
        );
    } else if position > end {
        findings.fail(
            subject,
            format!("its position {position} is beyond the end of the topic, {end}: the topic was truncated or created again"),
            "its service reports where it reads from now; compare the audit log with `taskctl audit verify`",
        );
    } else {
        findings.ok(subject, format!("position {position} of {end}, lag {}", end - position));
    }
}

/// Instances that are given no partitions.
fn sharing(members: &[MemberRow], findings: &mut Findings) {
    for MemberRow { group, topic, host, .. } in members.iter().filter(|member| !member.accepts) {
        findings.warn(
            format!("group {group}"),
            format!("its instance {host} makes no progress, and is given no partitions of {topic}"),
            "look at the instance's /readyz: its disk, its output, or an event that cannot be handled",
        );
    }
}

/// Commits of another incarnation of the offsets topic.
fn foreign(view: &task_events::offsets::View, findings: &mut Findings) {
    for (slot, state) in view.fold.slots() {
        let token = state.owner().map_or(i64::MAX, |owner| owner.token);
        let foreign = state.stale_tokens(i64::MIN).into_iter().filter(|stale| *stale > token).count();
        if foreign > 0 {
            findings.warn(
                format!("group {slot}"),
                format!("{foreign} commits were written in another incarnation of the offsets topic, and are ignored"),
                "its next owner removes them; find out who copied or restored the topic",
            );
        }
    }
}

/// The clocks of live owners, as they stamp their commits, against the one here.
fn clocks(
    view: &task_events::offsets::View,
    slots: &std::collections::BTreeMap<Slot, SlotReport>,
    findings: &mut Findings,
) {
    let mut hosts = BTreeSet::new();
    for (slot, report) in slots {
        let (Life::Active(seen), Some(owner)) = (report.life, &report.owner) else { continue };
        let commit = view.slot(slot).and_then(|state| state.last_commit());
        let Some((_, commit)) = commit.filter(|(token, _)| *token == owner.token) else { continue };
        if !hosts.insert(owner.claim.host.clone()) {
            continue;
        }
        // It was written about when it was seen.
        let here = Utc::now() - TimeDelta::from_std(seen.elapsed()).unwrap_or_default();
        let ahead = commit.committed_at - here;
        let subject = format!("clock of {}", owner.claim.host);
        if ahead.abs() > CLOCK_TOLERANCE {
            findings.warn(
                subject,
                format!("it differs from the clock here by {} s", ahead.num_seconds()),
                "synchronise the clocks: nothing is decided by them, but times in logs, events and audit lines mislead",
            );
        } else {
            findings.ok(subject, "it agrees with the clock here");
        }
    }
}
