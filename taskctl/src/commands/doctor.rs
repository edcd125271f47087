//! `taskctl doctor`: what is wrong around the services. One line for each thing that was examined: `ok`, `warn`
//! (it works, and may not for long) or `fail` (it does not work, or history is at risk), with what to do.
//!
//! It changes nothing: no record is written, no lock is kept. What cannot be seen from here is said to be so.

mod api;
mod audit;
mod brokers;
mod database;
mod findings;
mod groups;
mod parts;
mod state;
mod topics;

use std::path::PathBuf;

use clap::Args;
use task_events::config::StateArgs;
use task_events::database::DatabaseArgs;
use task_events::error_code::Code;

use self::findings::{Findings, Level, UNUSABLE_FILE, text};
use crate::api::ApiArgs;
use crate::{Error, Setup, output};

/// Where to look, beside Kafka.
#[derive(Debug, Args)]
pub struct Doctor {
    #[command(flatten)]
    state: StateArgs,
    /// The audit log
    #[arg(long, env = "AUDIT_LOG_PATH", default_value = "audit.log")]
    audit_log_path: PathBuf,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Runs the command. Fails if anything does.
pub async fn run(setup: Setup, args: Doctor) -> Result<(), Error> {
    let mut findings = Findings::default();
    for (subject, why) in setup.unusable() {
        findings.fail(subject, why, UNUSABLE_FILE);
    }
    let context = match setup.context_as_far_as_it_goes() {
        Some(context) => brokers::examine(&context, &mut findings).await.then_some(context),
        None => None,
    };
    match &context {
        Some(context) => {
            let events = topics::examine(context, &mut findings).await;
            groups::examine(context, &mut findings).await;
            api::examine(&args.api.api(), events.as_ref(), &mut findings).await;
            audit::examine(context, &args.audit_log_path, &mut findings).await;
        }
        None => api::examine(&args.api.api(), None, &mut findings).await,
    }
    state::examine(&args.state.state_dir, &mut findings);
    database::examine(&args.database, &mut findings).await;
    output::write(setup.format, &findings.0, |findings| text(findings))?;
    match findings.0.iter().filter(|finding| finding.level == Level::Fail).count() {
        0 => Ok(()),
        failed => {
            Err(Error::Refused(Code::ChecksFailed, format!("{failed} of {} checks failed", findings.0.len())))
        }
    }
}
