//! Logs each event that a consumer could not handle, and counts them.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

use consumers::args::DlqArgs;
use consumers::dead_letters;
use consumers::lines::Sink;
use consumers::service::{self, Reads};
use task_events::services::DLQ_PROCESSOR;

// musl is slow at copying and comparing: these take the place of its memcpy and memcmp.
#[cfg(target_env = "musl")]
use mem_functions as _;

// Events are allocated by one thread and freed by another, which the system's malloc is slow at.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: thread_cache::ThreadCache = thread_cache::ThreadCache;

fn main() {
    let DlqArgs { group, common } = task_events::command_line::parse();
    let reads = Reads { name: DLQ_PROCESSOR, group, topic: common.topics.dlq_topic.clone(), dlq_topic: None };
    let (format, lease) = (common.log.log_format, common.lease.lease());
    service::run(&common, reads, move |_| Sink::stdout(format, lease).map(dead_letters::open));
}
