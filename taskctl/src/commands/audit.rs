//! `taskctl audit`: looks at an audit log from outside the service that wrote it.

mod covered;
mod export;
mod repeats;
mod verify;

use clap::Subcommand;

use crate::{Context, Error};

/// What to do with an audit log.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check that a log is whole: every line an event, each event once, in the order of its topic
    ///
    /// The log is the file and the segments beside it that were sealed before, compressed ones included. Where a topic
    /// starts again (it was recreated or truncated), so does its order: that is counted, and not wrong. Needs less than
    /// 64 MB of memory, however long the log is.
    Verify(verify::Verify),
    /// Write the lines of a log and its segments to stdout, oldest first: all, or those of a time, a task or a type
    Export(export::Export),
}

/// Runs the command.
pub fn run(context: &Context, command: Command) -> Result<(), Error> {
    match command {
        Command::Verify(args) => verify::run(context, &args),
        Command::Export(args) => export::run(&args),
    }
}
