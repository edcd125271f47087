//! Blocks of lines, of any length, and a line that is changed behind them.

use super::*;

/// Around the border of a tile, of what waits to be placed, and of what was once looked at.
const LENGTHS: [usize; 7] = [1, 2, 48, 64, 65, 256, 600];

/// What a block is named by.
fn lines_at(number: usize, length: usize) -> String {
    match length {
        1 => format!("audit.log:{number} (byte .. is"),
        _ => format!("audit.log:{number} (byte .. and {} lines behind it are", length - 1),
    }
}

fn entries(from: usize, length: usize) -> String {
    match length {
        1 => format!("entry {from}"),
        _ => format!("entries {from} to {}", from + length - 1),
    }
}

/// Does it to a log in which line 1,900 is changed too: both are named, and nothing else.
fn check(rig: &Rig, what: &str, length: usize, change: impl Fn(&mut Vec<String>), expected: &str) {
    let mut lines = rig.lines.clone();
    lines[1_900].push(' ');
    change(&mut lines);
    let changed = lines.iter().position(|line| line.ends_with(' ')).unwrap() + 1;
    rig.put("audit.log", &lines);
    let changed = format!("audit.log:{changed} (byte .. is not what entry 1900 was: the line was changed");
    let mut found = rig.found();
    found.sort_by_key(|line| line.contains("entry 1900"));
    assert_found(&found, &[expected, &changed], &format!("{length} lines {what}"));
}

#[test]
fn blocks_of_any_length_are_named_and_hide_nothing_behind_them() {
    let rig = Rig::new();
    for length in LENGTHS {
        let block = 500..500 + length;
        check(
            &rig,
            "deleted",
            length,
            |lines| drop(lines.drain(block.clone())),
            &format!("{} .. missing before audit.log:501 (byte ", entries(500, length)),
        );
        check(
            &rig,
            "inserted",
            length,
            |lines| drop(lines.splice(500..500, others(length))),
            &format!("{} no part of the tree: inserted", lines_at(501, length)),
        );
        check(
            &rig,
            "changed",
            length,
            |lines| drop(lines.splice(block.clone(), others(length))),
            &match length {
                1 => "audit.log:501 (byte .. is not what entry 500 was".to_owned(),
                _ => format!(
                    "audit.log:501 (byte .. and {} lines behind it are not what {} were",
                    length - 1,
                    entries(500, length)
                ),
            },
        );
        check(
            &rig,
            "copied",
            length,
            |lines| {
                let copy = lines[100..100 + length].to_vec();
                drop(lines.splice(1_200..1_200, copy));
            },
            &format!("{} {} again: copied", lines_at(1_201, length), entries(100, length)),
        );
        check(
            &rig,
            "moved towards the end",
            length,
            |lines| {
                let moved: Vec<String> = lines.drain(100..100 + length).collect();
                drop(lines.splice(1_200..1_200, moved));
            },
            &format!("{} {}, out of place", lines_at(1_201, length), entries(100, length)),
        );
        check(
            &rig,
            "moved towards the beginning",
            length,
            |lines| {
                let moved: Vec<String> = lines.drain(1_200..1_200 + length).collect();
                drop(lines.splice(100..100, moved));
            },
            &format!("{} {}, out of place", lines_at(101, length), entries(1_200, length)),
        );
    }
}

#[test]
fn lines_that_were_merged_or_swapped_and_a_log_that_was_cut_are_named() {
    let rig = Rig::new();
    let mut lines = rig.lines.clone();
    let second = lines.remove(21);
    lines[20].push_str(&second);
    lines.swap(40, 41);
    lines.truncate(1_500);
    rig.put("audit.log", &lines);
    let merged = "from audit.log:21 (byte .. on 1 lines are in the place of 2 entries from 20 on";
    let swapped = "audit.log:41 (byte .. is entry 42, out of place: lines were swapped";
    let found = rig.found();
    let cut = "entries 1501 to 1999 have no line at the end of the log";
    assert_found(&found, &[swapped, merged, cut], "merged, swapped and cut");
}

#[test]
fn any_two_changes_of_any_kind_are_both_named() {
    // Each case has its own seed, so that one that fails can be looked into.
    let rig = Rig::new();
    for seed in 1..40_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut below = |bound: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % bound as u64) as usize
        };
        let mut lines = rig.lines.clone();
        let mut expected = Vec::new();
        // From the end on, so that places before it stay what they are.
        for from in [1_100, 300] {
            let (at, length) = (from + below(300), 1 + below(250));
            let block = at..at + length;
            expected.push(match below(3) {
                0 => {
                    lines.drain(block);
                    entries(at, length)
                }
                1 => {
                    lines.splice(at..at, others(length));
                    "inserted".to_owned()
                }
                _ => {
                    lines.splice(block, others(length));
                    format!("not what {}", entries(at, length))
                }
            });
        }
        rig.put("audit.log", &lines);
        let found = rig.found();
        assert_eq!(found.len(), 2, "{seed}: {found:#?}");
        for expected in expected {
            assert!(found.iter().any(|found| found.contains(&expected)), "{seed}: {expected}: {found:#?}");
        }
    }
}

#[test]
fn a_log_in_no_order_at_all_is_found_out_in_bounded_memory() {
    let rig = Rig::new();
    let lines: Vec<String> = (0..LINES).map(|number| line(number * 7 % LINES)).rev().collect();
    rig.put("audit.log", &lines);
    let files = files(&rig.path("audit.log")).unwrap();
    let mut findings = Findings::new(usize::MAX);
    let limits = Limits { runs: 500, ..Limits::default() };
    diagnose_within(&files, rig.folder.path(), &rig.checkpoint, &[], &mut findings, limits).unwrap();
    let lines = findings.into_lines();
    assert!(lines.iter().any(|line| line.contains(" places: nothing from audit.log:")), "{lines:#?}");
}
