//! The events as they come: of each partition the newest, however many there are.
//!
//! A partition is followed as a consumer follows it, so that a lone event is shown at once. Where more come than can
//! be shown, reading jumps to the end, and what was passed over is counted.

use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use serde::Serialize;
use task_events::event::Event;
use task_events::kafka::{
    ConsumerRecord, Fetched, Kafka, KafkaError, OffsetAt, Position, ReadEvent, TopicReader,
};
use task_events::operate::scan::LogRange;
use task_events::redrive::GROUP_HEADER;
use task_events::time::format_time;
use tokio::time::sleep;
use uuid::Uuid;

use super::board::Board;

/// Events that are shown of those that were there before, and after each jump.
const NEWEST: i64 = 20;
/// A reader that is further behind than this jumps.
const MAX_BEHIND: i64 = 100;
/// Time between two reads where events come without a pause.
const PACE: Duration = Duration::from_millis(400);
/// Time until a partition is asked again that does not answer.
const RETRY: Duration = Duration::from_secs(1);
/// Longest text of a foreign event that is shown, in characters: that of a title.
const MAX_TEXT: usize = 500;

/// An event as the page shows it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct EventRow {
    partition: i32,
    offset: i64,
    /// When it was appended.
    at: String,
    event_id: Option<Uuid>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    task_id: Option<Uuid>,
    title: Option<String>,
    status: Option<String>,
    owner_id: Option<Uuid>,
    /// The group that alone handles it: a redriven event.
    only_for: Option<String>,
    /// Why it is no event.
    error: Option<String>,
}

/// The start of a text.
pub(super) fn short(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

impl EventRow {
    fn new(partition: i32, record: &ConsumerRecord) -> Self {
        let only_for = record.headers.last(GROUP_HEADER).and_then(|header| header.value);
        let at = DateTime::from_timestamp_millis(record.timestamp).unwrap_or_default();
        let row = Self {
            partition,
            offset: record.offset,
            at: format_time(at),
            event_id: None,
            event_type: None,
            task_id: None,
            title: None,
            status: None,
            owner_id: None,
            only_for: only_for.map(|group| short(&String::from_utf8_lossy(group), MAX_TEXT)),
            error: None,
        };
        let event = match Event::decode(record.value.as_deref()) {
            Ok(event) => event,
            Err(malformed) => return Self { error: Some(short(&malformed.to_string(), MAX_TEXT)), ..row },
        };
        let task = event.task.as_ref();
        Self {
            event_id: Some(event.event_id),
            event_type: Some(short(&event.event_type, MAX_TEXT)),
            task_id: task.map(|task| task.task_id),
            title: task.map(|task| short(&task.title, MAX_TEXT)),
            status: task.map(|task| short(&task.status, MAX_TEXT)),
            owner_id: task.and_then(|task| task.owner_id),
            ..row
        }
    }

    pub(super) fn unreadable(partition: i32, offset: i64, why: &str) -> Self {
        let record = ConsumerRecord {
            offset,
            timestamp: -1,
            leader_epoch: -1,
            key: None,
            value: None,
            headers: Default::default(),
        };
        Self { error: Some(short(why, MAX_TEXT)), ..Self::new(partition, &record) }
    }
}

/// Follows a partition of the events, for ever.
pub(super) async fn partition(kafka: Kafka, topic: String, partition: i32, board: Arc<Board>) {
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
                    let rows = rows(&fetched, partition, next);
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
fn rows(fetched: &Fetched, partition: i32, next: i64) -> Vec<EventRow> {
    // As many as there may be to show: older ones of a large fetch are not even decoded.
    let first = next.max(fetched.next_offset - MAX_BEHIND);
    let batches = fetched.batches.iter().filter(|batch| batch.last_offset() >= first);
    let records = batches.flat_map(|batch| batch.records());
    let rows = records.filter_map(|record| match record {
        Ok(record) if record.offset >= first => Some(EventRow::new(partition, &record)),
        Ok(_) => None,
        Err(unreadable) => {
            Some(EventRow::unreadable(partition, unreadable.first_offset, &unreadable.to_string()))
        }
    });
    rows.collect()
}

/// Where the newest events begin.
async fn near_end(kafka: &Kafka, topic: &str, partition: i32) -> Result<i64, KafkaError> {
    let start = kafka.list_offset(topic, partition, OffsetAt::Earliest).await?;
    let end = kafka.list_offset(topic, partition, OffsetAt::LastStable).await?;
    Ok((end - NEWEST).max(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_event_is_shown_with_its_reason_and_cut() {
        let record = |value: &[u8]| ConsumerRecord {
            offset: 7,
            timestamp: 0,
            leader_epoch: 0,
            key: None,
            value: Some(value.to_vec().into()),
            headers: Default::default(),
        };
        let row = EventRow::new(1, &record(b"{\"event_id\": "));
        assert!(row.error.unwrap().starts_with("Invalid JSON in message: "));
        let row = EventRow::new(1, &record(&vec![b' '; 300 * 1024]));
        assert!(row.error.unwrap().contains("the limit is"));
        assert_eq!(short("größer", 3), "grö…");
        assert_eq!(short("größer", 6), "größer");
    }
}
