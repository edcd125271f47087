//! What a DLQ record holds, and that the original comes back out of it.

use bytes::Bytes;

use super::*;
use crate::event::Malformed;
use crate::kafka::records::UnreadableReason;
use crate::kafka::{ConsumerRecord, ProducerRecord, Unreadable};

fn original(value: Option<&[u8]>) -> ConsumerRecord {
    let header = |name: &str, value: Option<&[u8]>| (name.to_owned(), value.map(<[u8]>::to_vec));
    ConsumerRecord {
        offset: 42,
        timestamp: 1_700_000_000_000,
        leader_epoch: 0,
        key: Some(Bytes::from_static(b"key")),
        value: value.map(Bytes::copy_from_slice),
        headers: [
            header("traceparent", Some(b"00-1")),
            header("hop", Some(b"a")),
            header("hop", Some(&[0xff])),
            header("empty", None),
        ]
        .into_iter()
        .collect(),
    }
}

fn failure(kind: &str) -> Failure<'_> {
    Failure {
        group: "audit-service",
        topic: "task-events",
        partition: 0,
        kind,
        message: "why",
        retry_count: 4,
    }
}

fn dead_letter(value: Option<&[u8]>) -> (serde_json::Value, ProducerRecord) {
    let (failure, original) = (failure("invalid_json"), original(value));
    let letter = DeadLetter::Record(&original);
    let record = DlqRecord::new(&failure, letter).into_record(letter).unwrap();
    (serde_json::from_slice(record.value.as_deref().unwrap()).unwrap(), record)
}

#[test]
fn headers_are_kept_with_repeated_names_and_null_values() {
    let (json, record) = dead_letter(Some(b"{}"));
    assert_eq!(
        json["original_headers"],
        serde_json::json!([
            {"name": "traceparent", "value": "00-1"},
            {"name": "hop", "value": "a"},
            {"name": "hop", "value_base64": "/w=="},
            {"name": "empty"},
        ])
    );
    assert_eq!(record.headers["hop"], [0xff], "the last one counts, as in Kafka");
    assert!(!record.headers.contains_key("empty"));
    assert_eq!(record.headers["kafka_dlt-original-timestamp"], b"1700000000000");
}

#[test]
fn the_headers_of_a_redrive_are_kept_for_people_and_not_for_the_readers_of_the_dlq() {
    let redriven = [(crate::redrive::GROUP_HEADER, Some(b"audit-service"))].into_iter().collect();
    let original = ConsumerRecord { headers: redriven, ..original(Some(b"{}")) };
    let letter = DeadLetter::Record(&original);
    let record = DlqRecord::new(&failure("k"), letter);
    assert_eq!(record.original_headers[0].value.as_deref(), Some("audit-service"));
    assert!(!record.into_record(letter).unwrap().headers.contains_key(crate::redrive::GROUP_HEADER));
}

#[test]
fn a_range_that_cannot_be_read_goes_by_its_source_alone() {
    let range = Unreadable {
        first_offset: 7,
        last_offset: 9,
        timestamp: i64::MAX,
        leader_epoch: 0,
        reason: UnreadableReason::Checksum,
    };
    let letter = DeadLetter::Unreadable(&range);
    let record = DlqRecord::new(&failure("corrupt"), letter).into_record(letter).unwrap();
    let read = DlqRecord::decode(record.value.as_deref()).unwrap();
    assert_eq!((read.source.offset, read.source.last_offset), (7, Some(9)));
    assert_eq!(read.original_value(), Ok(None));
    assert_eq!(record.headers["kafka_dlt-original-timestamp"], i64::MAX.to_string().as_bytes());
}

#[test]
fn what_is_too_large_goes_without_anything_unbounded() {
    let original =
        ConsumerRecord { key: Some(vec![b'k'; 1 << 20].into()), ..original(Some(&[0xff; 1 << 20])) };
    let letter = DeadLetter::Record(&original);
    let by_source = DlqRecord::new(&failure("k"), letter).by_source_alone();
    let record = by_source.render(letter, false).unwrap();
    assert!(record.key.is_none() && record.value.unwrap().len() < 4_096);
    assert!(!record.headers.contains_key("hop"));
}

#[test]
fn json_stays_json_to_the_byte() {
    let (json, record) = dead_letter(Some(br#"{"b": 1.0,  "a":[1e3]}"#));
    assert_eq!(json["original_event"]["b"], 1.0);
    assert!(json.get("original_value_base64").is_none());
    let text = String::from_utf8(record.value.unwrap()).unwrap();
    assert!(text.contains(r#"{"b": 1.0,  "a":[1e3]}"#), "{text}");
    assert_eq!(json["source"]["offset"], 42);
    assert_eq!(json["retry_count"], 4);
    assert_eq!(record.key.as_deref(), Some(b"key".as_slice()));
    assert_eq!(record.headers["kafka_dlt-original-offset"], b"42");
    assert_eq!(record.headers["traceparent"], b"00-1");
}

#[test]
fn what_is_not_json_is_base64_and_nothing_is_null() {
    assert_eq!(dead_letter(Some(&[0xff, 0])).0["original_value_base64"], "/wA=");
    assert_eq!(dead_letter(Some(b"")).0["original_value_base64"], "");
    let (json, _) = dead_letter(None);
    assert!(json["original_value_base64"].is_null() && json.get("original_value_base64").is_some());
    assert!(json.get("original_event").is_none());
}

#[test]
fn a_record_reads_back_as_it_was_written_and_gives_the_original_back() {
    let values: [&[u8]; 7] = [b"{}", b"x", b"", b"null", b" {}", b"{ \"a\":\n1}\n", b"\xff"];
    for value in values.into_iter().map(Some).chain([None]) {
        let (_, record) = dead_letter(value);
        let read = DlqRecord::decode(record.value.as_deref()).unwrap();
        assert_eq!(read.original_value(), Ok(Some(value.map(<[u8]>::to_vec))));
        assert_eq!((read.group.as_str(), read.source.offset), ("audit-service", 42));
    }
    assert_eq!(DlqRecord::decode(None).unwrap_err(), Malformed::NoValue);
    assert!(DlqRecord::decode(Some(b"{}")).is_err());
}
