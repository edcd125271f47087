//! Frames are read back as they were written, also those of former versions.

use proptest::prelude::*;

use super::*;

fn task() -> impl Strategy<Value = Task> {
    let ids = (any::<u128>(), any::<Option<u128>>());
    let times = (0..4_000_000_000_000_000_i64, 0..4_000_000_000_000_000_i64);
    (ids, times, ".{0,500}", 0..3_usize, any::<u64>()).prop_map(|(ids, times, title, status, version)| Task {
        id: Uuid::from_u128(ids.0),
        title,
        status: TaskStatus::ALL[status],
        owner_id: ids.1.map(Uuid::from_u128),
        version,
        created_at: DateTime::from_timestamp_micros(times.0).unwrap(),
        updated_at: DateTime::from_timestamp_micros(times.1).unwrap(),
    })
}

/// A frame as the version before deletions wrote it: logs of it are read, and this version writes the same.
#[test]
fn a_frame_of_a_former_version_is_read_and_written_the_same() {
    const FRAME: &[u8] = b"\x01\x03\
        \x01\x9b\xc1\x31\x7a\x40\x74\x78\x97\x4e\x1b\x4b\xd0\xab\x3f\x76\x01\x00\
        \x02\0\0\0\0\0\0\0\x00\xbe\x28\xa3\x6a\x48\x06\0\x00\xbe\x28\xa3\x6a\x48\x06\0\
        \x05\0\0\0title\x03\0\0\0key\x01\0\0\0f\x09\0\0\0\0\0\0\0\
        \x07\0\0\0\0\0\0\0\x01\x02\0\0\0{}\x00";
    let read = Operation::read(FRAME).unwrap();
    let Operation::Change(change) = &read else { panic!("{read:?}") };
    assert_eq!((change.write, change.first_event, change.events[0].payload), (TaskWrite::Put, 7, &b"{}"[..]));
    assert_eq!((change.task.version, change.task.title.as_str()), (2, "title"));
    let mut written = Vec::new();
    read.write(&mut written);
    assert_eq!(written, FRAME);
}

fn is_read_back(operation: &Operation<'_>) {
    let mut bytes = Vec::new();
    operation.write(&mut bytes);
    assert_eq!(Operation::read(&bytes).as_ref(), Some(operation));
    for end in 0..bytes.len() {
        assert_eq!(Operation::read(&bytes[..end]), None, "cut at {end}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read_back(
        task in task(),
        key in any::<Option<String>>(),
        fingerprint in proptest::collection::vec(any::<u8>(), 0..64),
        events in proptest::collection::vec((".{0,60}", any::<Option<String>>(), 0..128_u8), 0..3),
        numbers in any::<(u64, u128, i32, Option<i64>)>(),
        seqs in proptest::collection::vec(any::<u64>(), 0..20),
    ) {
        let task = Arc::new(task);
        let (number, id, partition, position) = numbers;
        let answer = |key: &String| {
            let fingerprint = fingerprint.clone().into();
            (key.as_str().into(), Answer { fingerprint, expires_ms: number, task: Arc::clone(&task) })
        };
        let events: Vec<_> = events
            .iter()
            .map(|(payload, traceparent, encoding)| EventBytes {
                payload: payload.as_bytes(),
                encoding: Encoding::from_number(*encoding),
                traceparent: traceparent.as_deref(),
            })
            .collect();
        let topic = PublishedTopic { topic_id: Uuid::from_u128(id), partitions: partition };
        if let Some(event) = events.first() {
            is_read_back(&Operation::Moved { seq: number, task: task.id, event: *event });
        }
        for write in [TaskWrite::None, TaskWrite::Put, TaskWrite::Delete] {
            is_read_back(&Operation::Change(Change {
                task: Arc::clone(&task),
                write,
                answer: key.as_ref().map(answer),
                first_event: number,
                events: events.clone(),
            }));
        }
        let scattered = seqs.iter().rev().copied().collect();
        is_read_back(&Operation::Delivered(Delivered { topic, partition, position, seqs, scattered }));
        is_read_back(&Operation::PublishTo(topic));
        is_read_back(&Operation::Nothing);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Operation::read(&bytes);
    }
}
