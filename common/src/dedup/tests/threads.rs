//! Callers, and the thread behind their backs, at the same time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::*;

/// A value that spreads.
fn scattered(n: u64) -> Uuid {
    Uuid::from_u64_pair(n.wrapping_mul(0x9e37_79b9_7f4a_7c15), n)
}

/// Nearly sorted; now and then there is one far above, so that runs that pieces were appended to are merged.
fn nearly_sorted(n: u64) -> Uuid {
    match n % 1_700 {
        0 => Uuid::from_u64_pair(u64::MAX - n, n),
        _ => Uuid::from_u64_pair((1 << 40) + (n ^ 5), n),
    }
}

#[test]
fn who_looks_up_while_others_record_and_runs_are_merged_finds_all_that_was_acknowledged() {
    look_up_while_others_record(scattered);
}

#[test]
fn who_looks_up_while_others_record_and_pieces_are_appended_finds_all_that_was_acknowledged() {
    look_up_while_others_record(nearly_sorted);
}

fn look_up_while_others_record(id: fn(u64) -> Uuid) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dedup");
    let tuning = Tuning { ids_in_memory: 500, filter_bytes: 60_000, in_background: true };
    let open = || {
        let disk = Arc::new(FileSystem);
        Dedup::open_with(disk, &path, Retention::ForeverRebuildable, tuning).unwrap()
    };
    let dedup = open();
    let (acknowledged, end) = (AtomicU64::new(0), 60_000);
    thread::scope(|scope| {
        for reader in 0..2 {
            let (dedup, acknowledged) = (dedup.clone(), &acknowledged);
            scope.spawn(move || {
                let mut seen = 0;
                while seen < end {
                    seen = acknowledged.load(Ordering::Acquire);
                    let asked: Vec<Uuid> = (0..seen).rev().step_by(97 + reader).map(id).collect();
                    let known = dedup.numbers(&asked).unwrap();
                    assert!(known.iter().all(Option::is_some), "of {seen}");
                    assert!(dedup.numbers(&[id(end + 1)]).unwrap()[0].is_none());
                }
            });
        }
        for start in (0..end).step_by(100) {
            let ids: Vec<Uuid> = (start..start + 100).map(id).collect();
            dedup.append(&ids, false, |_| Vec::new()).unwrap();
            acknowledged.store(start + 100, Ordering::Release);
        }
    });
    drop(dedup);
    let dedup = open();
    let all: Vec<Uuid> = (0..end).map(id).collect();
    assert!(dedup.numbers(&all).unwrap().into_iter().eq((0..end).map(Some)));
    let runs = std::fs::read_dir(dir.path()).unwrap();
    let runs = runs.filter(|name| name.as_ref().unwrap().path().to_string_lossy().contains(".run-")).count();
    assert!(runs < 40, "{runs} runs");
}
