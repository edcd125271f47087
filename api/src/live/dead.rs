//! Dead letters: those among the newest records of the DLQ, and what became of each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use task_events::kafka::{Kafka, KafkaError, OffsetAt, Position, ReadEvent, TopicReader};
use task_events::operate::letters::{Letter, Letters};
use task_events::operate::scan::LogRange;
use task_events::time::format_time;
use tokio::time::sleep;

use super::board::Board;
use super::feed::short;

/// Records of each partition of the DLQ that are looked at: the newest.
const NEWEST: i64 = 2_000;
/// Dead letters that are kept.
pub(super) const MAX_LETTERS: usize = 2_000;
/// Dead letters that are shown.
const SHOWN: usize = 100;
/// Characters of an error that are shown in a list.
const MAX_MESSAGE: usize = 300;
/// Time until a partition is asked again that does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// What is shown of the DLQ.
#[derive(Debug, Serialize)]
pub(super) struct DeadLetters<'a> {
    /// Not redriven.
    open: usize,
    redriven: usize,
    /// Older ones, which are not looked at.
    dropped: u64,
    /// The open ones by group and kind.
    by: Vec<Count<'a>>,
    /// The newest, open ones first.
    rows: Vec<Row<'a>>,
}

#[derive(Debug, Serialize)]
struct Count<'a> {
    group: &'a str,
    kind: &'a str,
    open: usize,
}

#[derive(Debug, Serialize)]
struct Row<'a> {
    id: String,
    failed_at: String,
    group: &'a str,
    kind: &'a str,
    message: String,
    retry_count: u32,
    source: String,
    task_id: Option<String>,
    event_id: Option<String>,
    event_type: Option<String>,
    redriven_to: Option<String>,
    redriven_at: Option<String>,
}

impl<'a> DeadLetters<'a> {
    pub(super) fn of(letters: &'a Letters) -> Self {
        let is_open = |letter: &&Letter| letter.redriven.is_none();
        let mut by = BTreeMap::<(&str, &str), usize>::new();
        for letter in letters.iter().filter(is_open) {
            *by.entry((&letter.group, &letter.error.kind)).or_default() += 1;
        }
        let open = by.values().sum();
        let newest_open = letters.iter().rev().filter(is_open);
        let newest_redriven = letters.iter().rev().filter(|letter| letter.redriven.is_some());
        Self {
            open,
            redriven: letters.iter().filter(|letter| letter.redriven.is_some()).count(),
            dropped: letters.dropped(),
            by: by.into_iter().map(|((group, kind), open)| Count { group, kind, open }).take(SHOWN).collect(),
            rows: newest_open.chain(newest_redriven).take(SHOWN).map(Row::new).collect(),
        }
    }
}

impl<'a> Row<'a> {
    fn new(letter: &'a Letter) -> Self {
        Self {
            id: letter.id.to_string(),
            failed_at: format_time(letter.failed_at),
            group: &letter.group,
            kind: &letter.error.kind,
            message: short(&letter.error.message, MAX_MESSAGE),
            retry_count: letter.retry_count,
            source: letter.place().to_string(),
            task_id: letter.task(),
            event_id: letter.event_id.map(|id| id.to_string()),
            event_type: letter.event_type.as_deref().map(|name| short(name, MAX_MESSAGE)),
            redriven_to: letter.redriven.as_ref().map(|note| note.to.to_string()),
            redriven_at: letter.redriven.as_ref().map(|note| format_time(note.redriven_at)),
        }
    }
}

/// Follows a partition of the DLQ, for ever.
pub(super) async fn partition(kafka: Kafka, topic: String, partition: i32, board: Arc<Board>) {
    let start = loop {
        match near_end(&kafka, &topic, partition).await {
            Ok(start) => break start,
            Err(error) => board.failing(&topic, error),
        }
        sleep(RETRY).await;
    };
    let mut reader = TopicReader::new(&kafka, &topic).partition(partition, Position::at(start));
    loop {
        match reader.next().await {
            ReadEvent::Fetched(fetched) => {
                for record in fetched.batches.iter().flat_map(|batch| batch.records()).flatten() {
                    // What is no dead letter is the DLQ processor's to report.
                    let _ = board.dead_letter(partition, &record);
                }
                let range = LogRange { start: fetched.log_start, end: fetched.high_watermark };
                board.range(&topic, partition, range);
            }
            ReadEvent::Jumped(_) => {}
            ReadEvent::Failing(error) => board.failing(&topic, error),
        }
    }
}

async fn near_end(kafka: &Kafka, topic: &str, partition: i32) -> Result<i64, KafkaError> {
    let start = kafka.list_offset(topic, partition, OffsetAt::Earliest).await?;
    let end = kafka.list_offset(topic, partition, OffsetAt::LastStable).await?;
    Ok((end - NEWEST).max(start))
}
