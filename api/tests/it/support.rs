//! The application in this process, and a client that holds every answer against the API's description.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use harness::Postgres;
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use task_api::http;
use task_api::live::{Live, Sources};
use task_api::relay::{Relay, RelayState};
use task_api::store::postgres::Closing;
use task_api::store::{OutboxEntry, Store};
use task_events::config::TopicArgs;
use task_events::database::DatabaseUrl;
use task_events::kafka::Kafka;
use task_events::shutdown::{self, Trigger};
use task_events::tls::TlsServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::description;

/// Whether the tests run with tasks in PostgreSQL: `API_STORE=postgres`.
pub fn is_postgres() -> bool {
    std::env::var("API_STORE").is_ok_and(|store| store == "postgres")
}

/// What a store leaves running.
pub enum Writer {
    Thread(thread::JoinHandle<()>),
    Tasks(Closing),
}

impl Writer {
    /// Returns when all is stored, after the last clone of the store is dropped.
    pub async fn join(self) {
        match self {
            Self::Thread(thread) => {
                tokio::task::spawn_blocking(move || thread.join()).await.unwrap().unwrap()
            }
            Self::Tasks(tasks) => tasks.wait(SOON).await,
        }
    }
}

/// A store that is kept for the folder: in it, or in a database of its own.
pub async fn open(dir: &Path) -> (Store, Writer) {
    if is_postgres() {
        let server = Postgres::shared().unwrap().expect("API_STORE=postgres needs PostgreSQL");
        let (store, tasks) = connect(server, &database(dir)).await;
        return (store, Writer::Tasks(tasks));
    }
    let (store, writer) = Store::open(dir).unwrap();
    (store, Writer::Thread(writer))
}

/// The database that stands for a folder.
pub fn database(dir: &Path) -> String {
    let name = dir.file_name().unwrap().to_str().unwrap();
    let name: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("t{name}")
}

/// A store in that database, which is made if it is not there.
pub async fn connect(server: &Postgres, database: &str) -> (Store, Closing) {
    server.create_database(database).unwrap();
    Store::connect(&DatabaseUrl::new(&server.url(database)), true).await.unwrap()
}

/// Nothing listens there.
pub const NO_KAFKA: &str = "127.0.0.1:1";
pub const TOPIC: &str = "task-events";
/// What is waited for comes well before this, or never.
pub const SOON: Duration = Duration::from_secs(30);

/// The live page's data, from that Kafka.
pub fn live(store: Store, relay: watch::Receiver<RelayState>, kafka: &str) -> Live {
    let kafka = kafka.to_owned();
    let [task_events_topic, offsets_topic, dlq_topic] =
        [TOPIC, "task-events-offsets", "task-events-dlq"].map(str::to_owned);
    Live::new(Sources {
        kafka: Box::new(move || Kafka::new(vec![kafka.clone()], "test")),
        topics: TopicArgs { task_events_topic, offsets_topic, dlq_topic },
        events: task_events::schemas::EventReader::json(),
        store,
        relay,
    })
}

/// The application as the service assembles it.
pub struct App {
    pub address: String,
    pub store: Store,
    pub live: Live,
    client: Client,
    server: actix_web::dev::ServerHandle,
    serving: JoinHandle<std::io::Result<()>>,
    drain: Trigger,
    relay: JoinHandle<()>,
    writer: Writer,
}

impl App {
    pub async fn start(dir: &Path) -> Self {
        Self::with_kafka(dir, NO_KAFKA).await
    }

    pub async fn with_kafka(dir: &Path, kafka: &str) -> Self {
        Self::bound(dir, kafka, Ipv4Addr::LOCALHOST.into(), "").await
    }

    /// As if it were bound to the address, and with those names in ALLOWED_HOSTS.
    pub async fn bound(dir: &Path, kafka: &str, bound: IpAddr, allowed_hosts: &str) -> Self {
        Self::assembled(dir, kafka, bound, allowed_hosts, http::Edge::default(), None).await
    }

    /// With what stands before the handlers.
    pub async fn behind(dir: &Path, edge: http::Edge) -> Self {
        Self::assembled(dir, NO_KAFKA, Ipv4Addr::LOCALHOST.into(), "", edge, None).await
    }

    /// With TLS on its listener.
    pub async fn over_tls(dir: &Path, tls: TlsServer) -> Self {
        let edge = http::Edge::default();
        Self::assembled(dir, NO_KAFKA, Ipv4Addr::LOCALHOST.into(), "", edge, Some(tls)).await
    }

    async fn assembled(
        dir: &Path,
        kafka: &str,
        bound: IpAddr,
        allowed_hosts: &str,
        edge: http::Edge,
        tls: Option<TlsServer>,
    ) -> Self {
        let (store, writer) = open(dir).await;
        let relay = Relay::new(store.clone(), Kafka::new(vec![kafka.to_owned()], "test"), TOPIC);
        let relay_state = relay.state();
        let (drain, draining) = shutdown::channel();
        let relay = tokio::spawn(relay.run(draining));
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let allowed_hosts = http::AllowedHosts::parse(allowed_hosts).unwrap();
        let most = http::MAX_CONNECTIONS;
        let live = live(store.clone(), relay_state.clone(), kafka);
        let state = http::State::new(store.clone(), relay_state, most, bound, allowed_hosts, live.clone())
            .behind(edge);
        let server = http::server(listener, tls, state, Duration::from_secs(5)).unwrap();
        let handle = server.handle();
        let serving = tokio::spawn(server);
        Self { address, store, live, client: Client::new(), server: handle, serving, drain, relay, writer }
    }

    /// Stops as the service does, and leaves the folder free.
    pub async fn stop(self) {
        self.live.close();
        self.server.stop(true).await;
        self.serving.await.unwrap().unwrap();
        self.drain.stop();
        // With Kafka away the relay would try for its full time; what waits is on disk.
        self.relay.abort();
        let _ = self.relay.await;
        drop((self.store, self.live));
        self.writer.join().await;
    }

    pub fn call(&self, method: &str, path: &str) -> Call {
        let method: Method = method.parse().unwrap();
        let request = self.client.request(method.clone(), format!("http://{}{path}", self.address));
        Call { method, path: path.to_owned(), request }
    }

    /// A task that was just created.
    pub async fn create(&self, title: &str) -> Value {
        let answer = self.call("POST", "/tasks").json(&json!({"title": title})).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()
    }

    /// The events that were made, in order: without Kafka all wait in the outbox.
    pub async fn events(&self) -> Vec<Arc<OutboxEntry>> {
        self.store.outbox_after(0, usize::MAX).await.unwrap()
    }

    /// `(event_type, title, status)` of the events of one task.
    pub async fn events_of(&self, id: &Value) -> Vec<(String, String, String)> {
        let of_task = |entry: &Arc<OutboxEntry>| *id == entry.event.data.task_id.to_string();
        let events = self.events().await.into_iter().filter(of_task).map(|entry| {
            let data = &entry.event.data;
            (entry.event.event_type.as_str().to_owned(), data.title.clone(), data.status.clone())
        });
        events.collect()
    }

    /// Sends the bytes as they are and returns all that comes back.
    pub async fn raw(&self, request: &[u8]) -> String {
        let exchange = async {
            let mut stream = TcpStream::connect(&self.address).await.unwrap();
            // The server may answer before it has read all.
            let _ = stream.write_all(request).await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            String::from_utf8(answer).unwrap()
        };
        timeout(SOON, exchange).await.expect("no answer")
    }
}

/// A request to be sent.
pub struct Call {
    method: Method,
    path: String,
    request: RequestBuilder,
}

impl Call {
    pub fn header(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        Self { request: self.request.header(name, value.as_ref()), ..self }
    }

    pub fn body(self, body: impl Into<reqwest::Body>) -> Self {
        Self { request: self.request.body(body), ..self }
    }

    /// Sends it with a JSON body.
    pub async fn json(self, body: &Value) -> Answer {
        self.body(body.to_string()).send().await
    }

    /// Sends it. The answer is one that the description allows.
    pub async fn send(self) -> Answer {
        let response = timeout(SOON, self.request.send()).await.expect("no answer").unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await.unwrap().to_vec();
        let answer = Answer { status, headers, body };
        description::check(&self.method, &self.path, &answer);
        answer
    }
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}: {self:?}")).to_str().unwrap()
    }

    /// Asserts the status and the fields that a problem names.
    #[track_caller]
    pub fn refused(&self, status: u16, fields: &[&str]) {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        let problem = self.json();
        let errors = problem["errors"].as_array().cloned().unwrap_or_default();
        let named: Vec<&str> = errors.iter().map(|error| error["field"].as_str().unwrap()).collect();
        assert_eq!(named, fields, "{problem}");
    }

    /// What has to be the same when a request is repeated under its idempotency key.
    pub fn without_request(mut self) -> (u16, Vec<(String, String)>, String) {
        self.headers.remove("date");
        self.headers.remove("x-correlation-id");
        self.headers.remove("idempotent-replayed");
        let header = |name: &str| (name.to_owned(), self.header(name).to_owned());
        let mut headers: Vec<_> = self.headers.keys().map(|name| header(name.as_str())).collect();
        headers.sort();
        (self.status, headers, String::from_utf8(self.body).unwrap())
    }
}

/// Waits until the condition holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    harness::until(what, SOON, async || condition().await).await.unwrap();
}
