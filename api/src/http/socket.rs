//! What a connection comes over: the socket itself, or TLS on it.

use std::pin::Pin;
use std::task::{Context, Poll};

use task_events::tls::ServerStream;
use tokio::io::AsyncWrite as _;

pub(super) type Socket = ServerStream;

/// As much of the bytes as goes out now: the connection ends.
pub(super) fn last_words(socket: &mut Socket, cx: &mut Context<'_>, bytes: &[u8]) {
    if let Poll::Ready(Ok(_)) = Pin::new(&mut *socket).poll_write(cx, bytes) {
        let _ = Pin::new(socket).poll_flush(cx);
    }
}

/// Tells a client of TLS that nothing more comes: otherwise it takes the end for an attack.
pub(super) fn farewell(socket: &mut Socket, cx: &mut Context<'_>) {
    if let Socket::Tls(stream) = socket {
        let _ = Pin::new(stream).poll_shutdown(cx);
    }
}
