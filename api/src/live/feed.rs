//! The events as they come: of each partition the newest, however many there are.
//!
//! A partition is followed as a consumer follows it, so that a lone event is shown at once. Where more come than can
//! be shown, reading jumps to the end, and what was passed over is counted.

use std::sync::Arc;
use std::time::Duration;

use task_events::kafka::{Fetched, Kafka, KafkaError, OffsetAt, Position, ReadEvent, TopicReader};
use task_events::operate::scan::LogRange;
use task_events::schemas::EventReader;
use tokio::time::sleep;

use super::board::Board;
use super::rows::EventRow;

/// Events that are shown of those that were there before, and after each jump.
const NEWEST: i64 = 20;
/// A reader that is further behind than this jumps.
const MAX_BEHIND: i64 = 100;
/// Time between two reads where events come without a pause.
const PACE: Duration = Duration::from_millis(400);
/// Time until a partition is asked again that does not answer.
const RETRY: Duration = Duration::from_secs(1);
/// Follows a partition of the events, for ever.
pub(super) async fn partition(
    kafka: Kafka,
    topic: String,
    partition: i32,
    board: Arc<Board>,
    events: EventReader,
) {
    let topic_reader = TopicReader::new(&kafka, &topic);
    loop {
        let start = match near_end(&kafka, &topic, partition).await {
            Ok(start) => start,
            Err(error) => {
                board.failing(&topic, error);
                sleep(RETRY).await;
                continue;
            }
        };
        let mut reader = topic_reader.partition(partition, Position::at(start));
        let mut next = start;
        loop {
            match reader.next().await {
                ReadEvent::Fetched(fetched) => {
                    board.range(
                        &topic,
                        partition,
                        LogRange { start: fetched.log_start, end: fetched.high_watermark },
                    );
                    let behind = fetched.last_stable_offset - fetched.next_offset;
                    let rows = rows(&fetched, partition, next, &events).await;
                    next = fetched.next_offset;
                    let came = !rows.is_empty();
                    board.events(rows, 0);
                    if behind > MAX_BEHIND {
                        board.events(Vec::new(), u64::try_from(behind - NEWEST).unwrap_or(0));
                        break;
                    }
                    if came {
                        sleep(PACE).await;
                    }
                }
                ReadEvent::Jumped(jump) => next = jump.to,
                ReadEvent::Failing(error) => board.failing(&topic, error),
            }
        }
        drop(reader);
        sleep(PACE).await;
    }
}

/// The newest of what was fetched, from `next` on.
async fn rows(fetched: &Fetched, partition: i32, next: i64, events: &EventReader) -> Vec<EventRow> {
    // As many as there may be to show: older ones of a large fetch are not even decoded.
    let first = next.max(fetched.next_offset - MAX_BEHIND);
    let batches = fetched.batches.iter().filter(|batch| batch.last_offset() >= first);
    let records = batches.flat_map(|batch| batch.records());
    let mut rows = Vec::new();
    for record in records {
        match record {
            Ok(record) if record.offset >= first => {
                rows.push(EventRow::new(partition, &record, events).await)
            }
            Ok(_) => {}
            Err(unreadable) => {
                rows.push(EventRow::unreadable(partition, unreadable.first_offset, &unreadable.to_string()));
            }
        }
    }
    rows
}

/// Where the newest events begin.
async fn near_end(kafka: &Kafka, topic: &str, partition: i32) -> Result<i64, KafkaError> {
    let start = kafka.list_offset(topic, partition, OffsetAt::Earliest).await?;
    let end = kafka.list_offset(topic, partition, OffsetAt::LastStable).await?;
    Ok((end - NEWEST).max(start))
}
