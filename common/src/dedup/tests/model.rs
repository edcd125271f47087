//! Any interleaving of what callers do, held against maps.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const DAY: u64 = 24 * 60 * 60 * 1_000;
const WINDOW: Retention = Retention::Window(Duration::from_millis(8 * DAY));

/// One step.
#[derive(Debug, Clone)]
enum Step {
    /// Adds ids, durably or not.
    Add(Vec<u16>, bool),
    /// Some hours pass; fewer than none: the clock is set back.
    Hours(i64),
    /// Keeps so many of 16 parts.
    Truncate(u64),
    /// The process ends, and another one starts.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (vec(0..400_u16, 0..12), any::<bool>()).prop_map(|(ids, durable)| Step::Add(ids, durable)),
        2 => (-30..90_i64).prop_map(Step::Hours),
        1 => (0..=16_u64).prop_map(Step::Truncate),
        2 => Just(Step::Restart),
    ];
    vec(step, 1..60)
}

/// Ids that are close to each other, far from each other, or in order.
fn id(kind: u8, number: u16) -> Uuid {
    let number = u128::from(number);
    Uuid::from_u128(match kind % 3 {
        0 => number,
        1 => number.reverse_bits() ^ number,
        _ => number << 64 | 0x7000,
    })
}

fn tuning(background: bool, filters: bool) -> Tuning {
    Tuning { ids_in_memory: 16, filter_bytes: if filters { 1 << 20 } else { 0 }, in_background: background }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn numbers_are_those_of_a_map_whatever_is_done(
        steps in steps(), kind in any::<u8>(), background in any::<bool>(), filters in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dedup");
        let open = || Dedup::open_with(
            Arc::new(FileSystem), &path, Retention::ForeverRebuildable, tuning(background, filters),
        ).unwrap();
        let (mut dedup, mut model, mut mark) = (open(), BTreeMap::<u16, u64>::new(), None);
        for step in steps {
            match step {
                Step::Add(numbers, durable) => {
                    for number in &numbers {
                        let next = model.len() as u64;
                        model.entry(*number).or_insert(next);
                    }
                    let ids: Vec<Uuid> = numbers.iter().map(|number| id(kind, *number)).collect();
                    let total = dedup.append(&ids, durable, |ids| ids.to_string().into_bytes()).unwrap();
                    prop_assert_eq!(total, model.len() as u64);
                    mark = Some(total.to_string().into_bytes());
                }
                Step::Hours(_) => {}
                Step::Truncate(parts) => {
                    let kept = model.len() as u64 * parts / 16;
                    model.retain(|_, number| *number < kept);
                    dedup.truncate(kept, b"cut").unwrap();
                    mark = Some(b"cut".to_vec());
                }
                Step::Restart => {
                    drop(dedup);
                    dedup = open();
                }
            }
            let all: Vec<Uuid> = (0..400).map(|number| id(kind, number)).collect();
            let expected: Vec<Option<u64>> = (0..400).map(|number| model.get(&number).copied()).collect();
            prop_assert_eq!(dedup.numbers(&all).unwrap(), expected);
            prop_assert_eq!((dedup.len().unwrap(), dedup.mark().unwrap()), (model.len() as u64, mark.clone()));
        }
    }

    #[test]
    fn an_id_is_known_for_the_window_and_no_other_is_whatever_is_done(
        steps in steps(), kind in any::<u8>(), background in any::<bool>(), filters in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dedup");
        let open = || Dedup::open_with(
            Arc::new(FileSystem), &path, WINDOW, tuning(background, filters),
        ).unwrap();
        let mut dedup = open();
        let mut now = since_1970();
        // When it was recorded last; once it was older than the window, it may be known or not.
        let mut model = BTreeMap::<u16, Option<u64>>::new();
        for step in steps {
            match step {
                Step::Add(numbers, _) => {
                    for time in model.values_mut() {
                        *time = time.filter(|time| time + 8 * DAY >= now);
                    }
                    let ids: Vec<Uuid> = numbers.iter().map(|number| id(kind, *number)).collect();
                    dedup.record_at(&ids, None, now).unwrap();
                    model.extend(numbers.into_iter().map(|number| (number, Some(now))));
                }
                Step::Hours(hours) => now = now.saturating_add_signed(hours * DAY as i64 / 24),
                Step::Truncate(_) => {}
                Step::Restart => {
                    drop(dedup);
                    dedup = open();
                    // A start looks at the clock of this machine.
                    let start = since_1970();
                    for time in model.values_mut() {
                        *time = time.filter(|time| time + 8 * DAY >= start);
                    }
                }
            }
            let all: Vec<Uuid> = (0..400).map(|number| id(kind, number)).collect();
            for (number, known) in dedup.numbers(&all).unwrap().iter().enumerate() {
                match model.get(&(number as u16)) {
                    None => prop_assert!(known.is_none(), "{number} was never recorded"),
                    Some(Some(_)) => prop_assert!(known.is_some(), "{number} is within the window"),
                    Some(None) => {}
                }
            }
        }
    }
}

/// Full chunks, several of them, in runs that are merged; with filters in memory and without.
#[test]
fn ids_in_many_chunks_are_found_and_others_are_not() {
    for (filters, shape) in [(0, 0), (1 << 20, 1), (40_000, 2)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dedup");
        let tuning = Tuning { ids_in_memory: 9_000, filter_bytes: filters, in_background: false };
        let open = || {
            let disk = Arc::new(FileSystem);
            Dedup::open_with(disk, &path, Retention::ForeverRebuildable, tuning).unwrap()
        };
        let id = |n: u64| match shape {
            0 => Uuid::from_u64_pair(n.reverse_bits(), 1),
            1 => Uuid::from_u64_pair(n, 1),
            // One after the other, and the last bytes count.
            _ => Uuid::from_u64_pair(7, n),
        };
        let dedup = open();
        for batch in 0..35_u64 {
            let ids: Vec<Uuid> = (0..2_000).map(|n| id(2 * (batch * 2_000 + n))).collect();
            dedup.append(&ids, false, |_| Vec::new()).unwrap();
        }
        drop(dedup);
        let dedup = open();
        assert_eq!(dedup.len().unwrap(), 70_000);
        let all: Vec<Uuid> = (0..140_001).map(id).collect();
        for (n, number) in (0..).zip(dedup.numbers(&all).unwrap()) {
            let expected = (n % 2 == 0 && n < 140_000).then_some(n / 2);
            assert_eq!(number, expected, "shape {shape}, id {n}");
        }
        dedup.truncate(33_333, b"").unwrap();
        let known = dedup.numbers(&all).unwrap().into_iter().flatten().count();
        assert_eq!((known, dedup.len().unwrap()), (33_333, 33_333));
    }
}
