//! The load: HTTP/1.1 over kept connections on one thread, as little work for each request as can be, since it
//! shares the machine with what is measured.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

/// An answer that takes longer is an error of the measurement.
const LIMIT: Duration = Duration::from_secs(30);

/// One connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the API listens");
        stream.set_nodelay(true).expect("a TCP socket");
        Self { stream, buffer: Vec::new() }
    }

    /// Creates a task, and returns the answer's body.
    pub async fn create(&mut self, title: &str, keyed: bool) -> &[u8] {
        let key = if keyed { format!("Idempotency-Key: \"{}\"\r\n", Uuid::new_v4()) } else { String::new() };
        let body = format!(r#"{{"title": "{title}"}}"#);
        let request = format!(
            "POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{key}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        tokio::time::timeout(LIMIT, self.exchange(request.as_bytes())).await.expect("an answer in time")
    }

    async fn exchange(&mut self, request: &[u8]) -> &[u8] {
        self.stream.write_all(request).await.expect("a request is sent");
        self.buffer.clear();
        let (head, length) = loop {
            let read = self.stream.read_buf(&mut self.buffer).await.expect("an answer");
            assert!(read > 0, "the API closed the connection");
            if let Some(head) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let text = String::from_utf8_lossy(&self.buffer[..head]).to_ascii_lowercase();
                assert!(text.starts_with("http/1.1 201 "), "{text}");
                let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
                break (head + 4, length.and_then(|length| length.parse().ok()).unwrap_or(0));
            }
        };
        while self.buffer.len() < head + length {
            let read = self.stream.read_buf(&mut self.buffer).await.expect("an answer");
            assert!(read > 0, "the API closed the connection");
        }
        &self.buffer[head..head + length]
    }
}

/// Creates tasks over that many connections until time is up or there are enough. Milliseconds of each.
pub fn closed_loop(
    address: SocketAddr,
    connections: usize,
    until: Instant,
    at_most: usize,
    keyed: bool,
) -> Vec<f64> {
    on_one_thread(async move {
        let mut running = tokio::task::JoinSet::new();
        for number in 0..connections {
            running.spawn_local(async move {
                let mut connection = Connection::open(address).await;
                let mut took = Vec::new();
                while took.len() < at_most.div_ceil(connections) && Instant::now() < until {
                    let sent = Instant::now();
                    connection.create(&format!("task {number}"), keyed).await;
                    took.push(sent.elapsed().as_secs_f64() * 1e3);
                }
                took
            });
        }
        running.join_all().await.concat()
    })
}

/// Runs it on a thread of its own, whose time is not that of the measuring.
pub fn on_one_thread<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        tokio::task::LocalSet::new().block_on(&runtime, work)
    });
    thread.join().expect("the load does not fail")
}
