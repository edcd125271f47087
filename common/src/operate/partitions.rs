//! Each partition of a group: how far the group is, how far behind, and who owns it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

use super::groups::{Life, SlotReport, lease, short};
use super::scan::LogRange;
use crate::offsets::Slot;
use crate::offsets::fold::Owner;
use crate::time::format_time;

/// A partition of a group.
#[derive(Debug, Serialize)]
pub struct PartitionRow {
    /// The group.
    pub group: String,
    /// The topic that it reads.
    pub topic: String,
    /// The partition of that topic.
    pub partition: i32,
    /// The offset to read next; `None` where nothing was committed.
    pub current_offset: Option<i64>,
    /// The first offset of the log; `None` where the partition is gone, as for the two that follow.
    pub log_start_offset: Option<i64>,
    /// The end of the log.
    pub log_end_offset: Option<i64>,
    /// Events to read.
    pub lag: Option<i64>,
    /// The word for the life of its owner.
    pub state: &'static str,
    /// Whether its owner lives.
    #[serde(skip)]
    pub life: Life,
    /// Who owns it, unless it was released.
    pub owner: Option<OwnerRow>,
    /// How long the owner may be silent from now on.
    pub lease_left_ms: Option<u64>,
}

/// The owner of a partition.
#[derive(Debug, Serialize)]
pub struct OwnerRow {
    /// Where it runs.
    pub host: String,
    /// Its instance.
    pub instance_id: Uuid,
    /// Its fencing token.
    pub token: i64,
    /// Since when, by its clock.
    pub claimed_at: String,
    /// How long it may be silent.
    pub lease_ms: u64,
    /// Both its host and its instance, for a table.
    #[serde(skip)]
    pub short: String,
}

impl PartitionRow {
    /// The row of a slot. `range` is what its partition has, unless it is gone.
    pub fn new(slot: Slot, report: &SlotReport, range: Option<LogRange>) -> Self {
        // A group that has committed nothing will read from the earliest record.
        let behind = |range: LogRange| (range.end - report.position.unwrap_or(range.start)).max(0);
        let left = match (report.life, &report.owner) {
            (Life::Active(seen), Some(owner)) => {
                let left = (seen + lease(owner)).saturating_duration_since(Instant::now());
                Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
            }
            (Life::Silent, Some(_)) => Some(0),
            _ => None,
        };
        Self {
            group: slot.group,
            topic: slot.topic,
            partition: slot.partition,
            current_offset: report.position,
            log_start_offset: range.map(|range| range.start),
            log_end_offset: range.map(|range| range.end),
            lag: range.map(behind),
            state: report.life.as_str(),
            life: report.life,
            owner: present_owner(report).map(|owner| OwnerRow {
                host: owner.claim.host.clone(),
                instance_id: owner.claim.instance_id,
                token: owner.token,
                claimed_at: format_time(owner.claim.claimed_at),
                lease_ms: owner.claim.lease_ms,
                short: short(owner),
            }),
            lease_left_ms: left,
        }
    }
}

/// The owner, unless it has released.
fn present_owner(report: &SlotReport) -> Option<&Owner> {
    report.owner.as_ref().filter(|_| report.life != Life::Released)
}

/// Adds the partitions of the groups' topics that nobody has claimed yet. `count` is how many a topic has.
pub fn add_unclaimed(slots: &mut BTreeMap<Slot, SlotReport>, count: impl Fn(&str) -> i32) {
    let known: BTreeSet<_> = slots.keys().map(|slot| (slot.group.clone(), slot.topic.clone())).collect();
    for (group, topic) in known {
        for partition in 0..count(&topic) {
            let slot = Slot { group: group.clone(), topic: topic.clone(), partition };
            let unclaimed = SlotReport { position: None, owner: None, life: Life::Unclaimed };
            slots.entry(slot).or_insert(unclaimed);
        }
    }
}
