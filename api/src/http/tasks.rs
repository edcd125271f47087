//! Tasks: create, read, change, complete and delete.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LOCATION};
use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use uuid::Uuid;

use super::input::Body;
use super::problem::Problem;
use super::state::State;
use super::{conditional, context, idempotency, input, query};
use crate::store::{Mutation, Outcome};
use crate::task::{Change, Task};

/// Space for a task as JSON, with a title of usual length.
const TASK_JSON_BYTES: usize = 384;
/// Says that the answer is that of the same request before.
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// A change that was made, now or by the same request before.
struct Changed {
    task: Arc<Task>,
    is_repeat: bool,
}

impl Changed {
    /// The task as the answer.
    fn respond(&self, status: StatusCode) -> HttpResponse {
        self.marked(task_response(status, &self.task))
    }

    fn marked(&self, mut response: HttpResponse) -> HttpResponse {
        if self.is_repeat {
            response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}

pub(super) async fn create(
    request: HttpRequest,
    state: Data<State>,
    body: Body,
) -> Result<HttpResponse, Problem> {
    query::none(request.query_string())?;
    let change = Change::Create(input::new_task(input::object(&body)?)?);
    let changed = mutate(&request, &state, change).await?;
    let location = format!("/tasks/{}", changed.task.id);
    let mut response = changed.respond(StatusCode::CREATED);
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
    let id = addressed(&request, &id)?;
    let change = Change::Patch(id, input::task_patch(input::object(&body)?)?);
    Ok(mutate(&request, &state, change).await?.respond(StatusCode::OK))
}

pub(super) async fn complete(
    request: HttpRequest,
    state: Data<State>,
    id: Path<String>,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let id = addressed_without_body(&request, &id, body)?;
    Ok(mutate(&request, &state, Change::Complete(id)).await?.respond(StatusCode::OK))
}

pub(super) async fn delete(
    request: HttpRequest,
    state: Data<State>,
    id: Path<String>,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let id = addressed_without_body(&request, &id, body)?;
    let changed = mutate(&request, &state, Change::Delete(id)).await?;
    Ok(changed.marked(HttpResponse::NoContent().finish()))
}

pub(super) async fn get(
    request: HttpRequest,
    state: Data<State>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let id = addressed(&request, &id)?;
    let if_match = conditional::if_match(request.headers())?;
    let task = state.store.task(id).await?.ok_or_else(Problem::task_not_found)?;
    if if_match.is_some_and(|versions| !versions.contain(task.version)) {
        return Err(conditional::stale(task.version));
    }
    if conditional::has_it_already(request.headers(), task.version) {
        let etag = (ETAG, conditional::etag(task.version));
        return Ok(HttpResponse::NotModified().insert_header(etag).finish());
    }
    Ok(task_response(StatusCode::OK, &task))
}

/// The task that a path names. Such a path has no query.
fn addressed(request: &HttpRequest, id: &str) -> Result<Uuid, Problem> {
    let id = input::task_id(id)?;
    query::none(request.query_string())?;
    Ok(id)
}

/// The same where a body says nothing.
fn addressed_without_body(request: &HttpRequest, id: &str, body: Body) -> Result<Uuid, Problem> {
    let id = addressed(request, id)?;
    input::ignored(body)?;
    Ok(id)
}

/// Makes a change under the conditions of the request's headers.
async fn mutate(request: &HttpRequest, state: &State, change: Change) -> Result<Changed, Problem> {
    let preconditions = conditional::preconditions(request.headers())?;
    let actor = context::actor(request);
    let idempotency = idempotency::key(request.headers(), &change, &preconditions, actor.as_deref())?;
    if matches!(change, Change::Create(_)) {
        conditional::of_collection(&preconditions)?;
    }
    let _running =
        idempotency.as_ref().map(|key| idempotency::Running::begin(&state.running, &key.key)).transpose()?;
    let mutation = Mutation {
        change,
        preconditions,
        idempotency,
        correlation_id: context::correlation_id(request),
        traceparent: context::traceparent(request.headers()),
        actor,
    };
    match state.store.mutate(mutation).await? {
        Outcome::Done(task) => Ok(Changed { task, is_repeat: false }),
        Outcome::Repeated(task) => Ok(Changed { task, is_repeat: true }),
        Outcome::NotFound => Err(Problem::task_not_found()),
        Outcome::VersionMismatch { current } => Err(conditional::stale(current)),
        Outcome::VersionExcluded { current } => Err(conditional::excluded(current)),
        Outcome::KeyReused => Err(idempotency::reused()),
        Outcome::KeyInUse => Err(idempotency::under_way()),
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
