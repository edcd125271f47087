//! A batch that rskafka cannot decode: the partition says where it is stuck and what to do, is released, and
//! goes on by itself once an operator has moved its position.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use chrono::Utc;
use devbroker::{Broker, Config};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ProduceRequest, RequestHeader, TopicName};
use kafka_protocol::protocol::{Encodable, Request, StrBytes, encode_request_header_into_buffer};
use kafka_protocol::records::{
    Compression as Codec, Record as WireRecord, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use task_events::event::{Event, Malformed};
use task_events::kafka::{Compression, Kafka, KafkaError, NewTopic, Record};
use task_events::offsets::{Claim, Commit, OffsetsLog, Slot};
use task_events::runtime::{
    self, ConsumerConfig, Delivery, Handler, HandlerError, PartitionReport, PartitionState, Service, Status,
};
use task_events::shutdown;
use task_events::state_dir::Identity;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

const TOPIC: &str = "events";
const OFFSETS: &str = "offsets";
const LIMIT: Duration = Duration::from_secs(20);

/// Remembers the offsets that it handled.
#[derive(Clone)]
struct Remember(Arc<Mutex<Vec<i64>>>);

impl Service for Remember {
    type Handler = Self;

    async fn open(&self, _: &str, _: i32) -> Result<Self, HandlerError> {
        Ok(self.clone())
    }
}

impl Handler for Remember {
    type Message = Event;

    fn decode(&self, _: &Record) -> Result<Event, Malformed> {
        let event = br#"{"event_id":"01900000-0000-7000-8000-000000000001","event_type":"other","occurred_at":"2026-01-15T10:30:00Z","data":{},"metadata":{"correlation_id":"7a4b6f2e-3a3b-4f4c-9d52-0d4d5f0f9d10","source":"x"}}"#;
        Event::decode(Some(event))
    }

    fn wants(&self, _: &Event) -> bool {
        true
    }

    async fn handle(&mut self, delivery: &Delivery<'_, Event>) -> Result<(), HandlerError> {
        self.0.lock().unwrap().push(delivery.offset);
        Ok(())
    }
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

async fn produce_plain(kafka: &Kafka) -> i64 {
    let record =
        Record { key: None, value: Some(b"x".to_vec()), headers: BTreeMap::new(), timestamp: Utc::now() };
    kafka.partition(TOPIC, 0).produce(&[record], Compression::NoCompression).await.unwrap()[0]
}

/// A batch that calls itself zstd, which is not compiled in.
async fn produce_zstd(addr: &str) {
    let record = WireRecord {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: TimestampType::Creation,
        offset: 0,
        sequence: -1,
        timestamp: Utc::now().timestamp_millis(),
        key: None,
        value: Some(Bytes::from_static(b"y")),
        headers: Default::default(),
    };
    let mut batch = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Codec::Zstd };
    let as_it_is = |plain: &mut BytesMut, out: &mut BytesMut, _: Codec| {
        out.extend_from_slice(plain);
        Ok(())
    };
    RecordBatchEncoder::encode_with_custom_compression(&mut batch, &[record], &options, Some(as_it_is))
        .unwrap();
    let partition = PartitionProduceData::default().with_records(Some(batch.freeze()));
    let topic =
        TopicProduceData::default().with_name(TopicName(text(TOPIC))).with_partition_data(vec![partition]);
    let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(5_000).with_topic_data(vec![topic]);
    let header =
        RequestHeader::default().with_request_api_key(ProduceRequest::KEY).with_request_api_version(7);
    let mut body = BytesMut::new();
    encode_request_header_into_buffer(&mut body, &header).unwrap();
    request.encode(&mut body, 7).unwrap();
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_i32(i32::try_from(body.len()).unwrap()).await.unwrap();
    stream.write_all(&body).await.unwrap();
    let answer = stream.read_i32().await.unwrap();
    assert!(answer > 0, "the broker answers");
}

async fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = probe() {
                return found;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, found).await.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}"))
}

#[tokio::test]
async fn a_batch_that_cannot_be_decoded_waits_for_an_operator_and_no_longer() {
    let dir = tempfile::tempdir().unwrap();
    let broker =
        Broker::start(Config::new("127.0.0.1:0".parse().unwrap(), dir.path().to_owned())).await.unwrap();
    let addr = broker.addr().to_string();
    let kafka = Kafka::new(vec![addr.clone()], "test");
    for (name, policy) in [(TOPIC, "delete"), (OFFSETS, "compact")] {
        let configs = vec![("cleanup.policy".to_owned(), policy.to_owned())];
        let topic = NewTopic { name: name.to_owned(), partitions: 1, replication_factor: 1, configs };
        kafka.admin().create_topic(&topic).await.unwrap();
    }
    produce_plain(&kafka).await;
    produce_zstd(&addr).await;
    assert_eq!(produce_plain(&kafka).await, 2);

    let partition = kafka.partition(TOPIC, 0);
    let before = partition.fetch(0, 1024, Duration::ZERO).await.unwrap();
    assert_eq!((before.records.len(), before.next_offset), (1, 1), "what can be read comes first");
    let fetched = partition.fetch(1, 1024, Duration::ZERO).await;
    assert!(matches!(fetched, Err(KafkaError::Undecodable { .. })), "{fetched:?}");
    assert_eq!(partition.offset_after_batch(1).await.unwrap(), 2, "one can step over it");

    let handled = Arc::new(Mutex::new(Vec::new()));
    let config = ConsumerConfig {
        kafka: kafka.clone(),
        topic: TOPIC.to_owned(),
        offsets_topic: OFFSETS.to_owned(),
        dlq_topic: None,
        group: "g".to_owned(),
        identity: Identity::in_memory(Uuid::new_v4()),
        service: "test".to_owned(),
        host: "test".to_owned(),
        lease: Duration::from_secs(2),
    };
    let (stop, shutdown) = shutdown::channel();
    let status = Status::default();
    let consumer =
        tokio::spawn(runtime::run(config, Remember(Arc::clone(&handled)), status.clone(), shutdown));

    let why =
        eventually("the partition says that it is stuck", || match status.report().partitions.get(&0) {
            Some(PartitionReport { state: PartitionState::Blocked { why }, .. })
                if why.contains("is stuck") =>
            {
                Some(why.clone())
            }
            _ => None,
        })
        .await;
    assert!(why.contains("g/events/0") && why.contains("offset 1") && why.contains("offsets reset"), "{why}");
    assert!(!status.is_ready());
    assert_eq!(*handled.lock().unwrap(), [0], "what stands before it was handled");

    // What `taskctl offsets reset` does: the group is released, so its slot can be claimed.
    let slot = Slot { group: "g".to_owned(), topic: TOPIC.to_owned(), partition: 0 };
    let operator = OffsetsLog::open(&kafka, OFFSETS);
    operator.catch_up().await.unwrap();
    assert!(operator.view().borrow().slot(&slot).unwrap().is_released());
    let id = Uuid::new_v4();
    let claimed = operator.claim(&slot, &Claim::new(id, "operator", 10_000)).await.unwrap();
    operator.commit(&slot, claimed.token, &Commit::new(2, id, true), LIMIT).await.unwrap();

    eventually("the group goes on by itself", || handled.lock().unwrap().contains(&2).then_some(())).await;
    eventually("it is ready again", || status.is_ready().then_some(())).await;
    stop.stop();
    consumer.await.unwrap();
    assert_eq!(*handled.lock().unwrap(), [0, 2]);
    broker.shutdown().await;
}
