//! `GET /tasks`: filters, orders, pages and cursors.
//!
//! A cursor names the last task of its page and the query that it came from. It keeps its place whatever is created,
//! changed or deleted meanwhile, and another query refuses it: there it would skip or repeat tasks silently.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use actix_web::http::header::LINK;
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use chrono::{DateTime, SecondsFormat, Utc};
use flate2::Compression;
use serde::Serialize;
use sha2::{Digest, Sha256};
use task_events::escape::hex;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::encoding::{self, MIN_COMPRESSED_BYTES, accepts_gzip, gzip};
use super::input::STATUSES;
use super::problem::{FieldError, Problem};
use super::query;
use super::state::State;
use crate::store::{Order, Query};
use crate::task::{Task, TaskStatus};

/// Tasks of a page if the caller does not say.
const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 200;
/// The parameters. An empty value is the same as none: forms send their empty fields.
const PARAMETERS: [&str; 7] =
    ["status", "owner_id", "created_after", "created_before", "order", "limit", "cursor"];
/// Characters of a cursor: an id and a mark, in hexadecimal.
const CURSOR_CHARS: usize = 48;

/// A page of tasks that a caller asks for.
#[derive(Debug, PartialEq, Eq)]
struct ListQuery {
    query: Query,
    limit: usize,
    after: Option<Uuid>,
}

#[derive(Serialize)]
struct TaskPage {
    items: Vec<Task>,
    next_cursor: Option<String>,
}

/// A page on its way, which keeps its memory until the client has taken it.
struct PageBody {
    json: Bytes,
    _memory: OwnedSemaphorePermit,
}

impl MessageBody for PageBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.json.len() as u64)
    }

    /// In pieces: what is given out here is copied, and waits a second time.
    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        let len = self.json.len().min(16 * 1024);
        Poll::Ready((len > 0).then(|| Ok(self.json.split_to(len))))
    }
}

pub(super) async fn list(request: HttpRequest, state: Data<State>) -> Result<HttpResponse, Problem> {
    let ListQuery { query, limit, after } = parse(&query::parse(request.query_string())?)?;
    let memory = state.memory_for_tasks(limit).await?;
    let page = state.store.list(query.clone(), after, limit).await?;
    let next_cursor = page.next.map(|last| cursor(&query, last));
    let mut response = HttpResponse::Ok();
    response.content_type("application/json");
    encoding::varies(&mut response);
    if let Some(cursor) = &next_cursor {
        response.insert_header((LINK, next_link(&query, limit, cursor)));
    }
    // Strings and numbers always serialise.
    let mut json = serde_json::to_vec(&TaskPage { items: page.tasks, next_cursor }).unwrap_or_default();
    if json.len() >= MIN_COMPRESSED_BYTES && accepts_gzip(request.headers()) {
        // A large page takes milliseconds, for which no other request waits.
        let plain = json.clone();
        let compressed = spawn_blocking(move || gzip(&plain, Compression::fast())).await;
        if let Ok(Some(compressed)) = compressed {
            encoding::is_gzip(&mut response);
            json = compressed;
        }
    }
    Ok(response.body(PageBody { json: json.into(), _memory: memory }))
}

/// What the parameters ask for; every one that is wrong is named.
fn parse(pairs: &[(String, String)]) -> Result<ListQuery, Problem> {
    let (mut query, mut limit, mut given_cursor) = (Query::default(), DEFAULT_LIMIT, None);
    let mut errors = Vec::new();
    let mut wrong = |field: &str, message: &str| errors.push(FieldError::new(field, message));
    for (name, value) in pairs {
        if value.is_empty() && PARAMETERS.contains(&name.as_str()) {
            continue;
        }
        match name.as_str() {
            "status" => match TaskStatus::from_name(value) {
                Some(status) => query.filter.status = Some(status),
                None => wrong("status", STATUSES),
            },
            "owner_id" => match value.parse() {
                Ok(owner) => query.filter.owner_id = Some(owner),
                Err(_) => wrong("owner_id", "must be a uuid"),
            },
            "created_after" => match time(value) {
                Some(time) => query.filter.created_after = Some(time),
                None => wrong("created_after", TIMES),
            },
            "created_before" => match time(value) {
                Some(time) => query.filter.created_before = Some(time),
                None => wrong("created_before", TIMES),
            },
            "order" => match Order::from_name(value) {
                Some(order) => query.order = order,
                None => wrong("order", "must be created_asc or created_desc"),
            },
            "limit" => match value.parse() {
                Ok(given) if (1..=MAX_LIMIT).contains(&given) => limit = given,
                _ => wrong("limit", "must be a number from 1 to 200"),
            },
            "cursor" => given_cursor = Some(value),
            unknown => wrong(unknown, "unknown parameter"),
        }
    }
    // Of a wrong query no cursor can be checked.
    let after = match given_cursor.map(|text| place(text, &query)).transpose() {
        Ok(after) => after,
        Err(message) => {
            if errors.is_empty() || message == NO_CURSOR {
                errors.push(FieldError::new("cursor", message));
            }
            None
        }
    };
    if errors.is_empty() { Ok(ListQuery { query, limit, after }) } else { Err(Problem::fields(errors)) }
}

const TIMES: &str = "must be a time of RFC 3339, as 2026-01-15T10:30:00Z; the + of an offset is %2B in a URL";
const NO_CURSOR: &str = "must be the next_cursor of an earlier answer";
const OTHER_QUERY: &str = "is of another query: give the status, owner_id, created_after, created_before and order of the \
    page that it came from, or begin again without it";

fn time(text: &str) -> Option<DateTime<Utc>> {
    // Unlike chrono, RFC 3339 has a T (or t) between date and time; a + that was not encoded has become a space.
    let time = Some(text).filter(|text| !text.contains(' ')).map(DateTime::parse_from_rfc3339)?;
    time.ok().map(|time| time.to_utc())
}

/// What is answered as `next_cursor`, for [`place`] to read.
fn cursor(query: &Query, last: Uuid) -> String {
    format!("{}{}", last.simple(), mark(query))
}

/// The task after which the page of the cursor begins.
fn place(cursor: &str, query: &Query) -> Result<Uuid, &'static str> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let parts = Some(cursor).filter(|text| text.len() == CURSOR_CHARS && text.bytes().all(is_digit));
    let (id, its_mark) = parts.and_then(|text| text.split_at_checked(32)).ok_or(NO_CURSOR)?;
    let id = Uuid::try_parse(id).map_err(|_| NO_CURSOR)?;
    if its_mark == mark(query) { Ok(id) } else { Err(OTHER_QUERY) }
}

/// Tells queries apart: 64 bits of a hash.
fn mark(query: &Query) -> String {
    hex(Sha256::digest(parameters(query)).iter().take(8))
}

/// The query as parameters, each with `&` behind it: the same for queries that ask for the same.
fn parameters(query: &Query) -> String {
    let (filter, mut text) = (&query.filter, String::new());
    let mut add = |name: &str, value: &str| text.extend([name, "=", value, "&"]);
    if let Some(status) = filter.status {
        add("status", status.as_str());
    }
    if let Some(owner) = filter.owner_id {
        add("owner_id", &owner.to_string());
    }
    for (name, time) in [("created_after", filter.created_after), ("created_before", filter.created_before)] {
        if let Some(time) = time {
            add(name, &time.to_rfc3339_opts(SecondsFormat::AutoSi, true));
        }
    }
    if query.order != Order::default() {
        add("order", query.order.as_str());
    }
    text
}

/// `Link` to the next page (RFC 8288). Its target has no character that a URL would have to escape.
fn next_link(query: &Query, limit: usize, cursor: &str) -> String {
    format!("</tasks?{}limit={limit}&cursor={cursor}>; rel=\"next\"", parameters(query))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_by_its_own_query_alone() {
        let parsed = |text: &str| parse(&query::parse(text).unwrap());
        let queries = [
            "",
            "status=pending",
            "status=completed",
            "owner_id=5f0c954e-3d4b-4b43-8d0e-6f3a2f6b8c11",
            "order=created_desc",
            "created_after=2026-01-15T10:30:00Z",
            "created_before=2026-01-15T10:30:00Z",
            "created_before=2026-01-15T10:30:00.000000001Z",
        ];
        let id = Uuid::now_v7();
        for (one, own) in queries.iter().enumerate() {
            let cursor = cursor(&parsed(own).unwrap().query, id);
            assert_eq!(cursor.len(), CURSOR_CHARS);
            for (other, query) in queries.iter().enumerate() {
                let read = parsed(&format!("{query}&limit=7&cursor={cursor}"));
                assert_eq!(read.is_ok(), one == other, "{own} {query}");
                if let Ok(read) = read {
                    assert_eq!((read.after, read.limit), (Some(id), 7));
                }
            }
        }
        // The same query in other words.
        let cursor = cursor(&parsed("created_after=2026-01-15T10:30:00Z").unwrap().query, id);
        let other_words = "order=created_asc&status=&created_after=2026-01-15T11:30:00%2B01:00";
        assert_eq!(parsed(&format!("{other_words}&cursor={cursor}")).unwrap().after, Some(id));
    }

    #[test]
    fn only_rfc_3339_is_a_time() {
        for good in ["2026-01-15T10:30:00Z", "2026-01-15t10:30:00.5z", "2026-01-15T10:30:00-01:00"] {
            assert!(time(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "now",
            "2026-01-15",
            "2026-01-15T10:30:00",
            "2026-01-15 10:30:00Z",
            "1768473000",
            "2026-13-15T10:30:00Z",
            "2026-01-15T10:30:00 01:00",
        ] {
            assert!(time(bad).is_none(), "{bad}");
        }
    }
}
