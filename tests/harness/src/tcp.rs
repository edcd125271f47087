//! A TCP server: a port, and what is done with each connection.

use std::io;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

/// Time after an error of the system, as when it has no more descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// A port of 127.0.0.1 that is held, and does not answer yet.
pub struct Listener {
    port: u16,
    listener: TcpListener,
}

impl Listener {
    /// Takes the port; 0 for a free one.
    pub async fn bind(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        Ok(Self { port: listener.local_addr()?.port(), listener })
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Accepts connections, each served in a task of its own.
    pub(crate) fn serve<F>(self, serve: impl Fn(TcpStream) -> F + Send + 'static) -> Server
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                match self.listener.accept().await {
                    Ok((client, _)) => drop(connections.spawn(serve(client))),
                    Err(_) => sleep(ACCEPT_PAUSE).await,
                }
                while connections.try_join_next().is_some() {}
            }
        });
        Server { port: self.port, accepting: accepting.abort_handle() }
    }
}

/// It ends with the value, and its connections with it.
pub(crate) struct Server {
    port: u16,
    accepting: AbortHandle,
}

impl Server {
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
