//! A change as it is asked for, and what became of it.

use std::sync::Arc;

use uuid::Uuid;

use crate::task::{Change, Task};

/// A change, and under which conditions it is made.
#[derive(Debug, Clone)]
pub struct Mutation {
    /// What to change.
    pub change: Change,
    /// Of which version the task must be.
    pub preconditions: Preconditions,
    /// The caller's key, and a fingerprint of the request.
    pub idempotency: Option<IdempotencyKey>,
    /// Ties the events to the request.
    pub correlation_id: Uuid,
    /// W3C trace context to pass on.
    pub traceparent: Option<String>,
    /// Who asks for it, where callers have identities.
    pub actor: Option<Arc<str>>,
}

/// Of which version a task must be to be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// One of these.
    pub if_match: Option<VersionSet>,
    /// None of these.
    pub if_none_match: Option<VersionSet>,
}

/// The versions that a list of entity tags names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionSet {
    /// `*`: any, as long as the task exists.
    Any,
    /// One of these.
    Versions(Vec<u64>),
}

impl VersionSet {
    /// Whether the version is one of them.
    pub fn contain(&self, version: u64) -> bool {
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
    /// Done: the task after the change, or as it was before it was deleted.
    Done(Arc<Task>),
    /// Done before under the same key: the same of then.
    Repeated(Arc<Task>),
    /// There is no such task.
    NotFound,
    /// The task has none of the versions that it must have.
    VersionMismatch {
        /// The version it has.
        current: u64,
    },
    /// The task has one of the versions that it must not have.
    VersionExcluded {
        /// The version it has.
        current: u64,
    },
    /// The key was used with another request.
    KeyReused,
    /// A request with that key is under way in another replica.
    KeyInUse,
}

/// What was answered under an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) fingerprint: Box<[u8]>,
    pub(super) expires_ms: u64,
    /// As it was then.
    pub(super) task: Arc<Task>,
}
