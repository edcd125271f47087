use super::*;
use proptest::prelude::*;

fn slot() -> Slot {
    Slot { group: "audit-service".to_owned(), topic: "task-events".to_owned(), partition: 0 }
}

#[test]
fn keys_are_those_of_the_contract() {
    assert_eq!(render_key(&Key::Claim(slot())), b"audit-service/task-events/0/claim");
    assert_eq!(render_key(&Key::Commit(slot(), 17)), b"audit-service/task-events/0/commit/17");
}

#[test]
fn a_record_reads_back_as_it_was_written() {
    let claim = Claim::new(Uuid::new_v4(), "host", 10_000);
    let value = serde_json::to_vec(&claim).unwrap();
    let Ok(OffsetsRecord::Claim(read_slot, Some(read))) =
        parse(Some(&render_key(&Key::Claim(slot()))), Some(&value))
    else {
        panic!("not a claim");
    };
    assert_eq!((read_slot, read.claim_id, read.lease_ms), (slot(), claim.claim_id, 10_000));
    assert_eq!(read.service, None, "an operator's claim fits every service");
    let position = Position { offset: 5, leader_epoch: Some(3), topic_id: Some(Uuid::new_v4()) };
    let commit = Commit::at(position, Uuid::new_v4(), true);
    let value = serde_json::to_vec(&commit).unwrap();
    let Ok(OffsetsRecord::Commit(_, 17, Some(read))) = parse(Some(b"g/t/0/commit/17"), Some(&value)) else {
        panic!("not a commit");
    };
    assert_eq!((read.position(), read.released), (position, true));
}

#[test]
fn records_of_older_versions_still_read() {
    let claim = br#"{"v":1,"claim_id":"7a4b6f2e-3a3b-4f4c-9d52-0d4d5f0f9d10","instance_id":"7a4b6f2e-3a3b-4f4c-9d52-0d4d5f0f9d11","host":"h","claimed_at":"2026-01-01T00:00:00Z","lease_ms":10}"#;
    let Ok(OffsetsRecord::Claim(_, Some(claim))) = parse(Some(b"g/t/0/claim"), Some(claim)) else {
        panic!("not a claim");
    };
    assert_eq!((claim.service.as_deref(), claim.lease_ms), (None, 10));
    let commit = br#"{"v":1,"offset":9,"instance_id":"7a4b6f2e-3a3b-4f4c-9d52-0d4d5f0f9d10","committed_at":"2026-01-01T00:00:00Z","released":false}"#;
    let Ok(OffsetsRecord::Commit(_, 1, Some(commit))) = parse(Some(b"g/t/0/commit/1"), Some(commit)) else {
        panic!("not a commit");
    };
    assert_eq!(commit.position(), Position::at(9));
}

#[test]
fn garbage_says_what_it_is() {
    for key in [
        "",
        "g",
        "g/t/0",
        "g/t/x/claim",
        "g/t/-1/claim",
        "g/t/0/claim/1",
        "g/t/0/commit",
        "g/t/0/commit/01",
        "/t/0/claim",
        "g/t/0/commit/1/2",
    ] {
        assert!(parse(Some(key.as_bytes()), None).is_err(), "{key}");
    }
    assert!(parse(None, None).is_err());
    assert!(parse(Some(b"g/t/0/claim"), Some(b"{}")).is_err());
    let future = br#"{"v":2,"offset":1,"instance_id":"7a4b6f2e-3a3b-4f4c-9d52-0d4d5f0f9d10","committed_at":"2026-01-01T00:00:00Z","released":false}"#;
    assert!(parse(Some(b"g/t/0/commit/1"), Some(future)).unwrap_err().contains("version is 2"));
    let forever = serde_json::to_vec(&Claim::new(Uuid::nil(), "h", u64::MAX)).unwrap();
    assert!(parse(Some(b"g/t/0/claim"), Some(&forever)).unwrap_err().contains("its lease is"));
}

proptest! {
    #[test]
    fn no_bytes_panic(key in proptest::collection::vec(any::<u8>(), 0..60), value in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(Some(&key), Some(&value));
    }
}
