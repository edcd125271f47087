//! Files of a log: their first lines, names, ends and compression.

use super::*;

fn three_segments() -> (Rig, Vec<String>) {
    let rig = Rig::of(LINES);
    let names: Vec<String> = [0, 500, 1_000].map(|first| format!("audit-{first:020}.log")).into();
    for (name, number) in names.iter().zip(0..) {
        rig.put(name, &rig.lines[500 * number..500 * (number + 1)]);
    }
    rig.put("audit.log", &rig.lines[1_500..]);
    (rig, names)
}

#[test]
fn a_first_line_that_was_changed_is_named_and_moves_no_file() {
    type Change = fn(&str) -> String;
    let year: Change = |line| line.replace("2026", "2096");
    let none: Change = |_| "no json".to_owned();
    let empty: Change = |_| String::new();
    let windows: Change = |line| format!("{line}\r");
    let changes: [(&str, Change); 4] =
        [("another year", year), ("no JSON", none), ("empty", empty), ("CRLF", windows)];
    for (what, change) in changes {
        for (file, first) in [(0, 0), (1, 500), (2, 1_000)] {
            let (rig, names) = three_segments();
            let mut lines = rig.lines[first..first + 500].to_vec();
            lines[0] = change(&lines[0]);
            rig.put(&names[file], &lines);
            let line =
                format!("{}:1 (byte 0) is not what entry {first} was: the line was changed", names[file]);
            assert_found(&rig.found(), &[&line], what);
        }
    }
}

#[test]
fn a_segment_under_another_name_is_found_and_one_that_is_missing_is_named() {
    let (rig, names) = three_segments();
    fs::rename(rig.path(&names[0]), rig.path("audit.log.7")).unwrap();
    assert_found(&rig.found(), &[], "renamed");
    fs::remove_file(rig.path(&names[1])).unwrap();
    let missing = format!("entries 500 to 999 are in no file before {}", names[2]);
    assert_found(&rig.found(), &[&missing], "in the middle");
    fs::remove_file(rig.path("audit.log.7")).unwrap();
    let missing = format!("entries 0 to 999 are in no file before {}", names[2]);
    assert_found(&rig.found(), &[&missing], "at the beginning");
    fs::remove_file(rig.path(&names[2])).unwrap();
    assert_found(&rig.found(), &["entries 0 to 1499 are in no file before audit.log"], "all");
}

#[test]
fn lines_moved_between_files_and_a_segment_in_the_place_of_the_log_are_named() {
    let (rig, names) = three_segments();
    let mut first = rig.lines[..500].to_vec();
    let mut second = rig.lines[500..1_000].to_vec();
    std::mem::swap(&mut first[3], &mut second[7]);
    rig.put(&names[0], &first);
    rig.put(&names[1], &second);
    let found = rig.found();
    assert!(found.iter().any(|line| line.contains("is entry 507")), "{found:#?}");
    assert!(found.iter().any(|line| line.contains("is entry 3,")), "{found:#?}");
    let (rig, names) = three_segments();
    fs::rename(rig.path("audit.log"), rig.path("audit.log.9")).unwrap();
    fs::rename(rig.path(&names[0]), rig.path("audit.log")).unwrap();
    let moved = "audit.log:1 (byte 0) and 499 lines behind it are entries 0 to 499, out of place";
    assert_found(&rig.found(), &[moved], "the log's place");
}

#[test]
fn ends_of_lines_and_of_files_are_part_of_what_is_compared() {
    let rig = Rig::new();
    let windows: Vec<String> = rig.lines.iter().map(|line| format!("{line}\r")).collect();
    rig.put("audit.log", &windows);
    let all = "audit.log:1 (byte 0) and 1999 lines behind it are not what entries 0 to 1999 were";
    assert_found(&rig.found(), &[all], "CRLF");
    let rig = Rig::with_segment();
    let text = fs::read_to_string(rig.path(&segment())).unwrap();
    fs::write(rig.path(&segment()), text.trim_end()).unwrap();
    // The line is what it was; that its end is missing is found where lines are read as events.
    assert_found(&rig.found(), &[], "no end of the last line");
    fs::write(rig.path(&segment()), &text[..text.len() - 10]).unwrap();
    let cut = format!("{}:700 (byte .. is not what entry 699 was", segment());
    assert_found(&rig.found(), &[&cut], "cut");
}

#[test]
fn entries_of_a_compressed_segment_that_is_damaged_are_named_and_all_others_verified() {
    let (rig, names) = three_segments();
    let text = fs::read(rig.path(&names[1])).unwrap();
    fs::remove_file(rig.path(&names[1])).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &text).unwrap();
    let bytes = gzip.finish().unwrap();
    let mut last = rig.lines[1_500..].to_vec();
    last[9].push(' ');
    rig.put("audit.log", &last);
    let gzip = format!("{}.gz", names[1]);
    let changed = "audit.log:10 (byte .. is not what entry 1509 was";
    fs::write(rig.path(&gzip), &bytes[..bytes.len() * 2 / 3]).unwrap();
    let lost = format!("to 999 are in no line that can be read: {gzip} is damaged");
    assert_found(&rig.found(), &[&lost, changed], "cut");
    fs::write(rig.path(&gzip), [&bytes[..], b"junk"].concat()).unwrap();
    assert_found(&rig.found(), &[changed], "junk behind it");
    fs::write(rig.path(&gzip), "no gzip").unwrap();
    assert_found(&rig.found(), &[&format!("entries 500 {lost}"), changed], "all of it");
}
