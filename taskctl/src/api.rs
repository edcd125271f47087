//! The Task API, asked over HTTP: where it is, and what it answers.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use task_events::api_token::{ApiToken, ApiTokenArgs};
use task_events::tls::{Tls, TlsFiles, TlsVariables};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Time for the API to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 64 * 1024;
/// The variable of the certificates for the API.
const VARIABLES: TlsVariables = TlsVariables { ca: "API_CA_FILE", identity: None };

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
    #[command(flatten)]
    token: ApiTokenArgs,
    /// CAs that may have signed the API's certificate, in PEM: the API is then asked over HTTPS
    #[arg(long, env = "API_CA_FILE", value_name = "FILE")]
    api_ca_file: Option<PathBuf>,
}

/// The Task API, to be asked.
#[derive(Debug, Clone)]
pub struct Api {
    /// Its host:port.
    pub address: String,
    /// Or why its file cannot be used.
    token: Result<Option<ApiToken>, String>,
    /// For HTTPS.
    ca: Option<PathBuf>,
}

impl ApiArgs {
    /// Where it is, and as whom it is asked.
    pub fn api(&self) -> Api {
        Api { address: self.address(), token: self.token.token(), ca: self.api_ca_file.clone() }
    }

    fn address(&self) -> String {
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
    /// The file of the token, or of the CAs, cannot be used.
    #[error("{0}")]
    File(String),
    /// It asks for a token, or for another one.
    #[error("{0}; set API_TOKEN or API_TOKEN_FILE to a token with the scope read")]
    Denied(String),
    /// It does not answer this call, or not now.
    #[error("{0}")]
    Refused(String),
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
pub async fn readiness(api: &Api) -> Result<Readiness, ApiError> {
    let (_, answer) = get(api, "/readyz").await?;
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
pub async fn get(api: &Api, path: &str) -> Result<(u16, Value), ApiError> {
    let token = api.token.as_ref().map_err(|why| ApiError::File(why.clone()))?.as_ref();
    let answer = timeout(TIMEOUT, exchange(api, path, token)).await.map_err(|_| ApiError::Silent)??;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(ApiError::Other)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(ApiError::Other)?;
    let answer: Value = serde_json::from_str(body).map_err(|_| ApiError::Other)?;
    let detail = || answer.get("detail").and_then(Value::as_str).unwrap_or("it refuses this").to_owned();
    match status {
        401 | 403 => Err(ApiError::Denied(detail())),
        400 | 429 => Err(ApiError::Refused(detail())),
        _ => Ok((status, answer)),
    }
}

async fn exchange(api: &Api, path: &str, token: Option<&ApiToken>) -> Result<String, ApiError> {
    let stream = TcpStream::connect(&api.address).await?;
    let Some(ca) = &api.ca else { return Ok(exchange_over(stream, &api.address, path, token).await?) };
    let files = TlsFiles { ca: Some(ca.clone()), identity: None, variables: &VARIABLES };
    let tls = tokio::task::spawn_blocking(|| Tls::load(files)).await.map_err(std::io::Error::other)?;
    let tls = tls.map_err(ApiError::File)?;
    let host = api.address.rsplit_once(':').map_or(api.address.as_str(), |(host, _)| host);
    let stream = tls.connect(stream, host).await.map_err(std::io::Error::other)?;
    Ok(exchange_over(stream, &api.address, path, token).await?)
}

async fn exchange_over(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    address: &str,
    path: &str,
    token: Option<&ApiToken>,
) -> std::io::Result<String> {
    let token = token.map(|token| format!("Authorization: {}\r\n", token.authorization()));
    let token = token.unwrap_or_default();
    let request =
        format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: application/json\r\n{token}\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer).await?;
    Ok(answer)
}
