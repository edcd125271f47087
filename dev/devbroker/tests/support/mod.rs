//! A broker to test, and a client that says exactly what goes over the wire.

#![allow(dead_code, reason = "each test file uses its own part")]

pub mod code;
pub mod transactions;

use std::net::SocketAddr;
use std::path::Path;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use devbroker::{Broker, Config};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{
    BrokerId, CreateTopicsRequest, FetchRequest, ListOffsetsRequest, MetadataRequest, ProduceRequest,
    RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use kafka_protocol::records::{
    Compression, Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A broker in this process on a free port.
pub async fn start(dir: &Path) -> Broker {
    Broker::start(Config::new(SocketAddr::from(([127, 0, 0, 1], 0)), dir)).await.unwrap()
}

pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// A name that no other test uses, also on a broker that lives on.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}-{}", uuid::Uuid::new_v4().simple())
}

pub fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// One connection, one request at a time.
pub struct Wire {
    stream: TcpStream,
    correlation_id: i32,
}

impl Wire {
    pub async fn connect(addr: &str) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, correlation_id: 0 }
    }

    pub async fn send<R: Request>(&mut self, version: i16, request: &R) {
        self.correlation_id += 1;
        let mut body = BytesMut::new();
        RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(text("contract")))
            .encode(&mut body, R::header_version(version))
            .unwrap();
        request.encode(&mut body, version).unwrap();
        self.send_frame(&body).await;
    }

    pub async fn send_frame(&mut self, body: &[u8]) {
        let mut frame = BytesMut::new();
        frame.put_i32(i32::try_from(body.len()).unwrap());
        frame.put_slice(body);
        // A broken connection shows when the answer is read.
        let _ = self.stream.write_all(&frame).await;
    }

    /// The next frame; `None` when the broker closed the connection.
    pub async fn frame(&mut self) -> Option<Bytes> {
        let length = self.stream.read_i32().await.ok()?;
        let mut frame = vec![0; usize::try_from(length).unwrap()];
        self.stream.read_exact(&mut frame).await.ok()?;
        Some(frame.into())
    }

    pub async fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        self.send(version, request).await;
        let mut frame = self
            .frame()
            .await
            .unwrap_or_else(|| panic!("API {} version {version}: the connection was closed", R::KEY));
        let header_version = R::Response::header_version(version);
        let header = ResponseHeader::decode(&mut frame, header_version).unwrap();
        assert_eq!(header.correlation_id, self.correlation_id);
        let response = R::Response::decode(&mut frame, version).unwrap();
        assert!(!frame.has_remaining(), "API {} version {version}: bytes left over", R::KEY);
        response
    }

    /// Creates a topic with one partition and waits until it can be used.
    pub async fn create_topic(&mut self, name: &str, configs: &[(&str, &str)]) {
        let response = self.call(7, &create_topic(name, 1, configs)).await;
        assert_eq!(response.topics[0].error_code, 0, "{:?}", response.topics[0].error_message);
        self.until_led(name).await;
    }

    /// Waits until the topic is known and its partition 0 has a leader that answers: after a
    /// creation or a restart that takes a moment in Kafka.
    pub async fn until_led(&mut self, name: &str) {
        loop {
            let metadata = self.metadata(name).await;
            let leader = metadata.partitions.first().map(|p| p.leader_id);
            let led = metadata.error_code == 0 && leader.is_some_and(|id| id.0 >= 0);
            let offsets = self.call(7, &list_offsets(name, -1)).await;
            if led && offsets.topics[0].partitions[0].error_code == 0 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// What Metadata says of a topic.
    pub async fn metadata(&mut self, name: &str) -> MetadataResponseTopic {
        let topic = MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let request =
            MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(false);
        self.call(12, &request).await.topics[0].clone()
    }

    pub async fn topic_id(&mut self, name: &str) -> uuid::Uuid {
        self.metadata(name).await.topic_id
    }

    /// The leader epoch of partition 0.
    pub async fn leader_epoch(&mut self, name: &str) -> i32 {
        self.metadata(name).await.partitions[0].leader_epoch
    }

    /// Produces to partition 0 with acks=all; the base offset.
    pub async fn produce(&mut self, topic: &str, records: &[Record]) -> i64 {
        let batch = encode(records, Compression::None);
        let response = self.produce_raw(9, topic, batch, -1).await;
        assert_eq!(response.error_code, 0);
        response.base_offset
    }

    pub async fn produce_raw(
        &mut self,
        version: i16,
        topic: &str,
        batch: Bytes,
        acks: i16,
    ) -> PartitionProduceResponse {
        let response = self.call(version, &produce(topic, batch, acks)).await;
        response.responses[0].partition_responses[0].clone()
    }

    pub async fn fetch(&mut self, topic: &str, offset: i64) -> PartitionData {
        let response = self.call(11, &fetch(topic, offset, 1, 0, 50 << 20)).await;
        response.responses[0].partitions[0].clone()
    }

    /// Every record from `offset` on.
    pub async fn read_all(&mut self, topic: &str, offset: i64) -> Vec<Record> {
        self.try_read_all(topic, offset).await.expect("no error")
    }

    /// The same, or the code of the error that the broker answered with.
    pub async fn try_read_all(&mut self, topic: &str, mut offset: i64) -> Result<Vec<Record>, i16> {
        let mut all = Vec::new();
        loop {
            let data = self.fetch(topic, offset).await;
            if data.error_code != 0 {
                return Err(data.error_code);
            }
            let records = decode(data.records.unwrap_or_default());
            let Some(last) = records.last() else {
                return Ok(all);
            };
            let next = last.offset + 1;
            all.extend(records.into_iter().filter(|record| record.offset >= offset));
            offset = next;
        }
    }

    /// The offset for a timestamp, or -1 latest, -2 earliest, -3 of the largest timestamp.
    pub async fn offset(&mut self, topic: &str, timestamp: i64) -> i64 {
        let response = self.call(7, &list_offsets(topic, timestamp)).await;
        let partition = &response.topics[0].partitions[0];
        assert_eq!(partition.error_code, 0);
        partition.offset
    }
}

pub fn create_topic(name: &str, partitions: i32, configs: &[(&str, &str)]) -> CreateTopicsRequest {
    let configs = configs.iter().map(|(name, value)| {
        CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
    });
    let topic = CreatableTopic::default()
        .with_name(topic_name(name))
        .with_num_partitions(partitions)
        .with_replication_factor(1)
        .with_configs(configs.collect());
    CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000)
}

pub fn produce(topic: &str, batch: Bytes, acks: i16) -> ProduceRequest {
    let data = PartitionProduceData::default().with_records(Some(batch));
    let topic = TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(acks).with_timeout_ms(10_000).with_topic_data(vec![topic])
}

pub fn fetch(topic: &str, offset: i64, min_bytes: i32, max_wait_ms: i32, max_bytes: i32) -> FetchRequest {
    let partition = FetchPartition::default().with_fetch_offset(offset).with_partition_max_bytes(max_bytes);
    let topic = FetchTopic::default().with_topic(topic_name(topic)).with_partitions(vec![partition]);
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(max_wait_ms)
        .with_min_bytes(min_bytes)
        .with_max_bytes(max_bytes)
        .with_session_epoch(-1)
        .with_topics(vec![topic])
}

/// The same fetch for versions that name topics by id; the older ones go by the name.
pub fn with_topic_id(mut request: FetchRequest, id: uuid::Uuid) -> FetchRequest {
    request.topics[0].topic_id = id;
    request
}

pub fn list_offsets(topic: &str, timestamp: i64) -> ListOffsetsRequest {
    let partition = ListOffsetsPartition::default().with_timestamp(timestamp);
    let topic = ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition]);
    ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic])
}

/// A record with the timestamp of now.
pub fn record(key: &str, value: Option<&str>) -> Record {
    record_at(key, value, now_ms())
}

pub fn record_at(key: &str, value: Option<&str>, timestamp: i64) -> Record {
    Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: TimestampType::Creation,
        offset: 0,
        sequence: -1,
        timestamp,
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
        headers: [(text("h"), Some(Bytes::from_static(b"1")))].into(),
    }
}

/// One batch of the records.
pub fn encode(records: &[Record], compression: Compression) -> Bytes {
    let numbered: Vec<Record> = (0..)
        .zip(records)
        .map(|(offset, record)| {
            let mut record = record.clone();
            // The encoder splits batches where offset and sequence do not move together.
            record.sequence = match record.sequence {
                -1 => i32::try_from(offset).unwrap() - 1,
                first => first + i32::try_from(offset).unwrap(),
            };
            record.offset = offset;
            record
        })
        .collect();
    let mut batch = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression };
    let fold = |plain: &mut BytesMut, out: &mut BytesMut, codec: Compression| {
        out.put_slice(&fold(plain, codec));
        Ok(())
    };
    RecordBatchEncoder::encode_with_custom_compression(&mut batch, &numbered, &options, Some(fold)).unwrap();
    batch.freeze()
}

fn fold(plain: &[u8], codec: Compression) -> Vec<u8> {
    use std::io::Read;
    match codec {
        Compression::Gzip => {
            let mut folded = Vec::new();
            flate2::read::GzEncoder::new(plain, flate2::Compression::fast())
                .read_to_end(&mut folded)
                .unwrap();
            folded
        }
        Compression::Snappy => snap::raw::Encoder::new().compress_vec(plain).unwrap(),
        Compression::Lz4 => {
            use std::io::Write;
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => {
            ruzstd::encoding::compress_to_vec(plain, ruzstd::encoding::CompressionLevel::Fastest)
        }
        Compression::None => plain.to_vec(),
    }
}

/// As a raw block, which [`fold`] writes, or in Java's chunks, which the broker writes.
fn unfold_snappy(folded: &[u8]) -> Result<Vec<u8>, snap::Error> {
    let Some(mut chunks) = folded.strip_prefix(b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01") else {
        return snap::raw::Decoder::new().decompress_vec(folded);
    };
    let mut plain = Vec::new();
    while !chunks.is_empty() {
        let (chunk, rest) =
            chunks[4..].split_at(u32::from_be_bytes(chunks[..4].try_into().unwrap()) as usize);
        plain.extend(snap::raw::Decoder::new().decompress_vec(chunk)?);
        chunks = rest;
    }
    Ok(plain)
}

pub fn decode(mut batches: Bytes) -> Vec<Record> {
    use std::io::Read;
    let unfold = |folded: &mut Bytes, codec: Compression| {
        let plain = match codec {
            Compression::Gzip => {
                let mut plain = Vec::new();
                flate2::read::GzDecoder::new(folded.as_ref()).read_to_end(&mut plain)?;
                plain
            }
            Compression::Snappy => unfold_snappy(folded)?,
            Compression::Lz4 => {
                let mut plain = Vec::new();
                lz4_flex::frame::FrameDecoder::new(folded.as_ref()).read_to_end(&mut plain)?;
                plain
            }
            Compression::Zstd => {
                let mut plain = Vec::new();
                ruzstd::decoding::StreamingDecoder::new(folded.as_ref())?.read_to_end(&mut plain)?;
                plain
            }
            Compression::None => folded.to_vec(),
        };
        Ok(Bytes::from(plain))
    };
    let mut records = Vec::new();
    while batches.has_remaining() {
        let set = RecordBatchDecoder::decode_with_custom_compression(&mut batches, Some(unfold));
        records.extend(set.unwrap().records);
    }
    records
}

/// Key and value of records, for comparing.
pub fn pairs(records: &[Record]) -> Vec<(i64, String, Option<String>)> {
    let owned = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    records
        .iter()
        .map(|r| (r.offset, r.key.as_ref().map(owned).unwrap_or_default(), r.value.as_ref().map(owned)))
        .collect()
}
