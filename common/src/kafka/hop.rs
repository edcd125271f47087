//! A hop inside this process between rskafka's partition client and the leader of one partition.
//!
//! rskafka has habits that do harm in a cluster that others use too: it dials whatever address the metadata
//! name, without a timeout; it asks for a topic by name, which may create it; it does not set TCP_NODELAY;
//! and it takes an answer with a throttle time for a failure and sends the records again, although they were
//! appended. So the only broker that it ever sees is this hop, which answers its questions for versions and
//! metadata (one topic, one partition, one broker: the hop), and passes its produce requests to the leader
//! over a connection that this crate has opened, checked and logged in on.
//!
//! # Invariants
//!
//! 1. *Only this process gets through.* The listener is on loopback and exists only while a client connects. Where
//!    this process is logged in, or shows a certificate, the other end of a connection has to be a socket of this
//!    very process ([`peer`]): a broker takes whoever comes by for this process. And each request has to carry the
//!    token, a random client id that only the client made for this hop knows; on the way to the broker the real client id, by which quotas go,
//!    takes its place.
//! 2. *Records pass unchanged and in order.* Of an answer, only the throttle time is cleared. It is kept for
//!    the producer, which sends nothing more until it is over: until then the broker reads nothing either.
//! 3. *Where one side ends, the other ends too.* rskafka never waits for an answer that cannot come.
//! 4. *Memory is bounded*: a request is passed on in pieces.
//! 5. *Renewed in time*: after its login has expired nothing more is to be sent ([`Hop::is_expired`]).

mod request;

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{ApiKey, ApiVersionsResponse, BrokerId, MetadataResponse, TopicName};
use kafka_protocol::protocol::{Encodable, StrBytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::{counts, peer};
use crate::tls::ClientStream;
use request::{PIECE, Request, acknowledge, invalid};

/// What rskafka may use: each version that it knows and Kafka 2.1 and later speak.
const VERSIONS: [(ApiKey, i16, i16); 3] =
    [(ApiKey::Produce, 3, 7), (ApiKey::Metadata, 4, 4), (ApiKey::ApiVersions, 0, 3)];
/// Connections at one time. rskafka makes two: one to ask for the leader, one to the leader.
const MAX_CONNECTIONS: usize = 8;
/// Pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// Time for a new connection to show the token.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// What is read at once of a header and what follows it, in bytes: a small request, or an answer, as a whole.
const READ_BUFFER: usize = 4 * 1024;
/// Largest answer to a produce request, in bytes. One of a single partition has less than 100.
const MAX_ANSWER: usize = 64 * 1024;
/// One partition, the broker that leads it, and who asks.
#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) leader: i32,
    pub(super) client_id: Arc<str>,
    /// The broker knows this process by its login or certificate.
    pub(super) has_identity: bool,
}

/// The hop. Its connections end when it is dropped.
#[derive(Debug)]
pub(super) struct Hop {
    address: SocketAddr,
    link: Arc<Link>,
    /// Dropped when no more connections are to be accepted.
    accepting: Option<oneshot::Sender<Infallible>>,
    expires: Option<Instant>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Link {
    route: Route,
    token: String,
    address: SocketAddr,
    /// Taken by the first produce request.
    leader: Mutex<Option<ClientStream>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    throttled_until: Option<Instant>,
    /// Why the connection to the leader ended.
    ended: Option<String>,
}

impl Hop {
    /// A hop to the leader at the other end of the stream, whose login is to be renewed at that time.
    pub(super) async fn open(
        leader: ClientStream,
        expires: Option<Instant>,
        route: Route,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let link = Arc::new(Link {
            route,
            token: Uuid::new_v4().simple().to_string(),
            address,
            leader: Mutex::new(Some(leader)),
            state: Mutex::default(),
        });
        let (accepting, sealed) = oneshot::channel();
        let task = tokio::spawn(run(listener, Arc::clone(&link), sealed)).abort_handle();
        Ok(Self { address, link, accepting: Some(accepting), expires, task })
    }

    /// What rskafka is to take for its bootstrap broker.
    pub(super) fn bootstrap(&self) -> String {
        self.address.to_string()
    }

    /// What rskafka is to take for its client id.
    pub(super) fn token(&self) -> &str {
        &self.link.token
    }

    /// Closes the listener: rskafka is connected.
    pub(super) fn seal(&mut self) {
        self.accepting = None;
    }

    /// Until when the broker reads no more requests, if a quota was exceeded.
    pub(super) fn throttled_until(&self) -> Option<Instant> {
        self.link.state().throttled_until
    }

    /// Whether the broker is about to end the connection with its login.
    pub(super) fn is_expired(&self) -> bool {
        self.expires.is_some_and(|expires| expires <= Instant::now())
    }

    /// Why the connection to the leader ended, if it did.
    pub(super) fn ended(&self) -> Option<String> {
        self.link.state().ended.clone()
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Accepts connections until it is sealed, then serves those that are there. Aborting it ends them all.
async fn run(listener: TcpListener, link: Arc<Link>, mut sealed: oneshot::Receiver<Infallible>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut sealed => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                match accepted {
                    Ok((client, from)) => drop(connections.spawn(converse(client, from, Arc::clone(&link)))),
                    // The connection is gone, or no file is free: the client gives up in time.
                    Err(_) => sleep(ACCEPT_PAUSE).await,
                }
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Serves one connection until either side ends.
async fn converse(client: TcpStream, from: SocketAddr, link: Arc<Link>) {
    if link.route.has_identity
        && let Err(why) = peer::is_of_this_process(from, link.address).await
    {
        log::warn!("the hop to {}/{} refuses a connection: {why}", link.route.topic, link.route.partition);
        return;
    }
    let (reads, mut writes) = client.into_split();
    let mut reads = BufReader::with_capacity(READ_BUFFER, reads);
    // A client that does not show the token is a stranger: it gets no answer.
    let first = timeout(FIRST_REQUEST_TIMEOUT, Request::read(&mut reads, &link.token)).await;
    let Ok(Ok(first)) = first else { return };
    // rskafka reports an end of its own connection itself; that of the leader's is kept for the producer.
    if let Ok(produce) = link.answer_questions(first, &mut reads, &mut writes).await {
        link.pass_on(produce, reads, writes).await;
    }
}

impl Link {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers questions for versions and metadata, and returns the first produce request.
    async fn answer_questions(
        &self,
        first: Request,
        client: &mut BufReader<OwnedReadHalf>,
        answers: &mut OwnedWriteHalf,
    ) -> io::Result<Request> {
        let mut request = first;
        while request.api_key != ApiKey::Produce as i16 {
            let mut body = client.take(request.rest);
            tokio::io::copy(&mut body, &mut tokio::io::sink()).await?;
            answers.write_all(&self.answer(&request)?).await?;
            request = Request::read(client, &self.token).await?;
        }
        Ok(request)
    }

    /// The answer to a question for versions or metadata, with its length before it.
    fn answer(&self, request: &Request) -> io::Result<Vec<u8>> {
        let mut body = BytesMut::new();
        let encoded = match ApiKey::try_from(request.api_key) {
            Ok(ApiKey::ApiVersions) => versions().encode(&mut body, request.version),
            Ok(ApiKey::Metadata) => self.metadata().encode(&mut body, request.version),
            _ => return Err(invalid(&format!("a call of key {} is not offered", request.api_key))),
        };
        encoded.map_err(|error| invalid(&error.to_string()))?;
        let length = i32::try_from(body.len() + 4).map_err(io::Error::other)?;
        let mut frame = length.to_be_bytes().to_vec();
        frame.extend(request.correlation_id.to_be_bytes());
        frame.extend(body);
        Ok(frame)
    }

    fn metadata(&self) -> MetadataResponse {
        let Route { topic, partition, leader, .. } = &self.route;
        let leader = BrokerId(*leader);
        let hop = MetadataResponseBroker::default()
            .with_node_id(leader)
            .with_host(StrBytes::from_string(self.address.ip().to_string()))
            .with_port(i32::from(self.address.port()));
        let partition = MetadataResponsePartition::default()
            .with_partition_index(*partition)
            .with_leader_id(leader)
            .with_replica_nodes(vec![leader])
            .with_isr_nodes(vec![leader]);
        let topic = MetadataResponseTopic::default()
            .with_name(Some(TopicName(StrBytes::from_string(topic.clone()))))
            .with_partitions(vec![partition]);
        MetadataResponse::default()
            .with_brokers(vec![hop])
            .with_controller_id(leader)
            .with_topics(vec![topic])
    }

    /// Passes produce requests to the leader and its answers back, until either side ends.
    async fn pass_on(
        &self,
        first: Request,
        client_reads: BufReader<OwnedReadHalf>,
        client_writes: OwnedWriteHalf,
    ) {
        let leader = self.leader.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(leader) = leader else { return };
        let ended = match leader {
            ClientStream::Plain(leader) => {
                let (reads, writes) = leader.into_split();
                self.pass_both(first, client_reads, client_writes, reads, writes).await
            }
            ClientStream::Tls(leader) => {
                let (reads, writes) = tokio::io::split(*leader);
                self.pass_both(first, client_reads, client_writes, reads, writes).await
            }
        };
        let why = match ended.kind() {
            io::ErrorKind::UnexpectedEof => "the connection was closed".to_owned(),
            _ => ended.to_string(),
        };
        self.state().ended = Some(why);
    }

    async fn pass_both(
        &self,
        first: Request,
        client_reads: BufReader<OwnedReadHalf>,
        client_writes: OwnedWriteHalf,
        leader_reads: impl AsyncRead + Unpin,
        leader_writes: impl AsyncWrite + Unpin,
    ) -> io::Error {
        let ended = tokio::select! {
            ended = self.pass_requests(first, client_reads, leader_writes) => ended,
            ended = self.pass_answers(leader_reads, client_writes) => ended,
        };
        let Err(error) = ended;
        error
    }

    async fn pass_requests(
        &self,
        first: Request,
        mut client: BufReader<OwnedReadHalf>,
        mut leader: impl AsyncWrite + Unpin,
    ) -> io::Result<Infallible> {
        let mut request = first;
        loop {
            let mut piece = request.header(&self.route.client_id)?;
            let mut left = request.rest;
            while left > 0 {
                let free = PIECE.saturating_sub(piece.len()).max(1) as u64;
                let read = (&mut client).take(left.min(free)).read_buf(&mut piece).await?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                left = left.saturating_sub(read as u64);
                if left > 0 {
                    acknowledge(client.get_ref());
                    if piece.len() < PIECE {
                        continue;
                    }
                }
                leader.write_all(&piece).await?;
                piece.clear();
            }
            leader.flush().await?;
            request = Request::read(&mut client, &self.token).await?;
            if request.api_key != ApiKey::Produce as i16 {
                return Err(invalid("a call that is no produce among produces"));
            }
        }
    }

    async fn pass_answers(
        &self,
        leader: impl AsyncRead + Unpin,
        mut client: OwnedWriteHalf,
    ) -> io::Result<Infallible> {
        let mut leader = BufReader::with_capacity(READ_BUFFER, leader);
        loop {
            let length = usize::try_from(leader.read_i32().await?).unwrap_or(usize::MAX);
            if length > MAX_ANSWER {
                return Err(invalid(&format!("an answer of {length} bytes to a produce request")));
            }
            let mut frame = i32::try_from(length).unwrap_or(i32::MAX).to_be_bytes().to_vec();
            frame.resize(4 + length, 0);
            leader.read_exact(frame.get_mut(4..).unwrap_or_default()).await?;
            let throttle = take_throttle_time(&mut frame);
            if !throttle.is_zero() {
                counts::throttled(throttle);
                self.state().throttled_until = Some(Instant::now() + throttle);
            }
            client.write_all(&frame).await?;
        }
    }
}

fn versions() -> ApiVersionsResponse {
    let version = |(key, min, max): (ApiKey, i16, i16)| {
        ApiVersion::default().with_api_key(key as i16).with_min_version(min).with_max_version(max)
    };
    ApiVersionsResponse::default().with_api_keys(VERSIONS.map(version).to_vec())
}

/// Clears the throttle time of an answer to a produce request, in versions 1 to 8 its last field, and
/// returns it.
fn take_throttle_time(frame: &mut [u8]) -> Duration {
    let Some(field) = frame.last_chunk_mut::<4>() else { return Duration::ZERO };
    let millis = i32::from_be_bytes(std::mem::take(field));
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

#[cfg(test)]
mod tests;
