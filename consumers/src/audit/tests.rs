//! Recovery at every point where a crash can hit, and what is in the log afterwards.

mod damage;
mod failures;
mod other_hands;
mod power_cut;
mod rig;
mod rotation;
mod tree;
mod unconfirmed;
mod writer;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use proptest::prelude::*;
use task_events::event::Event;
use task_events::kafka::Position;
use tempfile::TempDir;
use uuid::Uuid;

use super::file::Files;
use super::journal::{Journal, JournalError};
use super::limits::Limits;
use super::line::MAX_LINE;
use super::pending::{NewLines, Part};
use super::*;
use rig::*;

/// A log of 6 batches with 3 events each, and its index as it was after `indexed` of them.
struct Written {
    log: Vec<u8>,
    index: Index,
    /// Where the last batch starts.
    last_batch: usize,
}

const BATCHES: u64 = 6;
const EVENTS: u64 = 3 * BATCHES;

fn written(indexed: u64) -> Written {
    let rig = Rig::new();
    let mut journal = rig.open();
    let (mut last_batch, mut index) = (0, Index::new());
    for n in 0..BATCHES {
        last_batch = rig.bytes().len();
        if n == indexed {
            // The copy is what a crash would leave, were the transactions from here on not durable.
            journal.checkpoint().unwrap();
            index = rig.copy_index();
        }
        batch(&mut journal, &events(3 * n..3 * n + 3));
    }
    if indexed == BATCHES {
        journal.checkpoint().unwrap();
        drop(journal);
        index = rig.copy_index();
    }
    Written { log: rig.bytes(), index, last_batch }
}

impl Written {
    /// Starts on `log` with the index of then, reads what is missing, and compares.
    fn recovers(&self, log: &[u8]) {
        let rig = Rig::with(log, Some(&self.index));
        let mut journal = rig.open();
        let whole = rig.bytes();
        if log.starts_with(&whole) {
            assert_eq!(rig.torn().concat(), &log[whole.len()..], "what is cut off is kept");
        } else {
            assert_eq!(whole, [log, b"\n"].concat(), "recovery cuts, or adds the last line's end");
        }
        assert_eq!(ids(&journal), numbers(&whole).len() as u64);
        replay(&mut journal, EVENTS);
        assert_eq!(rig.numbers(), (0..EVENTS).collect::<Vec<_>>());
        assert_eq!(ids(&journal), EVENTS);
        drop(journal);
        let again = rig.open();
        assert_eq!((ids(&again), next(&again, 0)), (EVENTS, Some(EVENTS as i64)));
    }
}

#[test]
fn a_cut_at_any_byte_of_the_last_batch_loses_nothing_and_doubles_nothing() {
    let written = written(BATCHES - 1);
    for end in written.last_batch..=written.log.len() {
        written.recovers(&written.log[..end]);
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
        let written = written(indexed);
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
        written.recovers(&log);
    }
}

#[test]
fn an_index_of_any_age_or_none_ends_level_with_the_log() {
    for indexed in 0..=BATCHES {
        let written = written(indexed);
        written.recovers(&written.log);
    }
    let written = written(BATCHES);
    assert_eq!(ids(&Rig::with(&written.log, None).open()), EVENTS, "without an index");
    let unreadable = b"no index, but long enough to be taken for a file of its kind";
    let rig = Rig::with(&written.log, Some(&vec![("dedup".to_owned(), unreadable.to_vec())]));
    assert_eq!(ids(&rig.open()), EVENTS, "with an unreadable one");
    assert!(rig.path("dedup.unreadable").exists());
}

#[test]
fn an_index_of_the_version_before_is_rebuilt() {
    let written = written(BATCHES);
    let rig = Rig::with(&written.log, Some(&written.index));
    let index = recovery::open_index(&FileSystem, &rig.log(), &rig.index()).unwrap();
    index.truncate(0, br#"{"v":1,"length":9,"last_line":0,"last_id":"00000000-0000-0000-0000-000000000001","ids":1,"offsets":{}}"#).unwrap();
    drop(index);
    let journal = rig.open();
    assert_eq!((ids(&journal), next(&journal, 0)), (EVENTS, Some(EVENTS as i64)));
}

#[test]
fn a_tail_without_end_is_read_in_bounded_memory_and_cut() {
    let written = written(BATCHES);
    let mut log = written.log.clone();
    log.resize(log.len() + 3 * MAX_LINE, 0);
    written.recovers(&log);
}

#[test]
fn a_last_line_without_its_end_is_completed_where_it_is_whole() {
    let written = written(BATCHES);
    for index in [Some(&written.index), None] {
        let rig = Rig::with(&written.log[..written.log.len() - 1], index);
        let journal = rig.open();
        assert_eq!((rig.bytes(), rig.torn().len()), (written.log.clone(), 0));
        assert_eq!(ids(&journal), EVENTS);
    }
}

#[test]
fn a_second_process_a_folder_and_a_missing_folder_are_refused_in_one_line() {
    let rig = Rig::new();
    let first = rig.open();
    let refused = rig.try_open().unwrap_err();
    assert!(matches!(refused, AuditError::InUse { .. }), "{refused}");
    drop(first);
    let folder = FileSystem.open_log(rig.0.path()).unwrap_err().to_string();
    let missing = FileSystem.open_log(&rig.path("no/audit.log")).unwrap_err().to_string();
    for line in [folder, missing] {
        assert!(line.contains("AUDIT_LOG_PATH") && !line.contains('\n'), "{line}");
    }
}

#[test]
fn two_partitions_share_a_log() {
    let rig = Rig::new();
    let mut journal = rig.open();
    batch(&mut journal, &[(0, 0, 0), (1, 0, 1)]);
    batch(&mut journal, &[(2, 1, 0), (3, 1, 5)]);
    batch(&mut journal, &[(4, 0, 7)]);
    let positions = |journal: &Journal<_>| [0, 1, 2].map(|partition| next(journal, partition));
    assert_eq!(positions(&journal), [Some(8), Some(6), None]);
    drop(journal);
    assert_eq!(positions(&rig.open()), [Some(8), Some(6), None]);
    // The log alone says the same.
    fs::remove_file(rig.index()).unwrap();
    assert_eq!(positions(&rig.open()), [Some(8), Some(6), None]);
}

#[test]
fn an_event_that_comes_twice_is_written_once_whatever_its_partition_and_batch() {
    let rig = Rig::new();
    let mut journal = rig.open();
    batch(&mut journal, &[(0, 0, 0), (1, 0, 1), (0, 1, 0), (0, 0, 2)]);
    batch(&mut journal, &[(1, 1, 1), (2, 1, 2)]);
    assert_eq!(rig.numbers(), [0, 1, 2]);
    assert_eq!((next(&journal, 0), next(&journal, 1)), (Some(3), Some(3)));
}

#[test]
fn what_ended_without_a_line_is_known_after_a_kill() {
    let rig = Rig::new();
    let mut journal = rig.open();
    batch(&mut journal, &events(0..3));
    // Dead letters, and then nothing more: no line will tell.
    let dead = Progress { topic: TOPIC.to_owned(), partition: 0, position: Position::at(9) };
    journal.append(&[], &[&dead]).unwrap();
    // As kill -9: nothing is made durable at the end.
    let index = rig.copy_index();
    drop(journal);
    rig.put_index(&index);
    assert_eq!(next(&rig.open(), 0), Some(9));
}

#[test]
fn topic_id_and_leader_epoch_are_kept_with_the_position() {
    let rig = Rig::new();
    let mut journal = rig.open();
    let (topic_id, leader_epoch) = (Some(Uuid::from_u128(7)), Some(4));
    let position = Position { offset: 1, leader_epoch, topic_id };
    let progress = Progress { topic: TOPIC.to_owned(), partition: 0, position };
    journal.append(&[line((0, 0, 0), 0).all()], &[&progress]).unwrap();
    drop(journal);
    let mut journal = rig.open();
    assert_eq!(journal.mark().position(TOPIC, 0), Some(position));
    // Lines that the index lacks have no epoch; the topic is the one before.
    write_only(&mut journal, &[(1, 0, 1)]);
    drop(journal);
    let found = rig.open().mark().position(TOPIC, 0).unwrap();
    assert_eq!((found.offset, found.leader_epoch, found.topic_id), (2, None, topic_id));
}

#[test]
fn what_was_written_but_not_recorded_is_never_written_again() {
    let rig = Rig::new();
    let mut journal = rig.open();
    batch(&mut journal, &events(0..3));
    write_only(&mut journal, &events(3..6));
    // Repeats of events that the index does not know, at later offsets.
    batch(&mut journal, &[(4, 0, 6), (6, 0, 7), (5, 0, 8)]);
    assert_eq!(rig.numbers(), (0..7).collect::<Vec<_>>());
    assert_eq!(ids(&journal), 7);
}
