//! One exchange over HTTP, on a connection of its own: questions are few, and a registry that was replaced behind a
//! name is found by the next one.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::address::Address;
use crate::tls::Tls;

/// Longest answer that is read, in bytes: a schema, and what is around it.
const MAX_ANSWER: usize = 1 << 20;
/// What registries of this API speak.
const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/vnd.schemaregistry.v1+json");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Post,
    Put,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) method: Method,
    /// Below the address's own.
    pub(super) path: &'a str,
    pub(super) body: Option<&'a str>,
    pub(super) authorization: Option<&'a str>,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

/// One text for each cause, so that it is logged once while it lasts.
fn failed(error: hyper::Error) -> String {
    let why =
        if error.is_parse() { "it does not speak HTTP" } else { "the connection broke before the answer" };
    why.to_owned()
}

/// Sends a request and reads the whole answer, within that time; otherwise why not. An https address needs `tls`.
pub(super) async fn exchange(
    address: &Address,
    tls: Option<&Tls>,
    request: &Request<'_>,
    limit: Duration,
) -> Result<Answer, String> {
    match timeout(limit, send(address, tls, request)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("no answer within {} ms", limit.as_millis())),
    }
}

async fn send(address: &Address, tls: Option<&Tls>, request: &Request<'_>) -> Result<Answer, String> {
    let stream = TcpStream::connect(address.host_port()).await.map_err(|error| error.to_string())?;
    match (address.has_tls(), tls) {
        (false, _) => send_over(stream, address, request).await,
        (true, Some(tls)) => {
            let stream = tls.connect(stream, address.host()).await.map_err(|error| error.to_string())?;
            send_over(stream, address, request).await
        }
        (true, None) => Err("TLS is not configured".to_owned()),
    }
}

async fn send_over(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: &Address,
    request: &Request<'_>,
) -> Result<Answer, String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // Ends with this exchange, also where it is given up.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let response = sender.send_request(prepare(address, request)?).await.map_err(failed)?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    let body = body.map_err(|error| {
        format!("the answer cannot be read, or has more than {MAX_ANSWER} bytes: {error}")
    })?;
    Ok(Answer { status, body: body.to_bytes() })
}

fn prepare(address: &Address, request: &Request<'_>) -> Result<hyper::Request<Full<Bytes>>, String> {
    let unusable = |error: hyper::http::Error| format!("a request cannot be made: {error}");
    let body = request.body.unwrap_or_default().as_bytes().to_vec();
    let mut prepared = hyper::Request::builder()
        .method(request.method.name())
        .uri(format!("{}{}", address.path(), request.path))
        .header(HOST, address.host_port())
        .header(ACCEPT, MEDIA_TYPE)
        .header(USER_AGENT, "task-events")
        .header(CONNECTION, "close")
        .body(Full::new(Bytes::from(body)))
        .map_err(unusable)?;
    if request.body.is_some() {
        prepared.headers_mut().insert(CONTENT_TYPE, MEDIA_TYPE);
    }
    if let Some(authorization) = request.authorization {
        let mut value = HeaderValue::from_str(authorization)
            .map_err(|error| format!("the password cannot be sent: {error}"))?;
        value.set_sensitive(true);
        prepared.headers_mut().insert(AUTHORIZATION, value);
    }
    Ok(prepared)
}
