//! A connection that speaks Kafka's wire messages, for the calls that rskafka lacks. One call at a time.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{
    Decodable, HeaderVersion, Request, StrBytes, encode_request_header_into_buffer,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::presence::GRACE;
use super::{CONNECT_TIMEOUT, Kafka, KafkaError, REQUEST_TIMEOUT};

/// Largest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    kafka: Kafka,
    correlation_id: i32,
}

impl Connection {
    /// Connects, and logs in where that is asked for.
    pub(super) async fn open(address: &str, kafka: &Kafka) -> Result<Self, KafkaError> {
        let name = || format!("connect to {address}");
        let mut connection = within(CONNECT_TIMEOUT, kafka, name, Self::connect(address, kafka)).await?;
        if let Some(sasl) = &kafka.sasl {
            sasl.log_in(&mut connection, address).await?;
        }
        Ok(connection)
    }

    /// Connects, however long it takes.
    pub(super) async fn connect(address: &str, kafka: &Kafka) -> Result<Self, String> {
        let connected = TcpStream::connect(address).await;
        let stream = connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
        let stream = stream.map_err(|error| error.to_string())?;
        Ok(Self { stream, kafka: kafka.clone(), correlation_id: 0 })
    }

    /// Sends a request in the given version and reads its answer. After an error the connection is of no
    /// further use.
    pub(super) async fn call<R: Request>(
        &mut self,
        name: &str,
        version: i16,
        request: &R,
    ) -> Result<R::Response, KafkaError> {
        let kafka = self.kafka.clone();
        within(REQUEST_TIMEOUT, &kafka, || name.to_owned(), self.exchange(version, request)).await
    }

    /// The same, however long it takes.
    pub(super) async fn exchange<R: Request>(
        &mut self,
        version: i16,
        request: &R,
    ) -> Result<R::Response, String> {
        let frame = self.encode(version, request)?;
        let mut answer = self.exchange_frames(&frame).await.map_err(|error| error.to_string())?;
        self.decode::<R>(version, &mut answer)
    }

    async fn exchange_frames(&mut self, frame: &[u8]) -> io::Result<Bytes> {
        self.stream.write_all(frame).await?;
        let length = usize::try_from(self.stream.read_i32().await?).unwrap_or(usize::MAX);
        if length > MAX_ANSWER {
            return Err(io::Error::other(format!("answer of {length} bytes, the limit is {MAX_ANSWER}")));
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer).await?;
        Ok(Bytes::from(answer))
    }

    fn encode<R: Request>(&mut self, version: i16, request: &R) -> Result<Bytes, String> {
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(StrBytes::from_string(self.kafka.client_id.to_string())));
        let mut body = BytesMut::new();
        encode_request_header_into_buffer(&mut body, &header).map_err(|error| error.to_string())?;
        request.encode(&mut body, version).map_err(|error| error.to_string())?;
        let length = i32::try_from(body.len()).map_err(|error| error.to_string())?;
        let mut frame = BytesMut::with_capacity(body.len() + 4);
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(&body);
        Ok(frame.freeze())
    }

    fn decode<R: Request>(&self, version: i16, answer: &mut Bytes) -> Result<R::Response, String> {
        let header = ResponseHeader::decode(answer, R::Response::header_version(version))
            .map_err(|error| error.to_string())?;
        if header.correlation_id != self.correlation_id {
            return Err(format!(
                "answer to call {}, expected {}",
                header.correlation_id, self.correlation_id
            ));
        }
        let response = R::Response::decode(answer, version).map_err(|error| error.to_string())?;
        match answer.remaining() {
            0 => Ok(response),
            rest => Err(format!("{rest} bytes too many in the answer")),
        }
    }
}

/// Gives up after the limit, and soon after Kafka has come back without an answer.
async fn within<T>(
    limit: Duration,
    kafka: &Kafka,
    name: impl Fn() -> String,
    call: impl Future<Output = Result<T, String>>,
) -> Result<T, KafkaError> {
    tokio::select! {
        biased;
        answered = timeout(limit, call) => answered
            .map_err(|_| KafkaError::Timeout { call: name(), after: limit })?
            .map_err(|error| KafkaError::failed(name(), error)),
        () = kafka.returned(GRACE) => Err(KafkaError::lost(name())),
    }
}
