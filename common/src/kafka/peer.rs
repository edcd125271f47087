//! Whether the other end of a loopback connection is a socket of this process.
//!
//! Loopback is open to every process of the machine, and a user's processes can read each other's environment. So the
//! kernel is asked: `/proc/self/net/tcp` has the socket whose two addresses are the connection's in reverse, with its
//! inode, and `/proc/self/fd` the sockets of this process.
//!
//! *What cannot be found out is refused*: a socket that is not listed, or a `/proc` that cannot be read.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;

use tokio::task::spawn_blocking;

/// Where the kernel lists the sockets of this network namespace, and the files of this process.
const SOCKETS: &str = "/proc/self/net/tcp";
const FILES: &str = "/proc/self/fd";

/// Nothing, if the socket at `peer`, connected to `own`, belongs to this process; otherwise why that is not known.
pub(super) async fn is_of_this_process(peer: SocketAddr, own: SocketAddr) -> Result<(), String> {
    let found = spawn_blocking(move || look(peer, own, SOCKETS, FILES)).await;
    found.unwrap_or_else(|error| Err(error.to_string()))
}

fn look(peer: SocketAddr, own: SocketAddr, sockets: &str, files: &str) -> Result<(), String> {
    let unreadable = |path: &str, error| format!("{path} cannot be read, which names who connects: {error}");
    let ends = format!("{} {} ", hexadecimal(peer)?, hexadecimal(own)?);
    let list = File::open(sockets).map_err(|error| unreadable(sockets, error))?;
    let mut inode = None;
    for line in BufReader::new(list).lines() {
        let line = line.map_err(|error| unreadable(sockets, error))?;
        // `sl: local remote st tx:rx tr:when retrnsmt uid timeout inode …`
        let Some((_, line)) = line.split_once(": ") else { continue };
        if line.starts_with(&ends) {
            inode = line.split_ascii_whitespace().nth(8).map(str::to_owned);
            break;
        }
    }
    let inode = inode.ok_or_else(|| format!("the socket at {peer} is closed, or of another machine"))?;
    // What a closed socket has that still sends.
    if inode == "0" {
        return Err(format!("the socket at {peer} is closed"));
    }
    let wanted = format!("socket:[{inode}]");
    for entry in fs::read_dir(files).map_err(|error| unreadable(files, error))? {
        let entry = entry.map_err(|error| unreadable(files, error))?;
        // A file that was closed meanwhile is not the one.
        if fs::read_link(entry.path()).is_ok_and(|target| target.to_str() == Some(wanted.as_str())) {
            return Ok(());
        }
    }
    Err(format!("the socket at {peer} belongs to another process"))
}

/// An address as `/proc` writes it: the bytes as one number in the machine's order.
fn hexadecimal(address: SocketAddr) -> Result<String, String> {
    let SocketAddr::V4(address) = address else {
        return Err(format!("{address} is no IPv4 address"));
    };
    let mut text = String::with_capacity(13);
    let number = u32::from_ne_bytes(address.ip().octets());
    write!(text, "{number:08X}:{:04X}", address.port()).map_err(|error| error.to_string())?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn an_own_socket_is_known_and_what_cannot_be_found_out_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap();
        let client = TcpStream::connect(own).unwrap();
        let (_accepted, peer) = listener.accept().unwrap();
        assert_eq!(look(peer, own, SOCKETS, FILES), Ok(()));
        let none = tempfile::tempdir().unwrap();
        let missing = none.path().join("tcp").display().to_string();
        let empty = none.path().display().to_string();
        assert!(look(peer, own, &missing, FILES).unwrap_err().contains("cannot be read"));
        assert!(look(peer, own, SOCKETS, &missing).unwrap_err().contains("cannot be read"));
        // The files of a process that does not have the socket.
        assert!(look(peer, own, SOCKETS, &empty).unwrap_err().contains("another process"));
        drop(client);
        assert!(look(peer, own, SOCKETS, FILES).is_err(), "nobody has it any more");
    }
}
