//! One exchange over HTTP, on a connection of its own: questions are few, and a registry that was replaced behind a
//! name is found by the next one.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use tokio::time::timeout;

use super::address::Address;
use crate::http_client::{self, Peer};
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
    let peer = Peer { host: address.host(), has_tls: address.has_tls() };
    let stream = http_client::connect(address.host_port(), peer, tls).await?;
    let response = http_client::exchange(stream, prepare(address, request)?, Some(MAX_ANSWER)).await?;
    Ok(Answer { status: response.status().as_u16(), body: response.into_body() })
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
