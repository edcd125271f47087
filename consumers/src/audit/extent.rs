//! What is known of a log up to a length; as bytes it is the mark that the index keeps.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::line::{At, Line};

/// The version of the mark that this code writes and reads.
const VERSION: u32 = 1;

/// What is known of a log up to a length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Extent {
    v: u32,
    /// Bytes of the log.
    pub(super) length: u64,
    /// Where the last line starts.
    pub(super) last_line: u64,
    /// The event of the last line.
    pub(super) last_id: Uuid,
    /// Ids in the log, and so in the index.
    pub(super) ids: u64,
    /// Topic → partition → offset of its last line.
    offsets: BTreeMap<String, BTreeMap<i32, i64>>,
}

impl Default for Extent {
    fn default() -> Self {
        Self { v: VERSION, length: 0, last_line: 0, last_id: Uuid::nil(), ids: 0, offsets: BTreeMap::new() }
    }
}

impl Extent {
    /// Adds a line of that many bytes.
    pub(super) fn add(&mut self, event_id: Uuid, at: &At<'_>, bytes: usize) {
        self.last_line = self.length;
        self.length += bytes as u64;
        self.last_id = event_id;
        self.ids += 1;
        // No key is cloned for a topic that is known.
        match self.offsets.get_mut(at.topic.as_ref()) {
            Some(partitions) => partitions.insert(at.partition, at.offset),
            None => self.offsets.entry(at.topic.to_string()).or_default().insert(at.partition, at.offset),
        };
    }

    /// The offset of the last line of that partition.
    pub(super) fn last_offset(&self, topic: &str, partition: i32) -> Option<i64> {
        self.offsets.get(topic)?.get(&partition).copied()
    }

    /// As the index keeps it. An empty log has none.
    pub(super) fn to_mark(&self) -> serde_json::Result<Option<Vec<u8>>> {
        if self.length == 0 { Ok(None) } else { serde_json::to_vec(self).map(Some) }
    }

    /// Reads a mark. `None`: it is none of this version.
    pub(super) fn from_mark(mark: &[u8]) -> Option<Self> {
        serde_json::from_slice(mark)
            .ok()
            .filter(|extent: &Self| extent.v == VERSION && extent.last_line < extent.length && extent.ids > 0)
    }

    /// Whether `line`, which stands at `last_line`, is the one named.
    pub(super) fn ends_with(&self, line: &Line<'_>) -> bool {
        line.event_id == self.last_id
    }
}
