//! The hop between a client of rskafka's and a leader that the test plays.

use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{ProduceResponse, RequestHeader};
use kafka_protocol::protocol::Decodable;
use rskafka::client::ClientBuilder;
use rskafka::client::partition::{Compression, PartitionClient, UnknownTopicHandling};
use rskafka::record::Record;

use super::*;

const TOPIC: &str = "t";
const CLIENT_ID: &str = "the real client id";

/// The leader's end of the connection, a client that reaches it by way of the hop, and the hop.
async fn connected() -> (TcpStream, PartitionClient, Hop) {
    let (ours, leader) = stream_pair().await;
    let route = route();
    let mut hop = Hop::open(ClientStream::Plain(ours), None, route).await.unwrap();
    let client = ClientBuilder::new(vec![hop.bootstrap()]).client_id(hop.token()).build().await.unwrap();
    let client = client.partition_client(TOPIC, 3, UnknownTopicHandling::Error).await.unwrap();
    hop.seal();
    (leader, client, hop)
}

async fn stream_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap());
    let (ours, accepted) = tokio::join!(ours, listener.accept());
    (ours.unwrap(), accepted.unwrap().0)
}

fn record(bytes: usize) -> Record {
    Record {
        key: None,
        value: Some(vec![7; bytes]),
        headers: Default::default(),
        timestamp: Default::default(),
    }
}

/// The next request as the leader gets it: its header and what follows.
async fn request(leader: &mut TcpStream) -> (RequestHeader, Vec<u8>) {
    let mut frame = vec![0; leader.read_i32().await.unwrap() as usize];
    leader.read_exact(&mut frame).await.unwrap();
    let mut rest = bytes::Bytes::from(frame);
    let header = RequestHeader::decode(&mut rest, 1).unwrap();
    (header, rest.to_vec())
}

async fn answer(leader: &mut TcpStream, to: &RequestHeader, offset: i64, throttle_ms: i32) {
    let partition = PartitionProduceResponse::default().with_index(3).with_base_offset(offset);
    let topic = TopicProduceResponse::default()
        .with_name(TopicName(StrBytes::from_static_str(TOPIC)))
        .with_partition_responses(vec![partition]);
    let response = ProduceResponse::default().with_responses(vec![topic]).with_throttle_time_ms(throttle_ms);
    let mut body = BytesMut::new();
    response.encode(&mut body, to.request_api_version).unwrap();
    let mut frame = (body.len() as i32 + 4).to_be_bytes().to_vec();
    frame.extend(to.correlation_id.to_be_bytes());
    frame.extend(body);
    leader.write_all(&frame).await.unwrap();
}

fn route() -> Route {
    let client_id = CLIENT_ID.into();
    Route { topic: TOPIC.to_owned(), partition: 3, leader: 7, client_id, has_identity: true }
}

#[tokio::test]
async fn a_throttled_answer_is_an_answer_and_its_time_is_kept() {
    let (mut leader, client, hop) = connected().await;
    let produce = client.produce(vec![record(10)], Compression::NoCompression);
    let serve = async {
        let (header, _) = request(&mut leader).await;
        assert_eq!(header.client_id.as_deref(), Some(CLIENT_ID), "quotas go by the real one");
        answer(&mut leader, &header, 42, 60_000).await;
    };
    let (offsets, ()) = tokio::join!(produce, serve);
    assert_eq!(offsets.unwrap(), [42]);
    let wait = hop.throttled_until().unwrap() - Instant::now();
    assert!(wait > Duration::from_secs(30) && wait <= Duration::from_secs(60), "{wait:?}");
    drop((client, hop));
    assert_eq!(leader.read_u8().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "sent once");
}

#[tokio::test]
async fn requests_of_any_size_pass_unchanged() {
    let (mut leader, client, _hop) = connected().await;
    for bytes in [1, 5_000, 9_000, 60_000, 70_000, 600_000, 3_000_000] {
        let sent = Instant::now();
        let produce = client.produce(vec![record(bytes)], Compression::NoCompression);
        let serve = async {
            let (header, body) = request(&mut leader).await;
            assert_eq!(body.iter().filter(|byte| **byte == 7).count() / bytes, 1, "{bytes}");
            answer(&mut leader, &header, 0, 0).await;
        };
        let (offsets, ()) = tokio::join!(produce, serve);
        assert_eq!(offsets.unwrap(), [0], "{bytes} in {:?}", sent.elapsed());
    }
}

#[tokio::test]
async fn a_stranger_is_not_answered_and_reaches_nobody() {
    let (ours, mut leader) = stream_pair().await;
    let route = route();
    let hop = Hop::open(ClientStream::Plain(ours), None, route).await.unwrap();
    for client_id in ["", "task-api", CLIENT_ID, &"0".repeat(32)] {
        let mut stranger = TcpStream::connect(hop.bootstrap()).await.unwrap();
        let request = Request { api_key: 0, version: 7, correlation_id: 1, rest: 64 };
        stranger.write_all(&request.header(client_id).unwrap()).await.unwrap();
        stranger.write_all(&[0; 64]).await.unwrap();
        let answered = stranger.read_u8().await;
        assert!(answered.is_err(), "{client_id:?}: {answered:?}");
    }
    drop(hop);
    assert!(leader.read_u8().await.is_err());
}

/// Sends a request with the right token from a process of another kind, and says whether anything came back.
async fn is_answered(hop: &Hop, wrapper: &[&str]) -> bool {
    let request = Request { api_key: 18, version: 0, correlation_id: 1, rest: 0 };
    let header = request.header(hop.token()).unwrap();
    let escaped: String = header.iter().map(|byte| format!("\\x{byte:02x}")).collect();
    let port = hop.address.port();
    let script =
        format!("exec 3<>/dev/tcp/127.0.0.1/{port} || exit 9; printf '{escaped}' >&3; head -c 1 <&3 | wc -c");
    let mut words = wrapper.iter().copied().chain(["bash", "-c", &script]);
    let output = tokio::process::Command::new(words.next().unwrap()).args(words).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim() != "0"
}

/// Whoever knows the token, by reading this process's memory or by chance.
#[tokio::test]
async fn another_process_is_refused_even_with_the_token() {
    let (ours, mut leader) = stream_pair().await;
    let route = route();
    let hop = Hop::open(ClientStream::Plain(ours), None, route).await.unwrap();
    assert!(!is_answered(&hop, &[]).await, "of the same user");
    if rustix::process::geteuid().is_root() {
        let other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        assert!(!is_answered(&hop, &other).await, "of another user");
    }
    // The same request from this process is answered.
    let mut own = TcpStream::connect(hop.bootstrap()).await.unwrap();
    let request = Request { api_key: 18, version: 0, correlation_id: 1, rest: 0 };
    own.write_all(&request.header(hop.token()).unwrap()).await.unwrap();
    assert!(own.read_u8().await.is_ok());
    drop((hop, own));
    assert!(leader.read_u8().await.is_err(), "nothing reached the leader");
}

#[tokio::test]
async fn where_the_leader_ends_the_connection_the_client_does_not_wait() {
    let (mut leader, client, hop) = connected().await;
    let produce = client.produce(vec![record(10)], Compression::NoCompression);
    let serve = async {
        request(&mut leader).await;
        drop(leader);
    };
    let (failed, ()) = tokio::join!(
        timeout(Duration::from_secs(5), async {
            tokio::select! {
                produced = produce => produced.map(|_| ()).map_err(|error| error.to_string()),
                // rskafka tries again at once: the hop has nobody to pass that to.
                () = async { while hop.ended().is_none() { tokio::task::yield_now().await } } => Err("ended".to_owned()),
            }
        }),
        serve
    );
    assert!(failed.unwrap().is_err());
    assert_eq!(hop.ended().as_deref(), Some("the connection was closed"));
}

#[tokio::test]
async fn once_it_is_sealed_nobody_else_can_connect() {
    let (_leader, _client, hop) = connected().await;
    let refused = async {
        while TcpStream::connect(hop.bootstrap()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(5), refused).await.unwrap();
}
