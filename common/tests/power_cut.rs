//! The dedup state after a power cut, whatever of the last writes the disk kept: ids that were recorded are
//! known, and the mark tells exactly which.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail loudly")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use powercut::{Cut, Found, SimDisk, Tried};
use task_events::dedup::{Dedup, Retention};
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;

const FILE: &str = "/state/dedup";
const WINDOW: Retention = Retention::Window(Duration::from_secs(8 * 24 * 60 * 60));
const SEED: u64 = 1;
/// Every so many cuts the power fails once more, while the state is opened again.
const CUT_TWICE: usize = 20;

/// The ids of a batch; its number is the mark.
fn batch(number: u64) -> Vec<Uuid> {
    (0..1 + number % 7).map(|n| Uuid::from_u128(u128::from(number << 8 | n) << 64 | 7)).collect()
}

fn open(disk: &SimDisk, retention: Retention) -> Result<Dedup, String> {
    Dedup::open_on(Arc::new(disk.clone()), Path::new(FILE), retention).map_err(|error| error.to_string())
}

/// Adds a batch as the owner of such a state does.
fn add(dedup: &Dedup, retention: Retention, number: u64) -> Result<(), String> {
    let mark = number.to_be_bytes().to_vec();
    let added = match retention {
        Retention::Window(_) => runtime().block_on(dedup.record(batch(number), Some(mark))),
        Retention::ForeverRebuildable => dedup.append(&batch(number), false, |_| mark).map(|_| ()),
    };
    added.map_err(|error| error.to_string())
}

fn runtime() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}

/// Records batches, restarts in the middle. Returns the moment from which on each batch has to be known, in
/// their order.
fn record(disk: &SimDisk, retention: Retention, batches: u64) -> Vec<usize> {
    let mut dedup = open(disk, retention).unwrap();
    let mut safe = Vec::new();
    for number in 0..batches {
        if number == batches / 2 {
            drop(dedup);
            dedup = open(disk, retention).unwrap();
        }
        add(&dedup, retention, number).unwrap();
        let checkpoint = number % 10 == 9;
        if checkpoint {
            dedup.checkpoint().unwrap();
        }
        if checkpoint || retention != Retention::ForeverRebuildable {
            safe.resize(number as usize + 1, disk.now());
        }
    }
    safe
}

/// Opens what the cut left: it holds the first batches, whole, and at least as many as are safe.
fn check(cut: &Cut, retention: Retention, safe: usize) -> Result<(), String> {
    let runtime = runtime();
    let dedup = open(&cut.disk, retention)?;
    cut.once_more(CUT_TWICE, |again| check(again, retention, safe))?;
    let error = |error: task_events::dedup::DedupError| error.to_string();
    let mark = dedup.mark().map_err(error)?;
    let held = mark.map_or(0, |mark| u64::from_be_bytes(mark.try_into().unwrap()) + 1);
    if held < safe as u64 {
        return Err(format!("{safe} batches were recorded for good, {held} are there"));
    }
    let mut count = 0;
    for number in 0..held + 1 {
        let known = runtime.block_on(dedup.known(batch(number))).map_err(error)?;
        if known.iter().any(|known| *known != (number < held)) {
            return Err(format!("batch {number} of {held} is known as {known:?}"));
        }
        count += if number < held { known.len() as u64 } else { 0 };
    }
    if dedup.len().map_err(error)? != count {
        return Err(format!("{:?} ids, not {count}", dedup.len()));
    }
    add(&dedup, retention, held)?;
    let known = runtime.block_on(dedup.known(batch(held))).map_err(error)?;
    if known.iter().all(|known| *known) {
        Ok(())
    } else {
        Err("what is recorded now is not known".to_owned())
    }
}

fn cut_everywhere(disk: &SimDisk, retention: Retention, safe: &[usize]) -> Result<Tried, Found> {
    disk.each_cut(SEED, |cut| check(cut, retention, safe.iter().filter(|moment| **moment <= cut.at).count()))
}

#[test]
fn after_a_power_cut_all_ids_that_were_recorded_are_known() {
    let disk = SimDisk::new();
    let safe = record(&disk, WINDOW, 24);
    let tried = cut_everywhere(&disk, WINDOW, &safe).unwrap_or_else(|found| found.raise());
    println!("dedup window: {tried}");
    assert!(tried.states > 500, "{tried}");
}

#[test]
fn after_a_power_cut_a_rebuildable_state_is_that_of_some_batch_since_the_last_checkpoint() {
    let disk = SimDisk::new();
    let safe = record(&disk, Retention::ForeverRebuildable, 96);
    let tried =
        cut_everywhere(&disk, Retention::ForeverRebuildable, &safe).unwrap_or_else(|found| found.raise());
    println!("rebuildable dedup: {tried}");
    assert!(tried.states > 300, "{tried}");
}

#[test]
fn a_disk_that_does_not_sync_the_file_or_its_name_is_found_out() {
    for lie in ["dedup", "state"] {
        let disk = SimDisk::that_lies_about(lie);
        let safe = record(&disk, WINDOW, 3);
        let found = cut_everywhere(&disk, WINDOW, &safe).expect_err(lie);
        println!("{lie}: {found}");
    }
}
