//! Who owned a partition one after the other, from where, and whether it was given; and what may be done twice then.
//!
//! - An owner starts at the position as it was when it claimed. What is below is done, by whomever, and is not done again.
//! - An owner that gives a partition back has committed all that it did. So what was done before a change in order is not
//!   done again by whoever comes after: there has to be one in between that was killed, or lost its lease.
//! - What Kafka has twice, by a produce without an answer, is known as a copy to whoever had it before, and may be done
//!   again by another owner.

use std::collections::HashSet;

use crate::evidence::{OffsetsEntry, OffsetsSaid};
use harness::requests::Micros;

/// The time from one claim to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn<'a> {
    pub(super) token: i64,
    pub(super) instance: &'a str,
    pub(super) at: Micros,
    /// The position when it was claimed.
    pub(super) start: i64,
    /// The owner before had given it back.
    pub(super) in_order: bool,
    /// When this one gave it back.
    pub(super) released_at: Option<Micros>,
}

/// The turns of a group at one partition. `released`: the places of the commits that gave it back.
pub(super) fn turns<'a>(offsets: &'a [OffsetsEntry], released: &[i64], group: &str) -> Vec<Turn<'a>> {
    let released: HashSet<i64> = released.iter().copied().collect();
    let mut turns: Vec<Turn<'a>> = Vec::new();
    let mut position: Option<(i64, i64)> = None;
    for entry in offsets.iter().filter(|entry| entry.group == group) {
        match &entry.said {
            OffsetsSaid::Claim { instance_id, claimed_at } => turns.push(Turn {
                token: entry.at,
                instance: instance_id,
                at: *claimed_at,
                start: position.map_or(0, |(_, offset)| offset),
                in_order: turns.last().is_some_and(|before| before.released_at.is_some()),
                released_at: None,
            }),
            OffsetsSaid::Commit { token, offset, committed_at, .. } => {
                if position.is_none_or(|(newest, _)| newest <= *token) {
                    position = Some((*token, *offset));
                }
                if let Some(turn) = turns.last_mut().filter(|turn| turn.token == *token) {
                    turn.released_at = Some(*committed_at).filter(|_| released.contains(&entry.at));
                }
            }
        }
    }
    turns
}

/// A piece of work that was done, by whom and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Copy<'a> {
    pub(super) instance: &'a str,
    pub(super) at: Micros,
    /// The event's offset.
    pub(super) offset: i64,
}

/// What explains that an event was done several times, or why nothing does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Why {
    /// It was in flight when the partition changed hands.
    InFlight,
    /// Kafka has it twice, and the partition changed hands in between.
    TwiceInTopic,
    /// Nothing.
    Unexplained(String),
}

/// `is_twice`: Kafka has the event at several offsets.
pub(super) fn why_repeated(turns: &[Turn<'_>], copies: &[Copy<'_>], is_twice: bool) -> Why {
    let mut placed = Vec::new();
    for copy in copies {
        let place = turns.iter().rposition(|turn| turn.instance == copy.instance && turn.at <= copy.at);
        match place {
            Some(place) => placed.push((place, copy.offset)),
            None => return Why::Unexplained(format!("{} had claimed nothing by then", copy.instance)),
        }
    }
    placed.sort_unstable();
    for (earlier, later) in placed.iter().zip(placed.iter().skip(1)) {
        let ((before, _), (after, offset)) = (*earlier, *later);
        let between = turns.get(before + 1..=after).unwrap_or_default();
        let Some(last) = between.last() else {
            return Why::Unexplained("the same owner did it again".to_owned());
        };
        if is_twice {
            continue;
        }
        if last.start > offset {
            return Why::Unexplained(format!(
                "{} did it again, and started at {} by its claim with token {}",
                last.instance, last.start, last.token
            ));
        }
        if between.iter().all(|turn| turn.in_order) {
            return Why::Unexplained(format!("it was given in order to {}", last.instance));
        }
    }
    if is_twice { Why::TwiceInTopic } else { Why::InFlight }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(at: i64, instance: &str) -> OffsetsEntry {
        let said = OffsetsSaid::Claim { instance_id: instance.to_owned(), claimed_at: at };
        OffsetsEntry { at, group: "g".to_owned(), said }
    }

    fn commit(at: i64, token: i64, offset: i64) -> OffsetsEntry {
        let instance_id = String::new();
        let said = OffsetsSaid::Commit { token, offset, topic_id: None, instance_id, committed_at: at };
        OffsetsEntry { at, group: "g".to_owned(), said }
    }

    fn copy(instance: &str, at: Micros, offset: i64) -> Copy<'_> {
        Copy { instance, at, offset }
    }

    #[test]
    fn what_was_in_flight_at_a_kill_is_explained_and_nothing_else() {
        let log = [claim(0, "a"), commit(1, 0, 50), claim(9, "b"), commit(10, 9, 60)];
        let killed = turns(&log, &[], "g");
        assert_eq!(why_repeated(&killed, &[copy("a", 5, 52), copy("b", 9, 52)], false), Why::InFlight);
        let wrong = [
            // Below the position at the claim.
            [copy("a", 5, 49), copy("b", 9, 49)],
            // By the same owner.
            [copy("b", 9, 52), copy("b", 10, 52)],
            // By one that had claimed nothing yet.
            [copy("a", 5, 52), copy("b", 8, 52)],
        ];
        for copies in wrong {
            assert!(matches!(why_repeated(&killed, &copies, false), Why::Unexplained(_)), "{copies:?}");
        }
        // Given in order.
        let given = turns(&log, &[1], "g");
        let copies = [copy("a", 5, 52), copy("b", 9, 52)];
        assert!(matches!(why_repeated(&given, &copies, false), Why::Unexplained(_)));
        assert_eq!(why_repeated(&given, &[copy("a", 5, 49), copy("b", 9, 55)], true), Why::TwiceInTopic);
    }

    #[test]
    fn a_kill_before_a_change_in_order_explains_what_comes_after_it() {
        let log = [claim(0, "a"), claim(5, "b"), commit(6, 5, 50), claim(9, "c")];
        let turns = turns(&log, &[6], "g");
        assert!(!turns[1].in_order && turns[2].in_order);
        assert_eq!(why_repeated(&turns, &[copy("a", 2, 52), copy("c", 9, 52)], false), Why::InFlight);
    }
}
