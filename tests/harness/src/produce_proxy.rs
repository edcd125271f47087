//! A TCP proxy before a broker that knows requests, and loses produce requests or their answers. What treats all
//! bytes alike is the [`Proxy`](crate::Proxy).

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::tcp::{Listener, Server};

/// Kafka's number of the produce request.
const PRODUCE: [u8; 2] = [0, 0];
/// How long after its connection broke a request lands late.
const LATE: Duration = Duration::from_millis(100);

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
    /// It lands after that time, whether its sender still waits or not, and is answered.
    Slow(Duration),
    /// It lands when [`ProduceProxy::release`] was called, whether its sender still waits or not, and is answered.
    Held,
}

/// The proxy. It ends with the value, and its connections with it.
pub struct ProduceProxy {
    _server: Server,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    faults: Mutex<VecDeque<Fault>>,
    /// The partition whose produce requests are all lost.
    down: Mutex<Option<i32>>,
    released: watch::Sender<bool>,
    produces: AtomicUsize,
    /// Requests that are to land late and have not, and the longest time from the cut to the broker's answer.
    landings: Mutex<(usize, Duration)>,
}

impl ProduceProxy {
    /// Passes on what comes there to that port of 127.0.0.1.
    pub fn start(listener: Listener, broker: u16) -> Self {
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        let server = listener.serve(move |client| {
            let state = Arc::clone(&shared);
            async move {
                // The end of a connection, by whomever, ends what passes on.
                let _ = pass_on(client, broker, &state).await;
            }
        });
        Self { _server: server, state }
    }

    /// What becomes of the next produce requests; those after them go through.
    pub fn next(&self, faults: &[Fault]) {
        locked(&self.state.faults).extend(faults);
    }

    /// From now on all produce requests to this partition are lost, or none.
    pub fn take_down(&self, partition: Option<i32>) {
        *locked(&self.state.down) = partition;
    }

    /// Lets go what was held.
    pub fn release(&self) {
        self.state.released.send_replace(true);
    }

    /// From the cut of a connection until its request had landed late, the longest time; `None` while one is on its way.
    pub fn longest_landing(&self) -> Option<Duration> {
        let (on_their_way, longest) = *locked(&self.state.landings);
        (on_their_way == 0).then_some(longest)
    }

    /// How many produce requests came.
    pub fn produces(&self) -> usize {
        self.state.produces.load(Ordering::SeqCst)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection, request by request. Ends where either side closes, or a fault has it so.
async fn pass_on(mut client: TcpStream, broker: u16, state: &State) -> io::Result<()> {
    let mut broker = TcpStream::connect(("127.0.0.1", broker)).await?;
    loop {
        let request = frame(&mut client).await?;
        let mut fault = None;
        if request.get(4..6) == Some(&PRODUCE) {
            state.produces.fetch_add(1, Ordering::SeqCst);
            let down = *locked(&state.down);
            let is_down = down.is_some() && partition_of(&request) == down;
            fault = if is_down { Some(Fault::Lost) } else { locked(&state.faults).pop_front() };
        }
        if let Some(Fault::Slow(late)) = fault {
            sleep(late).await;
        }
        if fault == Some(Fault::Held) {
            // The sender is in the state.
            let _ = state.released.subscribe().wait_for(|released| *released).await;
        }
        match fault {
            None | Some(Fault::Slow(_) | Fault::Held) => {
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
                let cut = Instant::now();
                locked(&state.landings).0 += 1;
                drop(client);
                sleep(LATE).await;
                broker.write_all(&request).await?;
                frame(&mut broker).await?;
                let mut landings = locked(&state.landings);
                *landings = (landings.0 - 1, landings.1.max(cut.elapsed()));
                return Ok(());
            }
            Some(Fault::AnswerHangs) => {
                broker.write_all(&request).await?;
                frame(&mut broker).await?;
                // Until the client gives up: what else it sends gets no answer either.
                tokio::io::copy(&mut client, &mut tokio::io::sink()).await?;
                return Ok(());
            }
        }
    }
}

/// A request or an answer, with its length before it.
async fn frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u32().await?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.resize(4 + length as usize, 0);
    if let Some(rest) = frame.get_mut(4..) {
        stream.read_exact(rest).await?;
    }
    Ok(frame)
}

/// The first partition of a produce request in versions 3 to 7: behind the client id come a transactional id
/// of none, acks, the timeout, and one topic.
fn partition_of(request: &[u8]) -> Option<i32> {
    let length = |from: usize| {
        let bytes = request.get(from..from + 2)?.try_into().ok()?;
        usize::try_from(i16::from_be_bytes(bytes)).ok()
    };
    let client_id = 4 + 2 + 2 + 4;
    let topic = client_id + 2 + length(client_id)? + 2 + 2 + 4 + 4;
    let partition = topic + 2 + length(topic)? + 4;
    Some(i32::from_be_bytes(request.get(partition..partition + 4)?.try_into().ok()?))
}
