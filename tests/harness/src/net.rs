//! Ports and HTTP.

use crate::{Error, Result};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// Ports given out are in this range: below the ones that the system takes for outgoing connections, so
/// that none of those holds a broker's port while the broker is down (a client that dials its own port
/// on loopback even connects to itself).
const FIRST: u16 = 12_000;
const COUNT: u16 = 18_000;

/// A port on 127.0.0.1 that nobody listens on, each time another one.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes that run at the same time start at different places.
    let start = (std::process::id() % 360) * 50;
    let start = u16::try_from(start).unwrap_or(0);
    for _ in 0..COUNT {
        let next = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + (start + next) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(Error::failed(format!("no free port from {FIRST} to {}", FIRST + COUNT)))
}

/// A port whose machine drops connection attempts without an answer, as a firewall does.
pub struct DroppingPort {
    address: SocketAddr,
    _listener: tokio::net::TcpListener,
    /// They fill the queue of connections that nobody accepts; the system drops what comes after.
    _waiting: Vec<TcpStream>,
}

impl DroppingPort {
    /// Opens one on 127.0.0.1. To be called in an async runtime.
    pub fn open() -> Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let failed = |error: io::Error| Error::failed(format!("{address}: {error}"));
        let socket = tokio::net::TcpSocket::new_v4().map_err(failed)?;
        socket.bind(address).map_err(failed)?;
        let listener = socket.listen(1).map_err(failed)?;
        let mut waiting = Vec::new();
        loop {
            match TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
                Ok(stream) => waiting.push(stream),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => break,
                Err(error) => return Err(failed(error)),
            }
            if waiting.len() == 16 {
                return Err(Error::failed(format!("{address} accepts every connection")));
            }
        }
        Ok(Self { address, _listener: listener, _waiting: waiting })
    }

    /// Its address.
    pub fn address(&self) -> String {
        self.address.to_string()
    }
}

/// An HTTP client that gives up after 10 s and asks no proxy.
pub fn http() -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?)
}
