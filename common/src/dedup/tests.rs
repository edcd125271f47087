//! What callers see of the store.

mod damage;
mod faults;
mod late;
mod model;
mod sorted;
mod threads;

use std::time::Duration;

use super::*;

/// Runs are made every few batches, by the caller.
fn small() -> Tuning {
    Tuning { ids_in_memory: 16, filter_bytes: 1 << 20, in_background: false }
}

fn ids(n: usize) -> Vec<Uuid> {
    (0..n).map(|_| Uuid::now_v7()).collect()
}

#[tokio::test]
async fn what_was_recorded_is_known_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dedup");
    let handled = ids(100);
    let dedup = Dedup::open(&path, Retention::Window(Duration::from_secs(60))).unwrap();
    dedup.record(handled.clone(), Some(b"mark".to_vec())).await.unwrap();
    drop(dedup);
    let dedup = Dedup::open(&path, Retention::Window(Duration::from_secs(60))).unwrap();
    assert!(dedup.known(handled).await.unwrap().into_iter().all(|known| known));
    assert!(!dedup.known(ids(1)).await.unwrap()[0]);
    assert_eq!(dedup.mark().unwrap().as_deref(), Some(b"mark".as_slice()));
    assert_eq!(dedup.len().unwrap(), 100);
}

#[tokio::test]
async fn the_window_bounds_what_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (path, window) = (dir.path().join("dedup"), Retention::Window(Duration::ZERO));
    let dedup = Dedup::open_with(Arc::new(FileSystem), &path, window, small()).unwrap();
    for _ in 0..20 {
        dedup.record(ids(50), None).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(dedup.len().unwrap() <= 100, "{}", dedup.len().unwrap());
}

#[test]
fn ids_that_are_kept_for_ever_are_numbered_once_and_forgotten_from_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let dedup = Dedup::open(&dir.path().join("dedup"), Retention::ForeverRebuildable).unwrap();
    let [first, second] = [ids(3), ids(2)];
    let mark = |total: u64| total.to_be_bytes().to_vec();
    assert_eq!(dedup.append(&first, false, mark).unwrap(), 3);
    assert_eq!(dedup.append(&[first[1], second[0], second[0], second[1]], true, mark).unwrap(), 5);
    assert_eq!(dedup.numbers(&second).unwrap(), [Some(3), Some(4)]);
    assert_eq!(dedup.mark().unwrap(), Some(mark(5)));
    dedup.truncate(4, b"cut").unwrap();
    assert_eq!((dedup.len().unwrap(), dedup.numbers(&second).unwrap()), (4, vec![Some(3), None]));
    dedup.truncate(0, b"none").unwrap();
    assert_eq!((dedup.len().unwrap(), dedup.mark().unwrap().unwrap()), (0, b"none".to_vec()));
    assert_eq!(dedup.append(&second, false, mark).unwrap(), 2);
}

#[tokio::test]
async fn a_clock_that_is_set_back_forgets_nothing_and_one_set_forward_no_more_than_it_has_to() {
    const DAY: u64 = 24 * 60 * 60 * 1_000;
    let dir = tempfile::tempdir().unwrap();
    let window = Retention::Window(Duration::from_millis(8 * DAY));
    let dedup = Dedup::open_with(Arc::new(FileSystem), &dir.path().join("dedup"), window, small()).unwrap();
    let today = 20_000 * DAY;
    let [first, back, forward] = [ids(3), ids(3), ids(3)];
    let all_known =
        async |ids: &Vec<Uuid>| dedup.known(ids.clone()).await.unwrap().into_iter().all(|known| known);
    dedup.0.record(&first, None, today).unwrap();
    dedup.0.record(&back, None, today - 30 * DAY).unwrap();
    assert!(all_known(&first).await && all_known(&back).await);
    dedup.0.record(&forward, None, today + 7 * DAY).unwrap();
    assert!(all_known(&first).await && all_known(&forward).await);
    assert!(!all_known(&back).await, "by the clock now they are older than the window");
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dedup");
    std::fs::write(&path, b"this is not a redb file, and long enough to be looked at").unwrap();
    let error = Dedup::open(&path, Retention::ForeverRebuildable).unwrap_err().to_string();
    assert!(error.contains("dedup") && !error.contains('\n'), "{error}");
}
