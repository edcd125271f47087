//! Segments: sealed by SIGHUP or by another hand's rename, and counted with the log ever after.

use std::io::Write;

use super::*;

/// The events of all segments and of the log, by name of file.
fn union(rig: &Rig) -> Vec<u64> {
    let paths = segments::beside(&FileSystem, &rig.log()).unwrap();
    paths.iter().chain([&rig.log()]).flat_map(|path| numbers(&fs::read(path).unwrap())).collect()
}

/// The names of what this service sealed.
fn sealed(rig: &Rig) -> Vec<String> {
    rig.names().into_iter().filter(|name| name.starts_with("audit-")).collect()
}

pub(super) fn gzip(rig: &Rig, name: &str) {
    let bytes = fs::read(rig.path(name)).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&bytes).unwrap();
    fs::write(rig.path(&format!("{name}.gz")), encoder.finish().unwrap()).unwrap();
    fs::remove_file(rig.path(name)).unwrap();
}

#[test]
fn a_segment_is_sealed_and_its_events_are_known_ever_after() {
    let rig = Rig::new();
    let mut journal = rig.open();
    journal.rotate().unwrap();
    assert_eq!(rig.names(), ["audit.log", "dedup"], "an empty log is not sealed");
    for round in 0..3 {
        batch(&mut journal, &events(3 * round..3 * round + 3));
        journal.rotate().unwrap();
        assert_eq!(rig.bytes(), b"");
        // Repeats of what is in each segment.
        batch(&mut journal, &[(3 * round, 0, 90), (0, 0, 91)]);
        assert_eq!(rig.bytes(), b"");
    }
    assert_eq!((union(&rig), ids(&journal)), ((0..9).collect(), 9));
    drop(journal);

    // With the index, with none, with the log missing, and with some segments archived or compressed.
    let mut journal = rig.open();
    assert_eq!(ids(&journal), 9);
    batch(&mut journal, &[(4, 0, 92), (9, 0, 93)]);
    drop(journal);
    fs::remove_file(rig.index()).unwrap();
    let journal = rig.open();
    assert_eq!((ids(&journal), next(&journal, 0)), (10, Some(94)));
    drop(journal);
    let segments = sealed(&rig);
    assert_eq!(segments, [0, 3, 6].map(|first| format!("audit-{first:020}.log")));
    gzip(&rig, &segments[1]);
    fs::remove_file(rig.index()).unwrap();
    let journal = rig.open();
    assert_eq!((ids(&journal), next(&journal, 0)), (10, Some(94)), "from a compressed segment, too");
    drop(journal);
    for name in sealed(&rig) {
        fs::remove_file(rig.path(&name)).unwrap();
    }
    let journal = rig.open();
    assert_eq!(ids(&journal), 10, "the index needs no segment");
}

#[test]
fn a_log_is_sealed_at_its_limits_and_each_event_has_one_line_in_all_files_together() {
    let rig = Rig::new();
    let by_size = Limits { bytes: Some(600), age: None };
    let mut journal = rig.open().with_limits(by_size);
    for event in 0..12 {
        batch(&mut journal, &events(event..event + 1));
        journal.seal_if_due().unwrap();
        if event % 5 == 4 {
            drop(journal);
            journal = rig.open().with_limits(by_size);
        }
    }
    let line = rig.bytes().len().max(fs::read(rig.path(&sealed(&rig)[0])).unwrap().len());
    assert!(sealed(&rig).len() >= 3 && line >= 600, "{:?}", rig.names());
    assert_eq!((union(&rig), ids(&journal)), ((0..12).collect(), 12));
    let firsts: Vec<String> = sealed(&rig);
    let mut counted = 0;
    for name in &firsts {
        assert_eq!(*name, format!("audit-{counted:020}.log"));
        counted += numbers(&fs::read(rig.path(name)).unwrap()).len() as u64;
    }
    drop(journal);

    // By age, counted from the first line, whoever wrote it; also where nothing is written.
    let mut journal = rig.open();
    batch(&mut journal, &events(12..13));
    drop(journal);
    let old = String::from_utf8(rig.bytes()).unwrap();
    let (start, end) = old.split_once(r#""audited_at":""#).unwrap();
    fs::write(rig.log(), format!(r#"{start}"audited_at":"2020{}"#, &end[4..])).unwrap();
    let mut journal = rig.open().with_limits(Limits { bytes: None, age: Some(Duration::from_secs(3_600)) });
    let before = sealed(&rig).len();
    journal.seal_if_due().unwrap();
    assert_eq!((sealed(&rig).len(), rig.bytes().len()), (before + 1, 0));
    batch(&mut journal, &events(13..14));
    journal.seal_if_due().unwrap();
    assert_eq!((sealed(&rig).len(), rig.numbers(), ids(&journal)), (before + 1, vec![13], 14));
}

#[test]
fn a_segment_of_that_name_is_never_replaced() {
    for suffix in ["", ".gz"] {
        let rig = Rig::new();
        let mut journal = rig.open();
        batch(&mut journal, &events(0..3));
        let name = format!("audit-{:020}.log", 0);
        fs::write(rig.path(&name), b"somebody else's").unwrap();
        if suffix == ".gz" {
            gzip(&rig, &name);
        }
        let taken = rig.path(&format!("{name}{suffix}"));
        let before = fs::read(&taken).unwrap();
        journal.rotate().unwrap();
        assert_eq!(fs::read(&taken).unwrap(), before);
        let timed = rig.names().into_iter().find(|name| name.starts_with("audit.log.2")).unwrap();
        assert_eq!(numbers(&fs::read(rig.path(&timed)).unwrap()), [0, 1, 2]);
    }
}

#[test]
fn without_log_and_index_reading_goes_on_behind_the_newest_segment() {
    let rig = Rig::new();
    let mut journal = rig.open();
    for round in 0..12 {
        batch(&mut journal, &events(round..round + 1));
        // As logrotate names them: the newest is 1, and 10 sorts before 2.
        for number in (1..round + 1).rev() {
            fs::rename(
                rig.path(&format!("audit.log.{number}")),
                rig.path(&format!("audit.log.{}", number + 1)),
            )
            .unwrap();
        }
        fs::rename(rig.log(), rig.path("audit.log.1")).unwrap();
        journal.check().unwrap();
        // The next first line is of another microsecond.
        std::thread::yield_now();
    }
    drop(journal);
    fs::remove_file(rig.log()).unwrap();
    fs::remove_file(rig.index()).unwrap();
    let journal = rig.open();
    assert_eq!((ids(&journal), next(&journal, 0), rig.bytes().len()), (12, Some(12), 0));
}

#[test]
fn a_log_that_was_renamed_is_a_segment_whatever_its_new_name() {
    let hands: [(&str, Hand<'_>); 4] = [
        ("mv", &|rig| fs::rename(rig.log(), rig.path("audit.log.1")).unwrap()),
        ("mv, touch", &|rig| {
            fs::rename(rig.log(), rig.path("old")).unwrap();
            fs::write(rig.log(), b"").unwrap();
        }),
        ("ln, rm", &|rig| {
            fs::hard_link(rig.log(), rig.path("keep")).unwrap();
            fs::remove_file(rig.log()).unwrap();
        }),
        ("mv twice", &|rig| {
            fs::rename(rig.log(), rig.path("audit.log.1")).unwrap();
            fs::rename(rig.path("audit.log.1"), rig.path("audit.log.2")).unwrap();
        }),
    ];
    for (what, hand) in hands {
        let rig = Rig::new();
        let mut journal = rig.open();
        batch(&mut journal, &events(0..3));
        hand(&rig);
        batch(&mut journal, &[(1, 0, 3), (3, 0, 4), (4, 0, 5)]);
        assert_eq!((rig.numbers(), ids(&journal)), (vec![3, 4], 5), "{what}");
        // The SIGHUP that belongs to the rename seals nothing more.
        journal.rotate().unwrap();
        assert_eq!(rig.numbers(), [3, 4], "{what}");
        // The next one does.
        journal.rotate().unwrap();
        assert_eq!(rig.bytes(), b"", "{what}");
        drop(journal);
        let journal = rig.open();
        assert_eq!((ids(&journal), next(&journal, 0)), (5, Some(6)), "{what}");
    }
}

#[test]
fn a_log_that_was_rotated_while_the_service_was_stopped_goes_on() {
    for (name, indexed) in [("audit.log.1", BATCHES), ("audit.log-20261125", 2), ("audit.log.1.gz", BATCHES)]
    {
        let written = written(indexed);
        let rig = Rig::with(&written.log, Some(&written.index));
        fs::rename(rig.log(), rig.path(name.trim_end_matches(".gz"))).unwrap();
        if name.ends_with(".gz") {
            gzip(&rig, "audit.log.1");
        }
        let mut journal = rig.open();
        assert_eq!(ids(&journal), EVENTS, "{name}");
        // From a compressed one the index is made, but where reading goes on is not believed.
        let expected = if name.ends_with(".gz") { None } else { Some(EVENTS as i64) };
        assert_eq!(next(&journal, 0), expected, "{name}");
        replay(&mut journal, EVENTS + 2);
        assert_eq!(rig.numbers(), [EVENTS, EVENTS + 1], "{name}");
        drop(journal);
        assert_eq!(ids(&rig.open()), EVENTS + 2);
    }
}

#[test]
fn segments_that_are_newer_than_the_index_are_known() {
    // The index is that of before a kill, or of a backup: it names no line of the file, or one of a segment.
    for indexed in [0, 2] {
        for rotations in 1..4 {
            let rig = Rig::new();
            let mut journal = rig.open();
            batch(&mut journal, &events(0..indexed));
            drop(journal);
            let index = rig.copy_index();
            let mut end = indexed;
            for rotation in 0..rotations {
                let mut journal = rig.open();
                batch(&mut journal, &events(end..end + 3));
                end += 3;
                drop(journal);
                fs::rename(rig.log(), rig.path(&format!("audit.log.{}", 9 - rotation))).unwrap();
            }
            drop(rig.open());
            rig.put_index(&index);

            let mut journal = rig.open();
            assert_eq!((ids(&journal), next(&journal, 0)), (end, Some(end as i64)), "{indexed}, {rotations}");
            replay(&mut journal, end);
            batch(&mut journal, &events(end..end + 1));
            assert_eq!(rig.numbers(), [end], "{indexed}, {rotations}");
        }
    }
}

#[test]
fn what_is_no_file_is_no_segment() {
    let rig = Rig::new();
    let mut journal = rig.open();
    batch(&mut journal, &events(0..3));
    drop(journal);
    fs::remove_file(rig.index()).unwrap();
    fs::create_dir(rig.path("audit.log.1")).unwrap();
    // To open it would wait for ever.
    let pipe = std::process::Command::new("mkfifo").arg(rig.path("audit.log.2")).status().unwrap();
    assert!(pipe.success());
    assert_eq!(ids(&rig.open()), 3);
}

#[test]
fn copytruncate_doubles_nothing_where_the_copy_is_complete_and_loses_nothing_where_it_is_not() {
    for lost in [0, 1, 2] {
        let rig = Rig::new();
        let mut journal = rig.open();
        batch(&mut journal, &events(0..4));
        fs::copy(rig.log(), rig.path("audit.log.1")).unwrap();
        batch(&mut journal, &events(4..4 + lost));
        fs::OpenOptions::new().write(true).open(rig.log()).unwrap().set_len(0).unwrap();
        let after = events(4 + lost..8);
        match try_batch(&mut journal, &after) {
            Ok(()) => assert_eq!(lost, 0),
            Err(JournalError::Reread { .. }) => {
                assert!(lost > 0);
                let start = next(&journal, 0).unwrap_or(0) as u64;
                batch(&mut journal, &events(start..8));
            }
            Err(error) => panic!("{error}"),
        }
        assert_eq!(union(&rig), (0..8).collect::<Vec<_>>(), "{lost} lost");
    }
}

#[test]
fn a_segment_that_cannot_be_read_is_named_where_it_is_needed() {
    let written = written(BATCHES);
    let rig = Rig::with(b"", None);
    fs::write(rig.path("audit.log.1"), &written.log).unwrap();
    gzip(&rig, "audit.log.1");
    let whole = fs::read(rig.path("audit.log.1.gz")).unwrap();
    fs::write(rig.path("audit.log.1.gz"), &whole[..whole.len() / 2]).unwrap();
    let refused = rig.try_open().unwrap_err().to_string();
    assert!(refused.contains("audit.log.1.gz") && !refused.contains('\n'), "{refused}");
    fs::write(rig.path("audit.log.1.gz"), whole).unwrap();
    assert_eq!(ids(&rig.open()), EVENTS);
}

#[test]
fn a_log_that_another_process_took_under_the_name_is_not_written() {
    let rig = Rig::new();
    let mut journal = rig.open();
    batch(&mut journal, &events(0..3));
    fs::rename(rig.log(), rig.path("audit.log.1")).unwrap();
    let other = Journal::open(FileSystem, &rig.log(), &rig.path("other-index")).unwrap();
    let refused = try_batch(&mut journal, &events(3..6)).unwrap_err().to_string();
    assert!(refused.contains("in use by another process"), "{refused}");
    drop(other);
    batch(&mut journal, &events(3..6));
    assert_eq!(union(&rig), (0..6).collect::<Vec<_>>());
}
