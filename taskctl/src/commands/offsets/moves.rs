//! Moves of a group: what one is, and how it is done.
//!
//! *Whatever ends it, it names what was moved*: the partitions that were, the one of which that is not known, and those
//! that were not.

use std::time::Duration;

use chrono::Utc;
use serde::Serialize;
use serde_json::{Map, Value};
use task_events::error_code::Code;
use task_events::kafka::REQUEST_TIMEOUT;
use task_events::offsets::{Claim, Commit, OffsetsLog, Slot};
use task_events::operate::groups::short;
use task_events::shutdown::Shutdown;
use tokio::time::timeout;
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

/// A partition that was not moved, or of which that is not known.
struct Failure {
    error: String,
    may_be_moved: bool,
}

impl Failure {
    fn unmoved(error: impl ToString) -> Self {
        Self { error: error.to_string(), may_be_moved: false }
    }

    fn unclear(error: impl ToString) -> Self {
        Self { error: error.to_string(), may_be_moved: true }
    }
}

/// Moves one partition after the other, each under a claim as any instance of the group would make it. After a
/// stop is requested, the one in progress is finished.
pub(super) async fn execute(
    offsets: &OffsetsLog,
    moves: &mut [Move],
    forget_trees: bool,
    shutdown: &Shutdown,
) -> Result<(), Error> {
    let instance_id = Uuid::new_v4();
    let names: Vec<String> = moves.iter().map(|each| format!("{}/{}", each.topic, each.partition)).collect();
    for (at, each) in moves.iter_mut().enumerate() {
        let outcome = match shutdown.is_requested() {
            true => Err(Failure::unmoved("interrupted")),
            false => move_one(offsets, each, instance_id, forget_trees).await,
        };
        if let Err(failure) = outcome {
            let why = summary(&failure, &names, at, &each.slot.group);
            return Err(Error::Refused(Code::CannotMove, why));
        }
    }
    Ok(())
}

/// The failure of the partition at that place, and what became of all.
fn summary(Failure { error, may_be_moved }: &Failure, names: &[String], at: usize, group: &str) -> String {
    let list = |names: &[String]| match names {
        [] => "nothing".to_owned(),
        names => names.join(", "),
    };
    let (done, rest) = names.split_at_checked(at).unwrap_or_default();
    let mut text = format!("{error} (already reset: {}", list(done));
    let (unclear, rest) = rest.split_at_checked(usize::from(*may_be_moved)).unwrap_or_default();
    if let [unclear] = unclear {
        text.push_str(&format!("; may be reset: {unclear}, see `taskctl groups describe {group}`"));
    }
    if !rest.is_empty() {
        text.push_str(&format!("; not reset: {}", list(rest)));
    }
    text.push(')');
    text
}

async fn move_one(
    offsets: &OffsetsLog,
    each: &mut Move,
    instance_id: Uuid,
    forget_trees: bool,
) -> Result<(), Failure> {
    let Move { slot, to, .. } = &*each;
    // A removal that was interrupted is completed by the next one.
    let Some(to) = to else { return offsets.remove(slot).await.map_err(Failure::unclear) };
    let last = || offsets.view().borrow().slot(slot).and_then(|state| Some(state.last_commit()?.1.clone()));
    let before = last();
    let claim = Claim::new(instance_id, "taskctl", LEASE_MS);
    let token = offsets.claim(slot, &claim).await.map_err(Failure::unmoved)?.token;
    let commit = if each.stays {
        // What the group has committed since the plan counts, up to this claim.
        offsets.catch_up().await.map_err(Failure::unmoved)?;
        let gone = || Failure::unmoved(format!("{slot} was removed meanwhile"));
        without_trees(last().ok_or_else(gone)?)
    } else {
        moved(before.as_ref(), *to, each.topic_id, instance_id, forget_trees)
    };
    let committed_at = commit_with_retries(offsets, slot, token, &commit).await?;
    offsets.catch_up().await.map_err(|error| {
        Failure::unclear(format!("not known whether {slot} was claimed while it was reset: {error}"))
    })?;
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
        return Err(Failure::unclear(format!(
            "{owner} claimed {slot} meanwhile, and may continue from the old offset: stop it and reset again"
        )));
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

/// Where the commit is, or an offset above it.
async fn commit_with_retries(
    offsets: &OffsetsLog,
    slot: &Slot,
    token: i64,
    commit: &Commit,
) -> Result<i64, Failure> {
    let (mut may_land, mut tries) = (false, 1);
    loop {
        let error = match offsets.commit(slot, token, commit, REQUEST_TIMEOUT).await {
            Ok(offset) => return Ok(offset),
            Err(error) => error,
        };
        may_land |= !error.nothing_landed();
        // It may be there without an answer.
        if let Ok(Some(end)) = timeout(REQUEST_TIMEOUT, landed(offsets, slot, token)).await {
            return Ok(end);
        }
        if tries == COMMIT_TRIES {
            return Err(Failure { error: error.to_string(), may_be_moved: may_land });
        }
        log::warn!("cannot commit {slot}, will try again: {error}");
        tries += 1;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// How far the topic was read, if the slot's last commit is this token's.
async fn landed(offsets: &OffsetsLog, slot: &Slot, token: i64) -> Option<i64> {
    offsets.catch_up().await.ok()?;
    let view = offsets.view();
    let view = view.borrow();
    (view.slot(slot)?.last_commit()?.0 == token).then_some(view.next_offset)
}
