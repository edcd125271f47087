//! The dedup state after a power cut, whatever of the last writes the disk kept: ids that were recorded are
//! known, and the mark tells exactly which. The power is cut at every write and sync, also of those that put
//! ids into runs, append to a run, merge runs, drop a bucket, cut the state off, or take over that of the version before.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use powercut::{Cut, SimDisk, Subject, Tried};
use redb::{Database, TableDefinition};
use task_events::dedup::{Dedup, DedupError, Retention, Tuning};
use task_events::disk::Disk;
use uuid::Uuid;

const FILE: &str = "/state/dedup";
const DAY: u64 = 24 * 60 * 60 * 1_000;
const WINDOW: Retention = Retention::Window(Duration::from_secs(8 * 24 * 60 * 60));
const FOR_EVER: Retention = Retention::ForeverRebuildable;
/// Operations from one kill to the next.
const KILL_EVERY: usize = 17;
/// Runs are made every few batches, and merged, by the caller: each time the same.
const TUNING: Tuning = Tuning { ids_in_memory: 16, filter_bytes: 1 << 20, in_background: false };

/// The order in which ids come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Neither sorted nor far from each other.
    Scattered,
    /// As those of version 7: each is near to the one before it, and one of five comes late.
    NearlySorted,
}

impl Order {
    /// The ids of a batch; its number is the mark.
    fn batch(self, number: u64) -> Vec<Uuid> {
        let scattered = |n: u64| (number << 8 | n).reverse_bits() >> 40;
        let sorted = |n: u64| if n == 4 { (number + 4) << 8 | 200 } else { (number + 10) << 8 | n };
        let id = |n| {
            Uuid::from_u128(
                u128::from(if self == Self::Scattered { scattered(n) } else { sorted(n) }) << 64 | 7,
            )
        };
        (0..1 + number % 7).map(id).collect()
    }
}

/// A state that is tried: how ids are kept, and how much time passes from batch to batch, in ms.
#[derive(Debug, Clone, Copy)]
struct Case {
    retention: Retention,
    step: u64,
    start: u64,
    order: Order,
}

impl Case {
    fn new(retention: Retention, step: u64) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let (start, order) = (u64::try_from(now.as_millis()).unwrap(), Order::Scattered);
        Self { retention, step, start, order }
    }

    fn sorted(self) -> Self {
        Self { order: Order::NearlySorted, ..self }
    }

    fn batch(self, number: u64) -> Vec<Uuid> {
        self.order.batch(number)
    }

    fn open(self, disk: &SimDisk) -> Result<Dedup, String> {
        Dedup::open_with(Arc::new(disk.clone()), Path::new(FILE), self.retention, TUNING).map_err(text)
    }

    fn time(self, number: u64) -> u64 {
        self.start + number * self.step
    }

    /// Adds a batch as the owner of such a state does.
    fn add(self, dedup: &Dedup, number: u64) -> Result<(), String> {
        let mark = number.to_be_bytes().to_vec();
        let added = match self.retention {
            Retention::Window(_) => {
                dedup.record_at(&self.batch(number), Some(&mark), self.time(number)).map(drop)
            }
            FOR_EVER => dedup.append(&self.batch(number), false, |_| mark).map(|_| ()),
        };
        added.map_err(text)
    }

    /// Records batches, restarts in the middle.
    fn record(self, disk: &SimDisk, batches: u64) -> Recorded {
        let mut dedup = self.open(disk).unwrap();
        let mut safe = Vec::new();
        for number in 0..batches {
            if number == batches / 2 {
                drop(dedup);
                dedup = self.open(disk).unwrap();
            }
            self.add(&dedup, number).unwrap();
            let checkpoint = number % 10 == 9;
            if checkpoint {
                dedup.checkpoint().unwrap();
            }
            if checkpoint || self.retention != FOR_EVER {
                safe.resize(number as usize + 1, disk.now());
            }
        }
        Recorded { case: self, safe, since: 0 }
    }

    /// The next process after a kill: what it finds is on disk once it is open, and it records some batches more.
    fn go_on(self, killed: &SimDisk) -> Tried {
        let dedup = self.open(killed).unwrap();
        let found = held(&dedup).unwrap();
        let mut safe = vec![killed.now(); found as usize];
        for number in found..found + 6 {
            self.add(&dedup, number).unwrap();
            dedup.checkpoint().unwrap();
            safe.push(killed.now());
        }
        drop(dedup);
        killed.cut_everywhere(&Recorded { case: self, safe, since: 0 })
    }

    fn holds_the_first(self, dedup: &Dedup, held: u64) -> Result<(), String> {
        let mut count = 0;
        // The batch after them may have been begun, and with it what is older was forgotten.
        let oldest = self.time(held).saturating_sub(8 * DAY);
        for number in 0..held + 1 {
            let known = dedup.numbers(&self.batch(number)).map_err(text)?;
            let is_forgotten = number < held && self.time(number) < oldest;
            if !is_forgotten && known.iter().any(|known| known.is_some() != (number < held)) {
                return Err(format!("batch {number} of {held} is known as {known:?}"));
            }
            if self.retention == FOR_EVER && known.iter().flatten().zip(count..).any(|(a, b)| *a != b) {
                return Err(format!("batch {number} of {held} has the numbers {known:?}, not {count}"));
            }
            count += if number < held { known.len() as u64 } else { 0 };
        }
        let len = dedup.len().map_err(text)?;
        let is_right = if self.step == 0 { len == count } else { len <= count };
        if is_right { Ok(()) } else { Err(format!("{len} ids, not {count}")) }
    }
}

/// A state in which batches were recorded.
struct Recorded {
    case: Case,
    /// The moment from which on each batch has to be known, in their order.
    safe: Vec<usize>,
    /// The moment from which on there is a state.
    since: usize,
}

impl Subject for Recorded {
    type Opened = Dedup;
    const CUT_TWICE: Option<usize> = Some(20);

    fn since(&self) -> usize {
        self.since
    }

    fn open(&self, disk: &SimDisk) -> Result<Dedup, String> {
        self.case.open(disk)
    }

    /// It holds the first batches, whole, and at least as many as are safe.
    fn check(&self, dedup: Dedup, cut: &Cut) -> Result<(), String> {
        let (case, held) = (self.case, held(&dedup)?);
        let safe = self.safe.iter().filter(|moment| **moment <= cut.at).count();
        if held < safe as u64 {
            return Err(format!("{safe} batches were recorded for good, {held} are there"));
        }
        case.holds_the_first(&dedup, held)?;
        case.add(&dedup, held)?;
        case.holds_the_first(&dedup, held + 1)?;
        drop(dedup);
        let left_over = cut.disk.names().into_iter().filter(|name| name.to_string_lossy().contains(".new"));
        if left_over.count() > 0 {
            return Err(format!("files are left over: {:?}", cut.disk.names()));
        }
        Ok(())
    }
}

/// A state of 20 batches that was cut off after nine.
struct CutOff {
    case: Case,
    /// When that began, and when it was done.
    before: usize,
    after: usize,
}

impl Subject for CutOff {
    type Opened = Dedup;

    fn open(&self, disk: &SimDisk) -> Result<Dedup, String> {
        self.case.open(disk)
    }

    fn check(&self, dedup: Dedup, cut: &Cut) -> Result<(), String> {
        let held = held(&dedup)?;
        let is_right = match cut.at {
            at if at >= self.after => held == 9 || held == 10,
            at if at >= self.before => held == 9 || held == 20,
            _ => held <= 20,
        };
        if is_right { self.case.holds_the_first(&dedup, held) } else { Err(format!("{held} batches")) }
    }
}

fn text(error: DedupError) -> String {
    error.to_string()
}

/// The batches that are there, by the mark.
fn held(dedup: &Dedup) -> Result<u64, String> {
    let mark = dedup.mark().map_err(text)?;
    Ok(mark.map_or(0, |mark| u64::from_be_bytes(mark.try_into().unwrap()) + 1))
}

fn files_of(disk: &SimDisk, kind: &str) -> usize {
    disk.names().iter().filter(|name| name.to_string_lossy().contains(kind)).count()
}

#[test]
fn after_a_power_cut_all_ids_that_were_recorded_are_known() {
    let (case, disk) = (Case::new(WINDOW, 0), SimDisk::new());
    let recorded = case.record(&disk, 24);
    assert!(files_of(&disk, ".run-") > 0, "{disk:?}");
    let tried = disk.cut_everywhere(&recorded);
    println!("dedup window: {tried}");
    assert!(tried.states > 500, "{tried}");
}

/// Whether several pieces were appended to the first run.
fn has_grown(disk: &SimDisk) -> bool {
    disk.read(Path::new("/state/dedup.run-1")).is_some_and(|run| run.len() > 4 * 4_096)
}

#[test]
fn after_a_power_cut_while_sorted_ids_are_appended_to_a_run_all_that_were_recorded_are_known() {
    for (retention, least) in [(WINDOW, 500), (FOR_EVER, 300)] {
        let (case, disk) = (Case::new(retention, 0).sorted(), SimDisk::new());
        let recorded = case.record(&disk, 36);
        assert!(has_grown(&disk), "{disk:?}");
        let tried = disk.cut_everywhere(&recorded);
        println!("dedup with sorted ids: {tried}");
        assert!(tried.states > least, "{tried}");
    }
}

#[test]
fn after_kills_and_a_power_cut_while_the_next_process_appends_all_that_it_found_are_known() {
    for retention in [WINDOW, FOR_EVER] {
        let (case, disk) = (Case::new(retention, 0).sorted(), SimDisk::new());
        case.record(&disk, 20);
        let tried = disk.kill_everywhere(KILL_EVERY, |killed, _| case.go_on(killed));
        println!("dedup with sorted ids after kills: {tried}");
        assert!(tried.states > 500, "{tried}");
    }
}

#[test]
fn after_a_power_cut_while_buckets_are_dropped_all_ids_within_the_window_are_known() {
    let (case, disk) = (Case::new(WINDOW, DAY), SimDisk::new());
    let recorded = case.record(&disk, 24);
    let runs = files_of(&disk, ".run-");
    assert!((1..8).contains(&runs), "{disk:?}");
    let tried = disk.cut_everywhere(&recorded);
    println!("dedup window with expired buckets: {tried}");
    assert!(tried.states > 500, "{tried}");
}

#[test]
fn after_a_power_cut_a_rebuildable_state_is_that_of_some_batch_since_the_last_checkpoint() {
    let (case, disk) = (Case::new(FOR_EVER, 0), SimDisk::new());
    let recorded = case.record(&disk, 60);
    let tried = disk.cut_everywhere(&recorded);
    println!("rebuildable dedup: {tried}");
    assert!(tried.states > 300, "{tried}");
}

#[test]
fn after_a_power_cut_while_it_is_cut_off_a_state_is_that_of_before_or_of_after() {
    let scattered = Case::new(FOR_EVER, 0);
    for case in [scattered, scattered.sorted()] {
        let disk = SimDisk::new();
        let dedup = case.open(&disk).unwrap();
        (0..20).for_each(|number| case.add(&dedup, number).unwrap());
        dedup.checkpoint().unwrap();
        assert_eq!(has_grown(&disk), case.order == Order::NearlySorted);
        let before = disk.now();
        // In the middle of a run, and of a piece.
        let kept: u64 = (0..9).map(|number| case.batch(number).len() as u64).sum();
        dedup.truncate(kept, &8_u64.to_be_bytes()).unwrap();
        let after = disk.now();
        case.holds_the_first(&dedup, 9).unwrap();
        case.add(&dedup, 9).unwrap();
        drop(dedup);
        println!("dedup cut off: {}", disk.cut_everywhere(&CutOff { case, before, after }));
        let tried = disk.kill_everywhere(KILL_EVERY, |killed, _| case.go_on(killed));
        println!("dedup cut off, after kills: {tried}");
    }
}

#[test]
fn a_state_of_the_version_before_is_taken_over_whole_or_is_still_there() {
    for retention in [WINDOW, FOR_EVER] {
        let (case, disk) = (Case::new(retention, 0), SimDisk::new());
        let database = disk.create(Path::new(FILE), &Database::builder()).unwrap();
        let write = database.begin_write().unwrap();
        {
            let mut ids = write.open_table(TableDefinition::<[u8; 16], u64>::new("ids")).unwrap();
            for (id, number) in (0..20).flat_map(|number| case.batch(number)).zip(0..) {
                let value = if retention == FOR_EVER { number } else { case.start };
                ids.insert(id.into_bytes(), value).unwrap();
            }
            let mut mark = write.open_table(TableDefinition::<(), &[u8]>::new("mark")).unwrap();
            mark.insert((), 19_u64.to_be_bytes().as_slice()).unwrap();
        }
        write.commit().unwrap();
        drop(database);
        disk.sync_folder(Path::new(FILE)).unwrap();
        let before = disk.now();
        drop(case.open(&disk).unwrap());
        let taken_over = Recorded { case, safe: vec![before; 20], since: before };
        println!("dedup of the version before: {}", disk.cut_everywhere(&taken_over));
    }
}

#[test]
fn a_disk_that_does_not_sync_a_file_or_its_name_is_found_out() {
    for lie in ["state", "dedup.new", "dedup.log-2", "dedup.run-1", "dedup.run-6"] {
        let (case, disk) = (Case::new(WINDOW, 0), SimDisk::that_lies_about(lie));
        let recorded = case.record(&disk, 24);
        println!("{lie}: {}", disk.cut_until_found(&recorded));
    }
}

#[test]
fn a_piece_that_is_listed_before_it_is_on_disk_is_found_out() {
    // The first sync is that of the run as it was made.
    for honest_syncs in [1, 2] {
        let disk = SimDisk::that_lies_later("dedup.run-1", honest_syncs);
        let recorded = Case::new(WINDOW, 0).sorted().record(&disk, 36);
        assert!(has_grown(&disk), "{disk:?}");
        println!("dedup.run-1 after {honest_syncs} syncs: {}", disk.cut_until_found(&recorded));
    }
}
