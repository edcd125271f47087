//! A connection to one broker that speaks Kafka's wire messages. One call at a time.
//!
//! # Invariants
//!
//! 1. *Negotiated.* The first call is ApiVersions; every later one uses the highest version that both sides
//!    know ([`Versions`]).
//! 2. *Bounded.* Connecting, logging in and each call have a time limit, an answer has a size limit, and no
//!    more memory is taken for an answer than has arrived of it.
//! 3. *In order.* After a call that failed or was cancelled the connection is of no further use: an answer
//!    may still be on its way. Its owner drops it.
//! 4. *Named.* A peer that is no Kafka broker, or whose listener expects another login or another certificate, is
//!    distinguished from one that failed.
//! 5. *As configured.* With TLS, no byte is sent before the handshake has verified the broker ([`crate::tls`]).
//! 6. *Renewed in time.* A connection whose login is about to expire is not used for another call ([`is_expired`]).
//!
//! [`is_expired`]: Connection::is_expired

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{
    Decodable, HeaderVersion, Request, StrBytes, encode_request_header_into_buffer,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::versions::{Versions, name};
use super::{KafkaError, REQUEST_TIMEOUT};
use crate::tls::{ClientStream, Tls, TlsError, is_certificate_alert};

/// Largest answer that is read, in bytes: above the 100 MiB that a broker takes as a request by default, so
/// that whatever batch could be produced can be fetched.
const MAX_ANSWER: usize = 128 * 1024 * 1024;
/// Memory that is taken at once for an answer that has yet to arrive.
const ANSWER_STEP: usize = 1024 * 1024;
/// Version of ApiVersions that is tried first: the one in which a client gives its name.
const API_VERSIONS: i16 = 3;

/// A connection, logged in where that is configured.
#[derive(Debug)]
pub(super) struct Connection {
    stream: ClientStream,
    address: Arc<str>,
    client_id: Arc<str>,
    versions: Versions,
    correlation_id: i32,
    /// Whether a login took place, and whether anything was answered since the connection was ready: the
    /// two tell a listener that expects a login from one that failed.
    logged_in: bool,
    served: bool,
    /// When the login is to be renewed, where the broker limits it.
    expires: Option<Instant>,
    /// Under TLS, the broker wanted another certificate of this client, or any.
    certificate_refused: bool,
}

impl Connection {
    /// Connects to one IP address of the broker `address`, and negotiates.
    pub(super) async fn open(
        ip: SocketAddr,
        address: &Arc<str>,
        client_id: &Arc<str>,
        tls: Option<&Tls>,
    ) -> Result<Self, KafkaError> {
        let name = format!("connect to {address}");
        let connected = TcpStream::connect(ip).await;
        let stream = connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
        let stream = stream.map_err(|error| KafkaError::failed(&name, error))?;
        let stream = match tls {
            None => ClientStream::Plain(stream),
            Some(tls) => {
                let host = address.rsplit_once(':').map_or(address.as_ref(), |(host, _)| host);
                let handshake = tls.connect(stream, host).await;
                let refused = |error: TlsError| KafkaError::Tls { call: name.clone(), reason: error.0 };
                ClientStream::Tls(Box::new(handshake.map_err(refused)?))
            }
        };
        let mut connection = Self {
            stream,
            address: Arc::clone(address),
            client_id: Arc::clone(client_id),
            versions: Versions::default(),
            correlation_id: 0,
            logged_in: false,
            served: false,
            expires: None,
            certificate_refused: false,
        };
        match (connection.negotiate().await, tls) {
            (Ok(()), _) => Ok(connection),
            (Err(why), Some(tls)) if connection.certificate_refused => {
                Err(KafkaError::Tls { call: name, reason: format!("{why} ({})", tls.identity_hint()) })
            }
            (Err(why), _) => Err(KafkaError::failed(&name, why)),
        }
    }

    /// Notes that a login took place, and when it is to be renewed.
    pub(super) fn set_logged_in(&mut self, expires: Option<Instant>) {
        self.logged_in = true;
        self.expires = expires;
    }

    /// Whether the broker is about to end it with its login: another call needs another connection.
    pub(super) fn is_expired(&self) -> bool {
        self.expires.is_some_and(|expires| expires <= Instant::now())
    }

    /// The broker's host:port.
    pub(super) fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// The stream, ready for requests, for whoever goes on with it alone, and when its login is to be renewed.
    pub(super) fn into_stream(self) -> (ClientStream, Option<Instant>) {
        (self.stream, self.expires)
    }

    /// What the broker knows.
    pub(super) fn versions(&self) -> &Versions {
        &self.versions
    }

    /// Sends a request in the newest version that both know, and reads its answer.
    pub(super) async fn call<R: Request>(
        &mut self,
        name: &str,
        request: &R,
    ) -> Result<R::Response, KafkaError> {
        let version = self.versions.pick::<R>().map_err(|error| self.failed(name, error))?;
        self.call_as(name, version, request, REQUEST_TIMEOUT).await
    }

    /// The same in a version and within a time of the caller's.
    pub(super) async fn call_as<R: Request>(
        &mut self,
        name: &str,
        version: i16,
        request: &R,
        limit: Duration,
    ) -> Result<R::Response, KafkaError> {
        match timeout(limit, self.exchange(version, request)).await {
            Ok(Ok(answer)) => {
                self.served = true;
                Ok(answer)
            }
            Ok(Err(error)) => Err(self.failed(name, error)),
            Err(_) => Err(KafkaError::Timeout { call: self.at(name), after: limit }),
        }
    }

    fn failed(&self, name: &str, error: String) -> KafkaError {
        KafkaError::failed(self.at(name), error)
    }

    fn at(&self, name: &str) -> String {
        format!("{name} at {}", self.address)
    }

    async fn negotiate(&mut self) -> Result<(), String> {
        let mut answer = self.api_versions(API_VERSIONS).await?;
        if answer.error_code == ResponseError::UnsupportedVersion.code() {
            let newest = Versions::new(&answer).pick::<ApiVersionsRequest>().unwrap_or(0).min(API_VERSIONS);
            answer = self.api_versions(newest).await?;
        }
        if let Some(error) = ResponseError::try_from_code(answer.error_code) {
            return Err(format!("the broker answered ApiVersions with {error}"));
        }
        self.versions = Versions::new(&answer);
        Ok(())
    }

    async fn api_versions(&mut self, version: i16) -> Result<ApiVersionsResponse, String> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str(env!("CARGO_PKG_NAME")))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let mut answer = self.exchange_bytes(version, &request).await?;
        // A broker that does not know the version answers in the oldest, error first.
        let error = answer.get(..2).and_then(|code| code.try_into().ok()).map(i16::from_be_bytes);
        let unsupported = error == Some(ResponseError::UnsupportedVersion.code());
        decode::<ApiVersionsRequest>(&mut answer, if unsupported { 0 } else { version })
    }

    /// Sends a request and reads its answer, however long it takes.
    pub(super) async fn exchange<R: Request>(
        &mut self,
        version: i16,
        request: &R,
    ) -> Result<R::Response, String> {
        let mut answer = self.exchange_bytes(version, request).await?;
        decode::<R>(&mut answer, version)
    }

    /// The answer's bytes after its header.
    async fn exchange_bytes<R: Request>(&mut self, version: i16, request: &R) -> Result<Bytes, String> {
        let frame = self.encode(version, request)?;
        let mut answer = match self.exchange_frames(&frame).await {
            Ok(answer) => answer,
            Err(error) => return Err(self.explain::<R>(&error)),
        };
        let header = ResponseHeader::decode(&mut answer, R::Response::header_version(version))
            .map_err(|error| format!("cannot read the answer to {}: {error}", name::<R>()))?;
        match header.correlation_id == self.correlation_id {
            true => Ok(answer),
            false => {
                Err(format!("answer to call {}, expected {}", header.correlation_id, self.correlation_id))
            }
        }
    }

    async fn exchange_frames(&mut self, frame: &[u8]) -> io::Result<Bytes> {
        self.stream.write_all(frame).await?;
        // Under TLS, what is written may still be in a buffer.
        self.stream.flush().await?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).await?;
        let length = answer_length(length).map_err(io::Error::other)?;
        let mut answer = BytesMut::with_capacity(length.min(ANSWER_STEP));
        while answer.len() < length {
            let left = length - answer.len();
            answer.reserve(left.min(ANSWER_STEP.max(answer.len())));
            if self.stream.read_buf(&mut (&mut answer).limit(left)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(answer.freeze())
    }

    /// A connection that ends at its first request after ApiVersions is how a listener that expects a login
    /// answers one who does not log in.
    fn explain<R: Request>(&mut self, error: &io::Error) -> String {
        if is_certificate_alert(error) {
            self.certificate_refused = true;
            return format!("it refuses this client's certificate: {error}");
        }
        let closed = matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        );
        let is_first = R::KEY == <ApiVersionsRequest as Request>::KEY;
        match closed {
            false => error.to_string(),
            // The alert that says why may be lost with the connection.
            true if is_first && matches!(self.stream, ClientStream::Tls(_)) => {
                self.certificate_refused = true;
                "it closed the connection after the TLS handshake: it wants a certificate of this client, or it is just stopping".to_owned()
            }
            true if is_first => {
                "the peer closed the connection when asked for its versions: it is no Kafka broker of 0.10 or later, a listener with TLS, or a broker that is just stopping".to_owned()
            }
            true if !self.logged_in && !self.served => {
                "the broker closed the connection at the first request: its listener expects a login (set KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD, or use the port of a listener without), or it is just stopping".to_owned()
            }
            true => "the broker closed the connection".to_owned(),
        }
    }

    fn encode<R: Request>(&mut self, version: i16, request: &R) -> Result<Bytes, String> {
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(StrBytes::from_string(self.client_id.to_string())));
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        encode_request_header_into_buffer(&mut frame, &header).map_err(|error| error.to_string())?;
        request.encode(&mut frame, version).map_err(|error| error.to_string())?;
        let length = i32::try_from(frame.len() - 4).map_err(|error| error.to_string())?;
        if let Some(place) = frame.get_mut(..4) {
            place.copy_from_slice(&length.to_be_bytes());
        }
        Ok(frame.freeze())
    }
}

fn decode<R: Request>(answer: &mut Bytes, version: i16) -> Result<R::Response, String> {
    let response = R::Response::decode(answer, version)
        .map_err(|error| format!("cannot read the answer to {} version {version}: {error}", name::<R>()))?;
    match answer.remaining() {
        0 => Ok(response),
        rest => Err(format!("{rest} bytes too many in the answer to {} version {version}", name::<R>())),
    }
}

/// The length of an answer, from the four bytes before it; a peer that speaks something else is named.
fn answer_length(bytes: [u8; 4]) -> Result<usize, String> {
    let length = u32::from_be_bytes(bytes);
    match &bytes {
        b"HTTP" => return Err("this is an HTTP server, no Kafka broker".to_owned()),
        // A TLS record: alert or handshake, then the version.
        [0x15 | 0x16, 3, ..] => {
            return Err("this listener speaks TLS, for which this client is not configured: set KAFKA_SECURITY_PROTOCOL to SSL or SASL_SSL, or use the port of a listener without TLS"
                .to_owned());
        }
        _ if bytes.iter().all(|byte| (0x20..0x7f).contains(byte)) => {
            let text = String::from_utf8_lossy(&bytes);
            return Err(format!("the peer answers with the text '{text}…': it is no Kafka broker"));
        }
        _ => {}
    }
    match usize::try_from(length) {
        Ok(length) if length <= MAX_ANSWER => Ok(length),
        _ => Err(format!(
            "answer of {length} bytes, the limit is {MAX_ANSWER}: no Kafka broker, or a batch larger than this client reads"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_is_no_broker_is_named() {
        assert_eq!(answer_length([0, 0, 1, 0]), Ok(256));
        assert!(answer_length(*b"HTTP").unwrap_err().contains("HTTP server"));
        assert!(answer_length([0x15, 3, 3, 0]).unwrap_err().contains("TLS"));
        assert!(answer_length(*b"SSH-").unwrap_err().contains("'SSH-…'"));
        assert!(answer_length([0xff; 4]).unwrap_err().contains("limit"));
    }
}
