//! Where offsets are reset to.

use task_events::offsets::{Claim, Commit};
use uuid::Uuid;

use super::moves::{moved, without_trees};
use super::*;
use task_events::kafka::Position;
use task_events::offsets::DoneBy;
use task_events::offsets::fold::Owner;
use tokio::time::Instant;

#[test]
fn a_target_is_a_word_an_offset_or_a_time() {
    assert_eq!(target("earliest"), Ok(Target::Earliest));
    assert_eq!(target("latest"), Ok(Target::Latest));
    assert_eq!(target("0"), Ok(Target::Offset(0)));
    assert_eq!(target("42"), Ok(Target::Offset(42)));
    let time = "2026-01-15T10:30:00Z".parse().unwrap();
    assert_eq!(target("2026-01-15T10:30:00Z"), Ok(Target::Time(time)));
    assert_eq!(target("2026-01-15T12:30:00.000+02:00"), Ok(Target::Time(time)));
    for wrong in ["", "soon", "-1", "1.5", "2026-01-15", "18446744073709551615", "1969-12-31T23:59:59Z"] {
        assert!(target(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn an_offset_out_of_range_is_refused_with_the_range() {
    let range = LogRange { start: 10, end: 20 };
    let to = |target, at_time| destination(&target, range, at_time);
    assert_eq!(to(Target::Earliest, None), Ok(10));
    assert_eq!(to(Target::Latest, None), Ok(20));
    assert_eq!(to(Target::Offset(10), None), Ok(10));
    assert_eq!(to(Target::Offset(20), None), Ok(20));
    for out in [9, 21] {
        assert!(to(Target::Offset(out), None).unwrap_err().contains("10 to 20"));
    }
    let time = Target::Time(Utc::now());
    assert_eq!(to(time.clone(), Some(15)), Ok(15));
    assert_eq!(to(time, Some(-1)), Ok(20), "later than every record");
}

#[test]
fn what_is_known_of_partitions_that_are_no_more_is_removed() {
    let slot = |topic: &str, partition| Slot { group: "g".to_owned(), topic: topic.to_owned(), partition };
    let report = || SlotReport { position: Some(7), owner: None, life: Life::Released };
    let slots = [slot("t", 0), slot("t", 1), slot("t", 2), slot("other", 5)];
    let known: BTreeMap<_, _> = slots.into_iter().map(|slot| (slot, report())).collect();
    let removed: Vec<_> = gone(&known, "t", 1).map(|each| (each.partition, each.from, each.to)).collect();
    assert_eq!(removed, [(1, Some(7), None), (2, Some(7), None)]);
    assert_eq!(gone(&known, "other", 0).count(), 1);
}

#[test]
fn only_partitions_that_exist_are_moved() {
    assert_eq!(partitions("t", 3, None).unwrap(), [0, 1, 2]);
    assert_eq!(partitions("t", 3, Some(2)).unwrap(), [2]);
    assert!(partitions("t", 3, Some(3)).is_err());
}

#[test]
fn a_group_is_live_unless_each_owner_released_or_fell_silent() {
    let group = |lives: &[Life]| {
        let slots = (0..).zip(lives).map(|(partition, life)| {
            let slot = Slot { group: "g".to_owned(), topic: "t".to_owned(), partition };
            let owner = Some(Owner { token: 1, claim: Claim::new(Uuid::nil(), "host", 1) });
            (slot, SlotReport { position: None, owner, life: *life })
        });
        alive(&slots.collect())
    };
    assert_eq!(group(&[]), None);
    assert_eq!(group(&[Life::Released, Life::Silent, Life::Unclaimed]), None);
    let active = Life::Active(Instant::now());
    assert_eq!(group(&[Life::Released, active]), Some("host/00000000 owns t/1".to_owned()));
    assert!(group(&[Life::Unknown]).is_some());
}

#[test]
fn a_move_keeps_the_lowest_position_and_whose_state_has_what() {
    let (one, other, operator) = (Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(99));
    let topic = Some(Uuid::from_u128(9));
    let mut done_by = DoneBy::default();
    done_by.set(one, 60);
    done_by.set(other, 100);
    let position = Position { topic_id: topic, ..Position::at(100) };
    let before = Commit::at(position, other, true).with_done_by(&done_by);
    let ahead = moved(Some(&before), 500, topic, operator, false);
    assert_eq!((ahead.offset, ahead.was_moved_from(), ahead.done_by()), (500, Some(100), done_by.clone()));
    let again = moved(Some(&ahead), 300, topic, operator, false);
    assert_eq!((again.offset, again.was_moved_from()), (300, Some(100)), "the first was a mistake");
    let back = moved(Some(&again), 80, topic, operator, false);
    assert_eq!(
        (back.was_moved_from(), back.done_by().of(one), back.done_by().of(other)),
        (Some(100), Some(60), Some(80))
    );
    let recreated = moved(Some(&before), 5, Some(Uuid::from_u128(8)), operator, false);
    assert_eq!(recreated.done_by(), DoneBy::default(), "of another topic");
    assert_eq!(moved(None, 5, topic, operator, false).was_moved_from(), None);
}

#[test]
fn anchors_of_audit_logs_are_removed_only_where_that_is_asked_for() {
    let operator = Uuid::from_u128(99);
    let trees = serde_json::json!({"trees": {"o": {"size": 1, "root": "00"}}, "other": 1});
    let before = Commit::new(7, operator, true).with_meta(trees.as_object().unwrap().clone());
    let has = |forget| moved(Some(&before), 5, None, operator, forget).meta.contains_key("trees");
    assert!(has(false) && !has(true));
}

#[test]
fn only_trees_are_removed_of_a_commit_that_stays() {
    let (instance, topic) = (Uuid::from_u128(1), Some(Uuid::from_u128(9)));
    let mut done_by = DoneBy::default();
    done_by.set(instance, 300);
    let position = Position { topic_id: topic, leader_epoch: Some(4), ..Position::at(250) };
    let trees = serde_json::json!({"trees": {"o": {"size": 1, "root": "00"}}, "other": 1});
    let meta = trees.as_object().unwrap().clone();
    let last =
        Commit::at(position, instance, false).with_done_by(&done_by).moved_from(Some(70)).with_meta(meta);
    let stays = without_trees(last);
    assert_eq!((stays.position(), stays.instance_id, stays.released), (position, instance, true));
    assert_eq!((stays.done_by(), stays.was_moved_from()), (done_by, Some(70)));
    assert!(stays.meta.contains_key("other") && !stays.meta.contains_key("trees"));
}

#[test]
fn whatever_the_group_has_a_position_of_stays_unless_another_is_named() {
    let slot = |topic: &str, partition| Slot { group: "g".to_owned(), topic: topic.to_owned(), partition };
    let report = |position| SlotReport { position, owner: None, life: Life::Released };
    let known = BTreeMap::from([
        (slot("t", 0), report(Some(7))),
        (slot("t", 1), report(None)),
        (slot("gone", 5), report(Some(8))),
    ]);
    let mut args = Reset {
        group: "g".to_owned(),
        to: None,
        topic: None,
        partition: None,
        forget_trees: true,
        execute: true,
    };
    let of = |args: &Reset| -> Vec<_> {
        staying(args, &known)
            .into_iter()
            .map(|each| (each.topic, each.partition, each.to, each.stays))
            .collect()
    };
    let (gone, first) = (("gone".to_owned(), 5, Some(8), true), ("t".to_owned(), 0, Some(7), true));
    assert_eq!(of(&args), [gone, first.clone()]);
    args.topic = Some("t".to_owned());
    assert_eq!(of(&args), [first]);
    args.partition = Some(1);
    assert_eq!(of(&args), []);
}
