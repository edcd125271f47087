//! One group: who is in it, and its rebalance.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use uuid::Uuid;

use super::exchange::{
    Description, Join, JoinRefused, JoinReply, Joined, MemberDescription, SyncReply, Synced,
};
use crate::client::Client;

/// Kafka's `group.initial.rebalance.delay.ms` is 3 s; a test should not wait, but consumers that
/// start together should still meet.
const FIRST_REBALANCE_DELAY: Duration = Duration::from_millis(100);
/// Members of a group at a time.
const MAX_MEMBERS: usize = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Empty,
    /// Members join until this moment at the latest.
    PreparingRebalance(Instant),
    /// The leader's SyncGroup is awaited.
    CompletingRebalance,
    Stable,
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) state: State,
    pub(super) generation: i32,
    pub(super) protocol_type: String,
    pub(super) protocol: String,
    pub(super) leader: String,
    pub(super) members: BTreeMap<String, Member>,
    /// Ids given out to members that have not come back with them yet, with their end.
    pub(super) promised: HashMap<String, Instant>,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) instance_id: Option<String>,
    pub(super) client: Client,
    pub(super) session_timeout: Duration,
    pub(super) rebalance_timeout: Duration,
    pub(super) protocols: Vec<(String, Bytes)>,
    pub(super) assignment: Bytes,
    pub(super) seen: Instant,
    pub(super) joining: Option<JoinReply>,
    pub(super) syncing: Option<SyncReply>,
}

impl Group {
    pub(super) fn new() -> Self {
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

    pub(super) fn describe(&self) -> Description {
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

    pub(super) fn id_of_instance(&self, instance_id: &str) -> Option<String> {
        let has_it = |member: &Member| member.instance_id.as_deref() == Some(instance_id);
        let found = self.members.iter().find(|(_, member)| has_it(member));
        found.map(|(id, _)| id.clone())
    }

    pub(super) fn join(&mut self, mut join: Join, reply: JoinReply, now: Instant) -> Result<(), JoinRefused> {
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
    pub(super) fn accepts(&self, join: &Join) -> bool {
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

    pub(super) fn prepare_rebalance(&mut self, now: Instant, first: bool) {
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

    pub(super) fn complete_join_if_all_are_here(&mut self, now: Instant) {
        let State::PreparingRebalance(deadline) = self.state else {
            return;
        };
        // The first member of a group waits a moment for others that start with it.
        let all_here = self.generation > 0 && self.members.values().all(|m| m.joining.is_some());
        if all_here || now >= deadline {
            self.complete_join(now);
        }
    }

    pub(super) fn complete_join(&mut self, now: Instant) {
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
    pub(super) fn choose_protocol(&self) -> String {
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

    pub(super) fn sync(
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
    pub(super) fn touch(&mut self, member_id: &str, generation: i32) -> Result<(), ResponseError> {
        let member = self.members.get_mut(member_id).ok_or(ResponseError::UnknownMemberId)?;
        if generation != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        member.seen = Instant::now();
        Ok(())
    }

    pub(super) fn remove(&mut self, member_id: &str, now: Instant) -> Result<(), ResponseError> {
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

    pub(super) fn sweep(&mut self, now: Instant) {
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
    pub(super) fn supports(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|(name, _)| name == protocol)
    }

    pub(super) fn metadata(&self, protocol: &str) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| name == protocol);
        found.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }
}
