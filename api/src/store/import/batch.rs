//! A batch: rows of a staging table as arrays, and the place in the store behind which it goes on.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::DateTime;
use task_events::kafka::hash_of_key;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::super::delivery::OutboxEntry;
use super::super::mutation::Answer;
use super::super::operation::write_task;
use super::super::postgres::rows::{Parameters, TaskColumns};
use crate::task::Task;

/// Rows of one part.
pub(super) struct Batch {
    pub(super) rows: Rows,
    /// How many values of the store they are.
    pub(super) count: u64,
    /// The last of them, as its part names it.
    pub(super) last: Vec<u8>,
}

pub(super) enum Rows {
    Tasks(TaskColumns),
    Answers(AnswerColumns),
    Events(EventColumns),
}

#[derive(Default)]
pub(super) struct AnswerColumns {
    keys: Vec<Vec<u8>>,
    fingerprints: Vec<Vec<u8>>,
    tasks: Vec<Vec<u8>>,
    expires: Vec<DateTime<chrono::Utc>>,
}

#[derive(Default)]
pub(super) struct EventColumns {
    seqs: Vec<i64>,
    ids: Vec<Uuid>,
    task_ids: Vec<Uuid>,
    hashes: Vec<i32>,
    encodings: Vec<i16>,
    payloads: Vec<Vec<u8>>,
    traceparents: Vec<Option<String>>,
}

impl Batch {
    pub(super) fn of_tasks(tasks: &[Task]) -> Option<Self> {
        let last = tasks.last()?.id.as_bytes().to_vec();
        Some(Self { rows: Rows::Tasks(TaskColumns::of(tasks)), count: tasks.len() as u64, last })
    }

    /// Of one key only the last counts: one statement writes a row once.
    pub(super) fn of_answers(answers: Vec<(String, Answer)>, last: Vec<u8>) -> Self {
        let count = answers.len() as u64;
        let mut columns = AnswerColumns::default();
        for (key, answer) in answers.into_iter().collect::<BTreeMap<_, _>>() {
            let mut task = Vec::new();
            write_task(&mut task, &answer.task);
            columns.keys.push(key.into_bytes());
            columns.fingerprints.push(answer.fingerprint.to_vec());
            columns.tasks.push(task);
            let expires = i64::try_from(answer.expires_ms).ok().and_then(DateTime::from_timestamp_millis);
            columns.expires.push(expires.unwrap_or_default());
        }
        Self { rows: Rows::Answers(columns), count, last }
    }

    /// Without events where none of those that were looked at waits. `last` is the last of these.
    pub(super) fn of_events(entries: &[Arc<OutboxEntry>], last: u64) -> Self {
        let mut columns = EventColumns::default();
        for entry in entries {
            let task = entry.event.data.task_id;
            columns.seqs.push(i64::try_from(entry.seq).unwrap_or(i64::MAX));
            columns.ids.push(entry.event.event_id);
            columns.task_ids.push(task);
            columns.hashes.push(hash_of_key(task.to_string().as_bytes()));
            columns.encodings.push(entry.encoding.number().into());
            columns.payloads.push(entry.payload.clone());
            columns.traceparents.push(entry.traceparent.clone());
        }
        let count = entries.len() as u64;
        Self { rows: Rows::Events(columns), count, last: last.to_be_bytes().to_vec() }
    }
}

impl Rows {
    /// `INSERT` into the staging table of the rows that follow the first `before` parameters, if the row of `noted` is
    /// there.
    pub(super) fn statement(&self) -> &'static str {
        match self {
            Self::Tasks(_) => {
                "INSERT INTO task_events_import.tasks SELECT r.* FROM noted, unnest($6::uuid[], $7::text[], $8::int2[], \
                 $9::uuid[], $10::int8[], $11::timestamptz[], $12::timestamptz[]) r"
            }
            Self::Answers(_) => {
                "INSERT INTO task_events_import.answers SELECT r.* FROM noted, unnest($6::bytea[], $7::bytea[], \
                 $8::bytea[], $9::timestamptz[]) r ON CONFLICT (key) DO UPDATE SET \
                 fingerprint = EXCLUDED.fingerprint, task = EXCLUDED.task, expires_at = EXCLUDED.expires_at"
            }
            Self::Events(_) => {
                "INSERT INTO task_events_import.events SELECT r.* FROM noted, unnest($6::int8[], $7::uuid[], $8::uuid[], \
                 $9::int4[], $10::int2[], $11::bytea[], $12::text[]) r"
            }
        }
    }

    pub(super) fn parameters(&self) -> Parameters<'_> {
        match self {
            Self::Tasks(tasks) => tasks.parameters(),
            Self::Answers(answers) => vec![
                (&answers.keys, Type::BYTEA_ARRAY),
                (&answers.fingerprints, Type::BYTEA_ARRAY),
                (&answers.tasks, Type::BYTEA_ARRAY),
                (&answers.expires, Type::TIMESTAMPTZ_ARRAY),
            ],
            Self::Events(events) => vec![
                (&events.seqs, Type::INT8_ARRAY),
                (&events.ids, Type::UUID_ARRAY),
                (&events.task_ids, Type::UUID_ARRAY),
                (&events.hashes, Type::INT4_ARRAY),
                (&events.encodings, Type::INT2_ARRAY),
                (&events.payloads, Type::BYTEA_ARRAY),
                (&events.traceparents, Type::TEXT_ARRAY),
            ],
        }
    }
}
