//! Batches that Apache Kafka's own producer wrote: see `golden/README.md`.

use task_events::kafka::records::{AbortedTransactions, Batch, Batches, Codec, ConsumerRecord, Marker};

const NOW: i64 = 1_760_000_000_000;

fn batches(segment: &[u8]) -> Vec<Batch> {
    let mut walk = Batches::new(segment.to_vec().into(), 0);
    let batches = walk.by_ref().collect();
    assert_eq!(walk.cut(), None);
    batches
}

fn text(bytes: Option<&[u8]>) -> Option<String> {
    bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
}

/// The record that `GoldenBatches.java` sends as number `n`.
fn check(record: &ConsumerRecord, n: i64, timestamp: i64, long_bytes: usize) {
    assert_eq!((record.offset, record.leader_epoch, record.timestamp), (n, 0, timestamp));
    let (key, value) = match n {
        0 => (Some("alone".to_owned()), Some("alone".to_owned())),
        101 => {
            let mut lines = String::new();
            (0..1_000)
                .cycle()
                .take_while(|line| {
                    let more = lines.len() < long_bytes;
                    if more {
                        lines.push_str(&format!("line {line}\n"));
                    }
                    more
                })
                .for_each(drop);
            (Some("long".to_owned()), Some(lines))
        }
        102 => (Some("after".to_owned()), Some("after".to_owned())),
        n => {
            let value = match n {
                n if n % 11 == 0 => None,
                n if n % 13 == 0 => Some(String::new()),
                n => Some(format!("value {n}")),
            };
            ((n % 7 != 0).then(|| format!("key-{n}")), value)
        }
    };
    assert_eq!(text(record.key.as_deref()), key, "{n}");
    assert!(text(record.value.as_deref()) == value, "{n}");
    let headers: Vec<_> =
        record.headers.iter().map(|header| (header.name_lossy().into_owned(), text(header.value))).collect();
    let expected = [("repeated", Some("first")), ("repeated", Some("second")), ("null", None)]
        .map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned)));
    assert_eq!(headers, if n % 3 == 0 { expected.to_vec() } else { Vec::new() });
}

#[test]
fn what_kafkas_producer_compressed_is_read() {
    for (codec, segment) in [
        (Codec::None, include_bytes!("golden/none.segment").as_slice()),
        (Codec::Gzip, include_bytes!("golden/gzip.segment")),
        (Codec::Snappy, include_bytes!("golden/snappy.segment")),
        (Codec::Lz4, include_bytes!("golden/lz4.segment")),
        (Codec::Zstd, include_bytes!("golden/zstd.segment")),
    ] {
        let batches = batches(segment);
        let counts: Vec<_> = batches.iter().map(|batch| batch.header().unwrap().count).collect();
        assert_eq!(counts, [1, 100, 2], "{codec}");
        assert!(batches.iter().all(|batch| batch.header().unwrap().codec() == Ok(codec)));
        let records: Vec<_> = batches.iter().flat_map(Batch::records).map(Result::unwrap).collect();
        assert_eq!(records.len(), 103, "{codec}");
        let long_bytes = if codec == Codec::None { 100 } else { 200_000 };
        for (record, n) in records.iter().zip(0..) {
            check(record, n, NOW + n, long_bytes);
        }
    }
}

#[test]
fn the_time_that_kafka_stamped_is_the_time_of_every_record() {
    for batch in batches(include_bytes!("golden/log-append-time.segment")) {
        let stamped = batch.header().unwrap().max_timestamp;
        assert!(batch.header().unwrap().is_log_append_time() && stamped > NOW);
        for record in batch.records().map(Result::unwrap) {
            check(&record, record.offset, stamped, 200_000);
        }
    }
}

#[test]
fn kafkas_transactions_are_read_as_its_consumer_reads_them() {
    let batches = batches(include_bytes!("golden/transactions.segment"));
    let markers: Vec<_> = batches
        .iter()
        .filter_map(|batch| Some((batch.first_offset(), batch.marker()?)))
        .map(|(offset, marker)| (offset, marker.producer_id, marker.marker))
        .collect();
    let expected =
        [(4, 7, Marker::Abort), (5, 8, Marker::Commit), (7, 7, Marker::Commit), (9, 8, Marker::Abort)];
    assert_eq!(markers, expected);
    let mut aborted = AbortedTransactions::new([(7, 0), (8, 8)]);
    let read: Vec<_> = batches
        .iter()
        .filter(|batch| aborted.admits(batch))
        .flat_map(Batch::records)
        .map(|record| record.unwrap().offset)
        .collect();
    assert_eq!(read, [1, 2, 6, 10]);
}
