//! `cargo run-all`: the whole system on this machine with one command, which needs nothing but Rust.
//!
//! It builds the binaries, starts a dev broker (or uses the Kafka in KAFKA_BOOTSTRAP_SERVERS), creates the
//! topics, starts the API and the three consumers, shows their logs side by side, gives a tour, and stays
//! up until Ctrl-C, which stops all in order. Whatever goes wrong is one line, and nothing is left running.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod args;
mod browser;
mod build;
mod children;
mod failure;
mod fresh;
mod layout;
mod port;
mod postgres;
mod registry;
mod screen;
mod services;
mod signals;
mod system;
mod taskctl;
mod tour;

use std::process::ExitCode;
use std::sync::Arc;

use args::Args;
use children::Children;
use failure::Failure;
use screen::Screen;
use signals::Signals;
use task_events::command_line;
use task_events::exit::exit_with;
use task_events::logging;

fn main() -> ExitCode {
    if let Some(failure) = children::become_child() {
        exit_with(failure);
    }
    let args: Args = command_line::parse();
    // One thread: a child is bound to the life of the thread that started it.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => exit_with(error),
    };
    let code = runtime.block_on(run(&args));
    logging::flush();
    code
}

async fn run(args: &Args) -> ExitCode {
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => exit_with(format!("cannot listen for signals: {error}")),
    };
    let screen = match Screen::new() {
        Ok(screen) => Arc::new(screen),
        Err(error) => exit_with(format!("cannot write to stdout: {error}")),
    };
    let (mut children, mut ends) = Children::new(Arc::clone(&screen));
    let outcome = tokio::select! {
        // Ctrl-C ends cargo, too, if it is still building: that is no failure then.
        biased;
        () = signals.next() => Ok(()),
        Some(failure) = ends.recv() => Err(failure),
        outcome = system::run(args, &mut children, &screen) => outcome,
    };
    screen.release();
    if let Err(failure) = &outcome {
        screen.error(&failure.to_string());
    }
    let stopped = tokio::select! {
        () = children.stop() => true,
        () = signals.next() => false,
    };
    match (outcome, stopped) {
        (Ok(()), true) => ExitCode::SUCCESS,
        (Err(_), true) => ExitCode::FAILURE,
        (_, false) => {
            children.kill().await;
            ExitCode::from(130)
        }
    }
}
