//! Reads a part of a partition once, from one offset to another.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Progress;
use crate::kafka::{ConsumerRecord, Kafka, KafkaError, OffsetAt};

/// The records that a partition has: from `start` to before `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRange {
    /// The offset of the first record.
    pub start: i64,
    /// The offset of the next record to come.
    pub end: i64,
}

impl LogRange {
    /// How many offsets it has.
    pub fn len(self) -> u64 {
        u64::try_from(self.end - self.start).unwrap_or(0)
    }

    /// Whether it has none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// The range of a partition, up to the high watermark.
pub async fn log_range(kafka: &Kafka, topic: &str, partition: i32) -> Result<LogRange, KafkaError> {
    Ok(LogRange {
        start: kafka.list_offset(topic, partition, OffsetAt::Earliest).await?,
        end: kafka.list_offset(topic, partition, OffsetAt::Latest).await?,
    })
}

/// A scan that reads nothing for this long is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(15);

/// The range of a partition that a reader of committed records can read now.
pub async fn readable(kafka: &Kafka, topic: &str, partition: i32) -> Result<LogRange, KafkaError> {
    Ok(LogRange {
        start: kafka.list_offset(topic, partition, OffsetAt::Earliest).await?,
        end: kafka.list_offset(topic, partition, OffsetAt::LastStable).await?,
    })
}

/// Gives each record of the range to `each`, in order. What cannot be read is a warning; a failure is tried again
/// until nothing has come for a while.
pub async fn scan(
    kafka: &Kafka,
    topic: &str,
    partition: i32,
    range: LogRange,
    progress: &mut dyn Progress,
    mut each: impl FnMut(ConsumerRecord),
) -> Result<(), KafkaError> {
    let mut reader = kafka.read_range(topic, partition, range.start, range.end);
    let (mut next, mut failure) = (range.start, None);
    let mut give_up = Instant::now() + STALL_TIMEOUT;
    loop {
        let fetched = match timeout_at(give_up, reader.next()).await {
            Ok(None) => return Ok(()),
            Ok(Some(Ok(fetched))) => fetched,
            Ok(Some(Err(KafkaError::Jumped { jump, .. }))) => {
                log::warn!("{topic}/{partition}: {jump}");
                continue;
            }
            Ok(Some(Err(error))) => {
                failure = Some(error);
                continue;
            }
            Err(_) => {
                let call = format!("read {topic}/{partition} at offset {next}");
                return Err(failure.unwrap_or(KafkaError::Timeout { call, after: STALL_TIMEOUT }));
            }
        };
        give_up = Instant::now() + STALL_TIMEOUT;
        for record in fetched.batches.iter().flat_map(|batch| batch.records()) {
            match record {
                Ok(record) if (range.start..range.end).contains(&record.offset) => each(record),
                Ok(_) => {}
                Err(unreadable) => log::warn!("{topic}/{partition}: {unreadable}"),
            }
        }
        let end = fetched.next_offset.min(range.end);
        progress.add(u64::try_from(end - next).unwrap_or(0));
        next = end;
    }
}
