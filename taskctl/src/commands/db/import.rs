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
use crate::output::{self, Format, cell, table};
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
}

#[derive(Debug, Serialize)]
struct Answer {
    store: String,
    to: String,
    tasks: Option<u64>,
    idempotent_answers: Option<u64>,
    waiting_events: Option<u64>,
    outcome: &'static str,
    #[serde(skip)]
    next: &'static str,
}

/// Runs the command.
pub async fn run(format: Format, args: &Import) -> Result<(), Error> {
    let action = match args {
        Import { execute: true, .. } => Action::Execute,
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
        tasks: contents.map(|contents| contents.tasks),
        idempotent_answers: contents.map(|contents| contents.answers + contents.former_answers),
        waiting_events: contents.map(|contents| contents.events),
        outcome,
        next,
    }
}

fn text(answer: &Answer) -> String {
    let row = [
        answer.store.clone(),
        answer.to.clone(),
        cell(answer.tasks),
        cell(answer.idempotent_answers),
        cell(answer.waiting_events),
        answer.outcome.to_owned(),
    ];
    let text = table(["STORE", "TO", "TASKS", "ANSWERS", "EVENTS", "OUTCOME"], [row]);
    format!("{text}{}\n", answer.next)
}
