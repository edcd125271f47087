//! `taskctl trace`: the life of one event, one task or one request, from what is durable: the API's task, the
//! topic, each group's commits, the audit log and the DLQ.
//!
//! What Kafka has, and how it is put in order, is described in [`task_events::operate::trace`]; from here come the
//! task and the outbox, by the API, and the audit log.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use clap::Args;
use serde::Deserialize;
use task_events::error_code::{Code, Coded};
use task_events::escape::escape_control;
use task_events::operate::trace::{
    Audit, AuditLine, EventHead, Others, Outbox, Report, Task, collect, report,
};
use task_events::redrive::Place;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use crate::api::{Api, ApiArgs, Readiness, get, readiness};
use crate::output::{cell, table};
use crate::progress::Progress;
use crate::{Context, Error, audit_log, output};

/// What to trace.
#[derive(Debug, Args)]
pub struct Trace {
    /// The id of an event or a task, or a correlation id (X-Correlation-ID)
    #[arg(value_name = "ID", value_parser = id)]
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

fn id(text: &str) -> Result<Uuid, &'static str> {
    text.parse().map_err(|_| "not a uuid, such as 01a216b2-569b-7137-befb-bca62242f665")
}

/// Runs the command.
pub async fn run(context: &Context, args: Trace) -> Result<(), Error> {
    let mut progress = Progress::default();
    let mut found =
        collect(&context.kafka, &context.topics, &context.events, args.id, args.since, &mut progress).await;
    let (audit, is_denied) = audit(&args.audit_log_path, args.id).await;
    let api = args.api.api();
    let outbox = outbox(&api, args.id).await;
    let task = match &outbox {
        Ok(outbox) => task(&api, found.task_id(&outbox.events)).await,
        Err(_) => None,
    };
    let report = report(&found, &Others { task, outbox, audit });
    // What cannot be seen is part of the answer, and makes the command fail.
    let unseen = found.unseen.drain(..).next();
    if report.timeline.is_empty() {
        let (id, why) = (args.id, report.missing.join("; "));
        let code = unseen.map_or(Code::NotFound, |unseen| unseen.error.code());
        return Err(Error::Refused(code, format!("nothing is known of {id}: {why}")));
    }
    output::write(context.format, &report, text)?;
    if let Some(unseen) = unseen {
        return Err(unseen.error.into());
    }
    if is_denied {
        let path = args.audit_log_path.display();
        let why = format!("audit log {path} cannot be read: run this as the user of audit-service");
        return Err(Error::Refused(Code::File, why));
    }
    Ok(())
}

/// What waits in the API's outbox, and of it what has to do with the id.
async fn outbox(api: &Api, id: Uuid) -> Result<Outbox, String> {
    #[derive(Default, Deserialize)]
    struct Answer {
        events: Vec<EventHead>,
        is_complete: bool,
    }
    let unknown = |error| format!("Task API {}: {error}: name it with --api", api.address);
    let ready = readiness(api).await.map_err(unknown)?;
    let Answer { events, is_complete } = match get(api, &format!("/live/outbox/{id}")).await {
        Ok((200, answer)) => serde_json::from_value(answer).unwrap_or_default(),
        // An older one has no such path.
        Ok(_) => Answer::default(),
        Err(error) => return Err(unknown(error)),
    };
    let is_complete = is_complete || ready.waiting == 0;
    let Readiness { kafka_is_reachable, waiting, oldest, .. } = ready;
    Ok(Outbox { kafka_is_reachable, waiting, oldest, events, is_complete })
}

/// The lines of the log about an id, and whether this user may not read it: it may as well not be here.
async fn audit(log: &Path, id: Uuid) -> (Audit, bool) {
    let (path, id) = (log.to_owned(), id.to_string());
    let unreadable = |error: String| {
        Audit::Unreadable(format!("{}: {error}: name it with --audit-log-path", log.display()))
    };
    match spawn_blocking(move || audit_log::find(&path, &id)).await {
        Ok(Ok(found)) => (Audit::Lines(found.into_iter().map(line).collect()), false),
        Ok(Err(error)) => (unreadable(error.to_string()), error.kind() == ErrorKind::PermissionDenied),
        Err(error) => (unreadable(error.to_string()), false),
    }
}

fn line(found: audit_log::Found) -> AuditLine {
    let audit_log::Found { place, line: audit_log::Line { event_id, audited_at, kafka } } = found;
    let audit_log::At { topic, partition, offset } = kafka;
    AuditLine { place, event_id, audited_at, source: Place { topic, partition, offset } }
}

/// The task as the API has it.
async fn task(api: &Api, id: Uuid) -> Option<Task> {
    #[derive(Deserialize)]
    struct Answer {
        id: Uuid,
        title: String,
        status: String,
        version: u64,
        updated_at: DateTime<Utc>,
    }
    match get(api, &format!("/tasks/{id}")).await {
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
