//! What the live page shows: read from Kafka only while somebody looks.
//!
//! | file | what |
//! | --- | --- |
//! | `session` | the reader: a thread that lives as long as somebody looks |
//! | `feed`, `dead`, `groups` | what it follows: events, dead letters, the offsets topic |
//! | `board` | what is known, and the messages that watchers get |
//! | `rows` | what is shown of each thing, cut to what fits |
//! | `history` | lag and throughput over the last minutes |
//! | `health` | what is wrong, in words, and what to do |
//!
//! # Invariants
//!
//! 1. *Nobody looks, nothing runs.* The reader is a thread with connections of its own. It starts with the first
//!    watcher and ends [`LINGER`] after the last.
//! 2. *One reader for all.* A message is rendered once, and all watchers share it.
//! 3. *A watcher holds up nobody.* What waits for it is bounded; one that falls behind by more than
//!    [`QUEUE`](board::QUEUE) messages is dropped, and gets a snapshot when it comes again.
//! 4. *The hot path knows nothing of it.* No request waits for the reader, and no change is reported to it.
//! 5. *Bounded*, whatever a topic holds: of the events only the newest are read, however many there are.

mod board;
mod dead;
mod feed;
mod groups;
mod health;
mod history;
mod rows;
mod session;
mod sources;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::web::Bytes;
use task_events::config::TopicArgs;
use task_events::error_code::{Code, Coded};
use task_events::kafka::{Kafka, KafkaError};
use task_events::schemas::EventReader;
use tokio::sync::{Semaphore, broadcast, watch};
use tokio::time::timeout;

use session::Session;

pub use sources::Sources;

/// Watchers at one time, at most.
pub const MAX_WATCHERS: usize = 250;
/// Time for which the reader goes on when nobody looks: a page that is loaded again finds it.
const LINGER: Duration = Duration::from_secs(5);
/// Calls to Kafka for one request each (a trace, a redrive) at one time.
const CALLS: usize = 2;
/// Time for such a call to begin.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);

/// The live page's data. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Live(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sources: Arc<Sources>,
    calls: Arc<Semaphore>,
    state: Mutex<State>,
    /// How many look: watchers and calls.
    users: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    watchers: usize,
    session: Option<Session>,
    is_closed: bool,
}

/// Why there is nothing to be seen.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// There are as many watchers as there may be.
    #[error("{MAX_WATCHERS} watchers are connected, which is the limit; try again soon")]
    TooManyWatchers,
    /// Other calls take too long.
    #[error("other calls are under way; try again soon")]
    Busy,
    /// The call takes too long.
    #[error("it took longer than {} s; taskctl has no such limit", .0.as_secs())]
    Slow(Duration),
    /// The process stops.
    #[error("the API is stopping")]
    Stopping,
    /// The reader cannot be started.
    #[error("the reader cannot be started: {0}")]
    Start(std::io::Error),
    /// A call to Kafka failed.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
}

impl Coded for LiveError {
    fn code(&self) -> Code {
        match self {
            Self::Kafka(error) => error.code(),
            Self::Slow(_) | Self::Busy => Code::KafkaUnreachable,
            Self::TooManyWatchers | Self::Stopping | Self::Start(_) => Code::System,
        }
    }
}

impl Live {
    /// Reads nothing yet.
    pub fn new(sources: Sources) -> Self {
        Self(Arc::new(Inner {
            sources: Arc::new(sources),
            calls: Arc::new(Semaphore::new(CALLS)),
            state: Mutex::default(),
            users: watch::Sender::new(0),
        }))
    }

    /// Reads events of either format.
    pub fn events(&self) -> EventReader {
        self.0.sources.events.clone()
    }

    /// A new watcher: what is known now, and what comes.
    pub fn watch(&self) -> Result<Watcher, LiveError> {
        let mut state = self.state();
        if state.watchers >= MAX_WATCHERS {
            return Err(LiveError::TooManyWatchers);
        }
        let (snapshot, messages) = self.session(&mut state)?.board.join();
        state.watchers += 1;
        let looking = Looking::begin(self);
        Ok(Watcher { snapshot: Some(snapshot), messages, _counted: Counted(self.clone()), _looking: looking })
    }

    /// How many watch.
    pub fn watchers(&self) -> usize {
        self.state().watchers
    }

    /// Whether the reader runs.
    pub fn is_reading(&self) -> bool {
        self.state().session.is_some()
    }

    /// Runs a call to Kafka where the reader runs, within a time. Once begun it goes on also where the caller does not
    /// wait for it any more: what writes is not left half done.
    pub async fn call<T, F>(
        &self,
        limit: Duration,
        job: impl FnOnce(Kafka, TopicArgs) -> F,
    ) -> Result<T, LiveError>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let turn = timeout(QUEUE_TIMEOUT, Arc::clone(&self.0.calls).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(LiveError::Busy) };
        let (looking, mut handle, kafka) = {
            let mut state = self.state();
            let session = self.session(&mut state)?;
            let (handle, kafka) = (session.handle.clone(), session.kafka.clone());
            (Looking::begin(self), handle, kafka)
        };
        let handle = match handle.wait_for(Option::is_some).await {
            Ok(handle) => handle.clone(),
            Err(_) => None,
        };
        let job = job(kafka, self.0.sources.topics.clone());
        let task = handle.ok_or(LiveError::Stopping)?.spawn(async move {
            let _held = (turn, looking);
            timeout(limit, job).await
        });
        match task.await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) => Err(LiveError::Slow(limit)),
            Err(_) => Err(LiveError::Stopping),
        }
    }

    /// Ends the reader and all streams, for good: the process stops.
    pub fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        state.session = None;
    }

    /// The session that runs, or a new one.
    fn session<'s>(&self, state: &'s mut State) -> Result<&'s Session, LiveError> {
        if state.is_closed {
            return Err(LiveError::Stopping);
        }
        match &mut state.session {
            Some(session) => Ok(session),
            none => {
                let live = self.clone();
                let session = Session::start(Arc::clone(&self.0.sources), async move { live.idle().await });
                Ok(none.insert(session.map_err(LiveError::Start)?))
            }
        }
    }

    /// Returns when nobody has looked for a while. The session is given up then.
    async fn idle(&self) {
        let mut users = self.0.users.subscribe();
        loop {
            let _ = users.wait_for(|users| *users == 0).await;
            if timeout(LINGER, users.wait_for(|users| *users > 0)).await.is_err() {
                let mut state = self.state();
                if *self.0.users.borrow() == 0 {
                    state.session = None;
                    return;
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody looks, as long as this value lives. Begun under the lock of the state.
#[derive(Debug)]
struct Looking(Live);

impl Looking {
    fn begin(live: &Live) -> Self {
        live.0.users.send_modify(|users| *users += 1);
        Self(live.clone())
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.0.users.send_modify(|users| *users = users.saturating_sub(1));
    }
}

/// One of the watchers.
#[derive(Debug)]
struct Counted(Live);

impl Drop for Counted {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.watchers = state.watchers.saturating_sub(1);
    }
}

/// Gets a snapshot, and then each message.
#[derive(Debug)]
pub struct Watcher {
    snapshot: Option<Bytes>,
    messages: broadcast::Receiver<Bytes>,
    _counted: Counted,
    _looking: Looking,
}

impl Watcher {
    /// The next message; `None` where the reader has ended, or this watcher was too slow.
    pub async fn next(&mut self) -> Option<Bytes> {
        match self.snapshot.take() {
            Some(snapshot) => Some(snapshot),
            None => self.messages.recv().await.ok(),
        }
    }
}
