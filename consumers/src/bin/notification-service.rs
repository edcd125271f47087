//! Writes a notification, or sends a webhook, for each new and each completed task.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

use consumers::args::{NotificationArgs, Notifier};
use consumers::lines::Sink;
use consumers::service::{self, Reads};
use consumers::{notification, webhook};
use task_events::services::NOTIFICATION;

// musl is slow at copying and comparing: these take the place of its memcpy and memcmp.
#[cfg(target_env = "musl")]
use mem_functions as _;

// Events are allocated by one thread and freed by another, which the system's malloc is slow at.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: thread_cache::ThreadCache = thread_cache::ThreadCache;

fn main() {
    let NotificationArgs { notifier, webhook, group, common } = task_events::command_line::parse();
    let reads = Reads {
        name: NOTIFICATION,
        group,
        topic: common.topics.task_events_topic.clone(),
        dlq_topic: Some(common.topics.dlq_topic.clone()),
    };
    let (format, lease) = (common.log.log_format, common.lease.lease());
    let registry = common.registry.clone();
    if let (Notifier::Webhook, Some((config, secrets))) = (notifier, webhook.config()) {
        return service::run(&common, reads, move |state_dir| {
            webhook::open(state_dir, config, &secrets, registry.reader(Some(state_dir)))
        });
    }
    service::run(&common, reads, move |state_dir| {
        notification::open(state_dir, Sink::stdout(format, lease)?, registry.reader(Some(state_dir)))
    });
}
