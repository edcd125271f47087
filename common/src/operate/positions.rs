//! How far each group is, as the offsets topic says now. Nothing is waited for: who lives is another question.

use std::collections::BTreeMap;

use crate::kafka::{Kafka, KafkaError};
use crate::offsets::{OffsetsLog, Slot, View};
use chrono::{DateTime, Utc};

/// The last commit of each partition of each group.
#[derive(Debug, Default)]
pub struct Positions(BTreeMap<Slot, Known>);

/// What is known of a partition of a group.
#[derive(Debug)]
struct Known {
    committed: Option<Committed>,
    /// The service that claimed it, where the claim says.
    service: Option<String>,
}

/// The last commit of a partition of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The offset to read next.
    pub offset: i64,
    /// When that was written, by the clock of its writer.
    pub at: DateTime<Utc>,
}

impl Positions {
    /// Reads the offsets topic to its end. A topic that is missing is an error at once.
    pub async fn read(kafka: &Kafka, offsets_topic: &str) -> Result<Self, KafkaError> {
        kafka.partition_count(offsets_topic).await?;
        let offsets = OffsetsLog::open(kafka, offsets_topic);
        offsets.catch_up().await?;
        let view = offsets.view();
        let view = view.borrow();
        Ok(Self::of_view(&view))
    }

    /// As the view of a follower of that topic has them.
    pub fn of_view(view: &View) -> Self {
        let slots = view.fold.slots().map(|(slot, state)| {
            let commit = state.last_commit();
            let commit =
                commit.map(|(_, commit)| Committed { offset: commit.offset, at: commit.committed_at });
            let service = state.owner().and_then(|owner| owner.claim.service.clone());
            (slot.clone(), Known { committed: commit, service })
        });
        Self(slots.collect())
    }

    /// The offset that a group reads next; `None` where it has committed nothing.
    pub fn of(&self, group: &str, topic: &str, partition: i32) -> Option<i64> {
        self.committed(group, topic, partition).map(|committed| committed.offset)
    }

    /// The last commit of a group.
    pub fn committed(&self, group: &str, topic: &str, partition: i32) -> Option<Committed> {
        let slot = Slot { group: group.to_owned(), topic: topic.to_owned(), partition };
        self.0.get(&slot)?.committed
    }

    /// Whether any instance of the group has run.
    pub fn knows(&self, group: &str) -> bool {
        self.0.keys().any(|slot| slot.group == group)
    }

    /// The groups that read a topic, each with its service: an operator's claim does not name one, and then it is
    /// taken to be the group's own name.
    pub fn groups_of(&self, topic: &str) -> BTreeMap<String, String> {
        let slots = self.0.iter().filter(|(slot, _)| slot.topic == topic);
        let with_service = slots.map(|(slot, known)| {
            let service = known.service.clone().unwrap_or_else(|| slot.group.clone());
            (slot.group.clone(), service)
        });
        with_service.collect()
    }
}
