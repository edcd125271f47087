//! What a consumer counts, for Prometheus: under kafka-lag-exporter's names where it has them, under OpenTelemetry's
//! messaging names where not. docs/metrics.md lists them.
//!
//! Every partition keeps its series, whatever state it is in: a lag that vanishes with its owner would alert nobody.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use task_events::metrics::Text;
use task_events::runtime::{PartitionReport, PartitionState, Status};
use task_events::version::version;
use task_events::{kafka, logging};

/// The states of a partition, each a series: one of them is 1.
const STATES: [&str; 4] = ["starting", "standby", "active", "blocked"];

/// What a service adds of its own, once it is open.
pub type OwnMetrics = Box<dyn Fn(&mut Text) + Send + Sync>;
/// What is wrong with it though it goes on, in words.
pub type OwnWarnings = Box<dyn Fn() -> Vec<String> + Send + Sync>;

/// Of a service with which nothing goes wrong in that way.
pub fn no_warnings() -> OwnWarnings {
    Box::new(Vec::new)
}

/// What a service adds to the metrics and to `/readyz`.
pub struct Own {
    /// To the metrics.
    pub metrics: OwnMetrics,
    /// To `/readyz`.
    pub warnings: OwnWarnings,
}

/// The consumer whose metrics these are. Cheap to clone.
#[derive(Clone)]
pub struct Subject {
    /// The service's name.
    pub service: &'static str,
    /// Its group.
    pub group: String,
    /// The topic that it reads.
    pub topic: String,
    /// What it is doing.
    pub status: Status,
    /// What it adds, from when it is open.
    pub own: Arc<OnceLock<Own>>,
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("service", &self.service).field("group", &self.group).finish()
    }
}

/// The metrics in Prometheus's text format. Blocks for a moment.
pub fn render(subject: &Subject) -> String {
    let mut text = Text::default();
    text.process(subject.service, version());
    partitions(&mut text, subject);
    counts(&mut text, subject);
    if let Some(own) = subject.own.get() {
        (own.metrics)(&mut text);
    }
    kafka::render_metrics(&mut text);
    logging::render_metrics(&mut text);
    text.finish()
}

fn partitions(text: &mut Text, subject: &Subject) {
    let report = subject.status.report();
    let reports = || report.partitions.iter().map(|(number, partition)| (number.to_string(), partition));
    let mut gauge = |name: &str, help: &str, value: &dyn Fn(&PartitionReport) -> Option<f64>| {
        text.family(name, "gauge", help);
        for (number, partition) in reports() {
            let labels = [("group", &*subject.group), ("topic", &subject.topic), ("partition", &number)];
            if let Some(value) = value(partition) {
                text.series(name, &labels, value);
            }
        }
    };
    let count = |count: Option<i64>| count.map(|count| count as f64);
    gauge(
        "kafka_consumergroup_group_lag",
        "Events that the group has yet to handle: the end of the log as last fetched less the position.",
        &|partition| count(partition.lag()),
    );
    gauge(
        "kafka_consumergroup_group_lag_seconds",
        "Time for which the first event that the group has yet to handle has waited.",
        &|partition| partition.lag_seconds,
    );
    gauge("kafka_consumergroup_group_offset", "The offset that the group reads next.", &|partition| {
        count(partition.position)
    });
    gauge(
        "task_events_partition_lease_remaining_seconds",
        "Time for which this instance may handle events without another renewal of its lease; 0 where it is not the owner.",
        &|partition| Some(partition.lease_remaining.unwrap_or_default().as_secs_f64()),
    );
    let name = "kafka_partition_latest_offset";
    text.family(name, "gauge", "The offset of the next event to come, as last fetched.");
    for (number, partition) in reports() {
        if let Some(offset) = partition.high_watermark {
            text.series(name, &[("topic", &subject.topic), ("partition", &number)], offset);
        }
    }
    let name = "task_events_partition_state";
    text.family(name, "gauge", "What this instance does with the partition: 1 for the state it is in.");
    for (number, partition) in reports() {
        let current = state(&partition.state);
        for state in STATES {
            let labels = [
                ("group", &*subject.group),
                ("topic", &subject.topic),
                ("partition", &number),
                ("state", state),
            ];
            text.series(name, &labels, u8::from(state == current));
        }
    }
    let sharing = report.sharing;
    let labels = [("group", subject.group.as_str()), ("topic", &subject.topic)];
    for (name, help, value) in [
        (
            "task_events_group_members",
            "Instances that share the partitions, as this one sees them.",
            sharing.members,
        ),
        ("task_events_group_owned_partitions", "Partitions that this instance owns.", sharing.owned),
        ("task_events_group_target_partitions", "Partitions that this instance is to own.", sharing.target),
    ] {
        text.family(name, "gauge", help);
        text.series(name, &labels, u32::try_from(value).unwrap_or(u32::MAX));
    }
    text.single(
        "task_events_consumer_ready",
        "gauge",
        "Whether each partition is active or on standby, and nothing is waited for: what /readyz answers.",
        u8::from(subject.status.is_ready()),
    );
}

fn state(state: &PartitionState) -> &'static str {
    match state {
        PartitionState::Starting => "starting",
        PartitionState::Standby { .. } => "standby",
        PartitionState::Active { .. } => "active",
        PartitionState::Blocked { .. } => "blocked",
    }
}

fn counts(text: &mut Text, subject: &Subject) {
    let stats = subject.status.stats();
    let common = [
        ("messaging_system", "kafka"),
        ("messaging_consumer_group_name", subject.group.as_str()),
        ("messaging_destination_name", subject.topic.as_str()),
    ];
    let name = "messaging_client_consumed_messages_total";
    text.family(name, "counter", "Events by how they ended, since the process started.");
    for (outcome, counter) in [
        ("handled", &stats.handled),
        ("duplicate", &stats.duplicates),
        ("not_of_interest", &stats.not_of_interest),
        ("dead_lettered", &stats.dead_lettered),
    ] {
        let labels = [common.as_slice(), &[("outcome", outcome)]].concat();
        text.series(name, &labels, counter.load(Ordering::Relaxed));
    }
    let name = "messaging_process_retries_total";
    text.family(name, "counter", "Tries to handle an event after its first.");
    text.series(name, &common, stats.retries.load(Ordering::Relaxed));
    text.histogram(
        "messaging_process_duration_seconds",
        "Time to handle a batch of events, until all of them are durable.",
        &common,
        &stats.batches.durations(),
    );
    text.histogram(
        "messaging_client_operation_duration_seconds",
        "Time for a commit to be acknowledged by the offsets topic.",
        &[common.as_slice(), &[("messaging_operation_name", "commit")]].concat(),
        &stats.commits.durations(),
    );
    let name = "task_events_commit_failures_total";
    text.family(name, "counter", "Commits that were not acknowledged.");
    text.series(name, &common, stats.failed_commits.load(Ordering::Relaxed));
    let name = "task_events_partition_moves_total";
    text.family(
        name,
        "counter",
        "Partitions that this instance claimed, gave to another, or lost to another.",
    );
    for (what, counter) in [("claimed", &stats.claimed), ("given", &stats.given), ("lost", &stats.lost)] {
        text.series(name, &[common.as_slice(), &[("what", what)]].concat(), counter.load(Ordering::Relaxed));
    }
    text.histogram(
        "task_events_flush_duration_seconds",
        "Time to make a batch durable: its output or audit lines written, and its ids recorded.",
        &common,
        &stats.flushes.durations(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_is_under_its_type() {
        let metrics: OwnMetrics = Box::new(|text: &mut Text| text.single("own_total", "counter", "Own.", 1));
        let own = Own { metrics, warnings: no_warnings() };
        let subject = Subject {
            service: "s",
            group: "a\"b".to_owned(),
            topic: "task-events".to_owned(),
            status: Status::default(),
            own: Arc::new(OnceLock::from(own)),
        };
        subject.status.stats().handled.store(3, Ordering::Relaxed);
        let text = render(&subject);
        assert!(text.contains("outcome=\"handled\"} 3\n"), "{text}");
        assert!(text.contains("messaging_consumer_group_name=\"a\\\"b\""), "{text}");
        assert!(text.contains("\nown_total 1\n"), "{text}");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let is_typed = |name: &str| text.contains(&format!("# TYPE {name} "));
            assert!(is_typed(name) || family.is_some_and(is_typed), "{line}");
        }
    }
}
