//! What a connection comes over: the socket itself, or TLS on it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use task_events::tls::TlsServerStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

pub(super) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsServerStream>),
}

impl Socket {
    /// As much of the bytes as goes out now: the connection ends.
    pub(super) fn last_words(&mut self, cx: &mut Context<'_>, bytes: &[u8]) {
        if let Poll::Ready(Ok(_)) = Pin::new(&mut *self).poll_write(cx, bytes) {
            let _ = Pin::new(self).poll_flush(cx);
        }
    }

    /// Tells a client of TLS that nothing more comes: otherwise it takes the end for an attack.
    pub(super) fn farewell(&mut self, cx: &mut Context<'_>) {
        if let Self::Tls(stream) = self {
            let _ = Pin::new(stream).poll_shutdown(cx);
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => match Pin::new(stream).poll_read(cx, buf) {
                // A client that ends its half without the alert of TLS has an answer to come all the same: where a request
                // ends, HTTP says.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    Poll::Ready(Ok(()))
                }
                read => read,
            },
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
