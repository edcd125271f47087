//! Logs the events that a consumer could not handle, and counts them.

use std::convert::Infallible;

use consumers::args::DlqArgs;
use consumers::dead_letters;
use consumers::service::{self, Reads};

// musl is slow at copying and comparing: these take the place of its memcpy and memcmp.
#[cfg(target_env = "musl")]
use mem_functions as _;

// musl's malloc has one lock for all threads.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: thread_cache::ThreadCache = thread_cache::ThreadCache;

fn main() {
    let DlqArgs { group, common } = task_events::config::parse();
    let reads =
        Reads { name: "dlq-processor", group, topic: common.topics.dlq_topic.clone(), dlq_topic: None };
    service::run(&common, reads, |_| Ok::<_, Infallible>(dead_letters::open()));
}
