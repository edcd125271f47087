//! A TCP proxy between the services and the broker, that misbehaves on request.
//!
//! What it swallows is gone: a connection of which it dropped a byte stays silent for good, as one whose
//! peer has lost its state, until a side closes it.

use std::io;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::dice::Dice;
use crate::tcp::{Listener, Server};

const CHUNK: usize = 16 * 1024;
/// A trickle: this much at a time, then a pause.
const DROPS: usize = 200;
const DROP_PAUSE: Duration = Duration::from_millis(5);

/// How the proxy treats what passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// As it comes.
    #[default]
    Pass,
    /// Each piece comes this much later.
    Delay(Duration),
    /// Nothing comes through until the mode is another; then all of it, also what its sender has given up.
    Stall,
    /// A few bytes at a time.
    Trickle,
    /// Connections are broken, and new ones at once.
    Cut,
    /// Nothing comes through, and no side is notified.
    HalfOpen,
    /// Requests come through, replies do not.
    DropReplies,
}

/// A mode, and which connections it hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Order {
    mode: Mode,
    percent: u64,
}

/// What it did.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections that it broke.
    pub cut: AtomicU64,
    /// Bytes towards the broker that it swallowed.
    pub requests_dropped: AtomicU64,
    /// Bytes from the broker that it swallowed.
    pub replies_dropped: AtomicU64,
}

/// The proxy. It ends with the value, and its connections with it.
pub struct Proxy {
    server: Server,
    order: watch::Sender<Order>,
    counts: Arc<Counts>,
    target: Arc<AtomicU16>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Requests,
    Replies,
}

impl Proxy {
    /// Starts to pass connections on to that port of 127.0.0.1. The seed decides which connections a mode
    /// hits that does not hit all.
    pub async fn start(port: u16, broker: u16, seed: u64) -> io::Result<Self> {
        let order = watch::Sender::<Order>::default();
        let counts = Arc::<Counts>::default();
        let connection =
            Connection { counts: Arc::clone(&counts), dice: Arc::new(Mutex::new(Dice::new(seed))) };
        let (orders, target) = (order.clone(), Arc::new(AtomicU16::new(broker)));
        let to = Arc::clone(&target);
        let server = Listener::bind(port).await?.serve(move |client| {
            connection.clone().run(client, to.load(Ordering::Relaxed), orders.subscribe())
        });
        Ok(Self { server, order, counts, target })
    }

    /// Passes connections that come from now on to that port. Those that are there stay where they are.
    pub fn lead_to(&self, port: u16) {
        self.target.store(port, Ordering::Relaxed);
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// Treats connections like that from now on: those that are there, and those that come.
    pub fn set(&self, mode: Mode, percent: u64) {
        self.order.send_replace(Order { mode, percent });
    }

    /// What it did so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}

#[derive(Clone)]
struct Connection {
    counts: Arc<Counts>,
    dice: Arc<Mutex<Dice>>,
}

impl Connection {
    async fn run(self, client: TcpStream, broker: u16, mut orders: watch::Receiver<Order>) {
        // Each connection follows the orders that hit it.
        let mode = watch::Sender::new(self.mode_of(*orders.borrow_and_update()));
        let follow = async {
            while orders.changed().await.is_ok() {
                mode.send_replace(self.mode_of(*orders.borrow_and_update()));
            }
        };
        let pass = async {
            if *mode.borrow() == Mode::Cut {
                self.counts.cut.fetch_add(1, Ordering::Relaxed);
                return;
            }
            let Ok(server) = TcpStream::connect(("127.0.0.1", broker)).await else { return };
            // What comes in pieces goes out in pieces: no piece waits for an acknowledgement here.
            if client.set_nodelay(true).and(server.set_nodelay(true)).is_err() {
                return;
            }
            let (client_reads, client_writes) = client.into_split();
            let (server_reads, server_writes) = server.into_split();
            let mut modes = mode.subscribe();
            let cut = modes.wait_for(|mode| *mode == Mode::Cut);
            tokio::select! {
                () = self.pump(client_reads, server_writes, mode.subscribe(), Direction::Requests) => {}
                () = self.pump(server_reads, client_writes, mode.subscribe(), Direction::Replies) => {}
                _ = cut => { self.counts.cut.fetch_add(1, Ordering::Relaxed); }
            }
        };
        tokio::select! {
            // What is ordered before a piece comes counts for it.
            biased;
            () = follow => {}
            () = pass => {}
        }
    }

    fn mode_of(&self, order: Order) -> Mode {
        let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
        if dice.percent(order.percent) { order.mode } else { Mode::Pass }
    }

    /// Ends when a side has closed.
    async fn pump(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        mut modes: watch::Receiver<Mode>,
        direction: Direction,
    ) {
        let mut buffer = vec![0; CHUNK];
        let mut silent = false;
        loop {
            let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
            let Some(bytes) = buffer.get(..read) else { return };
            // An error would mean that the connection ends, and this with it.
            let mode = modes.wait_for(|mode| *mode != Mode::Stall).await.map_or(Mode::Pass, |mode| *mode);
            silent |=
                mode == Mode::HalfOpen || (mode == Mode::DropReplies && direction == Direction::Replies);
            if silent {
                let dropped = match direction {
                    Direction::Requests => &self.counts.requests_dropped,
                    Direction::Replies => &self.counts.replies_dropped,
                };
                dropped.fetch_add(read as u64, Ordering::Relaxed);
                continue;
            }
            let written = match mode {
                Mode::Delay(late) => {
                    sleep(late).await;
                    to.write_all(bytes).await
                }
                Mode::Trickle => trickle(&mut to, bytes, &modes).await,
                _ => to.write_all(bytes).await,
            };
            if written.is_err() {
                return;
            }
        }
    }
}

/// Until the trickle is over: what is left then goes at once.
async fn trickle(to: &mut OwnedWriteHalf, bytes: &[u8], modes: &watch::Receiver<Mode>) -> io::Result<()> {
    for piece in bytes.chunks(DROPS) {
        to.write_all(piece).await?;
        if *modes.borrow() == Mode::Trickle {
            sleep(DROP_PAUSE).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SOON, until};
    use tokio::net::TcpListener;
    use tokio::time::{Instant, timeout};

    /// A server that sends back what it gets, and tells how much that was.
    async fn echo() -> (u16, Arc<AtomicU64>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let got = Arc::<AtomicU64>::default();
        let counter = Arc::clone(&got);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let counter = Arc::clone(&counter);
                tokio::spawn(async move {
                    let mut buffer = [0; 1024];
                    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                        counter.fetch_add(read as u64, Ordering::Relaxed);
                        stream.write_all(&buffer[..read]).await.unwrap();
                    }
                });
            }
        });
        (port, got)
    }

    async fn start() -> (Proxy, Arc<AtomicU64>) {
        let (port, got) = echo().await;
        (Proxy::start(crate::free_port().unwrap(), port, 1).await.unwrap(), got)
    }

    async fn ask(stream: &mut TcpStream) -> io::Result<[u8; 4]> {
        stream.write_all(b"ping").await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    }

    async fn is_silent(stream: &mut TcpStream) -> bool {
        timeout(Duration::from_millis(300), ask(stream)).await.is_err()
    }

    async fn reaches(what: &str, counter: &AtomicU64, least: u64) {
        until(what, SOON, async || counter.load(Ordering::Relaxed) >= least).await.unwrap();
    }

    #[tokio::test]
    async fn it_passes_delays_and_trickles() {
        let (proxy, _) = start().await;
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        assert_eq!(&ask(&mut stream).await.unwrap(), b"ping");
        proxy.set(Mode::Delay(Duration::from_millis(100)), 100);
        let start = Instant::now();
        assert_eq!(&ask(&mut stream).await.unwrap(), b"ping");
        assert!(start.elapsed() >= Duration::from_millis(200), "both ways");
        proxy.set(Mode::Trickle, 100);
        let start = Instant::now();
        stream.write_all(&[7; 10 * DROPS]).await.unwrap();
        stream.read_exact(&mut [0; 10 * DROPS]).await.unwrap();
        assert!(start.elapsed() >= DROP_PAUSE * 9);
        proxy.set(Mode::Pass, 100);
        assert_eq!(&ask(&mut stream).await.unwrap(), b"ping");
    }

    #[tokio::test]
    async fn it_cuts_and_takes_connections_again() {
        let (proxy, _) = start().await;
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        ask(&mut stream).await.unwrap();
        proxy.set(Mode::Cut, 100);
        assert!(ask(&mut stream).await.is_err());
        let mut fresh = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        assert!(ask(&mut fresh).await.is_err());
        proxy.set(Mode::Pass, 100);
        let mut fresh = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        assert_eq!(&ask(&mut fresh).await.unwrap(), b"ping");
        reaches("two cuts", &proxy.counts().cut, 2).await;
        assert_eq!(proxy.counts().cut.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_lost_reply_is_lost_and_its_connection_silent_for_good() {
        let (proxy, got) = start().await;
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        ask(&mut stream).await.unwrap();
        proxy.set(Mode::DropReplies, 100);
        assert!(is_silent(&mut stream).await);
        reaches("the request to come through", &got, 8).await;
        reaches("the reply to be dropped", &proxy.counts().replies_dropped, 4).await;
        proxy.set(Mode::Pass, 100);
        assert!(is_silent(&mut stream).await, "the stream has a hole");
        let mut fresh = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        assert_eq!(&ask(&mut fresh).await.unwrap(), b"ping");
    }

    #[tokio::test]
    async fn what_was_stalled_comes_though_its_sender_has_gone() {
        let (proxy, got) = start().await;
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        ask(&mut stream).await.unwrap();
        proxy.set(Mode::Stall, 100);
        assert!(is_silent(&mut stream).await);
        drop(stream);
        sleep(Duration::from_millis(50)).await;
        assert_eq!(got.load(Ordering::Relaxed), 4);
        proxy.set(Mode::Pass, 100);
        reaches("what was stalled to come through", &got, 8).await;
    }

    #[tokio::test]
    async fn a_half_open_connection_gives_no_sign() {
        let (proxy, got) = start().await;
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        ask(&mut stream).await.unwrap();
        proxy.set(Mode::HalfOpen, 100);
        assert!(is_silent(&mut stream).await);
        reaches("the request to be dropped", &proxy.counts().requests_dropped, 4).await;
        assert_eq!(got.load(Ordering::Relaxed), 4, "the request did not come through");
    }
}
