//! The process: opens the store, starts the relay and the HTTP server, and stops them in order.

use std::cell::Cell;
use std::future::pending;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use task_events::backoff::Backoff;
use task_events::database::{DatabaseError, DatabaseUrl, Session};
use task_events::error_code::{Code, Coded};
use task_events::registry::{RegistryError, subject_of};
use task_events::services;
use task_events::shutdown::{self, Shutdown};
use task_events::state_dir::{StateDir, StateDirError};
use task_events::tls::TlsServer;
use tokio::time::timeout;

use crate::access::AccessError;
use crate::args::{Args, EventFormatName};
use crate::event_format::EventFormat;
use crate::http::{self, Edge};
use crate::live::{Live, Sources};
use crate::registration::Registration;
use crate::relay::Relay;
use crate::store::import::check_arrival;
use crate::store::{Moved, Store, StoreError};

/// The folder below STATE_DIR, and how this process calls itself to Kafka.
const NAME: &str = services::API;
/// Time for requests under way when the process stops.
const REQUESTS_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for a database to be used before requests are taken, and answered 503: as a rule it is there.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for files that are being read when the process stops.
const FILES_TIMEOUT: Duration = Duration::from_secs(1);
/// From when a stop is asked for until the process has ended, whatever its disk does: whoever asked (systemd, Kubernetes,
/// compose) kills it after 20 s, and it is to log why.
const STOP_LIMIT: Duration = Duration::from_secs(18);
/// Time for the store's last writes, as much of it as the limit leaves: a change is given as long. What is cut off is read
/// back from the log at the next start.
const MAX_WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// The least of it. It fits into the limit where requests and Kafka took all their time.
const MIN_WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often it is looked whether they are done.
const WRITE_CHECK: Duration = Duration::from_millis(2);

/// Time to commit what is queued in a database, and to give back the relay's turn.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What to do about a topic that does not exist.
const MISSING_TOPIC_HINT: &str = "create it with `taskctl topics create`";

/// Open files that are not clients' connections: the store, Kafka, and connections that are being refused.
const RESERVED_FILES: usize = 200;

/// Why the process could not start or go on, in one line.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The state folder cannot be used.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; stop what uses it, or set HOST and PORT")]
    Listen {
        /// HOST:PORT
        address: String,
        /// What the system reported.
        source: std::io::Error,
    },
    /// Nobody could call, or everybody.
    #[error("{0}; nobody could call the API")]
    Access(#[from] AccessError),
    /// HTTPS cannot be spoken.
    #[error("{0}; no client could connect")]
    Certificate(String),
    /// The registry does not take our schema.
    #[error("{0}")]
    Registry(#[from] RegistryError),
    /// The HTTP server ended without being asked to.
    #[error("the HTTP server failed: {0}; what was answered is stored, start it again")]
    Server(std::io::Error),
    /// The store's last writes do not end.
    #[error(
        "{}: the disk has not answered for {} s, and the process ends without its last writes; what was answered is stored, and what waits is delivered after the next start: look at the disk (a mount whose server is unreachable, a frozen file system), then start it again",
        folder.display(),
        after.as_secs()
    )]
    DiskHangs {
        /// That of the store.
        folder: PathBuf,
        /// How long they were waited for.
        after: Duration,
    },
    /// The system refused something that every start needs.
    #[error("cannot start: {0}")]
    Io(#[from] std::io::Error),
}

impl Coded for ServiceError {
    fn code(&self) -> Code {
        match self {
            Self::StateDir(_) => Code::StateFolder,
            Self::Store(StoreError::Moved { .. }) => Code::StoreMoved,
            Self::Store(_) => Code::Store,
            Self::Database(error) => error.code(),
            Self::Listen { .. } => Code::Listen,
            Self::Access(_) | Self::Certificate(_) => Code::AccessFile,
            Self::Registry(error) => error.code(),
            Self::Server(_) => Code::Http,
            Self::DiskHangs { .. } => Code::StoreUnwritable,
            Self::Io(_) => Code::System,
        }
    }
}

/// Runs the Task API until a signal stops it.
pub fn run(args: Args) -> Result<(), ServiceError> {
    let edge = args.edge.edge()?;
    let tls = args.https.tls().map_err(ServiceError::Certificate)?;
    if let Some(url) = args.database.url().cloned() {
        let state_dir = StateDir::open(&args.state.state_dir, NAME)?;
        let moved = find_moved(state_dir.path())?;
        let runtime = runtime()?;
        let served = runtime.block_on(serve_database(args, edge, tls, &url, state_dir.path(), moved));
        // Reading a file on a mount that hangs does not end.
        runtime.shutdown_timeout(FILES_TIMEOUT);
        return served;
    }
    let listener = listen(&args, &edge)?;
    let state_dir = StateDir::open(&args.state.state_dir, NAME)?;
    let runtime = runtime()?;
    let (store, writer) = Store::open(state_dir.path())?;
    let stop_began = Cell::new(None);
    let served = runtime.block_on(async {
        let signals = shutdown::on_signals()?;
        let noted = async {
            signals.requested().await;
            stop_began.set(Some(Instant::now()));
            pending().await
        };
        tokio::select! {
            biased;
            never = noted => never,
            served = serve(args, edge, (listener, tls), store, state_dir.path(), signals.clone()) => served,
        }
    });
    // Reading from a disk that hangs does not end.
    runtime.shutdown_timeout(FILES_TIMEOUT);
    // All clones of the store are gone: the writer ends after its last transaction.
    let left = stop_began.get().map_or(STOP_LIMIT, |began| STOP_LIMIT.saturating_sub(began.elapsed()));
    served.and(close(writer, left.clamp(MIN_WRITE_TIMEOUT, MAX_WRITE_TIMEOUT), state_dir.path()))
}

/// Waits for the store's last writes. On a disk that hangs they do not end.
fn close(writer: JoinHandle<()>, limit: Duration, folder: &Path) -> Result<(), ServiceError> {
    let until = Instant::now() + limit;
    while !writer.is_finished() {
        if Instant::now() >= until {
            return Err(ServiceError::DiskHangs { folder: folder.to_owned(), after: limit });
        }
        #[allow(clippy::disallowed_methods, reason = "no async thread is left")]
        thread::sleep(WRITE_CHECK);
    }
    if writer.join().is_err() {
        log::error!("the store's writer panicked; what was answered is on disk {}", Code::Panic);
    }
    Ok(())
}

/// The relay and what it talks to Kafka with, on the main thread: one thread needs none of what a pool does to share
/// work, which took 6 % of the processor time of an event at 200 requests/s. Requests have threads of their own.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn listen(args: &Args, edge: &Edge) -> Result<TcpListener, ServiceError> {
    let address = format!("{}:{}", args.host, args.port);
    let listener = TcpListener::bind((args.host.as_str(), args.port))
        .map_err(|source| ServiceError::Listen { address, source })?;
    if edge.access.is_none() && !listener.local_addr()?.ip().to_canonical().is_loopback() {
        log::warn!(
            "callers have no identity: whoever reaches {} may read and change every task; set API_TOKENS_FILE, or HOST=127.0.0.1",
            listener.local_addr()?
        );
    }
    Ok(listener)
}

/// With a database, the tasks of an embedded store would be left out, unless they were moved: into that database.
fn find_moved(state_dir: &Path) -> Result<Option<Moved>, ServiceError> {
    if !Store::is_in(state_dir) {
        return Ok(None);
    }
    match Store::moved(state_dir)? {
        Some(moved) if moved.is_gone() => Ok(Some(moved)),
        Some(moved) => Err(StoreError::Moved { folder: state_dir.to_owned(), moved }.into()),
        None => Err(DatabaseError::address(format!(
            "{} holds the tasks of the embedded store, and events that may still wait: move them with `taskctl db import`, or move the files of the folder away",
            state_dir.display()
        ))
        .into()),
    }
}

/// With the tasks in a database.
async fn serve_database(
    args: Args,
    edge: Edge,
    tls: Option<TlsServer>,
    url: &DatabaseUrl,
    state_dir: &Path,
    moved: Option<Moved>,
) -> Result<(), ServiceError> {
    let signals = shutdown::on_signals()?;
    if url.is_plain_text_to_others() {
        log::warn!(
            "the login and all tasks go to the {} in plain text; add sslmode=verify-full to DATABASE_URL, and sslrootcert",
            url.place()
        );
    }
    let (store, closing) = Store::start(url).await?;
    let served = serve_once_open(args, edge, tls, (url, moved), state_dir, store, signals).await;
    closing.wait(CLOSE_TIMEOUT).await;
    served
}

/// Takes requests once the database is used, or answers them 503 after a while.
async fn serve_once_open(
    args: Args,
    edge: Edge,
    tls: Option<TlsServer>,
    (url, moved): (&DatabaseUrl, Option<Moved>),
    state_dir: &Path,
    store: Store,
    signals: Shutdown,
) -> Result<(), ServiceError> {
    let mut opening =
        pin!(open(&store, url, args.database_migrate, moved.as_ref().map(|moved| (state_dir, moved))));
    let mut is_open = match signals.or(timeout(OPEN_TIMEOUT, &mut opening)).await {
        None => return Ok(()),
        Some(Ok(opened)) => opened.map(|()| true)?,
        Some(Err(_)) => false,
    };
    let listener = listen(&args, &edge)?;
    if !is_open {
        log::warn!("requests are answered 503 until the {} can be used", url.place());
    }
    let (stop, stopped) = shutdown::channel();
    let mut serving = pin!(serve(args, edge, (listener, tls), store.clone(), state_dir, stopped.clone()));
    let mut failure = Ok(());
    loop {
        tokio::select! {
            biased;
            () = signals.requested(), if !stopped.is_requested() => stop.stop(),
            opened = &mut opening, if !is_open => {
                is_open = true;
                if let Err(error) = opened {
                    // Requests are ended in order, as by a signal.
                    failure = Err(error.into());
                    stop.stop();
                }
            }
            served = &mut serving => return failure.and(served),
        }
    }
}

/// Returns once the database is used, or cannot be as it is.
async fn open(
    store: &Store,
    url: &DatabaseUrl,
    migrates: bool,
    moved: Option<(&Path, &Moved)>,
) -> Result<(), DatabaseError> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        let check = async |session: &Session| match moved {
            // Another database would get tasks, and these would be left out.
            Some((state_dir, moved)) => check_arrival(session, &url.place(), state_dir, moved).await,
            None => Ok(()),
        };
        match store.open_database(migrates, check).await {
            Ok(()) => {
                log::info!("tasks are in the {}", url.place());
                return Ok(());
            }
            Err(error) if error.may_pass() => {
                log::warn!("cannot use the {} yet: {error} {}", url.place(), error.code());
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

async fn serve(
    args: Args,
    edge: Edge,
    (listener, tls): (TcpListener, Option<TlsServer>),
    store: Store,
    state_dir: &Path,
    signals: Shutdown,
) -> Result<(), ServiceError> {
    match signals.or(event_format(&args, state_dir)).await {
        Some(format) => store.encode_events_as(format?),
        None => return Ok(()),
    }
    let waiting = store.outbox().borrow().waiting;
    if waiting > 0 {
        log::info!("{waiting} events wait in the outbox");
    }
    let relay = Relay::new(store.clone(), args.kafka.kafka(NAME), &args.topics.task_events_topic);
    let relay_state = relay.state();
    let (drain, draining) = shutdown::channel();
    let relay = tokio::spawn(relay.run(draining));

    let local = listener.local_addr()?;
    let connections = http::MAX_CONNECTIONS.min(files().saturating_sub(RESERVED_FILES));
    let kafka_args = args.kafka.clone();
    let live = Live::new(Sources {
        kafka: Box::new(move || kafka_args.kafka(NAME).with_missing_topic_hint(MISSING_TOPIC_HINT)),
        topics: args.topics.clone(),
        events: args.registry.reader(Some(state_dir)),
        store: store.clone(),
        relay: relay_state.clone(),
    });
    let allowed_hosts = args.allowed_hosts;
    let state =
        http::State::new(store, relay_state, connections.max(1), local.ip(), allowed_hosts, live.clone())
            .behind(edge);
    let scheme = if tls.is_some() { "https" } else { "http" };
    let server = http::server(listener, tls, state, REQUESTS_TIMEOUT)?;
    log::info!("listening on {scheme}://{local}");
    let handle = server.handle();
    let mut serving = tokio::spawn(server);

    // The server ends without a stop only where it failed.
    let ended = signals.or(&mut serving).await;
    // Streams have no end of their own.
    live.close();
    handle.stop(true).await;
    let ended = match ended {
        Some(ended) => ended,
        None => serving.await,
    };
    let served = match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(ServiceError::Server(error)),
        Err(error) => Err(ServiceError::Server(std::io::Error::other(error))),
    };
    log::info!("no more requests are taken");
    drain.stop();
    if let Err(error) = relay.await {
        log::error!(
            "the relay failed: {error}; what waits is delivered after the next start {}",
            Code::Relay
        );
    }
    served
}

/// How events are encoded from now on. As Avro, once the id of the schema is known.
async fn event_format(args: &Args, state_dir: &Path) -> Result<EventFormat, RegistryError> {
    match (args.event_format, args.registry.registry()) {
        (EventFormatName::Avro, Some(registry)) => {
            let registration = Registration {
                registry,
                cache: args.registry.cache(state_dir),
                subject: subject_of(&args.topics.task_events_topic),
                registers: args.schema_auto_register,
            };
            Ok(EventFormat::Avro { schema_id: registration.schema_id().await? })
        }
        // Avro without a registry is refused with the arguments.
        _ => Ok(EventFormat::Json),
    }
}

/// Files that the process may have open, after it has asked for all it can get.
fn files() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    current.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX)
}
