//! `taskctl trace`: the life of one event, one task or one request, from what is durable: the API's task, the
//! topic, each group's commits, the audit log and the DLQ.
//!
//! What Kafka has, and how it is put in order, is described in [`task_events::operate::trace`]; from here come the
//! task and the outbox, by the API, and the audit log.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use clap::Args;
use serde::Deserialize;
use task_events::error_code::Code;
use task_events::escape::escape_control;
use task_events::operate::trace::{Audit, AuditLine, Others, Outbox, Report, Task, collect, report};
use task_events::redrive::Place;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use crate::api::{ApiArgs, get, readiness};
use crate::output::{cell, table};
use crate::progress::Progress;
use crate::{Context, Error, audit_log, output};

/// What to trace.
#[derive(Debug, Args)]
pub struct Trace {
    /// The id of an event or a task, or a correlation id (X-Correlation-ID)
    #[arg(value_name = "ID")]
    id: Uuid,
    /// Read the topic from this time on (RFC 3339) [default: from when the id was made; of a correlation id, all]
    #[arg(long, value_name = "TIME", value_parser = crate::args::time)]
    since: Option<DateTime<Utc>>,
    /// The audit log
    #[arg(long, env = "AUDIT_LOG_PATH", default_value = "audit.log")]
    audit_log_path: PathBuf,
    #[command(flatten)]
    api: ApiArgs,
}

/// Runs the command.
pub async fn run(context: &Context, args: Trace) -> Result<(), Error> {
    let mut progress = Progress::default();
    let found = collect(&context.kafka, &context.topics, args.id, args.since, &mut progress).await?;
    let audit = audit(&args.audit_log_path, args.id).await;
    let address = args.api.address();
    let api = readiness(&address).await;
    let task = match &api {
        Ok(_) => task(&address, found.task_id()).await,
        Err(_) => None,
    };
    let outbox = match api {
        Ok(api) => Ok(Outbox {
            kafka_is_reachable: api.kafka_is_reachable,
            waiting: api.waiting,
            oldest: api.oldest,
        }),
        Err(error) => Err(format!("Task API {address}: {error}: name it with --api")),
    };
    let report = report(&found, &Others { task, outbox, audit });
    if report.timeline.is_empty() {
        let why = report.missing.join("; ");
        return Err(Error::Refused(Code::NotFound, format!("nothing is known of {}: {why}", args.id)));
    }
    output::write(context.format, &report, text)?;
    Ok(())
}

async fn audit(log: &Path, id: Uuid) -> Audit {
    let (path, id) = (log.to_owned(), id.to_string());
    let unreadable = |error: String| {
        Audit::Unreadable(format!("{}: {error}: name it with --audit-log-path", log.display()))
    };
    match spawn_blocking(move || audit_log::find(&path, &id)).await {
        Ok(Ok(found)) => Audit::Lines(found.into_iter().map(line).collect()),
        Ok(Err(error)) => unreadable(error.to_string()),
        Err(error) => unreadable(error.to_string()),
    }
}

fn line(found: audit_log::Found) -> AuditLine {
    let audit_log::Found { place, line: audit_log::Line { event_id, audited_at, kafka } } = found;
    let audit_log::At { topic, partition, offset } = kafka;
    AuditLine { place, event_id, audited_at, source: Place { topic, partition, offset } }
}

/// The task as the API has it.
async fn task(address: &str, id: Uuid) -> Option<Task> {
    #[derive(Deserialize)]
    struct Answer {
        id: Uuid,
        title: String,
        status: String,
        version: u64,
        updated_at: DateTime<Utc>,
    }
    match get(address, &format!("/tasks/{id}")).await {
        Ok((200, task)) => {
            let Answer { id, title, status, version, updated_at } = serde_json::from_value(task).ok()?;
            Some(Task { id, title, status, version, updated_at })
        }
        _ => None,
    }
}

fn text(report: &Report) -> String {
    let cells = report.timeline.iter().map(|entry| {
        let event = entry.event.clone();
        [entry.time.clone(), entry.stage.clone(), entry.place.clone(), cell(event), entry.detail.clone()]
    });
    let mut text = table(["TIME", "STAGE", "PLACE", "EVENT", "DETAIL"], cells);
    match report.missing.as_slice() {
        [] => text.push_str("Nothing is missing.\n"),
        missing => {
            text.push_str("Missing:\n");
            for missing in missing {
                text.push_str(&format!("  {}\n", escape_control(missing)));
            }
        }
    }
    text
}
