//! Faults that a test switches on, so that the dev broker is as unkind as a cluster can be. They are
//! topic configs under `devbroker.`, set and deleted at run time by CreateTopics, AlterConfigs or
//! IncrementalAlterConfigs; a broker that was not started with [`crate::Config::faults`] (`--faults`,
//! `DEVBROKER_FAULTS`) does not know them.
//!
//! | config | value | effect |
//! | --- | --- | --- |
//! | `devbroker.empty.fetches` | partitions | a fetch waits and answers without records and without an error, as a broker whose remote tier is slow |
//! | `devbroker.hang` | partitions | a fetch or produce gets no answer |
//! | `devbroker.offline` | partitions | no leader: LEADER_NOT_AVAILABLE in Metadata, NOT_LEADER_OR_FOLLOWER elsewhere |
//! | `devbroker.hold.high.watermark` | partitions | the high watermark stays, as with a slow follower: appended records cannot be seen, acks=all ends with REQUEST_TIMED_OUT |
//! | `devbroker.fetch.error` | error code | fetches fail with it |
//! | `devbroker.produce.error` | error code | produces fail with it; 7 and 20 after the append, others instead of it |
//! | `devbroker.fetch.throttle.ms` | milliseconds | every second fetch answers with this throttle time and nothing else |
//! | `devbroker.produce.throttle.ms` | milliseconds | produces are appended and answered with this throttle time |
//! | `devbroker.delay.ms` | milliseconds | answers to fetches and produces come this much later |
//! | `devbroker.truncate` | `partition:offset` | once, when it is set: an unclean election; the log loses what is at and after the offset, the leader epoch rises |
//!
//! Partitions are `all` or numbers with commas. A connection that was throttled is not read for that
//! time (KIP-219).

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::time::Duration;

use kafka_protocol::error::ResponseError;

/// What the names of these configs begin with.
pub(crate) const PREFIX: &str = "devbroker.";
/// Longest throttle time and delay.
const MAX_MS: u64 = 600_000;

/// The partitions of a topic that a fault strikes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Partitions {
    all: bool,
    some: BTreeSet<i32>,
}

impl Partitions {
    pub fn contains(&self, index: i32) -> bool {
        self.all || self.some.contains(&index)
    }
}

impl FromStr for Partitions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self { all: true, some: BTreeSet::new() });
        }
        let number = |part: &str| part.trim().parse().map_err(|_| format!("'{part}' is no partition"));
        Ok(Self { all: false, some: text.split(',').map(number).collect::<Result<_, _>>()? })
    }
}

/// Where to cut a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Truncation {
    pub partition: i32,
    pub offset: i64,
}

/// The faults of one topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    pub empty_fetches: Partitions,
    pub hang: Partitions,
    pub offline: Partitions,
    pub hold_high_watermark: Partitions,
    pub fetch_error: Option<ResponseError>,
    pub produce_error: Option<ResponseError>,
    pub fetch_throttle: Duration,
    pub produce_throttle: Duration,
    pub delay: Duration,
    pub truncate: Option<Truncation>,
}

impl Faults {
    /// Reads them from a topic's configs; the error text is for the client.
    pub fn of(configs: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut faults = Self::default();
        for (name, value) in configs {
            let Some(fault) = name.strip_prefix(PREFIX) else { continue };
            let set = match fault {
                "empty.fetches" => value.parse().map(|partitions| faults.empty_fetches = partitions),
                "hang" => value.parse().map(|partitions| faults.hang = partitions),
                "offline" => value.parse().map(|partitions| faults.offline = partitions),
                "hold.high.watermark" => {
                    value.parse().map(|partitions| faults.hold_high_watermark = partitions)
                }
                "fetch.error" => error(value).map(|error| faults.fetch_error = Some(error)),
                "produce.error" => error(value).map(|error| faults.produce_error = Some(error)),
                "fetch.throttle.ms" => duration(value).map(|duration| faults.fetch_throttle = duration),
                "produce.throttle.ms" => duration(value).map(|duration| faults.produce_throttle = duration),
                "delay.ms" => duration(value).map(|duration| faults.delay = duration),
                "truncate" => truncation(value).map(|cut| faults.truncate = Some(cut)),
                _ => return Err(format!("Unknown topic config name: {name}")),
            };
            set.map_err(|why| format!("Invalid value {value} for configuration {name}: {why}"))?;
        }
        Ok(faults)
    }
}

fn error(value: &str) -> Result<ResponseError, String> {
    let error = value.parse::<i16>().ok().and_then(ResponseError::try_from_code);
    let known = error.filter(|error| !matches!(error, ResponseError::Unknown(_)));
    known.ok_or_else(|| "must be an error code of Kafka's protocol".to_owned())
}

fn duration(value: &str) -> Result<Duration, String> {
    match value.parse() {
        Ok(ms) if ms <= MAX_MS => Ok(Duration::from_millis(ms)),
        _ => Err(format!("must be from 0 to {MAX_MS}")),
    }
}

fn truncation(value: &str) -> Result<Truncation, String> {
    let parts = value.split_once(':');
    let parsed = parts.and_then(|(partition, offset)| {
        Some(Truncation { partition: partition.parse().ok()?, offset: offset.parse().ok()? })
    });
    parsed
        .filter(|cut| cut.partition >= 0 && cut.offset >= 0)
        .ok_or_else(|| "must be partition:offset".to_owned())
}
