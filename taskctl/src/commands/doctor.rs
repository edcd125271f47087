//! `taskctl doctor`: what is wrong around the services. One line for each thing that was examined: `ok`, `warn`
//! (it works, and may not for long) or `fail` (it does not work, or history is at risk), with what to do.
//!
//! It changes nothing: no record is written, no lock is kept. What cannot be seen from here is said to be so.

mod api;
mod audit;
mod brokers;
mod groups;
mod state;
mod topics;

use std::fmt::Display;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use task_events::config::StateArgs;
use task_events::error_code::Code;

use crate::api::ApiArgs;
use crate::output::{self, cell, table};
use crate::{Context, Error};

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
}

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warn,
    Fail,
}

/// What was examined, and what was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    subject: String,
    found: String,
    /// What to do.
    remedy: Option<String>,
}

/// The findings so far.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, subject: impl Display, found: impl Display) {
        self.add(Level::Ok, subject, found, None);
    }

    fn warn(&mut self, subject: impl Display, found: impl Display, remedy: impl Display) {
        self.add(Level::Warn, subject, found, Some(remedy.to_string()));
    }

    fn fail(&mut self, subject: impl Display, found: impl Display, remedy: impl Display) {
        self.add(Level::Fail, subject, found, Some(remedy.to_string()));
    }

    fn add(&mut self, level: Level, subject: impl Display, found: impl Display, remedy: Option<String>) {
        self.0.push(Finding { level, subject: subject.to_string(), found: found.to_string(), remedy });
    }
}

/// Runs the command. Fails if anything does.
pub async fn run(context: &Context, args: Doctor) -> Result<(), Error> {
    let mut findings = Findings::default();
    if brokers::examine(context, &mut findings).await {
        let events = topics::examine(context, &mut findings).await;
        groups::examine(context, &mut findings).await;
        api::examine(&args.api.address(), events.as_ref(), &mut findings).await;
        audit::examine(context, &args.audit_log_path, &mut findings).await;
    } else {
        api::examine(&args.api.address(), None, &mut findings).await;
    }
    state::examine(&args.state.state_dir, &mut findings);
    output::write(context.format, &findings.0, |findings| text(findings))?;
    match findings.0.iter().filter(|finding| finding.level == Level::Fail).count() {
        0 => Ok(()),
        failed => {
            Err(Error::Refused(Code::ChecksFailed, format!("{failed} of {} checks failed", findings.0.len())))
        }
    }
}

fn text(findings: &[Finding]) -> String {
    let rows = findings.iter().map(|finding| {
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "fail",
        };
        [level.to_owned(), finding.subject.clone(), finding.found.clone(), cell(finding.remedy.as_ref())]
    });
    table(["LEVEL", "SUBJECT", "FOUND", "REMEDY"], rows)
}

/// A duration in words.
fn words(time: std::time::Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match time.as_secs() {
        seconds if seconds >= 2 * DAY => format!("{} d", seconds / DAY),
        seconds if seconds >= 2 * HOUR => format!("{} h", seconds / HOUR),
        seconds if seconds >= 2 * MINUTE => format!("{} min", seconds / MINUTE),
        seconds => format!("{seconds} s"),
    }
}
