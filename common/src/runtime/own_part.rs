//! What is committed of a partition, and by whom, where a service keeps its work in a state of its own (a log) and
//! the instances of the group share the partitions: each state then has a part.
//!
//! # Invariants
//!
//! - *What is in another instance's state is not done again*, by whoever owns next, and however often it restarts.
//! - *What nobody who lives can have is done again*: with one partition, and where an instance that is new to the
//!   group finds nobody of before, the lower of the committed and the own position counts, as without sharing.
//!
//! ARCHITECTURE.md has the rule as a table; the tests below have a test for each of its rows.

use std::collections::BTreeSet;

use tokio::time::Instant;
use uuid::Uuid;

use super::handler::{OwnPosition, Service};
use super::release::Unreleased;
use super::shared::Shared;
use super::start::Elsewhere;
use crate::kafka::Position;
use crate::offsets::{Commit, DoneBy, Member, MemberLife, Slot};

/// What the offsets topic says of the work that was done.
#[derive(Debug, Default)]
pub(super) struct Commits {
    pub(super) committed: Option<Position>,
    /// Where other instances may have done it.
    pub(super) elsewhere: Option<Elsewhere>,
    /// How far each instance is.
    pub(super) done_by: DoneBy,
    /// Another instance that committed it, and was not alive since this process started: its state may be lost.
    gone: Option<Uuid>,
}

impl Commits {
    /// What an operator has to know of work that is in a state of which nobody knows whether it is still there.
    pub(super) fn warning(&self, own: OwnPosition) -> Option<String> {
        let (committed, gone) = self.committed.zip(self.gone)?;
        (own != OwnPosition::NotKept).then(|| {
            format!(
                "offset {} was committed by instance {gone}, which has not run since this one started: the events before it are in that instance's own state; where that is lost, stop the group and move it back with `taskctl offsets reset`",
                committed.offset
            )
        })
    }
}

/// The group around the instance that asks.
struct Group<'a> {
    instance_id: Uuid,
    /// The instances of which the topic spoke before this process claimed anything.
    veterans: &'a BTreeSet<Uuid>,
    /// Whether an instance has a membership that has not run out.
    is_alive: &'a dyn Fn(Uuid) -> bool,
    /// Whether an instance was alive at any time since this process started.
    was_alive: &'a dyn Fn(Uuid) -> bool,
}

impl Group<'_> {
    /// Which rule applies to that commit, of a partition that is shared: `None` for the lower of both positions.
    fn elsewhere(&self, commit: &Commit) -> Option<Elsewhere> {
        let Self { instance_id, veterans, is_alive, was_alive } = *self;
        let done_by = commit.done_by();
        let elsewhere = Elsewhere { done_here: done_by.of(instance_id), moved_from: commit.was_moved_from() };
        if commit.instance_id == instance_id {
            // Without an entry of its own it shared nothing yet: its state has all that it committed.
            return elsewhere.done_here.map(|_| elsewhere);
        }
        let was_given = commit.released && commit.to == Some(instance_id);
        let mut others = veterans.iter().filter(|id| **id != instance_id);
        let was_here_before =
            was_alive(commit.instance_id) || veterans.contains(&instance_id) && !done_by.is_empty();
        let is_elsewhere =
            was_given || was_here_before || is_alive(commit.instance_id) || others.any(|id| is_alive(*id));
        is_elsewhere.then_some(elsewhere)
    }
}

/// `done` is what this process did in its ownership before, if that was not released.
pub(super) fn commits<S>(
    shared: &Shared<S>,
    slot: &Slot,
    instance_id: Uuid,
    done: Option<&Unreleased>,
) -> Commits {
    let view = shared.offsets.view();
    let view = view.borrow();
    let last_commit = || view.slot(slot).and_then(|state| state.last_commit()).map(|(_, commit)| commit);
    let done = done.filter(|done| done.is_latest(&view, slot)).map(Unreleased::commit);
    let Some(commit) = done.or_else(last_commit) else {
        return Commits::default();
    };
    let (committed, done_by) = (Some(commit.position()), commit.done_by());
    if !shared.membership.is_shared() {
        return Commits { committed, done_by, ..Commits::default() };
    }
    let now = Instant::now();
    let is_alive = |id: Uuid| {
        let mut members = view.fold.members(&slot.group).filter(|(other, _)| *other == id);
        let life = |(id, member): (Uuid, &Member)| view.member_life(&slot.group, id, member.lease(), now);
        // One of which it is not known yet may well be: it has not been silent for its lease.
        members.next().is_some_and(|member| life(member) != MemberLife::Dead)
    };
    let veterans = shared.membership.veterans(&view, slot);
    let was_alive = |id| view.member_was_seen(&slot.group, id);
    let group = Group { instance_id, veterans, is_alive: &is_alive, was_alive: &was_alive };
    let elsewhere = group.elsewhere(commit);
    let by = commit.instance_id;
    let is_of_a_stranger = by != instance_id && commit.was_moved_from().is_none() && elsewhere.is_some();
    let was_given = commit.released && commit.to == Some(instance_id);
    let gone = (is_of_a_stranger && !was_given && !was_alive(by)).then_some(by);
    Commits { committed, elsewhere, done_by, gone }
}

/// What the own state of an instance has of the partition when an ownership starts there: its entry of before, or
/// as much of its state as is below the start.
pub(super) fn own_part(done_by: &DoneBy, instance_id: Uuid, own: OwnPosition, start: Position) -> i64 {
    match (done_by.of(instance_id), own) {
        (Some(done), _) => done,
        (None, OwnPosition::At(own)) if own.topic_id == start.topic_id => own.offset.min(start.offset),
        (None, _) => 0,
    }
}

/// Whether the state of the service may lack what this instance had committed, and what that is. The service is opened
/// for it only then.
pub(super) fn suspected_loss<S: Service>(shared: &Shared<S>, slot: &Slot) -> Option<(Position, i64)> {
    let Commits { committed, elsewhere, .. } = commits(shared, slot, shared.config.identity.id(), None);
    committed.zip(elsewhere?.done_here.filter(|done| *done > 0))
}

#[cfg(test)]
mod tests {
    use super::super::start::start;
    use super::*;

    const ME: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);
    const THIRD: Uuid = Uuid::from_u128(3);
    const TOPIC: Option<Uuid> = Some(Uuid::from_u128(9));

    fn at(offset: i64) -> Position {
        Position { offset, leader_epoch: None, topic_id: TOPIC }
    }

    fn by(id: Uuid, done_by: &[(Uuid, i64)]) -> Commit {
        let mut parts = DoneBy::default();
        done_by.iter().for_each(|(id, offset)| parts.set(*id, *offset));
        Commit::at(at(50), id, false).with_done_by(&parts)
    }

    /// Where this instance starts at the partition that has events from offset 10 on, of which 50 is committed.
    fn starts(own: OwnPosition, commit: &Commit, veterans: &[Uuid], alive: &[Uuid]) -> i64 {
        let veterans = veterans.iter().copied().collect();
        let is_alive = |id| alive.contains(&id);
        let group = Group { instance_id: ME, veterans: &veterans, is_alive: &is_alive, was_alive: &is_alive };
        start(Some(commit.position()), own, 10, TOPIC, group.elsewhere(commit)).position.offset
    }

    const EMPTY: OwnPosition = OwnPosition::Empty;

    #[test]
    fn this_instances_commit_without_parts_is_completed_as_if_nothing_were_shared() {
        assert_eq!(starts(EMPTY, &by(ME, &[]), &[ME], &[]), 10);
        assert_eq!(starts(EMPTY, &by(ME, &[(OTHER, 50)]), &[ME, OTHER], &[]), 10, "of one partition before");
        assert_eq!(starts(OwnPosition::At(at(30)), &by(ME, &[]), &[ME], &[OTHER]), 30);
    }

    #[test]
    fn an_idle_owner_that_restarts_does_not_do_again_what_others_did() {
        // Given at 50, where the other one was, and renewed since without an event.
        let commit = by(ME, &[(ME, 0), (OTHER, 50)]);
        assert_eq!(starts(EMPTY, &commit, &[ME, OTHER], &[OTHER]), 50);
        assert_eq!(starts(EMPTY, &commit, &[ME, OTHER], &[]), 50, "alone by then");
        let commit = by(ME, &[(ME, 30), (OTHER, 50)]);
        assert_eq!(starts(OwnPosition::At(at(30)), &commit, &[ME, OTHER], &[]), 50, "it did 30 before");
    }

    #[test]
    fn this_instances_part_is_completed_where_its_state_lacks_it() {
        let commit = by(ME, &[(ME, 40), (OTHER, 30)]);
        assert_eq!(starts(OwnPosition::At(at(20)), &commit, &[ME, OTHER], &[]), 20, "restored");
        assert_eq!(starts(EMPTY, &commit, &[ME, OTHER], &[]), 10, "lost");
        let commit = by(OTHER, &[(ME, 40), (OTHER, 50)]);
        assert_eq!(starts(EMPTY, &commit, &[ME, OTHER], &[OTHER]), 10, "lost, while another went on");
    }

    #[test]
    fn what_another_committed_that_lives_or_gave_is_in_its_state() {
        let commit = by(OTHER, &[(OTHER, 50)]);
        assert_eq!(starts(EMPTY, &commit, &[OTHER], &[OTHER]), 50);
        assert_eq!(starts(EMPTY, &by(OTHER, &[]), &[OTHER], &[OTHER]), 50, "of an older version, or idle");
        let given = commit.released_to(Some(ME));
        assert_eq!(starts(EMPTY, &given, &[OTHER], &[]), 50, "it gave, and left");
    }

    #[test]
    fn what_one_committed_that_is_gone_is_in_its_state_where_anybody_of_before_is_left() {
        let commit = by(OTHER, &[(OTHER, 50)]);
        assert_eq!(starts(EMPTY, &commit, &[OTHER, THIRD], &[THIRD]), 50, "another one of before lives");
        assert_eq!(starts(EMPTY, &commit, &[ME, OTHER], &[]), 50, "this one is of before: a fail-over");
        assert_eq!(starts(OwnPosition::At(at(20)), &commit, &[ME, OTHER], &[]), 50);
        let veterans = BTreeSet::new();
        let (is_alive, was_alive) = (|_| false, |id| id == OTHER);
        let group =
            Group { instance_id: ME, veterans: &veterans, is_alive: &is_alive, was_alive: &was_alive };
        assert!(group.elsewhere(&commit).is_some(), "this one was there first, and saw the other one live");
    }

    #[test]
    fn a_new_instance_that_finds_nobody_of_before_completes_its_state_as_if_nothing_were_shared() {
        let commit = by(OTHER, &[(OTHER, 50)]);
        assert_eq!(starts(EMPTY, &commit, &[OTHER], &[]), 10, "log and state folder were lost");
        assert_eq!(starts(EMPTY, &commit, &[OTHER, THIRD], &[]), 10);
        assert_eq!(starts(OwnPosition::At(at(30)), &commit, &[OTHER], &[]), 30, "the log was restored");
        assert_eq!(starts(OwnPosition::At(at(50)), &commit, &[OTHER], &[]), 50, "only the id was lost");
        assert_eq!(starts(EMPTY, &by(OTHER, &[]), &[ME, OTHER], &[]), 10, "nobody has shared yet");
    }

    #[test]
    fn an_operators_commit_skips_nothing_that_is_in_no_state() {
        let operator = Uuid::from_u128(99);
        let moved = |from, parts: &[_]| by(operator, parts).moved_from(Some(from));
        let parts = [(ME, 40), (OTHER, 90)];
        let own = OwnPosition::At(at(40));
        assert_eq!(starts(own, &moved(90, &parts), &[ME, OTHER], &[]), 50, "back: read again");
        assert_eq!(starts(own, &moved(45, &parts), &[ME, OTHER], &[]), 45, "ahead: from where it was");
        assert_eq!(starts(EMPTY, &moved(45, &parts), &[ME, OTHER], &[]), 10, "its own part was lost");
        assert_eq!(starts(EMPTY, &moved(90, &parts), &[OTHER], &[]), 10, "new, and nobody is left");
    }

    #[test]
    fn an_ownership_begins_with_the_part_that_the_state_has() {
        let none = DoneBy::default();
        assert_eq!(own_part(&none, ME, EMPTY, at(50)), 0);
        assert_eq!(own_part(&none, ME, OwnPosition::At(at(48)), at(50)), 48, "an older version's log");
        assert_eq!(own_part(&none, ME, OwnPosition::At(at(70)), at(50)), 50, "moved back");
        assert_eq!(own_part(&by(ME, &[(ME, 30)]).done_by(), ME, EMPTY, at(50)), 30);
    }
}
