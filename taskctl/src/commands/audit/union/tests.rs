use super::*;

fn line(id: u128, partition: i32, offset: i64) -> String {
    format!(
        "{{\"event_id\":\"{}\",\"event_type\":\"task.created\",\"occurred_at\":\"t\",\"data\":{{}},\"metadata\":{{}},\"audited_at\":\"t\",\"kafka\":{{\"topic\":\"e\",\"partition\":{partition},\"offset\":{offset}}}}}\n",
        Uuid::from_u128(id)
    )
}

/// Lines of partition 0, whose ids are their offsets.
fn lines(offsets: impl IntoIterator<Item = i64>) -> String {
    offsets.into_iter().map(|offset| line(u128::try_from(offset).unwrap(), 0, offset)).collect()
}

fn report(logs: &[String]) -> Report {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = (0..logs.len()).map(|number| folder.path().join(number.to_string())).collect();
    paths.iter().zip(logs).for_each(|(path, log)| std::fs::write(path, log).unwrap());
    verify(&paths, SHOWN).map_err(|(_, error)| error).unwrap()
}

#[test]
fn what_was_in_flight_at_a_change_of_owner_is_in_two_logs_and_not_wrong() {
    let found = report(&[lines((0..52).chain(90..100)), lines(50..90)]);
    assert_eq!((found.lines, found.in_several, found.wrong(false)), (102, 2, 0), "{found:?}");
    let [overlap] = found.overlaps.as_slice() else { panic!("{found:?}") };
    assert_eq!((overlap.first_offset, overlap.last_offset, overlap.lines), (50, 51, 2));
    assert!(overlap.is_hand_over);
    let [covered] = found.partitions.as_slice() else { panic!("{found:?}") };
    assert_eq!((covered.events, covered.first_offset, covered.last_offset), (100, 0, 99));
    assert!(found.missing.is_empty(), "{found:?}");
    assert!(text(&found).contains("in flight when the partition changed hands"), "{}", text(&found));
}

#[test]
fn an_overlap_that_no_change_of_owner_explains_is_wrong_unless_it_is_allowed() {
    let copy = report(&[lines(0..5_000), lines(0..5_000)]);
    assert_eq!(
        (copy.wrong(false), copy.wrong(true), copy.overlaps.len()),
        (5_000, 0, 1),
        "a copy, or an idle instance that read all again"
    );
    assert!(text(&copy).contains("--allow-overlap"), "{}", text(&copy));
    let middle = report(&[lines(0..90), lines((0..1).chain(20..40).chain(95..96))]);
    assert_eq!((middle.in_several, middle.overlaps.len()), (21, 2), "{middle:?}");
    let replica = report(&[lines(0..90), lines(5..60), lines(20..80)]);
    assert!(replica.wrong(false) > 0, "{replica:?}");
}

#[test]
fn an_event_that_kafka_has_twice_around_a_change_of_owner_is_not_wrong() {
    let found = report(&[lines(0..10), [line(9, 0, 10), lines(11..20)].concat()]);
    assert_eq!((found.published_twice, found.wrong(false)), (1, 0), "{found:?}");
    let found = report(&[lines(0..10), [lines(10..12), line(11, 0, 12)].concat()]);
    assert_eq!((found.published_twice, found.repeated), (0, 1), "in one log: {found:?}");
    assert!(
        found.findings[0].contains("1:3 has event") && found.findings[0].contains("1:2 again"),
        "{found:?}"
    );
    let found = report(&[lines(0..10), line(9, 1, 0)]);
    assert_eq!((found.published_twice, found.repeated), (0, 1), "in another partition: {found:?}");
    assert!(found.findings[0].contains("0:10 again"), "it names both logs: {found:?}");
}

/// The recipe of docs/audit-log.md: one log had 51 to 99 and is lost, the group is moved back to 51, and whoever owns
/// the partition writes what its own log lacks.
#[test]
fn the_union_after_a_lost_log_was_replaced_is_right() {
    let before = lines((0..51).chain(100..200));
    let found = report(&[before.clone(), lines(200..210)]);
    let [hole] = found.missing.as_slice() else { panic!("{found:?}") };
    assert_eq!((hole.first_offset, hole.last_offset), (51, 99));
    assert!(text(&found).contains("offsets 51 to 99 are in no log"), "{}", text(&found));
    let found = report(&[[before, lines(51..100)].concat(), lines(200..210)]);
    assert_eq!((found.filled, found.restarts, found.wrong(false)), (49, 0, 0), "{found:?}");
    assert!(found.missing.is_empty(), "{found:?}");
    let found = report(&[lines((100..200).chain(51..100)), lines(0..51)]);
    assert_eq!((found.filled, found.restarts, found.wrong(false)), (49, 0, 0), "{found:?}");
}

#[test]
fn what_is_damaged_is_named_with_its_log() {
    let found = report(&[lines(0..3), format!("{}{{}}\n", lines(3..5))]);
    assert_eq!((found.damaged, found.wrong(true)), (1, 1));
    assert!(found.findings[0].contains("1:3 is not an event"), "{found:?}");
}

#[test]
fn one_file_given_twice_is_found_by_whatever_name() {
    let folder = tempfile::tempdir().unwrap();
    let [log, link, other] = ["log", "link", "other"].map(|name| folder.path().join(name));
    std::fs::write(&log, "").unwrap();
    std::fs::write(&other, "").unwrap();
    std::os::unix::fs::symlink(&log, &link).unwrap();
    assert!(same_file(&[log.clone(), other.clone()]).is_none());
    assert!(same_file(&[log.clone(), other, link]).unwrap().contains("are the same file"));
    assert!(same_file(&[log.clone(), log]).is_some());
}
