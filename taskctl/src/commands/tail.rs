//! `taskctl tail`: the events as they come.

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::value::RawValue;
use task_events::event::{Event, format_time};
use task_events::kafka::{Kafka, KafkaError, OffsetAt, Partition, RecordAndOffset};
use task_events::logging::escape_control;
use task_events::runtime::Backoff;
use task_events::shutdown;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::{Context, Error, Format};

const FETCH_BYTES: i32 = 1024 * 1024;
/// How long a fetch waits at the broker where there is nothing new.
const POLL: Duration = Duration::from_millis(500);
/// Records that wait to be written.
const AHEAD: usize = 1_000;

/// From where to show events, and how many.
#[derive(Debug, Args)]
pub struct Tail {
    /// Start with the first event that the topic has, not with the next to come
    #[arg(long)]
    from_beginning: bool,
    /// End after this many events [default: on Ctrl-C]
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// A record as it is shown as JSON.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    partition: i32,
    offset: i64,
    timestamp: String,
    /// The value, where it is JSON.
    event: Option<&'a RawValue>,
    /// Why the value is not an event.
    error: Option<String>,
}

/// Runs the command.
pub async fn run(context: &Context, args: Tail) -> Result<(), Error> {
    let stop = shutdown::on_signals()?;
    let (sender, mut records) = mpsc::channel(AHEAD);
    let topic = context.topics.task_events_topic.clone();
    let reading = tokio::spawn(read_all(context.kafka.clone(), topic, args.from_beginning, sender));
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let Some(Some((partition, record))) = stop.or(records.recv()).await else { break };
        write(context.format, partition, &record)?;
        left -= 1;
    }
    reading.abort();
    Ok(())
}

/// Follows every partition. Waits for Kafka and for the topic.
async fn read_all(
    kafka: Kafka,
    topic: String,
    from_beginning: bool,
    records: mpsc::Sender<(i32, RecordAndOffset)>,
) {
    let mut backoff = Backoff::for_kafka();
    let mut said = None;
    let count = loop {
        match kafka.partition_count(&topic).await {
            Ok(count) => break count,
            Err(error) => warn_once(&mut said, &error),
        }
        sleep(backoff.next_delay()).await;
    };
    let mut following = tokio::task::JoinSet::new();
    for number in 0..count {
        following.spawn(follow(kafka.partition(&topic, number), from_beginning, records.clone()));
    }
    while following.join_next().await.is_some() {}
}

async fn follow(partition: Partition, from_beginning: bool, records: mpsc::Sender<(i32, RecordAndOffset)>) {
    let start = if from_beginning { OffsetAt::Earliest } else { OffsetAt::Latest };
    let mut position = None;
    let mut backoff = Backoff::for_kafka();
    let mut said = None;
    loop {
        match next(&partition, position, start).await {
            Ok((fetched, next_offset)) => {
                (backoff, said) = (Backoff::for_kafka(), None);
                position = Some(next_offset);
                for record in fetched {
                    if records.send((partition.partition(), record)).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => {
                // What retention took, or a topic made anew: from its start.
                if matches!(error, KafkaError::OffsetOutOfRange { .. }) {
                    position = partition.offset(OffsetAt::Earliest).await.ok();
                }
                warn_once(&mut said, &error);
                sleep(backoff.next_delay()).await;
            }
        }
    }
}

async fn next(
    partition: &Partition,
    position: Option<i64>,
    start: OffsetAt,
) -> Result<(Vec<RecordAndOffset>, i64), KafkaError> {
    let position = match position {
        Some(position) => position,
        None => partition.offset(start).await?,
    };
    match partition.fetch(position, FETCH_BYTES, POLL).await {
        // Another writer's: shown as a gap.
        Err(error @ KafkaError::Undecodable { .. }) => {
            log::warn!("{error}");
            Ok((Vec::new(), partition.offset_after_batch(position).await?))
        }
        fetched => fetched.map(|fetched| (fetched.records, fetched.next_offset)),
    }
}

fn warn_once(said: &mut Option<String>, error: &KafkaError) {
    let text = error.to_string();
    if said.as_ref() != Some(&text) {
        log::warn!("{text}; waiting");
        *said = Some(text);
    }
}

fn write(
    format: Format,
    partition: i32,
    RecordAndOffset { record, offset }: &RecordAndOffset,
) -> io::Result<()> {
    let value = record.value.as_deref();
    let event = Event::decode(value);
    let mut stdout = io::stdout().lock();
    match format {
        Format::Json => {
            let shown = Shown {
                partition,
                offset: *offset,
                timestamp: format_time(record.timestamp),
                event: value.and_then(|value| serde_json::from_slice(value).ok()),
                error: event.err().map(|malformed| malformed.to_string()),
            };
            // A value on several lines would not be one line of answer.
            let line = serde_json::to_string(&shown)?.replace(['\n', '\r'], " ");
            writeln!(stdout, "{line}")?;
        }
        Format::Text => writeln!(stdout, "{partition}/{offset}  {}", escape_control(&text(event)))?,
    }
    stdout.flush()
}

fn text(event: Result<Event, task_events::event::Malformed>) -> String {
    match event {
        Err(malformed) => malformed.to_string(),
        Ok(Event { occurred_at, event_type, task: Some(task), .. }) => {
            format!("{occurred_at}  {event_type}  {}  {}  {}", task.task_id, task.status, task.title)
        }
        Ok(event) => format!("{}  {}  {}", event.occurred_at, event.event_type, event.data),
    }
}
