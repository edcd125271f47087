//! Who owns what, as the offsets topic says; and what is wrong with it once nothing happens any more: each partition is a
//! living instance's, and no instance has two more than another.

use std::collections::BTreeMap;

use super::follower::Record;
use super::group::Group;
use super::system::{PARTITIONS, Scaled};
use crate::evidence::OffsetsSaid;

/// The owner of each partition of that group that was not given back.
pub(super) fn owners(records: &[Record], group: Group) -> BTreeMap<usize, String> {
    let mut owners: BTreeMap<usize, (i64, String)> = BTreeMap::new();
    for record in records.iter().filter(|record| record.entry.group == group.name()) {
        match &record.entry.said {
            OffsetsSaid::Claim { instance_id, .. } => {
                owners.insert(record.partition, (record.entry.at, instance_id.clone()));
            }
            OffsetsSaid::Commit { token, .. } if record.released => {
                if owners.get(&record.partition).is_some_and(|(owner, _)| owner == token) {
                    owners.remove(&record.partition);
                }
            }
            OffsetsSaid::Commit { .. } => {}
        }
    }
    owners.into_iter().map(|(partition, (_, id))| (partition, id)).collect()
}

/// Why the partitions are not shared by the instances that live; all live that are to.
pub(super) fn unshared(system: &Scaled, records: &[Record], group: Group) -> Option<String> {
    let owners = owners(records, group);
    let ids = system.of(group).filter_map(super::system::Instance::instance_id);
    let mut shares: BTreeMap<String, usize> = ids.map(|id| (id, 0)).collect();
    for owner in owners.values() {
        match shares.get_mut(owner) {
            Some(share) => *share += 1,
            None => return Some(format!("{owner} owns a partition of {} and is no instance", group.name())),
        }
    }
    let (partitions, instances) =
        (if group == Group::Dlq { 1 } else { PARTITIONS }, system.of(group).count());
    let (most, least) = (shares.values().max()?, shares.values().min()?);
    let is_shared = owners.len() == partitions && shares.len() == instances && most - least <= 1;
    (!is_shared).then(|| {
        format!(
            "{} of {partitions} partitions of {} are owned, {least} to {most} by an instance",
            owners.len(),
            group.name()
        )
    })
}
