//! Measures the whole system: `cargo run --release -p bench -- post`.
//!
//! The broker is a fresh dev broker, or a fresh Apache Kafka with `E2E_BROKER=kafka` and `KAFKA_LIBS`, as for
//! the end-to-end tests. With `--against FOLDER` the binaries in that folder are measured in turn with those
//! of this build, in one run, so that whatever else the machine does falls on both; then the ratios are
//! what counts. Logs are at the default level, as an operator has them.
//!
//! | file | what |
//! | --- | --- |
//! | `avro` | events in Avro, with `--avro`: in turn with JSON, in one run |
//! | `tls` | TLS to Apache Kafka, with `--tls`: in turn with plain connections, in one run |
//! | `post` | POST /tasks: a closed loop, and a fixed rate up to the audit line |
//! | `drain` | how fast a consumer works off a topic |
//! | `history` | one change, and a start after kill -9, with much in the store |
//! | `scaled` | POST /tasks with 1, 2 and 3 replicas on PostgreSQL; a drain by 1, 2 and 3 instances |
//! | `watchers` | POST /tasks with nobody and with 100 watchers of the live page, in turn |
//! | `http` | the load: one thread, as little work for each request as can be |
//! | `build`, `figures` | which binaries are measured, and what came out |
//! | `usage` | what a process used, by the kernel's count |

mod avro;
mod build;
mod drain;
mod figures;
mod history;
mod http;
mod post;
mod scaled;
mod tls;
mod usage;
mod watchers;

use std::collections::BTreeMap;
use std::path::PathBuf;

use build::{AuditKey, Build};
use clap::{Parser, ValueEnum};
use figures::{Figures, medians};
use harness::{Error, Outcome, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// POST /tasks over 64 connections, each with one request in flight
    Post,
    /// The same, each request under an Idempotency-Key of its own
    Keyed,
    /// POST /tasks at so many a second (`--rate`), up to the line in the audit log
    Rate,
    /// The audit service works off a topic
    Audit,
    /// The notification service works off a topic
    Notification,
    /// POST /tasks with nobody and with 100 watchers of the live page, in turn on one API
    Watchers,
    /// A change, and a start after kill -9, with that many tasks in the store (`--tasks`)
    History,
    /// POST /tasks with 1, 2 and 3 replicas on one PostgreSQL (Debian's), over 64 connections to each; of this build
    Replicas,
    /// 1, 2 and 3 instances of the audit service, which share six partitions, work off a topic; of this build
    Instances,
}

/// Measures the system, in turn with other builds of it.
#[derive(Debug, Parser)]
struct Args {
    /// What to measure
    #[arg(required = true)]
    what: Vec<What>,
    /// A folder of other binaries to measure in the same run
    #[arg(long, value_name = "FOLDER")]
    against: Vec<PathBuf>,
    /// Measure this build with events in Avro, too, in the same run; the ratios are those of Avro to the others
    #[arg(long)]
    avro: bool,
    /// Measure this build with TLS to Kafka, too, in the same run; the ratios are those of TLS to the others. Needs
    /// E2E_BROKER=kafka
    #[arg(long)]
    tls: bool,
    /// Measure this build with its tasks in PostgreSQL (Debian's), too, in the same run; the ratios are those of
    /// PostgreSQL to the others
    #[arg(long)]
    postgres: bool,
    /// Measure this build with the key in this file for the audit log, too, in the same run; the ratios are those with a
    /// key to the others. Made by `taskctl audit keygen`
    #[arg(long, value_name = "FILE")]
    audit_key: Option<PathBuf>,
    /// How often; the medians count
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of load
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Requests a second of `rate`: up to where an answer takes eight times as long as from one to the next
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Events in a topic that is worked off
    #[arg(long, default_value_t = 200_000)]
    events: usize,
    /// Ids of events that rise with time, as the API makes them, and not random ones, as others may
    #[arg(long)]
    ordered_ids: bool,
    /// Tasks in the store before a measurement
    #[arg(long, default_value_t = 10_000)]
    tasks: usize,
    /// Write all figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Outcome {
    let args = Args::parse();
    harness::measure_kafka();
    let plain = |label: &str| Build { label: label.to_owned(), ..Build::default() };
    let mut builds = vec![plain("this")];
    if args.avro {
        let avro = Some(avro::Avro::start().await?);
        builds.insert(0, Build { avro, ..plain("this, with Avro") });
    }
    if args.tls {
        let tls = Some(tls::Tls::new()?);
        builds.insert(0, Build { tls, ..plain("this, with TLS") });
    }
    if args.postgres {
        let postgres = harness::Postgres::start("")?;
        if postgres.is_some() {
            builds.insert(0, Build { postgres, ..plain("this, on PostgreSQL") });
        }
    }
    if let Some(key) = &args.audit_key {
        let file = std::path::absolute(key).expect("a path");
        let logs = tempfile::tempdir().map_err(|error| Error::file(&std::env::temp_dir(), error))?;
        builds.insert(
            0,
            Build { audit_key: Some(AuditKey { file, logs }), ..plain("this, with an audit key") },
        );
    }
    builds.extend(args.against.iter().map(|folder| Build {
        label: folder.display().to_string(),
        folder: Some(std::path::absolute(folder).expect("a path")),
        ..Build::default()
    }));
    let mut all = BTreeMap::new();
    for what in &args.what {
        let mut runs: Vec<Vec<Figures>> = builds.iter().map(|_| Vec::new()).collect();
        for round in 1..=args.rounds {
            for (build, runs) in builds.iter().zip(&mut runs) {
                let figures = measure(*what, build, &args).await?;
                let all_of_them: Vec<_> =
                    figures.iter().map(|(name, value)| format!("{name} {}", shown(*value))).collect();
                eprintln!("{what:?}, round {round}, {}: {}", build.label, all_of_them.join(", "));
                runs.push(figures);
            }
        }
        show(*what, &builds, &runs);
        let figures = builds.iter().zip(&runs).map(|(build, runs)| (build.label.clone(), medians(runs)));
        let figures: BTreeMap<_, BTreeMap<_, _>> =
            figures.map(|(label, figures)| (label, figures.into_iter().collect())).collect();
        all.insert(format!("{what:?}").to_lowercase(), figures);
    }
    if let Some(file) = args.json {
        let text = serde_json::to_string_pretty(&all).expect("figures are JSON");
        std::fs::write(&file, text + "\n").map_err(|error| harness::Error::file(&file, error))?;
    }
    Ok(())
}

async fn measure(what: What, build: &Build, args: &Args) -> Result<Figures> {
    match what {
        What::Post => post::closed_loop(build, args.seconds, false).await,
        What::Keyed => post::closed_loop(build, args.seconds, true).await,
        What::Rate => post::at_rate(build, args.seconds, args.rate).await,
        What::Audit => drain::audit(build, args.events, args.ordered_ids).await,
        What::Notification => drain::notification(build, args.events, args.ordered_ids).await,
        What::Watchers => watchers::run(build, args.seconds).await,
        What::History => history::run(build, args.tasks).await,
        What::Replicas => scaled::replicas(args.seconds).await,
        What::Instances => scaled::instances(args.events).await,
    }
}

/// With three digits at least: a ratio, or a few microseconds, means little without.
fn shown(value: f64) -> String {
    if value.abs() < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") }
}

/// A line for each figure: the medians, and the ratios to the first build.
fn show(what: What, builds: &[Build], runs: &[Vec<Figures>]) {
    let medians: Vec<Figures> = runs.iter().map(|runs| medians(runs)).collect();
    println!("\n{what:?}");
    for (index, (name, first)) in medians[0].iter().enumerate() {
        print!("  {name:<34} {:>12}", shown(*first));
        for (build, figures) in builds.iter().zip(&medians).skip(1) {
            let other = figures[index].1;
            print!("   {}: {} (this is {:.2} of it)", build.label, shown(other), first / other);
        }
        println!();
    }
}
