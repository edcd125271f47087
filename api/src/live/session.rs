//! The reader: a thread with a runtime and connections of its own, so that all of it ends together.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use task_events::kafka::Kafka;
use tokio::runtime::{Builder, Handle};
use tokio::select;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::board::Board;
use super::groups::{Groups, ask_for_others};
use super::health::{self, Facts};
use super::rows::Api;
use super::sources::Sources;
use super::{dead, feed};

/// How often what is new is sent.
const STEP: Duration = Duration::from_millis(250);
/// A tick (counters, groups, health) is sent with each of so many steps: once a second.
const STEPS_PER_TICK: u32 = 4;
/// Time until a topic is looked for again, or whether it has other partitions.
const PARTITIONS_CHECK: Duration = Duration::from_secs(5);

/// The reader while it runs. It ends with this value.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) board: Arc<Board>,
    pub(super) kafka: Kafka,
    /// Of its runtime, once that is there.
    pub(super) handle: watch::Receiver<Option<Handle>>,
    _stop: watch::Sender<()>,
}

impl Session {
    /// Starts to read; ends when `idle` does, too.
    pub(super) fn start(
        sources: Arc<Sources>,
        idle: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<Self> {
        let kafka = (sources.kafka)();
        let board = Arc::new(Board::new(kafka.bootstrap(), &sources.topics));
        let (sender, handle) = watch::channel(None);
        let (stop, mut stopped) = watch::channel(());
        let (reader_board, reader_kafka) = (Arc::clone(&board), kafka.clone());
        thread::Builder::new().name("live-page".to_owned()).spawn(move || {
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return log::warn!("the live page cannot read: {error}"),
            };
            sender.send_replace(Some(runtime.handle().clone()));
            runtime.block_on(async {
                select! {
                    _ = stopped.changed() => {}
                    () = idle => {}
                    () = read(reader_kafka, sources, reader_board) => {}
                }
            });
            // A name that is being resolved does not hold it up.
            runtime.shutdown_background();
        })?;
        Ok(Self { board, kafka, handle, _stop: stop })
    }
}

async fn read(kafka: Kafka, sources: Arc<Sources>, board: Arc<Board>) {
    let topics = &sources.topics;
    let groups = Groups::open(&kafka, topics);
    tokio::join!(
        ask_for_others(kafka.clone(), topics.clone(), groups.view(), Arc::clone(&board)),
        publish(groups, &sources, &board),
        follow(&kafka, &topics.task_events_topic, &board, |kafka, topic, partition, board| {
            feed::partition(kafka, topic, partition, board, sources.events.clone())
        }),
        follow(&kafka, &topics.dlq_topic, &board, dead::partition),
    );
}

/// Follows each partition of a topic, also those that it is given later.
async fn follow<F>(
    kafka: &Kafka,
    topic: &str,
    board: &Arc<Board>,
    partition: impl Fn(Kafka, String, i32, Arc<Board>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut followed = BTreeSet::new();
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        match kafka.partition_count(topic).await {
            Ok(count) => {
                board.partitions(topic, count);
                // One that is gone is reported, and read again once it is back.
                for number in (0..count).filter(|number| followed.insert(*number)) {
                    tasks.spawn(partition(kafka.clone(), topic.to_owned(), number, Arc::clone(board)));
                }
            }
            Err(error) => board.failing(topic, error),
        }
        sleep(PARTITIONS_CHECK).await;
    }
}

/// Sends what is new, at most once in a [`STEP`].
async fn publish(mut groups: Groups, sources: &Sources, board: &Board) {
    let mut steps = interval(STEP);
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let start = Instant::now();
    let mut number = 0_u32;
    loop {
        steps.tick().await;
        board.send_news();
        if number.is_multiple_of(STEPS_PER_TICK) {
            let rows = groups.look(board);
            let api = api(sources).await;
            let facts = Facts { api: &api, groups: &rows, offsets: groups.failure(), since: start };
            board.send_tick(&api, &rows, |known| health::findings(&facts, known));
        }
        number = number.wrapping_add(1);
    }
}

async fn api(sources: &Sources) -> Api {
    let relay = sources.relay.borrow().clone();
    let waiting = sources.store.outbox().borrow().waiting;
    let oldest = if waiting > 0 { sources.store.oldest_age().await } else { None };
    Api {
        store_failure: sources.store.failure(),
        kafka_reachable: relay.reachable,
        waiting_for: relay.waiting_for,
        outbox: waiting,
        oldest_seconds: oldest.map(|age| age.as_secs()),
    }
}
