//! HTTP as a client: one exchange on a connection of its own, under TLS where the address begins with `https`.
//!
//! Its callers ask seldom, and what was replaced behind a name is found by the next exchange.
//!
//! # Invariants
//!
//! 1. *An answer is bounded*: its head by [`MAX_HEAD`], its body by the caller, who bounds the time as well.
//! 2. *https is https*: what is verified by [`Tls`] or not sent at all. No redirect is followed.
//! 3. *What follows a URL's host is in no message*: a path or a query may be a secret.

mod url;

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, ToSocketAddrs, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::tls::{ClientStream, Tls};

pub use url::{Peer, Url};

/// Longest head of an answer, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Time for an address to be connected to where there is another one: a lost packet is sent again after 1 s.
const ADDRESS_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Connects to one of the addresses of a peer. One that speaks TLS needs `tls`.
pub async fn connect(
    addresses: impl ToSocketAddrs,
    peer: Peer<'_>,
    tls: Option<&Tls>,
) -> Result<ClientStream, String> {
    let tls = match (peer.has_tls, tls) {
        (false, _) => None,
        (true, Some(tls)) => Some(tls),
        (true, None) => return Err("TLS is not configured".to_owned()),
    };
    let stream = dial(addresses).await;
    let stream = stream.map_err(|error| format!("it cannot be connected to: {error}"))?;
    // A request is one write, and waits for nothing.
    let _ = stream.set_nodelay(true);
    match tls {
        None => Ok(ClientStream::Plain(stream)),
        Some(tls) => {
            let stream = tls.connect(stream, peer.host).await.map_err(|error| error.to_string())?;
            Ok(ClientStream::Tls(Box::new(stream)))
        }
    }
}

/// Tries one address after the other. A network that drops what is for one of them, as some do with IPv6, takes no more
/// than its share of the caller's time.
async fn dial(addresses: impl ToSocketAddrs) -> io::Result<TcpStream> {
    let mut addresses = lookup_host(addresses).await?.peekable();
    let mut failure = io::Error::other("its name has no address");
    while let Some(address) = addresses.next() {
        let connecting = TcpStream::connect(address);
        let connected = match addresses.peek() {
            None => connecting.await,
            Some(_) => match timeout(ADDRESS_TIMEOUT, connecting).await {
                Ok(connected) => connected,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            },
        };
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Asks for what is at a URL. An https one needs `tls`.
pub async fn get(
    url: &Url,
    accept: &'static str,
    tls: Option<&Tls>,
    max_body: usize,
) -> Result<Response<Bytes>, String> {
    let stream = connect((url.host(), url.port()), url.peer(), tls).await?;
    let request = Request::get(url.path())
        .header(HOST, url.authority())
        .header(ACCEPT, accept)
        .header(USER_AGENT, "task-events")
        .header(CONNECTION, "close")
        .body(Full::default())
        .map_err(|error| format!("a request cannot be made: {error}"))?;
    exchange(stream, request, Some(max_body)).await
}

/// Sends a request and reads the answer, whose body may have that many bytes; with `None` it is not read.
pub async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
    max_body: Option<usize>,
) -> Result<Response<Bytes>, String> {
    let mut http = http1::Builder::new();
    http.max_buf_size(MAX_HEAD);
    let (mut sender, connection) = http.handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Ends with this exchange, also where it is given up.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
    let body = match max_body {
        None => Bytes::new(),
        Some(limit) => {
            let read = Limited::new(body, limit).collect().await;
            let unread =
                |error| format!("the answer cannot be read, or has more than {limit} bytes: {error}");
            read.map_err(unread)?.to_bytes()
        }
    };
    Ok(Response::from_parts(head, body))
}

/// One text for each cause, so that it is logged once while it lasts.
fn broken(error: hyper::Error) -> String {
    let why =
        if error.is_parse() { "it does not speak HTTP" } else { "the connection broke before the answer" };
    why.to_owned()
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    #[tokio::test]
    async fn an_address_that_answers_nothing_leaves_time_for_the_next_one() {
        // Its queue is full, so that the system drops whatever asks for a connection.
        let silent = TcpSocket::new_v4().unwrap();
        silent.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let silent = silent.listen(0).unwrap();
        let silent = silent.local_addr().map(|address| (silent, address)).unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = timeout(Duration::from_secs(1), TcpStream::connect(silent.1)).await {
            queued.push(stream.unwrap());
            assert!(queued.len() < 100, "the queue has an end");
        }
        let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = good.local_addr().unwrap();
        let dialled = timeout(Duration::from_secs(60), dial([silent.1, address].as_slice())).await;
        assert_eq!(dialled.expect("in time").unwrap().peer_addr().unwrap(), address);
    }
}
