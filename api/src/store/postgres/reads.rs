//! Reading tasks and the outbox from the database.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use task_events::database::DatabaseError;
use tokio::time::{Instant, timeout};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::super::delivery::OutboxEntry;
use super::super::failure::StoreError;
use super::super::order::Order;
use super::super::query::{Page, Query};
use super::Postgres;
use super::pool::Kind;
use super::rows::{self, EVENT, Parameter, Parameters, TASK};
use crate::task::Task;

/// Time for a read, with its wait for others.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Time to learn the age of the oldest event: well within that of a probe or a scrape.
const AGE_TIMEOUT: Duration = Duration::from_secs(1);
/// Time to look for the events of one id.
const ABOUT_TIMEOUT: Duration = Duration::from_secs(3);
/// Most events that are shown of one id.
const MAX_ABOUT: usize = 100;
/// Events that are looked at in one go.
const SCAN: usize = 1_024;

impl From<DatabaseError> for StoreError {
    fn from(error: DatabaseError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl Postgres {
    pub(in crate::store) async fn task(&self, id: Uuid) -> Result<Option<Task>, StoreError> {
        let sql = format!("SELECT {TASK} FROM task_events.tasks WHERE id = $1");
        let rows = self.read(Kind::Single, &sql, &[(&id, Type::UUID)]).await?;
        let task = rows.first().map(rows::task).transpose();
        Ok(task.inspect_err(|unreadable| self.0.shared.report(unreadable))?)
    }

    pub(in crate::store) async fn list(
        &self,
        query: Query,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let Some(ids) = query.ids(after) else { return Ok(Page::default()) };
        let (first, last) = (Uuid::from_bytes(*ids.start()), Uuid::from_bytes(*ids.end()));
        let filter = &query.filter;
        let status = filter.status.map(|status| i16::from(status.code()));
        let (created_after, created_before) = (filter.created_after, filter.created_before.map(rounded_up));
        let mut parameters: Parameters = vec![(&first, Type::UUID), (&last, Type::UUID)];
        let mut sql = format!("SELECT {TASK} FROM task_events.tasks WHERE id BETWEEN $1 AND $2");
        let status = status.as_ref().map(|status| ("status =", status as &(dyn ToSql + Sync), Type::INT2));
        let owner = filter.owner_id.as_ref().map(|owner| ("owner_id =", owner as _, Type::UUID));
        let after = created_after.as_ref().map(|time| ("created_at >", time as _, Type::TIMESTAMPTZ));
        let before = created_before.as_ref().map(|time| ("created_at <", time as _, Type::TIMESTAMPTZ));
        for (condition, value, kind) in [status, owner, after, before].into_iter().flatten() {
            parameters.push((value, kind));
            sql.push_str(&format!(" AND {condition} ${}", parameters.len()));
        }
        // One more than asked for shows whether there is a next page.
        let most = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
        parameters.push((&most, Type::INT8));
        let direction = if query.order == Order::CreatedAsc { "ASC" } else { "DESC" };
        sql.push_str(&format!(" ORDER BY id {direction} LIMIT ${}", parameters.len()));
        let found = self.read(Kind::Page, &sql, &parameters).await?;
        let mut page = Page::default();
        for row in found.iter().take(limit) {
            match rows::task(row) {
                Ok(task) => page.tasks.push(task),
                Err(unreadable) => self.0.shared.report(&unreadable),
            }
        }
        if found.len() > limit {
            page.next = limit.checked_sub(1).and_then(|last| found.get(last)).map(|row| row.get(0));
        }
        Ok(page)
    }

    pub(in crate::store) async fn outbox_after(
        &self,
        seq: u64,
        limit: usize,
    ) -> Result<Vec<Arc<OutboxEntry>>, StoreError> {
        let (mut after, mut found) = (seq, Vec::new());
        loop {
            let left = limit - found.len();
            let (entries, last) = self.outbox_page(after, left.min(SCAN)).await?;
            found.extend(entries);
            match last {
                Some(last) if found.len() < limit => after = last,
                _ => return Ok(found),
            }
        }
    }

    /// The next events that can be read, and the last number that was looked at.
    async fn outbox_page(
        &self,
        after: u64,
        limit: usize,
    ) -> Result<(Vec<Arc<OutboxEntry>>, Option<u64>), StoreError> {
        let sql =
            format!("SELECT {EVENT} FROM task_events.outbox o WHERE o.seq > $1 ORDER BY o.seq LIMIT $2");
        let (after, limit) =
            (i64::try_from(after).unwrap_or(i64::MAX), i64::try_from(limit).unwrap_or(i64::MAX));
        let found = self.read(Kind::Page, &sql, &[(&after, Type::INT8), (&limit, Type::INT8)]).await?;
        let last = found.last().map(|row| row.get::<_, i64>(0)).and_then(|seq| u64::try_from(seq).ok());
        let mut entries = Vec::with_capacity(found.len());
        for row in &found {
            match rows::pulled(row, 0).and_then(|pulled| pulled.entry) {
                Ok(entry) => entries.push(Arc::new(entry)),
                Err(unreadable) => self.0.shared.report(&unreadable),
            }
        }
        Ok((entries, last))
    }

    pub(in crate::store) async fn outbox_about(
        &self,
        id: Uuid,
    ) -> Result<(Vec<Arc<OutboxEntry>>, bool), StoreError> {
        let is_about = |entry: &Arc<OutboxEntry>| {
            let event = &entry.event;
            [event.event_id, event.data.task_id, event.metadata.correlation_id].contains(&id)
        };
        let until = Instant::now() + ABOUT_TIMEOUT;
        let (mut after, mut found) = (0, Vec::new());
        loop {
            let (entries, last) = self.outbox_page(after, SCAN).await?;
            found.extend(entries.into_iter().filter(is_about));
            match last {
                Some(last) if found.len() < MAX_ABOUT && Instant::now() < until => after = last,
                last => {
                    let is_complete = last.is_none() && found.len() <= MAX_ABOUT;
                    found.truncate(MAX_ABOUT);
                    return Ok((found, is_complete));
                }
            }
        }
    }

    pub(in crate::store) async fn oldest_age(&self) -> Option<Duration> {
        let oldest = timeout(AGE_TIMEOUT, self.outbox_after(0, 1)).await.ok()?.ok()?;
        let age = oldest.first().map(|oldest| (Utc::now() - oldest.event.occurred_at).num_milliseconds());
        Some(Duration::from_millis(u64::try_from(age.unwrap_or(0)).unwrap_or(0)))
    }

    async fn read(
        &self,
        kind: Kind,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        let shared = &self.0.shared;
        if let Some(failure) = shared.not_open().or_else(|| shared.health.refusal_of_read()) {
            return Err(StoreError::Refused(failure));
        }
        let read = async {
            // Never closed.
            let _turn = self.0.reads.acquire().await;
            self.0.pool.read(&self.0.shared, kind, sql, parameters).await
        };
        let read = timeout(READ_TIMEOUT, read).await.unwrap_or_else(|_| Err(DatabaseError::timeout("read")));
        read.map_err(|error| match self.0.shared.health.failure().filter(|_| error.ends_session()) {
            Some(failure) => StoreError::Refused(failure),
            None => error.into(),
        })
    }
}

/// To the microsecond, as times are stored: what is created before that time is created before this one.
fn rounded_up(time: DateTime<Utc>) -> DateTime<Utc> {
    let down = time.trunc_subsecs(6);
    if down == time { down } else { down + TimeDelta::microseconds(1) }
}
