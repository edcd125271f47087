//! Transactions: fencing, what read_committed sees, and what a log keeps of them.

use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};

use super::support::transactions::*;
use super::*;

/// The life of one producer, at the versions of AddPartitionsToTxn and EndTxn.
pub async fn transaction_contract(wire: &mut Wire, [add, end]: [i16; 2]) {
    let (topic, id) = (unique("txn"), unique("txn"));
    wire.create_topic(&topic, &[]).await;
    let mut producer = TransactionalProducer::init(wire, &id).await;
    assert_eq!(producer.end(wire, end, true).await, code::INVALID_TXN_STATE);
    let missing = unique("missing");
    assert_eq!(producer.add(wire, add, &missing).await, code::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(producer.add(wire, add, &topic).await, 0);
    assert_eq!(producer.add(wire, add, &topic).await, 0);
    assert_eq!(producer.try_produce(wire, 9, &topic, &["a", "b"]).await, (0, 0));
    assert_eq!(producer.end(wire, end, true).await, 0);
    until_stable(wire, &topic, 3).await;
    assert_eq!(producer.end(wire, end, true).await, 0, "the same end is answered again");
    assert_eq!(producer.end(wire, end, false).await, code::INVALID_TXN_STATE);

    let fenced = |since: i16, version: i16| match version {
        _ if version < since => code::INVALID_PRODUCER_EPOCH,
        _ => code::PRODUCER_FENCED,
    };
    let newer = TransactionalProducer::init(wire, &id).await;
    assert_eq!(newer.producer_id, producer.producer_id);
    assert!(newer.epoch > producer.epoch);
    assert_eq!(producer.add(wire, add, &topic).await, fenced(2, add));
    assert_eq!(producer.end(wire, end, true).await, fenced(2, end));
    let stranger = TransactionalProducer { producer_id: 1 << 40, ..newer.clone() };
    assert_eq!(stranger.add(wire, add, &topic).await, code::INVALID_PRODUCER_ID_MAPPING);
    assert_eq!(stranger.end(wire, end, true).await, code::INVALID_PRODUCER_ID_MAPPING);
}

/// InitProducerId with a transactional id.
pub async fn init_contract(wire: &mut Wire, version: i16) {
    let id = unique("init");
    let first = TransactionalProducer::init(wire, &id).await;
    let init = async |wire: &mut Wire, request: InitProducerIdRequest| {
        let called = retried(async || {
            let response = wire.call(version, &request).await;
            (response.error_code, (response.producer_id.0, response.producer_epoch))
        });
        called.await
    };
    let again = init(wire, init_request(&id, 60_000)).await;
    assert_eq!(again, (0, (first.producer_id, first.epoch + 1)));
    for (request, expected) in [
        (init_request(&id, 0), code::INVALID_TRANSACTION_TIMEOUT),
        (init_request(&id, i32::MAX), code::INVALID_TRANSACTION_TIMEOUT),
        (init_request("", 60_000), code::INVALID_REQUEST),
    ] {
        assert_eq!(init(wire, request).await, (expected, (-1, -1)));
    }
    if version >= 3 {
        // A client that recovers gets the next epoch, the same one when it asks again, and is
        // refused when it is not the present producer.
        let known = |epoch| {
            init_request(&id, 60_000)
                .with_producer_id(ProducerId(first.producer_id))
                .with_producer_epoch(epoch)
        };
        let next = (first.producer_id, first.epoch + 2);
        assert_eq!(init(wire, known(first.epoch + 1)).await, (0, next));
        assert_eq!(init(wire, known(first.epoch + 1)).await, (0, next));
        let fenced = if version < 4 { code::INVALID_PRODUCER_EPOCH } else { code::PRODUCER_FENCED };
        assert_eq!(init(wire, known(first.epoch)).await, (fenced, (-1, -1)));
    }
}

#[tokio::test]
async fn a_committed_reader_stops_at_an_open_transaction_and_passes_an_aborted_one() {
    let target = Target::start().await;
    let mut wire = target.wire().await;
    let topic = unique("txn-read");
    wire.create_topic(&topic, &[]).await;
    wire.produce(&topic, &[record("before", None)]).await;
    let mut open = TransactionalProducer::init(&mut wire, &unique("open")).await;
    let mut other = TransactionalProducer::init(&mut wire, &unique("other")).await;
    assert_eq!(open.produce(&mut wire, &topic, &["open"]).await, 1);
    assert_eq!(wire.produce(&topic, &[record("plain", None)]).await, 2);
    assert_eq!(other.produce(&mut wire, &topic, &["aborted"]).await, 3);
    assert_eq!(other.end(&mut wire, 3, false).await, 0);
    // Kafka writes the marker after its answer.
    while wire.offset(&topic, -1).await < 5 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(wire.produce(&topic, &[record("after", None)]).await, 5);

    let (data, keys) = fetch_committed(&mut wire, &topic, 0).await;
    assert_eq!((data.high_watermark, data.last_stable_offset), (6, 1));
    assert_eq!(keys, ["before"]);
    // Beyond the last stable offset there is nothing yet, and no error.
    for offset in [1, 3, 6] {
        let (data, keys) = fetch_committed(&mut wire, &topic, offset).await;
        assert_eq!((data.last_stable_offset, data.records.unwrap_or_default().len()), (1, 0));
        assert!(keys.is_empty());
    }
    let uncommitted = wire.read_all(&topic, 0).await;
    let offsets: Vec<i64> = uncommitted.iter().map(|record| record.offset).collect();
    assert_eq!(offsets, [0, 1, 2, 3, 4, 5]);
    assert!(uncommitted[4].control);

    // Latest is the end of what the asker may see.
    for (replica, isolation, expected) in [(-1, 0, 6), (-1, 1, 1), (-2, 0, 6)] {
        let request = list_offsets(&topic, -1).with_isolation_level(isolation);
        let response = wire.call(7, &request.with_replica_id(BrokerId(replica))).await;
        let found = &response.topics[0].partitions[0];
        assert_eq!((found.error_code, found.offset), (0, expected), "{replica} {isolation}");
    }

    assert_eq!(open.end(&mut wire, 3, true).await, 0);
    until_stable(&mut wire, &topic, 7).await;
    let (data, keys) = fetch_committed(&mut wire, &topic, 0).await;
    assert_eq!(keys, ["before", "open", "plain", "after"]);
    let aborted = data.aborted_transactions.unwrap();
    assert_eq!(aborted.len(), 1);
    assert_eq!((aborted[0].producer_id.0, aborted[0].first_offset), (other.producer_id, 3));
    // Behind the marker it is no longer reported; between record and marker it is.
    let aborted_from = async |wire: &mut Wire, offset| {
        fetch_committed(wire, &topic, offset).await.0.aborted_transactions.unwrap().len()
    };
    assert_eq!(aborted_from(&mut wire, 4).await, 1);
    assert_eq!(aborted_from(&mut wire, 5).await, 0);
    // A reader of everything is not told.
    assert!(wire.fetch(&topic, 0).await.aborted_transactions.is_none_or(|aborted| aborted.is_empty()));
}

#[tokio::test]
async fn a_committed_readers_long_poll_ends_with_the_transaction() {
    let target = Target::start().await;
    let (mut wire, mut reader) = (target.wire().await, target.wire().await);
    let topic = unique("txn-poll");
    wire.create_topic(&topic, &[]).await;
    let mut producer = TransactionalProducer::init(&mut wire, &unique("poll")).await;
    producer.produce(&mut wire, &topic, &["a"]).await;
    let asked = Instant::now();
    reader.send(11, &fetch(&topic, 0, 1, 30_000, 1 << 20).with_isolation_level(1)).await;
    let early = tokio::time::timeout(Duration::from_millis(300), reader.frame()).await;
    assert!(early.is_err(), "there is nothing that is committed");
    assert_eq!(producer.end(&mut wire, 3, true).await, 0);
    let frame = tokio::time::timeout(Duration::from_secs(10), reader.frame()).await.unwrap().unwrap();
    assert!(frame.len() > 100 && asked.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn whoever_takes_a_transactional_id_over_aborts_what_was_open_and_shuts_the_other_out() {
    let target = Target::start().await;
    let mut wire = target.wire().await;
    let (topic, id) = (unique("txn-fence"), unique("txn-fence"));
    wire.create_topic(&topic, &[]).await;
    let mut old = TransactionalProducer::init(&mut wire, &id).await;
    old.produce(&mut wire, &topic, &["old"]).await;
    let mut new = TransactionalProducer::init(&mut wire, &id).await;
    assert!(new.epoch > old.epoch);
    until_stable(&mut wire, &topic, 2).await;
    assert_eq!(old.try_produce(&mut wire, 9, &topic, &["late"]).await, (code::INVALID_PRODUCER_EPOCH, -1));
    assert_eq!(old.end(&mut wire, 3, true).await, code::PRODUCER_FENCED);
    new.produce(&mut wire, &topic, &["new"]).await;
    assert_eq!(new.end(&mut wire, 3, true).await, 0);
    until_stable(&mut wire, &topic, 4).await;
    assert_eq!(fetch_committed(&mut wire, &topic, 0).await.1, ["new"]);
}

#[tokio::test]
async fn what_is_not_part_of_the_transaction_is_refused() {
    let target = Target::start().await;
    let mut wire = target.wire().await;
    let (topic, id) = (unique("txn-refused"), unique("txn-refused"));
    wire.create_topic(&topic, &[]).await;
    let mut producer = TransactionalProducer::init(&mut wire, &id).await;
    for (version, expected) in [(9, code::INVALID_TXN_STATE), (11, code::TRANSACTION_ABORTABLE)] {
        assert_eq!(producer.try_produce(&mut wire, version, &topic, &["a"]).await, (expected, -1));
    }
    producer.produce(&mut wire, &topic, &["a"]).await;
    // A gap in the sequence, a repeated batch, and a batch outside of the open transaction.
    let mut skipped = TransactionalProducer { sequence: 7, ..producer.clone() };
    let refused = skipped.try_produce(&mut wire, 9, &topic, &["a"]).await;
    assert_eq!(refused, (code::OUT_OF_ORDER_SEQUENCE_NUMBER, -1));
    let mut repeated = TransactionalProducer { sequence: 0, ..producer.clone() };
    assert_eq!(repeated.try_produce(&mut wire, 9, &topic, &["a"]).await, (0, 0));
    let mut plain = record("a", None);
    plain.producer_id = producer.producer_id;
    plain.producer_epoch = producer.epoch;
    plain.sequence = 1;
    let response = wire.produce_raw(9, &topic, encode(&[plain], Compression::None), -1).await;
    assert_eq!(response.error_code, code::INVALID_TXN_STATE);
    assert_eq!(producer.end(&mut wire, 3, true).await, 0);
    until_stable(&mut wire, &topic, 2).await;
}

#[tokio::test]
async fn transactions_survive_a_restart() {
    let target = Target::start().await;
    let mut wire = target.wire().await;
    let (topic, id) = (unique("txn-restart"), unique("txn-restart"));
    wire.create_topic(&topic, &[]).await;
    let mut aborted = TransactionalProducer::init(&mut wire, &unique("aborted")).await;
    aborted.produce(&mut wire, &topic, &["aborted"]).await;
    assert_eq!(aborted.end(&mut wire, 3, false).await, 0);
    until_stable(&mut wire, &topic, 2).await;
    let mut open = TransactionalProducer::init(&mut wire, &id).await;
    assert_eq!(open.produce(&mut wire, &topic, &["open"]).await, 2);

    let Some(target) = target.restart().await else { return };
    let mut wire = target.wire().await;
    wire.until_led(&topic).await;
    find_transaction_coordinator(&mut wire, &id).await;
    let (data, keys) = fetch_committed(&mut wire, &topic, 0).await;
    assert_eq!((data.last_stable_offset, data.high_watermark), (2, 3));
    assert_eq!((keys.len(), data.aborted_transactions.unwrap().len()), (0, 1));
    // The last batch again, the next one, and the end.
    let mut repeated = TransactionalProducer { sequence: 0, ..open.clone() };
    assert_eq!(repeated.try_produce(&mut wire, 9, &topic, &["open"]).await, (0, 2));
    assert_eq!(open.try_produce(&mut wire, 9, &topic, &["more"]).await, (0, 3));
    assert_eq!(open.end(&mut wire, 3, true).await, 0);
    until_stable(&mut wire, &topic, 5).await;
    assert_eq!(fetch_committed(&mut wire, &topic, 0).await.1, ["open", "more"]);
}

#[tokio::test]
async fn a_transaction_past_its_timeout_is_aborted() {
    let target = Target::start().await;
    let mut wire = target.wire().await;
    let topic = unique("txn-timeout");
    wire.create_topic(&topic, &[]).await;
    let mut producer = TransactionalProducer::init_for(&mut wire, &unique("timeout"), 10_000).await;
    producer.produce(&mut wire, &topic, &["late"]).await;
    // Kafka looks every 10 s.
    until_stable_within(&mut wire, &topic, 2, Duration::from_secs(60)).await;
    assert!(fetch_committed(&mut wire, &topic, 0).await.1.is_empty());
    assert_eq!(producer.end(&mut wire, 3, true).await, code::PRODUCER_FENCED);
}

async fn until_stable_within(wire: &mut Wire, topic: &str, end: i64, limit: Duration) {
    let start = Instant::now();
    while fetch_committed(wire, topic, 0).await.0.last_stable_offset != end {
        assert!(start.elapsed() < limit, "{topic} does not become stable at {end}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Offsets that are committed in a transaction, at the versions of AddOffsetsToTxn and
/// TxnOffsetCommit.
pub async fn transactional_offsets_contract(wire: &mut Wire, [add, commit]: [i16; 2]) {
    let (topic, group) = (unique("txn-offsets"), unique("txn-offsets"));
    wire.create_topic(&topic, &[]).await;
    find_coordinator_contract(wire, 4).await;
    let producer = TransactionalProducer::init(wire, &unique("txn-offsets")).await;
    let add_offsets = AddOffsetsToTxnRequest::default()
        .with_transactional_id(TransactionalId(text(&producer.id)))
        .with_producer_id(ProducerId(producer.producer_id))
        .with_producer_epoch(producer.epoch)
        .with_group_id(GroupId(text(&group)));
    let offset_commit = |offset| {
        let partition = TxnOffsetCommitRequestPartition::default()
            .with_committed_offset(offset)
            .with_committed_metadata(Some(text("note")));
        let topic = TxnOffsetCommitRequestTopic::default()
            .with_name(topic_name(&topic))
            .with_partitions(vec![partition]);
        TxnOffsetCommitRequest::default()
            .with_transactional_id(TransactionalId(text(&producer.id)))
            .with_group_id(GroupId(text(&group)))
            .with_producer_id(ProducerId(producer.producer_id))
            .with_producer_epoch(producer.epoch)
            .with_topics(vec![topic])
    };
    for (offset, committed_too, expected) in [(5, false, -1), (7, true, 7)] {
        let added = retried(async || (wire.call(add, &add_offsets).await.error_code, ())).await;
        assert_eq!(added.0, 0);
        let response = retried(async || {
            let response = wire.call(commit, &offset_commit(offset)).await;
            (response.topics[0].partitions[0].error_code, ())
        });
        assert_eq!(response.await.0, 0);
        // Until the end it counts for nothing, and whoever wants it stable has to wait.
        assert_eq!(committed(wire, 7, &group, &topic, false).await, [(-1, String::new())]);
        assert_eq!(stable_offset_error(wire, &group, &topic).await, code::UNSTABLE_OFFSET_COMMIT);
        assert_eq!(producer.end(wire, 3, committed_too).await, 0);
        let note = if expected < 0 { "" } else { "note" };
        for _ in 0..100 {
            if stable_offset_error(wire, &group, &topic).await == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(committed(wire, 7, &group, &topic, false).await, [(expected, note.to_owned())]);
    }
}

async fn stable_offset_error(wire: &mut Wire, group: &str, topic: &str) -> i16 {
    let topic =
        OffsetFetchRequestTopic::default().with_name(topic_name(topic)).with_partition_indexes(vec![0]);
    let request = OffsetFetchRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_require_stable(true)
        .with_topics(Some(vec![topic]));
    wire.call(7, &request).await.topics[0].partitions[0].error_code
}
