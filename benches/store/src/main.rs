//! redb against fjall under the Task API's write pattern. See README.md.
//!
//! `store-bench all [DIR] [TASKS]` runs everything and prints one table; the other subcommands are
//! the child processes that it starts, so that memory is each store's own and kill -9 is real.

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use fjall::{KeyspaceCreateOptions, PersistMode, Readable, SingleWriterTxDatabase, SingleWriterTxKeyspace};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

type Res<T> = Result<T, Box<dyn Error>>;

const CACHE: usize = 16 << 20;
const MEMTABLE: u64 = 8 << 20;
const JOURNAL: u64 = 64 << 20;
const MODES: [&str; 3] = ["redb", "redb-qr", "fjall"];

const TASKS: TableDefinition<&[u8; 16], &[u8]> = TableDefinition::new("tasks");
const INDEX: TableDefinition<&[u8; 17], ()> = TableDefinition::new("by_status");
const OUTBOX: TableDefinition<u64, &[u8]> = TableDefinition::new("outbox");
const SEEN: TableDefinition<&[u8; 16], ()> = TableDefinition::new("seen");

fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A uuid v7 that follows from its number: ten to a millisecond, the rest random.
fn id(seq: u64) -> [u8; 16] {
    let ms = 1_760_000_000_000 + seq / 10;
    let mut b = [0; 16];
    b[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
    b[6..8].copy_from_slice(&(0x7000 | (mix(seq) & 0xfff) as u16).to_be_bytes());
    b[8..].copy_from_slice(&((mix(!seq) >> 2) | (1 << 63)).to_be_bytes());
    b
}

fn hex(b: &[u8]) -> String {
    b.iter().map(|x| format!("{x:02x}")).collect()
}

struct Row {
    seq: u64,
    id: [u8; 16],
    task: Vec<u8>,
    event: Vec<u8>,
}

fn rows(first: u64, n: u64) -> Vec<Row> {
    (first..first + n)
        .map(|seq| {
            let id = id(seq);
            let (h, o) = (hex(&id), hex(&id_of_owner(seq)));
            let task = format!(r#"{{"id":"{h}","title":"Task {seq}, {:x}","status":"pending","owner_id":"{o}","version":1,"created_at":"2026-01-15T10:30:00.{:06}Z","updated_at":"2026-01-15T10:30:00.000000Z"}}"#, mix(seq ^ 7), seq % 1_000_000);
            let event = format!(r#"{{"event_id":"{}","event_type":"task.created","occurred_at":"2026-01-15T10:30:00.{:06}Z","data":{{"task_id":"{h}","title":"Task {seq}, {:x}","status":"pending","owner_id":"{o}"}},"metadata":{{"correlation_id":"{o}","source":"task-api"}},"headers":{{"ce_specversion":"1.0","ce_id":"{h}","ce_type":"task.created","traceparent":"00-{o}-{:x}-01"}}}}"#, hex(&id_of_owner(!seq)), seq % 1_000_000, mix(seq ^ 7), mix(seq ^ 9));
            Row { seq, id, task: task.into_bytes(), event: event.into_bytes() }
        })
        .collect()
}

fn id_of_owner(seq: u64) -> [u8; 16] {
    (u128::from(mix(seq ^ 1)) << 64 | u128::from(mix(seq ^ 2))).to_be_bytes()
}

fn index_key(id: &[u8; 16]) -> [u8; 17] {
    let mut k = [0; 17];
    k[1..].copy_from_slice(id);
    k
}

enum Store {
    Redb {
        db: Database,
        quick_repair: bool,
    },
    Fjall {
        db: SingleWriterTxDatabase,
        tasks: SingleWriterTxKeyspace,
        index: SingleWriterTxKeyspace,
        outbox: SingleWriterTxKeyspace,
        seen: SingleWriterTxKeyspace,
    },
}

impl Store {
    fn open(mode: &str, dir: &Path) -> Res<Self> {
        fs::create_dir_all(dir)?;
        if mode != "fjall" {
            let db = Database::builder().set_cache_size(CACHE).create(dir.join("store.redb"))?;
            return Ok(Self::Redb { db, quick_repair: mode == "redb-qr" });
        }
        let db = SingleWriterTxDatabase::builder(dir)
            .cache_size(CACHE as u64)
            .max_journaling_size(JOURNAL)
            .open()?;
        let small = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE);
        Ok(Self::Fjall {
            tasks: db.keyspace("tasks", small)?,
            index: db.keyspace("by_status", small)?,
            outbox: db.keyspace("outbox", small)?,
            seen: db.keyspace("seen", small)?,
            db,
        })
    }

    /// The group commit: all creates of a batch and the relay's ack of earlier events, one fsync.
    fn commit(&self, rows: &[Row], acked: std::ops::Range<u64>) -> Res<()> {
        match self {
            Self::Redb { db, quick_repair } => {
                let mut tx = db.begin_write()?;
                tx.set_quick_repair(*quick_repair);
                {
                    let mut tasks = tx.open_table(TASKS)?;
                    let mut index = tx.open_table(INDEX)?;
                    let mut outbox = tx.open_table(OUTBOX)?;
                    for r in rows {
                        if tasks.get(&r.id)?.is_some() {
                            continue;
                        }
                        tasks.insert(&r.id, r.task.as_slice())?;
                        index.insert(&index_key(&r.id), ())?;
                        outbox.insert(r.seq, r.event.as_slice())?;
                    }
                    for seq in acked {
                        outbox.remove(seq)?;
                    }
                }
                tx.commit()?;
            }
            Self::Fjall { db, tasks, index, outbox, .. } => {
                let mut tx = db.write_tx().durability(Some(PersistMode::SyncData));
                for r in rows {
                    if tx.get(tasks, r.id)?.is_some() {
                        continue;
                    }
                    tx.insert(tasks, r.id, r.task.as_slice());
                    tx.insert(index, index_key(&r.id), []);
                    tx.insert(outbox, r.seq.to_be_bytes(), r.event.as_slice());
                }
                for seq in acked {
                    tx.remove(outbox, seq.to_be_bytes());
                }
                tx.commit()?;
            }
        }
        Ok(())
    }

    fn has(&self, id: &[u8; 16]) -> Res<bool> {
        Ok(match self {
            Self::Redb { db, .. } => {
                db.begin_read()?.open_table(TASKS)?.get(id)?.is_some_and(|v| v.value().len() > 9)
            }
            Self::Fjall { tasks, .. } => tasks.get(id)?.is_some_and(|v| v.len() > 9),
        })
    }

    fn range50(&self, from: &[u8; 16]) -> Res<usize> {
        let mut bytes = 0;
        match self {
            Self::Redb { db, .. } => {
                let t = db.begin_read()?.open_table(TASKS)?;
                for kv in t.range::<&[u8; 16]>(from..)?.take(50) {
                    bytes += kv?.1.value().len();
                }
            }
            Self::Fjall { db, tasks, .. } => {
                for kv in db.read_tx().range(tasks, from.to_vec()..).take(50) {
                    bytes += kv.value()?.len();
                }
            }
        }
        Ok(bytes)
    }

    /// The relay's question: which event is the oldest one left? None: scan from the start.
    fn outbox_head(&self, from: u64) -> Res<Option<u64>> {
        Ok(match self {
            Self::Redb { db, .. } => match db.begin_read()?.open_table(OUTBOX) {
                Ok(t) => t.range(from..)?.next().transpose()?.map(|(k, _)| k.value()),
                Err(redb::TableError::TableDoesNotExist(_)) => None,
                Err(e) => return Err(e.into()),
            },
            Self::Fjall { db, outbox, .. } => match db.read_tx().range(outbox, from.to_be_bytes()..).next() {
                Some(kv) => Some(u64::from_be_bytes(kv.key()?.as_ref().try_into()?)),
                None => None,
            },
        })
    }

    fn last_seq(&self) -> Res<u64> {
        Ok(match self {
            Self::Redb { db, .. } => match db.begin_read()?.open_table(OUTBOX) {
                Ok(t) => t.last()?.map_or(0, |(k, _)| k.value()),
                Err(_) => 0,
            },
            Self::Fjall { db, outbox, .. } => match db.read_tx().last_key_value(outbox) {
                Some(kv) => u64::from_be_bytes(kv.key()?.as_ref().try_into()?),
                None => 0,
            },
        })
    }

    /// Insert-if-absent without an fsync; returns how many were new.
    fn see(&self, ids: &[[u8; 16]], durable: bool) -> Res<usize> {
        let mut new = 0;
        match self {
            Self::Redb { db, quick_repair } => {
                let mut tx = db.begin_write()?;
                if durable {
                    tx.set_quick_repair(*quick_repair);
                } else {
                    tx.set_durability(Durability::None)?;
                }
                {
                    let mut t = tx.open_table(SEEN)?;
                    for id in ids {
                        if t.get(id)?.is_none() {
                            t.insert(id, ())?;
                            new += 1;
                        }
                    }
                }
                tx.commit()?;
            }
            Self::Fjall { db, seen, .. } => {
                let mut tx = db.write_tx().durability(None);
                for id in ids {
                    if !tx.contains_key(seen, id)? {
                        tx.insert(seen, *id, []);
                        new += 1;
                    }
                }
                tx.commit()?;
            }
        }
        Ok(new)
    }

    fn seen(&self, id: &[u8; 16]) -> Res<bool> {
        Ok(match self {
            Self::Redb { db, .. } => match db.begin_read()?.open_table(SEEN) {
                Ok(t) => t.get(id)?.is_some(),
                Err(_) => false,
            },
            Self::Fjall { seen, .. } => seen.contains_key(id)?,
        })
    }
}

fn rss_kb() -> u64 {
    let s = fs::read_to_string("/proc/self/status").unwrap_or_default();
    s.lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .and_then(|l| l.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Bytes really allocated (st_blocks), as preallocated files are sparse.
fn disk(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|e| match e.metadata() {
            Ok(m) if m.is_dir() => disk(&e.path()),
            Ok(m) => m.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

fn quantiles(mut v: Vec<f64>) -> (f64, f64) {
    v.sort_by(f64::total_cmp);
    (v[v.len() / 2], v[v.len() * 99 / 100])
}

fn say(line: &str) -> Res<()> {
    let mut o = std::io::stdout().lock();
    writeln!(o, "{line}")?;
    o.flush()?;
    Ok(())
}

/// Child: open (timed), then write batches of 64 until killed.
fn child_run(mode: &str, dir: &Path, until: u64) -> Res<()> {
    let before = rss_kb();
    let t = Instant::now();
    let s = Store::open(mode, dir)?;
    let open = t.elapsed().as_secs_f64() * 1e3;
    let rss = rss_kb();
    let mut seq = s.last_seq()?;
    let ok = seq == 0 || s.has(&id(seq))?;
    say(&format!("open {open:.2} {rss} {before} {seq} {ok}"))?;
    let mut prev = seq.saturating_sub(63)..seq + 1;
    let mut filled = until == 0 || seq >= until;
    loop {
        let r = rows(seq + 1, 64);
        s.commit(&r, prev)?;
        prev = seq + 1..seq + 65;
        seq += 64;
        if !filled && seq >= until {
            filled = true;
            say(&format!("filled {} {}", rss_kb(), disk(dir)))?;
        }
        say(&format!("acked {seq}"))?;
    }
}

/// Child: the dedup set, then on until killed.
fn child_dedup(mode: &str, dir: &Path, until: u64) -> Res<()> {
    let t = Instant::now();
    let s = Store::open(mode, dir)?;
    let open = t.elapsed().as_secs_f64() * 1e3;
    let rss = rss_kb();
    let (mut lo, mut hi) = (0u64, until.max(1_000_000) * 64);
    while lo < hi {
        let mid = (lo + hi) / 2;
        if s.seen(&id(mid))? { lo = mid + 1 } else { hi = mid }
    }
    say(&format!("open {open:.2} {rss} {lo}"))?;
    let (mut seq, start, t, mut filled) = (lo, lo, Instant::now(), false);
    let mut n = 0u64;
    loop {
        // 450 new ids and 50 repeats of recent ones.
        let ids: Vec<_> =
            (0..500)
                .map(|i| {
                    if i < 450 {
                        id(seq + i)
                    } else {
                        id((seq + i).saturating_sub(500 + mix(seq + i) % 5000))
                    }
                })
                .collect();
        s.see(&ids, n % 64 == 63)?;
        n += 1;
        seq += 450;
        if start < until && seq >= until && !filled {
            filled = true;
            say(&format!(
                "filled {} {} {}",
                rss_kb(),
                disk(dir),
                ((seq - start) as f64 / 0.9) / t.elapsed().as_secs_f64()
            ))?;
        }
        say(&format!("acked {seq}"))?;
    }
}

/// Child: the three stores side by side at their present size, alternating.
fn child_compare(base: &Path, sizes: &[u64], secs: f64, reads: bool) -> Res<()> {
    let stores: Vec<_> =
        MODES.iter().map(|m| Ok((*m, Store::open(m, &base.join(m))?))).collect::<Res<_>>()?;
    let mut seqs: Vec<u64> = stores.iter().map(|(_, s)| s.last_seq()).collect::<Res<_>>()?;
    let max = seqs.iter().copied().min().unwrap_or(0);
    for &n in sizes {
        let mut lat = vec![Vec::new(); stores.len()];
        let mut prev = vec![0..0; stores.len()];
        for _ in 0..5 {
            for (i, (_, s)) in stores.iter().enumerate() {
                let t0 = Instant::now();
                while t0.elapsed().as_secs_f64() < secs / 5.0 {
                    let r = rows(seqs[i] + 1, n);
                    let t = Instant::now();
                    s.commit(&r, prev[i].clone())?;
                    lat[i].push(t.elapsed().as_secs_f64() * 1e3);
                    prev[i] = seqs[i] + 1..seqs[i] + 1 + n;
                    seqs[i] += n;
                }
            }
        }
        for (i, (m, _)) in stores.iter().enumerate() {
            let rate = n as f64 * lat[i].len() as f64 / (lat[i].iter().sum::<f64>() / 1e3);
            let worst = lat[i].iter().copied().fold(0.0, f64::max);
            let (p50, p99) = quantiles(lat[i].clone());
            say(&format!("batch {m} {n} {rate:.0} {p50:.3} {p99:.3} {worst:.1}"))?;
        }
    }
    if reads {
        let mut time = BTreeMap::<(&str, &str), (u64, f64)>::new();
        let mut x = 1;
        for _ in 0..5 {
            for (i, (m, s)) in stores.iter().enumerate() {
                for what in ["get", "range", "head", "head-from"] {
                    let t = Instant::now();
                    let mut n = 0;
                    while t.elapsed().as_secs_f64() < 0.3 {
                        x = mix(x);
                        let k = id(1 + x % max);
                        match what {
                            "get" => assert!(s.has(&k)?),
                            "range" => assert!(s.range50(&k)? > 50),
                            "head" => assert!(s.outbox_head(0)?.is_some()),
                            _ => assert!(s.outbox_head(seqs[i] - 10)?.is_some()),
                        }
                        n += 1;
                    }
                    let e = time.entry((m, what)).or_default();
                    e.0 += n;
                    e.1 += t.elapsed().as_secs_f64();
                }
            }
        }
        for ((m, what), (n, t)) in time {
            say(&format!("read {m} {what} {:.0}", n as f64 / t))?;
        }
    }
    Ok(())
}

/// Child: write until the disk is full, make room, see whether the handle recovers.
fn child_full(mode: &str, dir: &Path, ballast: &Path) -> Res<()> {
    let s = Store::open(mode, dir)?;
    let (mut seq, mut prev) = (0, 0..0);
    let first = loop {
        match s.commit(&rows(seq + 1, 64), prev.clone()) {
            Ok(()) => {
                prev = seq + 1..seq + 65;
                seq += 64;
            }
            Err(e) => break e,
        }
    };
    say(&format!("acked {seq}"))?;
    say(&format!("note first: {first}"))?;
    let again = s.commit(&rows(seq + 1, 64), prev.clone()).map_err(|e| e.to_string());
    say(&format!("note again, still full: {again:?}"))?;
    let read = s.has(&id(seq)).map_err(|e| e.to_string());
    say(&format!("note read of the last acknowledged task, still full: {read:?}"))?;
    fs::remove_file(ballast)?;
    let room = s.commit(&rows(seq + 1, 64), prev).map_err(|e| e.to_string());
    say(&format!("note same handle with room: {room:?}"))?;
    if room.is_ok() {
        say(&format!("acked {}", seq + 64))?;
    }
    let t = Instant::now();
    drop(s);
    say(&format!("note close {:.1} ms", t.elapsed().as_secs_f64() * 1e3))?;
    std::process::abort()
}

fn child_check(mode: &str, dir: &Path, acked: u64) -> Res<()> {
    let t = Instant::now();
    let s = Store::open(mode, dir)?;
    let open = t.elapsed().as_secs_f64() * 1e3;
    let mut missing = 0;
    for seq in 1..=acked {
        missing += u64::from(!s.has(&id(seq))?);
    }
    let last = s.last_seq()?;
    let w = s.commit(&rows(last + 1, 64), 0..0).map_err(|e| e.to_string());
    say(&format!(
        "note reopened in {open:.1} ms: {missing} of {acked} acknowledged missing, last event {last}, write {w:?}"
    ))
}

fn spawn(args: &[&str]) -> Res<Child> {
    Ok(Command::new(std::env::current_exe()?).args(args).stdout(Stdio::piped()).spawn()?)
}

/// Runs a child, gives its lines to `f`; where `f` says true the child is killed (-9) `after` later.
fn run(args: &[&str], after: Duration, mut f: impl FnMut(&[&str]) -> bool) -> Res<u64> {
    let mut c = spawn(args)?;
    let out = BufReader::new(c.stdout.take().ok_or("no stdout")?);
    let (mut acked, mut end) = (0, None);
    for line in out.lines() {
        let line = line?;
        let w: Vec<&str> = line.split(' ').collect();
        if let ["acked", n] = w[..] {
            acked = n.parse()?;
        } else if f(&w) {
            end = Some(Instant::now() + after);
        }
        if end.is_some_and(|e| Instant::now() > e) {
            c.kill()?;
            end = None;
        }
    }
    c.wait()?;
    Ok(acked)
}

/// Drops a store's pages from the page cache (dd's nocache is posix_fadvise), for a cold open.
fn cold(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for e in entries.flatten() {
        if e.path().is_dir() {
            cold(&e.path());
        } else {
            let _ = Command::new("dd")
                .arg(format!("if={}", e.path().display()))
                .args(["iflag=nocache", "count=0", "status=none"])
                .status();
        }
    }
}

/// Reads every file once, so that the side-by-side comparison starts with the same page cache for all.
fn warm(dir: &Path) {
    for e in fs::read_dir(dir).into_iter().flatten().flatten() {
        if e.path().is_dir() {
            warm(&e.path());
        } else if let Ok(mut f) = fs::File::open(e.path()) {
            let _ = std::io::copy(&mut f, &mut std::io::sink());
        }
    }
}

fn all(base: &Path, tasks: u64) -> Res<()> {
    if base.exists() {
        fs::remove_dir_all(base)?;
    }
    fs::create_dir_all(base)?;
    let p = |x: PathBuf| x.display().to_string();
    let n = tasks.to_string();
    println!("| what | store | figures |\n| --- | --- | --- |");

    let fresh = p(base.join("fresh"));
    run(&["compare", &fresh, "1,8,64,256", "6", "no"], Duration::ZERO, |w| {
        if let ["batch", m, n, rate, p50, p99, worst] = w {
            println!(
                "| fresh store, batch of {n} | {m} | {rate} creates/s; p50 {p50} ms, p99 {p99} ms, worst {worst} ms |"
            );
        }
        false
    })?;

    let big = base.join("big");
    let mut acked = BTreeMap::new();
    for m in MODES {
        let t = Instant::now();
        let a = run(&["run", m, &p(big.join(m)), &n], Duration::from_millis(700), |w| {
            if let ["filled", rss, disk] = w {
                println!(
                    "| filled with {n} tasks, batches of 64 | {m} | {:.0} s; RSS {} MB; disk {} MB |",
                    t.elapsed().as_secs_f64(),
                    mb(rss, 1 << 10),
                    mb(disk, 1 << 20)
                );
            }
            w[0] == "filled"
        })?;
        acked.insert(m, a);
    }
    for round in ["page cache warm", "page cache warm", "page cache cold"] {
        for m in MODES {
            if round.ends_with("cold") {
                cold(&big.join(m));
            }
            let want = acked[m];
            let a = run(&["run", m, &p(big.join(m)), "0"], Duration::from_millis(700), |w| {
                if let ["open", ms, rss, before, last, ok] = w {
                    let lost = last.parse::<u64>().is_ok_and(|l| l < want) || *ok != "true";
                    println!(
                        "| open after kill -9 at {n}, {round} | {m} | {ms} ms; RSS {} MB (before opening {}); acknowledged and lost: {} |",
                        mb(rss, 1 << 10),
                        mb(before, 1 << 10),
                        if lost { "YES" } else { "none" }
                    );
                }
                w[0] == "open"
            })?;
            acked.insert(m, a);
        }
    }
    warm(&big);
    run(&["compare", &p(big.clone()), "1,64", "4", "yes"], Duration::ZERO, |w| {
        match w {
            ["batch", m, b, rate, p50, p99, worst] => println!(
                "| at {n}, batch of {b} | {m} | {rate} creates/s; p50 {p50} ms, p99 {p99} ms, worst {worst} ms |"
            ),
            ["read", m, what, rate] => println!(
                "| at {n}, {} | {m} | {rate} a second |",
                match *what {
                    "get" => "point reads",
                    "range" => "range of 50 tasks",
                    "head" => "oldest outbox row, from the start",
                    _ => "oldest outbox row, from a known seq",
                }
            ),
            _ => {}
        }
        false
    })?;

    let dedup = base.join("dedup");
    for m in MODES {
        run(&["dedup", m, &p(dedup.join(m)), &n], Duration::from_millis(300), |w| {
            if let ["filled", rss, disk, rate] = w {
                println!(
                    "| dedup set of {n} ids | {m} | {:.0} ids/s; RSS {} MB; disk {} MB |",
                    rate.parse::<f64>().unwrap_or(0.0),
                    mb(rss, 1 << 10),
                    mb(disk, 1 << 20)
                );
            }
            w[0] == "filled"
        })?;
    }
    for _ in 0..2 {
        for m in MODES {
            run(&["dedup", m, &p(dedup.join(m)), &n], Duration::from_millis(300), |w| {
                if let ["open", ms, rss, have] = w {
                    println!(
                        "| dedup set, open after kill -9 | {m} | {ms} ms; RSS {} MB; ids kept {have} |",
                        mb(rss, 1 << 10)
                    );
                }
                w[0] == "open"
            })?;
        }
    }

    let mnt = base.join("small");
    fs::create_dir_all(&mnt)?;
    for m in MODES {
        if !Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
            .arg(&mnt)
            .status()?
            .success()
        {
            println!("| disk full | {m} | not run: mounting a tmpfs needs root |");
            continue;
        }
        let (dir, ballast) = (p(mnt.join(m)), mnt.join("ballast"));
        fs::write(&ballast, vec![1; 12 << 20])?;
        let mut note = |w: &[&str]| {
            if w[0] == "note" {
                println!("| disk full | {m} | {} |", w[1..].join(" "));
            }
            false
        };
        let acked = run(&["full", m, &dir, &p(ballast.clone())], Duration::ZERO, &mut note)?;
        run(&["check", m, &dir, &acked.to_string()], Duration::ZERO, &mut note)?;
        Command::new("umount").arg(&mnt).status()?;
    }
    Ok(())
}

fn mb(s: &str, unit: u64) -> String {
    format!("{:.1}", s.parse::<f64>().unwrap_or(0.0) / unit as f64)
}

fn main() -> Res<()> {
    let a: Vec<String> = std::env::args().skip(1).collect();
    let a: Vec<&str> = a.iter().map(String::as_str).collect();
    match a[..] {
        ["run", m, dir, n] => child_run(m, Path::new(dir), n.parse()?),
        ["dedup", m, dir, n] => child_dedup(m, Path::new(dir), n.parse()?),
        ["compare", dir, sizes, secs, reads] => {
            let sizes: Vec<u64> = sizes.split(',').map(str::parse).collect::<Result<_, _>>()?;
            child_compare(Path::new(dir), &sizes, secs.parse()?, reads == "yes")
        }
        ["full", m, dir, ballast] => child_full(m, Path::new(dir), Path::new(ballast)),
        ["check", m, dir, acked] => child_check(m, Path::new(dir), acked.parse()?),
        ["all", ..] => {
            all(Path::new(a.get(1).unwrap_or(&"target/data")), a.get(2).map_or(Ok(1_000_000), |n| n.parse())?)
        }
        _ => Err("store-bench all [DIR] [TASKS]".into()),
    }
}
