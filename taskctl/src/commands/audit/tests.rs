use super::*;

fn line(id: u128, offset: i64) -> String {
    format!(
        "{{\"event_id\":\"{}\",\"event_type\":\"task.created\",\"occurred_at\":\"t\",\"data\":{{}},\"metadata\":{{}},\"audited_at\":\"t\",\"kafka\":{{\"topic\":\"e\",\"partition\":0,\"offset\":{offset}}}}}\n",
        Uuid::from_u128(id)
    )
}

fn reports(logs: &[String]) -> Report {
    let folder = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for (number, log) in logs.iter().enumerate() {
        paths.push(folder.path().join(number.to_string()));
        std::fs::write(&paths[number], log).unwrap();
    }
    verify(&paths).map_err(|(_, error)| error).unwrap()
}

fn report(log: &str) -> Report {
    reports(&[log.to_owned()])
}

#[test]
fn a_whole_log_is_whole() {
    let found = report(&[line(1, 0), line(2, 1), line(3, 7)].concat());
    assert_eq!((found.lines, found.damaged, found.repeated, found.out_of_order), (3, 0, 0, 0));
    assert_eq!((found.partitions[0].first_offset, found.partitions[0].last_offset), (0, 7));
    assert_eq!(report("").lines, 0);
}

#[test]
fn what_is_wrong_is_found_with_its_line() {
    let torn = line(4, 9);
    let log = [line(1, 0), line(1, 2), line(2, 1), "{}\n".to_owned(), torn[..20].to_owned()].concat();
    let found = report(&log);
    assert_eq!((found.damaged, found.repeated, found.out_of_order, found.restarts), (2, 1, 1, 0));
    assert!(found.findings[0].starts_with("line 2 has event"), "{:?}", found.findings);
    assert!(found.findings[1].starts_with("line 3 has offset 1"), "{:?}", found.findings);
    assert!(found.findings[3].contains("has no end"), "{:?}", found.findings);
}

#[test]
fn a_topic_that_was_recreated_starts_again_and_is_in_order_from_there() {
    // Shorter, longer, and where its start is by then. A hole that is filled behind it is no restart.
    for (before, again) in [([0, 1, 5], [0, 3, 9]), ([7, 8, 9], [2, 3, 8]), ([7, 8, 9], [8, 9, 11])] {
        let offsets = before.into_iter().chain(again);
        let log: String = (0..).zip(offsets).map(|(id, offset)| line(id, offset)).collect();
        let found = report(&log);
        assert_eq!((found.restarts, found.out_of_order), (1, 0), "{before:?} {again:?}: {found:?}");
        assert_eq!(found.partitions[0].last_offset, again[2]);
        let found = report(&[log, line(100, again[2] - 1)].concat());
        assert_eq!((found.restarts, found.out_of_order), (1, 1), "{found:?}");
    }
}

#[test]
fn logs_of_several_instances_are_checked_as_one() {
    let found = reports(&[
        [line(1, 0), line(2, 1), line(5, 4)].concat(),
        // In flight at the hand-over, and on from there.
        [line(2, 1), line(3, 2), line(4, 3)].concat(),
    ]);
    assert_eq!(
        (found.lines, found.in_several, found.repeated, found.out_of_order),
        (6, 1, 0, 0),
        "{found:?}"
    );
    assert_eq!((found.partitions[0].lines, found.partitions[0].last_offset), (5, 4));
    let [overlap] = found.overlaps.as_slice() else { panic!("{found:?}") };
    assert_eq!((overlap.first_offset, overlap.last_offset, overlap.lines), (1, 1, 1));
    assert!(text(&found).contains("1 of them in more than one log"), "{}", text(&found));

    let found = reports(&[line(1, 0), line(1, 7)]);
    assert_eq!((found.repeated, found.in_several), (1, 0), "an event with two offsets: {found:?}");
    let found = reports(&[[line(1, 0), line(1, 0)].concat(), line(1, 0)]);
    assert_eq!((found.repeated, found.in_several), (1, 1), "twice in one log, and in the other: {found:?}");
}
