//! The records of the offsets topic: their keys and values, and reading them from what a topic may hold.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::kafka::Position;
use crate::time::serialize_time;

/// The version of both values that this code writes and reads.
const VERSION: u32 = 1;
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
            meta: serde_json::Map::new(),
        }
    }
}

impl Commit {
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

/// A record of the topic that makes sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OffsetsRecord {
    /// A claim; `None` is its tombstone.
    Claim(Slot, Option<Claim>),
    /// A commit under a token; `None` is its tombstone.
    Commit(Slot, i64, Option<Commit>),
}

/// The key of a record as it is in the topic.
pub fn render_key(key: &Key) -> Vec<u8> {
    match key {
        Key::Claim(slot) => format!("{slot}/claim"),
        Key::Commit(slot, token) => format!("{slot}/commit/{token}"),
    }
    .into_bytes()
}

fn parse_key(key: &str) -> Option<Key> {
    let mut parts = key.split('/');
    let slot = Slot {
        group: parts.next().filter(|group| !group.is_empty())?.to_owned(),
        topic: parts.next().filter(|topic| !topic.is_empty())?.to_owned(),
        partition: number(parts.next()?)?,
    };
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

/// Reads a record, or says why it makes no sense.
pub fn parse(key: Option<&[u8]>, value: Option<&[u8]>) -> Result<OffsetsRecord, String> {
    let key = key.ok_or("it has no key")?;
    let text = std::str::from_utf8(key).map_err(|error| format!("its key is not UTF-8: {error}"))?;
    match parse_key(text).ok_or_else(|| format!("its key is of no known form: {text:.100}"))? {
        Key::Claim(slot) => {
            let claim: Option<Claim> = read(value)?;
            known_version(claim.as_ref().map(|claim| claim.v))?;
            if let Some(claim) = claim.as_ref().filter(|claim| claim.lease_ms > MAX_LEASE_MS) {
                return Err(format!("its lease is {} ms, the longest is {MAX_LEASE_MS}", claim.lease_ms));
            }
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slot() -> Slot {
        Slot { group: "audit-service".to_owned(), topic: "task-events".to_owned(), partition: 0 }
    }

    #[test]
    fn keys_are_those_of_the_contract() {
        assert_eq!(render_key(&Key::Claim(slot())), b"audit-service/task-events/0/claim");
        assert_eq!(render_key(&Key::Commit(slot(), 17)), b"audit-service/task-events/0/commit/17");
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let claim = Claim::new(Uuid::new_v4(), "host", 10_000);
        let value = serde_json::to_vec(&claim).unwrap();
        let Ok(OffsetsRecord::Claim(read_slot, Some(read))) =
            parse(Some(&render_key(&Key::Claim(slot()))), Some(&value))
        else {
            panic!("not a claim");
        };
        assert_eq!((read_slot, read.claim_id, read.lease_ms), (slot(), claim.claim_id, 10_000));
        assert_eq!(read.service, None, "an operator's claim fits every service");
        let position = Position { offset: 5, leader_epoch: Some(3), topic_id: Some(Uuid::new_v4()) };
        let commit = Commit::at(position, Uuid::new_v4(), true);
        let value = serde_json::to_vec(&commit).unwrap();
        let Ok(OffsetsRecord::Commit(_, 17, Some(read))) = parse(Some(b"g/t/0/commit/17"), Some(&value))
        else {
            panic!("not a commit");
        };
        assert_eq!((read.position(), read.released), (position, true));
    }

    #[test]
    fn records_of_older_versions_still_read() {
        let claim = br#"{"v":1,"claim_id":"7a4b6f2e-3a3b-4f4c-9d52-0d4d5f0f9d10","instance_id":"7a4b6f2e-3a3b-4f4c-9d52-0d4d5f0f9d11","host":"h","claimed_at":"2026-01-01T00:00:00Z","lease_ms":10}"#;
        let Ok(OffsetsRecord::Claim(_, Some(claim))) = parse(Some(b"g/t/0/claim"), Some(claim)) else {
            panic!("not a claim");
        };
        assert_eq!((claim.service.as_deref(), claim.lease_ms), (None, 10));
        let commit = br#"{"v":1,"offset":9,"instance_id":"7a4b6f2e-3a3b-4f4c-9d52-0d4d5f0f9d10","committed_at":"2026-01-01T00:00:00Z","released":false}"#;
        let Ok(OffsetsRecord::Commit(_, 1, Some(commit))) = parse(Some(b"g/t/0/commit/1"), Some(commit))
        else {
            panic!("not a commit");
        };
        assert_eq!(commit.position(), Position::at(9));
    }

    #[test]
    fn garbage_says_what_it_is() {
        for key in [
            "",
            "g",
            "g/t/0",
            "g/t/x/claim",
            "g/t/-1/claim",
            "g/t/0/claim/1",
            "g/t/0/commit",
            "g/t/0/commit/01",
            "/t/0/claim",
            "g/t/0/commit/1/2",
        ] {
            assert!(parse(Some(key.as_bytes()), None).is_err(), "{key}");
        }
        assert!(parse(None, None).is_err());
        assert!(parse(Some(b"g/t/0/claim"), Some(b"{}")).is_err());
        let future = br#"{"v":2,"offset":1,"instance_id":"7a4b6f2e-3a3b-4f4c-9d52-0d4d5f0f9d10","committed_at":"2026-01-01T00:00:00Z","released":false}"#;
        assert!(parse(Some(b"g/t/0/commit/1"), Some(future)).unwrap_err().contains("version is 2"));
        let forever = serde_json::to_vec(&Claim::new(Uuid::nil(), "h", u64::MAX)).unwrap();
        assert!(parse(Some(b"g/t/0/claim"), Some(&forever)).unwrap_err().contains("its lease is"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(key in proptest::collection::vec(any::<u8>(), 0..60), value in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(Some(&key), Some(&value));
        }
    }
}
