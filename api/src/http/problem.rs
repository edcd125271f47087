//! Errors as RFC 9457 problem details.

use std::fmt;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderName, RETRY_AFTER};
use serde::Serialize;

use crate::store::StoreError;

/// An error, before it is known which request it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    errors: Vec<FieldError>,
    /// What else the answer says, for programs.
    header: Option<(HeaderName, &'static str)>,
    is_shed: bool,
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// The field of the body, the parameter or the header.
    pub field: String,
    /// What is wrong, for people.
    pub message: String,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    instance: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
}

impl FieldError {
    pub(super) fn new(field: &str, message: impl Into<String>) -> Self {
        Self { field: field.to_owned(), message: message.into() }
    }
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), errors: Vec::new(), header: None, is_shed: false }
    }

    pub(super) fn with_header(self, name: HeaderName, value: &'static str) -> Self {
        Self { header: Some((name, value)), ..self }
    }

    pub(super) fn task_not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "Task not found")
    }

    /// 422: what was sent was understood, and some of it is wrong.
    pub(super) fn fields(errors: Vec<FieldError>) -> Self {
        let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        let detail = format!("Not valid: {}", fields.join(", "));
        Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail) }
    }

    pub(super) fn field(field: &str, message: impl Into<String>) -> Self {
        Self::fields(vec![FieldError::new(field, message)])
    }

    /// 503: what is under way already takes all that there is.
    pub(super) fn overloaded() -> Self {
        StoreError::Overloaded.into()
    }

    /// Whether it was refused because there was too much: load shedding.
    pub(super) fn is_shed(&self) -> bool {
        self.is_shed
    }

    /// The answer to a request for the path.
    pub(super) fn respond(&self, path: &str) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        response.insert_header((CONTENT_TYPE, "application/problem+json"));
        if let Some((name, value)) = &self.header {
            response.insert_header((name.clone(), *value));
        }
        response.body(self.body(path))
    }

    /// The body of that answer.
    pub(super) fn body(&self, path: &str) -> Vec<u8> {
        let body = Body {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            instance: path,
            errors: &self.errors,
        };
        // Strings and numbers always serialise.
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status, self.detail)
    }
}

/// So that handlers may use `?`. The answer has no body here: the path that belongs into it is not known, and
/// [`around`](super::context::around) gives the whole answer.
impl actix_web::ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        HttpResponse::new(self.status)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let detail = match &error {
            StoreError::Overloaded => "Too many requests are under way; try again soon".to_owned(),
            StoreError::Slow => {
                "The store does not answer in time; a change may or may not have been made".to_owned()
            }
            StoreError::Refused(failure) => {
                format!("The store cannot be written: {}. Nothing was changed", failure.remedy())
            }
            StoreError::Unavailable(_) | StoreError::Moved { .. } => {
                "The store cannot be used at the moment; the change may or may not have been made".to_owned()
            }
            StoreError::Unreadable(unreadable) => {
                let detail = format!(
                    "Damaged: {} cannot be read in the store, as the log says. Nothing was changed",
                    unreadable.what()
                );
                return Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail);
            }
        };
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).with_header(RETRY_AFTER, "1");
        Self { is_shed: matches!(error, StoreError::Overloaded), ..problem }
    }
}
