//! The disk and its cuts: what must be among the states, and what must not.

use std::collections::BTreeSet;
use std::path::Path;

use task_events::disk::Disk;

use super::*;

const FILE: &str = "/folder/file";

/// All that the file may hold after a cut at that moment; `None` where it has no name.
fn left(disk: &SimDisk, at: usize) -> BTreeSet<Option<Vec<u8>>> {
    let mut left = BTreeSet::new();
    let all = disk.each_cut(1, |cut| {
        if cut.at == at {
            left.insert(cut.disk.read(Path::new(FILE)));
        }
        Ok(())
    });
    all.unwrap();
    left
}

#[test]
fn what_is_not_synced_may_be_there_in_any_part_and_what_is_synced_is_there() {
    let disk = SimDisk::new();
    let file = disk.file(Path::new(FILE));
    disk.sync_folder(Path::new(FILE)).unwrap();
    file.write(0, b"old").unwrap();
    StorageBackend::sync_data(&file).unwrap();
    file.write(0, b"new").unwrap();
    file.write(600, b"more").unwrap();
    let before = disk.now();
    StorageBackend::sync_data(&file).unwrap();

    let mut gap = vec![0; 604];
    gap[600..].copy_from_slice(b"more");
    let with = |start: &[u8]| Some([start, &gap[3..]].concat());
    let states = left(&disk, before);
    for state in [Some(b"old".to_vec()), Some(b"new".to_vec()), with(b"old"), with(b"new")] {
        assert!(states.contains(&state), "{states:?}");
    }
    let torn =
        |state: &Option<Vec<u8>>| state.as_ref().is_some_and(|bytes| bytes.len() > 600 && bytes.len() < 604);
    assert!(states.iter().any(torn), "{states:?}");
    let zeros =
        |state: &Option<Vec<u8>>| state.as_ref().is_some_and(|bytes| bytes.len() == 604 && bytes[601] == 0);
    assert!(states.iter().any(zeros), "{states:?}");
    assert_eq!(left(&disk, disk.now()), BTreeSet::from([with(b"new")]));
}

#[test]
fn a_name_is_there_for_sure_once_its_folder_was_synced() {
    let disk = SimDisk::new();
    let file = disk.file(Path::new(FILE));
    file.write(0, b"x").unwrap();
    StorageBackend::sync_data(&file).unwrap();
    let synced = disk.now();
    disk.sync_folder(Path::new(FILE)).unwrap();
    assert_eq!(left(&disk, synced), BTreeSet::from([None, Some(b"x".to_vec())]));
    assert_eq!(left(&disk, disk.now()), BTreeSet::from([Some(b"x".to_vec())]));
}

#[test]
fn a_disk_that_lies_keeps_nothing_for_sure() {
    let disk = SimDisk::that_lies_about("file");
    let file = disk.file(Path::new(FILE));
    disk.sync_folder(Path::new(FILE)).unwrap();
    file.write(0, b"x").unwrap();
    StorageBackend::sync_data(&file).unwrap();
    assert!(left(&disk, disk.now()).contains(&Some(Vec::new())));
}

#[test]
fn what_is_found_says_where_and_keeps_the_files() {
    let disk = SimDisk::new();
    disk.file(Path::new(FILE)).write(0, b"x").unwrap();
    let check = |cut: &Cut| match cut.disk.read(Path::new(FILE)) {
        Some(bytes) if !bytes.is_empty() => Err("it is there".to_owned()),
        _ => Ok(()),
    };
    let found = disk.each_cut(7, check).unwrap_err();
    let text = found.to_string();
    assert!(text.starts_with("it is there\n") && text.contains("(seed 7)"), "{text}");
    let folder = std::env::temp_dir().join(format!("powercut-test-{}", std::process::id()));
    found.keep(&folder).unwrap();
    assert_eq!(std::fs::read(folder.join("file")).unwrap(), b"x");
    std::fs::remove_dir_all(folder).unwrap();
}

/// One byte in a file; perhaps it is written once more when that is opened, after the file was emptied.
struct Byte {
    safe: usize,
    is_rewritten: bool,
}

impl Subject for Byte {
    type Opened = SimFile;
    const CUT_TWICE: Option<usize> = Some(1);
    const MAY_PANIC: bool = true;

    fn open(&self, disk: &SimDisk) -> Result<SimFile, String> {
        let file = disk.file(Path::new(FILE));
        if self.is_rewritten && file.read_at(&mut [0], 0) == 1 {
            file.set_len(0).unwrap();
            file.write(0, b"x").unwrap();
        }
        Ok(file)
    }

    fn check(&self, file: SimFile, cut: &Cut) -> Result<(), String> {
        let mut byte = [0];
        let is_there = file.read_at(&mut byte, 0) == 1;
        assert!(byte[0] == 0 || byte[0] == b'x', "{byte:?}");
        if cut.at >= self.safe && cut.left.read(Path::new(FILE)).as_deref() != Some(b"x") {
            return Err("the first cut has another moment, or what it left was written to".to_owned());
        }
        if is_there || cut.at < self.safe { Ok(()) } else { Err("it is lost".to_owned()) }
    }
}

fn written(is_rewritten: bool) -> (SimDisk, Byte) {
    let disk = SimDisk::new();
    let file = disk.file(Path::new(FILE));
    disk.sync_folder(Path::new(FILE)).unwrap();
    file.write(0, b"x").unwrap();
    StorageBackend::sync_data(&file).unwrap();
    let safe = disk.now();
    (disk, Byte { safe, is_rewritten })
}

#[test]
fn a_subject_that_keeps_its_promise_holds_also_after_kills() {
    let (disk, byte) = written(false);
    assert!(disk.cut_everywhere(&byte).states > 2);
    let mut moments = Vec::new();
    let tried = disk.kill_everywhere(2, |killed, moment| {
        moments.push(moment);
        killed.cut_everywhere(&Byte { safe: usize::MAX, is_rewritten: false })
    });
    assert_eq!(moments, [0, 2]);
    assert!(tried.states >= 2, "{tried}");
}

#[test]
fn one_that_loses_its_promise_while_it_is_opened_is_found_by_the_second_cut() {
    let (disk, byte) = written(true);
    let found = disk.cut_until_found(&byte);
    assert!(found.why.contains("it is lost") && found.why.contains("while it was opened again"), "{found}");
}

#[test]
fn a_panic_is_found_where_it_may_happen() {
    let (disk, byte) = written(false);
    disk.file(Path::new(FILE)).write(0, b"y").unwrap();
    let found = disk.cut_until_found(&byte);
    assert!(found.why.contains("it panicked: [121]"), "{found}");
}

#[test]
#[should_panic(expected = "the planted bug is in none of")]
fn a_planted_bug_that_is_not_found_fails_the_test() {
    let (disk, byte) = written(false);
    disk.cut_until_found(&byte);
}
