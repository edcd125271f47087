//! The log alone: torn ends, damage, and what is left of a write that failed.

use std::path::Path;
use std::sync::Arc;

use powercut::{Cut, SimDisk, Subject};
use task_events::disk::Disk;
use uuid::Uuid;

use super::appender::Appender;
use super::files::{FIRST_FRAME, Files};
use super::frame::Group;
use super::recovery::{Found, LogError, read_tail};
use super::{Limits, Position};

const DATABASE: &str = "/state/tasks.redb";
const STORE: Uuid = Uuid::from_u128(1);

fn limits() -> Limits {
    Limits { segment_bytes: 16 << 10, group_bytes: 2 << 10, ..Limits::default() }
}

fn files(disk: &SimDisk) -> Arc<Files> {
    Arc::new(Files::find(Arc::new(disk.clone()), Path::new(DATABASE), STORE, limits()).unwrap())
}

/// What a start reads behind that position: the payloads, and the rest.
fn read(disk: &SimDisk, from: Position) -> Result<(Vec<Vec<u8>>, Found), LogError> {
    let mut payloads = Vec::new();
    let found = read_tail(disk, &files(disk), &limits(), from, |_, frame| {
        payloads.push(frame.payload.to_vec());
        Ok(())
    })?;
    Ok((payloads, found))
}

fn group(payloads: &[&[u8]]) -> Group {
    let mut group = Group::default();
    for payload in payloads {
        group.add(|out| out.extend_from_slice(payload));
    }
    group
}

fn append(appender: &mut Appender, payloads: &[&[u8]]) -> Position {
    appender.append(&mut group(payloads)).unwrap().1
}

/// Writes bytes of a segment as nobody else should.
fn overwrite(disk: &SimDisk, number: u64, at: u64, bytes: &[u8]) {
    let path = files(disk).path(number);
    disk.open_file(&path).unwrap().write_all_at(bytes, at).unwrap();
}

/// Twelve groups of three frames.
struct Groups {
    /// The moment from which on each has to be there, in their order.
    safe: Vec<usize>,
}

impl Subject for Groups {
    type Opened = (Vec<Vec<u8>>, Found);

    fn open(&self, disk: &SimDisk) -> Result<Self::Opened, String> {
        read(disk, Position::default()).map_err(|error| error.to_string())
    }

    fn check(&self, (found, tail): Self::Opened, cut: &Cut) -> Result<(), String> {
        let wanted: Vec<Vec<u8>> = (0..12_u8).flat_map(|number| vec![vec![number; 500]; 3]).collect();
        let safe = 3 * self.safe.iter().filter(|moment| **moment <= cut.at).count();
        if found.len() < safe || !wanted.starts_with(&found) {
            return Err(format!("{} frames of {safe}: {found:?}", found.len()));
        }
        // It goes on: what was found stays, and nothing else comes back with what is new.
        let mut appender =
            Appender::after(files(&cut.disk), limits(), tail.end.seq).map_err(|error| error.to_string())?;
        append(&mut appender, &[&[99; 500]]);
        let (again, _) = read(&cut.disk, Position::default()).map_err(|error| error.to_string())?;
        let wanted = [found, vec![vec![99; 500]]].concat();
        if again == wanted { Ok(()) } else { Err(format!("{again:?}, not {wanted:?}")) }
    }
}

#[test]
fn after_a_power_cut_there_are_whole_groups_and_perhaps_the_beginning_of_the_last() {
    let disk = SimDisk::new();
    let mut appender = Appender::after(files(&disk), limits(), 0).unwrap();
    let mut safe = Vec::new();
    for number in 0..12_u8 {
        // Frames of one length: what is left of a group fits to the next one.
        append(&mut appender, &[&[number; 500], &[number; 500], &[number; 500]]);
        safe.push(disk.now());
    }
    let tried = disk.cut_everywhere(&Groups { safe });
    assert!(tried.states > 150, "{tried}");
}

#[test]
fn segments_are_used_again_and_frames_of_a_former_use_never_count() {
    let disk = SimDisk::new();
    let files = files(&disk);
    let mut appender = Appender::after(Arc::clone(&files), limits(), 0).unwrap();
    let mut applied = Position::default();
    for number in 0..40_u8 {
        applied = append(&mut appender, &[&[number; 900], &[number; 900]]);
        for old in files.numbers().into_iter().filter(|old| *old < applied.end.segment) {
            files.retire(old).unwrap();
        }
        files.prepare().unwrap();
        let (found, tail) = read(&disk, applied).unwrap();
        assert_eq!((found.len(), tail.end), (0, applied), "nothing is behind the last group");
    }
    assert!(applied.end.segment > 5);
    assert!(disk.names().len() <= 3, "one in use, the next, and a spare: {:?}", disk.names());
}

#[test]
fn a_whole_frame_behind_damage_refuses_and_what_is_left_of_one_group_does_not() {
    let disk = SimDisk::new();
    let mut appender = Appender::after(files(&disk), limits(), 0).unwrap();
    for number in 0..6_u8 {
        append(&mut appender, &[&[number; 400], &[number; 400], &[number; 400]]);
    }
    let (found, _) = read(&disk, Position::default()).unwrap();
    assert_eq!(found.len(), 18);
    let frame = (super::frame::HEADER + 400) as u64;
    // In the last group: so it may have been torn, and it was not answered.
    overwrite(&disk, 1, FIRST_FRAME + 16 * frame + 20, b"damage");
    assert_eq!(read(&disk, Position::default()).unwrap().0.len(), 16);
    // In the one before it: that was answered.
    for damaged in [14, 4] {
        overwrite(&disk, 1, FIRST_FRAME + damaged * frame + 20, b"damage");
        let error = read(&disk, Position::default()).unwrap_err().to_string();
        let wanted = format!("tasks.log-1 is damaged at byte {}", FIRST_FRAME + damaged * frame);
        assert!(error.contains(&wanted), "{error}");
    }
}

#[test]
fn a_segment_that_is_missing_damaged_or_foreign_refuses() {
    let disk = SimDisk::new();
    let mut appender = Appender::after(files(&disk), limits(), 0).unwrap();
    let mut applied = append(&mut appender, &[b"first"]);
    while applied.end.segment < 3 {
        applied = append(&mut appender, &[&[1; 1_000]]);
    }
    let applied = Position::default();
    let all = read(&disk, applied).unwrap().0.len();

    let mut header = [0; 40];
    disk.open_file(&files(&disk).path(2)).unwrap().read_exact_at(&mut header, 0).unwrap();
    overwrite(&disk, 2, 10, b"x");
    let error = read(&disk, applied).unwrap_err().to_string();
    assert!(error.contains("tasks.log-2 is damaged, or is not of this store"), "{error}");
    overwrite(&disk, 2, 0, &header);
    assert_eq!(read(&disk, applied).unwrap().0.len(), all);

    let elsewhere = Path::new("/state/elsewhere");
    disk.rename(&files(&disk).path(2), elsewhere).unwrap();
    let error = read(&disk, applied).unwrap_err().to_string();
    assert!(error.contains("tasks.log-1 is damaged: frames"), "{error}");
    let of_another = Position { seq: 5, end: super::Place { segment: 2, offset: FIRST_FRAME } };
    let error = read(&disk, of_another).unwrap_err().to_string();
    assert!(error.contains("tasks.log-2 is missing"), "{error}");
    for number in [1, 3] {
        disk.remove(&files(&disk).path(number)).unwrap();
    }
    assert!(read(&disk, of_another).unwrap().1.is_gone, "somebody has moved all of it away");
}

/// After a write that failed the log goes on elsewhere from the same number: what the failed one left never counts.
#[test]
fn a_segment_repeats_what_the_one_before_could_not_write() {
    let disk = SimDisk::new();
    let files = files(&disk);
    let mut appender = Appender::after(Arc::clone(&files), limits(), 0).unwrap();
    append(&mut appender, &[b"one", b"two"]);
    let before = disk.now();
    append(&mut appender, &[b"lost", b"lost, too", b"and this"]);
    // It is taken for one whose sync failed: the next writer goes on after the second frame.
    assert!(disk.now() > before);
    let mut appender = Appender::after(Arc::clone(&files), limits(), 2).unwrap();
    append(&mut appender, &[b"three"]);
    let (found, tail) = read(&disk, Position::default()).unwrap();
    assert_eq!(found, [&b"one"[..], b"two", b"three"]);
    assert_eq!((tail.end.seq, tail.end.end.segment), (3, 2));
}
