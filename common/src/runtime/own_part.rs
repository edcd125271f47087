//! What is committed of a partition, and by whom, where a service keeps its work in a state of its own (a log) and
//! the instances of the group share the partitions: each state then has a part.

use std::sync::Arc;

use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::handler::{Handler, OwnPosition, Service};
use super::shared::Shared;
use super::start::{Elsewhere, has_lost};
use crate::error_code::Code;
use crate::kafka::Position;
use crate::offsets::{DoneBy, Slot};

/// What the offsets topic says of the work that was done.
#[derive(Debug, Default)]
pub(super) struct Commits {
    pub(super) committed: Option<Position>,
    /// Where another instance of those that share committed it.
    pub(super) elsewhere: Option<Elsewhere>,
    /// How far each instance is.
    pub(super) done_by: DoneBy,
    /// Another instance that committed it, unless it lives or gave the partition to this one: nobody may be left who has
    /// its state.
    gone: Option<Uuid>,
}

impl Commits {
    /// What an operator has to know of work that is in a state of which nobody knows whether it is still there.
    pub(super) fn warning(&self, own: OwnPosition) -> Option<String> {
        let (committed, gone) = self.committed.zip(self.gone)?;
        (own != OwnPosition::NotKept).then(|| {
            format!(
                "offset {} was committed by instance {gone}, which is not running: the events before it are in that instance's own state; where that is lost, stop the group and move it back with `taskctl offsets reset`",
                committed.offset
            )
        })
    }
}

pub(super) fn commits<S>(shared: &Shared<S>, slot: &Slot, instance_id: Uuid) -> Commits {
    let view = shared.offsets.view();
    let view = view.borrow();
    let Some((_, commit)) = view.slot(slot).and_then(|state| state.last_commit()) else {
        return Commits::default();
    };
    let done_by = commit.done_by();
    let is_given = commit.released && commit.to == Some(instance_id);
    let is_gone =
        !is_given && !shared.roster(&view, Instant::now()).members.contains_key(&commit.instance_id);
    let is_elsewhere = shared.membership.is_shared() && commit.instance_id != instance_id;
    let elsewhere = is_elsewhere
        .then(|| Elsewhere { done_here: done_by.of(instance_id), moved_from: commit.was_moved_from() });
    let gone =
        Some(commit.instance_id).filter(|_| is_elsewhere && is_gone && commit.was_moved_from().is_none());
    Commits { committed: Some(commit.position()), elsewhere, done_by, gone }
}

/// Reports it where the state of a standby lacks what this instance had committed before others went on. As an owner
/// it says so, and reads it again, when it starts.
pub(super) async fn report_lost_part<S: Service>(shared: &Arc<Shared<S>>, slot: &Slot) {
    let Commits { committed, elsewhere, .. } = commits(shared, slot, shared.config.identity.id());
    let done = elsewhere.and_then(|elsewhere| elsewhere.done_here);
    let Some((committed, done)) = committed.zip(done) else { return };
    let opening = shared.service.open(&slot.topic, slot.partition);
    let Ok(Ok(handler)) = timeout(shared.config.lease, opening).await else { return };
    let own = handler.own_position();
    let from = match own {
        // It is of another topic of this name.
        OwnPosition::At(own) if own.topic_id.zip(committed.topic_id).is_some_and(|(own, now)| own != now) => {
            return;
        }
        OwnPosition::At(own) => own.offset,
        OwnPosition::Empty | OwnPosition::NotKept => 0,
    };
    if has_lost(own, Some(done)) {
        let Slot { group, topic, partition } = slot;
        log::error!(
            group, topic, partition, from, done;
            "{slot}: this instance had committed all below offset {done}, and its own state ends before offset {from} (lost, or restored from a backup?): it reads again from there when it owns the partition next {}",
            Code::OwnStateBehind
        );
    }
}
