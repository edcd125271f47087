//! The bytes of a connection, plain or under TLS, of either side.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection that this process opened.
pub type ClientStream = MaybeTls<tokio_rustls::client::TlsStream<TcpStream>>;
/// A connection that it took.
pub type ServerStream = MaybeTls<tokio_rustls::server::TlsStream<TcpStream>>;

/// A socket, or one side of TLS on it.
#[derive(Debug)]
pub enum MaybeTls<T> {
    /// The socket itself.
    Plain(TcpStream),
    /// TLS on it.
    Tls(Box<T>),
}

/// One side of TLS.
pub trait Side: AsyncRead + AsyncWrite + Unpin {
    /// Whether a peer that ends without the alert of TLS has ended all the same. Where it has not, what was read may have
    /// been cut by anybody.
    const TAKES_A_BARE_END: bool;
}

impl<S: AsyncRead + AsyncWrite + Unpin> Side for tokio_rustls::client::TlsStream<S> {
    const TAKES_A_BARE_END: bool = false;
}

/// A client that ends its half so has an answer to come: where its request ends, HTTP says.
impl<S: AsyncRead + AsyncWrite + Unpin> Side for tokio_rustls::server::TlsStream<S> {
    const TAKES_A_BARE_END: bool = true;
}

impl<T: Side> AsyncRead for MaybeTls<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => match Pin::new(stream.as_mut()).poll_read(context, buffer) {
                Poll::Ready(Err(error))
                    if T::TAKES_A_BARE_END && error.kind() == io::ErrorKind::UnexpectedEof =>
                {
                    Poll::Ready(Ok(()))
                }
                read => read,
            },
        }
    }
}

impl<T: Side> AsyncWrite for MaybeTls<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
        }
    }
}
