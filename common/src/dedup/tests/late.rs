//! Ids that come late, many of them: they are written once as well.

use super::super::manifest::Listed;
use super::sorted::{pieces, runs};
use super::*;

const LOG: u64 = 4_096;

/// How many ids are in runs of several pieces, once so many were added in the order of `key`.
fn ids_in_pieces(count: u64, key: impl Fn(u64) -> u64) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dedup");
    let tuning = Tuning { ids_in_memory: LOG as usize, filter_bytes: 1 << 20, in_background: false };
    let dedup = Dedup::open_with(Arc::new(FileSystem), &path, Retention::ForeverRebuildable, tuning).unwrap();
    let id = |n| Uuid::from_u64_pair((1 << 40) + key(n), n);
    for first in (0..count).step_by(512) {
        let batch: Vec<Uuid> = (first..first + 512).map(id).collect();
        dedup.append_new(&batch, false, |_| Vec::new()).unwrap();
    }
    assert!(runs(&path).len() <= 12, "{:?}", pieces(&path));
    let asked: Vec<u64> = (0..count).step_by(11).collect();
    let numbers = dedup.numbers(&asked.iter().copied().map(id).collect::<Vec<_>>()).unwrap();
    assert!(numbers.into_iter().eq(asked.into_iter().map(Some)));
    runs(&path).iter().filter(|run| run.pieces.len() > 1).map(Listed::ids).sum()
}

#[test]
fn ids_that_come_late_are_written_once_as_well() {
    let count = 100 * LOG;
    // One of so many comes two logs late, as by a producer whose clock is behind.
    for every in [3, 5, 10, 20] {
        let appended = ids_in_pieces(count, |n| if n % every == 0 { n.saturating_sub(2 * LOG) } else { n });
        assert!(appended >= count / 100 * 94, "every {every}: {appended} of {count}");
    }
    // Of several partitions a fetch each in turn, one behind the other, with the times of the others.
    for (partitions, fetch) in [(2, 500), (6, 150), (20, 300)] {
        let key = |n| {
            let (round, at) = (n / (partitions * fetch), n % (partitions * fetch));
            (round * fetch + at % fetch) * partitions + at / fetch
        };
        let appended = ids_in_pieces(count, key);
        assert!(appended >= count / 100 * 94, "{partitions} partitions: {appended} of {count}");
    }
}
