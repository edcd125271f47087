//! `task-api`: stores tasks and publishes their lifecycle events to Kafka.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

use task_api::args::Args;
use task_events::error_code::{Code, Coded};
use task_events::exit::exit_with_code;

// musl is slow at copying and comparing: these take the place of its memcpy and memcmp.
#[cfg(target_env = "musl")]
use mem_functions as _;

// Events are allocated by one thread and freed by another, which the system's malloc is slow at.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: thread_cache::ThreadCache = thread_cache::ThreadCache;

fn main() {
    let args: Args = task_events::command_line::parse();
    let _last_lines = match task_events::logging::init(&args.log) {
        Ok(last_lines) => last_lines,
        Err(error) => exit_with_code(Code::Logging, format_args!("cannot start logging: {error}")),
    };
    if let Err(error) = task_api::service::run(args) {
        exit_with_code(error.code(), error);
    }
}
