//! An instance of a group, whether it owns anything or not: what the others need to know to share partitions.
//!
//! An instance renews its record at least every third of its lease and removes it at a clean end. Membership is
//! apart from ownership: a newcomer that owns nothing yet is seen by all, and who owns is decided by claims alone.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::time::serialize_time;

/// The version of all values that this code writes and reads.
pub(super) const VERSION: u32 = 1;
/// The version of [`assignor`](super::assignor): instances share partitions with those of the same one alone.
pub const ASSIGNOR: u32 = 1;

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    v: u32,
    /// Where it runs, for people.
    pub host: String,
    /// When its process joined, for people: nothing is decided by it.
    #[serde(serialize_with = "serialize_time")]
    pub joined_at: DateTime<Utc>,
    /// How long it may be silent, in milliseconds.
    pub lease_ms: u64,
    /// The topic that it reads; `None` is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// By which rules it shares. One without is an owner to be respected, and no target.
    #[serde(default)]
    pub assignor: u32,
    /// Whether it makes progress, and so can be given partitions. One that does not keeps what it has.
    #[serde(default = "yes")]
    pub accepts: bool,
}

impl Member {
    /// A member that joins now.
    pub fn new(host: &str, lease_ms: u64, topic: &str) -> Self {
        Self {
            v: VERSION,
            host: host.to_owned(),
            joined_at: Utc::now(),
            lease_ms,
            topic: Some(topic.to_owned()),
            assignor: ASSIGNOR,
            accepts: true,
        }
    }

    /// How long it may be silent.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    pub(super) fn version(&self) -> u32 {
        self.v
    }
}

fn yes() -> bool {
    true
}
