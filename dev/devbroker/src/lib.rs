//! **A Kafka broker for demos and tests. Never for production.**
//!
//! One process, one node, no replication, no security. It speaks enough of
//! Kafka's protocol for rskafka, librdkafka and Kafka's own console tools, keeps its records in
//! plain files, and acknowledges a produce only after `fdatasync`. See `README.md` beside this
//! crate for the APIs, the file format and what differs from Kafka.
//!
//! ```no_run
//! # async fn demo() -> Result<(), devbroker::Error> {
//! let addr = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
//! let broker = devbroker::Broker::start(devbroker::Config::new(addr, "data")).await?;
//! println!("bootstrap server: {}", broker.addr());
//! broker.shutdown().await;
//! # Ok(())
//! # }
//! ```

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod api;
mod client;
mod config;
mod durable;
mod faults;
mod groups;
mod journal;
mod log;
mod producer_ids;
#[cfg(any(test, fuzzing))]
pub mod properties;
mod server;
mod topics;
mod transactions;
mod wire;

use std::fs::{self, File, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::log::compaction::{self, Trigger};
use crate::log::partition::Partition;
use crate::log::retention;

/// A power cut may take offsets that were committed within this time.
const OFFSETS_SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// How exactly session, rebalance and transaction time-outs are kept.
const GROUP_SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// Label for humans: the first log line and the help text carry it.
pub const WARNING: &str = "devbroker is for demos and tests, NEVER for production";

/// How to run a broker.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen. Port 0 takes a free one; see [`Broker::addr`].
    pub addr: SocketAddr,
    /// The data folder; made if missing. One process at a time can hold it.
    pub dir: PathBuf,
    /// Whether a client's Metadata request may create a missing topic (with one partition).
    /// False unless set.
    pub auto_create_topics: bool,
    /// Host and port that clients are told to connect to. Unless set, the address that was bound,
    /// with `localhost` for an unspecified one such as `0.0.0.0`.
    pub advertised: Option<(String, u16)>,
    /// Largest request in bytes; a larger one closes the connection. 100 MiB unless set, as in
    /// Kafka.
    pub max_frame_bytes: usize,
    /// How often retention and compaction look for work. 5 s unless set.
    pub maintenance_interval: Duration,
    /// Whether topic configs under `devbroker.` switch faults on: see the README. False unless set.
    pub faults: bool,
}

impl Config {
    /// The defaults for an address and a data folder.
    pub fn new(addr: SocketAddr, dir: impl Into<PathBuf>) -> Self {
        Self {
            addr,
            dir: dir.into(),
            auto_create_topics: false,
            advertised: None,
            max_frame_bytes: 100 << 20,
            maintenance_interval: Duration::from_secs(5),
            faults: false,
        }
    }
}

/// Why a broker does not start, or an operation on it fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {source}; is another broker running? choose another address")]
    Bind {
        /// The address that was asked for.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the data folder.
    #[error("data folder {} is in use by another process; stop it or choose another folder", dir.display())]
    Locked {
        /// The folder.
        dir: PathBuf,
    },
    /// The data folder cannot be used.
    #[error("cannot use data folder {}: {source}", dir.display())]
    Dir {
        /// The folder.
        dir: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The topic does not exist.
    #[error("topic '{0}' does not exist; create it first")]
    UnknownTopic(String),
    /// A step on a topic's files failed.
    #[error("cannot compact topic '{topic}': {source}")]
    Compact {
        /// The topic.
        topic: String,
        /// What went wrong.
        source: io::Error,
    },
}

/// What every connection shares.
pub(crate) struct Shared {
    host: String,
    port: u16,
    cluster_id: String,
    auto_create_topics: bool,
    max_frame_bytes: usize,
    topics: topics::Topics,
    groups: groups::Groups,
    producer_ids: producer_ids::ProducerIds,
    transactions: transactions::Transactions,
    writer: log::writer::WriterHandle,
    /// Held open: its lock keeps other processes out of the data folder.
    _lock: File,
}

/// A running broker. Dropping it stops it without waiting; [`Broker::shutdown`] waits.
pub struct Broker {
    addr: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    server: tokio::task::JoinHandle<()>,
    background: [tokio::task::JoinHandle<()>; 2],
    writer: JoinHandle<()>,
}

impl Broker {
    /// Opens the data folder, recovers what is in it, and listens.
    ///
    /// # Errors
    /// [`Error::Dir`], [`Error::Locked`] or [`Error::Bind`].
    pub async fn start(config: Config) -> Result<Broker, Error> {
        ::log::warn!("{WARNING}");
        let dir = config.dir.clone();
        let in_dir = |source| Error::Dir { dir: dir.clone(), source };
        let opened = {
            let dir = config.dir.clone();
            let faults = config.faults;
            tokio::task::spawn_blocking(move || open(&dir, faults)).await
        };
        let state = opened.map_err(io::Error::other).map_err(in_dir)??;
        let in_use = |source| Error::Bind { addr: config.addr, source };
        let listener = TcpListener::bind(config.addr).await.map_err(in_use)?;
        let addr = listener.local_addr().map_err(in_use)?;
        let (writer, thread) = log::writer::spawn().map_err(in_dir)?;
        let (stop, stopping) = watch::channel(false);
        let (host, port) = config.advertised.unwrap_or_else(|| advertised(addr));
        let shared = Arc::new(Shared {
            host,
            port,
            cluster_id: state.cluster_id,
            auto_create_topics: config.auto_create_topics,
            max_frame_bytes: config.max_frame_bytes,
            topics: state.topics,
            groups: state.groups,
            producer_ids: state.producer_ids,
            transactions: state.transactions,
            writer,
            _lock: state.lock,
        });
        let server = server::serve(listener, shared.clone(), stopping.clone());
        let cleaning = keep_clean(shared.clone(), config.maintenance_interval, stopping.clone());
        let groups = keep_groups(shared.clone(), stopping);
        ::log::info!("devbroker listens on {addr}, data in {}", config.dir.display());
        Ok(Broker {
            addr,
            shared,
            stop,
            server: tokio::spawn(server),
            background: [tokio::spawn(cleaning), tokio::spawn(groups)],
            writer: thread,
        })
    }

    /// The address it listens on, with the real port.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops taking requests, finishes those under way (2 s at most) and closes the files. The
    /// data folder and the port are free afterwards.
    pub async fn shutdown(self) {
        // Ignored: nobody listening means that all has ended already.
        let _ = self.stop.send(true);
        let _ = self.server.await;
        for task in self.background {
            let _ = task.await;
        }
        self.shared.writer.stop().await;
        let writer = self.writer;
        let _ = tokio::task::spawn_blocking(move || writer.join()).await;
        self.shared.sync_offsets().await;
    }

    /// Closes the active segments of a topic and compacts all of it at once, whatever its configs
    /// say about when. For tests: compaction otherwise runs in the background.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`], or [`Error::Compact`] when a file step fails.
    pub async fn compact_now(&self, topic: &str) -> Result<(), Error> {
        let failed = |source| Error::Compact { topic: topic.to_owned(), source };
        let known = self.shared.topics.get(topic);
        let known = known.ok_or_else(|| Error::UnknownTopic(topic.to_owned()))?;
        for partition in known.partitions() {
            self.shared.writer.roll(partition.clone()).await.map_err(failed)?;
            let work = move || {
                while compaction::compact(&partition, Trigger::Forced, now_ms())? {}
                Ok(())
            };
            let compacted = tokio::task::spawn_blocking(work).await;
            compacted.map_err(io::Error::other).and_then(|done| done).map_err(failed)?;
        }
        Ok(())
    }
}

struct State {
    cluster_id: String,
    topics: topics::Topics,
    groups: groups::Groups,
    producer_ids: producer_ids::ProducerIds,
    transactions: transactions::Transactions,
    lock: File,
}

fn open(dir: &Path, faults: bool) -> Result<State, Error> {
    let in_dir = |source| Error::Dir { dir: dir.to_owned(), source };
    fs::create_dir_all(dir).map_err(in_dir)?;
    let lock = File::create(dir.join("lock")).map_err(in_dir)?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => Error::Locked { dir: dir.to_owned() },
        TryLockError::Error(source) => in_dir(source),
    })?;
    open_locked(dir, lock, faults).map_err(in_dir)
}

fn open_locked(dir: &Path, lock: File, faults: bool) -> io::Result<State> {
    let id_file = dir.join("cluster-id");
    let cluster_id = match fs::read_to_string(&id_file) {
        Ok(id) => id,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = uuid::Uuid::new_v4().simple().to_string();
            durable::replace(&id_file, id.as_bytes())?;
            id
        }
        Err(error) => return Err(error),
    };
    let start = next_start(&dir.join("starts"))?;
    Ok(State {
        cluster_id,
        topics: topics::Topics::open(&dir.join("topics"), start, faults)?,
        groups: groups::Groups::open(&dir.join("committed-offsets"))?,
        producer_ids: producer_ids::ProducerIds::open(dir.join("next-producer-id"))?,
        transactions: transactions::Transactions::open(&dir.join("transactions"))?,
        lock,
    })
}

/// Counts this start of the broker: 1 for the first one.
fn next_start(file: &Path) -> io::Result<i32> {
    let before = match fs::read_to_string(file) {
        // One that cannot be read counts from 1 again; the epochs in the logs rise all the same.
        Ok(text) => text.trim().parse().unwrap_or(0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let start: i32 = i32::saturating_add(before, 1);
    durable::replace(file, start.to_string().as_bytes())?;
    Ok(start)
}

fn advertised(addr: SocketAddr) -> (String, u16) {
    let host = match addr.ip() {
        ip if ip.is_unspecified() => "localhost".to_owned(),
        ip => ip.to_string(),
    };
    (host, addr.port())
}

/// Retention and compaction, until `stop`.
async fn keep_clean(shared: Arc<Shared>, interval: Duration, mut stop: watch::Receiver<bool>) {
    let mut due = tokio::time::interval(interval);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = due.tick() => shared.clean().await,
            () = stopped(&mut stop) => return,
        }
    }
}

/// Syncs committed offsets, drops group members that went silent and ends transactions that
/// nobody else does, until `stop`.
async fn keep_groups(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let mut sync = tokio::time::interval(OFFSETS_SYNC_INTERVAL);
    let mut sweep = tokio::time::interval(GROUP_SWEEP_INTERVAL);
    loop {
        tokio::select! {
            _ = sync.tick() => shared.sync_offsets().await,
            _ = sweep.tick() => {
                shared.groups.sweep(Instant::now());
                api::transactions::sweep(&shared).await;
            }
            () = stopped(&mut stop) => return,
        }
    }
}

/// Ready once the broker stops; a lost sender is a dropped [`Broker`].
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stopping| *stopping).await;
}

impl Shared {
    async fn sync_offsets(self: &Arc<Self>) {
        let shared = self.clone();
        let synced = tokio::task::spawn_blocking(move || shared.groups.sync_offsets()).await;
        if let Ok(Err(error)) = synced {
            ::log::error!("cannot sync the committed offsets: {error}");
        }
    }

    /// One round of retention and compaction over all partitions.
    async fn clean(self: &Arc<Self>) {
        for topic in self.topics.all() {
            for partition in topic.partitions() {
                let name = format!("{}-{}", partition.topic, partition.index);
                if let Err(error) = self.clean_partition(partition.clone()).await
                    && !partition.is_deleted()
                {
                    ::log::error!("cannot clean {name}: {error}");
                }
            }
        }
    }

    async fn clean_partition(&self, partition: Arc<Partition>) -> io::Result<()> {
        if retention::should_roll(&partition, now_ms()) {
            self.writer.roll(partition.clone()).await?;
        }
        let work = move || {
            retention::enforce(&partition, now_ms())?;
            compaction::compact(&partition, Trigger::Due, now_ms()).map(drop)
        };
        tokio::task::spawn_blocking(work).await?
    }
}

/// Milliseconds since 1970, as Kafka's timestamps.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
