//! A TCP proxy before a broker, which loses produce requests or their answers.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Kafka's number of the produce request.
const PRODUCE: [u8; 2] = [0, 0];

/// What becomes of a produce request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection is cut and the broker never sees the request.
    Lost,
    /// It lands; the connection is cut before the answer.
    AnswerLost,
    /// The connection is cut, and it lands a little later.
    LandsLate,
    /// It lands; the answer never comes, and the connection stays.
    AnswerHangs,
}

pub struct Proxy {
    listener: TcpListener,
    state: Arc<State>,
}

#[derive(Default)]
pub struct State {
    faults: Mutex<VecDeque<Fault>>,
    /// The partition whose produce requests are all lost.
    down: Mutex<Option<i32>>,
    produces: AtomicUsize,
}

impl State {
    /// What becomes of the next produce requests; those after them go through.
    pub fn next(&self, faults: &[Fault]) {
        self.faults.lock().unwrap().extend(faults);
    }

    /// From now on all produce requests to this partition are lost, or none.
    pub fn take_down(&self, partition: Option<i32>) {
        *self.down.lock().unwrap() = partition;
    }

    /// How many produce requests came.
    pub fn produces(&self) -> usize {
        self.produces.load(Ordering::SeqCst)
    }
}

impl Proxy {
    pub async fn bind() -> Self {
        Self { listener: TcpListener::bind(("127.0.0.1", 0)).await.unwrap(), state: Arc::default() }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Passes on what comes, until the runtime ends.
    pub fn before(self, broker: SocketAddr) -> Arc<State> {
        let state = Arc::clone(&self.state);
        tokio::spawn(async move {
            while let Ok((client, _)) = self.listener.accept().await {
                tokio::spawn(pass_on(client, broker, Arc::clone(&self.state)));
            }
        });
        state
    }
}

/// One connection, request by request. Ends where either side closes, or a fault has it so.
async fn pass_on(mut client: TcpStream, broker: SocketAddr, state: Arc<State>) -> io::Result<()> {
    let mut broker = TcpStream::connect(broker).await?;
    loop {
        let request = frame(&mut client).await?;
        let mut fault = None;
        if request.get(4..6) == Some(&PRODUCE) {
            state.produces.fetch_add(1, Ordering::SeqCst);
            fault = match *state.down.lock().unwrap() {
                Some(down) if partition_of(&request) == down => Some(Fault::Lost),
                _ => state.faults.lock().unwrap().pop_front(),
            };
        }
        match fault {
            None => {
                broker.write_all(&request).await?;
                let answer = frame(&mut broker).await?;
                client.write_all(&answer).await?;
            }
            Some(Fault::Lost) => return Ok(()),
            Some(Fault::AnswerLost) => {
                broker.write_all(&request).await?;
                frame(&mut broker).await?;
                return Ok(());
            }
            Some(Fault::LandsLate) => {
                drop(client);
                tokio::time::sleep(Duration::from_millis(100)).await;
                broker.write_all(&request).await?;
                frame(&mut broker).await?;
                return Ok(());
            }
            Some(Fault::AnswerHangs) => {
                broker.write_all(&request).await?;
                frame(&mut broker).await?;
                // Until the client gives up.
                client.read_u8().await?;
            }
        }
    }
}

/// A request or an answer, with its length before it.
async fn frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u32().await?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.resize(4 + length as usize, 0);
    stream.read_exact(&mut frame[4..]).await?;
    Ok(frame)
}

/// The first partition of a produce request in versions 3 to 7: behind the client id come a transactional id
/// of none, acks, the timeout, and one topic.
fn partition_of(request: &[u8]) -> i32 {
    let at = |from: usize| i16::from_be_bytes(request[from..from + 2].try_into().unwrap()) as usize;
    let client_id = 4 + 2 + 2 + 4;
    let topic = client_id + 2 + at(client_id) + 2 + 2 + 4 + 4;
    let partition = topic + 2 + at(topic) + 4;
    i32::from_be_bytes(request[partition..partition + 4].try_into().unwrap())
}
