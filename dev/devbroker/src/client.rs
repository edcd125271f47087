//! Who asks: the peer of a connection.

use std::net::SocketAddr;

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub id: String,
    pub host: String,
}

impl Client {
    pub fn new(peer: SocketAddr) -> Self {
        Self { id: String::new(), host: format!("/{}", peer.ip()) }
    }
}
