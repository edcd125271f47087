//! Reads the outbox in order and fills the window of each partition.
//!
//! The outbox is one queue by sequence number, of which the last events are in memory. For each partition the dispatcher knows up to where its events
//! are in its window ([`Lanes::next`]). It reads on from the lowest such place among the partitions that
//! have free space, for all of them at once. So a partition that is down, once its window is full, is not read for
//! and holds up nobody, and where several have fallen behind together, the outbox is read once for all.
//! Memory is bounded by the windows, whatever waits.
//!
//! It also watches the topic. Where that has more partitions than are used, nothing more is sent until all
//! that was sent is acknowledged; then the events go by the new count, so that no task is reordered.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use task_events::backoff::Backoff;
use task_events::kafka::{Kafka, Position, TopicInfo};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use uuid::Uuid;

use super::error::RelayError;
use super::held_turn::while_held;
use super::lane::Lane;
use super::pace::Pace;
use super::report::Report;
use super::window::Window;
use crate::store::{PublishedTopic, Store, partition_of};

/// Pending events of one partition in memory, at most.
pub const WINDOW: usize = 2_000;
/// Events of all partitions in memory, about; each partition has [`WINDOW`] at most and [`MIN_WINDOW`] at
/// least.
const ALL_WINDOWS: usize = 4 * WINDOW;
const MIN_WINDOW: usize = 16;
/// Entries of the outbox that are looked at in one read.
const SCAN: usize = 1_024;
/// After several events at once the outbox is not read again for so long: under load each group of the store's writer
/// would wake the dispatcher, and a request to the topic waits longer for more of them (see [`super::pace`]).
const FILL_PAUSE: Duration = Duration::from_millis(3);
/// How often the topic is looked at: for its partitions, and for readiness.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// The topic is looked at no more often than this, also where partitions fail.
const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// How long sending is held back for a change of the partition count; where that does not suffice, it goes
/// on by the old count and is tried again later.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Dispatcher {
    pub(super) store: Store,
    pub(super) kafka: Kafka,
    pub(super) topic: String,
    pub(super) report: Arc<Report>,
}

/// How to publish from now on.
struct Plan {
    topic: PublishedTopic,
    positions: HashMap<i32, Position>,
    /// What was sent before may be in the topic.
    in_doubt: bool,
}

/// The partitions in use.
struct Lanes {
    windows: Vec<Arc<Window>>,
    /// For each partition: its events with lower sequence numbers are in its window, or were.
    next: Vec<u64>,
    freed: Arc<Notify>,
    /// What the cluster says of the topic, each time it is asked.
    infos: mpsc::Receiver<TopicInfo>,
    /// That there are more partitions than can be used yet was logged.
    more_logged: bool,
    /// Ends with this value, and what is in flight with it.
    _tasks: JoinSet<()>,
}

/// What the topic has become.
enum Change {
    MorePartitions,
    /// Created again.
    AnotherTopic,
}

impl Dispatcher {
    /// Publishes for ever, while it is this process's turn.
    pub(super) async fn run(&self) {
        loop {
            let turn = {
                let mut waiting = pin!(self.store.turn());
                loop {
                    tokio::select! {
                        biased;
                        turn = &mut waiting => break turn,
                        () = self.look() => {}
                    }
                }
            };
            while_held(turn, &self.report, self.publish()).await;
            // What a lane waited for is another replica's matter now.
            self.report.set_lanes(std::iter::empty());
        }
    }

    /// Looks whether Kafka answers, which a replica that does not publish reports too.
    async fn look(&self) {
        match self.kafka.topic(&self.topic).await {
            Ok(_) => self.report.answered(),
            Err(error) => self.report.failed(&error.into()),
        }
        sleep(CHECK_INTERVAL).await;
    }

    async fn publish(&self) {
        let mut backoff = Backoff::for_kafka();
        let mut plan = loop {
            match self.first_plan().await {
                Ok(plan) => break plan,
                Err(error) => self.report.failed(&error),
            }
            sleep(backoff.next_delay()).await;
        };
        loop {
            self.report.answered();
            let mut lanes = self.open_lanes(&plan);
            plan = self.dispatch(&plan, &mut lanes).await;
        }
    }

    /// After a start: what the last process sent, by the partitions that it used, may be in the topic.
    async fn first_plan(&self) -> Result<Plan, RelayError> {
        let info = self.kafka.topic(&self.topic).await?;
        let now = published(&info);
        let known = self.store.published_topic();
        let rows = self.store.positions();
        let topic = match known {
            Some(known) if now.is_another_than(&known) => return self.another_topic(&known, &info).await,
            Some(known) => PublishedTopic { topic_id: info.id, ..known },
            // Stored by a version that kept a position for each partition and no count.
            None => match rows.iter().map(|(number, _)| number + 1).max() {
                Some(used) if used <= now.partitions => PublishedTopic { partitions: used, ..now },
                Some(_) | None => now,
            },
        };
        self.store.publish_to(topic).await?;
        Ok(Plan { topic, positions: positions(rows, &info), in_doubt: true })
    }

    /// A topic that was created again. What was in flight may have landed in it, at its start.
    async fn another_topic(&self, known: &PublishedTopic, info: &TopicInfo) -> Result<Plan, RelayError> {
        let topic = published(info);
        log::warn!(
            "topic {} was deleted and created again, with {} partitions in place of {}: events that were acknowledged and not yet read are lost with the old one; what waits in the outbox goes to the new one",
            self.topic,
            topic.partitions,
            known.partitions
        );
        self.store.publish_to(topic).await?;
        let positions = (0..topic.partitions).map(|number| (number, Position::at(0))).collect();
        Ok(Plan { topic, positions, in_doubt: true })
    }

    fn open_lanes(&self, plan: &Plan) -> Lanes {
        let partitions = usize::try_from(plan.topic.partitions).unwrap_or(0).max(1);
        let capacity = (ALL_WINDOWS / partitions).clamp(MIN_WINDOW, WINDOW);
        let (freed, recheck) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let topic_id = Some(plan.topic.topic_id).filter(|id| !id.is_nil());
        let mut tasks = JoinSet::new();
        let mut windows = Vec::with_capacity(partitions);
        for number in 0..plan.topic.partitions {
            let window = Arc::new(Window::new(capacity, plan.in_doubt, Arc::clone(&freed)));
            let lane = Lane {
                store: self.store.clone(),
                kafka: self.kafka.clone(),
                producer: self.kafka.producer(&self.topic, number).only_to(topic_id),
                window: Arc::clone(&window),
                report: Arc::clone(&self.report),
                topic: plan.topic,
                position: plan.positions.get(&number).copied(),
                noted: None,
                reconciled: None,
                pace: Pace::default(),
                recheck: Arc::clone(&recheck),
            };
            tasks.spawn(lane.run());
            windows.push(window);
        }
        self.report.set_lanes((0..).zip(windows.iter().cloned()));
        let (sender, infos) = mpsc::channel(1);
        let (kafka, topic, report) = (self.kafka.clone(), self.topic.clone(), Arc::clone(&self.report));
        tasks.spawn(async move { watch_topic(&kafka, &topic, &report, &recheck, sender).await });
        Lanes { next: vec![0; windows.len()], windows, freed, infos, more_logged: false, _tasks: tasks }
    }

    /// Fills the windows until the topic is another.
    async fn dispatch(&self, plan: &Plan, lanes: &mut Lanes) -> Plan {
        let mut outbox = self.store.outbox();
        let mut backoff = Backoff::for_kafka();
        loop {
            let last_seq = outbox.borrow_and_update().last_seq;
            match self.fill(lanes, last_seq).await {
                Ok(took_several) => {
                    backoff = Backoff::for_kafka();
                    if took_several {
                        sleep(FILL_PAUSE).await;
                    }
                }
                Err(error) => {
                    self.report.failed(&error);
                    sleep(backoff.next_delay()).await;
                    continue;
                }
            }
            tokio::select! {
                // The sender is the store's own.
                _ = outbox.changed() => {}
                () = lanes.freed.notified() => {}
                Some(info) = lanes.infos.recv() => {
                    if let Some(plan) = self.replan(plan, lanes, info).await {
                        return plan;
                    }
                }
            }
        }
    }

    /// Reads the outbox on, for all partitions that have free space. Returns whether it found several events, and no
    /// more than there is space for.
    async fn fill(&self, lanes: &mut Lanes, last_seq: u64) -> Result<bool, RelayError> {
        let mut found = 0;
        let partitions = i32::try_from(lanes.windows.len()).unwrap_or(i32::MAX);
        loop {
            let free: Vec<usize> = lanes.windows.iter().map(|window| window.free()).collect();
            let wanting = free.iter().zip(&lanes.next).filter(|(free, _)| **free > 0).map(|(_, next)| *next);
            let Some(from) = wanting.min().filter(|from| *from <= last_seq) else {
                for ((number, window), next) in (0..).zip(&lanes.windows).zip(&lanes.next) {
                    window.set_loaded(*next > last_seq && self.store.has_scanned_all(number, *next));
                }
                return Ok(found > 1 && lanes.next.iter().all(|next| *next > last_seq));
            };
            let (mut left, next) = (free.clone(), lanes.next.clone());
            let wanted = move |seq: u64, task: Uuid| {
                let number = index_of(task, partitions);
                match (left.get_mut(number), next.get(number)) {
                    (Some(left), Some(next)) if *left > 0 && seq >= *next => {
                        *left -= 1;
                        true
                    }
                    _ => false,
                }
            };
            let scan = self.store.outbox_scan(from, SCAN, wanted).await?;
            for unreadable in &scan.unreadable {
                self.report.unreadable(unreadable);
            }
            // Nothing up to the last number that was committed is left.
            let scanned_to = if scan.is_end { scan.next.max(last_seq + 1) } else { scan.next };
            let mut taken = vec![0; free.len()];
            found += scan.entries.len();
            for entry in scan.entries {
                let number = index_of(entry.event.data.task_id, partitions);
                let seq = entry.seq;
                if let (Some(window), Some(next), Some(taken)) =
                    (lanes.windows.get(number), lanes.next.get_mut(number), taken.get_mut(number))
                {
                    window.push(entry);
                    *next = seq + 1;
                    *taken += 1;
                }
            }
            for (number, (next, window)) in lanes.next.iter_mut().zip(&lanes.windows).enumerate() {
                let (free, taken) = (free.get(number).copied(), taken.get(number).copied());
                if free > taken {
                    // All of its events up to there are in the window.
                    *next = (*next).max(scanned_to);
                } else {
                    window.set_loaded(false);
                }
            }
        }
    }

    /// How to go on, if otherwise than before.
    async fn replan(&self, plan: &Plan, lanes: &mut Lanes, info: TopicInfo) -> Option<Plan> {
        let new = match change(&plan.topic, &info)? {
            Change::MorePartitions if self.drain(lanes).await => self.more_partitions(plan, &info).await,
            Change::MorePartitions => {
                if !std::mem::replace(&mut lanes.more_logged, true) {
                    log::info!(
                        "topic {} has {} partitions; {} are used until what was sent to them is acknowledged",
                        self.topic,
                        info.partitions.len(),
                        plan.topic.partitions
                    );
                }
                return None;
            }
            Change::AnotherTopic => self.another_topic(&plan.topic, &info).await,
        };
        match new {
            Ok(plan) => Some(plan),
            Err(error) => {
                lanes.windows.iter().for_each(|window| window.hold(false));
                self.report.failed(&error);
                None
            }
        }
    }

    /// Lets nothing more be sent, and returns whether all that was sent is acknowledged. If not, sending goes
    /// on. Where a partition has been in doubt for long, nothing is held back in vain.
    async fn drain(&self, lanes: &Lanes) -> bool {
        if lanes.windows.iter().any(|window| window.in_doubt_for() >= DRAIN_TIMEOUT) {
            return false;
        }
        lanes.windows.iter().for_each(|window| window.hold(true));
        let drained = async {
            while lanes.windows.iter().any(|window| window.is_busy()) {
                lanes.freed.notified().await;
            }
        };
        let is_drained = timeout(DRAIN_TIMEOUT, drained).await.is_ok();
        if !is_drained {
            lanes.windows.iter().for_each(|window| window.hold(false));
        }
        is_drained
    }

    async fn more_partitions(&self, plan: &Plan, info: &TopicInfo) -> Result<Plan, RelayError> {
        let topic = published(info);
        self.store.publish_to(topic).await?;
        log::info!(
            "topic {} has {} partitions in place of {}: all that was sent is acknowledged, events go by the new count from now on",
            self.topic,
            topic.partitions,
            plan.topic.partitions
        );
        let rows = self.store.positions();
        Ok(Plan { topic, positions: positions(rows, info), in_doubt: false })
    }
}

/// Asks for the topic now and then, and soon after a partition has failed.
async fn watch_topic(
    kafka: &Kafka,
    topic: &str,
    report: &Report,
    recheck: &Notify,
    infos: mpsc::Sender<TopicInfo>,
) {
    loop {
        let asked = Instant::now();
        tokio::select! {
            () = recheck.notified() => sleep_until(asked + MIN_CHECK_INTERVAL).await,
            () = sleep_until(asked + CHECK_INTERVAL) => {}
        }
        match kafka.topic(topic).await {
            Ok(info) => {
                report.answered();
                if infos.send(info).await.is_err() {
                    return;
                }
            }
            Err(error) => report.failed(&error.into()),
        }
    }
}

/// The partition of a task's events, as an index.
fn index_of(task: Uuid, partitions: i32) -> usize {
    usize::try_from(partition_of(task, partitions)).unwrap_or(0)
}

fn change(known: &PublishedTopic, info: &TopicInfo) -> Option<Change> {
    let now = published(info);
    if now.is_another_than(known) {
        return Some(Change::AnotherTopic);
    }
    (now.partitions > known.partitions).then_some(Change::MorePartitions)
}

/// The stored offsets as positions in this topic.
fn positions(rows: Vec<(i32, i64)>, info: &TopicInfo) -> HashMap<i32, Position> {
    let topic_id = Some(info.id).filter(|id| !id.is_nil());
    rows.into_iter().map(|(number, offset)| (number, Position { topic_id, ..Position::at(offset) })).collect()
}

fn published(info: &TopicInfo) -> PublishedTopic {
    let partitions = i32::try_from(info.partitions.len()).unwrap_or(i32::MAX);
    PublishedTopic { topic_id: info.id, partitions }
}
