//! `taskctl dlq`: the events that a group could not handle. List them, show one, hand them to their group again.

mod filter;
mod redrive;
mod show;

use clap::{Args, Subcommand};
use task_events::escape::cut;
use task_events::operate::letters::{LetterRow, read_all};

use self::filter::Filter;
use crate::output::{self, cell, table};
use crate::progress::Progress;
use crate::{Context, Error};

/// Characters of an error that a table shows.
const MESSAGE_CHARS: usize = 70;

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the dead letters, oldest first
    List(List),
    /// Show one dead letter whole: its error, its event, what became of it
    Show(show::Show),
    /// Hand dead letters to the group that failed them again; a dry run without --execute
    ///
    /// A copy of the event is written to its topic, for that group alone. An event that was handled is not handled
    /// again, however often it is redriven.
    Redrive(redrive::Redrive),
}

/// What to list.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    filter: Filter,
    /// Only what was not redriven yet
    #[arg(long)]
    open: bool,
    /// The newest N; 0 for all
    #[arg(long, value_name = "N", default_value = "100")]
    limit: usize,
}

/// Runs the command.
pub async fn run(context: &Context, command: Command) -> Result<(), Error> {
    match command {
        Command::List(args) => list(context, &args).await,
        Command::Show(args) => show::run(context, &args).await,
        Command::Redrive(args) => redrive::run(context, &args).await,
    }
}

async fn list(context: &Context, args: &List) -> Result<(), Error> {
    let all = read_all(&context.kafka, &context.topics.dlq_topic, &mut Progress::default()).await?;
    let filter = args.filter.filter();
    if !all.iter().any(|letter| filter.matches(letter)) {
        args.filter.check_group(context).await?;
    }
    let wanted = all.iter().filter(|letter| filter.matches(letter));
    let wanted: Vec<_> = wanted.filter(|letter| !args.open || letter.redriven.is_none()).collect();
    let hidden = if args.limit == 0 { 0 } else { wanted.len().saturating_sub(args.limit) };
    let rows: Vec<_> = wanted.iter().skip(hidden).map(|letter| LetterRow::new(letter)).collect();
    output::write(context.format, &rows, |rows| {
        let cells = rows.iter().map(|row| {
            [
                row.id.clone(),
                seconds(&row.failed_at),
                row.group.clone(),
                row.kind.clone(),
                row.source.clone(),
                cell(row.task_id.as_ref()),
                cell(row.redriven_at.as_deref().map(seconds)),
                cut(&row.message, MESSAGE_CHARS),
            ]
        });
        let mut text =
            table(["ID", "FAILED-AT", "GROUP", "KIND", "SOURCE", "TASK", "REDRIVEN", "ERROR"], cells);
        if hidden > 0 {
            text.push_str(&format!("{hidden} older ones are not shown: see --limit\n"));
        }
        text
    })?;
    Ok(())
}

/// A time without its fraction of a second.
fn seconds(time: &str) -> String {
    time.split_once('.').map_or_else(|| time.to_owned(), |(seconds, _)| format!("{seconds}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_short_times_and_messages() {
        assert_eq!(seconds("2026-01-15T10:30:00.123456Z"), "2026-01-15T10:30:00Z");
        assert_eq!(seconds("?"), "?");
    }
}
