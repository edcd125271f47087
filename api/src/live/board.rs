//! What is known, and the messages that watchers get: server-sent events, each rendered once.
//!
//! A watcher joins under the same lock under which messages are sent, so its snapshot and what follows fit together.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::web::Bytes;
use chrono::Utc;
use serde::Serialize;
use task_events::config::TopicArgs;
use task_events::event::Malformed;
use task_events::kafka::{ConsumerRecord, KafkaError};
use task_events::operate::letters::Letters;
use task_events::operate::scan::LogRange;
use task_events::time::format_time;
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::history::{History, Sample};
use super::rows::{Api, DeadLetters, EventRow, Finding, GroupRow, MAX_LETTERS};

/// Messages that may wait for a watcher. Some four a second come.
pub const QUEUE: usize = 64;
/// The newest events, as a snapshot has them.
const EVENTS: usize = 50;
/// Events of one message: of more that come at once the newest.
const EVENTS_PER_MESSAGE: usize = 25;
/// Without an answer of Kafka for this long, it is called unreachable. One comes twice a second.
const CONTACT_GAP: Duration = Duration::from_secs(3);

/// What is known, and who watches.
#[derive(Debug)]
pub(super) struct Board {
    known: Mutex<Known>,
    messages: broadcast::Sender<Bytes>,
}

/// What was read so far.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) bootstrap: String,
    pub(super) events_topic: String,
    pub(super) dlq_topic: String,
    pub(super) offsets_topic: String,
    pub(super) topics: HashMap<String, TopicView>,
    /// When Kafka last answered, or the reader was started.
    contact: Instant,
    pub(super) letters: Letters,
    pub(super) history: History,
    events: VecDeque<EventRow>,
    /// Those that were not sent yet.
    fresh: VecDeque<EventRow>,
    fresh_left_out: u64,
    letters_changed: bool,
    tick: Option<String>,
    snapshot: Option<Bytes>,
}

/// What is known of a topic.
#[derive(Debug, Default)]
pub(super) struct TopicView {
    /// How many partitions it has; 0 where that is not known.
    pub(super) partitions: i32,
    pub(super) ranges: BTreeMap<i32, LogRange>,
    /// What reading it fails with.
    pub(super) failure: Option<KafkaError>,
}

/// Once a second: what changes all the time.
#[derive(Serialize)]
struct Tick<'a> {
    now: String,
    kafka: KafkaPart<'a>,
    api: &'a Api,
    topics: Vec<TopicPart<'a>>,
    groups: &'a [GroupRow],
    health: Vec<Finding>,
    sample: Option<&'a Sample>,
}

#[derive(Serialize)]
struct KafkaPart<'a> {
    bootstrap: &'a str,
    reachable: bool,
    /// For how long it has not answered.
    silent_seconds: Option<u64>,
}

#[derive(Serialize)]
struct TopicPart<'a> {
    topic: &'a str,
    partitions: i32,
    end_offset: i64,
}

#[derive(Serialize)]
struct Events<'a> {
    events: Vec<&'a EventRow>,
    /// Events that came, and are not shown.
    left_out: u64,
}

/// All that a new watcher has to know.
#[derive(Serialize)]
struct Snapshot<'a> {
    tick: Option<&'a serde_json::value::RawValue>,
    events: Vec<&'a EventRow>,
    letters: DeadLetters<'a>,
    history: &'a History,
}

impl Board {
    pub(super) fn new(bootstrap: String, topics: &TopicArgs) -> Self {
        let known = Known {
            bootstrap,
            events_topic: topics.task_events_topic.clone(),
            dlq_topic: topics.dlq_topic.clone(),
            offsets_topic: topics.offsets_topic.clone(),
            topics: HashMap::new(),
            contact: Instant::now(),
            letters: Letters::default(),
            history: History::default(),
            events: VecDeque::new(),
            fresh: VecDeque::new(),
            fresh_left_out: 0,
            letters_changed: false,
            tick: None,
            snapshot: None,
        };
        Self { known: Mutex::new(known), messages: broadcast::Sender::new(QUEUE) }
    }

    /// A snapshot, and the messages that follow it.
    pub(super) fn join(&self) -> (Bytes, broadcast::Receiver<Bytes>) {
        let mut known = self.known();
        let snapshot = match &known.snapshot {
            Some(snapshot) => snapshot.clone(),
            None => {
                let snapshot = known.snapshot();
                known.snapshot = Some(snapshot.clone());
                snapshot
            }
        };
        (snapshot, self.messages.subscribe())
    }

    /// How many partitions a topic has.
    pub(super) fn partitions(&self, topic: &str, count: i32) {
        let mut known = self.known();
        known.contact = Instant::now();
        let view = known.topic(topic);
        view.partitions = count;
        view.failure = None;
        view.ranges.retain(|partition, _| *partition < count);
    }

    /// A partition was read.
    pub(super) fn range(&self, topic: &str, partition: i32, range: LogRange) {
        let mut known = self.known();
        known.contact = Instant::now();
        let view = known.topic(topic);
        view.failure = None;
        view.ranges.insert(partition, range);
    }

    /// What the ranges of partitions are that no reader follows; `None` for one that is gone.
    pub(super) fn other_range(&self, topic: &str, partition: i32, range: Option<LogRange>) {
        let mut known = self.known();
        let view = known.topic(topic);
        match range {
            Some(range) => view.ranges.insert(partition, range),
            None => view.ranges.remove(&partition),
        };
    }

    /// Reading a topic fails.
    pub(super) fn failing(&self, topic: &str, error: KafkaError) {
        let mut known = self.known();
        if error.is_answer() {
            known.contact = Instant::now();
        }
        known.topic(topic).failure = Some(error);
    }

    /// Events came. So many more came and were not read.
    pub(super) fn events(&self, rows: Vec<EventRow>, left_out: u64) {
        let mut known = self.known();
        known.fresh_left_out += left_out;
        for row in rows {
            known.fresh.push_back(row);
            if known.fresh.len() > EVENTS_PER_MESSAGE {
                known.fresh.pop_front();
                known.fresh_left_out += 1;
            }
        }
    }

    /// A record of the DLQ came.
    pub(super) fn dead_letter(&self, partition: i32, record: &ConsumerRecord) -> Result<(), Malformed> {
        let mut known = self.known();
        known.letters_changed = true;
        known.letters.apply(partition, record, MAX_LETTERS)
    }

    /// Sends what came since the last time.
    pub(super) fn send_news(&self) {
        let mut known = self.known();
        let known = &mut *known;
        if !known.fresh.is_empty() || known.fresh_left_out > 0 {
            let events = Events { events: known.fresh.iter().collect(), left_out: known.fresh_left_out };
            let message = message("events", &events);
            known.fresh_left_out = 0;
            known.events.append(&mut known.fresh);
            let surplus = known.events.len().saturating_sub(EVENTS);
            known.events.drain(..surplus);
            self.send(known, message);
        }
        if std::mem::take(&mut known.letters_changed) {
            let message = message("letters", &DeadLetters::of(&known.letters));
            self.send(known, message);
        }
    }

    /// Sends counters, groups and health.
    pub(super) fn send_tick(
        &self,
        api: &Api,
        groups: &[GroupRow],
        findings: impl FnOnce(&Known) -> Vec<Finding>,
    ) {
        let mut known = self.known();
        let known = &mut *known;
        let end = known.topics.get(&known.events_topic).and_then(TopicView::end);
        known.history.add(end, groups);
        let health = findings(known);
        let topics = [&known.events_topic, &known.dlq_topic].into_iter().filter_map(|topic| {
            let view = known.topics.get(topic)?;
            Some(TopicPart { topic, partitions: view.partitions, end_offset: view.end()? })
        });
        let tick = Tick {
            now: format_time(Utc::now()),
            kafka: KafkaPart {
                bootstrap: &known.bootstrap,
                reachable: known.silent_for().is_none(),
                silent_seconds: known.silent_for().map(|silent| silent.as_secs()),
            },
            api,
            topics: topics.collect(),
            groups,
            health,
            sample: known.history.last(),
        };
        // Strings and numbers always serialise.
        let json = serde_json::to_string(&tick).unwrap_or_default();
        let message = Bytes::from(format!("event: tick\ndata: {json}\n\n"));
        known.tick = Some(json);
        self.send(known, message);
    }

    fn send(&self, known: &mut Known, message: Bytes) {
        known.snapshot = None;
        // Nobody may watch at the moment.
        let _ = self.messages.send(message);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what is known.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Known) -> T) -> T {
        look(&self.known())
    }
}

impl Known {
    fn topic(&mut self, topic: &str) -> &mut TopicView {
        self.topics.entry(topic.to_owned()).or_default()
    }

    /// What is known of a partition's range.
    pub(super) fn range(&self, topic: &str, partition: i32) -> Option<LogRange> {
        self.topics.get(topic)?.ranges.get(&partition).copied()
    }

    /// For how long Kafka has not answered, where that is longer than usual.
    pub(super) fn silent_for(&self) -> Option<Duration> {
        Some(self.contact.elapsed()).filter(|silent| *silent > CONTACT_GAP)
    }

    fn snapshot(&self) -> Bytes {
        let tick = self.tick.as_ref().and_then(|tick| serde_json::from_str(tick).ok());
        message(
            "snapshot",
            &Snapshot {
                tick,
                events: self.events.iter().collect(),
                letters: DeadLetters::of(&self.letters),
                history: &self.history,
            },
        )
    }
}

impl TopicView {
    /// The sum of the ends of all partitions, once each is known.
    fn end(&self) -> Option<i64> {
        let is_known = self.partitions > 0 && self.ranges.len() >= usize::try_from(self.partitions).ok()?;
        is_known.then(|| self.ranges.values().map(|range| range.end).sum())
    }
}

/// A server-sent event. JSON has no line breaks.
fn message(name: &str, value: &impl Serialize) -> Bytes {
    // Strings and numbers always serialise.
    let json = serde_json::to_string(value).unwrap_or_default();
    Bytes::from(format!("event: {name}\ndata: {json}\n\n"))
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast::error::TryRecvError;

    use super::*;

    fn board() -> Board {
        let [task_events_topic, offsets_topic, dlq_topic] = ["e", "o", "d"].map(str::to_owned);
        Board::new("b:1".to_owned(), &TopicArgs { task_events_topic, offsets_topic, dlq_topic })
    }

    #[tokio::test]
    async fn a_watcher_that_never_reads_is_dropped_and_holds_up_no_other() {
        let board = board();
        let tick = || board.send_tick(&Api::default(), &[], |_| Vec::new());
        let (_, mut slow) = board.join();
        let (_, mut quick) = board.join();
        for _ in 0..=QUEUE {
            tick();
            assert!(quick.try_recv().unwrap().starts_with(b"event: tick\ndata: {"));
        }
        assert!(matches!(slow.try_recv(), Err(TryRecvError::Lagged(_))));
        let (snapshot, mut again) = board.join();
        assert!(
            snapshot.starts_with(b"event: snapshot\ndata: {\"tick\":{\"now\""),
            "it knows all that was sent"
        );
        assert!(matches!(again.try_recv(), Err(TryRecvError::Empty)));
    }

    #[tokio::test]
    async fn of_many_events_the_newest_are_sent_and_the_others_counted() {
        let board = board();
        let (_, mut watcher) = board.join();
        let rows = (0..100).map(|offset| EventRow::unreadable(0, offset, "x"));
        board.events(rows.collect(), 1_000);
        board.send_news();
        board.send_news();
        let message = String::from_utf8(watcher.try_recv().unwrap().to_vec()).unwrap();
        assert!(message.contains("\"left_out\":1075"), "{message}");
        assert!(message.contains("\"offset\":99") && !message.contains("\"offset\":74"), "{message}");
        assert!(matches!(watcher.try_recv(), Err(TryRecvError::Empty)), "once");
    }
}
