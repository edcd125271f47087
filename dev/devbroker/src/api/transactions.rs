//! Transactions: producer ids, what belongs to a transaction, and its end.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnTopicResult,
};
use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse,
    EndTxnRequest, EndTxnResponse, InitProducerIdRequest, InitProducerIdResponse, ProducerId,
    TxnOffsetCommitRequest, TxnOffsetCommitResponse,
};

use super::parts::{blocking, error_code};
use crate::clock::now_ms;
use crate::groups::offsets::Committed;
use crate::log::marker::{self, Outcome};
use crate::shared::Shared;
use crate::transactions::{Ending, Initialised, Producer};

/// Older clients know a fenced producer by another error: from these versions on it is
/// PRODUCER_FENCED.
const INIT_SAYS_FENCED: i16 = 4;
const OTHERS_SAY_FENCED: i16 = 2;

/// Long enough for a client to see that it is not at once.
const MARKERS_COME_AFTER: Duration = Duration::from_millis(20);

/// InitProducerId, for idempotent and for transactional producers.
pub(crate) async fn init_producer_id(
    shared: &Arc<Shared>,
    version: i16,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    let producer = match &request.transactional_id {
        None => new_producer_id(shared).await.map(|id| Producer { id, epoch: 0 }),
        Some(id) => {
            let known = Producer { id: request.producer_id.0, epoch: request.producer_epoch };
            let known = (version >= 3 && known.id >= 0).then_some(known);
            initialise(shared, id.to_string(), request.transaction_timeout_ms, known).await
        }
    };
    match producer.map_err(|error| fenced(error, version, INIT_SAYS_FENCED)) {
        Ok(producer) => InitProducerIdResponse::default()
            .with_producer_id(ProducerId(producer.id))
            .with_producer_epoch(producer.epoch),
        Err(error) => InitProducerIdResponse::default()
            .with_error_code(error.code())
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1),
    }
}

fn fenced(error: ResponseError, version: i16, since: i16) -> ResponseError {
    match error {
        ResponseError::ProducerFenced if version < since => ResponseError::InvalidProducerEpoch,
        other => other,
    }
}

async fn new_producer_id(shared: &Arc<Shared>) -> Result<i64, ResponseError> {
    let owned = shared.clone();
    blocking(move || owned.producer_ids.next()).await?.map_err(|error| {
        log::error!("cannot reserve producer ids: {error}");
        ResponseError::KafkaStorageError
    })
}

async fn initialise(
    shared: &Arc<Shared>,
    transactional_id: String,
    timeout_ms: i32,
    known: Option<Producer>,
) -> Result<Producer, ResponseError> {
    let owned = shared.clone();
    let initialised = blocking(move || {
        let new_id = || owned.producer_ids.next();
        owned.transactions.initialise(&transactional_id, timeout_ms, known, new_id)
    });
    match initialised.await?? {
        Initialised::Producer(producer) => Ok(producer),
        Initialised::Abort(ending) => {
            finish(shared, ending).await?;
            // As in Kafka the client comes again.
            Err(ResponseError::ConcurrentTransactions)
        }
    }
}

/// AddPartitionsToTxn, for one transaction; all of the partitions or none.
pub(crate) async fn add_partitions(
    shared: &Arc<Shared>,
    version: i16,
    request: AddPartitionsToTxnRequest,
) -> AddPartitionsToTxnResponse {
    let topics = request.v3_and_below_topics;
    let is_known = |topic: &str, index| shared.topics.partition(topic, index).is_some();
    let mut partitions = Vec::new();
    let mut all_known = true;
    for topic in &topics {
        for index in &topic.partitions {
            all_known &= is_known(&topic.name, *index);
            partitions.push((topic.name.to_string(), *index));
        }
    }
    let owned = shared.clone();
    let id = request.v3_and_below_transactional_id.to_string();
    let producer =
        Producer { id: request.v3_and_below_producer_id.0, epoch: request.v3_and_below_producer_epoch };
    let added = match all_known {
        true => {
            blocking(move || owned.transactions.add_partitions(&id, producer, partitions, now_ms())).await
        }
        false => Ok(Err(ResponseError::OperationNotAttempted)),
    };
    let error = added.and_then(|added| added).err().map(|error| fenced(error, version, OTHERS_SAY_FENCED));
    let results = topics.into_iter().map(|topic| {
        let results = topic.partitions.iter().map(|index| {
            let error = match is_known(&topic.name, *index) {
                true => error,
                false => Some(ResponseError::UnknownTopicOrPartition),
            };
            AddPartitionsToTxnPartitionResult::default()
                .with_partition_index(*index)
                .with_partition_error_code(error.map_or(0, |error| error.code()))
        });
        let results = results.collect();
        AddPartitionsToTxnTopicResult::default().with_name(topic.name).with_results_by_partition(results)
    });
    AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(results.collect())
}

/// AddOffsetsToTxn: begins a transaction, if none is open. The group needs no note: its
/// coordinator is this broker, and the offsets name it.
pub(crate) async fn add_offsets(
    shared: &Arc<Shared>,
    version: i16,
    request: AddOffsetsToTxnRequest,
) -> AddOffsetsToTxnResponse {
    let owned = shared.clone();
    let id = request.transactional_id.to_string();
    let producer = Producer { id: request.producer_id.0, epoch: request.producer_epoch };
    let added = blocking(move || owned.transactions.add_partitions(&id, producer, Vec::new(), now_ms()));
    let added = added.await.and_then(|added| added);
    let added = added.map_err(|error| fenced(error, version, OTHERS_SAY_FENCED));
    AddOffsetsToTxnResponse::default().with_error_code(error_code(&added))
}

/// TxnOffsetCommit.
pub(crate) async fn offset_commit(
    shared: &Arc<Shared>,
    request: TxnOffsetCommitRequest,
) -> TxnOffsetCommitResponse {
    let group = request.group_id.to_string();
    let mut offsets = Vec::new();
    for topic in &request.topics {
        for asked in &topic.partitions {
            let committed = Committed {
                offset: asked.committed_offset,
                leader_epoch: asked.committed_leader_epoch,
                metadata: asked.committed_metadata.clone().unwrap_or_default().to_string(),
            };
            offsets.push(((topic.name.to_string(), asked.partition_index), committed));
        }
    }
    let member = (request.member_id.to_string(), request.generation_id);
    let id = request.transactional_id.to_string();
    let producer = Producer { id: request.producer_id.0, epoch: request.producer_epoch };
    let owned = shared.clone();
    let stored = blocking(move || {
        if member.1 >= 0 {
            owned.groups.check_commit(&group, &member.0, member.1)?;
        }
        owned.transactions.add_offsets(&id, producer, &group, offsets)
    });
    let stored = stored.await.and_then(|stored| stored);
    let stored = stored.map_err(|error| match error {
        ResponseError::ProducerFenced => ResponseError::InvalidProducerEpoch,
        other => other,
    });
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            TxnOffsetCommitResponsePartition::default()
                .with_partition_index(asked.partition_index)
                .with_error_code(error_code(&stored))
        });
        let partitions = partitions.collect();
        TxnOffsetCommitResponseTopic::default().with_name(topic.name).with_partitions(partitions)
    });
    TxnOffsetCommitResponse::default().with_topics(topics.collect())
}

/// EndTxn. As Kafka's, the answer comes once the outcome is decided; the markers come later, and until then
/// readers wait at the transaction, and the producer is refused another (CONCURRENT_TRANSACTIONS).
pub(crate) async fn end(shared: &Arc<Shared>, version: i16, request: EndTxnRequest) -> EndTxnResponse {
    let outcome = if request.committed { Outcome::Commit } else { Outcome::Abort };
    let owned = shared.clone();
    let id = request.transactional_id.to_string();
    let producer = Producer { id: request.producer_id.0, epoch: request.producer_epoch };
    let decided = blocking(move || owned.transactions.end(&id, producer, outcome)).await;
    let ended = match decided.and_then(|decided| decided) {
        Ok(Some(ending)) => {
            let shared = shared.clone();
            tokio::spawn(async move {
                tokio::time::sleep(MARKERS_COME_AFTER).await;
                // Said there; the sweep tries again.
                let _ = finish(&shared, ending).await;
            });
            Ok(())
        }
        Ok(None) => Ok(()),
        Err(error) => Err(fenced(error, version, OTHERS_SAY_FENCED)),
    };
    EndTxnResponse::default().with_error_code(error_code(&ended))
}

/// Writes the markers of a decided transaction and commits its offsets. When that fails, the
/// sweep tries again: every step can be repeated.
pub(crate) async fn finish(shared: &Arc<Shared>, ending: Ending) -> Result<(), ResponseError> {
    let finished = try_finish(shared, &ending).await;
    if let Err(error) = finished {
        log::error!("cannot end transaction {} yet: {error}", ending.transactional_id.escape_debug());
        shared.transactions.not_ended(&ending);
    }
    finished
}

async fn try_finish(shared: &Arc<Shared>, ending: &Ending) -> Result<(), ResponseError> {
    let mut answers = Vec::new();
    for (topic, index) in &ending.partitions {
        // A topic that was deleted meanwhile needs no marker.
        if let Some(partition) = shared.topics.partition(topic, *index) {
            let Producer { id, epoch } = ending.producer;
            let built = marker::build(id, epoch, ending.outcome, now_ms());
            let (bytes, header) = built.map_err(|error| {
                log::error!("cannot build a transaction marker: {error}");
                ResponseError::UnknownServerError
            })?;
            answers.push(shared.writer.append(partition, bytes, header).await);
        }
    }
    for answer in answers {
        match answer.await.unwrap_or(Err(ResponseError::NotLeaderOrFollower)) {
            Ok(_) | Err(ResponseError::UnknownTopicOrPartition) => {}
            // A newer producer has written here: its epoch ended this transaction already.
            Err(ResponseError::InvalidProducerEpoch) => {}
            Err(error) => return Err(error),
        }
    }
    let (owned, ending) = (shared.clone(), ending.clone());
    let stored = blocking(move || {
        if ending.outcome == Outcome::Commit {
            for (group, offsets) in &ending.offsets {
                let committed = owned.groups.offsets().commit(group, offsets.clone());
                committed.map_err(|error| {
                    log::error!("cannot store committed offsets: {error}");
                    ResponseError::KafkaStorageError
                })?;
            }
        }
        owned.transactions.ended(&ending)
    });
    stored.await?
}

/// Ends what a crash or an error cut short, and aborts what is open for too long.
pub(crate) async fn sweep(shared: &Arc<Shared>) {
    let owned = shared.clone();
    let Ok(unfinished) = blocking(move || owned.transactions.unfinished(now_ms())).await else { return };
    for ending in unfinished {
        // Said there; the next sweep tries again.
        let _ = finish(shared, ending).await;
    }
}
