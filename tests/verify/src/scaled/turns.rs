//! Who owned a partition one after the other, from where, and whether it was given; and what may be done twice then.
//!
//! - An owner starts at the position as it was when it claimed. What is below is done, by whomever, and is not done again.
//! - An owner that gives a partition back has committed all that it did. So what was done before a change in order is not
//!   done again by whoever comes after: there has to be one in between that was killed, or lost its lease.
//! - What Kafka has twice, by a produce without an answer, is known as a copy to whoever had it before, and may be done
//!   again by another owner.

use std::collections::HashMap;

use super::evidence::Release;
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
    /// To whom, where it named one.
    pub(super) to: Option<&'a str>,
    /// When it claimed or committed last, and before that: what came before is known to have been in the log by the last.
    pub(super) last_sign: Micros,
    pub(super) earlier_sign: Option<Micros>,
}

/// The turns of a group at one partition. `released`: the commits that gave it back.
pub(super) fn turns<'a>(offsets: &'a [OffsetsEntry], released: &'a [Release], group: &str) -> Vec<Turn<'a>> {
    let released: HashMap<i64, &Release> = released.iter().map(|release| (release.at, release)).collect();
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
                to: None,
                last_sign: *claimed_at,
                earlier_sign: None,
            }),
            OffsetsSaid::Commit { token, offset, committed_at, .. } => {
                if position.is_none_or(|(newest, _)| newest <= *token) {
                    position = Some((*token, *offset));
                }
                if let Some(turn) = turns.last_mut().filter(|turn| turn.token == *token) {
                    let release = released.get(&entry.at);
                    turn.released_at = release.map(|_| *committed_at);
                    turn.to = release.and_then(|release| release.to.as_deref());
                    turn.earlier_sign = Some(turn.last_sign);
                    turn.last_sign = *committed_at;
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
    /// The event's offset; the last one, where it is not known which of several it was.
    pub(super) offset: i64,
    /// Whether it is that of this copy.
    pub(super) is_exact: bool,
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
            Some(place) => placed.push((place, copy.offset, copy.is_exact)),
            None => return Why::Unexplained(format!("{} had claimed nothing by then", copy.instance)),
        }
    }
    placed.sort_unstable();
    for (earlier, later) in placed.iter().zip(placed.iter().skip(1)) {
        let ((before, first, is_exact), (after, offset, _)) = (*earlier, *later);
        let between = turns.get(before + 1..=after).unwrap_or_default();
        let Some(last) = between.last() else {
            return Why::Unexplained("the same owner did it again".to_owned());
        };
        // Copies of one offset are no copies that Kafka has.
        if is_twice && !(is_exact && first == offset) {
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
        Copy { instance, at, offset, is_exact: true }
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
        let released = [Release { at: 1, to: None }];
        let given = turns(&log, &released, "g");
        let copies = [copy("a", 5, 52), copy("b", 9, 52)];
        assert!(matches!(why_repeated(&given, &copies, false), Why::Unexplained(_)));
        assert_eq!(why_repeated(&given, &[copy("a", 5, 49), copy("b", 9, 55)], true), Why::TwiceInTopic);
        // Kafka has it twice, and one of the two was done twice.
        assert!(matches!(why_repeated(&given, &copies, true), Why::Unexplained(_)));
    }

    #[test]
    fn a_kill_before_a_change_in_order_explains_what_comes_after_it() {
        let log = [claim(0, "a"), claim(5, "b"), commit(6, 5, 50), claim(9, "c")];
        let released = [Release { at: 6, to: None }];
        let turns = turns(&log, &released, "g");
        assert!(!turns[1].in_order && turns[2].in_order);
        assert_eq!(why_repeated(&turns, &[copy("a", 2, 52), copy("c", 9, 52)], false), Why::InFlight);
    }
}
