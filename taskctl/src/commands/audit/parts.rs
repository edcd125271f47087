//! What one log has of a partition, where several logs have a part each.
//!
//! Lines come in the order of the log. An offset that is not above the one before it is either one that had a line
//! already (the topic was recreated or truncated: all starts again) or fills a hole: after an operator moved the group
//! back, an instance writes what its log lacks.

use std::collections::BTreeMap;

/// How a line follows those before it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// In order.
    Forward,
    /// Into a hole of this log.
    Fill,
    /// The topic starts again.
    Restart,
}

/// One partition in one log.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// Offsets that follow each other without a gap, in the order of their lines.
    stretches: Vec<(i64, i64)>,
    /// The same since the topic last started again, by their first offset.
    covered: BTreeMap<i64, i64>,
    highest: Option<i64>,
}

impl Part {
    /// Takes the next line.
    pub(super) fn add(&mut self, offset: i64) -> Step {
        let step = match self.highest {
            Some(highest) if offset <= highest && self.has(offset) => {
                self.covered.clear();
                self.highest = None;
                Step::Restart
            }
            Some(highest) if offset <= highest => Step::Fill,
            _ => Step::Forward,
        };
        match self.stretches.last_mut() {
            Some((first, last)) if step != Step::Restart && offset == *last + 1 => {
                *last = offset;
                self.covered.insert(*first, offset);
            }
            _ => {
                self.stretches.push((offset, offset));
                self.covered.insert(offset, offset);
            }
        }
        self.highest = self.highest.max(Some(offset));
        step
    }

    fn has(&self, offset: i64) -> bool {
        self.covered.range(..=offset).next_back().is_some_and(|(_, last)| offset <= *last)
    }

    /// Whether it has any offset between the two.
    pub(super) fn has_between(&self, last: i64, next: i64) -> bool {
        self.covered.range(..next).next_back().is_some_and(|(_, end)| (*end).min(next - 1) > last)
    }

    fn begins_at(&self, offset: i64) -> bool {
        self.stretches.iter().any(|(first, _)| *first == offset)
    }

    fn ends_at(&self, offset: i64) -> bool {
        self.stretches.iter().any(|(_, last)| *last == offset)
    }

    /// What it covers now.
    pub(super) fn covered(&self) -> impl Iterator<Item = (i64, i64)> + '_ {
        self.covered.iter().map(|(first, last)| (*first, *last))
    }
}

/// Whether lines that are in both logs look like what was in flight when a partition changed hands: one log ends or
/// pauses with them, and one of them begins or goes on with them.
pub(super) fn is_hand_over(one: &Part, other: &Part, first: i64, last: i64) -> bool {
    (one.ends_at(last) || other.ends_at(last)) && (one.begins_at(first) || other.begins_at(first))
}

/// The ranges between the first and the last offset that no log covers.
pub(super) fn holes<'a>(parts: impl Iterator<Item = &'a Part>) -> Vec<(i64, i64)> {
    let mut covered: Vec<(i64, i64)> = parts.flat_map(Part::covered).collect();
    covered.sort_unstable();
    let mut holes = Vec::new();
    let mut reached = covered.first().map_or(0, |(first, _)| *first);
    for (first, last) in covered {
        if first > reached {
            holes.push((reached, first - 1));
        }
        reached = reached.max(last + 1);
    }
    holes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(offsets: impl IntoIterator<Item = i64>) -> (Part, usize, usize) {
        let (mut part, mut fills, mut restarts) = (Part::default(), 0, 0);
        for offset in offsets {
            match part.add(offset) {
                Step::Forward => {}
                Step::Fill => fills += 1,
                Step::Restart => restarts += 1,
            }
        }
        (part, fills, restarts)
    }

    #[test]
    fn a_log_that_is_completed_fills_its_holes_and_a_topic_that_starts_again_does_not() {
        let (filled, fills, restarts) = part((0..51).chain(100..200).chain(51..100).chain(200..210));
        assert_eq!((fills, restarts), (49, 0));
        assert_eq!(holes([filled].iter()), []);
        let (_, fills, restarts) = part((100..200).chain(51..100).chain(200..210));
        assert_eq!((fills, restarts), (49, 0), "before its first line, too");
        let (again, fills, restarts) = part([0, 1, 5, 0, 3, 9]);
        assert_eq!((fills, restarts), (0, 1));
        assert_eq!(holes([again].iter()), [(1, 2), (4, 8)], "of the topic as it is now");
    }

    #[test]
    fn what_is_between_two_offsets_is_neither_of_them() {
        let (part, ..) = part((0..10).chain(20..30));
        assert!(!part.has_between(3, 4) && !part.has_between(9, 20) && !part.has_between(12, 15));
        assert!(part.has_between(3, 5) && part.has_between(9, 22) && part.has_between(8, 15));
    }

    #[test]
    fn holes_are_what_no_log_has() {
        let parts = [part((0..50).chain(100..120)).0, part(40..90).0];
        assert_eq!(holes(parts.iter()), [(90, 99)]);
    }

    #[test]
    fn an_overlap_at_the_end_of_one_log_and_the_start_of_another_is_a_hand_over() {
        let (killed, next) = (part(0..52).0, part(50..90).0);
        assert!(is_hand_over(&killed, &next, 50, 51) && is_hand_over(&next, &killed, 50, 51));
        let (inner, all) = (part(20..30).0, part(0..90).0);
        assert!(is_hand_over(&inner, &all, 20, 29), "taken over, and given back");
        assert!(!is_hand_over(&all, &part(10..90).0, 20, 40), "in the middle of both");
    }
}
