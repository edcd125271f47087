//! The groups as the offsets topic has them: how far each is, how far behind, and whether its owner lives.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use task_events::config::TopicArgs;
use task_events::kafka::{Kafka, KafkaError};
use task_events::offsets::fold::SlotState;
use task_events::offsets::{OffsetsLog, Slot, View};
use task_events::operate::groups::{SlotReport, life};
use task_events::operate::partitions::{PartitionRow, add_unclaimed};
use task_events::operate::scan::log_range;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::board::Board;
use super::rows::GroupRow;

/// Groups that are shown.
const MAX_GROUPS: usize = 50;
/// Partitions of other topics than ours whose ends are asked for.
const MAX_OTHERS: usize = 64;
/// How often they are asked for.
const OTHERS_INTERVAL: Duration = Duration::from_secs(2);

/// The groups, followed.
#[derive(Debug)]
pub(super) struct Groups {
    offsets: OffsetsLog,
    view: watch::Receiver<View>,
    /// What was first known of each slot: another record of its owner since then is a sign of life.
    first: HashMap<Slot, SlotState>,
}

impl Groups {
    /// Starts to follow the offsets topic.
    pub(super) fn open(kafka: &Kafka, topics: &TopicArgs) -> Self {
        let offsets = OffsetsLog::open(kafka, &topics.offsets_topic);
        Self { view: offsets.view(), offsets, first: HashMap::new() }
    }

    /// Why the offsets topic cannot be read, if it cannot.
    pub(super) fn failure(&self) -> Option<KafkaError> {
        self.offsets.view().borrow().failure.clone()
    }

    /// The slots of topics that nobody follows here.
    pub(super) fn others(view: &View, topics: &TopicArgs) -> Vec<Slot> {
        let is_other =
            |slot: &&Slot| slot.topic != topics.task_events_topic && slot.topic != topics.dlq_topic;
        let mut others: Vec<_> = view.fold.slots().map(|(slot, _)| slot).filter(is_other).cloned().collect();
        others.sort();
        others.dedup_by(|one, other| (&one.topic, one.partition) == (&other.topic, other.partition));
        others.truncate(MAX_OTHERS);
        others
    }

    pub(super) fn view(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// Each group as it is now.
    pub(super) fn look(&mut self, board: &Board) -> Vec<GroupRow> {
        let now = Instant::now();
        let view = self.view.borrow_and_update();
        let mut slots = BTreeMap::new();
        let mut services = HashMap::new();
        for (slot, state) in view.fold.slots() {
            let first = self.first.entry(slot.clone()).or_insert_with(|| state.clone());
            let life = life(Some(first), state, view.silent_since(slot, now), now);
            let owner = state.owner().cloned();
            if let Some(service) = owner.as_ref().and_then(|owner| owner.claim.service.clone()) {
                services.insert(slot.group.clone(), service);
            }
            slots.insert(slot.clone(), SlotReport { position: state.position(), owner, life });
        }
        drop(view);
        board.look(|known| {
            add_unclaimed(&mut slots, |topic| known.topics.get(topic).map_or(0, |view| view.partitions));
            let mut groups = BTreeMap::<String, Vec<PartitionRow>>::new();
            for (slot, report) in slots {
                let range = known.range(&slot.topic, slot.partition);
                groups.entry(slot.group.clone()).or_default().push(PartitionRow::new(slot, &report, range));
            }
            let row = |(group, rows)| GroupRow::new(group, &mut services, rows);
            groups.into_iter().take(MAX_GROUPS).map(row).collect()
        })
    }
}

/// Asks for the ends of partitions that nobody follows here, for ever.
pub(super) async fn ask_for_others(
    kafka: Kafka,
    topics: TopicArgs,
    view: watch::Receiver<View>,
    board: Arc<Board>,
) {
    loop {
        let others = Groups::others(&view.borrow(), &topics);
        for Slot { topic, partition, .. } in others {
            match log_range(&kafka, &topic, partition).await {
                Ok(range) => board.other_range(&topic, partition, Some(range)),
                // The group has outlived its topic, or may not be seen: its lag is not known.
                Err(_) => board.other_range(&topic, partition, None),
            }
        }
        sleep(OTHERS_INTERVAL).await;
    }
}
