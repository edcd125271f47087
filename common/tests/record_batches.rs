//! Record batches as others write them, as they are damaged, and as they come back from our own encoder. What
//! holds of any bytes is in `src/properties.rs`.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use task_events::kafka::records::{
    AbortedTransactions, Batch, BatchBuilder, Batches, Codec, ConsumerRecord, Headers, Limits, Marker,
    ProducerState, Unreadable, UnreadableReason, seal, set_log_append_time,
};

const NOW: i64 = 1_760_000_000_000;

fn batch(base_offset: i64, values: &[&str]) -> Vec<u8> {
    builder(base_offset, Codec::None, values).build().unwrap()
}

fn builder(base_offset: i64, codec: Codec, values: &[&str]) -> BatchBuilder {
    values.iter().fold(BatchBuilder::new(base_offset, codec), |builder, value| {
        builder.record(NOW, Some(b"key"), Some(value.as_bytes()), Headers::default())
    })
}

fn transactional(base_offset: i64, producer_id: i64) -> Vec<u8> {
    let producer = ProducerState { id: producer_id, epoch: 0, sequence: 0 };
    builder(base_offset, Codec::None, &["x", "y"]).producer(producer).transactional().build().unwrap()
}

fn marker(offset: i64, producer_id: i64, marker: Marker) -> Vec<u8> {
    let producer = ProducerState { id: producer_id, epoch: 0, sequence: -1 };
    BatchBuilder::new(offset, Codec::None).producer(producer).marker(marker, NOW, 3).build().unwrap()
}

fn walk(batches: &[Vec<u8>], fetch_offset: i64) -> Vec<Batch> {
    Batches::new(batches.concat().into(), fetch_offset).collect()
}

/// What a consumer gets: offsets of records, and ranges that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Got {
    Record(i64),
    Unreadable(i64, i64),
}
use Got::Record;

fn got(batches: &[Batch], limits: Limits) -> Vec<Got> {
    batches
        .iter()
        .flat_map(|batch| batch.records_within(limits))
        .map(|record| match record {
            Ok(record) => Record(record.offset),
            Err(range) => Got::Unreadable(range.first_offset, range.last_offset),
        })
        .collect()
}

fn read(batches: &[Vec<u8>], fetch_offset: i64) -> Vec<Got> {
    got(&walk(batches, fetch_offset), Limits::default())
}

fn only_error(batch: &Batch) -> Unreadable {
    let mut records = batch.records().filter_map(Result::err);
    let first = records.next().unwrap();
    assert_eq!(records.next(), None);
    first
}

#[test]
fn all_whole_batches_of_an_answer_are_read_and_a_cut_one_is_left() {
    let mut cut = batch(9, &["c"]);
    cut.pop();
    let answer = [batch(4, &["a", "b"]), batch(7, &["c"]), cut];
    let mut batches = Batches::new(answer.concat().into(), 5);
    let whole: Vec<_> = batches.by_ref().collect();
    assert_eq!(got(&whole, Limits::default()), [Record(5), Record(7)]);
    assert_eq!(batches.position(), 8);
    let cut = batches.cut().unwrap();
    assert_eq!(cut.bytes, answer[2].len() + 1);
    // Who has asked for as many bytes and still does not get them passes the batch.
    assert_eq!(got(&[cut.unreadable()], Limits::default()), [Got::Unreadable(8, 9)]);
}

#[test]
fn a_damaged_batch_is_a_range_that_cannot_be_read_and_the_next_one_is_read() {
    let mut damaged = batch(4, &["a", "b", "c"]);
    *damaged.last_mut().unwrap() ^= 1;
    let batches = walk(&[batch(0, &["0"]), damaged.clone(), batch(7, &["d"])], 0);
    assert_eq!(got(&batches, Limits::default()), [Record(0), Got::Unreadable(1, 6), Record(7)]);
    let error = only_error(&batches[1]);
    assert_eq!(error.reason, UnreadableReason::Checksum);
    assert!(error.reason.may_be_transient());
    // At the end of an answer, its own fields have to do.
    assert_eq!(read(&[damaged.clone()], 4), [Got::Unreadable(4, 6)]);
    // A last offset that the count does not confirm may be what is damaged: it skips nothing.
    damaged[23..27].copy_from_slice(&i32::MAX.to_be_bytes());
    assert_eq!(read(&[damaged.clone()], 4), [Got::Unreadable(4, 4)]);
    assert_eq!(read(&[damaged, batch(7, &["d"])], 4), [Got::Unreadable(4, 6), Record(7)]);
}

#[test]
fn a_length_or_format_that_is_none_ends_at_a_range_and_always_advances() {
    for length in [i32::MIN, -1, 0, 4] {
        let mut broken = batch(4, &["a"]);
        broken[8..12].copy_from_slice(&length.to_be_bytes());
        assert_eq!(read(&[batch(3, &["x"]), broken], 3), [Record(3), Got::Unreadable(4, 4)]);
    }
    for length in [5, 48] {
        let mut short = batch(4, &["a"]);
        short.truncate(12 + length);
        seal(&mut short);
        assert_eq!(read(&[short, batch(6, &["b"])], 4), [Got::Unreadable(4, 5), Record(6)]);
    }
    for (magic, reason) in [
        (0, UnreadableReason::OldFormat { magic: 0 }),
        (1, UnreadableReason::OldFormat { magic: 1 }),
        (3, UnreadableReason::UnknownFormat { magic: 3 }),
        (-1, UnreadableReason::UnknownFormat { magic: -1 }),
    ] {
        let mut other = batch(4, &["a"]);
        other[16] = i8::cast_unsigned(magic);
        let batches = walk(&[other, batch(5, &["b"])], 2);
        assert_eq!(got(&batches, Limits::default()), [Got::Unreadable(2, 4), Record(5)]);
        assert_eq!(only_error(&batches[0]).reason, reason);
    }
}

#[test]
fn a_count_that_does_not_fit_loses_no_offset() {
    for (count, expected) in [
        (-1, vec![Got::Unreadable(4, 5)]),
        (0, vec![Got::Unreadable(4, 5)]),
        (1, vec![Record(4), Got::Unreadable(5, 5)]),
        (3, vec![Got::Unreadable(4, 5)]),
        (i32::MAX, vec![Got::Unreadable(4, 5)]),
    ] {
        for codec in Codec::ALL {
            let mut wrong = builder(4, codec, &["a", "b"]).build().unwrap();
            wrong[57..61].copy_from_slice(&i32::to_be_bytes(count));
            seal(&mut wrong);
            assert_eq!(read(&[wrong, batch(6, &["c"])], 4), [expected.as_slice(), &[Record(6)]].concat());
        }
    }
    // Compaction removed the last records: their offsets are in no record, and nothing is wrong.
    for codec in Codec::ALL {
        let compacted = builder(4, codec, &["a"]).last_offset(8).build().unwrap();
        assert_eq!(read(&[compacted], 4), [Record(4)]);
        let emptied = BatchBuilder::new(4, codec).last_offset(8).build().unwrap();
        for size in [61, emptied.len()] {
            let mut emptied = emptied[..size].to_vec();
            seal(&mut emptied);
            let batches = walk(&[emptied], 4);
            assert_eq!((got(&batches, Limits::default()), batches[0].next_offset()), (vec![], 9));
        }
    }
}

#[test]
fn an_unknown_codec_is_named() {
    for codec in 5..8 {
        let mut unknown = batch(4, &["a", "b"]);
        unknown[22] |= codec;
        seal(&mut unknown);
        let error = only_error(&walk(&[unknown], 0)[0]);
        assert_eq!((error.first_offset, error.last_offset), (4, 5));
        assert_eq!(error.reason, UnreadableReason::UnknownCodec { codec });
        assert!(!error.reason.may_be_transient());
    }
}

#[test]
fn a_record_that_is_malformed_within_its_length_costs_only_itself() {
    let mut bytes = batch(4, &["aaaa", "bbbb"]);
    // The length of the first record's value, 4 as a zigzag varint, made to exceed the record.
    let at = bytes.windows(5).position(|window| window == b"\x08aaaa").unwrap();
    bytes[at] = 0x7e;
    seal(&mut bytes);
    assert_eq!(read(&[bytes.clone()], 0), [Got::Unreadable(4, 4), Record(5)]);
    // A record's own length that leads nowhere costs the rest.
    bytes[61] = 0x7f;
    seal(&mut bytes);
    assert_eq!(read(&[bytes], 0), [Got::Unreadable(4, 5)]);
}

#[test]
fn headers_keep_order_repeats_nulls_and_names_that_are_not_utf8() {
    let written = Headers::from_iter([
        (b"a".as_slice(), Some(b"1".as_slice())),
        (b"a", None),
        (b"\xff", Some(b"")),
        (b"", Some(b"2")),
    ]);
    let bytes = BatchBuilder::new(0, Codec::None)
        .record(NOW, None, None, written.clone())
        .record(NOW, Some(b""), Some(b""), Headers::default())
        .build()
        .unwrap();
    let records: Vec<_> = Batch::of(bytes.into()).unwrap().records().collect::<Result<_, _>>().unwrap();
    assert_eq!((&records[0].key, &records[0].value), (&None, &None));
    assert_eq!(
        (records[1].key.as_deref(), records[1].value.as_deref()),
        (Some([].as_slice()), Some([].as_slice()))
    );
    let read = &records[0].headers;
    assert_eq!((read.len(), read), (4, &written));
    let names: Vec<_> = read.iter().map(|header| header.name_lossy().into_owned()).collect();
    assert_eq!(names, ["a", "a", "\u{fffd}", ""]);
    assert_eq!(read.last("a").unwrap().value, None);
    assert!(read.last("b").is_none() && records[1].headers.is_empty());
}

#[test]
fn the_brokers_time_replaces_the_producers() {
    let mut bytes = batch(4, &["a", "b"]);
    set_log_append_time(&mut bytes, 0, NOW + 17);
    let times: Vec<_> = walk(&[bytes], 0)[0].records().map(|record| record.unwrap().timestamp).collect();
    assert_eq!(times, [NOW + 17, NOW + 17]);
}

#[test]
fn aborted_records_and_markers_are_left_out_as_kafkas_consumer_leaves_them_out() {
    let answer = [
        transactional(0, 7),
        transactional(2, 8),
        batch(4, &["not of a transaction"]),
        marker(5, 7, Marker::Abort),
        transactional(6, 7),
        marker(8, 8, Marker::Commit),
        marker(9, 7, Marker::Commit),
        transactional(10, 8),
        marker(12, 8, Marker::Abort),
        builder(13, Codec::None, &["idempotent"])
            .producer(ProducerState { id: 8, epoch: 0, sequence: 4 })
            .build()
            .unwrap(),
    ];
    let read_committed = |fetch_offset: i64, aborted: &[(i64, i64)]| {
        let mut filter = AbortedTransactions::new(aborted.iter().copied());
        let mut batches = walk(&answer, fetch_offset);
        batches.retain(|batch| filter.admits(batch));
        batches.iter().map(Batch::first_offset).collect::<Vec<_>>()
    };
    assert_eq!(read_committed(0, &[(8, 10), (7, 0)]), [2, 4, 6, 13]);
    // A fetch that starts within an aborted transaction names it with its first offset.
    assert_eq!(read_committed(1, &[(8, 10), (7, 0)]), [2, 4, 6, 13]);
    assert_eq!(read_committed(0, &[]), [0, 2, 4, 6, 10, 13]);
}

#[test]
fn a_marker_is_read_and_is_never_a_record_of_a_consumer() {
    let batches = walk(&[marker(5, 7, Marker::Abort), marker(6, 8, Marker::Other(5)), batch(7, &["a"])], 0);
    let first = batches[0].marker().unwrap();
    assert_eq!((first.marker, first.producer_id, first.version), (Marker::Abort, 7, 0));
    assert_eq!(batches[1].marker().unwrap().marker, Marker::Other(5));
    assert_eq!(batches[2].marker(), None);
}

#[test]
fn a_marker_that_cannot_be_read_ends_its_transaction() {
    let mut broken = marker(2, 7, Marker::Abort);
    broken.truncate(broken.len() - 10);
    seal(&mut broken);
    let answer = [transactional(0, 7), broken, transactional(3, 7)];
    let mut filter = AbortedTransactions::new([(7, 0)]);
    let admitted: Vec<_> = walk(&answer, 0).iter().map(|batch| filter.admits(batch)).collect();
    assert_eq!(admitted, [false, false, true]);
}

#[test]
fn a_record_over_the_limit_is_reported_and_those_behind_it_are_read() {
    let large = "x".repeat(300_000);
    let limits = Limits { record_bytes: 200_000, ..Limits::default() };
    for codec in Codec::ALL {
        let bytes = builder(4, codec, &["a", &large, "b", &large]).build().unwrap();
        let batches = walk(&[bytes], 0);
        let expected = [Record(4), Got::Unreadable(5, 5), Record(6), Got::Unreadable(7, 7)];
        assert_eq!(got(&batches, limits), expected, "{codec}");
        let reasons: Vec<_> = batches[0].records_within(limits).filter_map(Result::err).collect();
        assert!(
            matches!(reasons[0].reason, UnreadableReason::TooLarge { bytes: 300_001.., limit: 200_000 }),
            "{codec}: {}",
            reasons[0]
        );
        assert_eq!(reasons[0].timestamp, NOW);
        assert_eq!(got(&batches, Limits::default()), [4, 5, 6, 7].map(Record), "{codec}");
    }
}

#[test]
fn what_lies_behind_the_limit_of_a_batch_is_one_range() {
    let value = "x".repeat(100_000);
    let values = vec![value.as_str(); 10];
    let limits = Limits { batch_bytes: 450_000, ..Limits::default() };
    for codec in Codec::ALL.into_iter().skip(1) {
        let batches = walk(&[builder(4, codec, &values).build().unwrap()], 0);
        let expected = [Record(4), Record(5), Record(6), Record(7), Got::Unreadable(8, 13)];
        assert_eq!(got(&batches, limits), expected, "{codec}");
        // Also when the first record of it is one that is not held.
        let limits = Limits { record_bytes: 50_000, ..limits };
        let last = got(&batches, limits);
        assert_eq!(last.last(), Some(&Got::Unreadable(9, 13)), "{codec}: {last:?}");
    }
}

/// A record as any client may write it.
fn any_record() -> impl Strategy<Value = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Headers)> {
    let bytes = || prop_oneof![4 => vec(any::<u8>(), 0..40), 1 => vec(select(b"ab".to_vec()), 0..100_000)];
    let header = (vec(any::<u8>(), 0..5), option::of(vec(any::<u8>(), 0..5)));
    let timestamp = prop_oneof![4 => NOW - 1_000..NOW, 1 => any::<i64>()];
    (timestamp, option::of(bytes()), option::of(bytes()), vec(header, 0..4).prop_map(Headers::from_iter))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_again(
        records in vec(any_record(), 1..20),
        base_offset in 0..1i64 << 40,
        codec in select(Codec::ALL.to_vec()),
        epoch in any::<i32>(),
    ) {
        let mut builder = BatchBuilder::new(base_offset, codec).leader_epoch(epoch);
        for (timestamp, key, value, headers) in &records {
            builder = builder.record(*timestamp, key.as_deref(), value.as_deref(), headers.clone());
        }
        let batch = Batch::of(builder.build().unwrap().into()).unwrap();
        let read: Vec<_> = batch.records().collect::<Result<_, _>>().unwrap();
        let first = records[0].0;
        let expected: Vec<_> = records
            .into_iter()
            .zip(base_offset..)
            .map(|((timestamp, key, value, headers), offset)| ConsumerRecord {
                offset,
                // Times whose distance exceeds 64 bits do not fit a delta.
                timestamp: first.saturating_add(timestamp.saturating_sub(first)),
                leader_epoch: epoch,
                key: key.map(Bytes::from),
                value: value.map(Bytes::from),
                headers,
            })
            .collect();
        prop_assert_eq!(read, expected);
    }
}
