//! The Task API: whether it is ready, and whether its outbox is emptied before the topic would forget.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::topics::Events;
use super::{Findings, words};

/// Time for the API to answer.
const LIMIT: Duration = Duration::from_secs(5);
/// Longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 64 * 1024;

pub(super) async fn examine(address: &str, events: Option<&Events>, findings: &mut Findings) {
    let subject = format!("Task API {address}");
    let answer = match timeout(LIMIT, readiness(address)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return findings.warn(subject, error, "start it, or name it with --api"),
        Err(_) => {
            return findings.fail(
                subject,
                format!("no answer within {} s", LIMIT.as_secs()),
                "look at its log, or name another with --api",
            );
        }
    };
    let outbox = answer.get("outbox");
    let number = |name: &str| outbox.and_then(|outbox| outbox.get(name)).and_then(Value::as_f64);
    let waiting = number("waiting").unwrap_or_default();
    let age = number("oldest_age_seconds").map(Duration::from_secs_f64).unwrap_or_default();
    let retention = events.and_then(|events| events.retention);
    if answer.get("status").and_then(Value::as_str) != Some("ready") {
        findings.fail(subject, format!("it is not ready: {answer}"), "what it waits for is in the answer");
    } else if waiting > 0.0 && retention.is_some_and(|kept| age > kept / 2) {
        findings.fail(
            subject,
            format!("{waiting} events wait, the oldest for {}", words(age)),
            "mend what it waits for (see /readyz); consumers that stop for long as well lose events to retention",
        );
    } else if waiting > 0.0 && age > Duration::from_secs(60) {
        findings.warn(
            subject,
            format!("{waiting} events wait, the oldest for {}", words(age)),
            "what it waits for is in /readyz",
        );
    } else {
        findings.ok(subject, format!("it is ready, {waiting} events wait"));
    }
}

/// What `/readyz` answers. HTTP/1.0, so that the answer ends with the connection.
async fn readiness(address: &str) -> Result<Value, String> {
    let wrong = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(address).await.map_err(wrong)?;
    let request = format!("GET /readyz HTTP/1.0\r\nHost: {address}\r\nAccept: application/json\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(wrong)?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer).await.map_err(wrong)?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("what answers there does not speak HTTP")?;
    serde_json::from_str(body).map_err(|error| format!("what answers there is no Task API: {error}"))
}
