//! What was acknowledged is there after the process was killed, and after its last write was torn.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{GroupId, OffsetCommitRequest, OffsetFetchRequest};
use kafka_protocol::records::Compression;
use support::*;

const LIMIT: Duration = Duration::from_secs(60);

/// The real binary on a free port.
struct Process {
    child: Child,
    addr: String,
}

impl Process {
    fn start(dir: &Path) -> Self {
        let mut child = command(dir, "127.0.0.1:0").stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let listening = |line: &String| line.contains("listens on");
        let line = lines.by_ref().map(Result::unwrap).find(listening).unwrap();
        let addr = line.split("listens on ").nth(1).unwrap();
        let addr = addr.split(',').next().unwrap().to_owned();
        // Keeps the pipe open, so that the broker can go on logging.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, addr }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn command(dir: &Path, addr: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_devbroker"));
    command.arg("--addr").arg(addr).arg("--dir").arg(dir);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_records_survive_kill_9_under_load() {
    const WRITERS: usize = 4;
    let dir = tempfile::tempdir().unwrap();
    let broker = Process::start(dir.path());
    let mut wire = Wire::connect(&broker.addr).await;
    // Small segments, so that kills also meet rolls.
    wire.create_topic("events", &[("segment.bytes", "20000")]).await;
    broker.kill();

    let mut acknowledged: BTreeMap<i64, String> = BTreeMap::new();
    for round in 0..5 {
        let in_round = Arc::new(AtomicUsize::new(0));
        let broker = Process::start(dir.path());
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (addr, in_round) = (broker.addr.clone(), Arc::clone(&in_round));
                tokio::spawn(async move {
                    let mut wire = Wire::connect(&addr).await;
                    let mut acknowledged = Vec::new();
                    for n in 0.. {
                        let value = format!("{round}/{writer}/{n}");
                        let batch = encode(&[record("k", Some(&value))], Compression::None);
                        wire.send(9, &produce("events", batch, -1)).await;
                        let Some(mut frame) = wire.frame().await else {
                            break;
                        };
                        let offset = base_offset(&mut frame);
                        acknowledged.push((offset, value));
                        in_round.fetch_add(1, Ordering::Relaxed);
                    }
                    acknowledged
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(150)).await;
        // However slow the disk is: a round without load proves nothing.
        let is_loaded = async {
            while in_round.load(Ordering::Relaxed) < 25 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LIMIT, is_loaded).await.unwrap();
        broker.kill();
        for writer in writers {
            for (offset, value) in writer.await.unwrap() {
                let other = acknowledged.insert(offset, value);
                assert_eq!(other, None, "offset {offset} was given out twice");
            }
        }
    }
    assert!(acknowledged.len() > 100, "{} acknowledged", acknowledged.len());

    let broker = Process::start(dir.path());
    let mut wire = Wire::connect(&broker.addr).await;
    let there = wire.read_all("events", 0).await;
    let offsets: Vec<i64> = there.iter().map(|record| record.offset).collect();
    assert_eq!(offsets, (0..offsets.len() as i64).collect::<Vec<_>>());
    for (offset, value) in acknowledged {
        let record = &there[usize::try_from(offset).unwrap()];
        assert_eq!(record.value.as_deref(), Some(value.as_bytes()), "offset {offset}");
    }
    broker.kill();
}

fn base_offset(frame: &mut bytes::Bytes) -> i64 {
    use kafka_protocol::messages::{ProduceResponse, ResponseHeader};
    use kafka_protocol::protocol::Decodable;
    ResponseHeader::decode(frame, 1).unwrap();
    let response = ProduceResponse::decode(frame, 9).unwrap();
    let partition = &response.responses[0].partition_responses[0];
    assert_eq!(partition.error_code, 0);
    partition.base_offset
}

fn log_file(dir: &Path, base_offset: i64) -> PathBuf {
    dir.join(format!("topics/events/0/{base_offset:020}.log"))
}

#[tokio::test]
async fn a_torn_tail_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let mut wire = Wire::connect(&broker.addr().to_string()).await;
    wire.create_topic("events", &[]).await;
    for value in ["1", "2"] {
        wire.produce("events", &[record("a", Some(value))]).await;
    }
    broker.shutdown().await;
    let log = log_file(dir.path(), 0);
    let whole = fs::read(&log).unwrap();
    let batch = encode(&[record("a", Some("3"))], Compression::None);
    let mut misplaced = batch.to_vec();
    misplaced[7] = 2;
    let mut bent = misplaced.clone();
    *bent.last_mut().unwrap() ^= 1;
    for torn in [&misplaced[..batch.len() - 1], &misplaced[..30], &bent, &[0; 200]] {
        let mut file = OpenOptions::new().append(true).open(&log).unwrap();
        file.write_all(torn).unwrap();
        let broker = start(dir.path()).await;
        let mut wire = Wire::connect(&broker.addr().to_string()).await;
        assert_eq!(wire.offset("events", -1).await, 2);
        assert_eq!(wire.read_all("events", 0).await.len(), 2);
        broker.shutdown().await;
        assert_eq!(fs::read(&log).unwrap(), whole);
    }
    let broker = start(dir.path()).await;
    let mut wire = Wire::connect(&broker.addr().to_string()).await;
    assert_eq!(wire.produce("events", &[record("a", None)]).await, 2);
    broker.shutdown().await;
}

#[tokio::test]
async fn closed_segments_are_opened_by_their_index() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let mut wire = Wire::connect(&broker.addr().to_string()).await;
    wire.create_topic("events", &[("segment.bytes", "100000")]).await;
    let value = "x".repeat(1_000);
    for _ in 0..300 {
        wire.produce("events", &[record("a", Some(&value))]).await;
    }
    let sent = wire.read_all("events", 0).await;
    broker.shutdown().await;

    // The bytes of a closed segment are not looked at on start: this one is all zeroes.
    let log = log_file(dir.path(), 0);
    let whole = fs::read(&log).unwrap();
    fs::write(&log, vec![0; whole.len()]).unwrap();
    let broker = start(dir.path()).await;
    let mut wire = Wire::connect(&broker.addr().to_string()).await;
    assert_eq!(wire.offset("events", -1).await, 300);
    assert!(wire.read_all("events", 200).await.len() == 100);
    broker.shutdown().await;
    fs::write(&log, whole).unwrap();

    // Without its index it is read, and gets a new one. Every offset and time is found.
    fs::remove_file(log.with_extension("index")).unwrap();
    let broker = start(dir.path()).await;
    let mut wire = Wire::connect(&broker.addr().to_string()).await;
    assert!(log.with_extension("index").exists());
    assert_eq!(wire.read_all("events", 0).await, sent);
    for offset in [0, 1, 50, 99, 150, 299] {
        let records = decode(wire.fetch("events", offset).await.records.unwrap());
        assert_eq!(records[0], sent[usize::try_from(offset).unwrap()]);
        let earliest = sent.iter().find(|r| r.timestamp >= records[0].timestamp).unwrap();
        assert_eq!(wire.offset("events", records[0].timestamp).await, earliest.offset);
    }
    broker.shutdown().await;
}

#[tokio::test]
async fn committed_offsets_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Process::start(dir.path());
    let mut wire = Wire::connect(&broker.addr).await;
    wire.create_topic("events", &[]).await;
    for offset in [1, 2, 3] {
        let partition = OffsetCommitRequestPartition::default().with_committed_offset(offset);
        let topic = OffsetCommitRequestTopic::default()
            .with_name(topic_name("events"))
            .with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupId(text("group")))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic]);
        let response = wire.call(7, &request).await;
        assert_eq!(response.topics[0].partitions[0].error_code, 0);
    }
    broker.kill();
    // A line that was not finished.
    let file = dir.path().join("committed-offsets");
    let mut file = OpenOptions::new().append(true).open(file).unwrap();
    file.write_all(br#"{"group":"group","topic":"ev"#).unwrap();

    let broker = Process::start(dir.path());
    let mut wire = Wire::connect(&broker.addr).await;
    let topic =
        OffsetFetchRequestTopic::default().with_name(topic_name("events")).with_partition_indexes(vec![0]);
    let request =
        OffsetFetchRequest::default().with_group_id(GroupId(text("group"))).with_topics(Some(vec![topic]));
    let response = wire.call(7, &request).await;
    assert_eq!(response.topics[0].partitions[0].committed_offset, 3);
    broker.kill();
}

#[tokio::test]
async fn the_binary_says_what_keeps_it_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let broker = Process::start(dir.path());
    let file = dir.path().join("a-file");
    fs::write(&file, "").unwrap();
    for (dir, addr, expected) in [
        (other.path(), &*broker.addr, "cannot listen on"),
        (dir.path(), "127.0.0.1:0", "is in use by another process"),
        (&file, "127.0.0.1:0", "cannot use data folder"),
    ] {
        let output = command(dir, addr).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(said.contains(expected) && said.lines().count() == 1, "{said}");
    }
    broker.kill();
}
