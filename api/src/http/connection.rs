//! Connections, bounded in number, in time and in memory: what the HTTP server below leaves open.
//!
//! actix ends a connection whose first head is late. A later head, a client that does not read its answer,
//! and a body that is not waited for any more it would wait for without end; and each connection may fill
//! 128 KiB with a head alone. It would end idle connections too, but by a clock that stops while it is
//! busy: under load they would be cut before their time, and answers with them that are being taken slowly.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_http::error::DispatchError;
use task_events::tls::TlsServer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::bare;
use super::handshake;
use super::socket::{Socket, farewell, last_words};

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
struct Times {
    /// From the beginning of a request to its answer: more than all that is waited for in between.
    answer: Duration,
    /// From an answer to the next request: more than proxies keep a connection that they may use again.
    idle: Duration,
    /// The same while most connections are in use: more than a body, or the disk, is waited for, since a
    /// request that came together with the one before it counts as none.
    short_idle: Duration,
    /// To take an answer, once it has stopped to.
    take: Duration,
}

const TIMES: Times = Times {
    answer: Duration::from_secs(45),
    idle: Duration::from_secs(75),
    short_idle: Duration::from_secs(15),
    take: Duration::from_secs(30),
};
/// Bytes that a connection may always hold: of requests that are not answered, or of answers not taken.
const OWN_SHARE: usize = 16 * 1024;
/// The most that one can hold: actix buffers that much of heads, and a body. What it throws away is counted, too.
const MOST_HELD: usize = 128 * 1024 + super::MAX_BODY;
/// Bytes that all connections hold together. Above this none may exceed its own share.
const HELD: usize = 64 << 20;
/// Connections that are being refused at one time; further ones wait to be accepted.
pub(super) const REFUSALS: usize = 64;

const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/problem+json\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 136\r\n\r\n\
    {\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\
    \"detail\":\"Too many connections are open; try again soon\",\"instance\":\"\"}";
const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\n\
    content-type: application/problem+json\r\nconnection: close\r\ncontent-length: 121\r\n\r\n\
    {\"type\":\"about:blank\",\"title\":\"Request Timeout\",\"status\":408,\
    \"detail\":\"The request did not arrive in time\",\"instance\":\"\"}";

/// All connections of the process.
#[derive(Debug)]
pub(super) struct Connections {
    most: usize,
    times: Times,
    open: AtomicUsize,
    refused: AtomicU64,
    held: AtomicUsize,
}

impl Connections {
    /// At most `most` at one time.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            times: TIMES,
            open: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            held: AtomicUsize::new(0),
        }
    }

    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// How many there are.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// How many were answered that there are too many.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether to begin no more large bodies, so that there is space for those in flight.
    pub(super) fn are_crowded(&self) -> bool {
        self.held.load(Ordering::Relaxed) > HELD / 2
    }

    /// Takes the connection, after the handshake where the listener has TLS; or answers that there are too many.
    pub(super) async fn admit(
        self: Arc<Self>,
        stream: TcpStream,
        tls: Option<&TlsServer>,
    ) -> Result<Connection, DispatchError> {
        if self.open.fetch_add(1, Ordering::Relaxed) < self.most {
            let place = Place(self);
            // An answer does not wait for an acknowledgement. Where it cannot be set, it only waits.
            let _ = stream.set_nodelay(true);
            let socket = match tls {
                None => Socket::Plain(stream),
                Some(tls) => handshake::with_client(tls, stream).await?,
            };
            let due = Deadline::after(place.0.times.answer);
            let own = Vec::new();
            return Ok(Connection { socket, is_idle: false, due, take_by: None, held: 0, own, place });
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.refused.fetch_add(1, Ordering::Relaxed);
        // A client that waits for a handshake would take the answer for one.
        if tls.is_none() {
            handshake::answer(stream, BUSY).await;
        }
        Err(DispatchError::DisconnectTimeout)
    }
}

/// One of the connections that there may be.
struct Place(Arc<Connections>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A client's connection.
pub(super) struct Connection {
    socket: Socket,
    /// Nothing came since the last answer.
    is_idle: bool,
    /// For the next request if it is idle, else for the answer.
    due: Deadline,
    /// While the client does not take what it is sent.
    take_by: Option<Deadline>,
    /// Bytes that came since the last answer, or that wait to be taken.
    held: usize,
    /// What is left to be sent of an answer that was given a body here.
    own: Vec<u8>,
    place: Place,
}

impl Connection {
    fn poll_own(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.own.is_empty() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.own))?;
            self.own.drain(..written);
        }
        Poll::Ready(Ok(()))
    }

    /// Ready, with an error, once the client has not taken what it is sent for too long.
    fn poll_late<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let time = self.place.0.times.take;
        let late = self.take_by.get_or_insert_with(|| Deadline::after(time)).has_passed(cx);
        if late { Poll::Ready(Err(io::ErrorKind::TimedOut.into())) } else { Poll::Pending }
    }

    fn set_idle_time(&mut self) {
        let (times, is_full) = (self.place.0.times, self.place.0.open() > self.place.0.most / 2);
        self.due.set(if is_full { times.short_idle } else { times.idle });
    }

    /// The client has taken an answer at last: its time to be idle begins, and only reading looks at it.
    fn answer_is_taken(&mut self, cx: &Context<'_>) {
        self.set_idle_time();
        cx.waker().wake_by_ref();
    }

    fn hold(&mut self, bytes: usize) -> io::Result<()> {
        let before = std::mem::replace(&mut self.held, bytes);
        if bytes <= before {
            self.place.0.held.fetch_sub(before - bytes, Ordering::Relaxed);
            return Ok(());
        }
        let all = self.place.0.held.fetch_add(bytes - before, Ordering::Relaxed) + (bytes - before);
        if all > HELD && bytes > OWN_SHARE {
            return Err(io::Error::other("connections hold too much memory"));
        }
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.hold(0);
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Not into the middle of an answer, and not unasked.
        let answer_is_late = self.due.has_passed(cx) && self.take_by.is_none();
        if answer_is_late && !self.is_idle {
            last_words(&mut self.socket, cx, TOO_SLOW);
            farewell(&mut self.socket, cx);
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buf);
        // What an idle client sends in the last moment is read all the same: unread it would be lost.
        if read.is_pending() && answer_is_late {
            farewell(&mut self.socket, cx);
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        ready!(read)?;
        if std::mem::take(&mut self.is_idle) {
            let time = self.place.0.times.answer;
            self.due.set(time);
        }
        let held = (self.held + buf.filled().len() - before).min(MOST_HELD);
        Poll::Ready(self.hold(held))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(answer) = bare::with_body(buf).filter(|_| self.own.is_empty()) {
            self.own = answer;
        }
        let sent = if self.own.is_empty() {
            Pin::new(&mut self.socket).poll_write(cx, buf)
        } else {
            // The whole of it takes the place of `buf`.
            self.poll_own(cx).map_ok(|()| buf.len())
        };
        let Poll::Ready(written) = sent else {
            self.hold(buf.len())?;
            return self.poll_late(cx);
        };
        let written = written?;
        self.hold(0)?;
        self.is_idle = true;
        self.set_idle_time();
        if written == buf.len() && self.take_by.take().is_some() {
            self.answer_is_taken(cx);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS has bytes of its own, which the socket may not take.
        match Pin::new(&mut self.socket).poll_flush(cx) {
            Poll::Pending => self.poll_late(cx),
            Poll::Ready(flushed) => {
                if self.take_by.take().is_some() {
                    self.answer_is_taken(cx);
                }
                Poll::Ready(flushed)
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // With TLS the client has to take what is left, and the alert.
        match Pin::new(&mut self.socket).poll_shutdown(cx) {
            Poll::Pending => self.poll_late(cx),
            ended => ended,
        }
    }
}

/// A moment that is set far more often than it comes: when it is put off, the timer is reset only when it fires.
struct Deadline {
    at: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Deadline {
    fn after(time: Duration) -> Self {
        Self { at: Instant::now() + time, timer: Box::pin(sleep(time)) }
    }

    fn set(&mut self, time: Duration) {
        self.at = Instant::now() + time;
        if self.at < self.timer.deadline() {
            self.timer.as_mut().reset(self.at);
        }
    }

    /// Whether it has passed; if not, the task is woken when it may have.
    fn has_passed(&mut self, cx: &mut Context<'_>) -> bool {
        while Instant::now() < self.at {
            if self.timer.as_mut().poll(cx).is_pending() {
                return false;
            }
            let at = self.at;
            self.timer.as_mut().reset(at);
        }
        true
    }
}

#[cfg(test)]
mod tests;
