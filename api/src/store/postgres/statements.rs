//! The statements of a group: one flight that locks and reads, one that writes and commits. Each statement is unnamed
//! and takes arrays, so that a group costs the same few round trips however many changes it has.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use task_events::database::DatabaseError;
use task_events::kafka::hash_of_key;
use tokio_postgres::Client;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::super::failure::Unreadable;
use super::super::mutation::Mutation;
use super::super::operation::{Bytes, read_task, write_task};
use super::group::{Answered, Draft, Known, lock_of};
use super::rows::{self, Parameters, TASK, TaskColumns};

/// Wakes the relay of another replica, which has said [`LISTEN`].
const NOTIFY: &str = "NOTIFY task_events";
pub(super) const LISTEN: &str = "LISTEN task_events";

/// Keys of one group: each takes a place in the server's table of locks, which has some thousands for all. The changes of
/// further ones wait for the next group.
const MAX_KEYS: usize = 200;

/// How old a group is at most that is asked for, with the clocks of replica and database that far apart: well below the
/// 5 minutes for which its row is kept.
const MAX_DOUBT_SECONDS: u64 = 120;

/// Begins a transaction: takes the locks of keys, reads what was answered under them, and locks the tasks. Nothing
/// waits: what another replica holds is left out.
pub(super) async fn lock(client: &Client, group: &[&Mutation]) -> Result<Known, DatabaseError> {
    let ids: Vec<Uuid> = group.iter().filter_map(|mutation| mutation.change.task()).collect();
    let keys = group.iter().filter_map(|mutation| Some(mutation.idempotency.as_ref()?.key.as_str()));
    let keys: Vec<&str> = keys.take(MAX_KEYS).collect();
    let mut locks: Vec<i64> = keys.iter().map(|key| lock_of(key)).collect();
    locks.sort_unstable();
    locks.dedup();
    let names: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
    let locked: Parameters = vec![(&locks, Type::INT8_ARRAY)];
    let answered: Parameters = vec![(&names, Type::BYTEA_ARRAY)];
    let wanted: Parameters = vec![(&ids, Type::UUID_ARRAY)];
    let for_update =
        format!("SELECT {TASK} FROM task_events.tasks WHERE id = ANY($1) ORDER BY id FOR UPDATE SKIP LOCKED");
    // Sent in this order, in one flight: each sees what was committed before it.
    let (begun, locked, answered, tasks, existing) = tokio::join!(
        biased;
        client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED"),
        client.query_typed("SELECT k FROM unnest($1) k WHERE pg_try_advisory_xact_lock(k)", &locked),
        client.query_typed(
            "SELECT key, fingerprint, task FROM task_events.answers WHERE key = ANY($1) AND expires_at > now()",
            &answered,
        ),
        client.query_typed(&for_update, &wanted),
        client.query_typed("SELECT id FROM task_events.tasks WHERE id = ANY($1)", &wanted),
    );
    begun?;
    let keys = locked?.iter().map(|row| row.get(0)).collect();
    let mut answers = HashMap::new();
    for row in answered? {
        let key = String::from_utf8_lossy(row.get(0));
        let what = || Unreadable::new(format!("the answer under the key {key}"), "it is damaged");
        let task = read_task(&mut Bytes(row.get(2))).map(Arc::new).ok_or_else(what);
        let answered = Answered { fingerprint: row.get::<_, &[u8]>(1).into(), task };
        answers.insert(key.into(), answered);
    }
    let tasks = tasks?.iter().map(|row| (row.get(0), rows::task(row).map(Arc::new))).collect();
    let existing = existing?.iter().map(|row| row.get(0)).collect();
    Ok(Known { tasks, existing, keys, answers })
}

/// Writes what a group has changed, and commits it: the transaction that [`lock`] began, or one of its own. All of it
/// succeeded if this does.
pub(super) async fn write(
    client: &Client,
    group: Uuid,
    draft: &Draft,
    is_begun: bool,
    calls: bool,
) -> Result<(), DatabaseError> {
    let rows = Columns::of(draft);
    let (sql, parameters) = rows.statement(&group);
    let called = async {
        if calls {
            drop(call(client).await);
        }
    };
    let commit = async {
        if is_begun {
            client.batch_execute("COMMIT").await?;
        }
        Ok(())
    };
    // COMMIT of a failed transaction is no error: what counts is that the statement before it succeeded too.
    let (written, committed, ()) =
        tokio::join!(biased; client.query_typed(&sql, &parameters), commit, called);
    written?;
    let committed: Result<(), tokio_postgres::Error> = committed;
    Ok(committed?)
}

/// Wakes the relay of another replica: in a transaction of its own, without a write, which holds the lock of all
/// notifications for an instant only.
pub(super) async fn call(client: &Client) -> Result<(), DatabaseError> {
    Ok(client.batch_execute(NOTIFY).await?)
}

/// Whether the group was committed. If not, it never will be: the row is ours from now on, and what may still run on
/// a lost connection meets it. Waits as a commit does, also for standbys. `None`: by the database's clock so much time has
/// passed since, or not passed yet, that the group's row may have been removed.
pub(super) async fn was_committed(client: &Client, group: Uuid) -> Result<Option<bool>, DatabaseError> {
    let fence = "INSERT INTO task_events.groups (id, is_fence) VALUES ($1, true) \
        ON CONFLICT (id) DO UPDATE SET at = now() RETURNING NOT groups.is_fence, clock_timestamp()";
    let rows = client.query_typed(fence, &[(&group, Type::UUID)]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    if row.get(0) {
        return Ok(Some(true));
    }
    let (seconds, _) = group.get_timestamp().map_or((0, 0), |begun| begun.to_unix());
    let age = row.get::<_, DateTime<Utc>>(1).timestamp().abs_diff(i64::try_from(seconds).unwrap_or(0));
    Ok((age <= MAX_DOUBT_SECONDS).then_some(false))
}

/// A column each.
#[derive(Default)]
struct Columns {
    made: TaskColumns,
    changed: TaskColumns,
    deleted: Vec<Uuid>,
    keys: Vec<Vec<u8>>,
    fingerprints: Vec<Vec<u8>>,
    answers: Vec<Vec<u8>>,
    event_ids: Vec<Uuid>,
    task_ids: Vec<Uuid>,
    hashes: Vec<i32>,
    encodings: Vec<i16>,
    payloads: Vec<Vec<u8>>,
    traceparents: Vec<Option<String>>,
}

const MADE: &str = "made AS (INSERT INTO task_events.tasks \
    (id, title, status, owner_id, version, created_at, updated_at) \
    SELECT * FROM unnest($2::uuid[], $3::text[], $4::int2[], $5::uuid[], $6::int8[], $7::timestamptz[], $8::timestamptz[]))";
const EVENTS: &str = "INSERT INTO task_events.outbox (event_id, task_id, hash, encoding, payload, traceparent) \
    SELECT e.a, e.b, e.c, e.d, e.e, e.f FROM unnest($9::uuid[], $10::uuid[], $11::int4[], $12::int2[], $13::bytea[], $14::text[]) \
    WITH ORDINALITY AS e (a, b, c, d, e, f, n) ORDER BY e.n";
const OTHERS: &str = "changed AS (UPDATE task_events.tasks t SET title = c.title, status = c.status, \
    owner_id = c.owner_id, version = c.version, updated_at = c.updated_at \
    FROM unnest($15::uuid[], $16::text[], $17::int2[], $18::uuid[], $19::int8[], $20::timestamptz[]) \
    AS c (id, title, status, owner_id, version, updated_at) WHERE t.id = c.id), \
    gone AS (DELETE FROM task_events.tasks WHERE id = ANY($21::uuid[])), \
    answered AS (INSERT INTO task_events.answers (key, fingerprint, task, expires_at) \
    SELECT a.k, a.f, a.t, now() + interval '24 hours' FROM unnest($22::bytea[], $23::bytea[], $24::bytea[]) AS a (k, f, t) \
    ON CONFLICT (key) DO UPDATE SET fingerprint = EXCLUDED.fingerprint, task = EXCLUDED.task, expires_at = EXCLUDED.expires_at)";

impl Columns {
    fn of(draft: &Draft) -> Self {
        let tasks = draft.tasks();
        let mut columns = Self {
            made: TaskColumns::of(&tasks.made),
            changed: TaskColumns::of(&tasks.changed),
            deleted: tasks.deleted,
            ..Self::default()
        };
        for (key, answered) in draft.answers() {
            let Ok(task) = &answered.task else { continue };
            let mut bytes = Vec::new();
            write_task(&mut bytes, task);
            columns.keys.push(key.as_bytes().to_vec());
            columns.fingerprints.push(answered.fingerprint.to_vec());
            columns.answers.push(bytes);
        }
        let mut hashes: HashMap<Uuid, i32> = HashMap::new();
        for row in &draft.events {
            let task = row.event.data.task_id;
            let hash = *hashes.entry(task).or_insert_with(|| hash_of_key(task.to_string().as_bytes()));
            columns.event_ids.push(row.event.event_id);
            columns.task_ids.push(task);
            columns.hashes.push(hash);
            columns.encodings.push(row.encoding.number().into());
            columns.payloads.push(row.payload.clone());
            columns.traceparents.push(row.traceparent.clone());
        }
        columns
    }

    /// One statement for all: sequence numbers are drawn while all its rows are locked.
    fn statement<'a>(&'a self, group: &'a Uuid) -> (String, Parameters<'a>) {
        let (made, changed) = (&self.made, &self.changed);
        let mut parameters: Parameters = vec![(group, Type::UUID)];
        parameters.extend(made.parameters());
        parameters.extend::<Parameters>(vec![
            (&self.event_ids, Type::UUID_ARRAY),
            (&self.task_ids, Type::UUID_ARRAY),
            (&self.hashes, Type::INT4_ARRAY),
            (&self.encodings, Type::INT2_ARRAY),
            (&self.payloads, Type::BYTEA_ARRAY),
            (&self.traceparents, Type::TEXT_ARRAY),
        ]);
        let noted = "WITH noted AS (INSERT INTO task_events.groups (id) VALUES ($1))";
        if changed.ids.is_empty() && self.deleted.is_empty() && self.keys.is_empty() {
            return (format!("{noted}, {MADE} {EVENTS}"), parameters);
        }
        parameters.extend::<Parameters>(vec![
            (&changed.ids, Type::UUID_ARRAY),
            (&changed.titles, Type::TEXT_ARRAY),
            (&changed.statuses, Type::INT2_ARRAY),
            (&changed.owners, Type::UUID_ARRAY),
            (&changed.versions, Type::INT8_ARRAY),
            (&changed.updated, Type::TIMESTAMPTZ_ARRAY),
            (&self.deleted, Type::UUID_ARRAY),
            (&self.keys, Type::BYTEA_ARRAY),
            (&self.fingerprints, Type::BYTEA_ARRAY),
            (&self.answers, Type::BYTEA_ARRAY),
        ]);
        (format!("{noted}, {MADE}, {OTHERS} {EVENTS}"), parameters)
    }
}

#[cfg(test)]
mod tests {
    use harness::Postgres;
    use task_events::database::{DatabaseUrl, connect, ensure};

    use super::*;

    /// The answer to the first question may be lost: the second one gets the same.
    #[tokio::test]
    async fn a_group_that_was_not_committed_is_not_however_often_it_is_asked_for() {
        let Some(server) = Postgres::shared().unwrap() else { return };
        server.create_database("fence").unwrap();
        let endpoint = DatabaseUrl::new(&server.url("fence")).endpoint().await.unwrap();
        let session = connect(&endpoint, None).await.unwrap();
        ensure(&session, true).await.unwrap();
        let (lost, made) = (Uuid::now_v7(), Uuid::now_v7());
        write(&session, made, &Draft::default(), false, false).await.unwrap();
        for _ in 0..3 {
            assert_eq!(was_committed(&session, lost).await.unwrap(), Some(false));
            assert_eq!(was_committed(&session, made).await.unwrap(), Some(true));
        }
        assert!(write(&session, lost, &Draft::default(), false, false).await.is_err(), "it came too late");
    }

    /// The database's clock was set, or this machine slept: the row of a committed group may have been removed.
    #[tokio::test]
    async fn of_a_group_that_may_be_forgotten_it_is_not_known_whether_it_was_committed() {
        let Some(server) = Postgres::shared().unwrap() else { return };
        server.create_database("forgotten").unwrap();
        let endpoint = DatabaseUrl::new(&server.url("forgotten")).endpoint().await.unwrap();
        let session = connect(&endpoint, None).await.unwrap();
        ensure(&session, true).await.unwrap();
        let of = |offset: i64| {
            let seconds = u64::try_from(Utc::now().timestamp() + offset).unwrap();
            Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, 0))
        };
        for (offset, known) in [(-400, None), (400, None), (-30, Some(false)), (30, Some(false))] {
            let (lost, made) = (of(offset), of(offset));
            write(&session, made, &Draft::default(), false, false).await.unwrap();
            for _ in 0..2 {
                assert_eq!(was_committed(&session, lost).await.unwrap(), known, "{offset}");
                assert_eq!(was_committed(&session, made).await.unwrap(), Some(true), "{offset}");
            }
        }
    }
}
