//! From bytes to valid input: bodies and ids. Every field that is wrong is named.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_LENGTH;
use actix_web::web::{Bytes, Data};
use actix_web::{FromRequest, HttpRequest};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use tokio::time::timeout;
use uuid::Uuid;

use super::problem::{FieldError, Problem};
use super::state::State;
use crate::task::{NewTask, TaskPatch, TaskStatus};
use crate::title::Title;

/// Time for a body to arrive, however steadily it trickles.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// A body of up to this length is read also where memory is scarce.
const SMALL_BODY: usize = 4 * 1024;

/// The id of a task, in any form of a uuid: in either case, and also without hyphens, in braces or as a URN, as
/// everywhere else. What is no uuid names no task.
pub(super) fn task_id(text: &str) -> Result<Uuid, Problem> {
    text.parse().map_err(|_| Problem::task_not_found())
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
        _ => {
            let detail = "The body cannot be read: it is cut short, or its chunks are malformed";
            Problem::new(StatusCode::BAD_REQUEST, detail)
        }
    })
}

/// The value of a field, as far as any field has a use for it. Borrowed from the body, where it is in it as it is.
#[derive(Debug, PartialEq)]
enum Field<'b> {
    Null,
    Text(Cow<'b, str>),
    /// A number, a boolean, an array or an object.
    Other,
}

struct FieldVisitor;

impl<'de: 'b, 'b> Deserialize<'de> for Field<'b> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor)
    }
}

impl<'de> Visitor<'de> for FieldVisitor {
    type Value = Field<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Field<'de>, E> {
        Ok(Field::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Field<'de>, E> {
        Ok(Field::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Field<'de>, E> {
        Ok(Field::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Field<'de>, E> {
        Ok(Field::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Field<'de>, E> {
        Ok(Field::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Field<'de>, E> {
        Ok(Field::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Field<'de>, E> {
        Ok(Field::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Field<'de>, A::Error> {
        // Read all the same: whether it is JSON counts.
        while seq.next_element::<Value>()?.is_some() {}
        Ok(Field::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Field<'de>, A::Error> {
        while map.next_entry::<String, Value>()?.is_some() {}
        Ok(Field::Other)
    }
}

/// A name, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Name<'b>(#[serde(borrow)] Cow<'b, str>);

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let (mut rest, mut errors) = (BTreeMap::new(), Vec::new());
        while let Some((Name(name), value)) = map.next_entry()? {
            match rest.entry(name) {
                Entry::Vacant(entry) => drop(entry.insert(value)),
                // Which of the two is meant, nobody can say.
                Entry::Occupied(entry) => {
                    errors.push(FieldError::new(entry.key(), "is given more than once"))
                }
            }
        }
        Ok(Fields { rest, errors })
    }
}

/// The fields of an object, and what is wrong with them.
#[derive(Debug)]
pub(super) struct Fields<'b> {
    rest: BTreeMap<Cow<'b, str>, Field<'b>>,
    errors: Vec<FieldError>,
}

impl<'de: 'b, 'b> Deserialize<'de> for Fields<'b> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// A body that says nothing: it is read all the same, or the connection could not be used again.
pub(super) fn ignored(Body(body): Body) -> Result<(), Problem> {
    body.map(drop)
}

/// The body as a value of a known form.
pub(super) fn json<T: DeserializeOwned>(Body(body): &Body) -> Result<T, Problem> {
    let body = body.as_ref().map_err(Problem::clone)?;
    serde_json::from_slice(body).map_err(|error| match error.is_data() {
        true => Problem::field("body", error.to_string()),
        false => Problem::new(StatusCode::BAD_REQUEST, format!("The body is not JSON: {error}")),
    })
}

/// The fields of a JSON object, whatever the content type says.
pub(super) fn object(Body(body): &Body) -> Result<Fields<'_>, Problem> {
    let body = body.as_ref().map_err(Problem::clone)?;
    let not_json = |error: serde_json::Error| {
        Problem::new(StatusCode::BAD_REQUEST, format!("The body is not JSON: {error}"))
    };
    match serde_json::from_slice(body) {
        Ok(fields) => Ok(fields),
        Err(error) if error.is_data() => match serde_json::from_slice::<Value>(body) {
            Ok(_) => Err(Problem::field("body", "must be a JSON object")),
            Err(error) => Err(not_json(error)),
        },
        Err(error) => Err(not_json(error)),
    }
}

impl Fields<'_> {
    fn wrong<T>(&mut self, field: &str, message: &str) -> Option<T> {
        self.errors.push(FieldError::new(field, message));
        None
    }

    /// The title, if the field is there.
    fn title(&mut self) -> Option<Title> {
        match self.rest.remove("title")? {
            Field::Text(text) => match Title::parse(&text) {
                Ok(title) => Some(title),
                Err(message) => self.wrong("title", &message),
            },
            _ => self.wrong("title", "must be a string"),
        }
    }

    fn status(&mut self) -> Option<TaskStatus> {
        let status = match self.rest.remove("status")? {
            Field::Text(text) => TaskStatus::from_name(&text),
            _ => None,
        };
        status.or_else(|| self.wrong("status", STATUSES))
    }

    /// The owner, if the field is there: `Some(None)` for null.
    fn owner_id(&mut self) -> Option<Option<Uuid>> {
        let owner = match self.rest.remove("owner_id")? {
            Field::Null => return Some(None),
            Field::Text(text) => text.parse().ok(),
            Field::Other => None,
        };
        owner.map(Some).or_else(|| self.wrong("owner_id", "must be a uuid or null"))
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

pub(super) const STATUSES: &str = "must be pending, in_progress or completed";

/// `{"title", "owner_id"?}`
pub(super) fn new_task(mut fields: Fields<'_>) -> Result<NewTask, Problem> {
    let missing = !fields.rest.contains_key("title");
    let title = if missing { fields.wrong("title", "is required") } else { fields.title() };
    let owner_id = fields.owner_id().flatten();
    fields.finish(title.map(|title| NewTask { title, owner_id }))
}

/// `{"title"?, "status"?, "owner_id"?}`
pub(super) fn task_patch(mut fields: Fields<'_>) -> Result<TaskPatch, Problem> {
    let patch = TaskPatch { title: fields.title(), status: fields.status(), owner_id: fields.owner_id() };
    fields.finish(Some(patch))
}
