//! The TLS handshake with a client, and the answers to those that are refused before there is HTTP.

use std::io;
use std::time::Duration;

use actix_http::error::DispatchError;
use task_events::tls::TlsServer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::socket::Socket;

/// Time for a client's part of the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a client that is refused to take the answer.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// With what a record of TLS that begins a handshake begins (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;

const HTTPS_ONLY: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    content-type: application/problem+json\r\nx-content-type-options: nosniff\r\nconnection: close\r\ncontent-length: 115\r\n\r\n\
    {\"type\":\"about:blank\",\"title\":\"Bad Request\",\"status\":400,\
    \"detail\":\"This port speaks HTTPS, not HTTP\",\"instance\":\"\"}";

/// The handshake. Its failures are those of clients, any of which could fill the log with them.
pub(super) async fn with_client(tls: &TlsServer, stream: TcpStream) -> Result<Socket, DispatchError> {
    let handshake = async {
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first != [HANDSHAKE] {
            answer(stream, HTTPS_ONLY).await;
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        tls.accept(stream).await
    };
    match timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(socket)) => Ok(socket),
        Ok(Err(error)) => {
            log::debug!("no TLS with a client: {error}");
            Err(DispatchError::Io(error))
        }
        Err(_) => Err(DispatchError::SlowRequestTimeout),
    }
}

/// Sends an answer, and no more. What the client sends is read to its end: closed with bytes unread the connection would
/// be reset, and the answer lost.
pub(super) async fn answer(mut stream: TcpStream, answer: &[u8]) {
    let sent = async {
        stream.write_all(answer).await?;
        stream.shutdown().await?;
        while stream.read(&mut [0; 1024]).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(REFUSAL_TIMEOUT, sent).await;
}
