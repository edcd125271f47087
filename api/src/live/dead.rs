//! Dead letters: those among the newest records of the DLQ, and what became of each.

use std::sync::Arc;
use std::time::Duration;

use task_events::kafka::{Kafka, KafkaError, OffsetAt, Position, ReadEvent, TopicReader};
use task_events::operate::scan::LogRange;
use tokio::time::sleep;

use super::board::Board;

/// Records of each partition of the DLQ that are looked at: the newest.
const NEWEST: i64 = 2_000;
/// Time until a partition is asked again that does not answer.
const RETRY: Duration = Duration::from_secs(1);

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
