//! `taskctl db`: the database that keeps the tasks of API replicas: its schema, and moving an embedded store into it and back.

mod export;
mod import;
mod place;

use clap::Subcommand;
use place::Database;
use serde::Serialize;
use task_events::database::{SchemaState, migrate, state};
use task_events::time::format_time;

use crate::output::{self, table};
use crate::{Error, Format};

/// What to do with the database.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the versions of its schema: those that it has, and those that it lacks; changes nothing
    Status(Database),
    /// Bring its schema up to date, one process at a time, forward only
    Migrate(Database),
    /// Move the tasks of an embedded store into it, with the events that wait: shows what it would do, unless told to
    Import(import::Import),
    /// Move its tasks into an embedded store, with the events that wait: shows what it would do, unless told to
    Export(export::Export),
}

/// A version of the schema.
#[derive(Debug, Serialize)]
struct Row {
    version: i32,
    name: String,
    /// `None`: it is missing.
    applied_at: Option<String>,
}

/// Runs the command.
pub async fn run(format: Format, command: Command) -> Result<(), Error> {
    let args = match &command {
        Command::Import(args) => return import::run(format, args).await,
        Command::Export(args) => return export::run(format, args).await,
        Command::Status(args) | Command::Migrate(args) => args,
    };
    let session = args.connect().await?;
    if matches!(command, Command::Migrate(_)) {
        migrate(&session).await?;
    }
    let found = state(&session).await?;
    output::write(format, &rows(&found), |rows| text(rows))?;
    if matches!(command, Command::Migrate(_)) {
        // Newer than this program can work with.
        found.check()?;
    }
    Ok(())
}

fn rows(state: &SchemaState) -> Vec<Row> {
    let applied = state.applied.iter().map(|applied| Row {
        version: applied.version,
        name: applied.name.clone(),
        applied_at: Some(format_time(applied.applied_at)),
    });
    let pending = state.pending().map(|migration| Row {
        version: migration.version,
        name: migration.name.to_owned(),
        applied_at: None,
    });
    applied.chain(pending).collect()
}

fn text(rows: &[Row]) -> String {
    let rows = rows.iter().map(|row| {
        let applied =
            row.applied_at.clone().unwrap_or_else(|| "pending: run `taskctl db migrate`".to_owned());
        [row.version.to_string(), applied, row.name.clone()]
    });
    table(["VERSION", "APPLIED", "WHAT"], rows)
}
