//! Another producer on the same topics: with transactions, and with records of forms that this system never
//! writes.

use crate::wire::{Wire, check_code, name, text};
use crate::{Error, Result, eventually};
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, EndTxnRequest, FindCoordinatorRequest, InitProducerIdRequest, ProduceRequest,
    ProducerId, TransactionalId,
};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression, NO_PARTITION_LEADER_EPOCH, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use std::io::{self, Read, Write};
use std::time::Duration;

const FIND_COORDINATOR: i16 = 3;
const INIT_PRODUCER_ID: i16 = 2;
const ADD_PARTITIONS: i16 = 1;
const END: i16 = 1;
const PRODUCE: i16 = 8;
/// Kafka's number for a transactional id in FindCoordinator.
const TRANSACTION: i8 = 1;
/// The first transaction of a broker has its topic made first.
const COORDINATOR_LIMIT: Duration = Duration::from_secs(60);
/// Until Kafka aborts a transaction that its producer has left open: longer than any test.
const TIMEOUT_MS: i32 = 600_000;
/// Coordinator not available, coordinator load in progress, not coordinator, and concurrent transactions.
const NOT_YET: [i16; 4] = [15, 14, 16, 51];

/// A transaction on one partition, open until it is ended.
pub struct Transaction {
    id: StrBytes,
    producer: ProducerId,
    epoch: i16,
    sequence: i32,
    topic: String,
    partition: i32,
    coordinator: Wire,
    leader: Wire,
}

impl Transaction {
    /// Opens one. A transaction of the same id that is still open is aborted.
    pub async fn begin(bootstrap: &str, id: &str, topic: &str, partition: i32) -> Result<Self> {
        let find = FindCoordinatorRequest::default().with_key(text(id)).with_key_type(TRANSACTION);
        let init = InitProducerIdRequest::default()
            .with_transactional_id(Some(TransactionalId(text(id))))
            .with_transaction_timeout_ms(TIMEOUT_MS);
        let begun = async || {
            let found = Wire::connect_any(bootstrap).await?.call(FIND_COORDINATOR, &find).await?;
            if NOT_YET.contains(&found.error_code) {
                return Ok(None);
            }
            check_code("find the coordinator of transactions", found.error_code)?;
            let mut coordinator = Wire::connect(&format!("{}:{}", found.host, found.port)).await?;
            let answer = coordinator.call(INIT_PRODUCER_ID, &init).await?;
            if NOT_YET.contains(&answer.error_code) {
                return Ok(None);
            }
            check_code("ask for a producer id", answer.error_code)?;
            Ok(Some((coordinator, answer.producer_id, answer.producer_epoch)))
        };
        let (mut coordinator, producer, epoch) =
            eventually("a coordinator of transactions", COORDINATOR_LIMIT, begun).await?;
        let add = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(TransactionalId(text(id)))
            .with_v3_and_below_producer_id(producer)
            .with_v3_and_below_producer_epoch(epoch)
            .with_v3_and_below_topics(vec![
                AddPartitionsToTxnTopic::default().with_name(name(topic)).with_partitions(vec![partition]),
            ]);
        eventually("a partition in the transaction", COORDINATOR_LIMIT, async || {
            let answer = coordinator.call(ADD_PARTITIONS, &add).await?;
            let results = answer.results_by_topic_v3_and_below.iter();
            let codes: Vec<_> = results
                .flat_map(|one| &one.results_by_partition)
                .map(|one| one.partition_error_code)
                .collect();
            if codes.iter().any(|code| NOT_YET.contains(code)) {
                return Ok(None);
            }
            codes.iter().try_for_each(|code| check_code("add a partition to a transaction", *code))?;
            Ok(Some(()))
        })
        .await?;
        let leader = Wire::connect_leader(bootstrap, topic, partition).await?;
        let id = text(id);
        let topic = topic.to_owned();
        Ok(Self { id, producer, epoch, sequence: 0, topic, partition, coordinator, leader })
    }

    /// Writes these values in one batch, with the key `foreign`, and returns the offset of the first.
    pub async fn send(&mut self, values: &[&[u8]]) -> Result<i64> {
        let records: Vec<_> = values
            .iter()
            .zip(self.sequence..)
            .map(|(value, sequence)| Record {
                transactional: true,
                producer_id: self.producer.0,
                producer_epoch: self.epoch,
                sequence,
                ..plain(Some(b"foreign"), Some(value), &[])
            })
            .collect();
        self.sequence += size(values.len())?;
        let id = Some(TransactionalId(self.id.clone()));
        write(&mut self.leader, &self.topic, self.partition, records, id).await
    }

    /// Commits what was sent.
    pub async fn commit(self) -> Result<()> {
        self.end(true).await
    }

    /// Aborts what was sent.
    pub async fn abort(self) -> Result<()> {
        self.end(false).await
    }

    async fn end(mut self, commits: bool) -> Result<()> {
        let request = EndTxnRequest::default()
            .with_transactional_id(TransactionalId(self.id.clone()))
            .with_producer_id(self.producer)
            .with_producer_epoch(self.epoch)
            .with_committed(commits);
        let answer = self.coordinator.call(END, &request).await?;
        check_code("end a transaction", answer.error_code)
    }
}

/// Writes one record with these headers, which may have no value, and returns its offset.
pub async fn produce_with_headers(
    bootstrap: &str,
    topic: &str,
    value: &[u8],
    headers: &[(&str, Option<&[u8]>)],
) -> Result<i64> {
    let mut leader = Wire::connect_leader(bootstrap, topic, 0).await?;
    write(&mut leader, topic, 0, vec![plain(Some(b"foreign"), Some(value), headers)], None).await
}

fn plain(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[(&str, Option<&[u8]>)]) -> Record {
    let headers: IndexMap<_, _> =
        headers.iter().map(|(name, value)| (text(name), value.map(Bytes::copy_from_slice))).collect();
    Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: TimestampType::Creation,
        offset: 0,
        sequence: -1,
        timestamp: chrono::Utc::now().timestamp_millis(),
        key: key.map(Bytes::copy_from_slice),
        value: value.map(Bytes::copy_from_slice),
        headers,
    }
}

async fn write(
    leader: &mut Wire,
    topic: &str,
    partition: i32,
    mut records: Vec<Record>,
    transaction: Option<TransactionalId>,
) -> Result<i64> {
    for (record, offset) in records.iter_mut().zip(0..) {
        record.offset = offset;
    }
    let mut batch = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    let encoded = RecordBatchEncoder::encode(&mut batch, &records, &options);
    encoded.map_err(|error| Error::kafka("encode a batch", error))?;
    send(leader, topic, partition, batch.freeze(), transaction).await
}

async fn send(
    leader: &mut Wire,
    topic: &str,
    partition: i32,
    batch: Bytes,
    transaction: Option<TransactionalId>,
) -> Result<i64> {
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch));
    let data = TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data]);
    let request = ProduceRequest::default()
        .with_transactional_id(transaction)
        .with_acks(-1)
        .with_timeout_ms(10_000)
        .with_topic_data(vec![data]);
    let answer = leader.call(PRODUCE, &request).await?;
    let answer = answer.responses.iter().flat_map(|topic| &topic.partition_responses).next();
    let answer = answer.ok_or_else(|| Error::kafka("produce", "no answer for the partition"))?;
    check_code("produce", answer.error_code)?;
    Ok(answer.base_offset)
}

/// Writes a gzip batch of one record whose value is that many zeros: a thousandth of it on the wire.
pub async fn produce_gzip_bomb(bootstrap: &str, topic: &str, zeros: usize) -> Result<i64> {
    let batch = gzip_bomb(zeros)?;
    let mut leader = Wire::connect_leader(bootstrap, topic, 0).await?;
    send(&mut leader, topic, 0, batch, None).await
}

fn gzip_bomb(zeros: usize) -> Result<Bytes> {
    // Attributes, timestamp delta, offset delta, no key.
    let mut head = vec![0, 0, 0];
    put_varint(&mut head, -1);
    put_varint(&mut head, size(zeros)?.into());
    // And no headers, behind the value.
    let mut record = Vec::new();
    put_varint(&mut record, size(head.len() + zeros + 1)?.into());
    record.extend(head);
    let packed = gzip(&record, zeros).map_err(|error| Error::failed(format!("gzip: {error}")))?;

    let now = chrono::Utc::now().timestamp_millis();
    // What the checksum covers: attributes (gzip), last offset delta, two timestamps, no producer, one record.
    let mut covered = BytesMut::new();
    covered.put_i16(1);
    covered.put_i32(0);
    covered.put_i64(now);
    covered.put_i64(now);
    covered.put_i64(-1);
    covered.put_i16(-1);
    covered.put_i32(-1);
    covered.put_i32(1);
    covered.extend_from_slice(&packed);
    let mut batch = BytesMut::new();
    batch.put_i64(0);
    batch.put_i32(size(covered.len() + 9)?);
    batch.put_i32(-1);
    batch.put_i8(2);
    batch.put_u32(crc32c::crc32c(&covered));
    batch.extend_from_slice(&covered);
    Ok(batch.freeze())
}

/// These bytes, that many zeros, and one more, compressed.
fn gzip(start: &[u8], zeros: usize) -> io::Result<Vec<u8>> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(start)?;
    io::copy(&mut io::repeat(0).take(zeros as u64 + 1), &mut packed)?;
    packed.finish()
}

/// As protobuf's sint64.
fn put_varint(bytes: &mut Vec<u8>, value: i64) {
    let mut left = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while left >= 0x80 {
        // Seven bits, and that more follow.
        bytes.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    bytes.push(left as u8);
}

/// A number of bytes or records as the wire format has it.
fn size(size: usize) -> Result<i32> {
    i32::try_from(size).map_err(|_| Error::failed(format!("{size} is too much for one batch")))
}
