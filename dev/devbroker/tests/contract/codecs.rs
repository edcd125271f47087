//! Codecs: what a topic stores, and which clients learn that they cannot read it.

use kafka_protocol::messages::alter_configs_request as alter;

use super::*;

const CODECS: [(Compression, &str); 5] = [
    (Compression::None, "uncompressed"),
    (Compression::Gzip, "gzip"),
    (Compression::Snappy, "snappy"),
    (Compression::Lz4, "lz4"),
    (Compression::Zstd, "zstd"),
];

/// The number of the codec in the first batch from `offset` on.
async fn stored_codec(wire: &mut Wire, topic: &str, offset: i64) -> u8 {
    wire.fetch(topic, offset).await.records.unwrap()[22] & 7
}

#[tokio::test]
async fn a_topic_stores_the_producers_codec_or_its_own() {
    let target = Target::start().await;
    let mut wire = target.wire().await;
    let sent = [record("a", Some(&"value ".repeat(100))), record("b", None)];
    for stored in [None].into_iter().chain(CODECS.map(Some)) {
        let topic = unique("codec");
        let wanted = stored.map_or("producer", |(_, name)| name);
        wire.create_topic(&topic, &[("compression.type", wanted)]).await;
        for (offset, (codec, _)) in (0..).step_by(2).zip(CODECS) {
            let response = wire.produce_raw(9, &topic, encode(&sent, codec), -1).await;
            assert_eq!((response.error_code, response.base_offset), (0, offset), "{codec:?}");
            let found = stored_codec(&mut wire, &topic, offset).await;
            assert_eq!(found, stored.map_or(codec, |(stored, _)| stored) as u8, "{codec:?} to {wanted}");
        }
        let records = wire.read_all(&topic, 0).await;
        assert_eq!(records.len(), 10);
        for (record, sent) in records.iter().zip(sent.iter().cycle()) {
            assert_eq!(
                (&record.key, &record.value, &record.headers),
                (&sent.key, &sent.value, &sent.headers)
            );
            assert_eq!(record.timestamp, sent.timestamp);
        }
    }
}

#[tokio::test]
async fn a_sequence_survives_recompression() {
    let target = Target::start().await;
    let mut wire = target.wire().await;
    let topic = unique("codec-sequence");
    wire.create_topic(&topic, &[("compression.type", "lz4")]).await;
    let request =
        InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(60_000);
    let producer_id = support::transactions::retried(async || {
        let response = wire.call(4, &request).await;
        (response.error_code, response.producer_id.0)
    });
    let producer_id = producer_id.await.1;
    let mut record = record("a", Some("1"));
    (record.producer_id, record.producer_epoch, record.sequence) = (producer_id, 0, 0);
    let batch = encode(&[record], Compression::Gzip);
    for _ in 0..2 {
        let response = wire.produce_raw(9, &topic, batch.clone(), -1).await;
        assert_eq!((response.error_code, response.base_offset), (0, 0));
    }
    assert_eq!(wire.offset(&topic, -1).await, 1);
}

#[tokio::test]
async fn a_client_that_cannot_know_zstd_gets_an_error() {
    let target = Target::start().await;
    let mut wire = target.wire().await;
    let topic = unique("zstd");
    wire.create_topic(&topic, &[("compression.type", "zstd")]).await;
    let batch = encode(&[record("a", None)], Compression::Zstd);
    let refused = wire.produce_raw(6, &topic, batch.clone(), -1).await;
    assert_eq!(refused.error_code, code::UNSUPPORTED_COMPRESSION_TYPE);
    assert_eq!(wire.produce_raw(7, &topic, batch, -1).await.error_code, 0);
    for (version, refused) in [(9, true), (10, false)] {
        let response = wire.call(version, &fetch(&topic, 0, 1, 0, 1 << 20)).await;
        let found = response.responses[0].partitions[0].error_code;
        // Kafka before 4 refuses as the dev broker does; Kafka 4 sends the batch all the same.
        let expected = if refused && !target.external { code::UNSUPPORTED_COMPRESSION_TYPE } else { 0 };
        assert_eq!(found, expected, "version {version}");
    }
}

/// AlterConfigs replaces all configs of a topic.
pub async fn replace_configs_contract(wire: &mut Wire, version: i16) {
    let topic = unique("replace-configs");
    wire.create_topic(&topic, &[("retention.ms", "1000")]).await;
    let request = |topic: &str, name: &str, value: &str| {
        let config = alter::AlterableConfig::default().with_name(text(name)).with_value(Some(text(value)));
        let resource = alter::AlterConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text(topic))
            .with_configs(vec![config]);
        AlterConfigsRequest::default().with_resources(vec![resource])
    };
    for (topic, name, value, expected) in [
        (&*topic, "compression.type", "lz4", 0),
        (&*topic, "nonsense", "1", code::INVALID_CONFIG),
        (&*topic, "devbroker.hang", "all", code::INVALID_CONFIG),
        (&unique("missing"), "compression.type", "lz4", code::UNKNOWN_TOPIC_OR_PARTITION),
    ] {
        let response = wire.call(version, &request(topic, name, value)).await;
        assert_eq!(response.responses[0].error_code, expected, "{name}");
    }
    wait_for_config(wire, &topic, "compression.type", "lz4").await;
    wait_for_config(wire, &topic, "retention.ms", "604800000").await;
    // It counts from now on.
    for _ in 0..100 {
        let offset = wire.produce(&topic, &[record("a", None)]).await;
        if stored_codec(wire, &topic, offset).await == 3 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{topic} does not become lz4");
}
