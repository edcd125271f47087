//! Kafka's wire messages, for what the harness's plain client cannot write or read: transactions, batches of any
//! form, configs. One call at a time, in versions that Kafka 3 and 4 and the dev broker speak.

use crate::{Error, Result, eventually};
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::list_offsets_response::ListOffsetsPartitionResponse;
use kafka_protocol::messages::{
    BrokerId, ListOffsetsRequest, MetadataRequest, MetadataResponse, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{
    Decodable, HeaderVersion, Request, StrBytes, encode_request_header_into_buffer,
};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// For one call.
const LIMIT: Duration = Duration::from_secs(20);
const METADATA: i16 = 9;
const LIST_OFFSETS: i16 = 3;
/// How ListOffsets is asked for the start of the log.
const EARLIEST: i64 = -2;
/// NOT_LEADER_OR_FOLLOWER
const NOT_LEADER: i16 = 6;

/// A connection to one broker.
pub(crate) struct Wire {
    stream: TcpStream,
    next: i32,
}

impl Wire {
    /// Connects to a broker.
    pub(crate) async fn connect(address: &str) -> Result<Self> {
        let stream = tokio::time::timeout(LIMIT, TcpStream::connect(address)).await;
        let stream = stream.map_err(|_| Error::timeout(format!("a connection to {address}"), LIMIT))?;
        let stream = stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
        Ok(Self {
            stream: stream.map_err(|error| Error::kafka(format!("connect to {address}"), error))?,
            next: 0,
        })
    }

    /// Connects to the first of these brokers that accepts a connection.
    pub(crate) async fn connect_any(bootstrap: &str) -> Result<Self> {
        for address in bootstrap.split(',') {
            if TcpStream::connect(address).await.is_ok() {
                return Self::connect(address).await;
            }
        }
        Err(Error::kafka(format!("connect to {bootstrap}"), "none accepts a connection"))
    }

    /// Connects to the leader of a partition. A topic that was just made may be unknown, without a leader, or
    /// not yet known to the broker that metadata names: each is waited for.
    pub(crate) async fn connect_leader(bootstrap: &str, topic: &str, partition: i32) -> Result<Self> {
        eventually(&format!("a leader of {topic}/{partition}"), LIMIT, async || {
            let metadata = Self::connect_any(bootstrap).await?.metadata(topic).await?;
            let mut rows = metadata.topics.iter().flat_map(|topic| &topic.partitions);
            let leader = rows.find(|row| row.partition_index == partition).map(|row| row.leader_id);
            let Some(leader) = leader.filter(|leader| leader.0 >= 0) else { return Ok(None) };
            let mut leader = Self::connect(&address_of(&metadata, leader)?).await?;
            let answer = leader.first_offset(topic, partition).await?;
            Ok((answer.error_code != NOT_LEADER).then_some(leader))
        })
        .await
    }

    /// The broker's answer to what the first offset of a partition is.
    pub(crate) async fn first_offset(
        &mut self,
        topic: &str,
        partition: i32,
    ) -> Result<ListOffsetsPartitionResponse> {
        let asked = ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(EARLIEST);
        let topics = vec![ListOffsetsTopic::default().with_name(name(topic)).with_partitions(vec![asked])];
        let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(topics);
        let answer = self.call(LIST_OFFSETS, &request).await?;
        let answer = answer.topics.into_iter().flat_map(|topic| topic.partitions).next();
        answer.ok_or_else(|| Error::kafka("ListOffsets", "no answer for the partition"))
    }

    /// What is known of a topic. It is not created.
    pub(crate) async fn metadata(&mut self, topic: &str) -> Result<MetadataResponse> {
        let topic = kafka_protocol::messages::metadata_request::MetadataRequestTopic::default()
            .with_name(Some(name(topic)));
        let request =
            MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(false);
        self.call(METADATA, &request).await
    }

    /// The id of the cluster.
    pub(crate) async fn cluster_id(&mut self) -> Result<Option<String>> {
        let request = MetadataRequest::default().with_topics(Some(Vec::new()));
        Ok(self.call(METADATA, &request).await?.cluster_id.map(|id| id.to_string()))
    }

    /// Sends a request and returns its answer.
    pub(crate) async fn call<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response> {
        let call = || format!("request {} version {version}", R::KEY);
        let frame = self.frame(version, request).map_err(|error| Error::kafka(call(), error))?;
        let answer = tokio::time::timeout(LIMIT, self.exchange(&frame)).await;
        let answer = answer.map_err(|_| Error::timeout(format!("an answer to {}", call()), LIMIT))?;
        let mut answer = answer.map_err(|error| Error::kafka(call(), error))?;
        let header = ResponseHeader::decode(&mut answer, R::Response::header_version(version));
        let response = header.and_then(|_| R::Response::decode(&mut answer, version));
        response.map_err(|error| Error::kafka(call(), error))
    }

    /// A request as it is sent, without its length.
    fn frame<R: Request>(&mut self, version: i16, request: &R) -> anyhow::Result<BytesMut> {
        self.next += 1;
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.next)
            .with_client_id(Some(text("e2e")));
        let mut body = BytesMut::new();
        encode_request_header_into_buffer(&mut body, &header)?;
        request.encode(&mut body, version)?;
        Ok(body)
    }

    async fn exchange(&mut self, frame: &[u8]) -> io::Result<Bytes> {
        let length = i32::try_from(frame.len()).map_err(io::Error::other)?;
        self.stream.write_all(&length.to_be_bytes()).await?;
        self.stream.write_all(frame).await?;
        let length = usize::try_from(self.stream.read_i32().await?).map_err(io::Error::other)?;
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer).await?;
        Ok(Bytes::from(answer))
    }
}

fn address_of(metadata: &MetadataResponse, broker: BrokerId) -> Result<String> {
    let found = metadata.brokers.iter().find(|one| one.node_id == broker);
    let found =
        found.ok_or_else(|| Error::failed(format!("broker {} is not among the metadata", broker.0)))?;
    Ok(format!("{}:{}", found.host, found.port))
}

pub(crate) fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

pub(crate) fn name(topic: &str) -> TopicName {
    TopicName(text(topic))
}

/// The broker's error code as an error, if it is one.
pub(crate) fn check_code(call: &str, code: i16) -> Result<()> {
    match kafka_protocol::ResponseError::try_from_code(code) {
        Some(error) => Err(Error::kafka(call, error)),
        None => Ok(()),
    }
}
