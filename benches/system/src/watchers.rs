//! What the live page costs: POST /tasks in turn with nobody and with 100 watchers, on one API.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use harness::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::build::Build;
use crate::figures::{Figures, quantile};
use crate::post::start_api;
use crate::{http, usage};

const WATCHERS: usize = 100;
const CONNECTIONS: usize = 64;
/// Pairs of turns; the median counts.
const PAIRS: usize = 6;
/// Time for the reader to start, or to end, before a turn.
const SETTLE: Duration = Duration::from_secs(7);

/// Each pair is a turn without and one with watchers, in alternating order.
pub async fn run(build: &Build, seconds: u64) -> Result<Figures> {
    let world = build.world().await?;
    let (api, address) = start_api(build, &world).await?;
    let load = |seconds| {
        let until = Instant::now() + Duration::from_secs(seconds);
        let before = usage::cpu_us(api.id());
        let requests = http::closed_loop(address, CONNECTIONS, until, usize::MAX, false).len() as f64;
        (requests / seconds as f64, (usage::cpu_us(api.id()) - before) / requests)
    };
    load(2);
    let (mut alone, mut watched, mut ratios, mut costs, mut received) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), 0);
    for pair in 0..PAIRS {
        let mut turns = [(0.0, 0.0); 2];
        for turn in 0..2 {
            let is_watched = (turn + pair) % 2 == 1;
            let watchers = is_watched.then(|| Watchers::start(address));
            tokio::time::sleep(SETTLE).await;
            turns[usize::from(is_watched)] = load(seconds);
            if let Some(watchers) = watchers {
                received += watchers.stop();
            }
        }
        let [(without, cost_without), (with, cost_with)] = turns;
        alone.push(without);
        watched.push(with);
        ratios.push(with / without);
        costs.push(cost_with - cost_without);
    }
    let per_watcher = received as f64 / (WATCHERS * PAIRS) as f64 / 1024.0;
    Ok(vec![
        ("requests/s, nobody watches", quantile(&mut alone, 0.5)),
        ("requests/s, 100 watch", quantile(&mut watched, 0.5)),
        ("ratio", quantile(&mut ratios, 0.5)),
        ("API µs more a request", quantile(&mut costs, 0.5)),
        ("KiB a watcher got in a turn", per_watcher),
    ])
}

/// Streams that are read, on a thread of their own, until they are stopped.
struct Watchers {
    stop: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<usize>,
}

impl Watchers {
    fn start(address: SocketAddr) -> Self {
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            http::on_one_thread(async move {
                let mut running = tokio::task::JoinSet::new();
                let received = Arc::new(AtomicUsize::new(0));
                for _ in 0..WATCHERS {
                    running.spawn_local(watch(address, Arc::clone(&received)));
                }
                let _ = stopped.await;
                received.load(Ordering::Relaxed)
            })
        });
        Self { stop, thread }
    }

    /// How many bytes came.
    fn stop(self) -> usize {
        let _ = self.stop.send(());
        self.thread.join().expect("watchers do not fail")
    }
}

async fn watch(address: SocketAddr, received: Arc<AtomicUsize>) {
    let mut stream = TcpStream::connect(address).await.expect("the API listens");
    let request = b"GET /live/stream HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n";
    stream.write_all(request).await.expect("a request is sent");
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = stream.read(&mut buffer).await.expect("a stream");
        assert!(read > 0, "the API ended a stream");
        received.fetch_add(read, Ordering::Relaxed);
    }
}
