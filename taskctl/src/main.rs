//! `taskctl`: the operator's command. See [`taskctl`], the library.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

use std::io;
use std::process::ExitCode;

use task_events::command_line;
use task_events::exit::exit_with;
use taskctl::Cli;

fn main() -> ExitCode {
    let cli: Cli = command_line::parse();
    if let Err(error) = taskctl::log_to_stderr() {
        exit_with(error);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => exit_with(error),
    };
    match runtime.block_on(cli.run()) {
        Ok(()) => ExitCode::SUCCESS,
        // `taskctl tail | head`: the reader has what it wanted.
        Err(taskctl::Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => exit_with(error),
    }
}
