//! `Idempotency-Key`: the same request can be sent again and is done once.
//!
//! The answer is stored in the transaction that does the work. Here is only what comes before it: reading
//! the key, and refusing a second request while the first is under way.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use actix_web::http::StatusCode;
use actix_web::http::header::HeaderMap;
use sha2::{Digest, Sha256};
use task_events::escape::hex;

use super::problem::Problem;
use crate::store::{IdempotencyKey, Preconditions};
use crate::task::Change;

const HEADER: &str = "idempotency-key";

/// Between a caller's name and its key. No name and no header has one.
const SEPARATOR: char = '\n';

/// The caller's key with the fingerprint of what it asks for, and under which condition; `None` without the
/// header. Each caller has keys of its own: no key gives another caller's answer, or tells that there is one.
pub(super) fn key(
    headers: &HeaderMap,
    change: &Change,
    preconditions: &Preconditions,
    actor: Option<&str>,
) -> Result<Option<IdempotencyKey>, Problem> {
    let mut values = headers.get_all(HEADER);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::field("Idempotency-Key", "must be given once"));
    }
    let key = value.to_str().map(str::trim).unwrap_or_default();
    if key.is_empty() || key.len() > 255 {
        return Err(Problem::field("Idempotency-Key", "must be 1 to 255 visible ASCII characters"));
    }
    let asked = serde_json::to_vec(change)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    let mut digest = Sha256::new_with_prefix(&asked);
    if let Some(versions) = &preconditions.if_match {
        digest.update(format!("{versions:?}"));
    }
    if let Some(versions) = &preconditions.if_none_match {
        digest.update(format!("not {versions:?}"));
    }
    let fingerprint = hex(&digest.finalize());
    let key = actor.map_or_else(|| key.to_owned(), |actor| format!("{actor}{SEPARATOR}{key}"));
    Ok(Some(IdempotencyKey { key, fingerprint }))
}

pub(super) fn reused() -> Problem {
    Problem::field("Idempotency-Key", "was used with another request")
}

pub(super) fn under_way() -> Problem {
    Problem::new(StatusCode::CONFLICT, "A request with this Idempotency-Key is under way")
}

/// A key whose request is under way, until dropped.
#[derive(Debug)]
pub(super) struct Running {
    keys: Arc<Mutex<HashSet<String>>>,
    key: String,
}

impl Running {
    /// Marks the key; 409 if a request with it is under way already.
    pub(super) fn begin(keys: &Arc<Mutex<HashSet<String>>>, key: &str) -> Result<Self, Problem> {
        let fresh = keys.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned());
        if !fresh {
            return Err(under_way());
        }
        Ok(Self { keys: Arc::clone(keys), key: key.to_owned() })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}
