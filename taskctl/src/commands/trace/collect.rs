//! Reads what is known of an id: API, topic, offsets, audit log, DLQ.

use std::time::Duration;

use chrono::{DateTime, Utc};
use memchr::memmem::Finder;
use serde::Deserialize;
use serde_json::Value;
use task_events::event::Event;
use task_events::kafka::{ConsumerRecord, OffsetAt};
use task_events::redrive::{GROUP_HEADER, Place};
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::Trace;
use crate::api::{Readiness, get, readiness};
use crate::audit_log::{self, Found as AuditLine};
use crate::letters::{Letter, read_all};
use crate::positions::Positions;
use crate::progress::Progress;
use crate::scan::{readable, scan};
use crate::{Context, Error, LogRange};

/// Most records of the topic that are shown: a task has some ten events.
pub(super) const MAX_RECORDS: usize = 500;
/// How much earlier than the id's own time its record may be, by clocks that differ.
const CLOCK_DOUBT: Duration = Duration::from_secs(3_600);

/// What was found.
#[derive(Debug)]
pub(super) struct Found {
    /// The task as the API has it, where the id is a task's, or its event names one.
    pub(super) task: Option<Task>,
    /// Why the API says nothing, or what it waits with.
    pub(super) api: Result<Readiness, String>,
    pub(super) records: Vec<Record>,
    /// More were found than are shown.
    pub(super) more_records: usize,
    /// What the topic kept when it was read, for each partition.
    pub(super) ranges: Vec<LogRange>,
    pub(super) positions: Positions,
    pub(super) audit_lines: Result<Vec<AuditLine>, String>,
    pub(super) letters: Vec<Letter>,
}

/// A task as the API has it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Task {
    pub(super) id: Uuid,
    pub(super) title: String,
    pub(super) status: String,
    pub(super) version: u64,
    pub(super) updated_at: DateTime<Utc>,
}

/// A record of the topic that has to do with the id.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) place: Place,
    /// When it was appended.
    pub(super) timestamp: DateTime<Utc>,
    /// `None`: it is no event.
    pub(super) event: Option<EventHead>,
    /// Redriven for this group alone.
    pub(super) only_for: Option<String>,
}

/// What is shown of an event.
#[derive(Debug, Clone)]
pub(super) struct EventHead {
    pub(super) event_id: Uuid,
    pub(super) event_type: String,
    pub(super) occurred_at: String,
    pub(super) task_id: Option<Uuid>,
    pub(super) correlation_id: Option<Uuid>,
}

pub(super) async fn collect(context: &Context, args: &Trace) -> Result<Found, Error> {
    let (records, ranges) = records(context, args).await?;
    let more_records = records.len().saturating_sub(MAX_RECORDS);
    let records: Vec<_> = records.into_iter().take(MAX_RECORDS).collect();
    let mut letters = read_all(context).await?;
    letters.retain(|letter| is_about(letter, args.id, &records));
    let positions = Positions::read(context).await?;
    let (path, text) = (args.audit_log_path.clone(), args.id.to_string());
    let audit_lines = spawn_blocking(move || audit_log::find(&path, &text)).await;
    let audit_lines = match audit_lines {
        Ok(found) => found.map_err(|error| format!("{}: {error}", args.audit_log_path.display())),
        Err(error) => Err(format!("{}: {error}", args.audit_log_path.display())),
    };
    let address = args.api.address();
    let api = readiness(&address).await.map_err(|error| format!("Task API {address}: {error}"));
    // The id is a task's, or that of an event which names one.
    let task_id = records.iter().find_map(|record| record.event.as_ref()?.task_id).unwrap_or(args.id);
    let task = match &api {
        Ok(_) => task(&address, task_id).await,
        Err(_) => None,
    };
    Ok(Found { task, api, records, more_records, ranges, positions, audit_lines, letters })
}

async fn task(address: &str, id: Uuid) -> Option<Task> {
    match get(address, &format!("/tasks/{id}")).await {
        Ok((200, task)) => serde_json::from_value::<Task>(task).ok(),
        _ => None,
    }
}

fn is_about(letter: &Letter, id: Uuid, records: &[Record]) -> bool {
    letter.event_id == Some(id)
        || letter.task() == Some(id.to_string())
        || records.iter().any(|record| record.place == letter.place())
}

/// The records that have to do with the id, in the order of each partition.
async fn records(context: &Context, args: &Trace) -> Result<(Vec<Record>, Vec<LogRange>), Error> {
    let topic = &context.topics.task_events_topic;
    let text = args.id.to_string();
    let finder = Finder::new(&text);
    let since = args.since.or_else(|| made_at(args.id));
    let (mut records, mut ranges) = (Vec::new(), Vec::new());
    let mut progress = Progress::new("reading the events", 0, "records");
    for partition in 0..context.kafka.partition_count(topic).await? {
        let kept = readable(&context.kafka, topic, partition).await?;
        ranges.push(kept);
        let mut range = kept;
        if let Some(since) = since {
            let at = OffsetAt::Time(since.timestamp_millis().max(0));
            let start = context.kafka.list_offset(topic, partition, at).await?;
            // Negative where no record is as late.
            range.start = if start < 0 { range.end } else { start.clamp(range.start, range.end) };
        }
        progress.add_total(u64::try_from(range.end - range.start).unwrap_or(0));
        let each = |record: ConsumerRecord| {
            let is_in = |bytes: Option<&[u8]>| bytes.is_some_and(|bytes| finder.find(bytes).is_some());
            if is_in(record.key.as_deref()) || is_in(record.value.as_deref()) {
                let place = Place { topic: topic.clone(), partition, offset: record.offset };
                records.extend(read(&record, place, args.id));
            }
        };
        scan(&context.kafka, topic, partition, range, &mut progress, each).await?;
    }
    Ok((records, ranges))
}

/// The record, if it has to do with the id: another id may just have it in its title.
fn read(record: &ConsumerRecord, place: Place, id: Uuid) -> Option<Record> {
    let event = Event::decode(record.value.as_deref()).ok().map(|event| EventHead {
        event_id: event.event_id,
        event_type: event.event_type.clone().into_owned(),
        occurred_at: event.occurred_at.clone().into_owned(),
        task_id: event.task.as_ref().map(|task| task.task_id).or_else(|| id_in(event.data.get(), "task_id")),
        correlation_id: id_in(event.metadata.get(), "correlation_id"),
    });
    let has_key = record.key.as_deref() == Some(id.to_string().as_bytes());
    let is_about = event.as_ref().is_some_and(|event| {
        event.event_id == id || event.task_id == Some(id) || event.correlation_id == Some(id)
    });
    let only_for = record.headers.last(GROUP_HEADER).and_then(|header| header.value);
    (has_key || is_about).then(|| Record {
        place,
        timestamp: DateTime::from_timestamp_millis(record.timestamp).unwrap_or_default(),
        event,
        only_for: only_for.map(|group| String::from_utf8_lossy(group).into_owned()),
    })
}

fn id_in(json: &str, field: &str) -> Option<Uuid> {
    let value: Value = serde_json::from_str(json).ok()?;
    value.get(field)?.as_str()?.parse().ok()
}

/// When an id of version 7 was made, with a margin for clocks that differ.
fn made_at(id: Uuid) -> Option<DateTime<Utc>> {
    let (seconds, nanos) = id.get_timestamp().filter(|_| id.get_version_num() == 7)?.to_unix();
    let made = DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos)?;
    Some(made - CLOCK_DOUBT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_of_version_7_say_when_they_were_made() {
        let made = made_at(Uuid::now_v7()).unwrap();
        let age = Utc::now() - made;
        assert!((3_590..3_700).contains(&age.num_seconds()), "{age}");
        assert_eq!(made_at(Uuid::new_v4()), None);
    }
}
