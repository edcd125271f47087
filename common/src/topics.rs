//! The three topics of task-events and their configs, in one place.

use crate::config::TopicArgs;
use crate::kafka::NewTopic;

/// Time that an event stays in its topic: 7 days.
const EVENTS_RETENTION_MS: &str = "604800000";
/// Time that a dead letter waits for somebody to look at it: 30 days.
const DLQ_RETENTION_MS: &str = "2592000000";

/// The broker stores batches as they were produced, whatever compression.type the cluster has as its default.
const AS_PRODUCED: (&str, &str) = ("compression.type", "producer");
/// Retention counts from the append. By the producer's time, an event that waited in the outbox for longer
/// than the retention would be deleted as soon as it is published.
const BROKER_TIME: (&str, &str) = ("message.timestamp.type", "LogAppendTime");

/// The three topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    /// The task events.
    pub events: NewTopic,
    /// Claims and commits.
    pub offsets: NewTopic,
    /// What could not be handled.
    pub dlq: NewTopic,
}

impl Topics {
    /// The topics under these names. `partitions` is for the events; the other two have one.
    /// A `replication_factor` of -1 is the broker's default.
    pub fn new(names: &TopicArgs, partitions: i32, replication_factor: i16) -> Self {
        let topic = |name: &str, partitions, configs: &[(&str, &str)]| NewTopic {
            name: name.to_owned(),
            partitions,
            replication_factor,
            configs: configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        };
        Self {
            events: topic(
                &names.task_events_topic,
                partitions,
                &[
                    ("cleanup.policy", "delete"),
                    ("retention.ms", EVENTS_RETENTION_MS),
                    AS_PRODUCED,
                    BROKER_TIME,
                ],
            ),
            // Every instance reads this topic from its start. Only closed segments are compacted, so the
            // open one is kept small and closed hourly, and cleaning begins early.
            offsets: topic(
                &names.offsets_topic,
                1,
                &[
                    ("cleanup.policy", "compact"),
                    AS_PRODUCED,
                    ("segment.bytes", "8388608"),
                    ("segment.ms", "3600000"),
                    ("min.cleanable.dirty.ratio", "0.1"),
                ],
            ),
            // A dead letter carries an event, at most as large as its own topic takes (1 MiB), and what is
            // said of it; base64 adds a third.
            dlq: topic(
                &names.dlq_topic,
                1,
                &[
                    ("cleanup.policy", "delete"),
                    ("retention.ms", DLQ_RETENTION_MS),
                    ("max.message.bytes", "4194304"),
                    AS_PRODUCED,
                    BROKER_TIME,
                ],
            ),
        }
    }
}

/// Whether a topic with this `cleanup.policy` keeps the last record of each key for ever, as the offsets
/// topic must: `compact,delete` does not.
pub fn is_compacted(cleanup_policy: &str) -> bool {
    cleanup_policy.trim() == "compact"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_compact_alone_keeps_offsets() {
        assert!(is_compacted("compact"));
        for policy in ["delete", "compact,delete", "delete,compact", ""] {
            assert!(!is_compacted(policy), "{policy}");
        }
    }
}
