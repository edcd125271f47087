//! Moves of a group: what one is, and how it is done.

use std::time::Duration;

use chrono::Utc;
use serde::Serialize;
use serde_json::{Map, Value};
use task_events::error_code::Code;
use task_events::kafka::{KafkaError, REQUEST_TIMEOUT};
use task_events::offsets::{Claim, Commit, OffsetsLog, Slot};
use task_events::operate::groups::short;
use uuid::Uuid;

use crate::Error;

/// How long a group waits if this command dies between its claim and its commit.
const LEASE_MS: u64 = 10_000;
/// How often a commit is tried: a repeat does no harm.
const COMMIT_TRIES: u32 = 3;
/// Where a commit keeps the anchors of audit logs' trees.
pub(super) const TREES: &str = "trees";

/// What is done with a partition.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Move {
    #[serde(skip)]
    pub(super) slot: Slot,
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) from: Option<i64>,
    /// `None`: the topic or the partition is no more, and what the group said of it is removed.
    pub(super) to: Option<i64>,
    /// The topic's id, where known.
    #[serde(skip)]
    pub(super) topic_id: Option<Uuid>,
    /// It stays where the group is once this command has claimed it; `to` is what the plan saw.
    #[serde(skip)]
    pub(super) stays: bool,
    /// The anchors of audit logs' trees that are removed: origin, size and root.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub(super) forgotten_trees: Map<String, Value>,
}

impl Move {
    pub(super) fn new(slot: Slot, from: Option<i64>, to: Option<i64>, topic_id: Option<Uuid>) -> Self {
        let (topic, partition) = (slot.topic.clone(), slot.partition);
        Self { slot, topic, partition, from, to, topic_id, stays: false, forgotten_trees: Map::new() }
    }

    /// Of a partition that stays where the group is, and only forgets trees.
    pub(super) fn staying(slot: Slot, at: i64) -> Self {
        Self { stays: true, ..Self::new(slot, Some(at), Some(at), None) }
    }
}

/// Moves one partition after the other, each under a claim as any instance of the group would make it.
pub(super) async fn execute(
    offsets: &OffsetsLog,
    moves: &mut [Move],
    forget_trees: bool,
) -> Result<(), Error> {
    let instance_id = Uuid::new_v4();
    let mut done = Vec::new();
    for each in moves {
        if let Err(error) = move_one(offsets, each, instance_id, forget_trees).await {
            let done = if done.is_empty() { "nothing".to_owned() } else { done.join(", ") };
            return Err(Error::Refused(Code::CannotMove, format!("{error} (already reset: {done})")));
        }
        done.push(format!("{}/{}", each.topic, each.partition));
    }
    Ok(())
}

async fn move_one(
    offsets: &OffsetsLog,
    each: &mut Move,
    instance_id: Uuid,
    forget_trees: bool,
) -> Result<(), Error> {
    let Move { slot, to, .. } = &*each;
    let Some(to) = to else { return Ok(offsets.remove(slot).await?) };
    let last = || offsets.view().borrow().slot(slot).and_then(|state| Some(state.last_commit()?.1.clone()));
    let before = last();
    let token = offsets.claim(slot, &Claim::new(instance_id, "taskctl", LEASE_MS)).await?.token;
    let commit = if each.stays {
        // What the group has committed since the plan counts, up to this claim.
        offsets.catch_up().await?;
        let gone = || Error::Refused(Code::CannotMove, format!("{slot} was removed meanwhile"));
        without_trees(last().ok_or_else(gone)?)
    } else {
        moved(before.as_ref(), *to, each.topic_id, instance_id, forget_trees)
    };
    let committed_at = commit_with_retries(offsets, slot, token, &commit).await?;
    offsets.catch_up().await?;
    let (missed, older) = {
        let view = offsets.view();
        let view = view.borrow();
        let state = view.slot(slot);
        let claims = state.and_then(|state| state.owner()).map(|owner| (owner.token, short(owner)));
        let commits = state.and_then(|state| state.last_commit());
        let commits = commits.map(|(token, commit)| (token, format!("instance {}", commit.instance_id)));
        // A claim after the commit has read it, and goes on from there. One before it may not have.
        let missed = claims.into_iter().chain(commits).find(|(by, _)| (token + 1..committed_at).contains(by));
        (missed, state.map(|state| state.stale_tokens(token)).unwrap_or_default())
    };
    if let Some((_, owner)) = missed {
        return Err(Error::Refused(
            Code::CannotMove,
            format!(
                "{owner} claimed {slot} meanwhile, and may continue from the old offset: stop it and reset again"
            ),
        ));
    }
    if !older.is_empty()
        && let Err(error) = offsets.tombstone(slot, &older).await
    {
        log::warn!("older commits of {slot} stay in the topic, which does no harm: {error}");
    }
    if each.stays {
        (each.from, each.to) = (Some(commit.offset), Some(commit.offset));
    }
    Ok(())
}

/// The same commit, with all that it says of the group's position and of its instances, without anchors of trees.
pub(super) fn without_trees(mut last: Commit) -> Commit {
    last.meta.remove(TREES);
    // This command wants the partition no longer.
    (last.released, last.committed_at) = (true, Utc::now());
    last
}

/// The commit that moves a group which was where `before` says.
///
/// Whose state has what is known beyond the move, as far as it is not read again; and so is the lowest position of
/// several moves without an owner between them, so that none of them skips anything.
pub(super) fn moved(
    before: Option<&Commit>,
    to: i64,
    topic_id: Option<Uuid>,
    instance_id: Uuid,
    forget_trees: bool,
) -> Commit {
    let mut meta = before.map(|before| before.meta.clone()).unwrap_or_default();
    // Anchors of audit logs stay, unless they are to go.
    meta.retain(|name, _| name == TREES && !forget_trees);
    let commit = Commit::new(to, instance_id, true).with_meta(meta);
    let Some(before) = before else { return commit };
    let from = before.was_moved_from().map_or(before.offset, |from| from.min(before.offset));
    let commit = commit.moved_from(Some(from));
    let is_of_this_topic = before.topic_id.zip(topic_id).is_none_or(|(of, now)| of == now);
    if is_of_this_topic { commit.with_done_by(&before.done_by().capped(to)) } else { commit }
}

async fn commit_with_retries(
    offsets: &OffsetsLog,
    slot: &Slot,
    token: i64,
    commit: &Commit,
) -> Result<i64, KafkaError> {
    let mut tries = 1;
    loop {
        match offsets.commit(slot, token, commit, REQUEST_TIMEOUT).await {
            Err(error) if tries < COMMIT_TRIES => {
                log::warn!("cannot commit {slot}, will try again: {error}");
                tries += 1;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            outcome => return outcome,
        }
    }
}
