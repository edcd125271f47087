//! DLQ records: the original comes back out of them.

use chrono::{DateTime, Utc};

use super::Choices;
use crate::dlq::{DeadLetter, DlqRecord, Failure};
use crate::kafka::ConsumerRecord;

/// A DLQ record gives back the bytes that it was made of, and what else was said; any other bytes are read
/// or refused.
pub fn dlq(bytes: &[u8]) {
    if let Ok(read) = DlqRecord::decode(Some(bytes)) {
        let _ = read.original_value();
    }
    let mut choices = Choices(bytes);
    let timestamp = i64::from_be_bytes(std::array::from_fn(|_| choices.byte()));
    let said = String::from_utf8_lossy(choices.bytes(8)).into_owned();
    for value in [None, Some(choices.0), Some(bytes)] {
        let original = ConsumerRecord {
            offset: timestamp,
            timestamp,
            leader_epoch: 0,
            key: Some(bytes.to_vec().into()),
            value: value.map(|value| value.to_vec().into()),
            headers: [(said.as_bytes(), value), (b"x".as_slice(), None)].into_iter().collect(),
        };
        let letter = DeadLetter::Record(&original);
        let time = DateTime::<Utc>::from_timestamp_millis(timestamp).unwrap_or_default();
        let failure =
            Failure { group: &said, topic: &said, partition: 1, kind: &said, message: &said, retry_count: 4 };
        let written = DlqRecord::new(&failure, letter).into_record(letter).unwrap();
        let read = DlqRecord::decode(written.value.as_deref()).unwrap();
        assert_eq!(read.original_value(), Ok(Some(value.map(<[u8]>::to_vec))));
        assert_eq!(read.original_headers.len(), 2);
        assert_eq!((&read.group, &read.source.topic, &read.error.kind), (&said, &said, &said));
        assert_eq!((read.source.offset, read.source.timestamp), (timestamp, time));
        assert_eq!(written.key.as_deref(), original.key.as_deref());
    }
}
