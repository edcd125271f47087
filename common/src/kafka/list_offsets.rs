//! Where a partition begins and ends, and where a time is in it. Asked of its leader.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::list_offsets_response::ListOffsetsPartitionResponse;
use kafka_protocol::messages::{BrokerId, ListOffsetsRequest, ListOffsetsResponse, TopicName};

use super::leader::{Leader, Refusal};
use super::metadata::text;
use super::{BoxFuture, Kafka, KafkaError};

/// Kafka's names for the two ends of a log, among times.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
/// A client's replica id, and that of a tool, which sees the leader's log end.
const CONSUMER: i32 = -1;
const DEBUGGING_CONSUMER: i32 = -2;
const READ_UNCOMMITTED: i8 = 0;
const READ_COMMITTED: i8 = 1;

/// A place in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetAt {
    /// The first record that is still kept.
    Earliest,
    /// The high watermark: after the last record that all in-sync replicas have.
    Latest,
    /// The last stable offset: where a reader of committed records gets to, before the first transaction
    /// that is still open.
    LastStable,
    /// The end of the leader's own log: records above the high watermark may still be lost with it.
    LogEnd,
    /// The first record at or after this time, in ms since 1970; the high watermark where there is none.
    Time(i64),
}

impl Kafka {
    /// Asks the leader of a partition for an offset.
    pub fn list_offset<'a>(
        &'a self,
        topic: &'a str,
        partition: i32,
        at: OffsetAt,
    ) -> BoxFuture<'a, Result<i64, KafkaError>> {
        Box::pin(async move {
            let asking = self.ask_leader(
                (topic, partition),
                "list offsets of",
                |leader| request(topic, partition, at, leader),
                |response| read(&response, topic, partition),
            );
            match asking.await? {
                Some(offset) => Ok(offset),
                // Only a time can be after the last record.
                None => self.list_offset(topic, partition, OffsetAt::Latest).await,
            }
        })
    }
}

fn request(topic: &str, partition: i32, at: OffsetAt, leader: &Leader) -> ListOffsetsRequest {
    let (timestamp, isolation) = match at {
        OffsetAt::Earliest => (EARLIEST, READ_UNCOMMITTED),
        OffsetAt::Latest | OffsetAt::LogEnd => (LATEST, READ_UNCOMMITTED),
        OffsetAt::LastStable => (LATEST, READ_COMMITTED),
        OffsetAt::Time(ms) => (ms.max(0), READ_UNCOMMITTED),
    };
    let replica = if at == OffsetAt::LogEnd { DEBUGGING_CONSUMER } else { CONSUMER };
    let partition = ListOffsetsPartition::default()
        .with_partition_index(partition)
        .with_current_leader_epoch(leader.epoch)
        .with_timestamp(timestamp);
    ListOffsetsRequest::default()
        .with_replica_id(BrokerId(replica))
        .with_isolation_level(isolation)
        .with_topics(vec![
            ListOffsetsTopic::default().with_name(TopicName(text(topic))).with_partitions(vec![partition]),
        ])
}

/// The offset, or none: no record is that late.
fn read(response: &ListOffsetsResponse, topic: &str, partition: i32) -> Result<Option<i64>, Refusal> {
    let is_it = |found: &&ListOffsetsPartitionResponse| found.partition_index == partition;
    let Some(found) = response.topics.iter().flat_map(|topic| &topic.partitions).find(is_it) else {
        let call = format!("list offsets of {topic}/{partition}");
        return Err(Refusal::Final(KafkaError::failed(call, "the broker answered for another partition")));
    };
    match ResponseError::try_from_code(found.error_code) {
        Some(code) => Err(Refusal::Code(code)),
        None => Ok(Some(found.offset).filter(|offset| *offset >= 0)),
    }
}
