//! What the relay says of itself: readiness for whoever asks, and log lines for whoever reads them.
//!
//! A cause that lasts is one line each [`REPEAT_INTERVAL`], whatever number of partitions and attempts it concerns, and
//! one when it is over. Whatever the cause, events that wait for longer than [`LONG`] are reported.

mod hold;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::Utc;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::error::RelayError;
use super::window::Window;
use crate::store::{Store, Unreadable};

/// How often a cause that lasts is logged.
const REPEAT_INTERVAL: Duration = Duration::from_secs(30);
/// A wait that is reported even where nothing has failed.
const LONG: Duration = Duration::from_secs(10);
/// How often waiting events are looked at, and lines are logged.
const TICK: Duration = Duration::from_millis(500);
/// Causes that are remembered for having been logged; by far more than there are.
const MAX_CAUSES: usize = 100;
/// Partitions that one line names.
const MAX_NAMED: usize = 8;

/// The state of the relay: whether Kafka answers, and what is pending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelayState {
    /// Whether the last call to Kafka was answered.
    pub reachable: bool,
    /// What the relay waits for, if it cannot publish.
    pub waiting_for: Option<String>,
}

#[derive(Debug)]
pub(super) struct Report {
    store: Store,
    topic: String,
    state: watch::Sender<RelayState>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    reachable: bool,
    /// What holds up all partitions.
    general: Option<Trouble>,
    lanes: BTreeMap<i32, Lane>,
    /// When a cause was last logged.
    logged: HashMap<String, Instant>,
    /// Since when there has been trouble that was logged, and how many events have waited at most.
    outage: Option<(Instant, u64)>,
    /// When a request was last acknowledged.
    published: Option<Instant>,
    /// The last stored event that was found to be unreadable.
    unreadable: Option<String>,
}

#[derive(Debug, Default)]
struct Lane {
    window: Option<Arc<Window>>,
    trouble: Option<Trouble>,
    sending_since: Option<Instant>,
}

#[derive(Debug, Clone)]
struct Trouble {
    cause: String,
    since: Instant,
    /// Nothing has failed, it only takes long: that is over when it no longer does.
    is_slowness: bool,
}

impl Trouble {
    /// The cause may be another than before: the trouble is the same until something succeeds.
    fn renew(slot: &mut Option<Self>, cause: String, is_slowness: bool) {
        let since = slot.as_ref().map_or_else(Instant::now, |trouble| trouble.since);
        *slot = Some(Self { cause, since, is_slowness });
    }
}

impl Lane {
    /// Whether its oldest event waits for long.
    fn is_late(&self) -> bool {
        let oldest = self.window.as_ref().and_then(|window| window.waiting().1);
        let age = oldest.map_or(0, |oldest| (Utc::now() - oldest).num_seconds());
        u64::try_from(age).is_ok_and(|age| age >= LONG.as_secs())
    }
}

impl Report {
    pub(super) fn new(store: Store, topic: &str) -> Self {
        Self { store, topic: topic.to_owned(), state: watch::Sender::default(), inner: Mutex::default() }
    }

    pub(super) fn state(&self) -> watch::Receiver<RelayState> {
        self.state.subscribe()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster answered what was asked about the topic.
    pub(super) fn answered(&self) {
        let mut inner = self.inner();
        inner.reachable = true;
        inner.general = None;
        self.publish(&inner);
    }

    /// Nothing can be published, in any partition.
    pub(super) fn failed(&self, error: &RelayError) {
        let mut inner = self.inner();
        inner.reachable = is_answer(error);
        Trouble::renew(&mut inner.general, error.to_string(), false);
        self.publish(&inner);
    }

    /// These windows are used from now on.
    pub(super) fn set_lanes(&self, windows: impl Iterator<Item = (i32, Arc<Window>)>) {
        let mut inner = self.inner();
        let lane = |(number, window)| (number, Lane { window: Some(window), ..Lane::default() });
        inner.lanes = windows.map(lane).collect();
        self.publish(&inner);
    }

    /// Nothing can be published in one partition.
    pub(super) fn lane_failed(&self, partition: i32, error: &RelayError) {
        self.lane_waits(partition, self.without_number(partition, &error.to_string()));
    }

    /// A partition waits for something.
    pub(super) fn lane_waits(&self, partition: i32, cause: String) {
        let mut inner = self.inner();
        let lane = inner.lanes.entry(partition).or_default();
        Trouble::renew(&mut lane.trouble, cause, false);
        self.publish(&inner);
    }

    /// A request is sent.
    pub(super) fn lane_sends(&self, partition: i32) {
        self.inner().lanes.entry(partition).or_default().sending_since = Some(Instant::now());
    }

    /// A request was acknowledged.
    pub(super) fn lane_published(&self, partition: i32) {
        let mut inner = self.inner();
        let is_news = !inner.reachable;
        inner.reachable = true;
        inner.published = Some(Instant::now());
        let lane = inner.lanes.entry(partition).or_default();
        lane.sending_since = None;
        let is_still_slow =
            lane.trouble.as_ref().is_some_and(|trouble| trouble.is_slowness && lane.is_late());
        if (!is_still_slow && lane.trouble.take().is_some()) || is_news {
            self.publish(&inner);
        }
    }

    /// A stored event cannot be read: it stays, and the others are published. The store has logged it.
    pub(super) fn unreadable(&self, event: &Unreadable) {
        let mut inner = self.inner();
        inner.unreadable = Some(format!("{event}; it is not published, the others are"));
        self.publish(&inner);
    }

    /// The same text for all partitions that have the same trouble.
    fn without_number(&self, partition: i32, text: &str) -> String {
        text.replace(&format!("{}/{partition}", self.topic), &self.topic)
    }

    fn publish(&self, inner: &Inner) {
        let state = RelayState { reachable: inner.reachable, waiting_for: inner.waiting_for(&self.topic) };
        self.state.send_if_modified(|now| std::mem::replace(now, state.clone()) != state);
    }

    /// Logs what there is to log, for ever.
    pub(super) async fn run(&self) {
        loop {
            sleep(TICK).await;
            self.tick();
        }
    }

    fn tick(&self) {
        let waiting = self.store.outbox().borrow().waiting;
        let mut inner = self.inner();
        inner.notice_long_waits();
        self.publish(&inner);

        let now = Instant::now();
        inner.logged.retain(|_, logged| now - *logged < REPEAT_INTERVAL);
        for (cause, partitions, since) in inner.causes() {
            if let Some((_, most)) = &mut inner.outage {
                *most = waiting.max(*most);
            }
            // The same cause with other offsets, addresses or times is no news.
            let key: String = cause.chars().filter(|c| !c.is_ascii_digit()).collect();
            if inner.logged.len() >= MAX_CAUSES || inner.logged.contains_key(&key) {
                continue;
            }
            let place = named(&self.topic, &partitions);
            log::warn!("cannot publish to {place}: {cause}; {waiting} events wait in the outbox");
            inner.logged.insert(key, now);
            inner.outage.get_or_insert((since, waiting));
        }
        if inner.is_well()
            && inner.has_published_since_outage(waiting)
            && let Some((started, most)) = inner.outage.take()
        {
            let seconds = started.elapsed().as_secs_f32();
            log::info!(
                "Kafka takes events for {} again after {seconds:.1} s; up to {most} events waited",
                self.topic
            );
        }
    }
}

impl Inner {
    fn is_well(&self) -> bool {
        self.general.is_none() && self.lanes.values().all(|lane| lane.trouble.is_none())
    }

    /// That the cluster answers is no end of an outage: what waits may still be refused.
    fn has_published_since_outage(&self, waiting: u64) -> bool {
        waiting == 0 || self.outage.is_none_or(|(started, _)| self.published.is_some_and(|at| at >= started))
    }

    /// Sets the trouble of lanes whose events wait for long without a failure.
    fn notice_long_waits(&mut self) {
        for lane in self.lanes.values_mut() {
            let is_empty = lane.window.as_ref().is_some_and(|window| window.waiting().0 == 0);
            let is_late = lane.is_late();
            let sending = lane.sending_since.map_or(Duration::ZERO, |since| since.elapsed());
            if is_empty || (!is_late && lane.trouble.as_ref().is_some_and(|trouble| trouble.is_slowness)) {
                // An empty one: reconciled, perhaps.
                lane.trouble = None;
            } else if is_late && lane.trouble.is_none() && sending >= TICK {
                let cause = "its leader does not acknowledge: it hangs, or waits for an in-sync replica that is slow or down";
                Trouble::renew(&mut lane.trouble, cause.to_owned(), true);
            }
        }
    }

    /// Each cause, the partitions that it concerns (none for all), and since when.
    fn causes(&self) -> Vec<(String, Vec<i32>, Instant)> {
        let mut causes: BTreeMap<&str, (Vec<i32>, Instant)> = BTreeMap::new();
        for (number, lane) in &self.lanes {
            let Some(trouble) = &lane.trouble else { continue };
            let (partitions, since) = causes.entry(&trouble.cause).or_insert((Vec::new(), trouble.since));
            partitions.push(*number);
            *since = trouble.since.min(*since);
        }
        if let Some(general) = &self.general {
            causes.insert(&general.cause, (Vec::new(), general.since));
        }
        causes.into_iter().map(|(cause, (partitions, since))| (cause.to_owned(), partitions, since)).collect()
    }

    fn waiting_for(&self, topic: &str) -> Option<String> {
        let mut causes: Vec<String> = match &self.general {
            Some(general) => vec![general.cause.clone()],
            None => self
                .causes()
                .into_iter()
                .map(|(cause, partitions, _)| format!("{}: {cause}", named(topic, &partitions)))
                .collect(),
        };
        causes.extend(self.unreadable.clone());
        (!causes.is_empty()).then(|| causes.join("; "))
    }
}

/// Whether an error is one that somebody answered with.
fn is_answer(error: &RelayError) -> bool {
    match error {
        RelayError::Kafka(error) => error.is_answer(),
        RelayError::Store(_) => true,
    }
}

/// topic/1, topic/2 and 3 more.
fn named(topic: &str, partitions: &[i32]) -> String {
    if partitions.is_empty() {
        return topic.to_owned();
    }
    let named: Vec<String> =
        partitions.iter().take(MAX_NAMED).map(|number| format!("{topic}/{number}")).collect();
    match partitions.len().saturating_sub(MAX_NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use task_events::kafka::KafkaError;
    use uuid::Uuid;

    use super::*;
    use crate::store::{Mutation, Preconditions};
    use crate::task::{Change, NewTask};
    use crate::title::Title;

    fn failed(partition: i32, detail: &str) -> RelayError {
        let call = format!("produce to t/{partition}");
        RelayError::Kafka(KafkaError::Failed { call, detail: detail.to_owned() })
    }

    #[tokio::test]
    async fn partitions_with_the_same_trouble_are_one_cause_until_each_has_published() {
        let dir = tempfile::tempdir().unwrap();
        let (store, writer) = Store::open(dir.path()).unwrap();
        let report = Report::new(store.clone(), "t");
        let state = report.state();
        report.answered();
        assert_eq!(*state.borrow(), RelayState { reachable: true, waiting_for: None });

        for partition in [0, 2] {
            report.lane_failed(partition, &failed(partition, "refused"));
        }
        report.lane_failed(3, &failed(3, "no answer"));
        let causes = report.inner().causes();
        let causes: Vec<_> = causes.iter().map(|(cause, at, _)| (cause.as_str(), at.as_slice())).collect();
        assert_eq!(causes, [("produce to t: no answer", &[3][..]), ("produce to t: refused", &[0, 2])]);
        let waiting_for = state.borrow().waiting_for.clone().unwrap();
        assert_eq!(waiting_for, "t/3: produce to t: no answer; t/0, t/2: produce to t: refused");
        assert!(state.borrow().reachable, "a partition that is down says nothing about the cluster");

        // Reconciling succeeds, or another call: that ends no trouble. Publishing does.
        report.answered();
        report.lane_sends(0);
        assert_eq!(state.borrow().waiting_for.clone(), Some(waiting_for));
        for partition in [0, 2, 3] {
            report.lane_published(partition);
        }
        assert_eq!(*state.borrow(), RelayState { reachable: true, waiting_for: None });

        report.failed(&failed(0, "nobody answers"));
        assert!(!state.borrow().reachable);
        drop((store, report));
        tokio::task::spawn_blocking(move || writer.join()).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_outage_is_over_once_what_waited_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let (store, writer) = Store::open(dir.path()).unwrap();
        let mutation = Mutation {
            change: Change::Create(NewTask { title: Title::parse("t").unwrap(), owner_id: None }),
            preconditions: Preconditions::default(),
            idempotency: None,
            correlation_id: Uuid::nil(),
            traceparent: None,
            actor: None,
        };
        store.mutate(mutation).await.unwrap();
        let report = Report::new(store.clone(), "t");
        report.failed(&failed(0, "this user may not see it"));
        report.tick();
        // It may see the topic now, and still not write to it.
        report.answered();
        report.tick();
        assert!(report.inner().outage.is_some(), "nothing was taken yet");
        report.lane_published(0);
        report.tick();
        assert!(report.inner().outage.is_none());
        drop((store, report));
        tokio::task::spawn_blocking(move || writer.join()).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_cause_that_lasts_is_logged_once_in_a_while_and_its_end_once() {
        let dir = tempfile::tempdir().unwrap();
        let (store, writer) = Store::open(dir.path()).unwrap();
        let report = Report::new(store.clone(), "t");
        for offset in 0..50 {
            report.lane_waits(0, format!("the leader's log ends at {offset}"));
            report.tick();
        }
        assert_eq!(report.inner().logged.len(), 1, "other numbers are no other cause");
        assert!(report.inner().outage.is_some());
        report.lane_published(0);
        report.tick();
        assert!(report.inner().outage.is_none());
        // The same cause again within the interval: no further line for it, nor for its end.
        report.lane_waits(0, "the leader's log ends at 99".to_owned());
        report.tick();
        assert!(report.inner().outage.is_none());
        drop((store, report));
        tokio::task::spawn_blocking(move || writer.join()).await.unwrap().unwrap();
    }
}
