//! The Fetch call: what is asked of a broker for several partitions at once, and what its answer means.
//!
//! # Invariants
//!
//! 1. *Only a batch header moves a position.* An answer without batches says nothing about offsets, whatever
//!    its high watermark and last stable offset are: a transaction may be open, or a remote tier slow.
//! 2. *By id where ids are.* A topic is named by its id from Kafka 3.1 on, so that one created again under
//!    the same name is never read as the old one. Older brokers are asked by name.

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse, TopicName};
use uuid::Uuid;

use super::metadata::text;
use super::records::{AbortedTransactions, Batch, Batches};
use super::versions::Versions;

/// First version of Fetch that names a topic by its id.
const BY_TOPIC_ID: i16 = 13;
/// Oldest that is used: it has transactions.
const OLDEST: i16 = 4;
/// A consumer's replica id, and the epoch of a fetch without a session.
const CONSUMER: i32 = -1;
const NO_SESSION: i32 = -1;

/// What a fetch from a partition brought.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Batches in order, without the control batches and, for a reader of committed records, without those
    /// of aborted transactions.
    pub batches: Vec<Batch>,
    /// The offset after the last record that all in-sync replicas have.
    pub high_watermark: i64,
    /// Where the first transaction that is still open starts, else the high watermark. A reader of committed
    /// records gets no further.
    pub last_stable_offset: i64,
    /// The first offset that is kept.
    pub log_start: i64,
    /// Where to read next, by the headers of the batches that were returned, those left out included.
    pub next_offset: i64,
    /// The leader epoch of the last batch: what a [`Position`](super::Position) at `next_offset` carries.
    pub leader_epoch: Option<i32>,
    /// The id of the topic that was read; `None` where the broker has none.
    pub topic_id: Option<Uuid>,
}

/// Whose records are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Those of committed transactions and of no transaction, up to the last stable offset.
    Committed,
    /// All up to the high watermark: also those of open and of aborted transactions.
    Uncommitted,
}

/// The same for all partitions of one call.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) topic: String,
    pub(super) topic_id: Uuid,
    pub(super) isolation: Isolation,
    pub(super) max_wait_ms: i32,
    pub(super) max_bytes: i32,
}

/// One partition of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) partition: i32,
    pub(super) topic_id: Uuid,
    pub(super) offset: i64,
    /// The epoch of the leader that is asked: one of another epoch refuses.
    pub(super) leader_epoch: i32,
    /// The epoch of the record before `offset`, by which the leader tells whether the log has been cut; -1
    /// if unknown.
    pub(super) last_epoch: i32,
    pub(super) max_bytes: i32,
}

/// The version to use: by topic id where the broker and the topic have them.
pub(super) fn version(versions: &Versions, topic_id: Uuid) -> Result<i16, String> {
    let newest = versions.pick_within::<FetchRequest>(OLDEST, i16::MAX)?;
    if newest >= BY_TOPIC_ID && topic_id.is_nil() {
        return versions.pick_within::<FetchRequest>(OLDEST, BY_TOPIC_ID - 1);
    }
    Ok(newest)
}

/// Whether this version would notice a topic that was created again.
pub(super) fn is_by_topic_id(version: i16) -> bool {
    version >= BY_TOPIC_ID
}

pub(super) fn request(call: &Call, version: i16, wanted: &[Wanted]) -> FetchRequest {
    let partitions = wanted.iter().map(|wanted| {
        FetchPartition::default()
            .with_partition(wanted.partition)
            .with_current_leader_epoch(wanted.leader_epoch)
            .with_fetch_offset(wanted.offset)
            .with_last_fetched_epoch(if version >= 12 { wanted.last_epoch } else { -1 })
            .with_partition_max_bytes(wanted.max_bytes)
    });
    let topic = FetchTopic::default().with_partitions(partitions.collect());
    let topic = match is_by_topic_id(version) {
        true => topic.with_topic_id(call.topic_id),
        false => topic.with_topic(TopicName(text(&call.topic))),
    };
    FetchRequest::default()
        .with_replica_id(BrokerId(CONSUMER))
        .with_max_wait_ms(call.max_wait_ms)
        .with_min_bytes(1)
        .with_max_bytes(call.max_bytes)
        .with_isolation_level(match call.isolation {
            Isolation::Committed => 1,
            Isolation::Uncommitted => 0,
        })
        .with_session_epoch(NO_SESSION)
        .with_topics(vec![topic])
}

/// The answers by partition. Where several hold records, each gets a buffer of its own, so that one that
/// waits does not keep the others in memory.
pub(super) fn by_partition(response: FetchResponse) -> Vec<PartitionData> {
    let mut answers: Vec<_> = response.responses.into_iter().flat_map(|topic| topic.partitions).collect();
    let has_records = |data: &PartitionData| data.records.as_ref().is_some_and(|records| !records.is_empty());
    if answers.iter().filter(|data| has_records(data)).count() > 1 {
        for data in &mut answers {
            data.records = data.records.take().map(|records| Bytes::copy_from_slice(&records));
        }
    }
    answers
}

/// What an answer for one partition means.
#[derive(Debug)]
pub(super) enum Outcome {
    Fetched(Fetched),
    /// The log no longer has the records of `last_epoch` up to the offset: it was cut at `end_offset`, of
    /// the epoch `epoch`.
    Diverged {
        epoch: i32,
        end_offset: i64,
    },
    /// What was read is damaged at its start, on the way perhaps: worth reading again.
    Damaged(String),
    /// The one batch is larger than what was asked for.
    Cut {
        bytes: usize,
    },
    Refused(ResponseError),
}

/// Reads the answer. `take_damaged`: damage that a further fetch does not mend is returned as a batch that
/// cannot be read.
pub(super) fn read(
    data: PartitionData,
    wanted: &Wanted,
    isolation: Isolation,
    take_damaged: bool,
) -> Outcome {
    if let Some(code) = ResponseError::try_from_code(data.error_code) {
        return Outcome::Refused(code);
    }
    // An end_offset of -1 means no divergence.
    if data.diverging_epoch.end_offset >= 0 {
        let diverging = data.diverging_epoch;
        return Outcome::Diverged { epoch: diverging.epoch, end_offset: diverging.end_offset };
    }
    let aborted = data.aborted_transactions.unwrap_or_default();
    let aborted = aborted.iter().map(|aborted| (aborted.producer_id.0, aborted.first_offset));
    let mut aborted = AbortedTransactions::new(aborted);
    let mut fetched = Fetched {
        batches: Vec::new(),
        high_watermark: data.high_watermark,
        last_stable_offset: match data.last_stable_offset {
            -1 => data.high_watermark,
            offset => offset,
        },
        log_start: data.log_start_offset,
        next_offset: wanted.offset,
        leader_epoch: None,
        topic_id: Some(wanted.topic_id).filter(|id| !id.is_nil()),
    };
    let mut walk = Batches::new(data.records.unwrap_or_default(), wanted.offset);
    for batch in walk.by_ref() {
        let damage = batch.unreadable().filter(|unreadable| unreadable.reason.may_be_transient());
        if let Some(damage) = damage.filter(|_| !take_damaged) {
            if fetched.next_offset == wanted.offset {
                return Outcome::Damaged(damage.to_string());
            }
            // What comes before is sound. The next fetch starts with the damaged one.
            return Outcome::Fetched(fetched);
        }
        fetched.next_offset = batch.next_offset();
        if let Some(header) = batch.header() {
            fetched.leader_epoch = Some(header.leader_epoch);
        }
        let is_left_out = match isolation {
            Isolation::Committed => !aborted.admits(&batch),
            Isolation::Uncommitted => batch.is_control(),
        };
        if !is_left_out {
            fetched.batches.push(batch);
        }
    }
    match walk.cut() {
        Some(cut) if fetched.next_offset == wanted.offset => {
            // It was asked for in full before: the length that it announces is wrong.
            if i64::from(wanted.max_bytes) >= i64::try_from(cut.bytes).unwrap_or(i64::MAX) {
                let batch = cut.unreadable();
                fetched.next_offset = batch.next_offset();
                fetched.batches.push(batch);
                return Outcome::Fetched(fetched);
            }
            Outcome::Cut { bytes: cut.bytes }
        }
        _ => Outcome::Fetched(fetched),
    }
}
