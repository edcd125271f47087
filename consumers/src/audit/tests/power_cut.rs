//! Log and index after a power cut, whatever of the last writes the disk kept: what was committed has its
//! lines, and once the rest was read again each event has one, in the topic's order.

use std::collections::BTreeSet;

use powercut::{Cut, SimDisk, SimFile, StorageBackend, Subject};
use task_events::disk::Disk;

use super::super::file::{Standing, Storage};
use super::*;

const LOG: &str = "/audit/audit.log";
const INDEX: &str = "/state/dedup";
/// A process is killed at one operation of so many.
const KILL_EVERY: usize = 61;
/// Records that are read after a cut: as many as may have been in flight, and a repeat of them. As many as
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

impl Files for SimDisk {
    type File = SimFile;

    fn open_log(&self, path: &Path) -> Result<(SimFile, u64), AuditError> {
        let file = self.file(path);
        let length = file.len().unwrap();
        Ok((file, length))
    }

    fn segment(&self, path: &Path) -> io::Result<(SimFile, u64)> {
        Ok(self.open_log(path).unwrap())
    }

    fn beside(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(self.names().into_iter().filter(|name| name.parent() == path.parent()).collect())
    }

    fn standing(&self, file: &SimFile, path: &Path) -> io::Result<Standing> {
        let names = self.names_of(file);
        let has_its_name = names.iter().any(|name| name == path);
        Ok(Standing { length: file.len()?, has_a_name: !names.is_empty(), has_its_name })
    }

    fn real(&self, path: &Path) -> PathBuf {
        path.to_owned()
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }
}

fn open(disk: &SimDisk) -> Result<Journal<SimDisk>, AuditError> {
    Journal::open(disk.clone(), Path::new(LOG), Path::new(INDEX))
}

fn log_of(disk: &SimDisk) -> Vec<u8> {
    disk.read(Path::new(LOG)).unwrap_or_default()
}

/// The events of the segments, oldest first, and of the log.
fn union(disk: &SimDisk) -> Vec<u64> {
    let segments = segments::beside(disk, Path::new(LOG)).unwrap();
    let in_segments = segments.iter().flat_map(|path| numbers(&disk.read(path).unwrap()));
    in_segments.chain(numbers(&log_of(disk))).collect()
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

/// When the group's position in a partition was committed, and which one.
struct Commit {
    at: usize,
    partition: usize,
    position: usize,
}

/// What was committed of the audit log that a workload left.
struct Committed {
    /// The positions before the first commit.
    before: [usize; 2],
    commits: Vec<Commit>,
}

impl Committed {
    /// The positions at a moment.
    fn at(&self, moment: usize) -> [usize; 2] {
        let mut positions = self.before;
        for commit in self.commits.iter().filter(|commit| commit.at <= moment) {
            positions[commit.partition] = commit.position;
        }
        positions
    }
}

/// Writes both partitions to the log by turns, with restarts and rotations of every kind, and commits after
/// each batch, or, as a planted bug, before it.
fn run(disk: &SimDisk, commit_first: bool) -> Committed {
    let mut journal = open(disk).unwrap();
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
            // Another hand renames the log, and does not sync the folder.
            5 => {
                disk.rename(Path::new(LOG), Path::new(&format!("{LOG}.{step}"))).unwrap();
                batch(&mut journal, &records);
            }
            // An orderly stop after it.
            10 => {
                batch(&mut journal, &records);
                journal.checkpoint().unwrap();
                drop(journal);
                journal = open(disk).unwrap();
            }
            15 => {
                batch(&mut journal, &records);
                journal.rotate().unwrap();
            }
            // Killed between log and index; the events come again.
            20 => {
                let asked: Vec<Uuid> = records.iter().map(|record| id(record.0)).collect();
                let known = journal.index().numbers(&asked).unwrap();
                let new = records.iter().zip(known).filter(|(_, known)| known.is_none());
                write_only(&mut journal, &new.map(|(record, _)| *record).collect::<Vec<_>>());
                drop(journal);
                journal = open(disk).unwrap();
                batch(&mut journal, &records);
            }
            _ => batch(&mut journal, &records),
        }
        *position = next;
        if !commit_first {
            commits.push(commit(disk));
        }
    }
    Committed { before: [0; 2], commits }
}

/// Where reading starts with these positions committed.
fn resume(journal: &Journal<SimDisk>, committed: [usize; 2]) -> [usize; 2] {
    [0, 1].map(|n| committed[n].min(next(journal, n as i32).unwrap_or(0) as usize))
}

/// Handles what comes next.
fn read_on(journal: &mut Journal<SimDisk>, starts: [usize; 2], ends: [usize; 2]) {
    for partition in 0..2 {
        let records: Vec<_> =
            (starts[partition]..ends[partition]).map(|offset| record(partition, offset)).collect();
        batch(journal, &records);
    }
}

impl Subject for Committed {
    type Opened = Journal<SimDisk>;
    const CUT_TWICE: Option<usize> = Some(50);

    fn open(&self, disk: &SimDisk) -> Result<Self::Opened, String> {
        open(disk).map_err(|error| error.to_string())
    }

    fn check(&self, mut journal: Self::Opened, cut: &Cut) -> Result<(), String> {
        let (before, committed) = (log_of(&cut.left), self.at(cut.at));
        let whole = log_of(&cut.disk);
        if whole != [before.as_slice(), b"\n"].concat() {
            let torn = before.strip_prefix(whole.as_slice()).ok_or("recovery does more than to cut")?;
            let asides =
                cut.disk.names().into_iter().filter(|name| name.to_string_lossy().contains(".torn-"));
            // A line's end that was added, and then lost in another cut, is a zero behind it.
            let holds = |aside: Vec<u8>| {
                aside.strip_prefix(torn).is_some_and(|rest| rest.iter().all(|byte| *byte == 0))
            };
            if !torn.is_empty() && !asides.into_iter().any(|aside| cut.disk.read(&aside).is_some_and(holds)) {
                return Err(format!("{} bytes were cut off and not kept", torn.len()));
            }
        }
        let found = union(&cut.disk);
        let lines: BTreeSet<u64> = found.iter().copied().collect();
        if found.len() != lines.len() {
            return Err(format!("an event has two lines: {found:?}"));
        }
        for (partition, position) in committed.into_iter().enumerate() {
            if let Some(lost) =
                events_of(partition, 0..position).iter().find(|number| !lines.contains(number))
            {
                return Err(format!(
                    "position {position} of partition {partition} was committed, and event {lost} is lost"
                ));
            }
        }
        if journal.index().len().map_err(|error| error.to_string())? != lines.len() as u64 {
            return Err(format!("{} lines, and an index of {:?}", lines.len(), journal.index().len()));
        }

        // With the commits or, where these came late, without.
        let positions = if cut.number.is_multiple_of(2) { committed } else { [0; 2] };
        let starts = resume(&journal, positions);
        let ends = committed.map(|position| RECORDS.min(position + READ_ON));
        read_on(&mut journal, starts, ends);
        let written = union(&cut.disk);
        for (partition, end) in ends.into_iter().enumerate() {
            let of_partition: Vec<u64> =
                written.iter().copied().filter(|number| number / 1_000 == partition as u64).collect();
            let wanted = events_of(partition, 0..end);
            if of_partition != wanted {
                return Err(format!(
                    "the log holds {of_partition:?} of partition {partition}, not {wanted:?}"
                ));
            }
        }
        Ok(())
    }
}

#[test]
fn after_a_power_cut_committed_events_have_their_lines_and_each_event_ends_with_one() {
    let disk = SimDisk::new();
    let committed = run(&disk, false);
    let tried = disk.cut_everywhere(&committed);
    println!("audit log and index: {tried}");
    assert!(tried.states > 1_000, "{tried}");
}

/// A process that was killed leaves lines that are seen and not yet on disk, and the next one commits what
/// comes after them.
#[test]
fn a_power_cut_after_a_kill_takes_nothing_that_the_next_process_built_on() {
    let disk = SimDisk::new();
    let committed = run(&disk, false);
    let tried = disk.kill_everywhere(KILL_EVERY, |killed, moment| {
        let before = committed.at(moment);
        let mut journal = open(killed).unwrap();
        let starts = resume(&journal, before);
        let ends = before.map(|position| RECORDS.min(position + READ_ON));
        let commits_now = |positions: [usize; 2]| {
            [0, 1].map(|n| Commit { at: killed.now(), partition: n, position: positions[n] })
        };
        let mut commits = Vec::from(commits_now(before));
        read_on(&mut journal, starts, ends);
        commits.extend(commits_now(ends));
        killed.cut_everywhere(&Committed { before, commits })
    });
    println!("audit after kills: {tried}");
    assert!(tried.states > 500, "{tried}");
}

#[test]
fn a_log_whose_sync_or_name_is_skipped_is_found_out() {
    for lie in ["audit.log", "audit"] {
        let disk = SimDisk::that_lies_about(lie);
        let found = disk.cut_until_found(&run(&disk, false));
        assert!(found.why.contains("is lost"), "{lie}: {found}");
    }
}

#[test]
fn a_commit_before_the_sync_is_found_out() {
    let disk = SimDisk::new();
    let found = disk.cut_until_found(&run(&disk, true));
    assert!(found.why.contains("is lost"), "{found}");
}
