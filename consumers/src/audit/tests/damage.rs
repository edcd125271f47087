//! Logs that no crash leaves: refused with the place and the reason, and left as they are.

use super::*;

/// A change of a line.
type Change<'a> = &'a dyn Fn(&mut Vec<u8>);

fn refused(rig: &Rig) -> String {
    let before = rig.bytes();
    let refused = rig.try_open().unwrap_err().to_string();
    assert!(!refused.contains('\n'), "{refused}");
    assert_eq!((rig.bytes(), rig.torn().len()), (before, 0), "nothing is changed: {refused}");
    refused
}

/// The bytes of the log by lines.
fn lines(log: &[u8]) -> Vec<Vec<u8>> {
    log.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

/// With the index of then, with one that covers nothing, and without one. An index that names a line which is
/// where it was keeps the start from reading what is before.
fn each_index(written: &Written, log: &[u8]) -> Vec<Rig> {
    let mut rigs = vec![Rig::with(log, None)];
    if !log.contains(&0) {
        // Behind what the index covers zeros may be a torn write.
        rigs.push(Rig::with(log, Some(&self::written(0).index)));
    }
    if log.len() != written.log.len() {
        rigs.push(Rig::with(log, Some(&written.index)));
    }
    rigs
}

#[test]
fn damage_in_the_middle_is_named_and_never_taken_for_a_torn_line() {
    let written = written(BATCHES);
    let damages: [(&str, Change<'_>); 7] = [
        ("not an event", &|line| line[3..9].fill(b'#')),
        ("zero bytes", &|line| line[40..60].fill(0)),
        ("the line is empty", &|line| line.splice(.., *b"\n").for_each(drop)),
        ("start of the line is missing", &|line| line.drain(..20).for_each(drop)),
        ("CR LF", &|line| line.insert(line.len() - 1, b'\r')),
        ("not an event", &|line| line.splice(.., *b"-- a note --\n").for_each(drop)),
        ("not an event", &|line| line.truncate(line.len() / 2)),
    ];
    for (why, damage) in damages {
        let mut lines = lines(&written.log);
        damage(&mut lines[2]);
        let at = lines[0].len() + lines[1].len();
        for rig in each_index(&written, &lines.concat()) {
            // And again, when the index holds what was read before the damage.
            for _ in 0..2 {
                let line = refused(&rig);
                assert!(line.contains(&format!("damaged at line 3, byte {at}: ")), "{line}");
                assert!(line.contains(why), "{line}");
            }
        }
    }
}

#[test]
fn a_log_of_another_form_is_refused_at_its_first_line() {
    let written = written(BATCHES);
    let crlf =
        lines(&written.log).iter().flat_map(|line| [&line[..line.len() - 1], b"\r\n"].concat()).collect();
    let forms: [(&str, Vec<u8>); 5] = [
        ("byte order mark", [b"\xef\xbb\xbf", written.log.as_slice()].concat()),
        ("CR LF", crlf),
        ("start of the line is missing", written.log[30..].to_vec()),
        ("zero bytes", [&[0; 700], written.log.as_slice()].concat()),
        ("gzip", [b"\x1f\x8b\x08\0\0\0\0\0\n", written.log.as_slice()].concat()),
    ];
    for (why, log) in forms {
        for rig in each_index(&written, &log) {
            let line = refused(&rig);
            assert!(line.contains("damaged at line 1, byte 0: ") && line.contains(why), "{line}");
        }
    }
}

#[test]
fn a_line_that_was_moved_out_is_read_again_and_written() {
    let written = written(BATCHES);
    let mut damaged = lines(&written.log);
    damaged[2] = b"damage\n".to_vec();
    for rig in each_index(&written, &damaged.concat()) {
        refused(&rig);
        let mut mended = damaged.clone();
        mended.remove(2);
        fs::write(rig.log(), mended.concat()).unwrap();
        let mut journal = rig.open();
        assert!(next(&journal, 0).unwrap_or(0) <= 2, "from behind the last line before it");
        replay(&mut journal, EVENTS);
        let mut all = rig.numbers();
        assert_eq!(all.pop(), Some(2), "the missing one, at the end");
        assert_eq!(all, (0..EVENTS).filter(|number| *number != 2).collect::<Vec<_>>());
    }
}

#[test]
fn what_was_synced_is_no_torn_line() {
    let written = written(BATCHES);
    let mut log = written.log.clone();
    let at = log.len() - 5;
    log[at] = 0;
    // By the index, which names that line.
    let line = refused(&Rig::with(&log, Some(&written.index)));
    assert!(line.contains("line 18, ") && line.contains("1 zero bytes"), "{line}");

    // Far from the end, without an index.
    let whole = &written.log[..written.last_batch];
    let mut log = [&[0; 10], b"\n".as_slice()].concat();
    while (log.len() as u64) < super::file::MAX_UNSYNCED + 100_000 {
        log.extend_from_slice(whole);
    }
    let line = refused(&Rig::with(&log, None));
    assert!(line.contains("line 1, byte 0: "), "{line}");
}

#[test]
fn ids_that_are_twice_in_a_foreign_log_do_not_rebuild_the_index_each_time() {
    let written = written(BATCHES);
    let rig = Rig::with(&written.log.repeat(2), None);
    let mut journal = rig.open();
    assert_eq!(ids(&journal), EVENTS);
    batch(&mut journal, &events(EVENTS..EVENTS + 1));
    assert_eq!(ids(&journal), EVENTS + 1);
    drop(journal);
    assert_eq!(ids(&rig.open()), EVENTS + 1);
}

#[test]
fn lines_out_of_order_and_of_another_topic_are_kept_and_nothing_is_skipped() {
    let written = written(BATCHES);
    let mut lines = lines(&written.log);
    lines.swap(4, 17);
    let other =
        String::from_utf8(line((99, 0, 5), 0).all().bytes().to_vec()).unwrap().replace(TOPIC, "other-topic");
    lines.push(other.into_bytes());
    for rig in each_index(&written, &lines.concat()) {
        let mut journal = rig.open();
        replay(&mut journal, EVENTS + 2);
        let mut all = rig.numbers();
        all.sort_unstable();
        assert_eq!(all, (0..EVENTS + 2).chain([99]).collect::<Vec<_>>());
    }
}

#[test]
fn a_damaged_segment_is_named_and_not_left_out_where_the_index_is_lost() {
    let written = written(BATCHES);
    let (first, second) = written.log.split_at(written.last_batch);
    let damages: [(&str, u64, Change<'_>); 5] = [
        ("not an event", 1, &|lines| lines[3..9].fill(b'#')),
        ("zero bytes", 1, &|lines| lines[3..9].fill(0)),
        ("not an event", 2, &|lines| {
            let at = lines.iter().position(|byte| *byte == b'\n').unwrap();
            lines[at + 3..at + 9].fill(b'#');
        }),
        ("start of the line is missing", 1, &|lines| lines.drain(..20).for_each(drop)),
        // No line is left in it.
        ("not an event", 1, &|lines| lines.splice(.., *b"a note\n").for_each(drop)),
    ];
    for (why, number, damage) in damages {
        for is_compressed in [false, true] {
            let rig = Rig::with(b"", None);
            fs::write(rig.path("audit.log.2"), first).unwrap();
            let mut damaged = second.to_vec();
            damage(&mut damaged);
            fs::write(rig.path("audit.log.1"), &damaged).unwrap();
            if is_compressed {
                super::rotation::gzip(&rig, "audit.log.1");
            }
            // And again, when the index holds what was read before.
            for _ in 0..3 {
                let line = rig.try_open().unwrap_err().to_string();
                assert!(line.contains("audit.log.1") && line.contains(why), "{line}");
                assert!(line.contains(&format!("damaged at line {number}, byte ")), "{line}");
            }
            // Mended, no line is written again; the event that was moved out is.
            fs::remove_file(rig.path(if is_compressed { "audit.log.1.gz" } else { "audit.log.1" })).unwrap();
            let mut mended = lines(second);
            mended.remove(number as usize - 1);
            fs::write(rig.path("audit.log.1"), mended.concat()).unwrap();
            let mut journal = rig.open();
            replay(&mut journal, EVENTS);
            assert_eq!((rig.numbers(), ids(&journal)), (vec![EVENTS - 4 + number], EVENTS), "{why}");
        }
    }
}

#[test]
fn a_segment_that_ends_torn_is_taken_up_to_there() {
    let written = written(BATCHES);
    let rig = Rig::with(b"", None);
    fs::write(rig.path("audit.log.1"), &written.log[..written.log.len() - 9]).unwrap();
    let mut journal = rig.open();
    replay(&mut journal, EVENTS);
    assert_eq!((rig.numbers(), ids(&journal)), (vec![EVENTS - 1], EVENTS));
    // Nothing but a torn line.
    let rig = Rig::with(b"", None);
    fs::write(rig.path("audit.log.1"), &written.log[..40]).unwrap();
    let mut journal = rig.open();
    replay(&mut journal, EVENTS);
    assert_eq!(ids(&journal), EVENTS);
}
