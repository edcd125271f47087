//! `/tasks`: create, read, list, change and complete.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, ETAG, HeaderValue, LOCATION};
use actix_web::web::{Bytes, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::input::{Body, ListQuery};
use super::problem::Problem;
use super::state::State;
use super::{conditional, context, idempotency, input, query};
use crate::store::{Mutation, Outcome};
use crate::task::{Change, Task};

/// Space for a task as JSON, with a title of usual length.
const TASK_JSON_BYTES: usize = 384;

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

pub(super) async fn create(
    request: HttpRequest,
    state: Data<State>,
    body: Body,
) -> Result<HttpResponse, Problem> {
    query::none(request.query_string())?;
    let change = Change::Create(input::new_task(input::object(&body)?)?);
    let task = mutate(&request, &state, change).await?;
    let location = format!("/tasks/{}", task.id);
    let mut response = task_response(StatusCode::CREATED, &task);
    if let Ok(value) = location.parse() {
        response.headers_mut().insert(LOCATION, value);
    }
    Ok(response)
}

pub(super) async fn patch(
    request: HttpRequest,
    state: Data<State>,
    id: Path<String>,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let id = input::task_id(&id)?;
    query::none(request.query_string())?;
    let change = Change::Patch(id, input::task_patch(input::object(&body)?)?);
    Ok(task_response(StatusCode::OK, &*mutate(&request, &state, change).await?))
}

pub(super) async fn complete(
    request: HttpRequest,
    state: Data<State>,
    id: Path<String>,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let id = input::task_id(&id)?;
    query::none(request.query_string())?;
    input::ignored(body)?;
    Ok(task_response(StatusCode::OK, &*mutate(&request, &state, Change::Complete(id)).await?))
}

pub(super) async fn get(
    request: HttpRequest,
    state: Data<State>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let id = input::task_id(&id)?;
    query::none(request.query_string())?;
    let if_match = conditional::if_match(request.headers())?;
    let task = state.store.task(id).await?.ok_or_else(Problem::task_not_found)?;
    if if_match.is_some_and(|if_match| !if_match.allows(task.version)) {
        return Err(conditional::stale(task.version));
    }
    if conditional::has_it_already(request.headers(), task.version) {
        let etag = (ETAG, conditional::etag(task.version));
        return Ok(HttpResponse::NotModified().insert_header(etag).finish());
    }
    Ok(task_response(StatusCode::OK, &task))
}

pub(super) async fn list(request: HttpRequest, state: Data<State>) -> Result<HttpResponse, Problem> {
    let pairs = query::parse(request.query_string())?;
    let ListQuery { filter, limit, after } = input::list_query(&pairs)?;
    let memory = state.memory_for_tasks(limit).await?;
    let page = state.store.list(filter, after, limit).await?;
    let next_cursor = page.next.map(input::cursor);
    // Strings and numbers always serialise.
    let json = serde_json::to_vec(&TaskPage { items: page.tasks, next_cursor }).unwrap_or_default();
    let body = PageBody { json: json.into(), _memory: memory };
    Ok(HttpResponse::Ok().content_type("application/json").body(body))
}

/// Makes a change under the conditions of the request's headers.
async fn mutate(request: &HttpRequest, state: &State, change: Change) -> Result<Arc<Task>, Problem> {
    let if_match = conditional::if_match(request.headers())?;
    let idempotency = idempotency::key(request.headers(), &change, if_match.as_ref())?;
    let _running =
        idempotency.as_ref().map(|key| idempotency::Running::begin(&state.running, &key.key)).transpose()?;
    let mutation = Mutation {
        change,
        if_match,
        idempotency,
        correlation_id: context::correlation_id(request),
        traceparent: context::traceparent(request.headers()),
    };
    match state.store.mutate(mutation).await? {
        Outcome::Done(task) => Ok(task),
        Outcome::NotFound => Err(Problem::task_not_found()),
        Outcome::VersionMismatch { current } => Err(conditional::stale(current)),
        Outcome::KeyReused => Err(idempotency::reused()),
    }
}

fn task_response(status: StatusCode, task: &Task) -> HttpResponse {
    let mut json = Vec::with_capacity(TASK_JSON_BYTES);
    match serde_json::to_writer(&mut json, task) {
        Ok(()) => HttpResponse::build(status)
            .insert_header((ETAG, conditional::etag(task.version)))
            .insert_header((CONTENT_TYPE, HeaderValue::from_static("application/json")))
            .body(json),
        // Strings and numbers always serialise.
        Err(_) => HttpResponse::InternalServerError().finish(),
    }
}
