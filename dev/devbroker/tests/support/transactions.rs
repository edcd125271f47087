//! A transactional producer, and a reader that filters as Kafka's consumer does.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, EndTxnRequest, FindCoordinatorRequest, InitProducerIdRequest, ProducerId,
    TransactionalId,
};
use kafka_protocol::records::{Compression, Record};

use super::*;

/// A transactional producer; the versions are those of Kafka's own client of today.
#[derive(Clone)]
pub struct TransactionalProducer {
    pub id: String,
    pub producer_id: i64,
    pub epoch: i16,
    pub sequence: i32,
}

/// Calls until no coordinator is loading and no former transaction is being ended.
pub async fn retried<R>(mut call: impl AsyncFnMut() -> (i16, R)) -> (i16, R) {
    for _ in 0..500 {
        let (error, response) = call().await;
        if ![14, 15, 16, code::CONCURRENT_TRANSACTIONS].contains(&error) {
            return (error, response);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the coordinator stays busy");
}

pub fn init_request(id: &str, timeout_ms: i32) -> InitProducerIdRequest {
    InitProducerIdRequest::default()
        .with_transactional_id(Some(TransactionalId(text(id))))
        .with_transaction_timeout_ms(timeout_ms)
}

impl TransactionalProducer {
    pub async fn init(wire: &mut Wire, id: &str) -> Self {
        Self::init_for(wire, id, 60_000).await
    }

    pub async fn init_for(wire: &mut Wire, id: &str, timeout_ms: i32) -> Self {
        find_transaction_coordinator(wire, id).await;
        let (error, response) = retried(async || {
            let response = wire.call(4, &init_request(id, timeout_ms)).await;
            (response.error_code, response)
        })
        .await;
        assert_eq!(error, 0);
        let (producer_id, epoch) = (response.producer_id.0, response.producer_epoch);
        Self { id: id.to_owned(), producer_id, epoch, sequence: 0 }
    }

    pub async fn add(&self, wire: &mut Wire, version: i16, topic: &str) -> i16 {
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(TransactionalId(text(&self.id)))
            .with_v3_and_below_producer_id(ProducerId(self.producer_id))
            .with_v3_and_below_producer_epoch(self.epoch)
            .with_v3_and_below_topics(vec![
                AddPartitionsToTxnTopic::default().with_name(topic_name(topic)).with_partitions(vec![0]),
            ]);
        let called = retried(async || {
            let response = wire.call(version, &request).await;
            let topic = &response.results_by_topic_v3_and_below[0];
            (topic.results_by_partition[0].partition_error_code, ())
        });
        called.await.0
    }

    fn batch(&self, keys: &[&str]) -> Bytes {
        let records: Vec<Record> = keys
            .iter()
            .map(|key| Record {
                transactional: true,
                producer_id: self.producer_id,
                producer_epoch: self.epoch,
                sequence: self.sequence,
                ..record(key, Some("in a transaction"))
            })
            .collect();
        encode(&records, Compression::None)
    }

    /// Produces records with these keys; error code and base offset.
    pub async fn try_produce(
        &mut self,
        wire: &mut Wire,
        version: i16,
        topic: &str,
        keys: &[&str],
    ) -> (i16, i64) {
        let request =
            produce(topic, self.batch(keys), -1).with_transactional_id(Some(TransactionalId(text(&self.id))));
        let response = wire.call(version, &request).await;
        let answered = &response.responses[0].partition_responses[0];
        if answered.error_code == 0 {
            self.sequence += i32::try_from(keys.len()).unwrap();
        }
        (answered.error_code, answered.base_offset)
    }

    pub async fn produce(&mut self, wire: &mut Wire, topic: &str, keys: &[&str]) -> i64 {
        assert_eq!(self.add(wire, 3, topic).await, 0);
        let (error, offset) = self.try_produce(wire, 9, topic, keys).await;
        assert_eq!(error, 0);
        offset
    }

    /// Ends the transaction; its markers are in the log when this returns, which an answer does not promise.
    pub async fn end(&self, wire: &mut Wire, version: i16, committed: bool) -> i16 {
        let request = EndTxnRequest::default()
            .with_transactional_id(TransactionalId(text(&self.id)))
            .with_producer_id(ProducerId(self.producer_id))
            .with_producer_epoch(self.epoch)
            .with_committed(committed);
        let mut ask = async || retried(async || (wire.call(version, &request).await.error_code, ())).await.0;
        // While markers are missing the second answer is CONCURRENT_TRANSACTIONS, which is asked again.
        let code = ask().await;
        if code == 0 { ask().await } else { code }
    }
}

pub async fn find_transaction_coordinator(wire: &mut Wire, id: &str) {
    let request = FindCoordinatorRequest::default().with_key_type(1).with_coordinator_keys(vec![text(id)]);
    let found = retried(async || {
        let response = wire.call(4, &request).await;
        (response.coordinators[0].error_code, ())
    });
    assert_eq!(found.await.0, 0);
}

/// What a consumer gets in one fetch with read_committed: the answer, and the keys it hands out.
pub async fn fetch_committed(wire: &mut Wire, topic: &str, offset: i64) -> (PartitionData, Vec<String>) {
    let request = fetch(topic, offset, 1, 0, 50 << 20).with_isolation_level(1);
    let data = wire.call(11, &request).await.responses[0].partitions[0].clone();
    assert_eq!(data.error_code, 0);
    let mut aborted = data.aborted_transactions.clone().unwrap();
    aborted.sort_by_key(|aborted| aborted.first_offset);
    let mut open: Vec<i64> = Vec::new();
    let mut keys = Vec::new();
    for record in decode(data.records.clone().unwrap_or_default()) {
        while aborted.first().is_some_and(|next| next.first_offset <= record.offset) {
            open.push(aborted.remove(0).producer_id.0);
        }
        if record.control {
            open.retain(|id| *id != record.producer_id);
        } else if record.offset >= offset && !(record.transactional && open.contains(&record.producer_id)) {
            keys.push(String::from_utf8(record.key.unwrap().to_vec()).unwrap());
        }
    }
    (data, keys)
}

/// Waits until every transaction in the log has ended: Kafka writes the markers after its answer.
pub async fn until_stable(wire: &mut Wire, topic: &str, end: i64) {
    for _ in 0..500 {
        let (data, _) = fetch_committed(wire, topic, 0).await;
        if data.last_stable_offset == end && data.high_watermark == end {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{topic} does not become stable at {end}");
}
