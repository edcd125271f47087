//! Consumer groups: membership by the classic protocol, and committed offsets.
//!
//! A rebalance: members join until all known ones have, or the rebalance time-out is over; each
//! is told the new generation, and the leader who is in it; the leader's SyncGroup brings the
//! assignments, which answer everybody's SyncGroup. Membership lives in memory: after a restart
//! clients join anew. A static member (`group.instance.id`) that joins again takes the place of
//! its former self, with a rebalance.

pub(crate) mod offsets;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use tokio::sync::oneshot;
use uuid::Uuid;

use offsets::CommittedOffsets;

use crate::api::Client;

/// Kafka's `group.min/max.session.timeout.ms`.
const SESSION_MS: std::ops::RangeInclusive<i32> = 6_000..=1_800_000;
/// Kafka's `group.initial.rebalance.delay.ms` is 3 s; a test should not wait, but consumers that
/// start together should still meet.
const FIRST_REBALANCE_DELAY: Duration = Duration::from_millis(100);
/// Groups with members, and members of a group, at a time.
const MAX_GROUPS: usize = 10_000;
const MAX_MEMBERS: usize = 1_000;

/// A JoinGroup request.
#[derive(Debug)]
pub(crate) struct Join {
    pub member_id: String,
    pub instance_id: Option<String>,
    pub client: Client,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
    pub protocol_type: String,
    pub protocols: Vec<(String, Bytes)>,
    /// From version 4 on a new member is first given an id and asked to come again with it.
    pub needs_known_id: bool,
}

/// What a member that joined is told.
#[derive(Debug, Clone)]
pub(crate) struct Joined {
    pub generation: i32,
    pub protocol_type: String,
    pub protocol: String,
    pub leader: String,
    pub member_id: String,
    /// Everybody, for the leader only: member id, instance id, metadata.
    pub members: Vec<(String, Option<String>, Bytes)>,
}

/// Why a join failed, with the id that the member should use.
#[derive(Debug)]
pub(crate) struct JoinRefused {
    pub error: ResponseError,
    pub member_id: String,
}

/// The assignment a member got.
#[derive(Debug, Clone)]
pub(crate) struct Synced {
    pub protocol_type: String,
    pub protocol: String,
    pub assignment: Bytes,
}

type JoinReply = oneshot::Sender<Result<Joined, JoinRefused>>;
type SyncReply = oneshot::Sender<Result<Synced, ResponseError>>;

/// A group as the tools see it.
#[derive(Debug)]
pub(crate) struct Description {
    pub state: &'static str,
    pub protocol_type: String,
    pub protocol: String,
    pub members: Vec<MemberDescription>,
}

/// A member as the tools see it.
#[derive(Debug)]
pub(crate) struct MemberDescription {
    pub id: String,
    pub instance_id: Option<String>,
    pub client: Client,
    pub metadata: Bytes,
    pub assignment: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Empty,
    /// Members join until this moment at the latest.
    PreparingRebalance(Instant),
    /// The leader's SyncGroup is awaited.
    CompletingRebalance,
    Stable,
}

#[derive(Debug)]
struct Group {
    state: State,
    generation: i32,
    protocol_type: String,
    protocol: String,
    leader: String,
    members: BTreeMap<String, Member>,
    /// Ids given out to members that have not come back with them yet, with their end.
    promised: HashMap<String, Instant>,
}

#[derive(Debug)]
struct Member {
    instance_id: Option<String>,
    client: Client,
    session_timeout: Duration,
    rebalance_timeout: Duration,
    protocols: Vec<(String, Bytes)>,
    assignment: Bytes,
    seen: Instant,
    joining: Option<JoinReply>,
    syncing: Option<SyncReply>,
}

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

impl Group {
    fn new() -> Self {
        Self {
            state: State::Empty,
            generation: 0,
            protocol_type: String::new(),
            protocol: String::new(),
            leader: String::new(),
            members: BTreeMap::new(),
            promised: HashMap::new(),
        }
    }

    fn describe(&self) -> Description {
        let members = self.members.iter().map(|(id, member)| MemberDescription {
            id: id.clone(),
            instance_id: member.instance_id.clone(),
            client: member.client.clone(),
            metadata: member.metadata(&self.protocol),
            assignment: member.assignment.clone(),
        });
        Description {
            state: match self.state {
                State::Empty => "Empty",
                State::PreparingRebalance(_) => "PreparingRebalance",
                State::CompletingRebalance => "CompletingRebalance",
                State::Stable => "Stable",
            },
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            members: members.collect(),
        }
    }

    fn id_of_instance(&self, instance_id: &str) -> Option<String> {
        let has_it = |member: &Member| member.instance_id.as_deref() == Some(instance_id);
        let found = self.members.iter().find(|(_, member)| has_it(member));
        found.map(|(id, _)| id.clone())
    }

    fn join(&mut self, mut join: Join, reply: JoinReply, now: Instant) -> Result<(), JoinRefused> {
        let is_new = join.member_id.is_empty();
        let refuse = |error, member_id: &str| JoinRefused { error, member_id: member_id.to_owned() };
        if is_new {
            join.member_id = format!("{}-{}", join.client.id, Uuid::new_v4());
        }
        let id = join.member_id.clone();
        let size = self.members.len() + self.promised.len();
        if size >= MAX_MEMBERS && is_new {
            return Err(refuse(ResponseError::GroupMaxSizeReached, ""));
        }
        if !self.accepts(&join) {
            return Err(refuse(ResponseError::InconsistentGroupProtocol, &join.member_id));
        }
        let session_timeout = Duration::from_millis(join.session_timeout_ms.unsigned_abs().into());
        if is_new && join.needs_known_id && join.instance_id.is_none() {
            self.promised.insert(id.clone(), now + session_timeout);
            return Err(refuse(ResponseError::MemberIdRequired, &id));
        }
        let promised = self.promised.remove(&id).is_some();
        if !is_new && !promised && !self.members.contains_key(&id) {
            return Err(refuse(ResponseError::UnknownMemberId, &id));
        }
        if let Some(former) = join.instance_id.as_deref().and_then(|i| self.id_of_instance(i))
            && former != id
        {
            if !is_new {
                return Err(refuse(ResponseError::FencedInstanceId, &id));
            }
            self.members.remove(&former);
        }
        if self.members.is_empty() {
            self.protocol_type = join.protocol_type;
            self.state = State::Empty;
        }
        let first = self.members.is_empty();
        let rebalance_timeout = match join.rebalance_timeout_ms {
            // Version 0 has none: there the session time-out counts.
            ..=0 => session_timeout,
            given => Duration::from_millis(given.unsigned_abs().into()),
        };
        self.members.insert(
            id,
            Member {
                instance_id: join.instance_id,
                client: join.client,
                session_timeout,
                rebalance_timeout,
                protocols: join.protocols,
                assignment: Bytes::new(),
                seen: now,
                joining: Some(reply),
                syncing: None,
            },
        );
        self.prepare_rebalance(now, first);
        self.complete_join_if_all_are_here(now);
        Ok(())
    }

    /// Whether the member shares a protocol with everybody.
    fn accepts(&self, join: &Join) -> bool {
        if join.protocols.is_empty() || join.protocol_type.is_empty() {
            return false;
        }
        let mut others = self.members.iter().filter(|(id, _)| **id != join.member_id).peekable();
        if others.peek().is_none() {
            return true;
        }
        let others: Vec<&Member> = others.map(|(_, member)| member).collect();
        let common = |name: &String| others.iter().all(|member| member.supports(name));
        self.protocol_type == join.protocol_type && join.protocols.iter().any(|(name, _)| common(name))
    }

    fn prepare_rebalance(&mut self, now: Instant, first: bool) {
        for member in self.members.values_mut() {
            if let Some(syncing) = member.syncing.take() {
                let _ = syncing.send(Err(ResponseError::RebalanceInProgress));
            }
        }
        if matches!(self.state, State::PreparingRebalance(_)) {
            return;
        }
        let longest = self.members.values().map(|member| member.rebalance_timeout).max();
        let wait = match first {
            true => FIRST_REBALANCE_DELAY,
            false => longest.unwrap_or_default(),
        };
        self.state = State::PreparingRebalance(now + wait);
    }

    fn complete_join_if_all_are_here(&mut self, now: Instant) {
        let State::PreparingRebalance(deadline) = self.state else {
            return;
        };
        // The first member of a group waits a moment for others that start with it.
        let all_here = self.generation > 0 && self.members.values().all(|m| m.joining.is_some());
        if all_here || now >= deadline {
            self.complete_join(now);
        }
    }

    fn complete_join(&mut self, now: Instant) {
        self.members.retain(|_, member| member.joining.is_some());
        self.generation += 1;
        let Some(first) = self.members.keys().next().cloned() else {
            self.state = State::Empty;
            return;
        };
        if !self.members.contains_key(&self.leader) {
            self.leader = first;
        }
        self.protocol = self.choose_protocol();
        self.state = State::CompletingRebalance;
        let everybody: Vec<_> = self
            .members
            .iter()
            .map(|(id, member)| {
                let metadata = member.metadata(&self.protocol);
                (id.clone(), member.instance_id.clone(), metadata)
            })
            .collect();
        for (id, member) in &mut self.members {
            member.seen = now;
            let joined = Joined {
                generation: self.generation,
                protocol_type: self.protocol_type.clone(),
                protocol: self.protocol.clone(),
                leader: self.leader.clone(),
                member_id: id.clone(),
                members: if *id == self.leader { everybody.clone() } else { Vec::new() },
            };
            if let Some(joining) = member.joining.take() {
                let _ = joining.send(Ok(joined));
            }
        }
    }

    /// The protocol that everybody has and most members put first.
    fn choose_protocol(&self) -> String {
        let mut votes: BTreeMap<&String, usize> = BTreeMap::new();
        for member in self.members.values() {
            let common = |name: &&String| self.members.values().all(|other| other.supports(name));
            if let Some(vote) = member.protocols.iter().map(|(name, _)| name).find(common) {
                *votes.entry(vote).or_default() += 1;
            }
        }
        let most = votes.into_iter().max_by_key(|(_, count)| *count);
        most.map(|(name, _)| name.clone()).unwrap_or_default()
    }

    fn sync(
        &mut self,
        member_id: &str,
        generation: i32,
        assignments: Vec<(String, Bytes)>,
        reply: SyncReply,
    ) -> Result<(), ResponseError> {
        self.touch(member_id, generation)?;
        match self.state {
            State::Empty => return Err(ResponseError::UnknownMemberId),
            State::PreparingRebalance(_) => return Err(ResponseError::RebalanceInProgress),
            State::Stable => {}
            State::CompletingRebalance => {
                if member_id == self.leader {
                    let mut assignments: HashMap<String, Bytes> = assignments.into_iter().collect();
                    for (id, member) in &mut self.members {
                        member.assignment = assignments.remove(id).unwrap_or_default();
                    }
                    self.state = State::Stable;
                }
            }
        }
        if let Some(member) = self.members.get_mut(member_id) {
            member.syncing = Some(reply);
        }
        if self.state == State::Stable {
            for member in self.members.values_mut() {
                let synced = Synced {
                    protocol_type: self.protocol_type.clone(),
                    protocol: self.protocol.clone(),
                    assignment: member.assignment.clone(),
                };
                if let Some(syncing) = member.syncing.take() {
                    let _ = syncing.send(Ok(synced));
                }
            }
        }
        Ok(())
    }

    /// Takes a sign of life of a member of the current generation.
    fn touch(&mut self, member_id: &str, generation: i32) -> Result<(), ResponseError> {
        let member = self.members.get_mut(member_id).ok_or(ResponseError::UnknownMemberId)?;
        if generation != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        member.seen = Instant::now();
        Ok(())
    }

    fn remove(&mut self, member_id: &str, now: Instant) -> Result<(), ResponseError> {
        self.members.remove(member_id).ok_or(ResponseError::UnknownMemberId)?;
        if self.members.is_empty() {
            self.state = State::Empty;
            self.generation += 1;
            return Ok(());
        }
        self.prepare_rebalance(now, false);
        self.complete_join_if_all_are_here(now);
        Ok(())
    }

    fn sweep(&mut self, now: Instant) {
        self.promised.retain(|_, until| *until > now);
        // Who waits for an answer of ours is not silent, unless its connection has gone.
        let silent = |member: &Member| {
            let waits = member.joining.as_ref().is_some_and(|reply| !reply.is_closed())
                || member.syncing.as_ref().is_some_and(|reply| !reply.is_closed());
            !waits && now.duration_since(member.seen) > member.session_timeout
        };
        let gone: Vec<String> =
            self.members.iter().filter(|(_, member)| silent(member)).map(|(id, _)| id.clone()).collect();
        for id in gone {
            log::info!("member {id} went silent and is dropped from its group");
            // It was there a moment ago.
            let _ = self.remove(&id, now);
        }
        self.complete_join_if_all_are_here(now);
    }
}

impl Member {
    fn supports(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|(name, _)| name == protocol)
    }

    fn metadata(&self, protocol: &str) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| name == protocol);
        found.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }
}
