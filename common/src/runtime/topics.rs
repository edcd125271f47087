//! The topics that a consumer needs: waited for at the start, and looked at while it runs.

use tokio::time::sleep;

use super::shared::ConsumerConfig;
use super::status::Status;
use super::trouble::Trouble;
use crate::backoff::Backoff;
use crate::kafka::KafkaError;
use crate::topics::is_compacted;

/// Returns the number of partitions once all topics are there and the offsets topic is compacted.
pub(super) async fn wait_for_topics(config: &ConsumerConfig, status: &Status) -> i32 {
    let mut backoff = Backoff::for_kafka();
    let mut waiting = Trouble::new(status, None, "topics");
    loop {
        match check_topics(config).await {
            Ok(partitions) => {
                waiting.over(&format!("group {} has everything it waited for", config.group));
                status.started();
                return partitions;
            }
            Err(why) => {
                status.started();
                waiting.report(&why);
                sleep(backoff.next_delay()).await;
            }
        }
    }
}

async fn check_topics(config: &ConsumerConfig) -> Result<i32, String> {
    let partitions = existing(config, &config.topic).await?;
    for topic in [Some(&config.offsets_topic), config.dlq_topic.as_ref()].into_iter().flatten() {
        existing(config, topic).await?;
    }
    match forgetful_policy(config).await {
        Ok(Some(policy)) => Err(format!(
            "waiting: topic {} has cleanup.policy={policy} and would forget offsets; set it to compact",
            config.offsets_topic
        )),
        Ok(None) => Ok(partitions),
        Err(error) => {
            Err(format!("waiting: cannot see whether {} is compacted: {error}", config.offsets_topic))
        }
    }
}

/// The cleanup policy of the offsets topic, where it is one that forgets offsets.
async fn forgetful_policy(config: &ConsumerConfig) -> Result<Option<String>, KafkaError> {
    let policy = config.kafka.admin().topic_config(&config.offsets_topic, "cleanup.policy").await?;
    Ok(policy.filter(|policy| !is_compacted(policy)))
}

/// Looks whether the policy of the offsets topic was changed since the start. The service goes on, as what it
/// reads and writes is still there.
pub(super) async fn look_at_policy(config: &ConsumerConfig, forgets: &mut Trouble) {
    let topic = &config.offsets_topic;
    match forgetful_policy(config).await {
        Ok(Some(policy)) => forgets.report(&format!(
            "topic {topic} has cleanup.policy={policy} now: Kafka deletes claims and positions; set it to compact"
        )),
        Ok(None) => forgets.over(&format!("topic {topic} is compacted again")),
        Err(error) => log::debug!("cannot see whether {topic} is still compacted: {error}"),
    }
}

/// The number of partitions of a topic that has to exist.
async fn existing(config: &ConsumerConfig, topic: &str) -> Result<i32, String> {
    config.kafka.partition_count(topic).await.map_err(|error| match error {
        KafkaError::UnknownTopic { .. } => format!("waiting for a topic: {error}"),
        error => format!("waiting for Kafka at {}: {error}", config.kafka.bootstrap()),
    })
}
