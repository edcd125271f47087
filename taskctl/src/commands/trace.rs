//! `taskctl trace`: the life of one event, one task or one request, from what is durable: the API's task, the
//! topic, each group's commits, the audit log and the DLQ.
//!
//! It reads each of them once and puts what it finds in order of time. What should be there and is not comes last,
//! with the reason where one can be seen from here.

mod collect;
mod report;

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::Args;
use uuid::Uuid;

use task_events::error_code::Code;

use crate::api::ApiArgs;
use crate::{Context, Error, output};

/// What to trace.
#[derive(Debug, Args)]
pub struct Trace {
    /// The id of an event or a task, or a correlation id (X-Correlation-ID)
    #[arg(value_name = "ID")]
    id: Uuid,
    /// Read the topic from this time on (RFC 3339) [default: from when the id was made; of a correlation id, all]
    #[arg(long, value_name = "TIME", value_parser = super::dlq::time)]
    since: Option<DateTime<Utc>>,
    /// The audit log
    #[arg(long, env = "AUDIT_LOG_PATH", default_value = "audit.log")]
    audit_log_path: PathBuf,
    #[command(flatten)]
    api: ApiArgs,
}

/// Runs the command.
pub async fn run(context: &Context, args: Trace) -> Result<(), Error> {
    let found = collect::collect(context, &args).await?;
    let report = report::report(&args, &found);
    if report.timeline.is_empty() {
        let why = report.missing.join("; ");
        return Err(Error::Refused(Code::NotFound, format!("nothing is known of {}: {why}", args.id)));
    }
    output::write(context.format, &report, report::text)?;
    Ok(())
}
