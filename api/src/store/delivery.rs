//! What store and relay exchange: the events that wait, where they go, and which of them Kafka has.

use serde::{Deserialize, Serialize};
use task_events::event::TaskEvent;
use uuid::Uuid;

use crate::event_format::Encoding;

/// An event that waits for Kafka.
#[derive(Debug, Clone)]
pub struct OutboxEntry {
    /// Its place in the queue.
    pub seq: u64,
    /// The event.
    pub event: TaskEvent,
    /// The value of its record, as it was made when the event was stored.
    pub payload: Vec<u8>,
    /// What that is.
    pub encoding: Encoding,
    /// W3C trace context to pass on.
    pub traceparent: Option<String>,
}

/// What is in the outbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutboxState {
    /// The highest sequence number that was ever given, 0 for none.
    pub last_seq: u64,
    /// How many events wait for Kafka.
    pub waiting: u64,
}

/// The topic that the positions are about, and by how many partitions its events are spread. Another count
/// is used only after all that was sent by this one has been acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedTopic {
    /// Its id, which differs for a topic that was recreated; nil where the broker has none.
    pub topic_id: Uuid,
    /// How many partitions are used.
    pub partitions: i32,
}

impl PublishedTopic {
    /// Whether this is a topic that was created again. By its id, or, where there is none, because a topic
    /// never loses partitions.
    pub fn is_another_than(&self, before: &Self) -> bool {
        let have_ids = !self.topic_id.is_nil() && !before.topic_id.is_nil();
        (have_ids && self.topic_id != before.topic_id) || self.partitions < before.partitions
    }
}

/// Events that Kafka has, to be taken out of the outbox: of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivered {
    /// The topic, and the partition count by which the events were sent. What is reported of another than the
    /// present one does not count.
    pub topic: PublishedTopic,
    /// The partition.
    pub partition: i32,
    /// Their sequence numbers, rising. All of the partition's up to the last of these are delivered.
    pub seqs: Vec<u64>,
    /// More of them, rising, behind one that still waits.
    pub scattered: Vec<u64>,
    /// The offset behind the last of them, where that moves.
    pub position: Option<i64>,
}
