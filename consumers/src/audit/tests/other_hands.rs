//! What other hands do to the log while the service runs: noticed before anything more is acknowledged.

use super::*;

/// An open log with 6 events, durably in its index.
fn running() -> (Rig, Journal<FileSystem>) {
    let rig = Rig::new();
    let mut journal = rig.open();
    batch(&mut journal, &events(0..3));
    batch(&mut journal, &events(3..6));
    (rig, journal)
}

/// The next batch is not acknowledged, because lines are gone. Returns where reading goes on.
fn rereads(journal: &mut Journal<FileSystem>, records: &[Record]) -> u64 {
    let error = try_batch(journal, records).unwrap_err();
    assert!(matches!(error, JournalError::Reread { .. }), "{error}");
    let line = error.to_string();
    assert!(line.contains("has lost lines") && !line.contains('\n'), "{line}");
    next(journal, 0).unwrap_or(0) as u64
}

fn all(journal: &Journal<FileSystem>, rig: &Rig, end: u64) {
    assert_eq!(rig.numbers(), (0..end).collect::<Vec<_>>());
    assert_eq!((ids(journal), next(journal, 0)), (end, Some(end as i64)));
}

#[test]
fn a_log_that_was_truncated_is_completed() {
    let line_ends = |rig: &Rig| -> Vec<u64> {
        let bytes = rig.bytes();
        bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at as u64 + 1).collect()
    };
    // To nothing, to two lines, to half a line, and by its last byte.
    for (kept, whole) in [(0, 0), (2, 2), (3, 2), (5, 5)] {
        let (rig, mut journal) = running();
        let ends = line_ends(&rig);
        let length = match (kept, whole) {
            (0, _) => 0,
            (3, _) => ends[2] - 40,
            (5, _) => ends[5] - 1,
            (kept, _) => ends[kept - 1],
        };
        fs::OpenOptions::new().write(true).open(rig.log()).unwrap().set_len(length).unwrap();
        let start = rereads(&mut journal, &events(6..9));
        assert_eq!(start, whole);
        batch(&mut journal, &events(start..9));
        all(&journal, &rig, 9);
        assert_eq!(rig.torn().len(), usize::from(kept == 3));
        drop(journal);
        all(&rig.open(), &rig, 9);
    }
}

#[test]
fn a_log_that_was_deleted_or_replaced_is_completed() {
    let backup = |rig: &Rig, lines: usize| {
        let bytes = rig.bytes();
        let kept: Vec<u8> =
            bytes.split_inclusive(|byte| *byte == b'\n').take(lines).flatten().copied().collect();
        fs::write(rig.path("backup"), kept).unwrap();
    };
    let hands: [(&str, u64, Hand<'_>); 6] = [
        ("rm", 0, &|rig| fs::remove_file(rig.log()).unwrap()),
        ("rm, touch", 0, &|rig| {
            fs::remove_file(rig.log()).unwrap();
            fs::write(rig.log(), b"").unwrap();
        }),
        ("mv backup audit.log", 4, &|rig| {
            backup(rig, 4);
            fs::rename(rig.path("backup"), rig.log()).unwrap();
        }),
        ("cp backup audit.log", 4, &|rig| {
            backup(rig, 4);
            fs::copy(rig.path("backup"), rig.log()).unwrap();
        }),
        ("mv audit.log audit.log.bad, mv backup audit.log", 4, &|rig| {
            backup(rig, 4);
            fs::rename(rig.log(), rig.path("audit.log.bad")).unwrap();
            fs::rename(rig.path("backup"), rig.log()).unwrap();
        }),
        ("the folder: rm -r, mkdir", 0, &|rig| {
            fs::remove_file(rig.log()).unwrap();
            fs::remove_file(rig.index()).unwrap_or(());
        }),
    ];
    for (what, whole, hand) in hands {
        let (rig, mut journal) = running();
        hand(&rig);
        let start = rereads(&mut journal, &events(6..9));
        assert_eq!(start, whole, "{what}");
        batch(&mut journal, &events(start..9));
        all(&journal, &rig, 9);
    }
}

#[test]
fn a_line_that_sed_removes_is_read_again() {
    let (rig, mut journal) = running();
    // sed -i writes another file, and gives it the name.
    let bytes = rig.bytes();
    let kept: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    fs::write(rig.path("sed"), [&kept[..2], &kept[3..]].concat().concat()).unwrap();
    fs::rename(rig.path("sed"), rig.log()).unwrap();
    assert_eq!(rereads(&mut journal, &events(6..9)), 2);
    batch(&mut journal, &events(2..9));
    assert_eq!(rig.numbers(), [0, 1, 3, 4, 5, 2, 6, 7, 8]);
}

#[test]
fn a_copy_in_its_place_and_another_name_or_mode_change_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let hands: [(&str, Hand<'_>); 4] = [
        ("cp, mv", &|rig| {
            fs::copy(rig.log(), rig.path("copy")).unwrap();
            fs::rename(rig.path("copy"), rig.log()).unwrap();
        }),
        ("ln", &|rig| fs::hard_link(rig.log(), rig.path("link")).unwrap()),
        ("chmod", &|rig| fs::set_permissions(rig.log(), fs::Permissions::from_mode(0o400)).unwrap()),
        ("touch", &|rig| {
            let file = fs::File::open(rig.log()).unwrap();
            file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        }),
    ];
    for (what, hand) in hands {
        let (rig, mut journal) = running();
        hand(&rig);
        batch(&mut journal, &events(6..9));
        all(&journal, &rig, 9);
        assert_eq!(rig.torn().len(), 0, "{what}");
    }
}

#[test]
fn lines_that_another_hand_appends_are_kept_and_anything_else_stops_the_log() {
    let (rig, mut journal) = running();
    let append = |bytes: &[u8]| {
        use std::io::Write;
        fs::OpenOptions::new().append(true).open(rig.log()).unwrap().write_all(bytes).unwrap();
    };
    append(line((6, 0, 6), 0).all().bytes());
    batch(&mut journal, &events(6..8));
    assert_eq!(rig.numbers(), (0..8).collect::<Vec<_>>());

    let length = rig.bytes().len() as u64;
    append(b"a note\n");
    let refused = try_batch(&mut journal, &events(8..10)).unwrap_err().to_string();
    assert!(refused.contains(&format!("damaged at line 9, byte {length}: ")), "{refused}");
    assert!(try_batch(&mut journal, &events(8..10)).is_err(), "it stays");
    fs::OpenOptions::new().write(true).open(rig.log()).unwrap().set_len(length).unwrap();
    batch(&mut journal, &events(8..10));
    assert_eq!(rig.numbers(), (0..10).collect::<Vec<_>>());
    assert_eq!(ids(&journal), 10);
}

#[test]
fn without_its_folder_nothing_is_acknowledged_until_it_is_back() {
    let rig = Rig::new();
    let folder = rig.path("logs");
    fs::create_dir(&folder).unwrap();
    let log = folder.join("audit.log");
    let mut journal = Journal::open(FileSystem, &log, &rig.index()).unwrap();
    batch(&mut journal, &events(0..3));
    fs::remove_dir_all(&folder).unwrap();
    for _ in 0..2 {
        let refused = try_batch(&mut journal, &events(3..6)).unwrap_err().to_string();
        assert!(refused.contains("cannot be opened") && refused.contains("audit.log"), "{refused}");
    }
    fs::create_dir(&folder).unwrap();
    assert!(matches!(try_batch(&mut journal, &events(3..6)), Err(JournalError::Reread { .. })));
    batch(&mut journal, &events(0..6));
    assert_eq!(numbers(&fs::read(log).unwrap()), (0..6).collect::<Vec<_>>());
}

#[test]
fn a_log_behind_a_symbolic_link_is_the_file_that_it_leads_to() {
    let rig = Rig::new();
    fs::create_dir(rig.path("disk")).unwrap();
    std::os::unix::fs::symlink(rig.path("disk/real.log"), rig.log()).unwrap();
    let mut journal = rig.open();
    batch(&mut journal, &events(0..3));
    journal.rotate().unwrap();
    batch(&mut journal, &events(3..6));
    assert!(fs::symlink_metadata(rig.log()).unwrap().is_symlink());
    let names: Vec<_> = fs::read_dir(rig.path("disk")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(names.len(), 2, "the segment is beside the file: {names:?}");
    assert_eq!(rig.numbers(), [3, 4, 5]);

    // Led to another file, the one before is a segment.
    std::os::unix::fs::symlink(rig.path("disk/other.log"), rig.path("new")).unwrap();
    fs::rename(rig.path("new"), rig.log()).unwrap();
    batch(&mut journal, &events(6..9));
    assert_eq!((rig.numbers(), ids(&journal)), (vec![6, 7, 8], 9));
}

#[test]
fn a_truncation_between_check_and_write_is_found_after_the_write() {
    let (rig, mut journal) = running();
    journal.check().unwrap();
    fs::OpenOptions::new().write(true).open(rig.log()).unwrap().set_len(0).unwrap();
    // The write itself, as if its check had come before the truncation.
    let lines: Vec<Pending> = events(6..9).into_iter().map(|record| line(record, 0)).collect();
    let error = journal.write(&NewLines::of(&parts(&lines), |_| true)).unwrap_err();
    assert!(matches!(error, JournalError::Reread { .. }), "{error}");
    assert_eq!(rig.bytes(), b"", "no hole of zeros is left");
    batch(&mut journal, &events(0..9));
    all(&journal, &rig, 9);
}

#[test]
fn a_deletion_between_check_and_write_is_found_after_the_write() {
    let (rig, mut journal) = running();
    fs::remove_file(rig.log()).unwrap();
    let lines: Vec<Pending> = events(6..9).into_iter().map(|record| line(record, 0)).collect();
    let error = journal.write(&NewLines::of(&parts(&lines), |_| true)).unwrap_err();
    assert!(matches!(error, JournalError::Reread { .. }), "{error}");
    batch(&mut journal, &events(0..9));
    all(&journal, &rig, 9);
}

/// While the service is stopped the same is found at its start.
#[test]
fn logs_and_state_folders_of_other_days_are_brought_together() {
    let older = written(2);
    let newest = written(BATCHES);
    let ends: Vec<usize> =
        newest.log.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
    for lines in 0..=EVENTS as usize {
        let log = &newest.log[..lines.checked_sub(1).map_or(0, |last| ends[last])];
        for index in [Some(&newest.index), Some(&older.index), None] {
            let rig = Rig::with(log, index);
            let mut journal = rig.open();
            assert_eq!((ids(&journal), next(&journal, 0).unwrap_or(0)), (lines as u64, lines as i64));
            assert_eq!(rig.bytes(), log);
            replay(&mut journal, EVENTS);
            all(&journal, &rig, EVENTS);
        }
    }
}
