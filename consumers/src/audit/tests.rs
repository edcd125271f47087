//! Recovery at every point where a crash can hit, and what stands in the log afterwards.

mod power_cut;

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::DateTime;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const TOPIC: &str = "task-events";

/// A folder with a log and an index.
struct Rig(TempDir);

impl Rig {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn log(&self) -> PathBuf {
        self.0.path().join("audit.log")
    }

    fn index(&self) -> PathBuf {
        self.0.path().join("dedup")
    }

    fn try_open(&self) -> Result<Audit, AuditError> {
        let (file, length) = log::open(&self.log())?;
        Audit::recover(Arc::new(FileSystem), file, length, &self.log(), &self.index())
    }

    fn open(&self) -> Audit {
        self.try_open().unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.log()).unwrap()
    }

    fn numbers(&self) -> Vec<u64> {
        numbers(&self.bytes())
    }

    fn torn(&self) -> Vec<Vec<u8>> {
        let files = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path());
        files
            .filter(|path| path.to_str().unwrap().contains(".torn-"))
            .map(|path| fs::read(path).unwrap())
            .collect()
    }
}

/// The events of a log, which has to be whole.
fn numbers(bytes: &[u8]) -> Vec<u64> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    lines.map(|line| parse(line).expect("a whole line").event_id.as_u128() as u64).collect()
}

fn id(number: u64) -> Uuid {
    Uuid::from_u128(u128::from(number))
}

fn event(number: u64) -> Event {
    let json = format!(
        r#"{{"event_id":"{}","event_type":"task.archived","occurred_at":"2026-01-15T10:30:00Z","data":{{"task_id":"t{number}"}},
        "metadata":{{"correlation_id":"{}","source":"task-api"}}}}"#,
        id(number),
        Uuid::nil()
    );
    Event::decode(Some(json.as_bytes())).unwrap()
}

/// Handles one batch of (event, partition, offset) as the runtime does, up to the point where the ids are
/// recorded. Returns what is to be recorded.
async fn write<S: Storage>(
    audit: &mut Audit<S>,
    batch: &[(u64, i32, i64)],
) -> Result<(Vec<Uuid>, Option<Vec<u8>>), HandlerError> {
    let known = audit.index().known(batch.iter().map(|event| id(event.0)).collect()).await.unwrap();
    let mut ids = Vec::new();
    for ((number, partition, offset), known) in batch.iter().copied().zip(known) {
        if known {
            continue;
        }
        let message = event(number);
        let record = Record {
            key: Some(b"key".to_vec()),
            value: None,
            headers: BTreeMap::new(),
            timestamp: DateTime::default(),
        };
        let delivery = Delivery {
            message: &message,
            record: &record,
            topic: TOPIC,
            partition,
            offset,
            timestamp: record.timestamp,
        };
        audit.handle(&delivery).await.unwrap();
        ids.push(id(number));
    }
    Ok((ids, audit.write_lines().await?))
}

async fn batch<S: Storage>(audit: &mut Audit<S>, batch: &[(u64, i32, i64)]) {
    let (ids, mark) = write(audit, batch).await.unwrap();
    audit.index().record(ids, mark).await.unwrap();
}

/// Events `range` of partition 0, each at its own number as offset.
fn events(range: std::ops::Range<u64>) -> Vec<(u64, i32, i64)> {
    range.map(|number| (number, 0, number as i64)).collect()
}

/// What the runtime reads after a restart: the topic from where the log says, its end being `end`.
async fn replay(audit: &mut Audit, end: u64) {
    let start = audit.resume_from(TOPIC, 0).unwrap_or(0) as u64;
    batch(audit, &events(start..end)).await;
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

/// A log of 6 batches with 3 events each, and its index as it was after `indexed` of them.
struct Written {
    log: Vec<u8>,
    index: Vec<u8>,
    /// Where the last batch starts.
    last_batch: usize,
}

const BATCHES: u64 = 6;
const EVENTS: u64 = 3 * BATCHES;

async fn written(indexed: u64) -> Written {
    let rig = Rig::new();
    let mut audit = rig.open();
    let mut last_batch = 0;
    for n in 0..BATCHES {
        last_batch = rig.bytes().len();
        let (ids, mark) = write(&mut audit, &events(3 * n..3 * n + 3)).await.unwrap();
        if n < indexed {
            audit.index().record(ids, mark).await.unwrap();
            continue;
        }
        if n == indexed {
            // The copy is what a crash would leave, were the transactions from here on not durable.
            audit.index().checkpoint().unwrap();
            fs::copy(rig.index(), rig.0.path().join("copy")).unwrap();
        }
        audit.index().record(ids, mark).await.unwrap();
    }
    let index = if indexed == BATCHES {
        let index = audit.index();
        index.checkpoint().unwrap();
        drop((audit, index));
        fs::read(rig.index()).unwrap()
    } else {
        fs::read(rig.0.path().join("copy")).unwrap()
    };
    Written { log: rig.bytes(), index, last_batch }
}

impl Written {
    /// Starts on `log` with the index of then, reads what is missing, and compares.
    async fn recovers(&self, log: &[u8]) {
        let rig = Rig::new();
        fs::write(rig.log(), log).unwrap();
        fs::write(rig.index(), &self.index).unwrap();
        let mut audit = rig.open();
        let whole = rig.bytes();
        assert!(log.starts_with(&whole), "recovery only cuts");
        assert_eq!(rig.torn().concat(), &log[whole.len()..], "what is cut off is kept");
        assert_eq!(audit.index().len().unwrap(), numbers(&whole).len() as u64);
        replay(&mut audit, EVENTS).await;
        assert_eq!(rig.numbers(), (0..EVENTS).collect::<Vec<_>>());
        assert_eq!(audit.index().len().unwrap(), EVENTS);
        drop(audit);
        let again = rig.open();
        assert_eq!(again.index().len().unwrap(), EVENTS);
        assert_eq!(again.resume_from(TOPIC, 0), Some(EVENTS as i64));
    }
}

#[tokio::test]
async fn a_cut_at_any_byte_of_the_last_batch_loses_nothing_and_doubles_nothing() {
    let written = written(BATCHES - 1).await;
    for end in written.last_batch..=written.log.len() {
        written.recovers(&written.log[..end]).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Pages that never reached the disk are zeros, wherever in the batch, with whole lines behind them;
    /// the index is as old as it may be.
    #[test]
    fn zeros_anywhere_in_the_last_batch_are_a_torn_tail(
        indexed in 0..BATCHES,
        from in 0.0..1.0f64,
        length in 1..900usize,
        end in 0.0..1.0f64,
        cut in any::<bool>(),
    ) {
        runtime().block_on(async {
            let written = written(indexed).await;
            let mut log = written.log.clone();
            let last = log.len() - written.last_batch;
            if cut {
                log.truncate(log.len() - (end * last as f64) as usize);
            }
            let start = written.last_batch + (from * last as f64) as usize;
            let stop = (start + length).min(log.len());
            if start < stop {
                log[start..stop].fill(0);
            }
            written.recovers(&log).await;
        });
    }
}

#[tokio::test]
async fn an_index_of_any_age_or_none_ends_level_with_the_log() {
    for indexed in 0..=BATCHES {
        let written = written(indexed).await;
        written.recovers(&written.log).await;
    }
    let written = written(BATCHES).await;
    let rig = Rig::new();
    fs::write(rig.log(), &written.log).unwrap();
    assert_eq!(rig.open().index().len().unwrap(), EVENTS, "without an index");
    fs::write(rig.index(), b"no index, but long enough to be taken for a file of its kind").unwrap();
    assert_eq!(rig.open().index().len().unwrap(), EVENTS, "with an unreadable one");
    assert!(rig.0.path().join("dedup.unreadable").exists());
}

#[tokio::test]
async fn a_log_that_was_replaced_or_shortened_gets_a_new_index() {
    let written = written(BATCHES).await;
    let line_ends: Vec<usize> =
        written.log.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
    let swapped = [&written.log[line_ends[0]..], &written.log[..line_ends[0]]].concat();
    let logs = [
        (Vec::new(), 0, "emptied"),
        (written.log[..line_ends[4]].to_vec(), 5, "shortened"),
        (written.log[line_ends[1]..].to_vec(), EVENTS - 2, "its start cut off"),
        (swapped, EVENTS, "in another order"),
    ];
    for (log, ids, what) in logs {
        let rig = Rig::new();
        fs::write(rig.log(), &log).unwrap();
        fs::write(rig.index(), &written.index).unwrap();
        let audit = rig.open();
        assert_eq!(audit.index().len().unwrap(), ids, "{what}");
        assert_eq!(rig.bytes(), log, "{what}");
    }
}

#[tokio::test]
async fn damage_that_no_crash_explains_is_refused_and_left_as_it_is() {
    let mut written = written(BATCHES).await;
    // In the line that the mark names: it was synced once.
    let at = written.log.len() - 5;
    written.log[at] = 0;
    let rig = Rig::new();
    fs::write(rig.log(), &written.log).unwrap();
    fs::write(rig.index(), &written.index).unwrap();
    let refused = rig.try_open().unwrap_err().to_string();
    let start = written.log[..at].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    assert!(refused.contains(&format!("at byte {start}:")) && !refused.contains('\n'), "{refused}");
    assert_eq!((rig.bytes(), rig.torn().len()), (written.log.clone(), 0));

    // Far from the end, without an index.
    let whole = &written.log[..start];
    let mut log = written.log[..1].repeat(10);
    log.push(b'\n');
    while (log.len() as u64) < MAX_UNSYNCED + 100_000 {
        log.extend_from_slice(whole);
    }
    let rig = Rig::new();
    fs::write(rig.log(), &log).unwrap();
    let refused = rig.try_open().unwrap_err().to_string();
    assert!(refused.contains("at byte 0:"), "{refused}");
    assert_eq!(rig.bytes(), log);
}

#[tokio::test]
async fn a_tail_without_end_is_read_in_bounded_memory_and_cut() {
    let written = written(BATCHES).await;
    let mut log = written.log.clone();
    log.resize(log.len() + 3 * line::MAX_LINE, 0);
    written.recovers(&log).await;
}

#[tokio::test]
async fn ids_that_stand_twice_in_a_foreign_log_do_not_make_the_index_new_each_time() {
    let written = written(BATCHES).await;
    let rig = Rig::new();
    fs::write(rig.log(), written.log.repeat(2)).unwrap();
    let mut audit = rig.open();
    assert_eq!(audit.index().len().unwrap(), EVENTS);
    assert!(lock(&audit.writer).index_is_level().unwrap());
    batch(&mut audit, &events(EVENTS..EVENTS + 1)).await;
    assert!(lock(&audit.writer).index_is_level().unwrap());
}

#[tokio::test]
async fn a_second_process_a_folder_and_a_missing_folder_are_refused_in_one_line() {
    let rig = Rig::new();
    let first = rig.open();
    let refused = rig.try_open().unwrap_err();
    assert!(matches!(refused, AuditError::InUse { .. }), "{refused}");
    drop(first);
    let folder = log::open(rig.0.path()).unwrap_err().to_string();
    let missing = log::open(&rig.0.path().join("no/audit.log")).unwrap_err().to_string();
    for line in [folder, missing] {
        assert!(line.contains("AUDIT_LOG_PATH") && !line.contains('\n'), "{line}");
    }
}

#[tokio::test]
async fn two_partitions_share_a_log() {
    let rig = Rig::new();
    let mut audit = rig.open();
    batch(&mut audit, &[(0, 0, 0), (1, 0, 1)]).await;
    batch(&mut audit, &[(2, 1, 0), (3, 1, 5)]).await;
    batch(&mut audit, &[(4, 0, 7)]).await;
    let offsets = |audit: &Audit| (audit.resume_from(TOPIC, 0), audit.resume_from(TOPIC, 1));
    assert_eq!(offsets(&audit), (Some(8), Some(6)));
    drop(audit);
    let audit = rig.open();
    assert_eq!(offsets(&audit), (Some(8), Some(6)));
    assert_eq!((audit.resume_from(TOPIC, 2), audit.resume_from("other", 0)), (None, None));
}

#[tokio::test]
async fn what_was_written_but_not_recorded_is_never_written_again() {
    let rig = Rig::new();
    let mut audit = rig.open();
    batch(&mut audit, &events(0..3)).await;
    // The lease is lost between flush and record.
    write(&mut audit, &events(3..6)).await.unwrap();
    audit.pending.clear();
    // A producer's repeats of events that the index does not know, at later offsets.
    batch(&mut audit, &[(4, 0, 6), (6, 0, 7), (5, 0, 8)]).await;
    assert_eq!(rig.numbers(), (0..7).collect::<Vec<_>>());
    assert!(lock(&audit.writer).index_is_level().unwrap());
}

#[tokio::test]
async fn an_index_that_lost_transactions_under_a_right_mark_is_found_out() {
    let rig = Rig::new();
    let mut audit = rig.open();
    batch(&mut audit, &events(0..3)).await;
    // As after an I/O error: the transaction of 3..6 is gone, that of 6..9 was repeated.
    write(&mut audit, &events(3..6)).await.unwrap();
    let at = At { topic: TOPIC.into(), partition: 0, offset: 6 };
    let line = render(&event(6), "", at.clone()).unwrap();
    let extent = {
        let mut writer = lock(&audit.writer);
        let end = writer.extent.length;
        writer.appender.append(&line, end).unwrap();
        writer.extent.add(id(6), &at, line.len());
        writer.extent.clone()
    };
    audit.index().record(vec![id(6)], extent.to_mark().unwrap()).await.unwrap();
    batch(&mut audit, &[(3, 0, 9), (4, 0, 10), (7, 0, 11)]).await;
    assert_eq!(rig.numbers(), (0..8).collect::<Vec<_>>());
}

/// A file that fails on demand: each operation counts one down, and at zero fails.
#[derive(Debug)]
struct Failing {
    file: File,
    left: Arc<AtomicUsize>,
    /// What was written last, and where.
    unsynced: Mutex<(u64, usize)>,
}

impl Failing {
    fn fails(&self) -> io::Result<()> {
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.wrapping_sub(1), Ordering::Relaxed);
        if left == 0 { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
    }
}

impl Storage for Failing {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        Storage::read_at(&self.file, buffer, at)
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        if let Err(full) = self.fails() {
            // As a disk that fills up in the middle.
            Storage::write_all_at(&self.file, &bytes[..bytes.len() / 2], at)?;
            return Err(full);
        }
        *self.unsynced.lock().unwrap() = (at, bytes.len());
        Storage::write_all_at(&self.file, bytes, at)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.fails()?;
        Storage::set_len(&self.file, length)
    }

    fn sync_data(&self) -> io::Result<()> {
        if let Err(full) = self.fails() {
            // As pages that are dropped though they never reached the disk.
            let (at, length) = *self.unsynced.lock().unwrap();
            Storage::write_all_at(&self.file, &vec![0; length], at)?;
            return Err(full);
        }
        Storage::sync_data(&self.file)
    }
}

/// An audit log whose operations fail as `left` says, with 3 events in it.
async fn failing(rig: &Rig) -> (Audit<Failing>, Arc<AtomicUsize>) {
    let left = Arc::new(AtomicUsize::new(usize::MAX));
    let (file, length) = log::open(&rig.log()).unwrap();
    let storage = Failing { file, left: Arc::clone(&left), unsynced: Mutex::default() };
    let mut audit = Audit::recover(Arc::new(FileSystem), storage, length, &rig.log(), &rig.index()).unwrap();
    batch(&mut audit, &events(0..3)).await;
    (audit, left)
}

#[tokio::test]
async fn a_failed_write_or_sync_is_written_again_whole() {
    // Write, sync.
    for operation in 0..2 {
        let rig = Rig::new();
        let (mut audit, left) = failing(&rig).await;
        left.store(operation, Ordering::Relaxed);
        let error = write(&mut audit, &events(3..6)).await.unwrap_err();
        assert!(error.message.contains("audit.log"), "{error}");
        // Cutting back fails as well, then all goes through.
        left.store(0, Ordering::Relaxed);
        audit.write_lines().await.unwrap_err();
        let mark = audit.write_lines().await.unwrap();
        audit.index().record((3..6).map(id).collect(), mark).await.unwrap();
        assert_eq!(rig.numbers(), (0..6).collect::<Vec<_>>());
        assert!(lock(&audit.writer).index_is_level().unwrap());
    }
}

#[tokio::test]
async fn a_failed_write_that_is_discarded_leaves_nothing_behind_what_comes_next() {
    for operation in 0..2 {
        let rig = Rig::new();
        let (mut audit, left) = failing(&rig).await;
        left.store(operation, Ordering::Relaxed);
        write(&mut audit, &events(3..6)).await.unwrap_err();
        audit.pending.clear();
        assert_eq!(audit.write_lines().await.unwrap(), None);
        batch(&mut audit, &[(9, 0, 9)]).await;
        assert_eq!(rig.numbers(), [0, 1, 2, 9]);
    }
}

#[tokio::test]
async fn a_process_that_dies_after_a_failed_write_leaves_a_log_that_recovers() {
    for operation in 0..2 {
        let rig = Rig::new();
        let (mut audit, left) = failing(&rig).await;
        left.store(operation, Ordering::Relaxed);
        write(&mut audit, &events(3..6)).await.unwrap_err();
        drop(audit);
        let mut audit = rig.open();
        replay(&mut audit, 6).await;
        assert_eq!(rig.numbers(), (0..6).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_batch_beyond_the_bound_is_appended_in_parts() {
    let rig = Rig::new();
    let (mut audit, left) = failing(&rig).await;
    let waiting: VecDeque<Pending> = (0..6)
        .map(|n| {
            let mut line = event(n + 3);
            let data = format!(r#"{{"pad":"{}"}}"#, "x".repeat(1_000_000));
            line.data = serde_json::value::RawValue::from_string(data).unwrap();
            let at = At { topic: TOPIC.into(), partition: 0, offset: n as i64 + 3 };
            let bytes = render(&line, "", at.clone()).unwrap();
            Pending { event_id: id(n + 3), at, bytes, said: String::new() }
        })
        .collect();
    audit.pending = waiting;
    // The second append fails after the first went through.
    left.store(2, Ordering::Relaxed);
    audit.write_lines().await.unwrap_err();
    assert_eq!(rig.numbers().len(), 3 + 4, "the first four are on disk");
    let mark = audit.write_lines().await.unwrap();
    audit.index().record((3..9).map(id).collect(), mark).await.unwrap();
    assert_eq!(rig.numbers(), (0..9).collect::<Vec<_>>());
    assert!(lock(&audit.writer).index_is_level().unwrap());
}
