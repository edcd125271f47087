//! `verify check`: compares a history with what a system holds, or checks the evidence of a kept round again.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use clap::Args;
use harness::requests::read_lines;
use harness::{Error, Result};
use verify::api::{all_tasks, base};
use verify::check::check;
use verify::evidence::{AuditLog, Evidence, RelaySaid, Told};
use verify::scaled::{self, evidence::ScaledEvidence};
use verify::system;

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// What `verify load` wrote
    #[arg(long, required_unless_present = "round")]
    history: Option<PathBuf>,
    /// The audit logs of one group
    #[arg(long)]
    audit_log: Vec<PathBuf>,
    /// The log of the API: explains duplicates in the topic
    #[arg(long)]
    api_log: Option<PathBuf>,
    /// The logs of the notification instances
    #[arg(long)]
    notification_log: Vec<PathBuf>,
    /// Kafka, to read the topic (of one partition) and the offsets
    #[arg(long)]
    bootstrap: Option<String>,
    /// The API, to read the tasks, as http://HOST:PORT
    #[arg(long)]
    api: Option<String>,
    /// Topic of the events
    #[arg(long, default_value = harness::EVENTS)]
    events_topic: String,
    /// Topic of claims and commits
    #[arg(long, default_value = harness::OFFSETS)]
    offsets_topic: String,
    /// Group of the audit logs
    #[arg(long, default_value = "audit-service")]
    audit_group: String,
    /// Group of the notifications
    #[arg(long, default_value = "notification-service")]
    notification_group: String,
    /// Others use the system, too: events that the history does not have are counted, not reported
    #[arg(long)]
    shared: bool,
    /// The kept folder of a round that found something: checks that again
    #[arg(long, conflicts_with_all = ["history", "audit_log", "bootstrap", "api"])]
    round: Option<PathBuf>,
}

/// Compares, and prints what was found.
pub(crate) async fn run(args: &CheckArgs) -> Result<bool> {
    if let Some(evidence) = args.round.as_deref().map(ScaledEvidence::read).transpose()?.flatten() {
        let report = scaled::check::check(&evidence);
        println!("{report}");
        return Ok(report.is_sound());
    }
    let evidence = match (&args.round, &args.history) {
        (Some(folder), _) => Evidence::read(folder)?,
        (None, Some(history)) => collect(args, history).await?,
        (None, None) => return Err(Error::Failed("--history or --round is needed".to_owned())),
    };
    let report = check(&evidence);
    println!("{report}");
    Ok(report.is_sound())
}

async fn collect(args: &CheckArgs, history: &Path) -> Result<Evidence> {
    let mut evidence = match &args.bootstrap {
        Some(bootstrap) => system::read_kafka(bootstrap, &args.events_topic, &args.offsets_topic).await?,
        None => Evidence::default(),
    };
    if args.bootstrap.is_none() && args.audit_log.is_empty() {
        return Err(Error::Failed(
            "what is the history to be compared with? Give --bootstrap or --audit-log".to_owned(),
        ));
    }
    evidence.requests = read_lines(history)?;
    if let Some(api) = &args.api {
        evidence.tasks = Some(all_tasks(&base(api)).await?);
    }
    evidence.shared = args.shared;
    evidence.audit_group.clone_from(&args.audit_group);
    evidence.notification_group.clone_from(&args.notification_group);
    for path in &args.audit_log {
        // A log that is not there is one without lines only where it is known to be the right one.
        if let Err(source) = std::fs::metadata(path) {
            return Err(Error::File { path: path.clone(), source });
        }
        evidence.audit_logs.push(AuditLog::read(path, None)?);
    }
    if let Some(path) = &args.api_log {
        evidence.relay = Some(text(path)?.lines().filter_map(RelaySaid::parse).collect());
    }
    if !args.notification_log.is_empty() {
        let mut told = Vec::new();
        for path in &args.notification_log {
            told.extend(text(path)?.lines().filter_map(|line| Told::parse(line, None)));
        }
        evidence.told = Some(told);
    }
    evidence.not_drained = not_drained(&evidence);
    Ok(evidence)
}

/// What the groups whose work is known have still to do of what the history asked for.
fn not_drained(evidence: &Evidence) -> Option<Vec<String>> {
    let asked: HashSet<&str> = evidence.requests.iter().map(|one| one.correlation_id.as_str()).collect();
    let topic = evidence.topic.as_ref()?.iter();
    let last =
        topic.filter(|seen| asked.contains(seen.correlation_id.as_str())).map(|seen| seen.offset).max();
    let audit = (!evidence.audit_logs.is_empty()).then_some(&evidence.audit_group);
    let notification = evidence.told.as_ref().map(|_| &evidence.notification_group);
    let groups = audit.into_iter().chain(notification);
    let end = last.map_or(0, |last| last + 1);
    Some(groups.filter_map(|group| system::behind(&evidence.offsets, group, end)).collect())
}

fn text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })
}
