//! What is known of a topic: its id, its partitions and their leaders.
//!
//! A broker may know less than another: an answer with a lower leader epoch than is known for the same
//! topic id is not believed. Of a topic without an id it is after a while, since that may be another topic.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

/// How long older answers are doubted, where no id tells one topic from another. No broker is that far behind.
const DOUBT: Duration = Duration::from_secs(10);

/// A topic as the cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its id, which a topic that is created again does not share; nil where the broker has none (before
    /// Kafka 2.8).
    pub id: Uuid,
    /// Its partitions, by number.
    pub partitions: Vec<PartitionInfo>,
}

/// A partition as the cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionInfo {
    /// Its number.
    pub id: i32,
    /// The broker that leads it, if one does.
    pub leader: Option<i32>,
    /// How often a leader was elected; -1 where the broker does not say.
    pub leader_epoch: i32,
    /// The brokers that keep it.
    pub replicas: Vec<i32>,
    /// Those that have all of it.
    pub isr: Vec<i32>,
    /// Those that are down.
    pub offline: Vec<i32>,
}

impl TopicInfo {
    /// The partition of this number.
    pub fn partition(&self, id: i32) -> Option<&PartitionInfo> {
        self.partitions.iter().find(|partition| partition.id == id)
    }

    /// Whether a partition has a lower leader epoch than it had.
    fn is_older_than(&self, known: &Self) -> bool {
        self.partitions.iter().any(|partition| {
            let known = known.partition(partition.id).map(|known| known.leader_epoch);
            partition.leader_epoch >= 0 && known.is_some_and(|known| partition.leader_epoch < known)
        })
    }

    /// The same topic as known before, kept where the answer is older.
    fn or_newer(mut self, known: &Self) -> Self {
        for partition in &mut self.partitions {
            if let Some(known) = known
                .partition(partition.id)
                .filter(|known| partition.leader_epoch >= 0 && partition.leader_epoch < known.leader_epoch)
            {
                *partition = known.clone();
            }
        }
        self
    }
}

/// A topic as the answers so far have it.
#[derive(Debug, Clone)]
pub(super) struct KnownTopic {
    pub(super) info: TopicInfo,
    pub(super) asked: Instant,
    /// Since when all answers have been older than what is known.
    doubted: Option<Instant>,
}

impl KnownTopic {
    pub(super) fn after(known: Option<&Self>, answer: TopicInfo, now: Instant) -> Self {
        let believed = |info| Self { info, asked: now, doubted: None };
        let Some(known) =
            known.filter(|known| known.info.id == answer.id && answer.is_older_than(&known.info))
        else {
            return believed(answer);
        };
        // A topic without an id may have been created again.
        let doubted = known.doubted.unwrap_or(now);
        if answer.id.is_nil() && now - doubted >= DOUBT {
            return believed(answer);
        }
        Self { info: answer.or_newer(&known.info), asked: now, doubted: Some(doubted) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(id: u128, leader: i32, leader_epoch: i32) -> TopicInfo {
        let partition = PartitionInfo {
            id: 0,
            leader: Some(leader),
            leader_epoch,
            replicas: vec![],
            isr: vec![],
            offline: vec![],
        };
        TopicInfo { id: Uuid::from_u128(id), partitions: vec![partition] }
    }

    #[test]
    fn an_older_answer_is_not_believed_but_another_topic_is() {
        let start = Instant::now();
        let known = KnownTopic::after(None, info(1, 2, 5), start);
        let after = |answer, now| KnownTopic::after(Some(&known), answer, now).info;
        let later = start + DOUBT * 2;
        assert_eq!(after(info(1, 1, 4), later), known.info, "a broker that has yet to hear of epoch 5");
        assert_eq!(after(info(1, 3, 6), later), info(1, 3, 6));
        assert_eq!(after(info(1, -1, -1), later), info(1, -1, -1), "a broker without epochs");
        assert_eq!(after(info(2, 1, 0), later), info(2, 1, 0), "the topic was created again");
    }

    #[test]
    fn without_ids_an_older_answer_is_believed_after_a_while() {
        let start = Instant::now();
        let known = KnownTopic::after(None, info(0, 2, 5), start);
        let soon = KnownTopic::after(Some(&known), info(0, 1, 0), start);
        assert_eq!(soon.info, known.info);
        let late = KnownTopic::after(Some(&soon), info(0, 1, 0), start + DOUBT);
        assert_eq!(late.info, info(0, 1, 0));
    }
}
