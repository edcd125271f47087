//! Consumer groups: membership by the classic protocol, and committed offsets.
//!
//! A rebalance: members join until all known ones have, or the rebalance time-out is over; each
//! gets the new generation, and the leader who is in it; the leader's SyncGroup brings the
//! assignments, which answer everybody's SyncGroup. Membership lives in memory: after a restart
//! clients join again. A static member (`group.instance.id`) that joins again takes the place of
//! its former self, with a rebalance.

mod exchange;
mod group;
pub(crate) mod offsets;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use tokio::sync::oneshot;

use group::{Group, State};
use offsets::CommittedOffsets;

pub(crate) use exchange::{Description, Join, JoinRefused, Joined, Synced};

/// Kafka's `group.min/max.session.timeout.ms`.
const SESSION_MS: std::ops::RangeInclusive<i32> = 6_000..=1_800_000;

/// Groups with members at a time.
const MAX_GROUPS: usize = 10_000;

/// Every group of this broker, which coordinates them all.
#[derive(Debug)]
pub(crate) struct Groups {
    offsets: Mutex<CommittedOffsets>,
    groups: Mutex<BTreeMap<String, Group>>,
}

impl Groups {
    /// Reads the committed offsets. Blocking.
    pub fn open(file: &Path) -> io::Result<Self> {
        Ok(Self { offsets: Mutex::new(CommittedOffsets::open(file)?), groups: Mutex::new(BTreeMap::new()) })
    }

    pub fn offsets(&self) -> MutexGuard<'_, CommittedOffsets> {
        self.offsets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes committed offsets survive a power cut; a kill of the process they survive anyway.
    /// Blocking.
    pub fn sync_offsets(&self) -> io::Result<()> {
        self.offsets().sync()
    }

    fn groups(&self) -> MutexGuard<'_, BTreeMap<String, Group>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// JoinGroup. The answer comes when the rebalance has all its members.
    pub async fn join(&self, group_id: &str, join: Join) -> Result<Joined, JoinRefused> {
        let member_id = join.member_id.clone();
        let refuse = |error| JoinRefused { error, member_id: member_id.clone() };
        if group_id.is_empty() {
            return Err(refuse(ResponseError::InvalidGroupId));
        }
        if !SESSION_MS.contains(&join.session_timeout_ms) {
            return Err(refuse(ResponseError::InvalidSessionTimeout));
        }
        let (reply, answer) = oneshot::channel();
        {
            let mut groups = self.groups();
            if groups.len() >= MAX_GROUPS && !groups.contains_key(group_id) {
                return Err(refuse(ResponseError::GroupMaxSizeReached));
            }
            let group = groups.entry(group_id.to_owned()).or_insert_with(Group::new);
            group.join(join, reply, Instant::now())?;
        }
        answer.await.unwrap_or_else(|_| Err(refuse(ResponseError::NotCoordinator)))
    }

    /// SyncGroup. The answer comes once the leader has sent the assignments.
    pub async fn sync(
        &self,
        group_id: &str,
        member_id: &str,
        generation: i32,
        assignments: Vec<(String, Bytes)>,
    ) -> Result<Synced, ResponseError> {
        let (reply, answer) = oneshot::channel();
        {
            let mut groups = self.groups();
            let group = groups.get_mut(group_id).ok_or(ResponseError::UnknownMemberId)?;
            group.sync(member_id, generation, assignments, reply)?;
        }
        answer.await.unwrap_or(Err(ResponseError::NotCoordinator))
    }

    /// Heartbeat.
    pub fn heartbeat(&self, group_id: &str, member_id: &str, generation: i32) -> Result<(), ResponseError> {
        let mut groups = self.groups();
        let group = groups.get_mut(group_id).ok_or(ResponseError::UnknownMemberId)?;
        group.touch(member_id, generation)?;
        match group.state {
            State::PreparingRebalance(_) => Err(ResponseError::RebalanceInProgress),
            _ => Ok(()),
        }
    }

    /// LeaveGroup of one member, by its id or else by its instance id.
    pub fn leave(
        &self,
        group_id: &str,
        member_id: &str,
        instance_id: Option<&str>,
    ) -> Result<(), ResponseError> {
        let mut groups = self.groups();
        let group = groups.get_mut(group_id).ok_or(ResponseError::UnknownMemberId)?;
        let id = match instance_id {
            Some(instance) => group.id_of_instance(instance),
            None => None,
        };
        let id = id.unwrap_or_else(|| member_id.to_owned());
        group.promised.remove(&id);
        group.remove(&id, Instant::now())
    }

    /// Whether a commit may be taken: from a member of the current generation, or (generation -1)
    /// from outside while the group has no members.
    pub fn check_commit(
        &self,
        group_id: &str,
        member_id: &str,
        generation: i32,
    ) -> Result<(), ResponseError> {
        let mut groups = self.groups();
        let Some(group) = groups.get_mut(group_id) else {
            return match generation {
                ..0 => Ok(()),
                _ => Err(ResponseError::IllegalGeneration),
            };
        };
        if generation < 0 && group.members.is_empty() {
            return Ok(());
        }
        group.touch(member_id, generation)?;
        match group.state {
            State::CompletingRebalance => Err(ResponseError::RebalanceInProgress),
            _ => Ok(()),
        }
    }

    /// Every group: those with members and those with offsets.
    pub fn list(&self) -> Vec<(String, Description)> {
        let mut names: Vec<String> = self.groups().keys().cloned().collect();
        names.extend(self.offsets().groups().cloned());
        names.sort_unstable();
        names.dedup();
        let described = names.into_iter().map(|name| {
            let description = self.describe(&name);
            description.map(|description| (name, description))
        });
        described.flatten().collect()
    }

    /// `None` for a group that has neither members nor offsets.
    pub fn describe(&self, group_id: &str) -> Option<Description> {
        if let Some(group) = self.groups().get(group_id) {
            return Some(group.describe());
        }
        let has_offsets = !self.offsets().of_group(group_id).is_empty();
        has_offsets.then(|| Group::new().describe())
    }

    /// Deletes an empty group with its offsets. Blocking.
    pub fn delete(&self, group_id: &str) -> Result<(), ResponseError> {
        let known = self.describe(group_id);
        {
            let mut groups = self.groups();
            if groups.get(group_id).is_some_and(|group| !group.members.is_empty()) {
                return Err(ResponseError::NonEmptyGroup);
            }
            groups.remove(group_id);
        }
        let mut offsets = self.offsets();
        let entries: Vec<_> = offsets.of_group(group_id).into_keys().collect();
        known.ok_or(ResponseError::GroupIdNotFound)?;
        offsets.delete(group_id, entries).map_err(|error| {
            log::error!("cannot delete the offsets of group {group_id}: {error}");
            ResponseError::CoordinatorNotAvailable
        })
    }

    /// Drops members that went silent and completes rebalances whose time is over.
    pub fn sweep(&self, now: Instant) {
        let mut groups = self.groups();
        for group in groups.values_mut() {
            group.sweep(now);
        }
        groups.retain(|_, group| !group.members.is_empty() || !group.promised.is_empty());
    }
}
