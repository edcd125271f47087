//! One partition's way from its window to the topic: one request in flight, in order.
//!
//! While a request is in flight, it is put on disk that the events of the one before have left the outbox
//! ([`Mark`]): with the next changes, or when that is waited for. Where it fails, they are in doubt again, and found
//! in the topic.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use log::Level;
use task_events::backoff::Backoff;
use task_events::kafka::{
    Compression, Kafka, KafkaError, OffsetAt, Position, Producer, ProducerRecord, REQUEST_TIMEOUT,
};
use task_events::logging::{self, CORRELATION_ID, Field};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::batch_limit::BatchLimit;
use super::error::RelayError;
use super::metrics;
use super::pace::{FULL_REQUEST_BYTES, Pace};
use super::reconcile::{Reconcile, not_replicated};
use super::report::Report;
use super::window::{Window, request_size};
use crate::store::{Delivered, OutboxEntry, PublishedTopic, Store, StoreError};

/// How long an acknowledgement by all in-sync replicas may take: longer than the 30 s after which a leader
/// gives up waiting for them and says so.
const ACKNOWLEDGEMENT_TIMEOUT: Duration = Duration::from_secs(40);
/// How often the leader of a request that is overdue is asked what it waits for.
const OVERDUE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// A position that is older is renewed before the next event is sent, so that what has to be read after
/// doubt does not grow with what others wrote meanwhile.
const MAX_POSITION_AGE: Duration = Duration::from_secs(600);

/// What sends the events of one partition.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) store: Store,
    pub(super) kafka: Kafka,
    pub(super) producer: Producer,
    pub(super) window: Arc<Window>,
    pub(super) report: Arc<Report>,
    /// To which, and by how many partitions, events are sent.
    pub(super) topic: PublishedTopic,
    /// After the last event that is known to be in the partition. `None`: nothing was ever sent there.
    pub(super) position: Option<Position>,
    /// When the position was last known to be that far.
    pub(super) noted: Option<Instant>,
    /// What was last found in the topic, and logged, while it cannot be put on disk: logged once, however often
    /// it is tried again.
    pub(super) reconciled: Option<String>,
    pub(super) pace: Pace,
    /// Wakes the dispatcher when the topic is to be looked at.
    pub(super) recheck: Arc<Notify>,
}

impl Lane {
    /// Sends for ever.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::for_kafka();
        loop {
            let Err(error) = self.publish(&mut backoff).await;
            self.report.lane_failed(self.producer.partition(), &error);
            if matches!(error, RelayError::Kafka(_)) {
                self.recheck.notify_one();
            }
            sleep(backoff.next_delay()).await;
        }
    }

    async fn publish(&mut self, backoff: &mut Backoff) -> Result<Infallible, RelayError> {
        let mut mark = Mark::default();
        let stopped = self.send_all(&mut mark, backoff).await;
        // Also where the next request failed.
        mark.hurry(&self.store);
        let marked = mark.end().await;
        self.take_position(&mut mark);
        self.window.doubt_acknowledged();
        stopped.and_then(|never| marked.map(|()| never).map_err(RelayError::from))
    }

    async fn send_all(&mut self, mark: &mut Mark, backoff: &mut Backoff) -> Result<Infallible, RelayError> {
        let mut limit = BatchLimit::new();
        loop {
            while self.window.in_doubt() {
                mark.hurry(&self.store);
                mark.end().await?;
                self.take_position(mark);
                self.reconcile().await?;
            }
            tokio::select! {
                biased;
                marked = mark.end(), if mark.is_running() => {
                    marked?;
                    self.take_position(mark);
                    continue;
                }
                () = self.window.due(&self.pace, limit.bytes().min(FULL_REQUEST_BYTES)) => {}
            }
            if self.noted.is_none_or(|noted| noted.elapsed() >= MAX_POSITION_AGE) {
                mark.hurry(&self.store);
                mark.end().await?;
                self.take_position(mark);
                self.note_position().await?;
            }
            let request = self.window.begin_request(limit.bytes());
            if request.is_empty() {
                continue;
            }
            self.pace.begin(request.len());
            match self.send(&request, mark).await {
                // The topic takes smaller batches than this: halve it. Nothing of it has landed.
                Err(RelayError::Kafka(KafkaError::MessageTooLarge { .. })) if request.len() > 1 => {
                    limit.refused(request_size(&request));
                }
                sent => sent?,
            }
            *backoff = Backoff::for_kafka();
        }
    }

    fn take_position(&mut self, mark: &mut Mark) {
        if let Some(position) = mark.reached.take() {
            self.move_to(position);
        }
    }

    /// Puts the position on disk before anything is sent: whatever is sent is at or after it.
    async fn note_position(&mut self) -> Result<(), RelayError> {
        let (topic, partition) = (self.producer.topic(), self.producer.partition());
        let offset = self.kafka.list_offset(topic, partition, OffsetAt::LogEnd).await?;
        self.store.delivered(self.delivered(Vec::new(), offset)).await?;
        self.move_to(Position { topic_id: self.topic_id(), ..Position::at(offset) });
        Ok(())
    }

    /// That these events are in the topic, which goes on at that offset.
    fn delivered(&self, seqs: Vec<u64>, offset: i64) -> Delivered {
        let partition = self.producer.partition();
        Delivered { topic: self.topic, partition, seqs, scattered: Vec::new(), position: Some(offset) }
    }

    fn topic_id(&self) -> Option<Uuid> {
        Some(self.topic.topic_id).filter(|id| !id.is_nil())
    }

    fn move_to(&mut self, position: Position) {
        self.position = Some(position);
        self.noted = Some(Instant::now());
    }

    /// Takes the events out of the window and the outbox that are in the topic already. Where all of them are,
    /// those that follow may be as well: the store is older than the topic, restored from a backup. Then it stays
    /// in doubt, and the next ones are looked for from there.
    async fn reconcile(&mut self) -> Result<(), RelayError> {
        let pending = self.window.loaded().await;
        let (topic, partition) = (self.producer.topic(), self.producer.partition());
        if let Some(position) = self.position.filter(|_| !pending.is_empty()) {
            let reconcile = Reconcile { kafka: &self.kafka, topic, partition, pending: &pending };
            let found = reconcile.run(position, |why| self.report.lane_waits(partition, why)).await?;
            let outcome = reconcile.describe(&found);
            if self.reconciled.as_ref() != Some(&outcome) {
                log::info!(topic, partition, offset = found.end.offset; "{outcome}");
                self.reconciled = Some(outcome);
            }
            let mut seqs: Vec<u64> = found.seqs.iter().copied().collect();
            seqs.sort_unstable();
            // Those behind the first one that is missing are no sign that it was delivered.
            let missing = pending.values().filter(|seq| !found.seqs.contains(seq)).min().copied();
            let scattered = seqs.partition_point(|seq| missing.is_none_or(|missing| *seq < missing));
            let scattered = seqs.split_off(scattered);
            let removed = [seqs.as_slice(), scattered.as_slice()].concat();
            let delivered = Delivered { scattered, ..self.delivered(seqs, found.end.offset) };
            self.store.delivered(delivered).await?;
            self.reconciled = None;
            self.move_to(found.end);
            self.window.remove(&removed);
            if removed.len() == pending.len() {
                self.window.load_again();
                return Ok(());
            }
        }
        self.window.clear_doubt();
        Ok(())
    }

    /// Sends one request, and meanwhile ends the mark of the last one. Its own is begun afterwards.
    async fn send(&mut self, entries: &[Arc<OutboxEntry>], mark: &mut Mark) -> Result<(), RelayError> {
        let mut marked = Ok(());
        let produced = {
            let mut produced = pin!(self.produce(entries));
            loop {
                tokio::select! {
                    biased;
                    ended = mark.end(), if mark.is_running() => marked = ended,
                    produced = &mut produced => break produced,
                }
            }
        };
        self.window.end_request();
        let offsets = match produced {
            Ok(offsets) => offsets,
            Err(error) => {
                if error.nothing_landed() {
                    self.window.clear_doubt();
                }
                marked?;
                return Err(error.into());
            }
        };
        self.window.acknowledge(entries);
        self.report.lane_published(self.producer.partition());
        let position = self.acknowledged(entries, &offsets, mark.reached.or(self.position)).await;
        marked?;
        mark.hurry(&self.store);
        mark.end().await?;
        self.take_position(mark);
        let delivered = self.delivered(entries.iter().map(|entry| entry.seq).collect(), position.offset);
        mark.begin(&self.store, &self.window, delivered, position);
        Ok(())
    }

    async fn produce(&self, entries: &[Arc<OutboxEntry>]) -> Result<Vec<i64>, KafkaError> {
        let partition = self.producer.partition();
        if let Some(wait) = self.producer.throttled().await {
            self.report.lane_waits(partition, format!("a quota of the broker, for {} ms", wait.as_millis()));
            sleep(wait).await;
        }
        if !self.store.may_publish() {
            let call = format!("produce to {}/{partition}", self.producer.topic());
            return Err(KafkaError::Failed { call, detail: "the relay's turn is over".to_owned() });
        }
        self.report.lane_sends(partition);
        let (limit, begun) = (ACKNOWLEDGEMENT_TIMEOUT, Instant::now());
        let outcome = tokio::select! {
            biased;
            produced = self.producer.produce_from(|| records(entries), Compression::NoCompression, limit) => produced,
            lost = self.answer_lost() => {
                self.producer.disconnect().await;
                Err(lost)
            }
        };
        metrics::sent(begun.elapsed(), outcome.is_ok());
        outcome
    }

    /// Ends when a request is overdue though its leader waits for no replica: then its answer was lost.
    async fn answer_lost(&self) -> KafkaError {
        let (topic, partition) = (self.producer.topic(), self.producer.partition());
        let call = format!("produce to {topic}/{partition}");
        sleep(REQUEST_TIMEOUT).await;
        loop {
            // In this order: what others append in between does not look like a replica that is behind.
            let end = self.kafka.list_offset(topic, partition, OffsetAt::LogEnd).await;
            let replicated = self.kafka.list_offset(topic, partition, OffsetAt::Latest).await;
            match (end, replicated) {
                (Ok(end), Ok(replicated)) if replicated < end => {
                    self.report.lane_waits(partition, not_replicated(end, replicated));
                }
                _ => return KafkaError::Timeout { call, after: REQUEST_TIMEOUT },
            }
            sleep(OVERDUE_CHECK_INTERVAL).await;
        }
    }

    /// Logs what was acknowledged, and returns the position after it.
    async fn acknowledged(
        &self,
        entries: &[Arc<OutboxEntry>],
        offsets: &[i64],
        before: Option<Position>,
    ) -> Position {
        let (topic, partition) = (self.producer.topic(), self.producer.partition());
        let before = before.unwrap_or_default();
        let (Some(first), Some(last)) = (offsets.first(), offsets.last()) else { return before };
        if log::log_enabled!(Level::Debug) {
            for (entry, offset) in entries.iter().zip(offsets) {
                let (id, event) = (entry.event.metadata.correlation_id, entry.event.event_id);
                log::debug!(
                    correlation_id:% = id, event_id:% = event, topic, partition, offset;
                    "Event delivered: topic={topic}, partition={partition}, offset={offset}"
                );
            }
        }
        // Of several events, each has its own.
        let alone = if let [entry] = entries { Some(entry.event.metadata.correlation_id) } else { None };
        let fields = [
            Field::new(CORRELATION_ID, alone),
            Field::new("topic", topic),
            Field::new("partition", partition),
            Field::new("offset", *last),
            Field::new("events", i64::try_from(offsets.len()).unwrap_or(i64::MAX)),
        ];
        logging::line(
            Level::Info,
            module_path!(),
            &fields,
            format_args!(
                "Event delivered: topic={topic}, partition={partition}, offset={last} ({} events from offset {first})",
                offsets.len()
            ),
        );
        if before.offset > *first {
            log::warn!(
                "{topic}/{partition} was truncated: it ended at offset {first}, though what was before offset {} had been acknowledged; what was in between is lost",
                before.offset
            );
        }
        Position {
            offset: last + 1,
            leader_epoch: self.producer.leader_epoch().await,
            topic_id: self.topic_id(),
        }
    }
}

/// Acknowledged events leaving the outbox: at most those of one request.
#[derive(Default)]
struct Mark {
    running: Option<Running>,
    /// The position that the last one put on disk.
    reached: Option<Position>,
}

struct Running {
    on_disk: Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>,
    position: Position,
}

impl Mark {
    /// To be called when none is running.
    fn begin(&mut self, store: &Store, window: &Arc<Window>, delivered: Delivered, position: Position) {
        let (store, window) = (store.clone(), Arc::clone(window));
        let on_disk = Box::pin(async move {
            let count = delivered.seqs.len();
            store.delivered_with_others(delivered).await?;
            window.remove_acknowledged(count);
            Ok(())
        });
        self.running = Some(Running { on_disk, position });
    }

    /// It is waited for.
    fn hurry(&self, store: &Store) {
        if self.is_running() {
            store.hurry();
        }
    }

    fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Returns when none is running any more. Can be called again where it was given up.
    async fn end(&mut self) -> Result<(), StoreError> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let ended = running.on_disk.as_mut().await;
        let position = running.position;
        self.running = None;
        ended?;
        // Not before: after an error the events are looked for from the position before them.
        self.reached = Some(position);
        Ok(())
    }
}

/// The events as records. Their time is that of sending, also where the topic keeps the producer's times: by
/// that of the event, one that waited longer than the topic's retention would be deleted at once.
///
/// rskafka takes records by value and owns each key, value and header: this is the one copy of them.
fn records(entries: &[Arc<OutboxEntry>]) -> Vec<ProducerRecord> {
    let timestamp = Utc::now();
    let record = |entry: &Arc<OutboxEntry>| ProducerRecord {
        key: Some(entry.event.data.task_id.to_string().into_bytes()),
        value: Some(entry.payload.clone()),
        headers: entry.event.headers(entry.encoding.content_type(), entry.traceparent.as_deref()),
        timestamp,
    };
    entries.iter().map(record).collect()
}
