//! `taskctl dlq redrive`: hands dead letters to the group that failed them again.
//!
//! What is planned and done, and what an operator sees before, is described in [`task_events::operate::plan`].

use clap::Args;
use task_events::error_code::Code;
use task_events::operate::letters::LetterName;
use task_events::operate::plan::{Outcome, Plan, PlanError, Selection, Topics};
use task_events::shutdown;

use super::filter::Filter;
use crate::output::{self, cell, table};
use crate::progress::Progress;
use crate::{Context, Error};

/// Which dead letters to redrive.
#[derive(Debug, Args)]
pub struct Redrive {
    /// PARTITION/OFFSET as `taskctl dlq list` shows it, or an event id
    #[arg(value_name = "ID")]
    ids: Vec<LetterName>,
    #[command(flatten)]
    filter: Filter,
    /// All dead letters, where neither ids nor filters are given
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// Also those that were redriven before
    #[arg(long)]
    again: bool,
    /// Do it
    #[arg(long)]
    execute: bool,
}

/// Runs the command.
pub async fn run(context: &Context, args: &Redrive) -> Result<(), Error> {
    let selection = Selection { names: args.ids.clone(), filter: args.filter.filter(), again: args.again };
    if selection.names.is_empty() && selection.filter.is_empty() && !args.all {
        let why = "say which dead letters: ids, a filter (--group, --kind, --since, --until), or --all";
        return Err(Error::Refused(Code::Selection, why.to_owned()));
    }
    let Context { kafka, topics, .. } = context;
    let at = Topics { dlq: &topics.dlq_topic, offsets: &topics.offsets_topic };
    let mut progress = Progress::default();
    let mut plan = match Plan::make(kafka, at, &selection, &mut progress).await {
        Err(PlanError::NoMatch) => {
            args.filter.check_group(context).await?;
            return Err(error(PlanError::NoMatch));
        }
        made => made.map_err(error)?,
    };
    if args.execute {
        let interrupted = shutdown::on_signals()?;
        match interrupted.or(plan.execute(kafka, &topics.dlq_topic, &mut progress)).await {
            Some(outcome) => outcome.map_err(error)?,
            None => {
                let why = format!("interrupted ({})", plan.progress());
                return Err(Error::Refused(Code::NotRedriven, why));
            }
        }
    }
    output::write(context.format, &plan, text)?;
    match plan.failed {
        0 => Ok(()),
        failed => Err(Error::Refused(
            Code::NotRedriven,
            format!("{failed} dead letters were not redriven: see OUTCOME"),
        )),
    }
}

fn error(error: PlanError) -> Error {
    match error {
        PlanError::Kafka(error) => error.into(),
        PlanError::Interrupted { .. } => Error::Refused(Code::NotRedriven, error.to_string()),
        PlanError::Unknown(_) | PlanError::NoMatch => {
            Error::Refused(Code::NotFound, format!("{error}: see `taskctl dlq list`"))
        }
    }
}

fn text(answer: &Plan) -> String {
    let cells = answer.letters.iter().map(|each| {
        let outcome = match &each.outcome {
            Outcome::Planned => "would be redriven".to_owned(),
            Outcome::Redriven(to) => format!("redriven to {to}"),
            Outcome::Skipped(to) => format!("skipped: redriven to {to}"),
            Outcome::Failed(why) => format!("failed: {why}"),
        };
        let notes = Some(each.notes.join("; ")).filter(|notes| !notes.is_empty());
        [
            each.id.clone(),
            each.group.clone(),
            each.kind.clone(),
            each.source.clone(),
            cell(each.task_id.as_ref()),
            outcome,
            cell(notes),
        ]
    });
    let mut text = table(["ID", "GROUP", "KIND", "SOURCE", "TASK", "OUTCOME", "NOTES"], cells);
    if !answer.executed {
        text.push_str("Nothing was changed: this is a dry run. Add --execute to do it.\n");
    }
    text
}
