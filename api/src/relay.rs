//! The relay: publishes the outbox to Kafka in commit order.
//!
//! # Invariants
//!
//! 1. *Order.* Events of a partition are sent in the order of their sequence numbers, one request at a
//!    time: a second one in flight could land although the first failed.
//! 2. *Nothing is sent blindly twice.* After a start and after any failure it is unclear whether what was
//!    sent last has landed. Before anything is sent again, the topic's tail is read from the last known
//!    position ([`settle`](Relay::settle)), and what stands there leaves the outbox.
//! 3. *A position before a produce.* A partition's position is on disk before the first event is sent to
//!    it, and moves with the events that leave the outbox: so whatever was sent stands behind it.
//!
//! What was sent and not acknowledged is among the first [`WINDOW`] events of the outbox, since no more are
//! taken in hand before all of them are acknowledged.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use task_events::event::Event;
use task_events::kafka::{
    Compression, Kafka, KafkaError, OffsetAt, Partition, Record, partition_for_key, request_len,
};
use task_events::runtime::Backoff;
use task_events::shutdown::Shutdown;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use crate::store::{Delivered, OutboxEntry, Store, StoreError};

/// Events taken in hand at once.
pub const WINDOW: usize = 2_000;
/// Bytes of the topic's tail that are read at once.
const TAIL_BYTES: i32 = 4 * 1024 * 1024;
/// A request whose connection broke may still be on its way through the broker: the tail is read after it
/// had time to land.
const LANDING_TIME: Duration = Duration::from_millis(250);
/// How often Kafka is asked whether it is still there and the topic as it was, also when there is nothing
/// to send: for readiness, and because brokers close idle connections.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// Time to publish what waits when the process stops.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How the relay stands with Kafka.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelayState {
    /// Whether the last call to Kafka succeeded.
    pub reachable: bool,
    /// What the relay waits for, if it cannot publish.
    pub waiting_for: Option<String>,
}

/// The relay. One for a store.
#[derive(Debug)]
pub struct Relay {
    store: Store,
    kafka: Kafka,
    topic: String,
    state: watch::Sender<RelayState>,
}

/// Why publishing stopped. It is tried again.
#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("sending stopped: {0}")]
    Stopped(#[from] JoinError),
}

/// The partitions of the topic.
type Topic = Vec<Arc<Partition>>;

impl Relay {
    /// A relay from the store to the topic.
    pub fn new(store: Store, kafka: Kafka, topic: &str) -> Self {
        Self { store, kafka, topic: topic.to_owned(), state: watch::Sender::default() }
    }

    /// How the relay stands with Kafka.
    pub fn state(&self) -> watch::Receiver<RelayState> {
        self.state.subscribe()
    }

    /// Publishes until a stop is asked for, then what waits, for [`DRAIN_TIMEOUT`] at most. Says how many
    /// events are left.
    pub async fn run(self, shutdown: Shutdown) {
        let publishing = self.keep_publishing(&shutdown);
        tokio::pin!(publishing);
        tokio::select! {
            () = &mut publishing => {}
            () = self.drained(&shutdown) => {}
        }
        match self.store.outbox().borrow().waiting {
            0 => log::info!("relay stopped: all events are delivered"),
            left => log::warn!(
                "relay stopped: {left} events wait in the outbox and are delivered after the next start"
            ),
        }
    }

    /// Ends when a stop was asked for and nothing waits, or [`DRAIN_TIMEOUT`] later.
    async fn drained(&self, shutdown: &Shutdown) {
        shutdown.requested().await;
        let mut outbox = self.store.outbox();
        let _ = timeout(DRAIN_TIMEOUT, outbox.wait_for(|outbox| outbox.waiting == 0)).await;
    }

    /// Ends when a stop was asked for and the outbox is empty.
    async fn keep_publishing(&self, shutdown: &Shutdown) {
        let mut backoff = Backoff::for_kafka();
        let mut last_said: Option<String> = None;
        loop {
            let published = self.publish(shutdown, &mut backoff, &mut last_said).await;
            let Err(error) = published else { return };
            let why = error.to_string();
            if last_said.as_ref() != Some(&why) {
                let waiting = self.store.outbox().borrow().waiting;
                log::warn!("cannot publish, {waiting} events wait in the outbox: {why}");
                last_said = Some(why.clone());
            }
            let reachable = matches!(error, RelayError::Store(_));
            self.state.send_replace(RelayState { reachable, waiting_for: Some(why) });
            sleep(backoff.next_delay()).await;
        }
    }

    /// Connects, settles what is unclear, and publishes until something fails or all is done.
    async fn publish(
        &self,
        shutdown: &Shutdown,
        backoff: &mut Backoff,
        last_said: &mut Option<String>,
    ) -> Result<(), RelayError> {
        let mut topic = self.connect().await?;
        self.settle(&topic).await?;
        self.state.send_replace(RelayState { reachable: true, waiting_for: None });
        *backoff = Backoff::for_kafka();
        let mut outbox = self.store.outbox();
        let mut sent = 0;
        let mut checked = Instant::now();
        loop {
            if checked.elapsed() >= CHECK_EVERY {
                self.check(&mut topic).await?;
                checked = Instant::now();
            }
            outbox.borrow_and_update();
            let window = self.store.outbox_after(sent, WINDOW).await?;
            let last = window.last().map(|entry| entry.seq);
            if last.is_some() {
                self.send(&topic, window).await?;
            }
            if last_said.take().is_some() {
                log::info!("Kafka is there again: events are published");
            }
            match last {
                Some(last) => sent = last,
                None if shutdown.is_requested() => return Ok(()),
                // A stop ends the wait, not the work.
                None => drop(timeout(CHECK_EVERY, shutdown.or(outbox.changed())).await),
            }
        }
    }

    /// Whether Kafka answers; where the topic has got more partitions, they are used from now on.
    async fn check(&self, topic: &mut Topic) -> Result<(), RelayError> {
        let count = self.kafka.partition_count(&self.topic).await?;
        if usize::try_from(count) != Ok(topic.len()) {
            *topic = self.connect().await?;
        }
        for partition in topic.iter() {
            partition.offset(OffsetAt::Latest).await?;
        }
        Ok(())
    }

    async fn connect(&self) -> Result<Topic, RelayError> {
        let count = self.kafka.partition_count(&self.topic).await?;
        let known: HashMap<i32, i64> = self.store.positions().await?.into_iter().collect();
        let writers: Vec<_> =
            (0..count).map(|number| Arc::new(self.kafka.partition(&self.topic, number))).collect();
        let mut fresh = Vec::new();
        for writer in writers.iter().filter(|writer| !known.contains_key(&writer.partition())) {
            fresh.push((writer.partition(), writer.offset(OffsetAt::Latest).await?));
        }
        if !fresh.is_empty() {
            self.store.delivered(Delivered { seqs: Vec::new(), positions: fresh }).await?;
        }
        Ok(writers)
    }

    /// Finds out which of the first events of the outbox stand in the topic already, and takes them out.
    async fn settle(&self, topic: &Topic) -> Result<(), RelayError> {
        let window = self.store.outbox_after(0, WINDOW).await?;
        if window.is_empty() {
            return Ok(());
        }
        sleep(LANDING_TIME).await;
        let positions: HashMap<i32, i64> = self.store.positions().await?.into_iter().collect();
        let waiting: HashMap<_, _> = window.iter().map(|entry| (entry.event.event_id, entry.seq)).collect();
        let mut delivered = Delivered::default();
        for partition in topic {
            let Some(position) = positions.get(&partition.partition()) else { continue };
            let number = partition.partition();
            let (end, found) = self.read_tail(partition, *position, &waiting).await?;
            // Should one of them stand in the topic twice all the same, this line explains it.
            log::info!(
                "settled: read {}/{number} from offset {position} to offset {end}, where {} of {} waiting events stood; they are not sent again",
                self.topic,
                found.len(),
                window.len()
            );
            delivered.seqs.extend(found);
            delivered.positions.push((number, end));
        }
        Ok(self.store.delivered(delivered).await?)
    }

    /// The sequence numbers of the waiting events that stand in the partition from `position` on, and the
    /// end of the log.
    async fn read_tail(
        &self,
        partition: &Partition,
        position: i64,
        waiting: &HashMap<uuid::Uuid, u64>,
    ) -> Result<(i64, Vec<u64>), RelayError> {
        let end = partition.offset(OffsetAt::Latest).await?;
        let earliest = partition.offset(OffsetAt::Earliest).await?;
        let mut next = position.max(earliest);
        if position > end {
            log::warn!(
                "topic {} ends at {end}, before the last delivered event: it was made anew",
                self.topic
            );
            next = earliest;
        }
        let mut found = Vec::new();
        while next < end {
            let fetched = match partition.fetch(next, TAIL_BYTES, Duration::from_millis(100)).await {
                // Of another writer: ours are plain.
                Err(KafkaError::Undecodable { .. }) => {
                    next = partition.offset_after_batch(next).await?;
                    continue;
                }
                fetched => fetched?,
            };
            for record in &fetched.records {
                // What is no event of ours is none that we wait for.
                if let Ok(event) = Event::decode(record.record.value.as_deref()) {
                    found.extend(waiting.get(&event.event_id));
                }
            }
            next = fetched.next_offset;
        }
        Ok((end, found))
    }

    /// Sends the events, those of each partition in order, and takes them out of the outbox.
    async fn send(&self, topic: &Topic, window: Vec<OutboxEntry>) -> Result<(), RelayError> {
        let partitions = i32::try_from(topic.len()).unwrap_or(i32::MAX);
        let mut by_partition: BTreeMap<i32, Vec<OutboxEntry>> = BTreeMap::new();
        for entry in window {
            let key = entry.event.data.task_id.to_string();
            by_partition.entry(partition_for_key(key.as_bytes(), partitions)).or_default().push(entry);
        }
        let mut sending = JoinSet::new();
        for (number, entries) in by_partition {
            let Some(writer) = usize::try_from(number).ok().and_then(|number| topic.get(number)) else {
                continue;
            };
            sending.spawn(send_in_order(Arc::clone(writer), entries));
        }
        let mut delivered = Delivered::default();
        let mut failure = None;
        while let Some(joined) = sending.join_next().await {
            match joined {
                Ok((sent, position, error)) => {
                    delivered.seqs.extend(sent);
                    delivered.positions.extend(position);
                    failure = failure.or(error.map(RelayError::from));
                }
                Err(error) => failure = Some(error.into()),
            }
        }
        self.store.delivered(delivered).await?;
        failure.map_or(Ok(()), Err)
    }
}

/// The sequence numbers that were acknowledged, the position behind them, and what went wrong then.
type Sent = (Vec<u64>, Option<(i32, i64)>, Option<KafkaError>);

async fn send_in_order(writer: Arc<Partition>, entries: Vec<OutboxEntry>) -> Sent {
    let (mut seqs, records): (Vec<u64>, Vec<Record>) =
        entries.into_iter().map(|entry| (entry.seq, record(entry))).unzip();
    let (mut sent, mut position, mut failure) = (0, None, None);
    let mut at_most = usize::MAX;
    while let Some(left) = records.get(sent..).filter(|left| !left.is_empty()) {
        let len = request_len(left.iter().map(Record::approximate_size)).min(at_most);
        match writer.produce(left.get(..len).unwrap_or(left), Compression::NoCompression).await {
            Ok(offsets) => {
                log_delivered(&writer, &offsets);
                position = offsets.last().map(|last| (writer.partition(), last + 1));
                sent += len;
            }
            // The topic takes smaller batches than we send: halve them. Nothing of it has landed.
            Err(KafkaError::MessageTooLarge { .. }) if len > 1 => at_most = len / 2,
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    seqs.truncate(sent);
    (seqs, position, failure)
}

fn record(entry: OutboxEntry) -> Record {
    Record {
        key: Some(entry.event.data.task_id.to_string().into_bytes()),
        value: Some(entry.json),
        headers: entry.event.headers(entry.traceparent.as_deref()),
        timestamp: entry.event.occurred_at,
    }
}

fn log_delivered(partition: &Partition, offsets: &[i64]) {
    let (topic, number) = (partition.topic(), partition.partition());
    for offset in offsets {
        log::debug!("Event delivered: topic={topic}, partition={number}, offset={offset}");
    }
    if let (Some(first), Some(last)) = (offsets.first(), offsets.last()) {
        log::info!(
            "Event delivered: topic={topic}, partition={number}, offset={last} ({} events from offset {first})",
            offsets.len()
        );
    }
}
