//! The records of the offsets topic: their keys and values, and reading them from what a topic may hold.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::member::{Member, VERSION};
use crate::kafka::Position;
use crate::time::serialize_time;

/// The longest lease, in milliseconds. A claim with a longer one is not of this system: it would hold its
/// partition for as long.
pub const MAX_LEASE_MS: u64 = 3_600_000;

/// One partition as read by one group: what is owned, and what has a position.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot {
    /// The consumer group.
    pub group: String,
    /// The topic that it reads.
    pub topic: String,
    /// The partition of that topic.
    pub partition: i32,
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.group, self.topic, self.partition)
    }
}

/// What a record of the topic is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// Who owns the slot.
    Claim(Slot),
    /// How far the owner with this token is.
    Commit(Slot, i64),
    /// An instance of the group lives.
    Member(String, Uuid),
}

/// An instance takes a slot over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    v: u32,
    /// Names this claim, so that one whose acknowledgement was lost is found again.
    pub claim_id: Uuid,
    /// The instance; outlives its restarts.
    pub instance_id: Uuid,
    /// The service that owns the group. `None` (an operator's claim, or an older record) fits every service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Where it runs, for people.
    pub host: String,
    /// When, for people: nothing is decided by it.
    #[serde(serialize_with = "serialize_time")]
    pub claimed_at: DateTime<Utc>,
    /// How long this owner may be silent, in milliseconds.
    pub lease_ms: u64,
}

impl Claim {
    /// A claim with an id of its own, made now.
    pub fn new(instance_id: Uuid, host: &str, lease_ms: u64) -> Self {
        Self {
            v: VERSION,
            claim_id: Uuid::new_v4(),
            instance_id,
            service: None,
            host: host.to_owned(),
            claimed_at: Utc::now(),
            lease_ms,
        }
    }
}

impl Claim {
    /// The same, for one service alone.
    pub fn for_service(self, service: &str) -> Self {
        Self { service: Some(service.to_owned()), ..self }
    }

    /// How long this owner may be silent.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }
}

/// All below `offset` is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    v: u32,
    /// The offset to read next.
    pub offset: i64,
    /// The id of the topic in which that holds; `None` where it is not known, as in older records.
    #[serde(default)]
    pub topic_id: Option<Uuid>,
    /// The leader epoch of the last record below it, where known.
    #[serde(default)]
    pub leader_epoch: Option<i32>,
    /// Who did the work.
    pub instance_id: Uuid,
    /// When, for people.
    #[serde(serialize_with = "serialize_time")]
    pub committed_at: DateTime<Utc>,
    /// The owner has stopped and wants nothing more: whoever waits may claim at once.
    pub released: bool,
    /// A release only: the instance that is to own next. It claims at once, and anyone else a little later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Uuid>,
    /// Room for what a group wants to keep beside its offset.
    #[serde(default)]
    pub meta: serde_json::Map<String, serde_json::Value>,
}

impl Commit {
    /// A commit made now, of an offset about which nothing else is known.
    pub fn new(offset: i64, instance_id: Uuid, released: bool) -> Self {
        Self::at(Position::at(offset), instance_id, released)
    }

    /// A commit made now.
    pub fn at(position: Position, instance_id: Uuid, released: bool) -> Self {
        Self {
            v: VERSION,
            offset: position.offset,
            topic_id: position.topic_id,
            leader_epoch: position.leader_epoch,
            instance_id,
            committed_at: Utc::now(),
            released,
            to: None,
            meta: serde_json::Map::new(),
        }
    }
}

impl Commit {
    /// A release, for one instance where one is named.
    pub fn released_to(self, to: Option<Uuid>) -> Self {
        Self { released: true, to, ..self }
    }

    /// The same, with how far each instance's own state goes.
    pub fn with_done_by(mut self, done_by: &DoneBy) -> Self {
        if !done_by.0.is_empty() {
            self.meta.insert(DONE_BY.to_owned(), done_by.to_json());
        }
        self
    }

    /// An operator's: the group was moved here from that position.
    pub fn moved_from(mut self, from: Option<i64>) -> Self {
        if let Some(from) = from {
            self.meta.insert(MOVED_FROM.to_owned(), from.into());
        }
        self
    }

    /// Where the group was before an operator moved it here, if one did.
    pub fn was_moved_from(&self) -> Option<i64> {
        self.meta.get(MOVED_FROM)?.as_i64()
    }

    /// How far each instance has committed of what its own state holds, as far as kept.
    pub fn done_by(&self) -> DoneBy {
        DoneBy::from_json(self.meta.get(DONE_BY))
    }

    /// The same, with more of what the group keeps beside its offset.
    pub fn with_meta(mut self, meta: serde_json::Map<String, serde_json::Value>) -> Self {
        self.meta.extend(meta);
        self
    }

    /// Where to read next.
    pub fn position(&self) -> Position {
        Position { offset: self.offset, leader_epoch: self.leader_epoch, topic_id: self.topic_id }
    }
}

/// Where a commit keeps it.
const DONE_BY: &str = "done_by";
const MOVED_FROM: &str = "moved_from";
/// Instances that are remembered for a partition: those that came furthest.
const MAX_DONE_BY: usize = 16;

/// How far each instance has itself committed a partition whose work is in its own state, as a log is: what
/// tells a state that was lost or restored from one that another instance went on from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DoneBy(BTreeMap<Uuid, i64>);

impl DoneBy {
    /// The offset below which the instance has done its part, if it has any.
    pub fn of(&self, instance_id: Uuid) -> Option<i64> {
        self.0.get(&instance_id).copied()
    }

    /// The instance is that far.
    pub fn set(&mut self, instance_id: Uuid, offset: i64) {
        self.0.insert(instance_id, offset);
        while self.0.len() > MAX_DONE_BY {
            let others = self.0.iter().filter(|(id, _)| **id != instance_id);
            let Some(least) = others.min_by_key(|(_, offset)| **offset).map(|(id, _)| *id) else { return };
            self.0.remove(&least);
        }
    }

    /// Whether nothing is known of anybody's part.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The instances that are known.
    pub fn instances(&self) -> impl Iterator<Item = Uuid> + '_ {
        self.0.keys().copied()
    }

    /// Each instance with how far it is.
    pub fn iter(&self) -> impl Iterator<Item = (Uuid, i64)> + '_ {
        self.0.iter().map(|(id, offset)| (*id, *offset))
    }

    /// The same once all from that offset on is read again.
    pub fn capped(&self, offset: i64) -> Self {
        Self(self.0.iter().map(|(id, done)| (*id, offset.min(*done))).collect())
    }

    fn to_json(&self) -> serde_json::Value {
        self.0.iter().map(|(id, offset)| (id.to_string(), serde_json::Value::from(*offset))).collect()
    }

    fn from_json(value: Option<&serde_json::Value>) -> Self {
        let entries = value.and_then(serde_json::Value::as_object).into_iter().flatten();
        let read = |(id, offset): (&String, &serde_json::Value)| Some((id.parse().ok()?, offset.as_i64()?));
        let mut done_by = Self::default();
        entries.filter_map(read).for_each(|(id, offset)| done_by.set(id, offset));
        done_by
    }
}

/// A record of the topic that makes sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OffsetsRecord {
    /// A claim; `None` is its tombstone.
    Claim(Slot, Option<Claim>),
    /// A commit under a token; `None` is its tombstone.
    Commit(Slot, i64, Option<Commit>),
    /// A member of a group; `None` is its tombstone.
    Member(String, Uuid, Option<Member>),
}

/// The key of a record as it is in the topic.
pub fn render_key(key: &Key) -> Vec<u8> {
    match key {
        Key::Claim(slot) => format!("{slot}/claim"),
        Key::Commit(slot, token) => format!("{slot}/commit/{token}"),
        Key::Member(group, instance_id) => format!("{group}/member/{instance_id}"),
    }
    .into_bytes()
}

fn parse_key(key: &str) -> Option<Key> {
    let mut parts = key.split('/');
    let group = parts.next().filter(|group| !group.is_empty())?.to_owned();
    let topic = parts.next().filter(|topic| !topic.is_empty())?.to_owned();
    let third = parts.next()?;
    if let Some(instance_id) = instance(third).filter(|_| topic == "member") {
        return parts.next().is_none().then_some(Key::Member(group, instance_id));
    }
    let slot = Slot { group, topic, partition: number(third)? };
    let key = match (parts.next()?, parts.next()) {
        ("claim", None) => Key::Claim(slot),
        ("commit", Some(token)) => Key::Commit(slot, number(token)?),
        _ => return None,
    };
    parts.next().is_none().then_some(key)
}

/// A number from 0 in its only spelling: `+1` or `01` would be another key for the same thing.
fn number<T: std::str::FromStr + fmt::Display + PartialOrd + Default>(text: &str) -> Option<T> {
    text.parse().ok().filter(|n: &T| *n >= T::default() && n.to_string() == text)
}

/// An instance's id in its only spelling, as with [`number`].
fn instance(text: &str) -> Option<Uuid> {
    text.parse().ok().filter(|id: &Uuid| id.to_string() == text)
}

/// Reads a record, or says why it makes no sense.
pub fn parse(key: Option<&[u8]>, value: Option<&[u8]>) -> Result<OffsetsRecord, String> {
    let key = key.ok_or("it has no key")?;
    let text = std::str::from_utf8(key).map_err(|error| format!("its key is not UTF-8: {error}"))?;
    match parse_key(text).ok_or_else(|| format!("its key is of no known form: {text:.100}"))? {
        Key::Claim(slot) => {
            let claim: Option<Claim> = read(value)?;
            known_version(claim.as_ref().map(|claim| claim.v))?;
            within_bounds(claim.as_ref().map(|claim| claim.lease_ms))?;
            Ok(OffsetsRecord::Claim(slot, claim))
        }
        Key::Commit(slot, token) => {
            let commit: Option<Commit> = read(value)?;
            known_version(commit.as_ref().map(|commit| commit.v))?;
            if commit.as_ref().is_some_and(|commit| commit.offset < 0) {
                return Err("its offset is negative".to_owned());
            }
            Ok(OffsetsRecord::Commit(slot, token, commit))
        }
        Key::Member(group, instance_id) => {
            let member: Option<Member> = read(value)?;
            known_version(member.as_ref().map(Member::version))?;
            within_bounds(member.as_ref().map(|member| member.lease_ms))?;
            Ok(OffsetsRecord::Member(group, instance_id, member))
        }
    }
}

fn within_bounds(lease_ms: Option<u64>) -> Result<(), String> {
    match lease_ms {
        Some(lease_ms) if lease_ms > MAX_LEASE_MS => {
            Err(format!("its lease is {lease_ms} ms, the longest is {MAX_LEASE_MS}"))
        }
        _ => Ok(()),
    }
}

fn read<T: serde::de::DeserializeOwned>(value: Option<&[u8]>) -> Result<Option<T>, String> {
    value
        .map(serde_json::from_slice)
        .transpose()
        .map_err(|error| format!("its value cannot be read: {error}"))
}

fn known_version(v: Option<u32>) -> Result<(), String> {
    match v {
        None | Some(VERSION) => Ok(()),
        Some(other) => Err(format!("its version is {other}, this program knows {VERSION}")),
    }
}

#[cfg(test)]
mod tests;
