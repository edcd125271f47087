//! The topic configs that Kafka knows: their types, defaults and limits.

use std::collections::BTreeMap;

use task_events::kafka::records::Codec;

use crate::faults::{self, Faults};

/// A config's type, with the code that DescribeConfigs uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Boolean = 1,
    String = 2,
    Int = 3,
    Long = 5,
    Double = 6,
    List = 7,
}

/// A topic config: name, type, default.
pub(crate) struct Definition {
    pub name: &'static str,
    pub kind: Kind,
    pub default: &'static str,
}

const fn config(name: &'static str, kind: Kind, default: &'static str) -> Definition {
    Definition { name, kind, default }
}

const MAX_LONG: &str = "9223372036854775807";

/// Every topic config of Kafka 4.3, in the order of their names.
pub(crate) const DEFINITIONS: &[Definition] = &[
    config("cleanup.policy", Kind::List, "delete"),
    config("compression.gzip.level", Kind::Int, "-1"),
    config("compression.lz4.level", Kind::Int, "9"),
    config("compression.type", Kind::String, "producer"),
    config("compression.zstd.level", Kind::Int, "3"),
    config("delete.retention.ms", Kind::Long, "86400000"),
    config("file.delete.delay.ms", Kind::Long, "60000"),
    config("flush.messages", Kind::Long, MAX_LONG),
    config("flush.ms", Kind::Long, MAX_LONG),
    config("follower.replication.throttled.replicas", Kind::List, ""),
    config("index.interval.bytes", Kind::Int, "4096"),
    config("leader.replication.throttled.replicas", Kind::List, ""),
    config("local.retention.bytes", Kind::Long, "-2"),
    config("local.retention.ms", Kind::Long, "-2"),
    config("max.compaction.lag.ms", Kind::Long, MAX_LONG),
    config("max.message.bytes", Kind::Int, "1048588"),
    config("message.timestamp.after.max.ms", Kind::Long, "3600000"),
    config("message.timestamp.before.max.ms", Kind::Long, MAX_LONG),
    config("message.timestamp.type", Kind::String, "CreateTime"),
    config("min.cleanable.dirty.ratio", Kind::Double, "0.5"),
    config("min.compaction.lag.ms", Kind::Long, "0"),
    config("min.insync.replicas", Kind::Int, "1"),
    config("preallocate", Kind::Boolean, "false"),
    config("remote.log.copy.disable", Kind::Boolean, "false"),
    config("remote.log.delete.on.disable", Kind::Boolean, "false"),
    config("remote.storage.enable", Kind::Boolean, "false"),
    config("retention.bytes", Kind::Long, "-1"),
    config("retention.ms", Kind::Long, "604800000"),
    config("segment.bytes", Kind::Int, "1073741824"),
    config("segment.index.bytes", Kind::Int, "10485760"),
    config("segment.jitter.ms", Kind::Long, "0"),
    config("segment.ms", Kind::Long, "604800000"),
    config("unclean.leader.election.enable", Kind::Boolean, "false"),
];

/// The definition of a config, when Kafka knows it.
pub(crate) fn definition(name: &str) -> Option<&'static Definition> {
    DEFINITIONS.iter().find(|known| known.name == name)
}

/// Kafka's rule for topic names; the error says what is wrong.
pub(crate) fn check_topic_name(name: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name == "." || name == ".." {
        Err(format!("topic name is invalid: '{name}'"))
    } else if name.len() > 249 {
        Err("topic name is invalid: longer than 249 characters".into())
    } else if !name.chars().all(legal) {
        Err(format!(
            "topic name is invalid: '{}' has a character other than ASCII letters, digits, '.', '_' and '-'",
            name.escape_debug()
        ))
    } else {
        Ok(())
    }
}

/// The configs of one topic: what was set, and the values the broker acts on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TopicConfig {
    pub overrides: BTreeMap<String, String>,
    pub compact: bool,
    pub delete: bool,
    pub log_append_time: bool,
    /// Milliseconds; negative is for ever.
    pub retention_ms: i64,
    /// Bytes of a partition; negative is without limit.
    pub retention_bytes: i64,
    pub segment_bytes: u64,
    pub segment_ms: i64,
    pub min_cleanable_dirty_ratio: f64,
    pub delete_retention_ms: i64,
    pub min_compaction_lag_ms: i64,
    pub max_message_bytes: usize,
    pub timestamp_after_max_ms: i64,
    /// What batches are compressed with; `None` leaves that to the producer.
    pub codec: Option<Codec>,
    pub faults: Faults,
}

impl TopicConfig {
    /// Checks every config; the error text is for the client.
    pub fn new(overrides: BTreeMap<String, String>) -> Result<Self, String> {
        for (name, value) in overrides.iter().filter(|(name, _)| !name.starts_with(faults::PREFIX)) {
            let known = definition(name).ok_or_else(|| format!("Unknown topic config name: {name}"))?;
            check_value(known, value)
                .map_err(|why| format!("Invalid value {value} for configuration {name}: {why}"))?;
        }
        let value = |name: &str| -> &str {
            match overrides.get(name) {
                Some(set) => set,
                None => definition(name).map_or("", |known| known.default),
            }
        };
        // check_value has let only numbers through, so the fallbacks are never used.
        let number = |name: &str| value(name).parse::<i64>().unwrap_or(-1);
        let size = |name: &str| value(name).parse::<u64>().unwrap_or(u64::MAX);
        let policies = value("cleanup.policy");
        let has_policy = |policy: &str| policies.split(',').any(|entry| entry.trim() == policy);
        Ok(Self {
            compact: has_policy("compact"),
            delete: has_policy("delete"),
            log_append_time: value("message.timestamp.type") == "LogAppendTime",
            retention_ms: number("retention.ms"),
            retention_bytes: number("retention.bytes"),
            segment_bytes: size("segment.bytes"),
            segment_ms: number("segment.ms"),
            min_cleanable_dirty_ratio: value("min.cleanable.dirty.ratio").parse().unwrap_or(0.5),
            delete_retention_ms: number("delete.retention.ms"),
            min_compaction_lag_ms: number("min.compaction.lag.ms"),
            max_message_bytes: usize::try_from(size("max.message.bytes")).unwrap_or(usize::MAX),
            timestamp_after_max_ms: number("message.timestamp.after.max.ms"),
            codec: match value("compression.type") {
                "uncompressed" => Some(Codec::None),
                "gzip" => Some(Codec::Gzip),
                "snappy" => Some(Codec::Snappy),
                "lz4" => Some(Codec::Lz4),
                "zstd" => Some(Codec::Zstd),
                _ => None,
            },
            faults: Faults::of(&overrides)?,
            overrides,
        })
    }
}

fn check_value(known: &Definition, value: &str) -> Result<(), String> {
    let one_of = |allowed: &[&str], given: &str| {
        if allowed.contains(&given) { Ok(()) } else { Err(format!("must be one of {}", allowed.join(", "))) }
    };
    match known.kind {
        Kind::Boolean => one_of(&["true", "false"], value),
        Kind::Int => at_least(value.parse::<i32>().map(i64::from).ok(), lowest(known.name)),
        Kind::Long => at_least(value.parse::<i64>().ok(), lowest(known.name)),
        Kind::Double => match value.parse::<f64>() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(()),
            _ => Err("must be a number from 0 to 1".into()),
        },
        Kind::List if known.name == "cleanup.policy" => {
            value.split(',').try_for_each(|entry| one_of(&["compact", "delete"], entry.trim()))
        }
        Kind::String if known.name == "message.timestamp.type" => {
            one_of(&["CreateTime", "LogAppendTime"], value)
        }
        Kind::String if known.name == "compression.type" => {
            one_of(&["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"], value)
        }
        Kind::String | Kind::List => Ok(()),
    }
}

fn at_least(number: Option<i64>, lowest: i64) -> Result<(), String> {
    match number {
        None => Err("not a number of the right size".into()),
        Some(number) if number < lowest => Err(format!("must be at least {lowest}")),
        Some(_) => Ok(()),
    }
}

/// The least value of a numeric config. Unlike Kafka 4, which wants 1 MiB, segments may be as
/// small as 14 bytes, so that tests can roll them quickly.
fn lowest(name: &str) -> i64 {
    match name {
        "compression.lz4.level" | "min.insync.replicas" | "segment.ms" => 1,
        "compression.zstd.level" => i64::from(i32::MIN),
        "compression.gzip.level" | "retention.ms" => -1,
        "retention.bytes" => i64::MIN,
        "local.retention.bytes" | "local.retention.ms" => -2,
        "max.compaction.lag.ms" | "flush.messages" => 1,
        "segment.bytes" => 14,
        "segment.index.bytes" => 4,
        _ => 0,
    }
}
