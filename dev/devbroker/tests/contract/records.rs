//! Produce, Fetch, ListOffsets, DeleteRecords.

use super::*;

pub async fn produce_contract(wire: &mut Wire, version: i16) {
    let topic = unique("produce");
    wire.create_topic(&topic, &[("max.message.bytes", "1000")]).await;
    let batch = encode(&[record("a", Some("1")), record("b", None)], Compression::None);
    for (acks, base_offset) in [(-1, 0), (1, 2)] {
        let response = wire.produce_raw(version, &topic, batch.clone(), acks).await;
        assert_eq!(response.error_code, 0);
        assert_eq!(response.base_offset, base_offset);
        assert_eq!(response.log_append_time_ms, -1);
        if version >= 5 {
            assert_eq!(response.log_start_offset, 0);
        }
    }
    // acks=0 is not answered: the next answer is that of the next request.
    wire.send(version, &produce(&topic, batch.clone(), 0)).await;
    let response = wire.produce_raw(version, &topic, batch.clone(), -1).await;
    assert_eq!(response.base_offset, 6);

    let mut bent = batch.to_vec();
    *bent.last_mut().unwrap() ^= 1;
    let large = encode(&[record("a", Some(&"x".repeat(1000)))], Compression::None);
    let two: Bytes = [batch.as_ref(), batch.as_ref()].concat().into();
    let missing = unique("missing");
    for (topic, batch, acks, expected) in [
        (&topic, bent.into(), -1, code::CORRUPT_MESSAGE),
        (&topic, large, -1, code::MESSAGE_TOO_LARGE),
        (&topic, two, -1, code::INVALID_RECORD),
        (&topic, batch.clone(), 2, code::INVALID_REQUIRED_ACKS),
        (&missing, batch, -1, code::UNKNOWN_TOPIC_OR_PARTITION),
    ] {
        let response = wire.produce_raw(version, topic, batch, acks).await;
        assert_eq!(response.error_code, expected);
        assert_eq!(response.base_offset, -1);
    }
    assert_eq!(wire.offset(&topic, -1).await, 8);
}

#[tokio::test]
async fn a_compacted_topic_takes_only_records_with_keys() {
    let target = Target::start().await;
    let mut wire = target.wire().await;
    let topic = unique("keys");
    wire.create_topic(&topic, &[("cleanup.policy", "compact")]).await;
    for codec in [Compression::None, Compression::Gzip, Compression::Snappy] {
        let keyed = encode(&[record("a", Some("1"))], codec);
        assert_eq!(wire.produce_raw(9, &topic, keyed, -1).await.error_code, 0);
        let mut unkeyed = record("a", Some("1"));
        unkeyed.key = None;
        let response = wire.produce_raw(9, &topic, encode(&[unkeyed], codec), -1).await;
        assert_eq!(response.error_code, code::INVALID_RECORD);
    }
}

#[tokio::test]
async fn log_append_time_stamps_the_brokers_time() {
    let target = Target::start().await;
    let mut wire = target.wire().await;
    let topic = unique("stamped");
    wire.create_topic(&topic, &[("message.timestamp.type", "LogAppendTime")]).await;
    let batch = encode(&[record_at("a", None, 5)], Compression::None);
    let response = wire.produce_raw(9, &topic, batch, -1).await;
    assert!((now_ms() - response.log_append_time_ms).abs() < 60_000);
    let mut batch = wire.fetch(&topic, 0).await.records.unwrap();
    // Attributes with the bit of the timestamp type, then the largest timestamp.
    assert_eq!(batch[22] & 8, 8);
    assert_eq!(i64::from_be_bytes(batch[35..43].try_into().unwrap()), response.log_append_time_ms);
    assert_eq!(decode(batch.split_to(batch.len())).len(), 1);
}

pub async fn fetch_contract(target: &Target, wire: &mut Wire, version: i16) {
    let topic = unique("fetch");
    wire.create_topic(&topic, &[]).await;
    let id = wire.topic_id(&topic).await;
    let fetch = |offset, min_bytes, max_wait_ms, max_bytes| {
        with_topic_id(fetch(&topic, offset, min_bytes, max_wait_ms, max_bytes), id)
    };
    let one = |response: FetchResponse| {
        assert_eq!(response.error_code, 0);
        response.responses[0].partitions[0].clone()
    };
    let sent = [record("a", Some("1")), record("b", None)];
    wire.produce(&topic, &sent).await;
    let big = record("c", Some(&"x".repeat(5_000)));
    wire.produce(&topic, std::slice::from_ref(&big)).await;

    let data = one(wire.call(version, &fetch(0, 1, 1_000, 1 << 20)).await);
    assert_eq!((data.error_code, data.high_watermark, data.last_stable_offset), (0, 3, 3));
    let records = decode(data.records.unwrap());
    assert_eq!(
        pairs(&records),
        [(0, "a".into(), Some("1".into())), (1, "b".into(), None), (2, "c".into(), Some("x".repeat(5_000))),]
    );
    assert_eq!(records[0].headers, sent[0].headers);
    assert_eq!(records[0].timestamp, sent[0].timestamp);

    // The first batch comes back even when it is larger than what was asked for.
    let data = one(wire.call(version, &fetch(2, 1, 1_000, 100)).await);
    assert_eq!(decode(data.records.unwrap()).len(), 1);

    let mut missing = fetch(0, 1, 60_000, 1 << 20);
    missing.topics[0].topic = topic_name(&unique("missing"));
    missing.topics[0].topic_id = uuid::Uuid::new_v4();
    let unknown = if version >= 13 { code::UNKNOWN_TOPIC_ID } else { code::UNKNOWN_TOPIC_OR_PARTITION };
    let mut no_partition = fetch(0, 1, 60_000, 1 << 20);
    no_partition.topics[0].partitions[0].partition = 7;
    for (request, expected) in [
        (fetch(4, 1, 60_000, 1 << 20), code::OFFSET_OUT_OF_RANGE),
        (fetch(-5, 1, 60_000, 1 << 20), code::OFFSET_OUT_OF_RANGE),
        (missing, unknown),
        (no_partition, code::UNKNOWN_TOPIC_OR_PARTITION),
    ] {
        // An error is answered at once, whatever the waiting time.
        let data = one(wire.call(version, &request).await);
        assert_eq!((data.error_code, data.high_watermark), (expected, -1));
        assert!(data.records.unwrap_or_default().is_empty());
    }

    // At the end: waits max_wait, answers empty.
    let asked = Instant::now();
    let data = one(wire.call(version, &fetch(3, 1, 100, 1 << 20)).await);
    assert!(asked.elapsed() >= Duration::from_millis(90));
    assert_eq!((data.error_code, data.high_watermark), (0, 3));
    assert!(data.records.unwrap_or_default().is_empty());

    // At the end: woken by a produce.
    let mut other = target.wire().await;
    wire.send(version, &fetch(3, 1, 30_000, 1 << 20)).await;
    other.produce(&topic, &sent).await;
    let frame = tokio::time::timeout(Duration::from_secs(5), wire.frame()).await.unwrap();
    assert!(frame.unwrap().len() > 100);
}

#[tokio::test]
async fn a_fetch_waits_until_min_bytes_are_there() {
    let target = Target::start().await;
    let (mut wire, mut other) = (target.wire().await, target.wire().await);
    let topic = unique("min-bytes");
    wire.create_topic(&topic, &[]).await;
    let asked = Instant::now();
    wire.send(11, &fetch(&topic, 0, 500, 30_000, 1 << 20)).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    // Some 85 bytes each.
    for _ in 0..10 {
        other.produce(&topic, &[record("a", Some("some value"))]).await;
    }
    let frame = wire.frame().await.unwrap();
    let waited = asked.elapsed();
    assert!(frame.len() > 500, "{} bytes after {waited:?}", frame.len());
    assert!(waited < Duration::from_secs(10));
}

pub async fn list_offsets_contract(wire: &mut Wire, version: i16) {
    let topic = unique("offsets");
    wire.create_topic(&topic, &[]).await;
    let base = now_ms() - 100_000;
    // The largest timestamp is not the last one.
    let times = [base, base + 10, base + 50, base + 20];
    for codec in [Compression::None, Compression::Gzip] {
        let records: Vec<_> = times.iter().map(|time| record_at("a", None, *time)).collect();
        let appended = wire.produce_raw(9, &topic, encode(&records, codec), -1).await;
        assert_eq!(appended.error_code, 0);
    }
    let mut asked = vec![(-1, (8, -1)), (-2, (0, -1)), (base + 5, (1, base + 10)), (base + 51, (-1, -1))];
    if version >= 7 {
        asked.push((-3, (2, base + 50)));
    }
    for (timestamp, expected) in asked {
        let response = wire.call(version, &list_offsets(&topic, timestamp)).await;
        let found = &response.topics[0].partitions[0];
        assert_eq!(found.error_code, 0);
        assert_eq!((found.offset, found.timestamp), expected, "asked for {timestamp}");
    }
    let response = wire.call(version, &list_offsets(&unique("missing"), -1)).await;
    let found = &response.topics[0].partitions[0];
    assert_eq!((found.error_code, found.offset), (code::UNKNOWN_TOPIC_OR_PARTITION, -1));
}

pub async fn delete_records_contract(wire: &mut Wire, version: i16) {
    let topic = unique("delete-records");
    wire.create_topic(&topic, &[]).await;
    for _ in 0..5 {
        wire.produce(&topic, &[record("a", None)]).await;
    }
    let request = |name: &str, offset| {
        let partition = DeleteRecordsPartition::default().with_offset(offset);
        let topic =
            DeleteRecordsTopic::default().with_name(topic_name(name)).with_partitions(vec![partition]);
        DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000)
    };
    for (name, offset, expected) in [
        (&topic, 3, (0, 3)),
        (&topic, 2, (0, 3)),
        (&topic, 9, (code::OFFSET_OUT_OF_RANGE, -1)),
        (&unique("missing"), 0, (code::UNKNOWN_TOPIC_OR_PARTITION, -1)),
    ] {
        let response = wire.call(version, &request(name, offset)).await;
        let result = &response.topics[0].partitions[0];
        assert_eq!((result.error_code, result.low_watermark), expected);
    }
    assert_eq!(wire.offset(&topic, -2).await, 3);
    assert_eq!(wire.fetch(&topic, 2).await.error_code, code::OFFSET_OUT_OF_RANGE);
    assert_eq!(wire.read_all(&topic, 3).await.len(), 2);
    let response = wire.call(version, &request(&topic, -1)).await;
    assert_eq!(response.topics[0].partitions[0].low_watermark, 5);
    assert_eq!(wire.produce(&topic, &[record("a", None)]).await, 5);
}
