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
//! 4. *Named.* A peer that is no Kafka broker, or whose listener expects another login, is distinguished from
//!    one that failed.

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
use tokio::time::timeout;

use super::versions::{Versions, name};
use super::{KafkaError, REQUEST_TIMEOUT};

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
    stream: TcpStream,
    address: Arc<str>,
    client_id: Arc<str>,
    versions: Versions,
    correlation_id: i32,
    /// Whether a login took place, and whether anything was answered since the connection was ready: the
    /// two tell a listener that expects a login from one that failed.
    logged_in: bool,
    served: bool,
}

impl Connection {
    /// Connects to one IP address of the broker `address`, and negotiates.
    pub(super) async fn open(
        ip: SocketAddr,
        address: &Arc<str>,
        client_id: &Arc<str>,
    ) -> Result<Self, KafkaError> {
        let name = format!("connect to {address}");
        let connected = TcpStream::connect(ip).await;
        let stream = connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
        let mut connection = Self {
            stream: stream.map_err(|error| KafkaError::failed(&name, error))?,
            address: Arc::clone(address),
            client_id: Arc::clone(client_id),
            versions: Versions::default(),
            correlation_id: 0,
            logged_in: false,
            served: false,
        };
        connection.negotiate().await.map_err(|error| KafkaError::failed(&name, error))?;
        Ok(connection)
    }

    /// Notes that a login took place.
    pub(super) fn set_logged_in(&mut self) {
        self.logged_in = true;
    }

    /// The broker's host:port.
    pub(super) fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// The stream, ready for requests, for whoever goes on with it alone.
    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
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
    fn explain<R: Request>(&self, error: &io::Error) -> String {
        let closed = matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        );
        match closed {
            false => error.to_string(),
            true if R::KEY == <ApiVersionsRequest as Request>::KEY => {
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
            return Err("this listener speaks TLS, which this client does not: use a plain or SASL listener"
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
