//! Kafka's wire messages, for what the harness's plain client cannot say or read: transactions, batches of any
//! form, configs. One call at a time, in versions that Kafka 3 and 4 and the dev broker speak.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{
    BrokerId, MetadataRequest, MetadataResponse, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{
    Decodable, HeaderVersion, Request, StrBytes, encode_request_header_into_buffer,
};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// For one call.
const LIMIT: Duration = Duration::from_secs(20);
const METADATA: i16 = 9;

/// A connection to one broker.
pub(crate) struct Wire {
    stream: TcpStream,
    next: i32,
}

impl Wire {
    /// Connects to a broker.
    pub(crate) async fn connect(address: &str) -> Self {
        let stream = tokio::time::timeout(LIMIT, TcpStream::connect(address)).await;
        let stream = stream.unwrap_or_else(|_| panic!("{address}: no connection within {LIMIT:?}"));
        let stream = stream.unwrap_or_else(|error| panic!("{address}: {error}"));
        stream.set_nodelay(true).expect("a TCP option");
        Self { stream, next: 0 }
    }

    /// Connects to the first of these brokers that accepts a connection.
    pub(crate) async fn connect_any(bootstrap: &str) -> Self {
        for address in bootstrap.split(',') {
            if TcpStream::connect(address).await.is_ok() {
                return Self::connect(address).await;
            }
        }
        panic!("none of {bootstrap} accepts a connection");
    }

    /// Connects to the leader of a partition.
    pub(crate) async fn connect_leader(bootstrap: &str, topic: &str, partition: i32) -> Self {
        let metadata = Self::connect_any(bootstrap).await.metadata(topic).await;
        let rows = metadata.topics.iter().flat_map(|topic| &topic.partitions);
        let leader = rows.into_iter().find(|row| row.partition_index == partition).map(|row| row.leader_id);
        let leader = leader.unwrap_or_else(|| panic!("there is no partition {topic}/{partition}"));
        Self::connect(&address_of(&metadata, leader)).await
    }

    /// What is known of a topic. It is not created.
    pub(crate) async fn metadata(&mut self, topic: &str) -> MetadataResponse {
        let topic = kafka_protocol::messages::metadata_request::MetadataRequestTopic::default()
            .with_name(Some(name(topic)));
        let request =
            MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(false);
        self.call(METADATA, &request).await
    }

    /// Sends a request and returns its answer.
    pub(crate) async fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        let answer = tokio::time::timeout(LIMIT, self.exchange(version, request)).await;
        let mut answer = answer.unwrap_or_else(|_| panic!("request {}: no answer within {LIMIT:?}", R::KEY));
        ResponseHeader::decode(&mut answer, R::Response::header_version(version)).expect("a header");
        R::Response::decode(&mut answer, version).expect("an answer in the version that was asked for")
    }

    async fn exchange<R: Request>(&mut self, version: i16, request: &R) -> Bytes {
        self.next += 1;
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.next)
            .with_client_id(Some(text("e2e")));
        let mut body = BytesMut::new();
        encode_request_header_into_buffer(&mut body, &header).expect("a header");
        request.encode(&mut body, version).expect("a request in this version");
        let length = i32::try_from(body.len()).expect("a request of some size");
        self.stream.write_all(&length.to_be_bytes()).await.expect("a broker that reads");
        self.stream.write_all(&body).await.expect("a broker that reads");
        let length = self.stream.read_i32().await.expect("a broker that answers");
        let mut answer = vec![0; usize::try_from(length).expect("an answer of some size")];
        self.stream.read_exact(&mut answer).await.expect("a whole answer");
        Bytes::from(answer)
    }
}

pub(crate) fn address_of(metadata: &MetadataResponse, broker: BrokerId) -> String {
    let found = metadata.brokers.iter().find(|one| one.node_id == broker);
    let found = found.unwrap_or_else(|| panic!("broker {} is not there", broker.0));
    format!("{}:{}", found.host, found.port)
}

pub(crate) fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

pub(crate) fn name(topic: &str) -> TopicName {
    TopicName(text(topic))
}

/// Panics with the broker's error code, if it is one.
pub(crate) fn expect_ok(what: &str, code: i16) {
    if let Some(error) = kafka_protocol::ResponseError::try_from_code(code) {
        panic!("{what}: {error}");
    }
}
