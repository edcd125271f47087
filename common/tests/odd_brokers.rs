//! Answers that no broker gives when asked to: a scripted peer gives them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsResponse, BrokerId, FetchRequest, FetchResponse, MetadataResponse, RequestHeader,
    ResponseHeader, SaslHandshakeResponse, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use task_events::kafka::records::{BatchBuilder, Codec};
use task_events::kafka::{
    ConsumerRecord, Headers, Kafka, KafkaError, Password, Position, ReadEvent, Sasl, SaslMechanism, Secret,
    TopicReader,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const TOPIC: &str = "odd";
const LIMIT: Duration = Duration::from_secs(30);

/// Versions that the scripted broker knows, and what it does.
#[derive(Clone, Copy)]
struct Script {
    metadata: (i16, i16),
    fetch: (i16, i16),
    /// What to answer to the fetch of this number.
    answer: fn(usize, &FetchRequest) -> PartitionData,
    throttle_ms: fn(usize) -> i32,
    /// Whether a version of ApiVersions above 0 is refused.
    is_old: bool,
    /// Whether the connection is closed at the first request after ApiVersions.
    expects_login: bool,
    /// The answer to SaslHandshake: a code, and what is offered.
    handshake: (i16, &'static [&'static str]),
}

fn none(_: usize, request: &FetchRequest) -> PartitionData {
    let offset = request.topics[0].partitions[0].fetch_offset;
    PartitionData::default().with_high_watermark(offset).with_last_stable_offset(offset)
}

const SCRIPT: Script = Script {
    metadata: (0, 12),
    fetch: (4, 12),
    answer: none,
    throttle_ms: |_| 0,
    is_old: false,
    expects_login: false,
    handshake: (0, &[]),
};

struct Scripted {
    address: SocketAddr,
    fetches: Arc<AtomicUsize>,
}

impl Scripted {
    async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fetches = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&fetches);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, address, script, Arc::clone(&counted)));
            }
        });
        Self { address, fetches }
    }

    fn kafka(&self) -> Kafka {
        Kafka::new(vec![self.address.to_string()], "odd")
    }
}

async fn serve(mut stream: TcpStream, address: SocketAddr, script: Script, fetches: Arc<AtomicUsize>) {
    while let Ok(length) = stream.read_i32().await {
        let mut frame = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut frame).await.unwrap();
        let mut frame = Bytes::from(frame);
        let key = ApiKey::try_from(i16::from_be_bytes([frame[0], frame[1]])).unwrap();
        let version = i16::from_be_bytes([frame[2], frame[3]]);
        let header = RequestHeader::decode(&mut frame, key.request_header_version(version)).unwrap();
        let mut out = BytesMut::new();
        let answered = ResponseHeader::default().with_correlation_id(header.correlation_id);
        let mut head = |version| answered.encode(&mut out, key.response_header_version(version)).unwrap();
        match key {
            ApiKey::ApiVersions if script.is_old && version > 0 => {
                head(0);
                ApiVersionsResponse::default().with_error_code(35).encode(&mut out, 0).unwrap();
            }
            ApiKey::ApiVersions => {
                head(version);
                let api = |key: ApiKey, (min, max): (i16, i16)| {
                    ApiVersion::default().with_api_key(key as i16).with_min_version(min).with_max_version(max)
                };
                let apis = vec![
                    api(ApiKey::ApiVersions, (0, 3)),
                    api(ApiKey::Metadata, script.metadata),
                    api(ApiKey::Fetch, script.fetch),
                    api(ApiKey::SaslHandshake, (0, 1)),
                ];
                ApiVersionsResponse::default().with_api_keys(apis).encode(&mut out, version).unwrap();
            }
            _ if script.expects_login => return,
            ApiKey::SaslHandshake => {
                head(version);
                let offered = script.handshake.1.iter().map(|name| StrBytes::from_static_str(name)).collect();
                SaslHandshakeResponse::default()
                    .with_error_code(script.handshake.0)
                    .with_mechanisms(offered)
                    .encode(&mut out, version)
                    .unwrap();
            }
            ApiKey::Metadata => {
                head(version);
                let broker = MetadataResponseBroker::default()
                    .with_node_id(BrokerId(1))
                    .with_host(StrBytes::from_string(address.ip().to_string()))
                    .with_port(address.port().into());
                let partition = MetadataResponsePartition::default().with_leader_id(BrokerId(1));
                let topic = MetadataResponseTopic::default()
                    .with_name(Some(TopicName(StrBytes::from_static_str(TOPIC))))
                    .with_partitions(vec![partition]);
                MetadataResponse::default()
                    .with_brokers(vec![broker])
                    .with_topics(vec![topic])
                    .encode(&mut out, version)
                    .unwrap();
            }
            ApiKey::Fetch => {
                head(version);
                let request = FetchRequest::decode(&mut frame, version).unwrap();
                let number = fetches.fetch_add(1, Ordering::Relaxed);
                let topic = FetchableTopicResponse::default()
                    .with_topic(request.topics[0].topic.clone())
                    .with_partitions(vec![(script.answer)(number, &request)]);
                if (script.answer)(number, &request).records.is_none() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                let throttle_ms = (script.throttle_ms)(number);
                // As Kafka answers over a quota: nothing of what was asked for.
                let topics = if throttle_ms > 0 { Vec::new() } else { vec![topic] };
                FetchResponse::default()
                    .with_throttle_time_ms(throttle_ms)
                    .with_responses(topics)
                    .encode(&mut out, version)
                    .unwrap();
            }
            other => panic!("not scripted: {other:?}"),
        }
        stream.write_i32(i32::try_from(out.len()).unwrap()).await.unwrap();
        stream.write_all(&out).await.unwrap();
    }
}

fn batch(offset: i64, value: &'static [u8]) -> Bytes {
    let record = ConsumerRecord {
        offset,
        timestamp: 0,
        leader_epoch: -1,
        key: None,
        value: Some(Bytes::from_static(value)),
        headers: Headers::default(),
    };
    let mut batch = BatchBuilder::new(offset, Codec::None);
    batch.push(record);
    batch.build().unwrap().into()
}

/// The first records that a reader brings, and how often it had brought none before.
async fn first_records(kafka: &Kafka) -> (usize, i64) {
    let mut reader = TopicReader::new(kafka, TOPIC).partition(0, Position::at(0));
    let mut without = 0;
    let reading = async {
        loop {
            match reader.next().await {
                ReadEvent::Fetched(fetched) if fetched.batches.is_empty() => {
                    assert_eq!(fetched.next_offset, 0, "an answer without records moves nothing");
                    without += 1;
                }
                ReadEvent::Fetched(fetched) => return (without, fetched.next_offset),
                ReadEvent::Failing(error) => eprintln!("{error}"),
                ReadEvent::Jumped(jump) => panic!("{jump}"),
            }
        }
    };
    timeout(LIMIT, reading).await.unwrap()
}

#[tokio::test]
async fn an_empty_answer_below_the_high_watermark_moves_nothing() {
    let answer = |number: usize, _: &FetchRequest| {
        let data = PartitionData::default().with_high_watermark(5).with_last_stable_offset(5);
        if number < 4 { data } else { data.with_records(Some(batch(0, b"x"))) }
    };
    let broker = Scripted::start(Script { answer, ..SCRIPT }).await;
    assert_eq!(first_records(&broker.kafka()).await, (4, 1));
}

#[tokio::test]
async fn a_throttled_reader_waits_as_long_as_the_broker_says() {
    let answer = |_: usize, _: &FetchRequest| {
        PartitionData::default().with_high_watermark(1).with_records(Some(batch(0, b"x")))
    };
    let throttle_ms = |number| if number < 2 { 400 } else { 0 };
    let broker = Scripted::start(Script { answer, throttle_ms, ..SCRIPT }).await;
    let start = Instant::now();
    let mut reader = TopicReader::new(&broker.kafka(), TOPIC).partition(0, Position::at(0));
    let event = timeout(LIMIT, reader.next()).await.unwrap();
    assert!(matches!(event, ReadEvent::Fetched(fetched) if fetched.next_offset == 1), "no failure before it");
    assert!(start.elapsed() >= Duration::from_millis(800), "{:?}", start.elapsed());
    assert!(broker.fetches.load(Ordering::Relaxed) >= 3);
}

#[tokio::test]
async fn bytes_that_are_damaged_on_the_way_are_read_again() {
    let answer = |number: usize, _: &FetchRequest| {
        let mut bytes = BytesMut::from(batch(0, b"x").as_ref());
        if number < 2 {
            *bytes.last_mut().unwrap() ^= 1;
        }
        PartitionData::default().with_high_watermark(1).with_records(Some(bytes.freeze()))
    };
    let broker = Scripted::start(Script { answer, ..SCRIPT }).await;
    assert_eq!(first_records(&broker.kafka()).await.1, 1);
    assert_eq!(broker.fetches.load(Ordering::Relaxed).min(3), 3);
}

#[tokio::test]
async fn bytes_that_stay_damaged_become_a_range_that_cannot_be_read() {
    let answer = |_: usize, _: &FetchRequest| {
        let mut bytes = BytesMut::from(batch(0, b"x").as_ref());
        *bytes.last_mut().unwrap() ^= 1;
        PartitionData::default().with_high_watermark(1).with_records(Some(bytes.freeze()))
    };
    let broker = Scripted::start(Script { answer, ..SCRIPT }).await;
    let mut reader = TopicReader::new(&broker.kafka(), TOPIC).partition(0, Position::at(0));
    let reading = async {
        loop {
            if let ReadEvent::Fetched(fetched) = reader.next().await {
                return fetched;
            }
        }
    };
    let fetched = timeout(LIMIT, reading).await.unwrap();
    let unreadable = fetched.batches[0].records().next().unwrap().unwrap_err();
    assert_eq!((unreadable.first_offset, unreadable.last_offset, fetched.next_offset), (0, 0, 1));
}

#[tokio::test]
async fn an_old_broker_is_spoken_to_in_its_versions() {
    let answer = |_: usize, _: &FetchRequest| {
        PartitionData::default().with_high_watermark(1).with_records(Some(batch(0, b"x")))
    };
    let script = Script { metadata: (0, 4), fetch: (4, 4), answer, is_old: true, ..SCRIPT };
    let broker = Scripted::start(script).await;
    assert_eq!(first_records(&broker.kafka()).await.1, 1);
}

#[tokio::test]
async fn a_broker_of_other_versions_is_named() {
    let broker = Scripted::start(Script { metadata: (90, 91), ..SCRIPT }).await;
    let error = broker.kafka().topic(TOPIC).await.unwrap_err().to_string();
    assert!(error.contains("versions 90 to 91 of Metadata"), "{error}");
}

/// A peer that answers everything with these bytes.
async fn says(bytes: &'static [u8]) -> Kafka {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 100]).await;
            let _ = stream.write_all(bytes).await;
        }
    });
    Kafka::new(vec![address.to_string()], "odd")
}

#[tokio::test]
async fn a_peer_that_is_no_kafka_broker_is_named() {
    for (bytes, why) in [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".as_slice(), "HTTP server, no Kafka broker"),
        (&[0x15, 3, 3, 0, 2, 2, 10], "TLS"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no Kafka broker"),
        (b"", "no Kafka broker"),
        (&[0xff; 40], "no Kafka broker"),
        (&[0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0xff, 0xff], "cannot read the answer to ApiVersions"),
    ] {
        let error = says(bytes).await.topic(TOPIC).await.unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert!(matches!(error, KafkaError::Failed { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_listener_with_another_login_is_named() {
    let sasl = || {
        Some(Sasl {
            mechanism: SaslMechanism::ScramSha512,
            username: "u".to_owned(),
            secret: Secret::Value(Password("p".to_owned())),
        })
    };
    let asks = async |script: Script, sasl: Option<Sasl>| {
        let broker = Scripted::start(script).await;
        broker.kafka().with_sasl(sasl).topic(TOPIC).await.unwrap_err().to_string()
    };
    let error = asks(Script { expects_login: true, ..SCRIPT }, None).await;
    assert!(error.contains("set KAFKA_SASL_USERNAME"), "{error}");
    let error = asks(Script { handshake: (34, &[]), ..SCRIPT }, sasl()).await;
    assert!(error.contains("expects no login: unset KAFKA_SASL_USERNAME"), "{error}");
    let error = asks(Script { handshake: (33, &["PLAIN", "SCRAM-SHA-256"]), ..SCRIPT }, sasl()).await;
    assert!(error.contains("offers PLAIN, SCRAM-SHA-256: set KAFKA_SASL_MECHANISM"), "{error}");
}

#[tokio::test]
async fn addresses_that_refuse_or_never_answer_are_not_waited_for() {
    // Nobody accepts: connections wait in its queue.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let connections = || std::iter::from_fn(|| silent.accept().ok()).count();
    let refusing = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let broker = Scripted::start(SCRIPT).await;
    let dead = [
        silent.local_addr().unwrap().to_string(),
        refusing.to_string(),
        "no-such-host.invalid:9092".to_owned(),
    ];
    let bootstrap: Vec<_> = dead.into_iter().chain([broker.address.to_string()]).collect();
    // Whoever waits for one of them does so each time, and not only on a machine that stalls.
    let mut fastest = Duration::MAX;
    let mut kafka = Kafka::new(bootstrap.clone(), "odd");
    for _ in 0..5 {
        kafka = Kafka::new(bootstrap.clone(), "odd");
        let start = Instant::now();
        kafka.topic(TOPIC).await.unwrap();
        fastest = fastest.min(start.elapsed());
        if fastest < Duration::from_secs(2) {
            break;
        }
    }
    assert!(fastest < Duration::from_secs(2), "{fastest:?}");
    assert!(connections() > 0, "it was asked");
    kafka.topic(TOPIC).await.unwrap();
    assert_eq!(connections(), 0, "the one that answered is asked first");
}
