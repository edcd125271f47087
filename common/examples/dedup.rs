//! What a look-up and an insert of the dedup state cost, beside the redb file that it was before: for an empty
//! state and for ones with millions of ids: with ids of version 7, with a fifth of them late, and with random ones.
//!
//! `cargo run --release -p task-events --example dedup [FOLDER] [MILLIONS] [REDB_MILLIONS]`
//!
//! Each row: ids in batches of 500, as many as fill ten logs (more where that many are stored already, so that merges
//! are counted as they come; making ids, some 5 ns each, is counted too), looked up and then added, as the audit service does (synced every 64 batches), and,
//! in the last column, 20 batches of a new state as the notification service does (synced each). CPU is that of the process,
//! with its background thread; memory is what the process has by then, also of the rows before.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use redb::{Database, Durability, ReadableDatabase, ReadableTableMetadata, TableDefinition};
use rustix::time::{ClockId, clock_gettime};
use task_events::dedup::{Dedup, Retention};
use uuid::Uuid;

const BATCH: usize = 500;
/// Ids of such batches in one log: each row writes whole ones into runs.
const LOG: usize = 57_344 / BATCH * BATCH;
/// Ids of a batch while a state is filled.
const FILL: usize = 4_096;
const DURABLE: usize = 20;
const WINDOW: Retention = Retention::Window(Duration::from_secs(8 * 24 * 60 * 60));
const IDS: TableDefinition<[u8; 16], u64> = TableDefinition::new("ids");

/// Ids of version 7 that are late, one in five: by the time of a whole log.
const LATE_MS: u64 = LOG as u64 / 100;

/// How ids follow each other.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    Timed,
    /// One in five comes late, as from a producer whose clock is behind.
    PartlyLate,
    Random,
}

/// Ids that were not there before, made at little cost.
struct Ids {
    order: Order,
    made: u64,
}

impl Ids {
    fn take(&mut self, count: usize) -> Vec<Uuid> {
        (0..count).map(|_| self.next()).collect()
    }

    fn next(&mut self) -> Uuid {
        self.made += 1;
        let [high, low] = [mix(2 * self.made), mix(2 * self.made + 1)];
        // 100 in each millisecond.
        let ms = 1_700_000_000_000 + self.made / 100;
        let ms = match self.order {
            Order::Random => return Uuid::from_u64_pair(high, low),
            Order::PartlyLate if self.made.is_multiple_of(5) => ms - LATE_MS,
            Order::PartlyLate | Order::Timed => ms,
        };
        Uuid::from_u64_pair(ms << 16 | high & 0xffff, low)
    }
}

/// splitmix64
fn mix(number: u64) -> u64 {
    let z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A set of ids, as the audit service uses it.
trait Set {
    fn add(&mut self, ids: &[Uuid]);
    fn len(&self) -> u64;
}

impl Set for Dedup {
    fn add(&mut self, ids: &[Uuid]) {
        let known = self.numbers(ids).unwrap();
        assert!(known.iter().all(Option::is_none));
        self.append_new(ids, false, |ids| ids.to_le_bytes().to_vec()).unwrap();
    }

    fn len(&self) -> u64 {
        Self::len(self).unwrap()
    }
}

/// As the notification service uses it.
struct Window(Dedup);

impl Set for Window {
    fn add(&mut self, ids: &[Uuid]) {
        assert!(self.0.numbers(ids).unwrap().iter().all(Option::is_none));
        self.0.record_at(ids, None, 1).unwrap();
    }

    fn len(&self) -> u64 {
        self.0.len().unwrap()
    }
}

/// The version before: ids and numbers in one table.
struct Redb {
    database: Database,
    /// Each batch is.
    is_synced: bool,
    commits: u32,
}

impl Redb {
    fn open(path: &Path) -> Self {
        let database = Database::builder().set_cache_size(2 << 20).create(path).unwrap();
        let write = database.begin_write().unwrap();
        write.open_table(IDS).unwrap();
        write.commit().unwrap();
        Self { database, is_synced: false, commits: 0 }
    }
}

impl Set for Redb {
    fn add(&mut self, ids: &[Uuid]) {
        {
            let table = self.database.begin_read().unwrap().open_table(IDS).unwrap();
            assert!(
                ids.iter().all(|id| redb::ReadableTable::get(&table, id.into_bytes()).unwrap().is_none())
            );
        }
        let mut write = self.database.begin_write().unwrap();
        self.commits += 1;
        if self.is_synced || self.commits.is_multiple_of(64) {
            write.set_quick_repair(true);
        } else {
            write.set_durability(Durability::None).unwrap();
        }
        {
            let mut table = write.open_table(IDS).unwrap();
            let total = table.len().unwrap();
            for (number, id) in (total..).zip(ids) {
                table.insert(id.into_bytes(), number).unwrap();
            }
        }
        write.commit().unwrap();
    }

    fn len(&self) -> u64 {
        let read = self.database.begin_read().unwrap();
        read.open_table(IDS).unwrap().len().unwrap()
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().unwrap_or_else(|| "target/dedup-bench".to_owned()));
    let mut millions = || args.next().and_then(|arg| arg.parse::<f64>().ok());
    let (millions, redb_millions) = (millions().unwrap_or(10.0), millions().unwrap_or(1.0));
    println!(
        "| ids | stored | state | wall ns/id | CPU ns/id | written B/id | RSS MiB | synced batch, wall ns/id |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let orders =
        [("version 7", Order::Timed), ("a fifth late", Order::PartlyLate), ("random", Order::Random)];
    for (kind, order) in orders {
        for (state, most) in [("runs", millions), ("redb", redb_millions)] {
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(&folder).unwrap();
            let path = folder.join("dedup");
            let mut ids = Ids { order, made: 0 };
            let mut set: Box<dyn Set> = match state {
                "runs" => Box::new(Dedup::open(&path, Retention::ForeverRebuildable).unwrap()),
                _ => Box::new(Redb::open(&path)),
            };
            for stored in
                [10_000, 1_000_000, 5_000_000, 10_000_000].into_iter().filter(|n| *n as f64 <= most * 1e6)
            {
                while set.len() < stored {
                    let count = FILL.min(usize::try_from(stored - set.len()).unwrap());
                    set.add(&ids.take(count));
                }
                let count = usize::try_from(stored / 5).unwrap().max(10 * LOG).next_multiple_of(LOG);
                let measured = measure(&mut *set, count, &mut ids);
                let durable = durable(state, &folder, &mut ids);
                println!("| {kind} | {stored} | {state} | {measured} | {durable} |");
            }
            drop(set);
            let start = Instant::now();
            if state == "runs" {
                let ids = Dedup::open(&path, Retention::ForeverRebuildable).unwrap().len().unwrap();
                eprintln!("{kind}: {ids} ids opened again in {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    let _ = fs::remove_dir_all(&folder);
}

fn measure(set: &mut dyn Set, count: usize, ids: &mut Ids) -> String {
    wait_for_background();
    let (wall, cpu, written) = (Instant::now(), cpu_ns(), written());
    (0..count / BATCH).for_each(|_| set.add(&ids.take(BATCH)));
    let each = |sum: f64| sum / count as f64;
    let wall = each(wall.elapsed().as_nanos() as f64);
    wait_for_background();
    let (cpu, written) = (each(cpu_ns() - cpu), each(self::written() - written));
    format!("{wall:.0} | {cpu:.0} | {written:.0} | {:.1}", rss_mib())
}

/// Returns once nothing is written any more: what a row began, it pays for.
#[allow(clippy::disallowed_methods, reason = "no async thread waits here")]
fn wait_for_background() {
    let mut before = f64::NAN;
    while before != written() {
        before = written();
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Batches that are on disk one by one.
fn durable(state: &str, folder: &Path, ids: &mut Ids) -> String {
    let path = folder.join("window");
    let mut set: Box<dyn Set> = match state {
        "runs" => Box::new(Window(Dedup::open(&path, WINDOW).unwrap())),
        _ => Box::new(Redb { is_synced: true, ..Redb::open(&path) }),
    };
    let start = Instant::now();
    (0..DURABLE).for_each(|_| set.add(&ids.take(BATCH)));
    format!("{:.0}", start.elapsed().as_nanos() as f64 / (DURABLE * BATCH) as f64)
}

fn field(file: &str, name: &str) -> f64 {
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn written() -> f64 {
    field("/proc/self/io", "write_bytes:")
}

fn rss_mib() -> f64 {
    field("/proc/self/status", "VmRSS:") / 1024.0
}

/// User and system time of all threads.
fn cpu_ns() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}
