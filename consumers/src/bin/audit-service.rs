//! Writes every task event to an audit log, each exactly once.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

use consumers::args::AuditArgs;
use consumers::audit::{self, Records, Settings};
use consumers::service::{self, Reads};
use task_events::services::AUDIT;

// musl is slow at copying and comparing: these take the place of its memcpy and memcmp.
#[cfg(target_env = "musl")]
use mem_functions as _;

// Events are allocated by one thread and freed by another, which the system's malloc is slow at.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: thread_cache::ThreadCache = thread_cache::ThreadCache;

fn main() {
    let AuditArgs { group, audit_log_path, segments, audit_key_file, witness, common } =
        task_events::command_line::parse();
    let reads = Reads {
        name: AUDIT,
        group,
        topic: common.topics.task_events_topic.clone(),
        dlq_topic: Some(common.topics.dlq_topic.clone()),
    };
    let registry = common.registry.clone();
    let (kafka, of_group, topic) = (common.kafka.clone(), reads.group.clone(), reads.topic.clone());
    service::run(&common, reads, move |state_dir| {
        let reader = registry.reader(Some(state_dir));
        let signer = audit_key_file.as_deref().map(audit::read_key).transpose()?;
        let (limits, witness) = (segments.limits(), witness.settings()?);
        let records = signer.is_some().then(|| Records { kafka: kafka.kafka(&of_group), topic });
        let settings = Settings { limits, signer, witness, records };
        audit::open_and_rotate(&audit_log_path, state_dir, settings, reader)
    });
}
