//! A port that drops connection attempts, and HTTP.

use crate::{Error, Result, free_port};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

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
        let (mut waiting, mut dropped) = (Vec::new(), 0);
        // Twice in a row: one attempt may have lost its time to a busy machine.
        while dropped < 2 {
            match TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
                Ok(stream) => {
                    waiting.push(stream);
                    dropped = 0;
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => dropped += 1,
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

/// An HTTP client that gives up after 30 s and asks no proxy.
pub fn http() -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build()?)
}
