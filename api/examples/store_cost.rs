//! What a change costs, in processor time and in bytes written, against how much is stored; and how long a start
//! takes after a kill.
//!
//! ```text
//! cargo run --release -p task-api --example store_cost -- FOLDER STEPS...
//! ```
//!
//! A step is `fill=N` (until there are N tasks), `keys=N` (tasks under idempotency keys until N were made),
//! `create=N`, `keyed=N`, `patch=N` (measured: so many changes, 64 at a time), `alone=N` (one after the other),
//! `kill` (the process is aborted, and starts again: the time to open the store is printed).

use std::fs;
use std::path::Path;
use std::process::{Command, exit};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use task_api::store::{Delivered, Filter, IdempotencyKey, Mutation, Outcome, Preconditions, Store};
use task_api::task::{Change, NewTask, TaskPatch};
use task_api::title::Title;
use tokio::task::JoinSet;
use uuid::Uuid;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Clients at one time.
const CLIENTS: u64 = 64;
/// Events between two deliveries: as in a request of the relay.
const DELIVER_EACH: u64 = 1_000;
/// What the system counts processor time in.
const TICK: Duration = Duration::from_millis(10);

/// What the process has used so far.
struct Usage {
    processor: Duration,
    written: u64,
    at: Instant,
}

impl Usage {
    fn now() -> Result<Self, Failure> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        let (_, fields) = stat.rsplit_once(')').ok_or("no stat")?;
        let ticks =
            |index: usize| fields.split_whitespace().nth(index).and_then(|field| field.parse::<u32>().ok());
        let ticks = ticks(11).zip(ticks(12)).map(|(user, system)| user + system).ok_or("no times")?;
        let io = fs::read_to_string("/proc/self/io")?;
        let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).ok_or("no bytes")?;
        Ok(Self { processor: TICK * ticks, written: written.parse()?, at: Instant::now() })
    }

    fn print_since(&self, step: &str, changes: u64) -> Result<(), Failure> {
        let now = Self::now()?;
        let each = |value: f64| value / changes.max(1) as f64;
        println!(
            "{step}: {:.1} µs of processor, {:.0} bytes written, {:.1} µs each",
            each((now.processor - self.processor).as_secs_f64() * 1e6),
            each((now.written - self.written) as f64),
            each(self.at.elapsed().as_secs_f64() * 1e6)
        );
        Ok(())
    }
}

fn mutation(change: Change, is_keyed: bool) -> Mutation {
    let key = || IdempotencyKey { key: Uuid::new_v4().to_string(), fingerprint: "5a".repeat(32) };
    Mutation {
        change,
        preconditions: Preconditions::default(),
        idempotency: is_keyed.then(key),
        correlation_id: Uuid::new_v4(),
        traceparent: None,
        actor: None,
    }
}

fn new_task(number: u64) -> Change {
    let title = Title::parse(&format!("Write the report number {number}")).expect("a title");
    Change::Create(NewTask { title, owner_id: None })
}

/// Makes so many changes, and takes their events out of the outbox.
async fn change(
    store: &Store,
    changes: u64,
    clients: u64,
    make: impl Fn(u64) -> Mutation + Clone + Send + 'static,
) -> Result<(), Failure> {
    let next = Arc::new(AtomicU64::new(0));
    let mut running = JoinSet::new();
    for _ in 0..clients {
        let (store, make, next) = (store.clone(), make.clone(), Arc::clone(&next));
        running.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= changes {
                    return Ok::<_, Failure>(());
                }
                let outcome = store.mutate(make(number)).await?;
                if !matches!(outcome, Outcome::Done(_)) {
                    return Err(format!("{outcome:?}").into());
                }
                let state = *store.outbox().borrow();
                if number % DELIVER_EACH == 0 && state.waiting > 0 {
                    let seqs = (state.last_seq + 1 - state.waiting..=state.last_seq).collect();
                    store.delivered_with_others(Delivered { seqs, ..Delivered::default() }).await?;
                }
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(())
}

async fn step(store: &Store, step: &str) -> Result<(), Failure> {
    let (name, count) = step.split_once('=').unwrap_or((step, "0"));
    let count: u64 = count.parse()?;
    let before = Usage::now()?;
    match name {
        "fill" => {
            let there = store.outbox().borrow().last_seq;
            change(store, count.saturating_sub(there), 512, |number| mutation(new_task(number), false))
                .await?;
        }
        "keys" => change(store, count, 512, |number| mutation(new_task(number), true)).await?,
        "create" => change(store, count, CLIENTS, |number| mutation(new_task(number), false)).await?,
        "keyed" => change(store, count, CLIENTS, |number| mutation(new_task(number), true)).await?,
        "alone" => change(store, count, 1, |number| mutation(new_task(number), false)).await?,
        "patch" => {
            let page = store.list(Filter::default(), None, 200).await?;
            let tasks: Vec<Uuid> = page.tasks.iter().map(|task| task.id).collect();
            let patch = move |number: u64| {
                let index = usize::try_from(number).unwrap_or(0) % tasks.len();
                let id = tasks.get(index).copied().unwrap_or_default();
                let title = Title::parse(&format!("changed {number}")).ok();
                mutation(Change::Patch(id, TaskPatch { title, ..TaskPatch::default() }), false)
            };
            change(store, count, CLIENTS, patch).await?;
        }
        other => return Err(format!("no such step: {other}").into()),
    }
    before.print_since(step, count)
}

fn run() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (folder, steps) = arguments.split_first().ok_or("FOLDER STEPS...")?;
    fs::create_dir_all(folder)?;
    let began = Instant::now();
    let (store, writer) = Store::open(Path::new(folder))?;
    println!(
        "opened in {:.1} ms, with {} events",
        began.elapsed().as_secs_f64() * 1e3,
        store.outbox().borrow().last_seq
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    for (index, next) in steps.iter().enumerate() {
        if next == "kill" {
            let rest = steps.get(index + 1..).unwrap_or_default();
            // What is waited for by the next process is that this one is gone.
            let program = std::env::current_exe()?;
            let mut shell = Command::new("sh");
            shell.arg("-c").arg("sleep 0.3; exec \"$@\"").arg("sh").arg(program).arg(folder).args(rest);
            let child = shell.spawn()?;
            println!("killed; process {} goes on", child.id());
            std::process::abort();
        }
        runtime.block_on(step(&store, next))?;
    }
    drop((store, runtime));
    let began = Instant::now();
    if writer.join().is_err() {
        return Err("the writer panicked".into());
    }
    println!("closed in {:.1} ms", began.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

fn main() {
    if let Err(error) = run() {
        eprintln!("{error}");
        exit(1);
    }
}
