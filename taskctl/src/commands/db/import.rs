//! `taskctl db import`: moves the tasks of an embedded store into PostgreSQL.
//!
//! How it is done, and what holds whenever it is stopped, is described in [`task_api::store::import`].

use clap::Args;
use serde::Serialize;
use task_api::store::import::{Action, Outcome, Report, import};
use task_events::config::StateArgs;
use task_events::error_code::Coded as _;

use super::place::Database;
use crate::Error;
use crate::output::{self, Format, table};
use crate::progress::Progress;

/// What to move where.
#[derive(Debug, Args)]
pub struct Import {
    #[command(flatten)]
    database: Database,
    #[command(flatten)]
    state: StateArgs,
    /// Do it, or finish what an earlier run began
    #[arg(long, conflicts_with = "cancel")]
    execute: bool,
    /// Give up a move that is not finished: the API can be started on the embedded store again
    #[arg(long)]
    cancel: bool,
    /// With --cancel: the database that the tasks were moved to is lost for good, with all that was done there
    #[arg(long, requires = "cancel")]
    database_is_lost: bool,
}

#[derive(Debug, Serialize)]
struct Answer {
    store: String,
    to: String,
    tasks: u64,
    idempotent_answers: u64,
    waiting_events: u64,
    /// Changes that the counts leave out.
    changes_in_log: u64,
    is_former_version: bool,
    outcome: &'static str,
    #[serde(skip)]
    next: &'static str,
}

/// Runs the command.
pub async fn run(format: Format, args: &Import) -> Result<(), Error> {
    let action = match args {
        Import { execute: true, .. } => Action::Execute,
        Import { cancel: true, database_is_lost: true, .. } => Action::CancelLost,
        Import { cancel: true, .. } => Action::Cancel,
        _ => Action::Plan,
    };
    let moved = {
        let mut progress = Progress::default();
        import(&args.state.state_dir, args.database.url()?, action, &mut progress).await
    };
    let report = moved.map_err(|error| Error::Refused(error.code(), error.to_string()))?;
    output::write(format, &answer(&report), text)?;
    Ok(())
}

fn answer(report: &Report) -> Answer {
    let (outcome, next) = match report.outcome {
        Outcome::Planned => ("planned", "Nothing was changed: this is a dry run. Add --execute to do it."),
        Outcome::Unfinished => (
            "unfinished",
            "A move of this store is not finished. Add --execute to finish it, or --cancel to give it up.",
        ),
        Outcome::Moved => (
            "moved",
            "The tasks are in the database. Start the API with this DATABASE_URL; it does not start without it on this store.",
        ),
        Outcome::MovedBefore => ("moved before", "Nothing was changed: the tasks are in the database."),
        Outcome::Cancelled => {
            ("cancelled", "The database has nothing of the store, which is as it was before.")
        }
    };
    let contents = report.contents;
    Answer {
        store: report.store.display().to_string(),
        to: report.to.clone(),
        tasks: contents.tasks,
        idempotent_answers: contents.answers + contents.former_answers,
        waiting_events: contents.events,
        changes_in_log: report.unapplied,
        is_former_version: report.is_former,
        outcome,
        next,
    }
}

fn text(answer: &Answer) -> String {
    let row = [
        answer.store.clone(),
        answer.to.clone(),
        answer.tasks.to_string(),
        answer.idempotent_answers.to_string(),
        answer.waiting_events.to_string(),
        answer.outcome.to_owned(),
    ];
    let text = table(["STORE", "TO", "TASKS", "ANSWERS", "EVENTS", "OUTCOME"], [row]);
    let mut notes = String::new();
    if answer.changes_in_log > 0 {
        notes += &format!(
            "The API was not stopped in order: {} changes and notes of deliveries are in the log only, and are not counted.\n",
            answer.changes_in_log
        );
    }
    if answer.is_former_version {
        notes += "The store is of a former version, which --execute brings up to date for good.\n";
    }
    format!("{text}{notes}{}\n", answer.next)
}
