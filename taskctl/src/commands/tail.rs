//! `taskctl tail`: the events as they come.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use chrono::DateTime;
use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use serde_json::value::RawValue;
use task_events::backoff::Backoff;
use task_events::config::topic_name;
use task_events::escape::escape_control;
use task_events::event::{Event, Malformed};
use task_events::kafka::{
    Batch, ConsumerRecord, Kafka, KafkaError, OffsetAt, PartitionReader, Position, ReadEvent, TopicReader,
};
use task_events::operate::Progress as _;
use task_events::shutdown;
use task_events::time::format_time;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use crate::progress::Progress;
use crate::{Context, Error, Format};

/// Records that wait to be written.
const AHEAD: usize = 1_000;

/// How soon a reader that has gone away is noticed while there are no events: `taskctl tail | head -3`.
const READER_CHECK: Duration = Duration::from_millis(300);

/// A record and its partition.
type Tailed = (i32, ConsumerRecord);

/// From where to show events, and how many.
#[derive(Debug, Args)]
pub struct Tail {
    /// Of this topic [default: the topic of events]
    #[arg(long, value_parser = topic_name)]
    topic: Option<String>,
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
    key: Option<String>,
    /// The value, where it is JSON or an event in Avro.
    event: Option<Cow<'a, RawValue>>,
    /// Of an event in Avro, the id of its schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    schema_id: Option<u32>,
    /// Why the value is not an event, where it should be one.
    error: Option<String>,
}

/// Runs the command.
pub async fn run(context: &Context, args: Tail) -> Result<(), Error> {
    let stop = shutdown::on_signals()?;
    let (sender, mut records) = mpsc::channel(AHEAD);
    let topic = args.topic.unwrap_or_else(|| context.topics.task_events_topic.clone());
    let is_events = topic == context.topics.task_events_topic;
    // At first it has to be there, and Kafka as well: a typing error would wait for ever. Outages come later.
    context.kafka.partition_count(&topic).await?;
    let (backlog, mut backlog_known) = oneshot::channel();
    let reading = tokio::spawn(read_all(context.kafka.clone(), topic, args.from_beginning, sender, backlog));
    // Beside records on a terminal it would only flicker.
    let mut progress =
        (!io::stdout().is_terminal()).then(|| Progress::new("reading the topic", 0, "records"));
    let mut to_come = 0;
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let next = async {
            tokio::select! {
                biased;
                record = records.recv() => record,
                () = reader_gone() => None,
            }
        };
        let Some(Some((partition, record))) = stop.or(next).await else { break };
        let event = context.events.read_now(record.value.as_deref()).await;
        write(context.format, is_events, partition, &record, event)?;
        left -= 1;
        if let Some(bar) = &mut progress {
            if let Ok(backlog) = backlog_known.try_recv() {
                bar.add_total(backlog);
                to_come = backlog;
            }
            bar.add(1);
            to_come = to_come.saturating_sub(1);
            if to_come == 0 {
                progress = None;
            }
        }
    }
    reading.abort();
    Ok(())
}

/// Returns when nobody reads stdout any more.
async fn reader_gone() {
    loop {
        sleep(READER_CHECK).await;
        let stdout = io::stdout();
        let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
        // Asks and does not wait. Where it fails, the next write tells.
        let polled = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        if polled.is_ok() && fds.iter().any(|fd| fd.revents().intersects(PollFlags::ERR | PollFlags::HUP)) {
            return;
        }
    }
}

/// Follows every partition. Waits for Kafka and for the topic.
async fn read_all(
    kafka: Kafka,
    topic: String,
    from_beginning: bool,
    lines: mpsc::Sender<Tailed>,
    backlog: oneshot::Sender<u64>,
) {
    let mut backoff = Backoff::for_kafka();
    let mut said = None;
    let start = if from_beginning { OffsetAt::Earliest } else { OffsetAt::Latest };
    let starts = loop {
        match offsets(&kafka, &topic, start).await {
            Ok(starts) => break starts,
            Err(error) => warn_once(&mut said, &error),
        }
        sleep(backoff.next_delay()).await;
    };
    if let Ok(ends) = offsets(&kafka, &topic, OffsetAt::Latest).await {
        let records = ends.iter().zip(&starts).map(|(end, start)| u64::try_from(end - start).unwrap_or(0));
        // Nobody waits for it on a terminal.
        let _ = backlog.send(records.sum());
    }
    let reader = TopicReader::new(&kafka, &topic);
    let mut following = tokio::task::JoinSet::new();
    for (partition, offset) in (0..).zip(starts) {
        following.spawn(follow(reader.partition(partition, Position::at(offset)), lines.clone()));
    }
    while following.join_next().await.is_some() {}
}

/// That offset of each partition.
async fn offsets(kafka: &Kafka, topic: &str, at: OffsetAt) -> Result<Vec<i64>, KafkaError> {
    let mut offsets = Vec::new();
    for partition in 0..kafka.partition_count(topic).await? {
        offsets.push(kafka.list_offset(topic, partition, at).await?);
    }
    Ok(offsets)
}

async fn follow(mut reader: PartitionReader, lines: mpsc::Sender<Tailed>) {
    let partition = reader.partition();
    let mut said = None;
    loop {
        let fetched = match reader.next().await {
            ReadEvent::Fetched(fetched) => fetched,
            ReadEvent::Jumped(jump) => {
                log::warn!("{}/{partition}: {jump}", reader.topic());
                continue;
            }
            ReadEvent::Failing(error) => {
                warn_once(&mut said, &error);
                continue;
            }
        };
        said = None;
        for record in fetched.batches.iter().flat_map(Batch::records) {
            match record {
                Ok(record) => {
                    if lines.send((partition, record)).await.is_err() {
                        return;
                    }
                }
                // Another writer's: shown as a gap.
                Err(unreadable) => log::warn!("{}/{partition}: {unreadable}", reader.topic()),
            }
        }
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
    is_events: bool,
    partition: i32,
    record: &ConsumerRecord,
    event: Result<Event<'_>, Malformed>,
) -> io::Result<()> {
    let offset = record.offset;
    let value = record.value.as_deref();
    let time = || format_time(DateTime::from_timestamp_millis(record.timestamp).unwrap_or_default());
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let key = record.key.as_deref().map(lossy);
    let mut stdout = io::stdout().lock();
    match format {
        Format::Json => {
            let from_avro = event.as_ref().ok().filter(|event| event.schema_id.is_some());
            let from_avro = from_avro.and_then(|event| RawValue::from_string(event.to_json()).ok());
            let json = || value.and_then(|value| serde_json::from_slice(value).ok()).map(Cow::Borrowed);
            let shown = Shown {
                partition,
                offset,
                timestamp: time(),
                key,
                event: from_avro.map(Cow::Owned).or_else(json),
                schema_id: event.as_ref().ok().and_then(|event| event.schema_id),
                error: event.err().filter(|_| is_events).map(|malformed| malformed.to_string()),
            };
            // A value on several lines would not be one line of answer.
            let line = serde_json::to_string(&shown)?.replace(['\n', '\r'], " ");
            writeln!(stdout, "{line}")?;
        }
        Format::Text if is_events => {
            writeln!(stdout, "{partition}/{offset}  {}", escape_control(&text(event)))?;
        }
        Format::Text => {
            let value = value.map(lossy);
            let (key, value) = (key.as_deref().unwrap_or("-"), value.as_deref().unwrap_or("(no value)"));
            writeln!(
                stdout,
                "{partition}/{offset}  {}  {}",
                time(),
                escape_control(&format!("{key}  {value}"))
            )?;
        }
    }
    stdout.flush()
}

fn text(event: Result<Event<'_>, Malformed>) -> String {
    match event {
        Err(malformed) => malformed.to_string(),
        Ok(Event { occurred_at, event_type, task: Some(task), .. }) => {
            format!("{occurred_at}  {event_type}  {}  {}  {}", task.task_id, task.status, task.title)
        }
        Ok(event) => format!("{}  {}  {}", event.occurred_at, event.event_type, event.data),
    }
}
