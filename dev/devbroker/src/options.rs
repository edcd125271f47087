//! How a broker is run.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How to run a broker.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen. Port 0 takes a free one; see [`Broker::addr`](crate::Broker::addr).
    pub addr: SocketAddr,
    /// The data folder; made if missing. One process at a time can hold it.
    pub dir: PathBuf,
    /// Whether a client's Metadata request may create a missing topic (with one partition).
    /// False unless set.
    pub auto_create_topics: bool,
    /// Host and port that clients connect to. Unless set, the address that was bound,
    /// with `localhost` for an unspecified one such as `0.0.0.0`.
    pub advertised: Option<(String, u16)>,
    /// Largest request in bytes; a larger one closes the connection. 100 MiB unless set, as in
    /// Kafka.
    pub max_frame_bytes: usize,
    /// How often retention and compaction look for work. 5 s unless set.
    pub maintenance_interval: Duration,
    /// What a stopping broker grants its connections to finish. 2 s unless set.
    pub stop_grace: Duration,
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
            stop_grace: Duration::from_secs(2),
            faults: false,
        }
    }
}
