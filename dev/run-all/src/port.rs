//! Ports that are to be listened on.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::Failure;

/// An error unless that port is free.
pub async fn free(address: SocketAddr, who: &str, setting: &str) -> Result<(), Failure> {
    match TcpListener::bind(address).await {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure(format!(
            "{who} cannot listen on {address}: {error}; stop what runs there, or set {setting}"
        ))),
    }
}
