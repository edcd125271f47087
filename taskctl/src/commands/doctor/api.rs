//! The Task API: whether it is ready, and whether its outbox is emptied before the topic would forget.

use std::time::Duration;

use super::findings::{Findings, UNUSABLE_FILE, words};
use super::topics::Events;
use crate::api::{Api, ApiError, Readiness, readiness};

pub(super) async fn examine(api: &Api, events: Option<&Events>, findings: &mut Findings) {
    let subject = format!("Task API {}", api.address);
    let Readiness { is_ready, waiting, oldest, answer, .. } = match readiness(api).await {
        Ok(readiness) => readiness,
        Err(error @ ApiError::File(_)) => return findings.fail(subject, error, UNUSABLE_FILE),
        Err(error @ ApiError::Silent) => {
            return findings.fail(subject, error, "look at its log, or name another with --api");
        }
        Err(error) => return findings.warn(subject, error, "start it, or name it with --api"),
    };
    let age = oldest.unwrap_or_default();
    let retention = events.and_then(|events| events.retention);
    if !is_ready {
        findings.fail(subject, format!("it is not ready: {answer}"), "what it waits for is in the answer");
    } else if waiting > 0 && retention.is_some_and(|kept| age > kept / 2) {
        findings.fail(
            subject,
            format!("{waiting} events wait, the oldest for {}", words(age)),
            "fix what it waits for (see /readyz); consumers that stop for long as well lose events to retention",
        );
    } else if waiting > 0 && age > Duration::from_secs(60) {
        findings.warn(
            subject,
            format!("{waiting} events wait, the oldest for {}", words(age)),
            "what it waits for is in /readyz",
        );
    } else {
        findings.ok(subject, format!("it is ready, {waiting} events wait"));
    }
}
