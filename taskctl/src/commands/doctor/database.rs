//! The database of API replicas: whether it keeps what it has answered, and whether its queue stays small.

use std::time::Duration;

use task_events::database::{DatabaseArgs, DatabaseError, Session, connect, state};
use tokio_postgres::Row;

use super::findings::{Findings, words};

/// The version that the tests run against.
const TESTED_VERSION: i32 = 150_000;
/// A transaction that is open for longer keeps deleted events in the outbox's way.
const LONG_TRANSACTION: Duration = Duration::from_secs(60);
/// Events that wait.
const MANY_EVENTS: i64 = 10_000;

const SETTINGS: &str = "SELECT current_setting('synchronous_commit'), current_setting('fsync'), \
    current_setting('full_page_writes'), current_setting('synchronous_standby_names'), \
    current_setting('server_version_num')::int4, pg_is_in_recovery(), current_setting('transaction_read_only')";
const MAY_SEE: &str = "SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')";
const STANDBYS: &str = "SELECT count(*) FROM pg_stat_replication";
const OLDEST: &str = "SELECT coalesce(extract(epoch FROM max(now() - xact_start)), 0)::int8 FROM pg_stat_activity \
    WHERE datname = current_database() AND pid <> pg_backend_pid()";
const OUTBOX: &str = "SELECT (SELECT count(*) FROM (SELECT 1 FROM task_events.outbox LIMIT 100000) o), \
    host, expires_at > clock_timestamp() FROM task_events.relay";

/// Looks at the database, if one is named.
pub(super) async fn examine(args: &DatabaseArgs, findings: &mut Findings) {
    let Some(url) = args.url() else { return };
    let subject = url.place();
    if url.is_plain_text_to_others() {
        findings.warn(
            &subject,
            "the login and all tasks go to it in plain text",
            "add sslmode=verify-full and sslrootcert to DATABASE_URL: docs/deploy/postgresql.md",
        );
    }
    let session = match async { connect(&url.endpoint().await?, None).await }.await {
        Ok(session) => session,
        Err(error) => {
            let remedy = "look whether it runs, takes changes and knows this user, and at DATABASE_URL";
            return findings.fail(subject, error, remedy);
        }
    };
    if let Err(error) = settings(&session, &subject, findings).await {
        findings.warn(
            &subject,
            format!("it cannot be examined: {error}"),
            "grant this user pg_read_all_stats",
        );
    }
    match state(&session).await.and_then(|state| state.check().map(|()| state)) {
        Ok(state) => findings.ok(&subject, format!("its schema has version {}", state.version())),
        Err(error) => return findings.fail(&subject, error, "taskctl explain TE0209"),
    }
    if let Err(error) = outbox(&session, &subject, findings).await {
        findings.warn(
            &subject,
            format!("its outbox cannot be examined: {error}"),
            "look at the log of the API",
        );
    }
}

async fn one(session: &Session, sql: &str) -> Result<Option<Row>, DatabaseError> {
    Ok(session.query_typed(sql, &[]).await?.into_iter().next())
}

async fn settings(session: &Session, subject: &str, findings: &mut Findings) -> Result<(), DatabaseError> {
    if let Some(row) = one(session, SETTINGS).await? {
        let text = |index: usize| row.get::<_, String>(index);
        let (commit, fsync, pages, names) = (text(0), text(1), text(2), text(3));
        let mut is_durable = true;
        let weak = [
            (
                fsync == "off",
                "fsync is off: a power cut loses or damages what was confirmed",
                "set fsync = on",
            ),
            (
                pages == "off",
                "full_page_writes is off: a power cut can damage it",
                "set full_page_writes = on",
            ),
            (
                commit == "off",
                "synchronous_commit is off: a crash loses changes that were confirmed just before",
                "set synchronous_commit = on for this user",
            ),
        ];
        for (_, found, remedy) in weak.iter().filter(|(is_weak, ..)| *is_weak) {
            is_durable = false;
            findings.fail(subject, found, remedy);
        }
        if row.get::<_, bool>(5) || text(6) == "on" {
            findings.fail(
                subject,
                "it is read-only: a standby, or a setting",
                "name the primary in DATABASE_URL",
            );
        }
        if row.get::<_, i32>(4) < TESTED_VERSION {
            findings.warn(subject, "it is older than PostgreSQL 15, the oldest that is tested", "update it");
        }
        let sees_all = one(session, MAY_SEE).await?.is_some_and(|row| row.get(0));
        if !sees_all {
            findings.warn(
                subject,
                "this user cannot see standbys and open transactions of others",
                "grant it pg_read_all_stats",
            );
        } else if let Some(row) = one(session, STANDBYS).await? {
            let all: i64 = row.get(0);
            if all > 0 && names.is_empty() {
                is_durable = false;
                findings.warn(
                    subject,
                    "its standbys are asynchronous: a failover loses what was confirmed and had not reached them",
                    "set synchronous_standby_names, or accept the loss",
                );
            } else if all > 0 && ["local", "remote_write"].contains(&commit.as_str()) {
                is_durable = false;
                findings.warn(
                    subject,
                    format!("synchronous_commit is {commit}: changes are confirmed before standbys have them on disk"),
                    "set synchronous_commit = on",
                );
            }
        }
        if is_durable {
            findings.ok(subject, format!("it keeps what it confirms: fsync on, synchronous_commit {commit}"));
        }
    }
    if let Some(row) = one(session, OLDEST).await? {
        let open = Duration::from_secs(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0));
        if open > LONG_TRANSACTION {
            findings.warn(
                subject,
                format!(
                    "a transaction has been open for {}: deleted events stay in the outbox's way",
                    words(open)
                ),
                "end it: SELECT pid, query FROM pg_stat_activity ORDER BY xact_start",
            );
        }
    }
    Ok(())
}

async fn outbox(session: &Session, subject: &str, findings: &mut Findings) -> Result<(), DatabaseError> {
    let Some(row) = one(session, OUTBOX).await? else { return Ok(()) };
    let (waiting, host, is_held): (i64, Option<String>, bool) = (row.get(0), row.get(1), row.get(2));
    match host.filter(|_| is_held) {
        Some(host) if waiting < MANY_EVENTS => {
            findings.ok(subject, format!("{waiting} events wait; {host} publishes"));
        }
        Some(host) => findings.warn(
            subject,
            format!("{waiting} events or more wait; {host} publishes"),
            "look at /readyz of the API for what it waits for",
        ),
        None if waiting == 0 => findings.ok(subject, "no event waits, and no API publishes at the moment"),
        None => {
            findings.fail(subject, format!("{waiting} events wait and no API publishes"), "start the API")
        }
    }
    Ok(())
}
