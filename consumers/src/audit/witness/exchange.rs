//! One request to a witness, on a connection of its own.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::http::uri::{Scheme, Uri};
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use task_events::tls::Tls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Longest answer that is read, in bytes: some lines of signatures.
const MAX_ANSWER: usize = 16 * 1024;

/// Where a witness takes checkpoints: `https://host/prefix` or `http://host:port/prefix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessUrl {
    has_tls: bool,
    host: String,
    port: u16,
    /// Without a slash at its end.
    prefix: String,
}

impl WitnessUrl {
    /// Whether it begins with https.
    pub fn has_tls(&self) -> bool {
        self.has_tls
    }
}

impl fmt::Display for WitnessUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.has_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.prefix)
    }
}

impl FromStr for WitnessUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.trim().parse().map_err(|error| format!("it is no address: {error}"))?;
        let has_tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err("it does not begin with https:// or http://".to_owned()),
        };
        let authority = uri.authority().ok_or("its host is missing")?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err("it has a user or a query, which no witness has".to_owned());
        }
        let port = authority.port_u16().unwrap_or(if has_tls { 443 } else { 80 });
        let (host, prefix) = (authority.host().to_owned(), uri.path().trim_end_matches('/').to_owned());
        Ok(Self { has_tls, host, port, prefix })
    }
}

/// What a witness answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

/// Submits a checkpoint. The caller bounds its time.
pub(super) async fn exchange(url: &WitnessUrl, tls: Option<&Tls>, body: String) -> Result<Answer, String> {
    let address = format!("{}:{}", url.host, url.port);
    let stream = TcpStream::connect(&address).await;
    let stream = stream.map_err(|error| format!("it cannot be connected to: {error}"))?;
    let mut driver = JoinSet::new();
    let response = match tls.filter(|_| url.has_tls) {
        Some(tls) => {
            let stream = tls.connect(stream, &url.host).await.map_err(|error| error.to_string())?;
            submit(stream, url, body, &mut driver).await?
        }
        None if url.has_tls => return Err("TLS is not configured".to_owned()),
        None => submit(stream, url, body, &mut driver).await?,
    };
    let status = response.status().as_u16();
    let bytes = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    let bytes = bytes.map_err(|_| format!("its answer breaks off, or has more than {MAX_ANSWER} bytes"))?;
    Ok(Answer { status, body: String::from_utf8_lossy(&bytes.to_bytes()).into_owned() })
}

/// Sends the request, and returns the answer's head. The connection lives as long as the driver.
async fn submit(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    url: &WitnessUrl,
    body: String,
    driver: &mut JoinSet<hyper::Result<()>>,
) -> Result<Response<Incoming>, String> {
    let broken = |error: hyper::Error| {
        if error.is_parse() { "it does not speak HTTP" } else { "the connection broke before the answer" }
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    driver.spawn(connection);
    let request = Request::post(format!("{}/add-checkpoint", url.prefix))
        .header(HOST, format!("{}:{}", url.host, url.port))
        .header(USER_AGENT, "task-events")
        .header(CONNECTION, "close")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| format!("a request cannot be made: {error}"))?;
    Ok(sender.send_request(request).await.map_err(broken)?)
}
