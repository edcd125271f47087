//! Connections and framing. Requests of one connection are taken in order and answered in order,
//! as in Kafka; a produce only waits for the disk after the next request has been taken, so that
//! pipelined produces share a sync.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::api::{self, Reply};
use crate::client::Client;
use crate::shared::Shared;
use crate::stop::stopped;

/// Connections at a time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 2000;
/// Answers of one connection that may wait to be written.
const MAX_PIPELINED: usize = 64;
const READ_AHEAD_BYTES: usize = 64 * 1024;
/// After an accept error (such as too many open files) wait a little instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until `stop` says so, then lets them finish, for no longer than `grace`.
pub(crate) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
    grace: Duration,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await;
            (listener.accept().await, slot)
        };
        let (accepted, slot) = tokio::select! {
            pair = accepted => pair,
            () = stopped(&mut stop) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = connection(stream, peer, shared.clone(), stop.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            Err(error) => {
                log::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let finished = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(grace, finished).await.is_err() {
        log::warn!("cut off connections that did not finish within {grace:?}");
        connections.shutdown().await;
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        log::debug!("{peer}: cannot set TCP_NODELAY: {error}");
    }
    let (reader, writer) = stream.into_split();
    let (replies, waiting) = mpsc::channel(MAX_PIPELINED);
    let reading = async {
        tokio::select! {
            read = read_requests(reader, peer, &shared, replies) => read,
            () = stopped(&mut stop) => Ok(()),
        }
    };
    let (read, written) = tokio::join!(reading, write_replies(writer, waiting));
    // A client that goes away is no event; anything else is worth a line.
    for error in [read.err(), written.err()].into_iter().flatten() {
        if error.downcast_ref::<std::io::Error>().is_some() {
            log::debug!("{peer}: {error}");
        } else {
            log::warn!("closed the connection from {peer}: {error:#}");
        }
    }
}

async fn read_requests(
    mut reader: OwnedReadHalf,
    peer: SocketAddr,
    shared: &Arc<Shared>,
    replies: mpsc::Sender<Reply>,
) -> Result<()> {
    let mut buffer = BytesMut::new();
    while let Some(frame) = read_frame(&mut reader, &mut buffer, shared.max_frame_bytes).await? {
        let (reply, throttle) = tokio::select! {
            reply = api::answer(shared, Client::new(peer), frame) => reply?,
            // The writer ended: nobody is there to be answered, also not a long poll.
            () = replies.closed() => return Ok(()),
        };
        if replies.send(reply).await.is_err() {
            return Ok(());
        }
        // KIP-219: the answer goes out, but the connection is not read for that time.
        if !throttle.is_zero() {
            tokio::time::sleep(throttle).await;
        }
    }
    Ok(())
}

/// The next frame without its length; `None` at the end of the connection.
async fn read_frame(
    reader: &mut OwnedReadHalf,
    buffer: &mut BytesMut,
    limit: usize,
) -> Result<Option<Bytes>> {
    loop {
        if let Some(length) = buffer.get(..4).map(|mut bytes| bytes.get_i32()) {
            let length = match usize::try_from(length) {
                Ok(length) if length <= limit => length,
                _ => bail!("a frame of {length} bytes is over the limit of {limit} (or not Kafka)"),
            };
            if buffer.len() >= 4 + length {
                buffer.advance(4);
                return Ok(Some(buffer.split_to(length).freeze()));
            }
        }
        // Grows with what has come, never by what a length field claims.
        buffer.reserve(READ_AHEAD_BYTES);
        if reader.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

async fn write_replies(mut writer: OwnedWriteHalf, mut waiting: mpsc::Receiver<Reply>) -> Result<()> {
    while let Some(reply) = waiting.recv().await {
        if let Some(frame) = reply.await? {
            writer.write_all(&frame).await?;
        }
    }
    Ok(())
}
