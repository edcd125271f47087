//! Why a broker fails.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

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
