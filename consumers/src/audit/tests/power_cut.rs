//! Log and index after a power cut, whatever of the last writes the disk kept: what was committed has its
//! lines, and once the rest was read again each event has one, in the topic's order.

use std::collections::BTreeSet;

use powercut::{Cut, Found, SimDisk, SimFile, StorageBackend, Tried};

use super::*;

const LOG: &str = "/audit/audit.log";
const INDEX: &str = "/state/dedup";
const SEED: u64 = 1;
/// Every so many cuts the power fails once more, while log and index are brought together.
const CUT_TWICE: usize = 50;
/// A process is killed at one operation of so many.
const KILL_EVERY: usize = 31;
/// Records that are read after a cut: as many as may have been in hand, and a repeat of them. As many as
/// lie between an event and its repeat, so that no two of one id are in one batch.
const READ_ON: usize = 5;
/// Records in each partition.
const RECORDS: usize = 100;

impl Storage for SimFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        Ok(Self::read_at(self, buffer, at))
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write(at, bytes)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        StorageBackend::set_len(self, length)
    }

    fn sync_data(&self) -> io::Result<()> {
        StorageBackend::sync_data(self)
    }
}

fn open(disk: &SimDisk) -> Result<Audit<SimFile>, AuditError> {
    let log = disk.file(Path::new(LOG));
    let length = log.len().unwrap();
    Audit::recover(Arc::new(disk.clone()), log, length, Path::new(LOG), Path::new(INDEX))
}

fn log_of(disk: &SimDisk) -> Vec<u8> {
    disk.read(Path::new(LOG)).unwrap_or_default()
}

/// The event at an offset. Some are repeats of one before.
fn record(partition: usize, offset: usize) -> (u64, i32, i64) {
    let first = if offset % 7 == 6 { offset - 5 } else { offset };
    ((1_000 * partition + first) as u64, partition as i32, offset as i64)
}

/// The events of a part of a partition that are not repeats, in order.
fn events_of(partition: usize, offsets: std::ops::Range<usize>) -> Vec<u64> {
    let records = offsets.map(|offset| record(partition, offset));
    records
        .filter(|(number, _, offset)| number % 1_000 == *offset as u64)
        .map(|(number, ..)| number)
        .collect()
}

/// When the group's position in a partition was committed, and where it then stood.
struct Commit {
    at: usize,
    partition: usize,
    position: usize,
}

/// Writes both partitions to the log by turns, with restarts of every kind, and commits after each batch,
/// or, as a planted bug, before it.
fn run(disk: &SimDisk, commit_first: bool) -> Vec<Commit> {
    runtime().block_on(async {
        let mut audit = open(disk).unwrap();
        let mut positions = [0; 2];
        let mut commits = Vec::new();
        for step in 0.. {
            let partition = usize::from(step % 3 == 2);
            let position = &mut positions[partition];
            let next = RECORDS.min(*position + 1 + step % 4);
            if *position == next {
                break;
            }
            let commit = |disk: &SimDisk| Commit { at: disk.now(), partition, position: next };
            if commit_first {
                commits.push(commit(disk));
            }
            let records: Vec<_> = (*position..next).map(|offset| record(partition, offset)).collect();
            match step % 25 {
                // An orderly stop after it.
                10 => {
                    batch(&mut audit, &records).await;
                    audit.index().checkpoint().unwrap();
                    drop(audit);
                    audit = open(disk).unwrap();
                }
                // Killed between log and index; the events come again.
                20 => {
                    write(&mut audit, &records).await.unwrap();
                    drop(audit);
                    audit = open(disk).unwrap();
                    batch(&mut audit, &records).await;
                }
                _ => batch(&mut audit, &records).await,
            }
            *position = next;
            if !commit_first {
                commits.push(commit(disk));
            }
        }
        commits
    })
}

/// Where reading starts with these positions committed, and where it ends: beyond what the log holds.
fn resume(audit: &Audit<SimFile>, committed: [usize; 2]) -> ([usize; 2], [usize; 2]) {
    let own = [0, 1].map(|partition| audit.resume_from(TOPIC, partition).unwrap_or(0) as usize);
    let starts = [own[0].min(committed[0]), own[1].min(committed[1])];
    (starts, own.map(|own| RECORDS.min(own + READ_ON)))
}

/// Handles what comes next.
fn read_on(audit: &mut Audit<SimFile>, starts: [usize; 2], ends: [usize; 2]) {
    for partition in 0..2 {
        let records: Vec<_> =
            (starts[partition]..ends[partition]).map(|offset| record(partition, offset)).collect();
        runtime().block_on(batch(audit, &records));
    }
}

/// Starts on what the cut left of the log `before`, with these positions committed.
fn check(cut: &Cut, before: &[u8], committed: [usize; 2]) -> Result<(), String> {
    let mut audit = open(&cut.disk).map_err(|error| error.to_string())?;
    cut.once_more(CUT_TWICE, |again| check(again, before, committed))?;
    let whole = log_of(&cut.disk);
    let torn = before.strip_prefix(whole.as_slice()).ok_or("recovery does more than to cut")?;
    let asides = cut.disk.names().into_iter().filter(|name| name.to_string_lossy().contains(".torn-"));
    if !torn.is_empty() && !asides.into_iter().any(|aside| cut.disk.read(&aside).as_deref() == Some(torn)) {
        return Err(format!("{} bytes were cut off and not kept", torn.len()));
    }
    let lines: BTreeSet<u64> = numbers(&whole).into_iter().collect();
    for (partition, position) in committed.into_iter().enumerate() {
        if let Some(lost) = events_of(partition, 0..position).iter().find(|number| !lines.contains(number)) {
            return Err(format!(
                "position {position} of partition {partition} was committed, and event {lost} is lost"
            ));
        }
    }
    if audit.index().len().map_err(|error| error.to_string())? != lines.len() as u64 {
        return Err(format!("{} lines, and an index of {:?}", lines.len(), audit.index().len()));
    }

    // With the commits or, where these came late, without.
    let positions = if cut.number.is_multiple_of(2) { committed } else { [0; 2] };
    let (starts, ends) = resume(&audit, positions);
    read_on(&mut audit, starts, ends);
    let written = numbers(&log_of(&cut.disk));
    for (partition, end) in ends.into_iter().enumerate() {
        let of_partition: Vec<u64> =
            written.iter().copied().filter(|number| number / 1_000 == partition as u64).collect();
        let wanted = events_of(partition, 0..end);
        if of_partition != wanted {
            return Err(format!("the log holds {of_partition:?} of partition {partition}, not {wanted:?}"));
        }
    }
    Ok(())
}

/// The positions that are committed at a moment.
fn committed_at(moment: usize, commits: &[Commit], mut positions: [usize; 2]) -> [usize; 2] {
    for commit in commits.iter().filter(|commit| commit.at <= moment) {
        positions[commit.partition] = commit.position;
    }
    positions
}

fn cut_everywhere(disk: &SimDisk, commits: &[Commit], before: [usize; 2]) -> Result<Tried, Found> {
    disk.each_cut(SEED, |cut| check(cut, &log_of(&cut.disk), committed_at(cut.at, commits, before)))
}

#[test]
fn after_a_power_cut_committed_events_have_their_lines_and_each_event_ends_with_one() {
    let disk = SimDisk::new();
    let commits = run(&disk, false);
    let tried = cut_everywhere(&disk, &commits, [0; 2]).unwrap_or_else(|found| found.raise());
    println!("audit log and index: {tried}");
    assert!(tried.states > 1_000, "{tried}");
}

/// A process that was killed leaves lines that are seen and not yet on disk, and the next one commits what
/// comes after them.
#[test]
fn a_power_cut_after_a_kill_takes_nothing_that_the_next_process_built_on() {
    let disk = SimDisk::new();
    let commits = run(&disk, false);
    let (mut kills, mut tried) = (0, Tried::default());
    for moment in (0..disk.now()).step_by(KILL_EVERY) {
        let killed = disk.killed_at(moment);
        let before = committed_at(moment, &commits, [0; 2]);
        let mut audit = open(&killed).unwrap();
        let (starts, ends) = resume(&audit, before);
        let commits_now = |positions: [usize; 2]| {
            [0, 1].map(|n| Commit { at: killed.now(), partition: n, position: positions[n] })
        };
        let mut commits = Vec::from(commits_now(starts));
        read_on(&mut audit, starts, ends);
        commits.extend(commits_now(ends));
        tried += cut_everywhere(&killed, &commits, before).unwrap_or_else(|found| found.raise());
        kills += 1;
    }
    println!("audit after {kills} kills: {tried}");
    assert!(tried.states > 500, "{tried}");
}

#[test]
fn a_log_whose_sync_or_name_is_skipped_is_found_out() {
    for lie in ["audit.log", "audit"] {
        let disk = SimDisk::that_lies_about(lie);
        let commits = run(&disk, false);
        let found = cut_everywhere(&disk, &commits, [0; 2]).expect_err(lie);
        assert!(found.why.contains("is lost"), "{lie}: {found}");
    }
}

#[test]
fn a_commit_before_the_sync_is_found_out() {
    let disk = SimDisk::new();
    let commits = run(&disk, true);
    let found = cut_everywhere(&disk, &commits, [0; 2]).expect_err("the commit is ahead of the line");
    assert!(found.why.contains("is lost"), "{found}");
}
