//! What every request has: a correlation id, and a line in the log.

use std::fmt;
use std::time::{Duration, Instant};

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, HttpMessage, HttpRequest};
use log::Level;
use task_events::logging::{self, CORRELATION_ID, Field};
use uuid::Uuid;

use super::edge::Admission;
use super::problem::Problem;
use super::state::State;
use super::{cors, guard};
use crate::access::Actor;

const CORRELATION_HEADER: HeaderName = HeaderName::from_static("x-correlation-id");

/// The request's correlation id: the caller's, if it is a uuid, else a new one.
#[derive(Debug, Clone, Copy)]
struct CorrelationId(Uuid);

/// Who sent the request.
#[derive(Debug, Clone)]
struct Caller(Actor);

/// Who sent the request, where callers have identities.
pub(super) fn actor(request: &HttpRequest) -> Option<Actor> {
    request.extensions().get::<Caller>().map(|caller| Actor::clone(&caller.0))
}

pub(super) fn correlation_id(request: &HttpRequest) -> Uuid {
    request.extensions().get::<CorrelationId>().map_or_else(Uuid::new_v4, |id| id.0)
}

/// The caller's W3C trace context, if it has the form of one: passed on as it came.
pub(super) fn traceparent(headers: &HeaderMap) -> Option<String> {
    let text = only(headers, HeaderName::from_static("traceparent"))?.to_str().ok()?;
    let parts: Vec<&str> = text.split('-').collect();
    let is_hex = |part: &str, len: usize| {
        part.len() == len && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    match parts.as_slice() {
        [version, trace, span, flags, rest @ ..]
            if is_hex(version, 2)
                && *version != "ff"
                && (rest.is_empty() || *version != "00")
                && is_hex(trace, 32)
                && is_hex(span, 16)
                // All zeros stand for an invalid trace or span.
                && [*trace, *span].iter().all(|id| id.bytes().any(|b| b != b'0'))
                && is_hex(flags, 2)
                && text.len() <= 256 =>
        {
            Some(text.to_owned())
        }
        _ => None,
    }
}

/// The header's value, if it is given once: of two, none is the one that is meant.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&HeaderValue> {
    let mut values = headers.get_all(name);
    values.next().filter(|_| values.next().is_none())
}

/// Wraps every request.
pub(super) async fn around<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let started = Instant::now();
    let given = only(request.headers(), CORRELATION_HEADER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let id = given.unwrap_or_else(Uuid::new_v4);
    request.extensions_mut().insert(CorrelationId(id));
    // Copies: the router wants the request for itself.
    let (method, path) = (request.method().clone(), request.path().to_owned());
    let state = request.app_data::<Data<State>>().cloned();
    let edge = state.as_ref().and_then(|state| state.edge.as_deref());
    // Before the request is gone.
    let origin = edge.and_then(|edge| edge.origins.of(&request));
    let admission = match &state {
        Some(state) => admit(&request, state).await,
        None => Admission::Admitted(None),
    };
    let mut route = None;
    let (answered, actor) = match admission {
        Admission::Admitted(actor) => {
            if let Some(actor) = &actor {
                request.extensions_mut().insert(Caller(Actor::clone(actor)));
            }
            (next.call(request).await.map(ServiceResponse::map_into_left_body), actor)
        }
        Admission::Answered(response) => (Ok(request.into_response(response.map_into_right_body())), None),
        Admission::Refused(problem, actor) => {
            (Ok(request.into_response(problem.respond(&path).map_into_right_body())), actor)
        }
    };
    let mut result = match answered {
        Ok(response) => {
            route = response.request().app_data().copied();
            let problem = response.response().error().and_then(Error::as_error::<Problem>).cloned();
            if let Some(state) = state.as_ref().filter(|_| problem.as_ref().is_some_and(Problem::is_shed)) {
                state.requests.shed();
            }
            Ok(match problem {
                Some(problem) => response.into_response(problem.respond(&path)),
                None => response.map_into_boxed_body(),
            })
        }
        // An error of the framework itself, before a handler was reached.
        Err(error) => {
            let problem = Problem::new(error.as_response_error().status_code(), error.to_string());
            Err(problem.respond(&path))
        }
    };
    let (status, headers) = match &mut result {
        Ok(response) => (response.status(), response.headers_mut()),
        Err(response) => (response.status(), response.headers_mut()),
    };
    // A browser takes no answer for a page or a script that does not say so: titles come from anybody.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let mut text = Uuid::encode_buffer();
    if let Ok(value) = HeaderValue::from_str(id.hyphenated().encode_lower(&mut text)) {
        headers.insert(CORRELATION_HEADER, value);
    }
    if edge.is_some_and(|edge| !edge.origins.is_empty()) {
        cors::mark(headers, origin);
    }
    let took = started.elapsed();
    if let Some(state) = &state {
        state.requests.answered(&method, route, status, took);
    }
    // Probes come every few seconds for ever, and say nothing new.
    let level = if matches!(path.as_str(), "/healthz" | "/readyz" | "/metrics") && status.is_success() {
        Level::Debug
    } else {
        Level::Info
    };
    let by = actor.as_deref();
    let answer = Answer { method: &method, path: &path, status, took, by };
    let fields = [
        Field::new(CORRELATION_ID, id),
        Field::new("method", method.as_str()),
        Field::new("path", path.as_str()),
        Field::new("status", i32::from(status.as_u16())),
        Field::new("duration_ms", took.as_secs_f64() * 1e3),
        Field::new("actor", by.unwrap_or_default()),
    ];
    // Without a caller, the line has no such field.
    let fields = fields.split_last().map_or(&fields[..], |(_, others)| match by {
        Some(_) => &fields[..],
        None => others,
    });
    logging::line(level, module_path!(), fields, format_args!("{answer}"));
    result.map_err(|response| InternalError::from_response(status, response).into())
}

/// Whether the request comes to its handler.
async fn admit(request: &ServiceRequest, state: &State) -> Admission {
    if let Err(problem) = guard::check(request, &state.hosts) {
        return Admission::Refused(problem, None);
    }
    match &state.edge {
        Some(edge) => edge.admit(request).await,
        None => Admission::Admitted(None),
    }
}

/// What the log says of a request.
struct Answer<'a> {
    method: &'a Method,
    path: &'a str,
    status: StatusCode,
    took: Duration,
    by: Option<&'a str>,
}

impl fmt::Display for Answer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, path, status, took, by } = self;
        let tenths = (took.as_nanos() + 50_000) / 100_000;
        let (ms, tenth, status) = (tenths / 10, tenths % 10, status.as_u16());
        // The path is escaped with the rest of the line.
        write!(f, "{method} {path} {status} {ms}.{tenth} ms")?;
        by.map_or(Ok(()), |by| write!(f, " by {by}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed_on(value: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("traceparent"), HeaderValue::from_str(value).unwrap());
        traceparent(&headers).is_some()
    }

    #[test]
    fn the_access_line_has_its_form() {
        let line = |method: &Method, micros| {
            let took = Duration::from_micros(micros);
            let by = (*method == Method::PATCH).then_some("alice");
            Answer { method, path: "/tasks", status: StatusCode::CREATED, took, by }.to_string()
        };
        assert_eq!(line(&Method::PATCH, 1_234), "PATCH /tasks 201 1.2 ms by alice");
        assert_eq!(line(&Method::POST, 1_234), "POST /tasks 201 1.2 ms");
        assert_eq!(line(&Method::GET, 49), "GET /tasks 201 0.0 ms");
        assert_eq!(line(&Method::GET, 999_960), "GET /tasks 201 1000.0 ms");
    }

    #[test]
    fn only_a_trace_context_is_passed_on() {
        assert!(passed_on("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        assert!(passed_on("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-newer"));
        for wrong in [
            "",
            "00",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            assert!(!passed_on(wrong), "{wrong}");
        }
    }
}
