//! One request of rskafka's: its header, which is read and made anew with the real client id.

use std::io;

use bytes::{BufMut as _, BytesMut};
use rustix::net::sockopt::set_tcp_quickack;
use tokio::io::{AsyncReadExt as _, BufReader};
use tokio::net::tcp::OwnedReadHalf;

/// Largest piece of a request in memory, in bytes.
pub(super) const PIECE: usize = 64 * 1024;
/// In a request before the client id: API key, version, correlation id, length of the client id.
const HEADER: usize = 2 + 2 + 4 + 2;

/// The header of a request; what follows has not been read yet.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) api_key: i16,
    pub(super) version: i16,
    pub(super) correlation_id: i32,
    /// Bytes behind the client id.
    pub(super) rest: u64,
}

impl Request {
    /// Reads a header. One without the token is an error.
    pub(super) async fn read(client: &mut BufReader<OwnedReadHalf>, token: &str) -> io::Result<Self> {
        let length = usize::try_from(client.read_i32().await?).map_err(io::Error::other)?;
        // A request that came as a whole has nothing left to be sent.
        if client.buffer().len() < length {
            acknowledge(client.get_ref());
        }
        let rest =
            length.checked_sub(HEADER + token.len()).ok_or_else(|| invalid("a request is too short"))?;
        let (api_key, version) = (client.read_i16().await?, client.read_i16().await?);
        let correlation_id = client.read_i32().await?;
        let client_id_length = client.read_i16().await?;
        if usize::try_from(client_id_length) != Ok(token.len()) {
            return Err(invalid("a request without the token"));
        }
        let mut client_id = vec![0; token.len()];
        client.read_exact(&mut client_id).await?;
        if client_id != token.as_bytes() {
            return Err(invalid("a request without the token"));
        }
        Ok(Self { api_key, version, correlation_id, rest: rest as u64 })
    }

    /// The header as the broker gets it.
    pub(super) fn header(&self, client_id: &str) -> io::Result<BytesMut> {
        let length = (HEADER + client_id.len()) as u64 + self.rest;
        // No larger than what is to come: most requests are small.
        let capacity = usize::try_from(length + 4).map_or(PIECE, |frame| frame.min(PIECE));
        let mut header = BytesMut::with_capacity(capacity);
        header.put_i32(i32::try_from(length).map_err(io::Error::other)?);
        header.put_i16(self.api_key);
        header.put_i16(self.version);
        header.put_i32(self.correlation_id);
        header.put_i16(i16::try_from(client_id.len()).map_err(io::Error::other)?);
        header.put_slice(client_id.as_bytes());
        Ok(header)
    }
}

/// Acknowledges what has come so far. rskafka's sockets have Nagle's algorithm on: what is left of a request
/// is sent only then, and by default some 40 ms later.
pub(super) fn acknowledge(client: &OwnedReadHalf) {
    // Only a delay is lost where the system refuses.
    let _ = set_tcp_quickack(client.as_ref(), true);
}

pub(super) fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
