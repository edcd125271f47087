//! Compaction and retention.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use devbroker::{Broker, Config};
use kafka_protocol::records::Compression;
use support::*;

async fn wire(broker: &Broker) -> Wire {
    Wire::connect(&broker.addr().to_string()).await
}

fn log_files(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir.join("topics/t/0")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut logs: Vec<String> = names.filter(|name| name.ends_with(".log")).collect();
    logs.sort();
    logs
}

/// The last value of each key.
fn fold(records: &[(i64, String, Option<String>)]) -> BTreeMap<String, String> {
    let mut state = BTreeMap::new();
    for (_, key, value) in records {
        match value {
            Some(value) => state.insert(key.clone(), value.clone()),
            None => state.remove(key),
        };
    }
    state
}

#[tokio::test]
async fn the_last_value_of_each_key_stays_at_its_offset() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let mut wire = wire(&broker).await;
    wire.create_topic("t", &[("cleanup.policy", "compact"), ("segment.bytes", "2000")]).await;
    let codecs =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    for (round, codec) in (0..30).zip(codecs.into_iter().cycle()) {
        let records = ["a", "b", "c", "d"].map(|key| {
            let key = if key == "d" { format!("d{round}") } else { key.to_owned() };
            record(&key, Some(&format!("{round}")))
        });
        let appended = wire.produce_raw(9, "t", encode(&records, codec), -1).await;
        assert_eq!(appended.error_code, 0);
    }
    let before = wire.read_all("t", 0).await;
    broker.compact_now("t").await.unwrap();

    let after = wire.read_all("t", 0).await;
    let expected: Vec<_> = before
        .iter()
        .filter(|record| {
            let later = |other: &&_| -> bool {
                let other: &&kafka_protocol::records::Record = other;
                other.key == record.key && other.offset > record.offset
            };
            before.iter().find(later).is_none()
        })
        .collect();
    assert_eq!(pairs(&after), expected.iter().map(|r| pairs(&[(*r).clone()])[0].clone()).collect::<Vec<_>>());
    for (record, original) in after.iter().zip(expected) {
        assert_eq!((record.timestamp, &record.headers), (original.timestamp, &original.headers));
    }
    // Many small segments became few.
    assert!(log_files(dir.path()).len() <= 3, "{:?}", log_files(dir.path()));
    // Each offset in a gap leads to the next record that is there.
    for offset in 0..120 {
        let first = wire.read_all("t", offset).await.first().map(|record| record.offset);
        assert_eq!(first, after.iter().map(|r| r.offset).find(|next| *next >= offset));
    }
    assert_eq!(wire.offset("t", -1).await, 120);
    assert_eq!(wire.produce("t", &[record("a", Some("new"))]).await, 120);

    // And after a restart all is the same.
    broker.shutdown().await;
    let broker = start(dir.path()).await;
    let mut wire = Wire::connect(&broker.addr().to_string()).await;
    let again = wire.read_all("t", 0).await;
    assert_eq!(pairs(&again[..after.len()]), pairs(&after));
    assert_eq!(wire.produce("t", &[record("a", None)]).await, 121);
    broker.shutdown().await;
}

#[tokio::test]
async fn tombstones_stay_for_delete_retention_ms() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let mut wire = wire(&broker).await;
    let configs = [("cleanup.policy", "compact"), ("delete.retention.ms", "300")];
    wire.create_topic("t", &configs).await;
    let sent = [("a", Some("1")), ("b", Some("1")), ("a", None), ("c", None)];
    for (key, value) in sent {
        wire.produce("t", &[record(key, value)]).await;
    }
    broker.compact_now("t").await.unwrap();
    let after = wire.read_all("t", 0).await;
    let kept = [(1, "b".into(), Some("1".into())), (2, "a".into(), None), (3, "c".into(), None)];
    assert_eq!(pairs(&after), kept);
    assert!(after.iter().all(|record| (now_ms() - record.timestamp).abs() < 60_000));

    tokio::time::sleep(Duration::from_millis(350)).await;
    broker.compact_now("t").await.unwrap();
    assert_eq!(pairs(&wire.read_all("t", 0).await), kept[..1]);
    assert_eq!(wire.offset("t", -1).await, 4);

    // With everything gone the offsets still go on.
    wire.produce("t", &[record("b", None)]).await;
    broker.compact_now("t").await.unwrap();
    tokio::time::sleep(Duration::from_millis(350)).await;
    broker.compact_now("t").await.unwrap();
    assert!(wire.read_all("t", 0).await.is_empty());
    broker.shutdown().await;
    let broker = start(dir.path()).await;
    let mut wire = Wire::connect(&broker.addr().to_string()).await;
    assert_eq!(wire.produce("t", &[record("b", None)]).await, 5);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_sees_every_last_value_while_compaction_runs() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let addr = broker.addr().to_string();
    let mut writing = wire(&broker).await;
    writing.create_topic("t", &[("cleanup.policy", "compact"), ("segment.bytes", "3000")]).await;
    for n in 0..20 {
        writing.produce("t", &[record(&format!("fixed{n}"), Some("stays"))]).await;
    }
    let writer = tokio::spawn(async move {
        for n in 0..400 {
            writing.produce("t", &[record(&format!("k{}", n % 7), Some(&n.to_string()))]).await;
        }
    });
    let reader = tokio::spawn(async move {
        let mut wire = Wire::connect(&addr).await;
        loop {
            let seen = pairs(&wire.read_all("t", 0).await);
            assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0), "{seen:?}");
            let state = fold(&seen);
            assert!((0..20).all(|n| state.contains_key(&format!("fixed{n}"))));
            if state.get("k0").is_some_and(|value| value == "399") {
                return state;
            }
        }
    });
    while !writer.is_finished() {
        broker.compact_now("t").await.unwrap();
    }
    writer.await.unwrap();
    let state = tokio::time::timeout(Duration::from_secs(10), reader).await.unwrap().unwrap();
    for n in 393..400 {
        assert_eq!(state[&format!("k{}", n % 7)], n.to_string());
    }
    broker.shutdown().await;
}

/// A copy of a partition's folder at one moment.
fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test]
async fn a_crash_between_the_steps_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let partition = dir.path().join("topics/t/0");
    let broker = start(dir.path()).await;
    let mut wire_before = wire(&broker).await;
    wire_before.create_topic("t", &[("cleanup.policy", "compact"), ("segment.bytes", "600")]).await;
    for n in 0..40 {
        let value = (n % 10 != 9).then(|| n.to_string());
        let key = format!("k{}", n % 8);
        wire_before.produce("t", &[record(&key, value.as_deref())]).await;
    }
    let expected = fold(&pairs(&wire_before.read_all("t", 0).await));
    broker.shutdown().await;
    let before = dir.path().join("before");
    copy(&partition, &before);
    let config = ("segment.bytes", 1_000_000);
    let meta = dir.path().join("topics/t/topic.json");
    let text = fs::read_to_string(&meta).unwrap().replace("\"600\"", &format!("\"{}\"", config.1));
    fs::write(&meta, text).unwrap();
    let broker = start(dir.path()).await;
    broker.compact_now("t").await.unwrap();
    broker.shutdown().await;
    let after = dir.path().join("after");
    copy(&partition, &after);
    let first = "00000000000000000000";
    let merged = fs::read(after.join(format!("{first}.log"))).unwrap();

    // What each crash leaves: the step, and what of it is on disk.
    type Step = Box<dyn Fn()>;
    let write_new = |name: &'static str| {
        let (partition, after) = (partition.clone(), after.clone());
        move |folder: &str| {
            let to = partition.join(folder);
            fs::create_dir_all(&to).unwrap();
            fs::copy(after.join(format!("{first}.{name}")), to.join(format!("{first}.{name}"))).unwrap();
        }
    };
    let (log, index) = (write_new("log"), write_new("index"));
    let old_index = partition.join(format!("{first}.index"));
    let half = partition.join("compacting").join(format!("{first}.log"));
    let steps: Vec<(&str, Step)> = vec![
        ("while writing the new segment", {
            let (log, merged) = (log.clone(), merged.clone());
            Box::new(move || {
                log("compacting");
                fs::write(&half, &merged[..merged.len() / 2]).unwrap();
            })
        }),
        ("before the renames", {
            let (log, index) = (log.clone(), index.clone());
            Box::new(move || {
                log("compacting");
                index("compacting");
            })
        }),
        ("after the old index went", {
            let (log, old_index) = (log.clone(), old_index.clone());
            Box::new(move || {
                log("compacting");
                fs::remove_file(&old_index).unwrap();
            })
        }),
        ("between the renames", {
            let (log, index, old_index) = (log.clone(), index.clone(), old_index.clone());
            Box::new(move || {
                fs::remove_file(&old_index).unwrap();
                log(".");
                index("compacting");
            })
        }),
        ("before the merged segments were deleted", {
            Box::new(move || {
                log(".");
                index(".");
            })
        }),
    ];
    for (step, leave) in steps {
        fs::remove_dir_all(&partition).unwrap();
        copy(&before, &partition);
        leave();
        let broker = start(dir.path()).await;
        let mut wire = wire(&broker).await;
        let seen = pairs(&wire.read_all("t", 0).await);
        assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0), "{step}: {seen:?}");
        assert_eq!(fold(&seen), expected, "{step}");
        broker.compact_now("t").await.unwrap();
        assert_eq!(fold(&pairs(&wire.read_all("t", 0).await)), expected, "{step}, compacted");
        assert_eq!(wire.produce("t", &[record("k0", None)]).await, 40, "{step}");
        broker.shutdown().await;
    }
}

async fn start_eager(dir: &Path) -> Broker {
    let mut config = Config::new(SocketAddr::from(([127, 0, 0, 1], 0)), dir);
    config.maintenance_interval = Duration::from_millis(20);
    Broker::start(config).await.unwrap()
}

async fn eventually(mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..3_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(holds().await);
}

#[tokio::test]
async fn compaction_runs_automatically_when_enough_is_dirty() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start_eager(dir.path()).await;
    let mut wire = wire(&broker).await;
    wire.create_topic("t", &[("cleanup.policy", "compact"), ("segment.bytes", "1000")]).await;
    for n in 0..100 {
        wire.produce("t", &[record("a", Some(&n.to_string()))]).await;
    }
    eventually(async || wire.read_all("t", 0).await.len() < 20).await;
    let last = wire.read_all("t", 0).await.pop().unwrap();
    assert_eq!(last.value.as_deref(), Some(&b"99"[..]));
    broker.shutdown().await;
}

#[tokio::test]
async fn retention_deletes_old_segments_and_moves_the_log_start() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start_eager(dir.path()).await;
    let mut wire = wire(&broker).await;
    wire.create_topic("t", &[("retention.ms", "60000")]).await;
    let batch = |timestamp| encode(&[record_at("a", None, timestamp)], Compression::None);
    // Expired records go although they are in the active segment, as in Kafka.
    let old = now_ms() - 100_000;
    wire.produce_raw(9, "t", batch(old), -1).await;
    eventually(async || wire.offset("t", -2).await == 1).await;
    wire.produce_raw(9, "t", batch(now_ms()), -1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(wire.offset("t", -2).await, 1);
    assert_eq!(wire.fetch("t", 0).await.error_code, 1);
    assert_eq!(wire.read_all("t", 1).await.len(), 1);
    eventually(async || log_files(dir.path()).len() == 1).await;
    broker.shutdown().await;

    let broker = start(dir.path()).await;
    let mut wire = Wire::connect(&broker.addr().to_string()).await;
    assert_eq!(wire.offset("t", -2).await, 1);
    assert_eq!(wire.offset("t", -1).await, 2);
    broker.shutdown().await;
}

#[tokio::test]
async fn retention_keeps_the_newest_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start_eager(dir.path()).await;
    let mut wire = wire(&broker).await;
    wire.create_topic("t", &[("retention.bytes", "5000"), ("segment.bytes", "1000")]).await;
    for _ in 0..200 {
        wire.produce("t", &[record("a", Some("some value"))]).await;
    }
    let size = || -> u64 {
        let sizes = log_files(dir.path())
            .into_iter()
            .map(|name| fs::metadata(dir.path().join("topics/t/0").join(name)).map_or(0, |meta| meta.len()));
        sizes.sum()
    };
    eventually(async || size() < 7_000).await;
    assert!(size() >= 5_000);
    // The start may move once more meanwhile.
    let read = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            let start = wire.offset("t", -2).await;
            if let Ok(records) = wire.try_read_all("t", start).await {
                return (start, records.len());
            }
        }
    });
    let (start, records) = read.await.unwrap();
    assert!(start > 100);
    assert_eq!(records as i64, 200 - start);
    broker.shutdown().await;
}
