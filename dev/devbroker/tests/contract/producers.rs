//! Idempotent producers.

use super::*;

pub async fn producer_id_contract(wire: &mut Wire, version: i16) {
    let request =
        InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(60_000);
    let mut fresh = wire.call(version, &request).await;
    while [14, 15, 16].contains(&fresh.error_code) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        fresh = wire.call(version, &request).await;
    }
    assert_eq!((fresh.error_code, fresh.producer_epoch), (0, 0));
    let other = wire.call(version, &request).await;
    assert_ne!(fresh.producer_id, other.producer_id);

    let topic = unique("idempotent");
    wire.create_topic(&topic, &[]).await;
    let batch = |sequence| {
        let mut record = record("a", Some("1"));
        record.producer_id = fresh.producer_id.0;
        record.producer_epoch = fresh.producer_epoch;
        record.sequence = sequence;
        encode(&[record.clone(), record], Compression::None)
    };
    // A batch that is sent again is not appended again.
    for (sequence, expected) in [
        (0, (0, 0)),
        (2, (0, 2)),
        (0, (0, 0)),
        (2, (0, 2)),
        (9, (code::OUT_OF_ORDER_SEQUENCE_NUMBER, -1)),
        (4, (0, 4)),
    ] {
        let response = wire.produce_raw(9, &topic, batch(sequence), -1).await;
        assert_eq!((response.error_code, response.base_offset), expected, "sequence {sequence}");
    }
}
