//! Where an owner starts to read.
//!
//! The lower of the committed position and the service's own: what the service's durable state lacks (a log
//! restored from a backup, a new log beside an old group) is handled again although it was committed, and so
//! is what an operator moved the group back to. A position of another topic id says nothing about this
//! topic, which was deleted and created again: the earliest record is next. Nor does one that names no topic at
//! all, as where it is known from the lines of a log alone: they may be of another topic of this name. What is
//! read once more is known to the service, and not handled again.
//!
//! Where partitions are shared, each instance keeps the part that it did itself. What another one committed is then not
//! read again by the next, whose own state ends earlier: it is in the other's. Only where an instance's state ends
//! before what it had itself committed, it reads from there, and repeats at worst what the other has as well.

use uuid::Uuid;

use super::handler::OwnPosition;
use crate::kafka::Position;

/// What other instances of the group have done of a partition that is shared, of which each keeps its own part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Elsewhere {
    /// The offset below which this instance has itself committed its part, as far as kept.
    pub(super) done_here: Option<i64>,
    /// Where the group was before an operator moved it.
    pub(super) moved_from: Option<i64>,
}

/// Where to start, and what about that an operator has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) position: Position,
    pub(super) warning: Option<String>,
}

/// `earliest`: the first offset that the log still has. `topic_id`: the topic's id now, where known.
pub(super) fn start(
    committed: Option<Position>,
    own: OwnPosition,
    earliest: i64,
    topic_id: Option<Uuid>,
    elsewhere: Option<Elsewhere>,
) -> Start {
    let first = Position { offset: earliest, leader_epoch: None, topic_id };
    let is_of_this_topic = |position: &Position| match (position.topic_id, topic_id) {
        (Some(of), Some(now)) => of == now,
        _ => true,
    };
    let recreated = committed.filter(|committed| !is_of_this_topic(committed));
    let valid = committed.filter(is_of_this_topic);
    // Moved ahead, the group skips nothing of which no state has anything.
    let moved_from = elsewhere.and_then(|elsewhere| elsewhere.moved_from);
    let valid = match (valid, moved_from) {
        (Some(to), Some(from)) if from < to.offset && own != OwnPosition::NotKept => {
            Some(Position { offset: from, leader_epoch: None, ..to })
        }
        (valid, _) => valid,
    };
    // What another instance committed is in that one's state, unless this one has lost what was its own part.
    let own = match (valid, elsewhere) {
        (Some(_), Some(Elsewhere { done_here, .. })) if !has_lost(own, done_here) => OwnPosition::NotKept,
        _ => own,
    };
    let own = match own {
        OwnPosition::At(position) if !is_of_this_topic(&position) => OwnPosition::Empty,
        OwnPosition::At(position) if recreated.is_some() && position.topic_id.is_none() => OwnPosition::Empty,
        OwnPosition::At(own) if own.topic_id.is_none() && topic_id.is_some() => {
            let warning = format!(
                "this service's own state ends before offset {} of a topic of this name, which may have been another one: reading again from the earliest record, at offset {earliest}",
                own.offset
            );
            return Start { position: first, warning: Some(warning) };
        }
        own => own,
    };
    if let Some(committed) = recreated {
        let warning = format!(
            "the topic was deleted and created again since offset {} was committed: reading from its earliest record, at offset {earliest}",
            committed.offset
        );
        let position = if let OwnPosition::At(position) = own { position } else { first };
        return Start { position, warning: Some(warning) };
    }
    let (position, warning) = match (valid, own) {
        (None, OwnPosition::NotKept | OwnPosition::Empty) => (first, None),
        (Some(committed), OwnPosition::NotKept) => (committed, None),
        (None, OwnPosition::At(own)) => (own, None),
        (Some(committed), OwnPosition::Empty) if committed.offset > earliest => {
            let warning = format!(
                "offset {} is committed, but this service's own state holds nothing of the partition (a new log beside an old group?): reading again from the earliest record, offsets {earliest} to {}",
                committed.offset,
                committed.offset - 1
            );
            (first, Some(warning))
        }
        (Some(_), OwnPosition::Empty) => (first, None),
        (Some(committed), OwnPosition::At(own)) if own.offset < committed.offset => {
            let warning = format!(
                "offset {} is committed, but this service's own state ends before offset {} (restored from a backup?): reading again from there, offsets {} to {}",
                committed.offset,
                own.offset,
                own.offset,
                committed.offset - 1
            );
            (own, Some(warning))
        }
        (Some(committed), OwnPosition::At(_)) => (committed, None),
    };
    // What was committed without a topic id is from here on bound to the topic as it is now.
    Start { position: Position { topic_id: position.topic_id.or(topic_id), ..position }, warning }
}

/// Whether a state ends before what its instance has committed of it: it was lost, or restored from a backup.
pub(super) fn has_lost(own: OwnPosition, done_here: Option<i64>) -> bool {
    match (own, done_here) {
        (OwnPosition::NotKept, _) | (_, None) => false,
        (OwnPosition::Empty, Some(done)) => done > 0,
        (OwnPosition::At(own), Some(done)) => own.offset < done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THIS: Option<Uuid> = Some(Uuid::from_u128(1));
    const OTHER: Option<Uuid> = Some(Uuid::from_u128(2));

    fn at(offset: i64, topic_id: Option<Uuid>) -> Position {
        Position { offset, leader_epoch: Some(4), topic_id }
    }

    fn offset(committed: Option<Position>, own: OwnPosition) -> (i64, String) {
        let Start { position, warning } = start(committed, own, 10, THIS, None);
        assert_eq!(position.topic_id, THIS);
        (position.offset, warning.unwrap_or_default())
    }

    #[test]
    fn a_service_without_state_starts_at_the_commit_or_at_the_earliest_record() {
        let none = String::new();
        assert_eq!(offset(None, OwnPosition::NotKept), (10, none.clone()));
        assert_eq!(offset(Some(at(50, THIS)), OwnPosition::NotKept), (50, none.clone()));
        assert_eq!(offset(Some(at(50, None)), OwnPosition::NotKept), (50, none));
    }

    #[test]
    fn a_restored_log_is_completed_and_a_new_one_starts_at_the_earliest_record() {
        let (from, warning) = offset(Some(at(50, THIS)), OwnPosition::At(at(30, THIS)));
        assert!(from == 30 && warning.contains("offsets 30 to 49"), "{warning}");
        let (from, warning) = offset(Some(at(50, THIS)), OwnPosition::Empty);
        assert!(from == 10 && warning.contains("offsets 10 to 49"), "{warning}");
        assert_eq!(offset(None, OwnPosition::Empty), (10, String::new()));
        assert_eq!(offset(Some(at(10, THIS)), OwnPosition::Empty), (10, String::new()), "nothing is missing");
    }

    #[test]
    fn a_group_that_was_moved_back_starts_at_the_commit() {
        assert_eq!(offset(Some(at(20, None)), OwnPosition::At(at(30, THIS))), (20, String::new()));
    }

    #[test]
    fn a_lost_commit_leaves_the_services_own_position_where_it_is_of_this_topic() {
        assert_eq!(offset(None, OwnPosition::At(at(30, THIS))), (30, String::new()));
        let (from, warning) = offset(None, OwnPosition::At(at(30, None)));
        assert!(from == 10 && warning.contains("may have been another one"), "{warning}");
        let (from, warning) = offset(Some(at(50, THIS)), OwnPosition::At(at(30, None)));
        assert!(
            from == 10 && warning.contains("may have been another one"),
            "a log of before it was created again"
        );
        // A broker that has no ids.
        assert_eq!(start(None, OwnPosition::At(at(30, None)), 10, None, None).position.offset, 30);
    }

    #[test]
    fn positions_of_another_topic_do_not_count() {
        let (from, warning) = offset(Some(at(50, OTHER)), OwnPosition::NotKept);
        assert!(from == 10 && warning.contains("created again"), "{warning}");
        let (from, warning) = offset(Some(at(50, OTHER)), OwnPosition::At(at(40, None)));
        assert!(from == 10 && warning.contains("created again"), "{warning}");
        assert_eq!(offset(None, OwnPosition::At(at(40, OTHER))).0, 10);
        assert_eq!(
            offset(Some(at(50, OTHER)), OwnPosition::At(at(15, THIS))).0,
            15,
            "its own is of this topic"
        );
    }

    #[test]
    fn what_another_instance_did_is_in_its_state_and_what_this_one_lost_is_read_again() {
        let from = |own, done_here| {
            let Start { position, warning } =
                start(Some(at(50, THIS)), own, 10, THIS, Some(Elsewhere { done_here, moved_from: None }));
            (position.offset, warning.is_some())
        };
        assert_eq!(from(OwnPosition::Empty, None), (50, false), "a newcomer");
        assert_eq!(from(OwnPosition::At(at(30, THIS)), Some(30)), (50, false), "it did its part up to there");
        assert_eq!(from(OwnPosition::At(at(70, THIS)), Some(30)), (50, false), "the group was moved back");
        assert_eq!(from(OwnPosition::At(at(30, None)), Some(30)), (50, false));
        assert_eq!(from(OwnPosition::At(at(20, THIS)), Some(30)), (20, true), "restored from a backup");
        assert_eq!(from(OwnPosition::Empty, Some(30)), (10, true), "lost");
        let moved = |own, moved_from| {
            let elsewhere = Some(Elsewhere { done_here: None, moved_from });
            start(Some(at(50, THIS)), own, 10, THIS, elsewhere).position.offset
        };
        assert_eq!(moved(OwnPosition::At(at(30, THIS)), Some(40)), 40, "moved ahead it skips nothing");
        assert_eq!(moved(OwnPosition::Empty, Some(90)), 50, "moved back it reads again");
        assert_eq!(moved(OwnPosition::NotKept, Some(40)), 50, "a service without a state skips");
    }
}
