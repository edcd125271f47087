//! `taskctl`: the operator's command. See [`taskctl`], the library.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

use std::io::{self, Write};
use std::process::ExitCode;

use clap::CommandFactory;
use task_events::command_line;
use task_events::error_code::{Code, Coded};
use task_events::exit::exit_with_code;
use taskctl::Cli;

fn main() -> ExitCode {
    if std::env::args_os().len() <= 1 {
        return usage();
    }
    let cli: Cli = command_line::parse();
    if let Err(error) = taskctl::log_to_stderr() {
        exit_with_code(Code::Logging, error);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => exit_with_code(Code::System, error),
    };
    match runtime.block_on(cli.run()) {
        Ok(()) => ExitCode::SUCCESS,
        // `taskctl tail | head`: the reader has what it wanted.
        Err(taskctl::Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => exit_with_code(error.code(), error),
    }
}

/// Without a command: the help, as bad usage.
fn usage() -> ExitCode {
    // There is nowhere left to report a stderr that nobody reads.
    let _ = write!(io::stderr(), "{}", Cli::command().render_help());
    ExitCode::from(2)
}
