//! A place in a partition that can be recognized again after the topic was recreated or its log cut.

use uuid::Uuid;

/// Where to read next in a partition, and in which topic and leader's time that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The offset to read next.
    pub offset: i64,
    /// The leader epoch of the last record before it, where known: tells a log that was cut and grew again.
    pub leader_epoch: Option<i32>,
    /// The topic's id, where known: tells a topic that was deleted and created again.
    pub topic_id: Option<Uuid>,
}

impl Position {
    /// An offset about which nothing else is known.
    pub fn at(offset: i64) -> Self {
        Self { offset, leader_epoch: None, topic_id: None }
    }
}
