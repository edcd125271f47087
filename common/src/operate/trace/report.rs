//! What was found in order of time, and what is missing.

use serde::Serialize;

use super::collect::{EventHead, Found, Part, Record};
use super::{Audit, Others, Outbox};
use crate::event::EventType;
use crate::operate::letters::Letter;
use crate::services::{API, AUDIT, NOTIFICATION};
use crate::time::format_time;

/// The answer.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What was traced.
    pub id: String,
    /// What happened, in order of time.
    pub timeline: Vec<Entry>,
    /// What should be there and is not, each with the reason where it can be seen.
    pub missing: Vec<String>,
}

/// Something that happened.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Entry {
    /// RFC 3339; of a group, when it last committed, which is at or after it passed the event.
    pub time: String,
    /// In which step of the way, for those of the same time.
    #[serde(skip)]
    step: u8,
    /// What happened, or by which group.
    pub stage: String,
    /// Where.
    pub place: String,
    /// To which event.
    pub event: Option<String>,
    /// What to know of it.
    pub detail: String,
}

/// Puts it together.
pub fn report(found: &Found, others: &Others) -> Report {
    let mut report = Report { id: found.id.to_string(), timeline: Vec::new(), missing: Vec::new() };
    if let Some(task) = &others.task {
        let detail = format!("{} in version {}: {}", task.status, task.version, task.title);
        let place = format!("tasks/{}", task.id);
        report.add(format_time(task.updated_at), 5, "task", place, None, detail);
    }
    for record in &found.records {
        add_record(&mut report, record);
        for (group, service) in found.positions.groups_of(&record.place.topic) {
            add_group(&mut report, found, &others.audit, record, &group, &service);
        }
    }
    if let Ok(outbox) = &others.outbox {
        add_waiting(&mut report, found, outbox);
    }
    if let Audit::Lines(lines) = &others.audit {
        for line in lines {
            let event = Some(line.event_id.to_string());
            let detail = format!("from {}", line.source);
            report.add(line.audited_at.clone(), 3, "audit log", line.place.clone(), event, detail);
        }
    }
    for letter in &found.letters {
        add_letter(&mut report, letter);
    }
    if found.has_events() {
        missing_in_topic(&mut report, found, others);
    }
    for unseen in &found.unseen {
        let what = match unseen.part {
            Part::All => "what the topics have (events, groups, dead letters)",
            Part::Events => "what the topic has",
            Part::DeadLetters => "what the DLQ has",
            Part::Groups => "how far each group is",
        };
        report.missing.push(format!("{what} is not known: {}", unseen.error));
    }
    if found.more_records > 0 {
        report.missing.push(format!("{} later records are not shown", found.more_records));
    }
    if let Audit::Unreadable(why) = &others.audit {
        report.missing.push(format!("the audit log cannot be read: {why}"));
    }
    if let Err(why) = &others.outbox {
        report.missing.push(format!("what the API has is not known: {why}"));
    }
    report.timeline.sort();
    report
}

impl Report {
    fn add(
        &mut self,
        time: String,
        step: u8,
        stage: &str,
        place: String,
        event: Option<String>,
        detail: String,
    ) {
        self.timeline.push(Entry { time, step, stage: stage.to_owned(), place, event, detail });
    }
}

fn add_record(report: &mut Report, record: &Record) {
    let event_id = record.event.as_ref().map(|event| event.event_id.to_string());
    let place = record.place.to_string();
    let appended = format_time(record.timestamp);
    if let Some(group) = &record.only_for {
        let detail = format!("redriven for {group} alone");
        return report.add(appended, 1, "topic", place, event_id, detail);
    }
    let Some(event) = &record.event else {
        return report.add(appended, 1, "topic", place, None, "a record that is no event".to_owned());
    };
    add_change(report, event);
    report.add(appended, 1, "topic", place, event_id, "delivered".to_owned());
}

/// The events that wait in the API's outbox, and are not in the topic.
fn add_waiting(report: &mut Report, found: &Found, outbox: &Outbox) {
    let kafka = if outbox.kafka_is_reachable { "reachable" } else { "unreachable" };
    let in_topic = |event: &EventHead| {
        let mut records = found.records.iter().filter_map(|record| record.event.as_ref());
        records.any(|known| known.event_id == event.event_id)
    };
    for event in outbox.events.iter().filter(|event| !in_topic(event)) {
        let (id, kind) = (event.event_id.to_string(), &event.event_type);
        add_change(report, event);
        let detail = format!("waits to be published; Kafka is {kafka} from the API");
        report.add(event.occurred_at.clone(), 1, "outbox", API.to_owned(), Some(id.clone()), detail);
        let doubt = if found.has_events() { "is not in the topic" } else { "may not be in the topic" };
        report.missing.push(format!(
            "{kind} {id} {doubt}: it is one of {} events in the API's outbox; Kafka is {kafka} from there",
            outbox.waiting
        ));
    }
    if !outbox.is_complete {
        report.missing.push(format!(
            "only the first of the {} events in the API's outbox were looked at: there may be more",
            outbox.waiting
        ));
    }
}

/// The change that an event tells of.
fn add_change(report: &mut Report, event: &EventHead) {
    let request = event.correlation_id.map(|id| format!("by request {id}")).unwrap_or_default();
    let place = format!("tasks/{}", event.task_id.map(|id| id.to_string()).unwrap_or_default());
    let id = Some(event.event_id.to_string());
    report.add(event.occurred_at.clone(), 0, &event.event_type, place, id, request);
}

/// How far a group is with a record.
fn add_group(report: &mut Report, found: &Found, audit: &Audit, record: &Record, group: &str, service: &str) {
    let place = &record.place;
    let event_id = record.event.as_ref().map(|event| event.event_id.to_string());
    if record.only_for.as_ref().is_some_and(|only_for| only_for != group) {
        return;
    }
    let committed = found.positions.committed(group, &place.topic, place.partition);
    let Some(committed) = committed.filter(|committed| committed.offset > place.offset) else {
        let at = committed.map_or_else(
            || "has committed nothing".to_owned(),
            |committed| {
                let time = format_time(committed.at);
                format!("is at offset {}, committed last at {time}", committed.offset)
            },
        );
        report.missing.push(format!(
            "{place}: {group} has not reached it: it {at}; see `taskctl groups describe {group}`"
        ));
        return;
    };
    let is_failed = found.letters.iter().any(|letter| letter.group == group && letter.place() == *place);
    let event_type = record.event.as_ref().and_then(|event| EventType::from_name(&event.event_type));
    let is_audited = match audit {
        // It commits what is in its log.
        Audit::Elsewhere => record.event.is_some(),
        Audit::Unreadable(_) => false,
        Audit::Lines(lines) => record
            .event
            .as_ref()
            .is_some_and(|event| lines.iter().any(|line| line.event_id == event.event_id)),
    };
    let detail = match (service, event_type) {
        _ if is_failed => "sent to the DLQ",
        (NOTIFICATION, Some(EventType::Created | EventType::Completed)) => "notified, on its stdout",
        (NOTIFICATION, _) => "not of interest",
        (AUDIT, _) if is_audited => "audited",
        (AUDIT, _) => {
            if matches!(audit, Audit::Lines(_)) && record.event.is_some() {
                report.missing.push(format!(
                    "{place}: {group} has passed it, and its line is not in the audit log: is that the log of {group}, and are all its segments beside it?"
                ));
            }
            "passed"
        }
        _ => "handled, a duplicate, or not of interest",
    };
    let detail = format!("{detail}; committed at offset {}", committed.offset);
    report.add(format_time(committed.at), 4, group, place.to_string(), event_id, detail);
}

fn add_letter(report: &mut Report, letter: &Letter) {
    let event = letter.event_id.map(|id| id.to_string());
    let place = format!("DLQ {}", letter.id);
    let detail = format!("{}: {}", letter.error.kind, letter.error.message);
    let stage = format!("{} failed", letter.group);
    report.add(format_time(letter.failed_at), 3, &stage, place.clone(), event.clone(), detail);
    if let Some(note) = &letter.redriven {
        let detail = format!("to {}", note.to);
        report.add(format_time(note.redriven_at), 1, "redriven", place, event, detail);
    }
}

/// Whether events of the task are not in the topic, and why.
fn missing_in_topic(report: &mut Report, found: &Found, others: &Others) {
    let originals = found.records.iter().filter(|record| record.event.is_some() && record.only_for.is_none());
    let waits = match &others.outbox {
        Ok(outbox) if outbox.waiting > 0 => {
            let kafka = if outbox.kafka_is_reachable { "reachable" } else { "unreachable" };
            let oldest =
                outbox.oldest.map(|age| format!(", the oldest for {} s", age.as_secs())).unwrap_or_default();
            format!("{} events wait in the API's outbox{oldest}; Kafka is {kafka} from there", outbox.waiting)
        }
        Ok(_) => "the API's outbox is empty".to_owned(),
        Err(_) => "whether it waits in the API's outbox is not known".to_owned(),
    };
    let topic_starts = found.ranges.iter().map(|range| range.start).max().unwrap_or(0);
    let deleted = match topic_starts {
        0 => "the topic has kept everything".to_owned(),
        start => format!("the topic starts at offset {start}: older events were deleted by retention"),
    };
    let waiting = others.outbox.as_ref().map_or(&[][..], |outbox| outbox.events.as_slice());
    if found.records.is_empty() && waiting.is_empty() {
        report.missing.push(format!("no event of {} is in the topic: {waits}; {deleted}", found.id));
        return;
    }
    // Each version of a task has at least one event.
    let Some(task) = others.task.as_ref().filter(|task| task.id == found.id) else { return };
    let mut events: Vec<_> = originals.filter_map(|record| record.event.as_ref()).chain(waiting).collect();
    events.sort_by_key(|event| event.event_id);
    events.dedup_by_key(|event| event.event_id);
    let events = u64::try_from(events.len()).unwrap_or(u64::MAX);
    if events < task.version {
        let missing = task.version - events;
        report
            .missing
            .push(format!("{missing} or more of the task's events are not in the topic: {waits}; {deleted}"));
    }
}
