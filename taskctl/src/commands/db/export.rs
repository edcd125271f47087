//! `taskctl db export`: moves the tasks of a database into an embedded store, the other direction of `taskctl db import`.
//!
//! How it is done, and what holds whenever it is stopped, is described in [`task_api::store::export`].

use clap::Args;
use serde::Serialize;
use task_api::store::export::{Action, Outcome, Report, export};
use task_events::config::StateArgs;
use task_events::error_code::Coded as _;

use super::place::Database;
use crate::Error;
use crate::output::{self, Format, table};
use crate::progress::Progress;

/// What to move where.
#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    database: Database,
    #[command(flatten)]
    state: StateArgs,
    /// Do it, or finish what an earlier run began
    #[arg(long, conflicts_with = "cancel")]
    execute: bool,
    /// Give up a move that is not finished: the API can be started on the database again
    #[arg(long)]
    cancel: bool,
    /// With --cancel: the folder that the tasks were moved to is lost for good, with all that was done there
    #[arg(long, requires = "cancel")]
    folder_is_lost: bool,
}

#[derive(Debug, Serialize)]
struct Answer {
    from: String,
    store: String,
    tasks: u64,
    idempotent_answers: u64,
    waiting_events: u64,
    outcome: &'static str,
    #[serde(skip)]
    next: &'static str,
}

/// Runs the command.
pub async fn run(format: Format, args: &Export) -> Result<(), Error> {
    let action = match args {
        Export { execute: true, .. } => Action::Execute,
        Export { cancel: true, folder_is_lost: true, .. } => Action::CancelLost,
        Export { cancel: true, .. } => Action::Cancel,
        _ => Action::Plan,
    };
    let moved = {
        let mut progress = Progress::default();
        export(&args.state.state_dir, args.database.url()?, action, &mut progress).await
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
            "A move into this folder is not finished. Add --execute to finish it or to begin it anew, or --cancel to give it up.",
        ),
        Outcome::Moved => (
            "moved",
            "The tasks are in the folder. Start the API with this STATE_DIR and without DATABASE_URL; it does not start on the database.",
        ),
        Outcome::Cancelled => {
            ("cancelled", "The database is as it was before, and the API can be started on it.")
        }
    };
    let contents = report.contents;
    Answer {
        from: report.from.clone(),
        store: report.store.display().to_string(),
        tasks: contents.tasks,
        idempotent_answers: contents.answers,
        waiting_events: contents.events,
        outcome,
        next,
    }
}

fn text(answer: &Answer) -> String {
    let row = [
        answer.from.clone(),
        answer.store.clone(),
        answer.tasks.to_string(),
        answer.idempotent_answers.to_string(),
        answer.waiting_events.to_string(),
        answer.outcome.to_owned(),
    ];
    let text = table(["FROM", "STORE", "TASKS", "ANSWERS", "EVENTS", "OUTCOME"], [row]);
    format!("{text}{}\n", answer.next)
}
