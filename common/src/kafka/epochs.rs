//! Where a leader epoch ended in the leader's log, by which one sees that the log was cut.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{BrokerId, OffsetForLeaderEpochRequest, TopicName};

use super::leader::{Leader, Refusal};
use super::metadata::text;
use super::{Kafka, KafkaError};

const CONSUMER: i32 = -1;

/// Where the largest epoch up to the one that was asked for ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EpochEnd {
    pub(super) epoch: i32,
    pub(super) end_offset: i64,
}

impl Kafka {
    /// Asks the partition's leader. `None`: it knows only lower epochs, so the log is another one.
    pub(super) async fn epoch_end(
        &self,
        topic: &str,
        partition: i32,
        epoch: i32,
    ) -> Result<Option<EpochEnd>, KafkaError> {
        let request = |leader: &Leader| {
            let partition = OffsetForLeaderPartition::default()
                .with_partition(partition)
                .with_current_leader_epoch(leader.epoch)
                .with_leader_epoch(epoch);
            OffsetForLeaderEpochRequest::default().with_replica_id(BrokerId(CONSUMER)).with_topics(vec![
                OffsetForLeaderTopic::default()
                    .with_topic(TopicName(text(topic)))
                    .with_partitions(vec![partition]),
            ])
        };
        let verb = "ask for the end of a leader epoch of";
        self.ask_leader((topic, partition), verb, request, |response| {
            let found = response.topics.into_iter().flat_map(|topic| topic.partitions);
            let Some(found) = found.into_iter().find(|found| found.partition == partition) else {
                let call = format!("{verb} {topic}/{partition}");
                return Err(Refusal::Final(KafkaError::failed(
                    call,
                    "the broker answered for another partition",
                )));
            };
            match ResponseError::try_from_code(found.error_code) {
                Some(code) => Err(Refusal::Code(code)),
                None if found.leader_epoch < 0 || found.end_offset < 0 => Ok(None),
                None => Ok(Some(EpochEnd { epoch: found.leader_epoch, end_offset: found.end_offset })),
            }
        })
        .await
    }
}
