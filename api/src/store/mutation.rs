//! A change as it is asked for, and what became of it.

use std::sync::Arc;

use uuid::Uuid;

use crate::task::{Change, Task};

/// A change, and under which conditions it is made.
#[derive(Debug, Clone)]
pub struct Mutation {
    /// What to change.
    pub change: Change,
    /// The version that the caller believes current.
    pub if_match: Option<IfMatch>,
    /// The caller's key, and a fingerprint of the request.
    pub idempotency: Option<IdempotencyKey>,
    /// Ties the events to the request.
    pub correlation_id: Uuid,
    /// W3C trace context to pass on.
    pub traceparent: Option<String>,
}

/// The versions that an `If-Match` header allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// `*`: any, as long as the task exists.
    Any,
    /// One of these.
    Versions(Vec<u64>),
}

impl IfMatch {
    /// Whether a task of this version may be changed.
    pub fn allows(&self, version: u64) -> bool {
        match self {
            Self::Any => true,
            Self::Versions(versions) => versions.contains(&version),
        }
    }
}

/// A key that names a request, so that it can be sent twice and done once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The caller's key.
    pub key: String,
    /// SHA-256 of what the request asks for, in hexadecimal.
    pub fingerprint: String,
}

/// What became of a mutation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done, now or under the same key before: the task as it then stood.
    Done(Arc<Task>),
    /// There is no such task.
    NotFound,
    /// The task has another version than the caller believes.
    VersionMismatch {
        /// The version it has.
        current: u64,
    },
    /// The key was used with another request.
    KeyReused,
}

/// What was answered under an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) fingerprint: Box<[u8]>,
    pub(super) expires_ms: u64,
    /// As it was then.
    pub(super) task: Arc<Task>,
}
