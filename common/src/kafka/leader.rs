//! Calls that only the leader of a partition can answer.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::protocol::Request;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{Kafka, KafkaError};

/// How soon a call that the wrong broker got, or that failed, is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// How long it is tried.
const RETRY_FOR: Duration = Duration::from_secs(2);

/// Who leads a partition, and since which election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leader {
    pub(super) broker: i32,
    pub(super) address: Arc<str>,
    pub(super) epoch: i32,
    pub(super) topic_id: Uuid,
}

/// Why a leader's answer is none.
pub(super) enum Refusal {
    /// The broker's error code: some are worth another try.
    Code(ResponseError),
    /// What the caller returns.
    Final(KafkaError),
}

impl Kafka {
    /// Who leads the partition, asked now.
    pub(super) async fn leader(&self, topic: &str, partition: i32) -> Result<Leader, KafkaError> {
        let info = self.topic(topic).await?;
        let found = info.partition(partition).ok_or_else(|| KafkaError::UnknownPartition {
            topic: topic.to_owned(),
            partition,
            count: info.partitions.len(),
        })?;
        let broker = found.leader.ok_or_else(|| no_leader(topic, partition))?;
        Ok(Leader { broker, address: self.address_of(broker)?, epoch: found.leader_epoch, topic_id: info.id })
    }

    /// Asks the partition's leader. Where the leader has moved meanwhile, the new one; a leader that does
    /// not answer is given up as soon as another is elected.
    pub(super) async fn ask_leader<R: Request, T>(
        &self,
        (topic, partition): (&str, i32),
        verb: &str,
        request: impl Fn(&Leader) -> R,
        read: impl Fn(R::Response) -> Result<T, Refusal>,
    ) -> Result<T, KafkaError> {
        let name = format!("{verb} {topic}/{partition}");
        let started = Instant::now();
        loop {
            let error = match self.ask_leader_once((topic, partition), &name, &request).await {
                Ok(response) => match read(response) {
                    Ok(value) => return Ok(value),
                    Err(Refusal::Final(error)) => return Err(error),
                    Err(Refusal::Code(code)) => {
                        let error = self.hinted(refused(&name, topic, code));
                        if !is_worth_another_try(code) {
                            return Err(error);
                        }
                        error
                    }
                },
                Err(error @ (KafkaError::UnknownTopic { .. } | KafkaError::UnknownPartition { .. })) => {
                    return Err(error);
                }
                Err(error) => error,
            };
            if started.elapsed() >= RETRY_FOR {
                return Err(error);
            }
            sleep(RETRY_AFTER).await;
        }
    }

    async fn ask_leader_once<R: Request>(
        &self,
        (topic, partition): (&str, i32),
        name: &str,
        request: &impl Fn(&Leader) -> R,
    ) -> Result<R::Response, KafkaError> {
        let leader = self.leader(topic, partition).await?;
        let request = request(&leader);
        tokio::select! {
            biased;
            answer = self.ask(&leader.address, name, &request) => answer,
            () = self.leader_changed(topic, partition, leader.epoch) => {
                Err(KafkaError::failed(name, format!("no answer from {}, and another broker leads now", leader.address)))
            }
        }
    }
}

pub(super) fn no_leader(topic: &str, partition: i32) -> KafkaError {
    let reason = "no broker leads it: the brokers that keep it are down, or an election is under way";
    let call = format!("find the leader of {topic}/{partition}");
    KafkaError::Refused { call, reason: reason.to_owned() }
}

/// A broker's error code as an error of the call `name`.
pub(super) fn refused(name: &str, topic: &str, code: ResponseError) -> KafkaError {
    match code {
        ResponseError::UnknownTopicOrPartition => KafkaError::unknown_topic(topic),
        ResponseError::OffsetOutOfRange => KafkaError::OffsetOutOfRange { call: name.to_owned() },
        ResponseError::TopicAuthorizationFailed => {
            KafkaError::failed(name, "this user may not read the topic: grant Read and Describe on it")
        }
        code => KafkaError::failed(name, format!("the broker answered {code}")),
    }
}

/// Whether asking for the leader again may help.
pub(super) fn is_worth_another_try(code: ResponseError) -> bool {
    matches!(
        code,
        ResponseError::NotLeaderOrFollower
            | ResponseError::FencedLeaderEpoch
            | ResponseError::UnknownLeaderEpoch
            | ResponseError::UnknownTopicId
            | ResponseError::InconsistentTopicId
            | ResponseError::LeaderNotAvailable
            | ResponseError::ReplicaNotAvailable
            | ResponseError::OffsetNotAvailable
            | ResponseError::KafkaStorageError
            | ResponseError::BrokerNotAvailable
            | ResponseError::UnknownTopicOrPartition
    )
}
