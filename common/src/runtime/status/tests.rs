use super::super::trouble::Trouble;
use super::*;

#[test]
fn a_problem_is_shown_until_there_was_calm_for_a_moment() {
    let status = Status::default();
    assert!(!status.is_ready(), "starting");
    status.started();
    status.set_role(0, Role::Active { token: 1 });
    assert!(status.is_ready());
    let mut trouble = Trouble::new(&status, 0, "commit");
    for _ in 0..20 {
        trouble.report("cannot commit");
        assert!(!status.is_ready());
        trouble.over("commits again");
        assert!(!status.is_ready(), "readiness does not flap");
    }
    let inner = status.lock();
    let problems = &inner.partitions[&0].problems;
    assert_eq!(current(problems, Instant::now() + CALM), None);
}

#[test]
fn a_blocked_partition_keeps_what_is_known_of_it() {
    let status = Status::default();
    status.started();
    status.set_role(0, Role::Active { token: 1 });
    status.set_position(0, 7);
    status.set_log_end(0, 10);
    let mut trouble = Trouble::new(&status, 0, "flush");
    trouble.report("the disk hangs");
    let report = status.report().partitions.remove(&0).unwrap();
    assert_eq!(report.state, PartitionState::Blocked { why: "the disk hangs".to_owned() });
    assert_eq!(report.lag(), Some(3));
}

#[test]
fn lag_in_seconds_is_that_of_the_first_event_that_waits() {
    let status = Status::default();
    let lag_after = |seconds| {
        let later = Instant::now() + Duration::from_secs(seconds);
        status.lock().partitions[&0].lag_seconds(later)
    };
    let is_about = |lag: Option<f64>, expected: f64| lag.is_some_and(|lag| (lag - expected).abs() < 60.0);
    status.set_role(0, Role::Active { token: 1 });
    status.set_position(0, 7);
    assert_eq!(lag_after(0), None, "where the log ends is not known yet");
    status.set_log_end(0, 7);
    assert_eq!(lag_after(3_600), Some(0.0), "idle");
    status.set_log_end(0, 9);
    assert!(is_about(lag_after(600), 600.0));
    // A record that was there before this process.
    let hour_ago = Utc::now().timestamp_millis() - 3_600_000;
    status.set_in_flight(0, 7, hour_ago);
    assert!(is_about(lag_after(0), 3_600.0));
    status.set_position(0, 9);
    assert_eq!(lag_after(600), Some(0.0));
}
