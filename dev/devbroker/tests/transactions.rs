//! What compaction, retention and a kill leave of transactions.

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use devbroker::Broker;
use support::transactions::*;
use support::*;

async fn wire(broker: &Broker) -> Wire {
    Wire::connect(&broker.addr().to_string()).await
}

/// Offsets and whether it is a marker, of all that is in the log.
async fn content(wire: &mut Wire, topic: &str) -> Vec<(i64, bool)> {
    let records = wire.read_all(topic, 0).await;
    records.iter().map(|record| (record.offset, record.control)).collect()
}

/// One transaction with these keys.
async fn transaction(wire: &mut Wire, producer: &mut TransactionalProducer, keys: &[&str], commit: bool) {
    producer.produce(wire, "t", keys).await;
    assert_eq!(producer.end(wire, 3, commit).await, 0);
}

#[tokio::test]
async fn compaction_removes_aborted_records_and_the_markers_that_nothing_needs_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let mut wire_before = wire(&broker).await;
    let wire = &mut wire_before;
    let configs = [("cleanup.policy", "compact"), ("delete.retention.ms", "300")];
    wire.create_topic("t", &configs).await;
    let mut one = TransactionalProducer::init(wire, "one").await;
    let mut two = TransactionalProducer::init(wire, "two").await;
    wire.produce("t", &[record("a", Some("0"))]).await;
    transaction(wire, &mut one, &["a"], false).await; // 1, marker 2
    transaction(wire, &mut one, &["a", "b"], true).await; // 3, 4, marker 5
    transaction(wire, &mut two, &["c"], true).await; // 6, marker 7
    wire.produce("t", &[record("c", Some("newer"))]).await; // 8
    two.produce(wire, "t", &["open"]).await; // 9
    wire.produce("t", &[record("a", Some("behind the open one"))]).await; // 10

    // What is open, and all behind it, is not touched; nor does an aborted record supersede one.
    broker.compact_now("t").await.unwrap();
    assert_eq!(wire.offset("t", -1).await, 11);
    assert_eq!(content(wire, "t").await.len(), 11);

    assert_eq!(two.end(wire, 3, true).await, 0); // marker 11
    broker.compact_now("t").await.unwrap();
    let markers =
        [(2, true), (4, false), (5, true), (7, true), (8, false), (9, false), (10, false), (11, true)];
    assert_eq!(content(wire, "t").await, markers);
    let keys = ["b", "c", "open", "a"];
    assert_eq!(fetch_committed(wire, "t", 0).await.1, keys);

    // Markers 2 and 7 have lost all of their records; a reader may still be before them.
    tokio::time::sleep(Duration::from_millis(350)).await;
    broker.compact_now("t").await.unwrap();
    let left = [(4, false), (5, true), (8, false), (9, false), (10, false), (11, true)];
    assert_eq!(content(wire, "t").await, left);
    let (data, found) = fetch_committed(wire, "t", 0).await;
    assert_eq!(found, keys, "what the producer wrote after its abort is still seen");
    assert!(data.aborted_transactions.unwrap().is_empty());
    broker.shutdown().await;

    let broker = start(dir.path()).await;
    let wire = &mut Wire::connect(&broker.addr().to_string()).await;
    assert_eq!(content(wire, "t").await, left);
    assert_eq!(fetch_committed(wire, "t", 0).await.1, keys);
    broker.shutdown().await;
}

/// A copy of the data folder at one moment, as a kill would leave it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() { copy(&from, &to) } else { fs::copy(from, to).map(drop).unwrap() }
    }
}

#[tokio::test]
async fn closed_segments_and_a_lost_state_file_tell_the_same_of_transactions() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let mut first = wire(&broker).await;
    first.create_topic("t", &[("segment.bytes", "200")]).await;
    let mut aborting = TransactionalProducer::init(&mut first, "aborting").await;
    let mut open = TransactionalProducer::init(&mut first, "open").await;
    open.produce(&mut first, "t", &["open"]).await; // 0
    for n in 0..6 {
        let key = format!("k{n}");
        transaction(&mut first, &mut aborting, &[&key], n % 2 == 0).await;
    }
    for lost in [false, true] {
        let killed = tempfile::tempdir().unwrap();
        copy(dir.path(), killed.path());
        let state = killed.path().join("topics/t/0/partition-state.json");
        assert!(state.exists());
        if lost {
            fs::remove_file(state).unwrap();
        }
        let broker = start(killed.path()).await;
        let mut wire = wire(&broker).await;
        let (data, keys) = fetch_committed(&mut wire, "t", 0).await;
        assert_eq!((data.last_stable_offset, data.high_watermark, keys.len()), (0, 13, 0), "{lost}");
        let mut again = TransactionalProducer { sequence: 0, ..open.clone() };
        assert_eq!(again.try_produce(&mut wire, 9, "t", &["open"]).await, (0, 0), "a repeated batch");
        assert_eq!(open.clone().end(&mut wire, 3, true).await, 0);
        let mut offset = 0;
        let mut keys = Vec::new();
        let mut aborted = Vec::new();
        while offset < 14 {
            let (data, found) = fetch_committed(&mut wire, "t", offset).await;
            keys.extend(found);
            aborted.extend(data.aborted_transactions.unwrap().iter().map(|aborted| aborted.first_offset));
            offset = decode(data.records.unwrap()).last().unwrap().offset + 1;
        }
        assert_eq!(keys, ["open", "k0", "k2", "k4"], "{lost}");
        aborted.dedup();
        assert!(aborted.ends_with(&[11]) && aborted.starts_with(&[3]), "{aborted:?}");
        broker.shutdown().await;
    }
    broker.shutdown().await;
}

#[tokio::test]
async fn a_decided_transaction_is_ended_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let mut wire = Wire::connect(&broker.addr().to_string()).await;
    wire.create_topic("t", &[]).await;
    let mut producer = TransactionalProducer::init(&mut wire, "txn").await;
    producer.produce(&mut wire, "t", &["a"]).await;
    broker.shutdown().await;
    // As a kill leaves it between the decision and the markers.
    let file = dir.path().join("transactions");
    let decided = fs::read_to_string(&file).unwrap().replace("\"Open\"", "{\"Ending\":\"commit\"}");
    fs::write(&file, decided).unwrap();

    let broker = start(dir.path()).await;
    let mut wire = Wire::connect(&broker.addr().to_string()).await;
    until_stable(&mut wire, "t", 2).await;
    assert_eq!(fetch_committed(&mut wire, "t", 0).await.1, ["a"]);
    assert_eq!(producer.end(&mut wire, 3, true).await, 0);
    assert_eq!(producer.end(&mut wire, 3, false).await, code::INVALID_TXN_STATE);
    broker.shutdown().await;
}
