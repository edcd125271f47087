//! Ports and HTTP.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// Ports given out are in this range: below the ones that the system takes for outgoing connections, so
/// that none of those holds a broker's port while the broker is down (a client that dials its own port
/// on loopback even connects to itself).
const FIRST: u16 = 12_000;
const COUNT: u16 = 18_000;

/// A port on 127.0.0.1 that nobody listens on, each time another one.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes that run at the same time start at different places.
    let start = (std::process::id() % 360) * 50;
    let start = u16::try_from(start).unwrap_or(0);
    for _ in 0..COUNT {
        let next = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + (start + next) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {FIRST} to {}", FIRST + COUNT);
}

/// An HTTP client that gives up after 10 s and asks no proxy.
pub fn http() -> reqwest::Client {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10));
    client.build().expect("an HTTP client")
}
