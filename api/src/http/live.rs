//! `/live`: what the live page asks for beside `/tasks`. It is the page's own interface and changes with it.
//!
//! # Invariants
//!
//! 1. *CSRF.* What changes something is a POST of JSON from this server's own page, or from no page at all. Pages of
//!    other sites do not start the reader either.
//! 2. *A stream ends* when its watcher is too slow, goes away, may not look any longer, or the process stops; none holds
//!    up the stop.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use actix_web::body::{BodySize, MessageBody};
use actix_web::http::StatusCode;
use actix_web::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use actix_web::web::{Bytes, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use task_events::error_code::{Code, Coded};
use task_events::operate::letters::{LetterId, LetterName, read_one};
use task_events::operate::plan::{Filter, Plan, PlanError, Selection, Topics};
use task_events::operate::trace::{Audit, EventHead, Others, Outbox, Task, collect, report};
use task_events::redrive::Place;
use task_events::time::format_time;
use uuid::Uuid;

use super::context;
use super::guard;
use super::input::{self, Body};
use super::problem::Problem;
use super::query;
use super::redriving::execute;
use super::state::State;
use crate::live::{LiveError, Watcher};

/// Time between two looks at whether a watcher still may: a token may be revoked, or end.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Time for a trace, which reads the topic from when the id was made.
const TRACE_TIMEOUT: Duration = Duration::from_secs(20);
/// Time for one dead letter.
const LETTER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a redrive, which reads the DLQ.
const REDRIVE_TIMEOUT: Duration = Duration::from_secs(60);
/// Dead letters of one redrive.
const MAX_REDRIVEN: usize = 100;
/// Characters of a value that is not JSON.
const MAX_VALUE: usize = 4_000;

type Answer = Result<HttpResponse, Problem>;

/// A watcher's stream.
struct EventStream {
    next: Pin<Box<dyn Future<Output = (Option<Bytes>, Watcher)>>>,
    /// Whether its caller may still look.
    may_look: Box<dyn Fn() -> bool>,
    checked: Instant,
}

impl EventStream {
    fn new(watcher: Watcher, may_look: Box<dyn Fn() -> bool>) -> Self {
        Self { next: Box::pin(next(watcher)), may_look, checked: Instant::now() }
    }
}

async fn next(mut watcher: Watcher) -> (Option<Bytes>, Watcher) {
    (watcher.next().await, watcher)
}

impl MessageBody for EventStream {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        let (message, watcher) = ready!(self.next.as_mut().poll(cx));
        if self.checked.elapsed() >= CHECK_INTERVAL {
            if !(self.may_look)() {
                return Poll::Ready(None);
            }
            self.checked = Instant::now();
        }
        self.next = Box::pin(next(watcher));
        Poll::Ready(message.map(Ok))
    }
}

/// `GET /live/stream`: a snapshot, and then what changes, as server-sent events. A watcher that comes again gets a
/// snapshot again, whatever it had seen.
pub(super) async fn stream(request: HttpRequest, state: Data<State>) -> Answer {
    ours(&request)?;
    let watcher = state.live.watch()?;
    let (edge, authorization) = (state.edge.clone(), request.headers().get(AUTHORIZATION).cloned());
    let may_look = move || edge.as_ref().is_none_or(|edge| edge.still_admits(authorization.as_ref()));
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/event-stream"))
        .insert_header((CACHE_CONTROL, "no-store"))
        // A proxy that collects answers would hold it back.
        .insert_header(("x-accel-buffering", "no"))
        .body(EventStream::new(watcher, Box::new(may_look))))
}

/// `GET /live/trace/{id}`: the life of an event, a task or a request.
pub(super) async fn trace(request: HttpRequest, state: Data<State>, id: Path<String>) -> Answer {
    ours(&request)?;
    query::none(request.query_string())?;
    let id: Uuid = id.parse().map_err(|_| Problem::field("id", "is not a uuid"))?;
    let events = state.live.events();
    let collecting = state.live.call(TRACE_TIMEOUT, move |kafka, topics| async move {
        collect(&kafka, &topics, &events, id, None, &mut ()).await
    });
    let found = collecting.await?;
    let (events, is_complete) = waiting(&state, id).await?;
    let task = state.store.task(found.task_id(&events)).await?;
    let kafka_is_reachable = state.relay.borrow().reachable;
    let waiting = state.store.outbox().borrow().waiting;
    let oldest = state.store.oldest_age().await;
    let others = Others {
        task: task.map(|task| Task {
            id: task.id,
            title: task.title.clone(),
            status: task.status.as_str().to_owned(),
            version: task.version,
            updated_at: task.updated_at,
        }),
        outbox: Ok(Outbox { kafka_is_reachable, waiting, oldest, events, is_complete }),
        audit: Audit::Elsewhere,
    };
    Ok(HttpResponse::Ok().json(report(&found, &others)))
}

/// `GET /live/outbox/{id}`: the events about an id that wait in the outbox. Asks the store alone.
pub(super) async fn outbox(request: HttpRequest, state: Data<State>, id: Path<String>) -> Answer {
    ours(&request)?;
    query::none(request.query_string())?;
    let id: Uuid = id.parse().map_err(|_| Problem::field("id", "is not a uuid"))?;
    let (events, is_complete) = waiting(&state, id).await?;
    Ok(HttpResponse::Ok().json(serde_json::json!({"events": events, "is_complete": is_complete})))
}

/// The events about an id that wait in the outbox, and whether all of it was looked at.
async fn waiting(state: &State, id: Uuid) -> Result<(Vec<EventHead>, bool), Problem> {
    let (entries, is_complete) = state.store.outbox_about(id).await?;
    let heads = entries.iter().map(|entry| EventHead {
        event_id: entry.event.event_id,
        event_type: entry.event.event_type.as_str().to_owned(),
        occurred_at: format_time(entry.event.occurred_at),
        task_id: Some(entry.event.data.task_id),
        correlation_id: Some(entry.event.metadata.correlation_id),
    });
    Ok((heads.collect(), is_complete))
}

/// `GET /live/dead-letters/{partition}/{offset}`: one dead letter with its event.
pub(super) async fn letter(request: HttpRequest, state: Data<State>, at: Path<(String, String)>) -> Answer {
    ours(&request)?;
    query::none(request.query_string())?;
    let unknown = || Problem::new(StatusCode::NOT_FOUND, "There is no such dead letter");
    let (partition, offset) = at.into_inner();
    let id: LetterName = format!("{partition}/{offset}").parse().map_err(|_| unknown())?;
    let LetterName::Id(id) = id else { return Err(unknown()) };
    let reading = state.live.call(LETTER_TIMEOUT, move |kafka, topics| async move {
        read_one(&kafka, &topics.dlq_topic, id).await
    });
    let (_, letter) = reading.await?.map_err(LiveError::from)?.ok_or_else(unknown)?;
    let LetterId { partition, offset } = id;
    let original = letter.original_value();
    let bytes = original.as_ref().ok().and_then(|value| value.as_ref()?.as_deref());
    let avro = state.live.events().read_now(bytes).await.ok().filter(|event| event.schema_id.is_some());
    let value = match (&letter.original_event, avro, &original) {
        (Some(event), _, _) => serde_json::json!({"json": shown(event.get())}),
        (None, Some(event), _) => serde_json::json!({"json": shown(&event.to_json())}),
        (None, None, Ok(Some(Some(bytes)))) => {
            let text = String::from_utf8_lossy(bytes);
            let start: String = text.chars().take(MAX_VALUE).collect();
            serde_json::json!({"text": start, "bytes": bytes.len()})
        }
        (None, None, Ok(Some(None))) => serde_json::json!({"none": "the record has no value"}),
        (None, None, _) => serde_json::json!({"none": "the value is only at its source"}),
    };
    Ok(HttpResponse::Ok().json(serde_json::json!({
        "id": format!("{partition}/{offset}"),
        "group": letter.group,
        "error": letter.error,
        "retry_count": letter.retry_count,
        "source": Place::of(&letter.source).to_string(),
        "failed_at": letter.failed_at,
        "headers": letter.original_headers,
        "value": value,
    })))
}

/// A value as it is shown: not more of it than fits.
fn shown(event: &str) -> String {
    event.chars().take(MAX_VALUE).collect()
}

/// What is to be redriven.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Redrive {
    /// `PARTITION/OFFSET` each.
    ids: Vec<String>,
    /// Also those that were redriven before.
    #[serde(default)]
    again: bool,
    /// Do it; otherwise it is a dry run.
    #[serde(default)]
    execute: bool,
}

/// `POST /live/redrive`: redrives dead letters by the code of `taskctl dlq redrive`.
pub(super) async fn redrive(request: HttpRequest, state: Data<State>, body: Body) -> Answer {
    ours(&request)?;
    query::none(request.query_string())?;
    guard::own_json(&request)?;
    let wanted: Redrive = input::json(&body)?;
    if wanted.ids.is_empty() || wanted.ids.len() > MAX_REDRIVEN {
        return Err(Problem::field("ids", format!("must have 1 to {MAX_REDRIVEN} dead letters")));
    }
    let names: Result<Vec<_>, String> = wanted.ids.iter().map(|id| id.parse::<LetterName>()).collect();
    let names = names.map_err(|error| Problem::field("ids", error))?;
    let selection = Selection { names, filter: Filter::default(), again: wanted.again };
    let correlation_id = context::correlation_id(&request).to_string();
    let report = Arc::new(OnceLock::new());
    let reported = Arc::clone(&report);
    let redriving = state.live.call(REDRIVE_TIMEOUT, move |kafka, topics| async move {
        let at = Topics { dlq: &topics.dlq_topic, offsets: &topics.offsets_topic };
        let plan = Plan::make(&kafka, at, &selection, &mut ()).await?;
        if !wanted.execute {
            return Ok(plan);
        }
        execute(plan, &kafka, &topics.dlq_topic, &correlation_id, &reported).await
    });
    match redriving.await {
        Ok(Ok(plan)) => Ok(HttpResponse::Ok().json(plan)),
        Ok(Err(PlanError::Kafka(error))) => Err(LiveError::from(error).into()),
        Ok(Err(error @ PlanError::Interrupted { .. })) => {
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))
        }
        Ok(Err(error @ (PlanError::Unknown(_) | PlanError::NoMatch))) => {
            Err(Problem::new(StatusCode::NOT_FOUND, error.to_string()))
        }
        Err(error) => Err(match report.get() {
            Some(progress) => unavailable(error.code(), &format!("{error} ({progress})")),
            None => error.into(),
        }),
    }
}

/// Refuses what a page of another site asks for: it could not read the answer, but would have Kafka read.
fn ours(request: &HttpRequest) -> Result<(), Problem> {
    let site = request.headers().get("sec-fetch-site").and_then(|site| site.to_str().ok());
    match site {
        None | Some("same-origin" | "none") => Ok(()),
        Some(_) => Err(Problem::new(StatusCode::FORBIDDEN, "Only this server's own page may ask for this")),
    }
}

impl From<LiveError> for Problem {
    fn from(error: LiveError) -> Self {
        unavailable(error.code(), &error.to_string())
    }
}

fn unavailable(code: Code, why: &str) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, code.after(why)).with_header(RETRY_AFTER, "5")
}
