//! What has to hold of the parsers, whatever bytes they are given: for the tests below and for the fuzz
//! targets of `tests/fuzz/`, which share these functions.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a property may fail loudly"
)]

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use clap::{CommandFactory, Parser};
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::config::{self, KafkaArgs, LeaseArgs, LogArgs, TopicArgs};
use crate::dlq::{DeadLetter, DlqRecord, Failure};
use crate::event::{Event, EventType, Malformed, Metadata, TaskData, TaskEvent};
use crate::kafka::records::{self, Batch, BatchBuilder, Batches, ConsumerRecord, HEADER_BYTES, Limits};
use crate::offsets::fold::Fold;
use crate::offsets::{Claim, Commit, Key, OffsetsRecord, Slot, parse, render_key};

/// Takes choices from the front of the bytes. At their end every choice is 0.
struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A decoded event keeps what its writer wrote, unknown fields as well, on one line each; one that this
/// version knows is read alike by both readers.
pub fn event(bytes: &[u8]) {
    writer_and_reader_agree(&String::from_utf8_lossy(bytes));
    views_and_copies_agree(bytes);
    let Ok(event) = Event::decode(Some(bytes)) else { return };
    for raw in [&event.data, &event.metadata] {
        assert!(!raw.get().contains(['\n', '\r']), "on one line: {raw}");
    }
    // None where it is nested too deeply to be looked at so; it is passed on all the same.
    if let Ok(whole) = serde_json::from_slice::<Value>(bytes) {
        let value = |raw: &str| serde_json::from_str::<Value>(raw).unwrap();
        assert_eq!(value(event.data.get()), whole["data"]);
        assert_eq!(value(event.metadata.get()), whole["metadata"]);
        assert_eq!(event.event_type, whole["event_type"].as_str().unwrap());
    }
    assert_eq!(event.task.is_some(), event.known_type().is_some());
    if let (Some(task), Ok(known)) = (&event.task, serde_json::from_slice::<TaskEvent>(bytes)) {
        assert_eq!(known.event_id, event.event_id);
        assert_eq!(*task, known.data);
    }
}

/// A view of an event holds what a copy of it would, and what is malformed is so for the same reason, in the
/// same words.
fn views_and_copies_agree(bytes: &[u8]) {
    #[derive(serde::Deserialize)]
    struct Envelope {
        event_id: Uuid,
        event_type: String,
        occurred_at: String,
        data: Box<RawValue>,
        metadata: Box<RawValue>,
    }
    let copy = || -> Result<(Envelope, Option<TaskData>), Malformed> {
        let field = |name: &str, error: serde_json::Error| Malformed::Field(format!("{name}: {error}"));
        let copy: Envelope = serde_json::from_slice(bytes).map_err(|error| Malformed::from_json(&error))?;
        DateTime::parse_from_rfc3339(&copy.occurred_at)
            .map_err(|error| Malformed::Field(format!("occurred_at is not RFC 3339: {error}")))?;
        let metadata = serde_json::from_str::<Metadata>(copy.metadata.get());
        metadata.map_err(|error| field("metadata", error))?;
        let is_known = EventType::from_name(&copy.event_type).is_some();
        let task = is_known.then(|| serde_json::from_str(copy.data.get())).transpose();
        let task = task.map_err(|error| field("data", error))?;
        Ok((copy, task))
    };
    if bytes.len() > crate::event::MAX_EVENT_BYTES {
        return;
    }
    match (Event::decode(Some(bytes)), copy()) {
        (Ok(view), Ok((copy, task))) => {
            let line = |raw: &RawValue| raw.get().replace(['\n', '\r'], " ");
            assert_eq!(view.event_id, copy.event_id);
            assert_eq!((&*view.event_type, &*view.occurred_at), (&*copy.event_type, &*copy.occurred_at));
            assert_eq!((view.data.get(), view.metadata.get()), (&*line(&copy.data), &*line(&copy.metadata)));
            assert_eq!(view.task.is_some(), task.is_some());
            view.task.zip(task).into_iter().for_each(|(view, copy)| assert_eq!(view, copy));
        }
        (view, copy) => assert_eq!(view.map(drop).unwrap_err(), copy.map(drop).unwrap_err()),
    }
}

fn writer_and_reader_agree(title: &str) {
    let data = TaskData {
        task_id: Uuid::nil(),
        title: title.to_owned(),
        status: title.chars().take(9).collect(),
        owner_id: title.is_empty().then(Uuid::nil),
    };
    let event = TaskEvent::task_updated(data, Uuid::nil());
    let json = serde_json::to_vec(&event).unwrap();
    match Event::decode(Some(&json)) {
        Ok(read) => {
            assert_eq!(read.event_id, event.event_id);
            assert_eq!(read.task.unwrap(), event.data);
        }
        Err(malformed) => assert!(json.len() > crate::event::MAX_EVENT_BYTES, "{malformed}"),
    }
}

/// A key that is read stands for itself alone: compaction goes by the bytes. What was read and written
/// again reads the same.
pub fn offsets_record(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let length = usize::from(choices.byte());
    let key = choices.bytes(length);
    for value in [None, Some(choices.0)] {
        let Ok(record) = parse(Some(key), value) else { continue };
        assert_eq!(render_key(&key_of(&record)), key);
        assert_eq!(
            parse(Some(key), value_of(&record).as_deref()).map(|read| value_of(&read)),
            Ok(value_of(&record))
        );
    }
}

fn key_of(record: &OffsetsRecord) -> Key {
    match record {
        OffsetsRecord::Claim(slot, _) => Key::Claim(slot.clone()),
        OffsetsRecord::Commit(slot, token, _) => Key::Commit(slot.clone(), *token),
    }
}

fn value_of(record: &OffsetsRecord) -> Option<Vec<u8>> {
    match record {
        OffsetsRecord::Claim(_, claim) => claim.as_ref().map(|claim| serde_json::to_vec(claim).unwrap()),
        OffsetsRecord::Commit(_, _, commit) => {
            commit.as_ref().map(|commit| serde_json::to_vec(commit).unwrap())
        }
    }
}

type Log = BTreeMap<i64, (Vec<u8>, Option<Vec<u8>>)>;

/// Any log of records that make sense, and of keys that do not, says the same compacted and with its
/// tombstones dropped. Unlike the model in `tests/offsets_model.rs`, nobody here keeps any rule.
///
/// Nonsense under a key of the right form is left out: there compaction takes what the nonsense replaced.
/// Who reads then finds no owner or an older position, and repeats work at worst.
pub fn offsets_fold(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let (compacted_share, dropped_share) = (choices.byte(), choices.byte());
    let mut log = Log::new();
    let mut end = 0;
    while !choices.is_empty() {
        end += 1 + i64::from(choices.byte() % 3);
        log.insert(end, log_record(&mut choices, end));
    }
    let mut compacted = log.clone();
    compact(&mut compacted, end * i64::from(compacted_share) / 255);
    let below = end * i64::from(dropped_share) / 255;
    compact(&mut compacted, below);
    compacted.retain(|offset, (_, value)| *offset >= below || value.is_some());

    let (whole, compacted) = (fold(&log), fold(&compacted));
    for slot in slots() {
        let says = |fold: &Fold| {
            let state = fold.slot(&slot).cloned().unwrap_or_default();
            (state.owner().cloned(), state.position(), state.is_released(), state.stale_tokens(i64::MAX))
        };
        assert_eq!(says(&whole), says(&compacted), "{slot}");
    }
}

fn slots() -> [Slot; 2] {
    [0, 7].map(|partition| Slot { group: "g".to_owned(), topic: "t".to_owned(), partition })
}

fn log_record(choices: &mut Choices<'_>, end: i64) -> (Vec<u8>, Option<Vec<u8>>) {
    let choice = choices.byte();
    let slot = slots()[usize::from(choice & 1)].clone();
    let instance = Uuid::from_u128(u128::from(choice >> 5));
    let record = match (choice >> 1) % 8 {
        0 | 1 => OffsetsRecord::Claim(slot, Some(Claim::new(instance, "host", 1_000))),
        2 => OffsetsRecord::Claim(slot, None),
        3..=5 => {
            let token = i64::from(choices.byte()) % (end + 2);
            let offset = i64::from(choices.byte());
            OffsetsRecord::Commit(slot, token, Some(Commit::new(offset, instance, choice & 0x80 != 0)))
        }
        6 => OffsetsRecord::Commit(slot, i64::from(choices.byte()) % (end + 2), None),
        _ => {
            let length = usize::from(choices.byte() % 16);
            let (key, value) = (choices.bytes(length), choices.bytes(4));
            return (
                ["g/t/", &String::from_utf8_lossy(key), "/"].concat().into_bytes(),
                Some(value.to_vec()),
            );
        }
    };
    (render_key(&key_of(&record)), value_of(&record))
}

/// Keeps the last record of each key below `end`, as Kafka's cleaner does.
fn compact(log: &mut Log, end: i64) {
    let last: BTreeMap<Vec<u8>, i64> =
        log.range(..end).map(|(offset, (key, _))| (key.clone(), *offset)).collect();
    log.retain(|offset, (key, _)| *offset >= end || last.get(key) == Some(offset));
}

fn fold(log: &Log) -> Fold {
    let mut fold = Fold::default();
    for (offset, (key, value)) in log {
        if let Ok(record) = parse(Some(key), value.as_deref()) {
            // Foreign tokens are part of what any log may hold.
            let _ = fold.apply(*offset, record);
        }
    }
    fold
}

/// Any bytes are walked as a fetch answer: each offset comes once and in order, as a record or in a range that
/// cannot be read, and reading always gets on. The rest of the bytes, sealed as a batch, can be written again,
/// all of its records or some, each at its offset and time.
pub fn batch(bytes: &[u8]) {
    fetch_answer(bytes, 3);
    let Some((&keep, bytes)) = bytes.split_first() else { return };
    let mut sealed = bytes.to_vec();
    sealed.resize(sealed.len().max(HEADER_BYTES), 0);
    records::seal(&mut sealed);
    fetch_answer(&sealed, 0);
    let Some(batch) = Batch::of(sealed.into()) else { return };
    let header = *batch.header().unwrap();
    let Ok(records) = batch.records_within(FUZZ_LIMITS).collect::<Result<Vec<_>, _>>() else { return };
    let some: Vec<_> = records
        .iter()
        .enumerate()
        .filter(|(n, _)| keep >> (n % 8) & 1 == 0)
        .map(|(_, record)| record.clone())
        .collect();
    for (kept, horizon) in [(&records, None), (&some, None), (&some, Some(17))] {
        let mut builder = BatchBuilder::replacing(&header, horizon).unwrap();
        kept.iter().for_each(|record| builder.push(record.clone()));
        let again = Batch::of(builder.build().unwrap().into()).unwrap();
        let read = again.header().unwrap();
        assert_eq!((read.base_offset, again.next_offset()), (header.base_offset, header.next_offset()));
        assert_eq!(read.delete_horizon(), horizon);
        let found: Vec<_> = again.records().collect::<Result<_, _>>().unwrap();
        // Times whose distance exceeds 64 bits do not fit a delta.
        let timeless = |record: &ConsumerRecord| ConsumerRecord { timestamp: 0, ..record.clone() };
        let extreme = |record: &ConsumerRecord| record.timestamp.unsigned_abs() > 1 << 60;
        if kept.iter().any(extreme) {
            let timeless = |records: &[ConsumerRecord]| records.iter().map(timeless).collect::<Vec<_>>();
            assert_eq!(timeless(&found), timeless(kept));
        } else {
            assert_eq!(&found, kept);
        }
    }
}

/// Small, so that a fuzzer reaches them and is not slowed down by bombs.
const FUZZ_LIMITS: Limits = Limits { record_bytes: 64 << 10, batch_bytes: 1 << 20 };

fn fetch_answer(bytes: &[u8], fetch_offset: i64) {
    let mut position = fetch_offset;
    let mut batches = Batches::new(Bytes::copy_from_slice(bytes), fetch_offset);
    while let Some(batch) = batches.next() {
        assert!(batch.first_offset() >= position && batch.next_offset() > batch.first_offset());
        let _ = batch.marker();
        position = batch.first_offset();
        for record in batch.records_within(FUZZ_LIMITS) {
            let (first, last) = match record {
                Ok(record) => {
                    assert_eq!(record.headers.iter().count(), record.headers.len());
                    (record.offset, record.offset)
                }
                Err(range) => (range.first_offset, range.last_offset),
            };
            assert!(position <= first && first <= last && last <= batch.last_offset());
            position = last + 1;
        }
        assert!(position <= batch.next_offset());
        position = batch.next_offset();
        assert_eq!(position, batches.position());
    }
    if let Some(cut) = batches.cut() {
        assert!(cut.unreadable().next_offset() > position);
    }
}

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

/// All variables that services share.
#[derive(Debug, Parser)]
pub(crate) struct All {
    #[command(flatten)]
    pub(crate) kafka: KafkaArgs,
    #[command(flatten)]
    topics: TopicArgs,
    #[command(flatten)]
    lease: LeaseArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// Any value of any variable is taken, or refused in one line that names the variable. What is taken is
/// what its place in Kafka or in a file's name allows.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for (flag, variable) in [
        ("kafka-bootstrap-servers", "KAFKA_BOOTSTRAP_SERVERS"),
        ("kafka-sasl-mechanism", "KAFKA_SASL_MECHANISM"),
        ("offsets-topic", "OFFSETS_TOPIC"),
        ("lease-ms", "LEASE_MS"),
        ("log-level", "LOG_LEVEL"),
        ("log-format", "LOG_FORMAT"),
    ] {
        match All::try_parse_from(["x", &format!("--{flag}={text}")]) {
            Ok(args) => {
                for server in &args.kafka.kafka_bootstrap_servers {
                    assert_eq!(config::host_port(server).as_ref(), Ok(server));
                    assert!(!server.contains(|c: char| c.is_whitespace() || c.is_control()), "{server:?}");
                }
                assert!((300..=3_600_000).contains(&args.lease.lease_ms));
            }
            Err(error) => {
                let line = config::one_line(&error, &All::command());
                assert!(line.contains(variable), "{line}");
                assert!(!line.contains(char::is_control), "{line:?}");
            }
        }
    }
    if let Ok(name) = config::topic_name(&text) {
        assert!((1..=249).contains(&name.len()) && name.is_ascii() && !name.contains(['/', ' ', '\n']));
    }
    if let Ok(group) = config::group_name(&text) {
        // So that the keys of the offsets topic can be read again.
        let slot = Slot { group, topic: "t".to_owned(), partition: 0 };
        let key = render_key(&Key::Claim(slot.clone()));
        assert_eq!(parse(Some(&key), None), Ok(OffsetsRecord::Claim(slot, None)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Bytes, and bytes that look more like what the parsers want.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let pieces = [
            "{",
            "}",
            "\"",
            ":",
            ",",
            "[",
            "]",
            "null",
            "1e3",
            " ",
            "\n",
            "\\u0000",
            "data",
            "g/t/0/claim",
            "g/t/0/commit/",
            "17",
            "host:9092",
            "\u{7f}",
            "é",
        ];
        let piece = prop_oneof![
            3 => proptest::sample::select(pieces.map(|piece| piece.as_bytes().to_vec()).to_vec()),
            1 => vec(any::<u8>(), 0..8),
        ];
        prop_oneof![vec(any::<u8>(), 0..300), vec(piece, 0..30).prop_map(|pieces| pieces.concat())]
    }

    const BATCH_SEEDS: [&[u8]; 6] = [
        include_bytes!("../../tests/fuzz/seeds/batch/two-records"),
        include_bytes!("../../tests/fuzz/seeds/batch/gzip"),
        include_bytes!("../../tests/fuzz/seeds/batch/snappy"),
        include_bytes!("../../tests/fuzz/seeds/batch/xerial"),
        include_bytes!("../../tests/fuzz/seeds/batch/lz4"),
        include_bytes!("../../tests/fuzz/seeds/batch/zstd"),
    ];

    #[test]
    fn each_seed_is_a_batch_of_two_records() {
        for seed in BATCH_SEEDS {
            let mut bytes = seed[1..].to_vec();
            records::seal(&mut bytes);
            let batch = Batch::of(bytes.into()).unwrap();
            assert_eq!(batch.records().filter_map(Result::ok).count(), 2);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_event_is_kept_or_refused(bytes in bytes()) {
            event(&bytes);
        }

        #[test]
        fn any_change_of_an_event_is_kept_or_refused(at in any::<proptest::sample::Index>(), change in bytes()) {
            let mut json = include_bytes!("../../tests/fuzz/seeds/event/updated").to_vec();
            let at = at.index(json.len());
            let end = (at + change.len() / 2).min(json.len());
            json.splice(at..end, change);
            event(&json);
        }

        #[test]
        fn any_offsets_record_is_itself_or_refused(bytes in bytes()) {
            offsets_record(&bytes);
        }

        #[test]
        fn any_offsets_log_says_the_same_compacted(bytes in vec(any::<u8>(), 0..300)) {
            offsets_fold(&bytes);
        }

        #[test]
        fn any_bytes_are_read_as_batches(bytes in vec(any::<u8>(), 0..300)) {
            batch(&bytes);
        }

        #[test]
        fn any_change_of_a_batch_is_read(
            seed in proptest::sample::select(BATCH_SEEDS.to_vec()),
            at in any::<proptest::sample::Index>(),
            change in vec(any::<u8>(), 1..9),
        ) {
            let mut bytes = seed.to_vec();
            let at = at.index(bytes.len());
            let end = (at + change.len()).min(bytes.len());
            bytes.splice(at..end, change).for_each(drop);
            batch(&bytes);
        }

        #[test]
        fn any_dead_letter_gives_its_original_back(bytes in bytes()) {
            dlq(&bytes);
        }

        #[test]
        fn any_value_of_a_variable_is_taken_or_refused_in_one_line(bytes in bytes()) {
            config(&bytes);
        }
    }
}
