//! The Task API, asked over HTTP: where it is, and what it answers.

use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Time for the API to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 64 * 1024;

/// Where the Task API is.
#[derive(Debug, Args)]
pub struct ApiArgs {
    /// The Task API, host:port [default: by HOST and PORT as the API has them, 127.0.0.1:8000]
    #[arg(long, value_name = "HOST:PORT", value_parser = task_events::config::host_port)]
    api: Option<String>,
    #[arg(long, env = "HOST", default_value = "127.0.0.1", hide = true)]
    host: String,
    #[arg(long, env = "PORT", default_value = "8000", hide = true)]
    port: u16,
}

impl ApiArgs {
    /// Its host:port.
    pub fn address(&self) -> String {
        let host = match self.host.as_str() {
            // The API listens everywhere; it is asked here.
            "0.0.0.0" | "::" | "[::]" => "127.0.0.1",
            host => host,
        };
        let is_bare_ipv6 = host.contains(':') && !host.starts_with('[');
        let host = if is_bare_ipv6 { format!("[{host}]") } else { host.to_owned() };
        self.api.clone().unwrap_or_else(|| format!("{host}:{}", self.port))
    }
}

/// Why there is no answer of the API.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// It is connected to, and says nothing.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Silent,
    /// It cannot be reached.
    #[error("{0}")]
    Unreachable(#[from] std::io::Error),
    /// What answers is not it.
    #[error("what answers there is no Task API")]
    Other,
}

/// What the API waits with, from `/readyz`.
#[derive(Debug, Clone, PartialEq)]
pub struct Readiness {
    /// Whether it takes changes.
    pub is_ready: bool,
    /// Whether it reaches Kafka.
    pub kafka_is_reachable: bool,
    /// Events in the outbox.
    pub waiting: u64,
    /// How long the oldest of them has waited.
    pub oldest: Option<Duration>,
    /// The answer as it came.
    pub answer: Value,
}

/// Asks `/readyz`.
pub async fn readiness(address: &str) -> Result<Readiness, ApiError> {
    let (_, answer) = get(address, "/readyz").await?;
    let number = |path: &str| answer.pointer(path).and_then(Value::as_f64);
    let oldest = number("/outbox/oldest_age_seconds");
    Ok(Readiness {
        is_ready: answer.get("status").and_then(Value::as_str) == Some("ready"),
        kafka_is_reachable: answer.pointer("/kafka/reachable").and_then(Value::as_bool).unwrap_or(false),
        waiting: answer.pointer("/outbox/waiting").and_then(Value::as_u64).unwrap_or(0),
        oldest: oldest.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        answer,
    })
}

/// The status and the JSON of a GET. HTTP/1.0, so that the answer ends with the connection.
pub async fn get(address: &str, path: &str) -> Result<(u16, Value), ApiError> {
    let answer = timeout(TIMEOUT, exchange(address, path)).await.map_err(|_| ApiError::Silent)??;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(ApiError::Other)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(ApiError::Other)?;
    Ok((status, serde_json::from_str(body).map_err(|_| ApiError::Other)?))
}

async fn exchange(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: application/json\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer).await?;
    Ok(answer)
}
