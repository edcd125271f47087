//! Topics: whether they exist, are configured as the contract says, have leaders and replicas, and what this
//! user may do with them.

use std::time::Duration;

use task_events::kafka::{KafkaError, NewTopic, OffsetAt, TopicInfo};
use task_events::topics::{Topics, is_compacted};

use super::findings::{Findings, words};
use crate::Context;
use crate::commands::topics::differences::differences;

/// What other checks need to know of the events topic.
pub(super) struct Events {
    /// How long it keeps events; `None` is for ever.
    pub(super) retention: Option<Duration>,
}

/// How long notification-service remembers what it has notified: `consumers/src/notification.rs`.
const DEDUP_WINDOW: Duration = Duration::from_secs(8 * 24 * 60 * 60);

pub(super) async fn examine(context: &Context, findings: &mut Findings) -> Option<Events> {
    let topics = Topics::new(&context.topics, 1, -1);
    for wanted in [&topics.offsets, &topics.events, &topics.dlq] {
        topic(context, wanted, findings).await;
    }
    let name = &topics.events.name;
    held_by_a_transaction(context, name, findings).await;
    let retention = context.kafka.admin().topic_config(name, "retention.ms").await.ok()??;
    let retention = retention.parse::<u64>().ok().map(Duration::from_millis);
    match retention {
        Some(kept) if kept <= DEDUP_WINDOW => {
            findings.ok("dedup window", format!("{}, retention of {name} is {}", words(DEDUP_WINDOW), words(kept)));
        }
        _ => findings.warn(
            "dedup window",
            format!("{name} keeps events for longer than the {} for which notification-service remembers them", words(DEDUP_WINDOW)),
            format!("a group that is moved back by more than that notifies again: set retention.ms of {name} to 604800000, or do not move it back so far"),
        ),
    }
    Some(Events { retention })
}

async fn topic(context: &Context, wanted: &NewTopic, findings: &mut Findings) {
    let subject = format!("topic {}", wanted.name);
    let info = match context.kafka.topic(&wanted.name).await {
        Ok(info) => info,
        Err(KafkaError::UnknownTopic { .. }) => {
            return findings.fail(
                subject,
                "it does not exist, or this user may not see it",
                "create it with `taskctl topics create`, or grant Describe on it",
            );
        }
        Err(error) => return findings.fail(subject, error, "try again once that is right"),
    };
    partitions(&subject, &info, findings);
    configs(context, &subject, wanted, &info, findings).await;
    rights(context, &subject, &wanted.name, findings).await;
}

fn counted(partitions: usize) -> String {
    if partitions == 1 { "1 partition".to_owned() } else { format!("{partitions} partitions") }
}

fn partitions(subject: &str, info: &TopicInfo, findings: &mut Findings) {
    let numbers = |wanted: fn(&task_events::kafka::PartitionInfo) -> bool| {
        let found = info.partitions.iter().filter(|partition| wanted(partition));
        found.map(|partition| partition.id.to_string()).collect::<Vec<_>>().join(", ")
    };
    let leaderless = numbers(|partition| partition.leader.is_none());
    let behind = numbers(|partition| partition.isr.len() < partition.replicas.len());
    let single = info.partitions.iter().all(|partition| partition.replicas.len() == 1);
    if !leaderless.is_empty() {
        findings.fail(
            subject,
            format!("no leader for partition {leaderless}"),
            "start the brokers that keep it; the other partitions go on meanwhile",
        );
    } else if !behind.is_empty() {
        findings.warn(
            subject,
            format!("replicas of partition {behind} are not in sync"),
            "look at the brokers that keep them; below min.insync.replicas nothing can be published",
        );
    } else if single {
        findings.warn(
            subject,
            format!("{}, one replica each", counted(info.partitions.len())),
            "a broker that is lost takes its history with it: use 3 replicas where history matters",
        );
    } else {
        findings.ok(subject, format!("{}, all replicas in sync", counted(info.partitions.len())));
    }
}

async fn configs(
    context: &Context,
    subject: &str,
    wanted: &NewTopic,
    info: &TopicInfo,
    findings: &mut Findings,
) {
    let partitions = i32::try_from(info.partitions.len()).unwrap_or(i32::MAX);
    // Any number of partitions works, but for the offsets topic.
    let as_is = NewTopic { partitions, ..wanted.clone() };
    let is_offsets = wanted.name == context.topics.offsets_topic;
    let wanted = if is_offsets { wanted } else { &as_is };
    match differences(context, wanted, partitions).await {
        Ok(differences) if differences.is_empty() => {
            findings.ok(subject, "its configs are those of `taskctl topics create`")
        }
        Ok(differences) => {
            for difference in differences {
                let found = format!("{} is {}, not {}", difference.what, difference.is, difference.wanted);
                let remedy = format!("alter {} of the topic to {}", difference.what, difference.wanted);
                if difference.what == "cleanup.policy" && is_offsets && !is_compacted(&difference.is) {
                    findings.fail(subject, found, format!("{remedy}: it forgets offsets"));
                } else {
                    findings.warn(subject, found, remedy);
                }
            }
        }
        Err(error) => findings.warn(
            subject,
            format!("its configs cannot be seen: {error}"),
            "grant DescribeConfigs on it to this user",
        ),
    }
}

async fn rights(context: &Context, subject: &str, name: &str, findings: &mut Findings) {
    match context.kafka.rights(name).await {
        Ok(Some(rights)) => {
            let missing = [("Read", rights.read), ("Write", rights.write), ("Describe", rights.describe)];
            let missing: Vec<_> = missing.iter().filter(|(_, may)| !may).map(|(right, _)| *right).collect();
            if missing.is_empty() {
                findings.ok(subject, "this user may read and write it");
            } else {
                findings.warn(
                    subject,
                    format!("this user lacks {}", missing.join(", ")),
                    "run this as each service's user; manifests/ lists the ACLs that each needs",
                );
            }
        }
        Ok(None) => findings.ok(subject, "rights cannot be seen: the broker does not report them"),
        Err(error) => {
            findings.warn(subject, format!("rights cannot be seen: {error}"), "grant Describe on it")
        }
    }
}

async fn held_by_a_transaction(context: &Context, name: &str, findings: &mut Findings) {
    let Ok(partitions) = context.kafka.partition_count(name).await else { return };
    for partition in 0..partitions {
        let end = context.kafka.list_offset(name, partition, OffsetAt::Latest).await;
        let stable = context.kafka.list_offset(name, partition, OffsetAt::LastStable).await;
        let (Ok(end), Ok(stable)) = (end, stable) else { continue };
        if stable < end {
            findings.warn(
                format!("topic {name} partition {partition}"),
                format!("an open transaction of another producer holds all groups at offset {stable}, {} before the end", end - stable),
                "end it: `kafka-transactions.sh find-hanging` and `abort`; Kafka aborts it after the producer's transaction.timeout.ms",
            );
        }
    }
}
