//! From bytes to valid input: bodies, query strings and ids. Every field that is wrong is named.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_LENGTH, CONTENT_TYPE, ORIGIN};
use actix_web::web::{Bytes, Data};
use actix_web::{FromRequest, HttpRequest};
use serde_json::{Map, Value};
use tokio::time::timeout;
use uuid::Uuid;

use super::State;
use super::problem::{FieldError, Problem};
use crate::store::Filter;
use crate::task::{MAX_TITLE, NewTask, TaskPatch, TaskStatus};

/// Tasks of a page if the caller does not say.
const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 200;
/// Time for a body to arrive, however steadily it trickles.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// A body of up to this length is read also where memory is scarce.
const SMALL_BODY: usize = 4 * 1024;

/// A page of tasks that a caller asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ListQuery {
    pub(super) filter: Filter,
    pub(super) limit: usize,
    pub(super) after: Option<Uuid>,
}

/// The id of a task. What is no uuid names no task.
pub(super) fn task_id(text: &str) -> Result<Uuid, Problem> {
    // Only the form that we write: others would be a second URL for the same task.
    text.parse().ok().filter(|id: &Uuid| id.to_string() == text).ok_or_else(Problem::task_not_found)
}

/// A web page of another origin can send any text blindly, but not as JSON: that it has to ask for first.
pub(super) fn refuse_blind_posts(request: &HttpRequest) -> Result<(), Problem> {
    let content_type =
        request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if request.headers().contains_key(ORIGIN) && !essence.eq_ignore_ascii_case("application/json") {
        let detail = "A request with an Origin header must have the content type application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    Ok(())
}

/// The body, once all of it is there.
#[derive(Debug)]
pub(super) struct Body(Result<Bytes, Problem>);

impl FromRequest for Body {
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Infallible>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let length =
            request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let is_small = length.is_some_and(|length: usize| length <= SMALL_BODY);
        let state = request.app_data::<Data<State>>();
        if !is_small && state.is_some_and(|state| state.connections.are_crowded()) {
            return Box::pin(async { Ok(Self(Err(Problem::overloaded()))) });
        }
        let bytes = Bytes::from_request(request, payload);
        Box::pin(async { Ok(Self(read(bytes).await)) })
    }
}

async fn read(bytes: impl Future<Output = Result<Bytes, actix_web::Error>>) -> Result<Bytes, Problem> {
    let Ok(bytes) = timeout(BODY_TIMEOUT, bytes).await else {
        let detail = format!("The body did not arrive within {} s", BODY_TIMEOUT.as_secs());
        return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail));
    };
    bytes.map_err(|error| match error.as_response_error().status_code() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("The body is larger than {} bytes", super::MAX_BODY),
        ),
        _ => Problem::new(StatusCode::BAD_REQUEST, format!("The body cannot be read: {error}")),
    })
}

/// A JSON object, whatever the content type says.
pub(super) fn object(Body(body): Body) -> Result<Map<String, Value>, Problem> {
    let body = body?;
    match serde_json::from_slice(&body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(Problem::field("body", "must be a JSON object")),
        Err(error) => Err(Problem::new(StatusCode::BAD_REQUEST, format!("The body is not JSON: {error}"))),
    }
}

/// Collects what is wrong with the fields of an object.
struct Fields {
    rest: Map<String, Value>,
    errors: Vec<FieldError>,
}

impl Fields {
    fn wrong<T>(&mut self, field: &str, message: &str) -> Option<T> {
        self.errors.push(FieldError::new(field, message));
        None
    }

    /// The title, if the field is there.
    fn title(&mut self) -> Option<String> {
        match self.rest.remove("title")? {
            Value::String(text) => match check_title(&text) {
                Ok(title) => Some(title),
                Err(message) => self.wrong("title", &message),
            },
            _ => self.wrong("title", "must be a string"),
        }
    }

    fn status(&mut self) -> Option<TaskStatus> {
        let value = self.rest.remove("status")?;
        match value.as_str().and_then(TaskStatus::from_name) {
            Some(status) => Some(status),
            None => self.wrong("status", STATUSES),
        }
    }

    fn owner_id(&mut self) -> Option<Uuid> {
        match self.rest.remove("owner_id")? {
            Value::Null => None,
            Value::String(text) => match text.parse() {
                Ok(id) => Some(id),
                Err(_) => self.wrong("owner_id", "must be a uuid or null"),
            },
            _ => self.wrong("owner_id", "must be a uuid or null"),
        }
    }

    fn finish<T>(mut self, value: Option<T>) -> Result<T, Problem> {
        for unknown in self.rest.keys() {
            self.errors.push(FieldError::new(unknown, "unknown field"));
        }
        match value {
            Some(value) if self.errors.is_empty() => Ok(value),
            _ => Err(Problem::fields(self.errors)),
        }
    }
}

const STATUSES: &str = "must be pending, in_progress or completed";

fn check_title(text: &str) -> Result<String, String> {
    let title = text.trim();
    if title.is_empty() {
        return Err("must not be empty".to_owned());
    }
    if title.chars().count() > MAX_TITLE {
        return Err(format!("must be at most {MAX_TITLE} characters"));
    }
    if title.contains(char::is_control) {
        return Err("must not contain control characters".to_owned());
    }
    Ok(title.to_owned())
}

/// `{"title", "owner_id"?}`
pub(super) fn new_task(fields: Map<String, Value>) -> Result<NewTask, Problem> {
    let missing = !fields.contains_key("title");
    let mut fields = Fields { rest: fields, errors: Vec::new() };
    let title = if missing { fields.wrong("title", "is required") } else { fields.title() };
    let owner_id = fields.owner_id();
    fields.finish(title.map(|title| NewTask { title, owner_id }))
}

/// `{"title"?, "status"?}`
pub(super) fn task_patch(fields: Map<String, Value>) -> Result<TaskPatch, Problem> {
    let mut fields = Fields { rest: fields, errors: Vec::new() };
    let patch = TaskPatch { title: fields.title(), status: fields.status() };
    fields.finish(Some(patch))
}

/// `?status=&owner_id=&limit=&cursor=`
pub(super) fn list_query(pairs: &[(String, String)]) -> Result<ListQuery, Problem> {
    let mut query = ListQuery { filter: Filter::default(), limit: DEFAULT_LIMIT, after: None };
    let mut errors = Vec::new();
    let mut wrong = |field: &str, message: &str| errors.push(FieldError::new(field, message));
    for (name, value) in pairs {
        // An empty value is the same as none: forms send their empty fields.
        if value.is_empty() && ["status", "owner_id", "limit", "cursor"].contains(&name.as_str()) {
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
            "limit" => match value.parse() {
                Ok(limit) if (1..=MAX_LIMIT).contains(&limit) => query.limit = limit,
                _ => wrong("limit", "must be a number from 1 to 200"),
            },
            "cursor" => match Uuid::try_parse(value) {
                Ok(after) => query.after = Some(after),
                Err(_) => wrong("cursor", "must be the next_cursor of an earlier answer"),
            },
            unknown => wrong(unknown, "unknown parameter"),
        }
    }
    if errors.is_empty() { Ok(query) } else { Err(Problem::fields(errors)) }
}

/// What is answered as `next_cursor`, for [`list_query`] to read.
pub(super) fn cursor(last: Uuid) -> String {
    last.simple().to_string()
}
