//! How fast record batches are read, checksum included: by this crate in each codec, and by kafka-protocol's
//! decoder without compression.
//!
//!     cargo run --release -p task-events --example read_records

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::records::RecordBatchDecoder;
use task_events::kafka::records::{BatchBuilder, Batches, Codec, Headers};

const RECORDS: i64 = 200_000;
const RECORDS_PER_BATCH: i64 = 200;
const RUNS: usize = 7;

/// A fetch answer of events like those of the Task API, some 550 bytes each.
fn answer(codec: Codec) -> Bytes {
    let headers = Headers::from_iter([
        ("content-type", Some("application/json")),
        ("ce_specversion", Some("1.0")),
        ("ce_type", Some("task.created")),
    ]);
    let mut answer = Vec::new();
    for base_offset in (0..RECORDS).step_by(RECORDS_PER_BATCH as usize) {
        let mut batch = BatchBuilder::new(base_offset, codec);
        for n in base_offset..base_offset + RECORDS_PER_BATCH {
            let key = format!("0198f2c4-7d1e-7000-8000-{n:012x}");
            let value = format!(
                r#"{{"event_id":"{key}","event_type":"task.created","occurred_at":"2026-01-15T10:30:00.000000Z","data":{{"task_id":"{key}","title":"{}","status":"pending","owner_id":null}},"metadata":{{"correlation_id":"{key}","source":"task-api"}}}}"#,
                "write the report ".repeat(6)
            );
            batch = batch.record(n, Some(key.as_bytes()), Some(value.as_bytes()), headers.clone());
        }
        answer.extend_from_slice(&batch.build().unwrap());
    }
    answer.into()
}

/// The fastest of several runs.
fn measure(mut read: impl FnMut() -> i64) -> Duration {
    let mut fastest = Duration::MAX;
    for _ in 0..RUNS {
        let start = Instant::now();
        assert_eq!(black_box(read()), RECORDS);
        fastest = fastest.min(start.elapsed());
    }
    fastest
}

fn report(what: &str, bytes: usize, took: Duration) {
    let rate = RECORDS as f64 / took.as_secs_f64() / 1e6;
    println!("{what}: {rate:.2} million records/s, {} bytes a record", bytes as i64 / RECORDS);
}

fn main() {
    for codec in Codec::ALL {
        let answer = answer(codec);
        let ours = measure(|| {
            let records = Batches::new(answer.clone(), 0).flat_map(|batch| batch.records());
            records.map(|record| i64::from(black_box(record.unwrap()).value.is_some())).sum()
        });
        report(&codec.to_string(), answer.len(), ours);
        if codec == Codec::None {
            let theirs = measure(|| {
                let sets = RecordBatchDecoder::decode_all(&mut answer.clone()).unwrap();
                sets.iter().map(|set| black_box(&set.records).len() as i64).sum()
            });
            report("none, by kafka-protocol", answer.len(), theirs);
        }
    }
}
