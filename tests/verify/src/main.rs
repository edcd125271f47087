//! `verify`: load, faults, and a check that nothing was lost.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use harness::Kind as BrokerKind;
use harness::requests::write_lines;
use harness::{Error, Result};
use harness::{Load, LoadConfig, Script};
use tokio::signal::unix::{SignalKind, signal};
use verify::api::base;
use verify::check::Report;
use verify::plan::{Fault, Plan, Planned};
use verify::scaled::{
    self, check,
    evidence::Strike,
    plan::{ScaledFault, ScaledPlan},
};
use verify::{round, soak};

mod comparison;
mod show;

/// Said to the copy of this program that has a mount namespace of its own.
const UNSHARED: &str = "VERIFY_UNSHARED";

/// Proves that nothing is lost: puts a system under load, hurts it, and compares what was answered with
/// what is in Kafka and in the audit log. Exit code 1: something is wrong.
#[derive(Debug, Parser)]
#[command(name = "verify", version)]
struct Cli {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// Rounds of faults, chosen by seeds, each on a fresh system on this machine
    Run(RunArgs),
    /// One round without a broker for a while, at a steady rate
    Outage(OutageArgs),
    /// Memory of each service over many events
    Soak(SoakArgs),
    /// Creates, changes and completes tasks of an API that runs, and writes a history
    Load(LoadArgs),
    /// Compares a history with audit logs, and with Kafka
    Check(comparison::CheckArgs),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum BrokerArg {
    /// The embedded broker
    Dev,
    /// Apache Kafka; KAFKA_LIBS names the folder of its jars
    Kafka,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Rounds; that of seed S, then S+1, …
    #[arg(long, default_value_t = 10)]
    rounds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Which broker
    #[arg(long, value_enum, default_value = "dev")]
    broker: BrokerArg,
    /// Three replicas of the API on a PostgreSQL, three instances of each consumer, six partitions
    #[arg(long, conflicts_with = "faults")]
    scaled: bool,
    /// Faults to choose from, with commas; all unless given
    #[arg(long, value_enum, value_delimiter = ',')]
    faults: Vec<Fault>,
    /// The same with --scaled
    #[arg(long, value_enum, value_delimiter = ',', requires = "scaled")]
    scaled_faults: Vec<ScaledFault>,
    /// With --scaled: how much later than a lease after a kill a partition may be owned again
    #[arg(long, default_value_t = 1, requires = "scaled")]
    margin_seconds: u64,
    /// With --scaled: how much later than 1 s after a stop a partition may be owned again, in milliseconds
    #[arg(long, default_value_t = 300, requires = "scaled")]
    stop_margin_ms: u64,
    /// Requests a second; 0 for as many as the API answers; chosen by the seed unless given
    #[arg(long)]
    rate: Option<u32>,
    /// How long a round's load lasts
    #[arg(long, default_value_t = 10)]
    round_seconds: u64,
    /// Where rounds are kept that found something
    #[arg(long)]
    keep: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct OutageArgs {
    /// How long the broker is unreachable
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Requests a second
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Which broker
    #[arg(long, value_enum, default_value = "dev")]
    broker: BrokerArg,
    /// Where the round is kept if it finds something
    #[arg(long)]
    keep: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct SoakArgs {
    /// Events
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// Requests a second; as many as the API answers unless given
    #[arg(long)]
    rate: Option<u32>,
    /// Which broker
    #[arg(long, value_enum, default_value = "dev")]
    broker: BrokerArg,
}

#[derive(Debug, Args)]
struct LoadArgs {
    /// Where the API is, as http://HOST:PORT
    #[arg(long)]
    api: String,
    /// How long
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Where the history goes, one JSON object a request
    #[arg(long)]
    history: PathBuf,
    /// Connections
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Requests a second; as many as the API answers unless given
    #[arg(long)]
    rate: Option<u32>,
    /// Decides what is asked
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl BrokerArg {
    fn kind(self) -> BrokerKind {
        match self {
            Self::Dev => BrokerKind::Dev,
            Self::Kafka => BrokerKind::Kafka,
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Sub::Run(args) = &cli.command
        && may_need_root(args)
        && std::env::var_os(UNSHARED).is_none()
    {
        let error = unshare();
        eprintln!("no mount namespace of its own ({error}): disks that get full or fail may not be tried");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(until_signal(cli.command)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn may_need_root(args: &RunArgs) -> bool {
    !args.scaled && (args.faults.is_empty() || args.faults.iter().any(|fault| fault.needs_root()))
}

/// Becomes a copy of itself whose mounts are gone when it ends, however it ends. Returns only if that
/// fails.
fn unshare() -> std::io::Error {
    match std::env::current_exe() {
        Ok(program) => {
            let mut command = Command::new("unshare");
            command.args(["--mount", "--"]).arg(program).args(std::env::args_os().skip(1));
            command.env(UNSHARED, "1").exec()
        }
        Err(error) => error,
    }
}

/// Ends early on a signal; what was started is killed then.
async fn until_signal(command: Sub) -> Result<bool> {
    let failed = |error| Error::Failed(format!("cannot listen for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    tokio::select! {
        done = run(command) => done,
        _ = interrupt.recv() => Err(Error::Failed("interrupted".to_owned())),
        _ = terminate.recv() => Err(Error::Failed("terminated".to_owned())),
    }
}

async fn run(command: Sub) -> Result<bool> {
    match command {
        Sub::Run(args) => rounds(&args).await,
        Sub::Outage(args) => outage(&args).await,
        Sub::Soak(args) => soak(&args).await,
        Sub::Load(args) => load(&args).await,
        Sub::Check(args) => comparison::run(&args).await,
    }
}

/// Where rounds are kept.
fn keep_in(keep: Option<&PathBuf>) -> PathBuf {
    keep.cloned().unwrap_or_else(|| std::env::temp_dir().join(format!("verify-{}", std::process::id())))
}

async fn rounds(args: &RunArgs) -> Result<bool> {
    let root = keep_in(args.keep.as_ref());
    let mut total = Report::default();
    let (mut unsound, mut strikes) = (Vec::new(), Vec::new());
    for seed in args.seed..args.seed.saturating_add(args.rounds) {
        let report = if args.scaled {
            scaled_round(args, seed, &root, &mut strikes).await?
        } else {
            let faults = if args.faults.is_empty() { Fault::value_variants() } else { &args.faults };
            let plan = Plan::of(seed, faults, Duration::from_secs(args.round_seconds), args.rate);
            one_round(&plan, args.broker, &root).await?
        };
        if !report.is_sound() {
            unsound.push(seed);
            println!("  to repeat it: {}", repeat(args, seed));
        }
        total.add(report);
    }
    if args.scaled {
        total.checks.push(check::hits(&strikes));
    }
    println!("\n{} rounds\n{total}", args.rounds);
    for seed in &unsound {
        println!("seed {seed} found something: {}", repeat(args, *seed));
    }
    Ok(total.is_sound())
}

/// The command that repeats one round.
fn repeat(args: &RunArgs, seed: u64) -> String {
    let broker = args.broker.to_possible_value().map(|value| value.get_name().to_owned());
    let mut command = format!("verify run --rounds 1 --seed {seed} --broker {}", broker.unwrap_or_default());
    if args.scaled {
        command += &format!(" --scaled --margin-seconds {}", args.margin_seconds);
        command += &format!(" --stop-margin-ms {}", args.stop_margin_ms);
        let names: Vec<_> = args.scaled_faults.iter().map(|fault| fault.name()).collect();
        if !names.is_empty() {
            command += &format!(" --scaled-faults {}", names.join(","));
        }
    }
    if !args.faults.is_empty() {
        let names: Vec<_> = args.faults.iter().map(|fault| fault.name()).collect();
        command += &format!(" --faults {}", names.join(","));
    }
    if let Some(rate) = args.rate {
        command += &format!(" --rate {rate}");
    }
    command + &format!(" --round-seconds {}", args.round_seconds)
}

async fn one_round(plan: &Plan, broker: BrokerArg, root: &Path) -> Result<Report> {
    show::begin(plan.seed, plan.connections, plan.rate, &plan.describe());
    let folder = round::folder_for(root, plan.seed)?;
    // Boxed: it nests more deeply than the compiler looks.
    let round = Box::pin(round::run(plan, broker.kind(), &folder)).await?;
    let (requests, topic) = (&round.evidence.requests, round.evidence.topic.as_ref());
    let (report, events) = (&round.report, topic.map_or(0, Vec::len));
    show::end(&show::Ended { report, requests, events, drained: round.drained }, root, &folder);
    Ok(round.report)
}

async fn scaled_round(args: &RunArgs, seed: u64, root: &Path, strikes: &mut Vec<Strike>) -> Result<Report> {
    let faults =
        if args.scaled_faults.is_empty() { ScaledFault::value_variants() } else { &args.scaled_faults };
    let margins = [Duration::from_secs(args.margin_seconds), Duration::from_millis(args.stop_margin_ms)];
    let plan = ScaledPlan::of(seed, faults, Duration::from_secs(args.round_seconds), args.rate, margins);
    show::begin(seed, plan.connections, plan.rate, &plan.describe());
    let folder = round::folder_for(root, seed)?;
    let round = Box::pin(scaled::run(&plan, args.broker.kind(), &folder)).await?;
    let missing = "--scaled needs PostgreSQL (Debian: apt-get install postgresql)";
    let round = round.ok_or_else(|| Error::failed(missing))?;
    let topics = round.evidence.partitions.iter().filter_map(|partition| partition.topic.as_ref());
    let (report, requests) = (&round.report, &round.evidence.requests);
    let (events, drained) = (topics.map(Vec::len).sum(), round.drained);
    strikes.extend(round.evidence.strikes.iter().cloned());
    show::end(&show::Ended { report, requests, events, drained }, root, &folder);
    Ok(round.report)
}

async fn outage(args: &OutageArgs) -> Result<bool> {
    let away = Planned {
        fault: Fault::KillBroker,
        at: Duration::from_secs(5),
        lasts: Duration::from_secs(args.seconds),
        percent: 100,
    };
    let plan = Plan {
        seed: 0,
        load: Duration::from_secs(args.seconds + 10),
        connections: 32,
        rate: Some(args.rate),
        faults: vec![away],
    };
    let report = one_round(&plan, args.broker, &keep_in(args.keep.as_ref())).await?;
    println!("{report}");
    Ok(report.is_sound())
}

async fn soak(args: &SoakArgs) -> Result<bool> {
    let folder = keep_in(None);
    std::fs::create_dir_all(&folder).map_err(|source| Error::File { path: folder.clone(), source })?;
    let sizes = |sizes: &[u64]| {
        let columns = sizes.iter().map(|kib| format!("{:>16.1}", *kib as f64 / 1024.0));
        columns.collect::<String>()
    };
    let said = |events, kib: &[u64]| println!("{events:>10}{}", sizes(kib));
    println!("resident MiB of api, notification-1, notification-2, audit-1, dlq");
    let done = Box::pin(soak::run(args.events, args.rate, args.broker.kind(), &folder, said)).await?;
    let names = done.names.iter().map(|name| format!("{name:>16}")).collect::<String>();
    println!("\n{:>10}{names}", "EVENTS");
    for (events, kib) in &done.samples {
        println!("{events:>10}{}", sizes(kib));
    }
    println!("{:.0} events a second; growth after the first tenth:", done.rate);
    for (name, kib) in done.growth() {
        println!("  {name}: {:+.1} MiB", kib as f64 / 1024.0);
    }
    for line in done.wrong_lines.iter().take(5) {
        println!("  {line}");
    }
    drop(std::fs::remove_dir_all(&folder));
    println!("{}", if done.is_sound() { "flat, and the audit log is right" } else { "NOT flat, or wrong" });
    Ok(done.is_sound())
}

async fn load(args: &LoadArgs) -> Result<bool> {
    let config =
        LoadConfig::new(&base(&args.api), args.connections, args.rate, Script::Random { seed: args.seed });
    let mut load = Load::start(config, true)?;
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let requests = load.finish().await?.requests;
    let done = requests.iter().filter(|request| request.done().is_some()).count();
    write_lines(&args.history, &requests)?;
    println!("{} requests, {done} answered 2xx, in {}", requests.len(), args.history.display());
    Ok(done > 0)
}
