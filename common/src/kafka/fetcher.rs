//! Fetches from one broker, for all partitions of a reader that it leads: one connection, and one Fetch call
//! for all partitions that take more.
//!
//! # Invariants
//!
//! 1. *One call in flight.* Partitions hand in what they want; what has been handed in when a call starts is
//!    asked for in it.
//! 2. *A full partition holds up no other.* While one that is led here is not part of a call, the
//!    broker is asked to wait for a short time only, so that it is part of the next one soon.
//! 3. *Over a quota, a broker answers nothing of what was asked for*, and says for how long. It is then asked
//!    again; only where that lasts, those that wait are notified.
//! 4. *A connection that lost an answer is given up.* When an answer is overdue and the broker takes a new
//!    connection, the old one is dropped, and what was wanted is asked for again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::FetchResponse;
use kafka_protocol::messages::fetch_response::PartitionData;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::connection::Connection;
use super::fetch::{self, Call, Isolation, Wanted};
use super::{Kafka, KafkaError, REQUEST_TIMEOUT, counts};

/// How long the broker waits where there is nothing new.
pub(super) const MAX_WAIT: Duration = Duration::from_millis(500);
/// The same while a partition is not part of the call.
const SHORT_WAIT: Duration = Duration::from_millis(20);
/// How long partitions that are about to hand in something are waited for.
const GATHER: Duration = Duration::from_millis(2);
/// Beyond the wait at the broker, an answer is overdue after this time.
pub(super) const OVERDUE: Duration = Duration::from_secs(1);
/// Most bytes of an answer, and of each partition in it: some 1,500 events.
const ANSWER_BYTES: i32 = 8 * 1024 * 1024;
/// How long a quota may hold answers back before those that wait are notified: an ordinary throttling is over.
const HELD_BACK: Duration = Duration::from_secs(15);
/// A broker is not asked for this long at most, whatever it says: Kafka's own bound is the window of its
/// quotas, 11 s unless configured otherwise.
const MAX_THROTTLE: Duration = Duration::from_secs(60);
/// Partitions that wait to be asked for; each hands in one want at a time.
const QUEUE: usize = 64;

type Reply = oneshot::Sender<Result<Answer, KafkaError>>;

/// What the broker answered for one partition.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) data: PartitionData,
    /// Whether it was asked by the topic's id.
    pub(super) by_topic_id: bool,
}

struct Waiting {
    wanted: Wanted,
    reply: Reply,
}

/// A handle to the task that fetches from one broker. The task ends with the last handle.
#[derive(Debug)]
pub(super) struct Fetcher {
    queue: mpsc::Sender<Waiting>,
    led: Arc<AtomicUsize>,
    is_doubted: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A partition that is led by the fetcher's broker, for as long as this exists.
#[derive(Debug)]
pub(super) struct Led {
    fetcher: Arc<Fetcher>,
}

impl Drop for Led {
    fn drop(&mut self) {
        self.fetcher.led.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Led {
    pub(super) fn new(fetcher: Arc<Fetcher>) -> Self {
        fetcher.led.fetch_add(1, Ordering::Relaxed);
        Self { fetcher }
    }

    /// Fetches once. Ends when the broker has answered, or could not be asked.
    pub(super) async fn fetch(&self, wanted: Wanted) -> Result<Answer, KafkaError> {
        let stopped = || KafkaError::failed("fetch", "the fetcher has stopped");
        let (reply, answer) = oneshot::channel();
        self.fetcher.queue.send(Waiting { wanted, reply }).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// The next fetch goes through a new connection.
    pub(super) fn reconnect(&self) {
        self.fetcher.is_doubted.store(true, Ordering::Relaxed);
    }
}

impl Fetcher {
    pub(super) fn spawn(kafka: &Kafka, address: &Arc<str>, topic: &str, isolation: Isolation) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let (led, is_doubted) = (Arc::default(), Arc::default());
        let fetching = Fetching {
            kafka: kafka.clone(),
            address: Arc::clone(address),
            topic: topic.to_owned(),
            isolation,
            led: Arc::clone(&led),
            is_doubted: Arc::clone(&is_doubted),
            connection: None,
            throttled_until: Instant::now(),
            held_back_since: None,
            overdue_after: OVERDUE,
            turn: VecDeque::new(),
        };
        Self { queue, led, is_doubted, task: tokio::spawn(fetching.run(waiting)) }
    }
}

struct Fetching {
    kafka: Kafka,
    address: Arc<str>,
    topic: String,
    isolation: Isolation,
    led: Arc<AtomicUsize>,
    is_doubted: Arc<AtomicBool>,
    connection: Option<Connection>,
    throttled_until: Instant,
    /// Since when a quota has held all answers back.
    held_back_since: Option<Instant>,
    /// How long an answer may be overdue before the connection is looked at.
    overdue_after: Duration,
    /// Partitions in the order in which they last brought records: a broker fills its answer from the
    /// front, so those that had none for longest come first.
    turn: VecDeque<i32>,
}

impl Fetching {
    async fn run(mut self, mut queue: mpsc::Receiver<Waiting>) {
        while let Some(first) = queue.recv().await {
            let mut waiting = vec![first];
            let until = Instant::now() + GATHER;
            while waiting.len() < self.led.load(Ordering::Relaxed) {
                match timeout_at(until, queue.recv()).await {
                    Ok(Some(more)) => waiting.push(more),
                    Ok(None) | Err(_) => break,
                }
            }
            if self.throttled_until > Instant::now() {
                tokio::time::sleep_until(self.throttled_until).await;
            }
            self.serve(waiting).await;
        }
    }

    /// One call for each topic id that is wanted: while a topic is created again they may differ.
    async fn serve(&mut self, mut waiting: Vec<Waiting>) {
        waiting.retain(|one| !one.reply.is_closed());
        while let Some(first) = waiting.first() {
            let topic_id = first.wanted.topic_id;
            let (mut now, later) = waiting.into_iter().partition(|one| one.wanted.topic_id == topic_id);
            waiting = later;
            self.in_turn(&mut now);
            let is_complete = now.len() >= self.led.load(Ordering::Relaxed);
            let wanted: Vec<_> = now.iter().map(|one| one.wanted.clone()).collect();
            let call = Call {
                topic: self.topic.clone(),
                topic_id,
                isolation: self.isolation,
                max_wait_ms: millis(if is_complete { MAX_WAIT } else { SHORT_WAIT }),
                max_bytes: wanted.iter().map(|wanted| wanted.max_bytes).fold(ANSWER_BYTES, i32::max),
            };
            let outcome = self.call(&call, &wanted, &mut now).await;
            if self.is_held_back(&outcome) {
                tokio::time::sleep_until(self.throttled_until).await;
                waiting.extend(now);
                waiting.retain(|one| !one.reply.is_closed());
            } else {
                self.reply(now, outcome);
            }
        }
    }

    /// Whether a quota held the answer back, and not yet for so long that it has to be said.
    fn is_held_back(&mut self, outcome: &Result<(FetchResponse, bool), KafkaError>) -> bool {
        if !outcome.as_ref().is_ok_and(|(response, _)| is_withheld(response)) {
            self.held_back_since = None;
            return false;
        }
        self.held_back_since.get_or_insert_with(Instant::now).elapsed() < HELD_BACK
    }

    fn in_turn(&mut self, waiting: &mut [Waiting]) {
        for one in waiting.iter() {
            if !self.turn.contains(&one.wanted.partition) {
                self.turn.push_front(one.wanted.partition);
            }
        }
        let place = |one: &Waiting| self.turn.iter().position(|known| *known == one.wanted.partition);
        waiting.sort_by_key(place);
    }

    fn reply(&mut self, waiting: Vec<Waiting>, outcome: Result<(FetchResponse, bool), KafkaError>) {
        let outcome = outcome.and_then(|(response, by_topic_id)| {
            match ResponseError::try_from_code(response.error_code) {
                None => Ok((fetch::by_partition(response), by_topic_id)),
                Some(code) => Err(KafkaError::failed(self.name(), format!("the broker answered {code}"))),
            }
        });
        let nothing = if self.held_back_since.is_some() {
            "a quota of the broker holds its answers back: raise consumer_byte_rate for this client id or user"
        } else {
            "the broker left a partition out of its answer"
        };
        let (mut answers, by_topic_id) = match outcome {
            Ok(answers) => answers,
            Err(error) => {
                self.connection = None;
                return waiting.into_iter().for_each(|one| drop(one.reply.send(Err(error.clone()))));
            }
        };
        for Waiting { wanted, reply } in waiting {
            let found = answers.iter().position(|data| data.partition_index == wanted.partition);
            let answer = match found.map(|at| answers.swap_remove(at)) {
                Some(data) => {
                    if data.records.as_ref().is_some_and(|records| !records.is_empty()) {
                        self.turn.retain(|known| *known != wanted.partition);
                        self.turn.push_back(wanted.partition);
                    }
                    Ok(Answer { data, by_topic_id })
                }
                None => Err(KafkaError::failed(self.name(), nothing)),
            };
            // Who no longer waits has gone to another leader.
            drop(reply.send(answer));
        }
    }

    fn name(&self) -> String {
        format!("fetch from {}", self.topic)
    }

    /// One call, however often the connection has to be replaced for it. Given up when nobody waits for it.
    async fn call(
        &mut self,
        call: &Call,
        wanted: &[Wanted],
        waiting: &mut [Waiting],
    ) -> Result<(FetchResponse, bool), KafkaError> {
        let name = self.name();
        tokio::select! {
            biased;
            answer = self.exchange(&name, call, wanted) => {
                let (answer, by_topic_id) = answer?;
                if let Some(throttled) = u64::try_from(answer.throttle_time_ms).ok().filter(|ms| *ms > 0) {
                    log::debug!("{} throttles fetches from {} for {throttled} ms", self.address, self.topic);
                    let wait = Duration::from_millis(throttled).min(MAX_THROTTLE);
                    counts::throttled(wait);
                    self.throttled_until = Instant::now() + wait;
                }
                Ok((answer, by_topic_id))
            }
            () = nobody_waits(waiting) => Err(KafkaError::failed(name, "another broker leads now")),
        }
    }

    async fn exchange(
        &mut self,
        name: &str,
        call: &Call,
        wanted: &[Wanted],
    ) -> Result<(FetchResponse, bool), KafkaError> {
        let is_doubted = self.is_doubted.swap(false, Ordering::Relaxed);
        let mut connection = match self.connection.take() {
            Some(connection) if !is_doubted && !connection.is_expired() => connection,
            _ => self.kafka.connect(&self.address).await?,
        };
        let wait = Duration::from_millis(u64::try_from(call.max_wait_ms).unwrap_or_default());
        loop {
            let version = fetch::version(connection.versions(), call.topic_id)
                .map_err(|error| KafkaError::failed(name, error))?;
            let request = fetch::request(call, version, wanted);
            let limit = wait + REQUEST_TIMEOUT;
            let fresh = {
                let answer = connection.call_as(name, version, &request, limit);
                tokio::pin!(answer);
                let again = self.takes_a_new_connection(wait + self.overdue_after);
                tokio::select! {
                    biased;
                    answered = &mut answer => Err(answered),
                    fresh = again => match tokio::time::timeout(OVERDUE, &mut answer).await {
                        Ok(answered) => Err(answered),
                        Err(_) => Ok(fresh),
                    },
                }
            };
            match fresh {
                Err(answered) => {
                    let answered = answered?;
                    self.connection = Some(connection);
                    self.overdue_after = OVERDUE;
                    return Ok((answered, fetch::is_by_topic_id(version)));
                }
                Ok(fresh) => {
                    log::debug!(
                        "{name}: no answer from {}, which takes connections: asking again",
                        self.address
                    );
                    connection = fresh;
                    // A broker may be that slow.
                    self.overdue_after = (self.overdue_after * 2).min(REQUEST_TIMEOUT);
                }
            }
        }
    }

    /// Ends with a new connection to the broker, not before `overdue`.
    async fn takes_a_new_connection(&self, overdue: Duration) -> Connection {
        sleep(overdue).await;
        loop {
            match self.kafka.connect(&self.address).await {
                Ok(connection) => return connection,
                Err(_) => sleep(OVERDUE).await,
            }
        }
    }
}

async fn nobody_waits(waiting: &mut [Waiting]) {
    for one in waiting {
        one.reply.closed().await;
    }
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

/// Whether this is how a broker answers over a quota.
fn is_withheld(response: &FetchResponse) -> bool {
    response.throttle_time_ms > 0 && response.error_code == 0 && response.responses.is_empty()
}
