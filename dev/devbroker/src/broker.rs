//! A broker: its start, its stop, and what tests ask of it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::clock::now_ms;
use crate::error::Error;
use crate::log::compaction::{self, Trigger};
use crate::log::writer;
use crate::options::Config;
use crate::shared::Shared;
use crate::{data_folder, maintenance, server};

/// Label for humans: the first log line and the help text carry it.
pub const WARNING: &str = "devbroker is for demos and tests, NEVER for production";

/// A running broker. Dropping it stops it without waiting; [`Broker::shutdown`] waits.
pub struct Broker {
    addr: SocketAddr,
    pub(crate) shared: Arc<Shared>,
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
        log::warn!("{WARNING}");
        let dir = config.dir.clone();
        let in_dir = |source| Error::Dir { dir: dir.clone(), source };
        let opened = {
            let dir = config.dir.clone();
            let faults = config.faults;
            tokio::task::spawn_blocking(move || data_folder::open(&dir, faults)).await
        };
        let state = opened.map_err(io::Error::other).map_err(in_dir)??;
        let in_use = |source| Error::Bind { addr: config.addr, source };
        let listener = TcpListener::bind(config.addr).await.map_err(in_use)?;
        let addr = listener.local_addr().map_err(in_use)?;
        let (writer, thread) = writer::spawn().map_err(in_dir)?;
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
            lock: state.lock,
        });
        let server = server::serve(listener, shared.clone(), stopping.clone(), config.stop_grace);
        let cleaning = maintenance::keep_clean(shared.clone(), config.maintenance_interval, stopping.clone());
        let groups = maintenance::keep_groups(shared.clone(), stopping);
        log::info!("devbroker listens on {addr}, data in {}", config.dir.display());
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
        // Not by closing the file alone: a child that is just being started may hold it open for a moment.
        if let Err(error) = self.shared.lock.unlock() {
            log::warn!("the lock of the data folder is not released: {error}");
        }
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

fn advertised(addr: SocketAddr) -> (String, u16) {
    let host = match addr.ip() {
        ip if ip.is_unspecified() => "localhost".to_owned(),
        ip => ip.to_string(),
    };
    (host, addr.port())
}
