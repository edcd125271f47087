//! When the end of a partition was seen where: tells for how long a group has been behind.
//!
//! The first record that a group has yet to handle came at or before the moment when the end of the log was first
//! seen behind it. kafka-lag-exporter estimates lag in seconds in the same way. What it does not know, how old the
//! records are that were there before this process, the owner adds from the record in flight.

use std::collections::VecDeque;

use tokio::time::{Duration, Instant};

/// Ends that were seen at times closer to each other than this are one: lag is that exact.
const RESOLUTION: Duration = Duration::from_millis(100);
/// Ends that are remembered, 16 bytes each. Beyond that every other one is forgotten, but for the oldest.
const MAX_ENDS: usize = 1_024;

/// The ends that were seen and are not reached yet, with the time when each was first seen.
#[derive(Debug, Default)]
pub(super) struct LogEnds(VecDeque<(i64, Instant)>);

impl LogEnds {
    /// The log ends there now.
    pub(super) fn saw(&mut self, end: i64, now: Instant) {
        match self.0.back_mut() {
            Some((last, _)) if *last == end => return,
            // The topic was recreated or cut: what was seen before says nothing.
            Some((last, _)) if *last > end => self.0.clear(),
            Some((last, at)) if now < *at + RESOLUTION => {
                *last = end;
                return;
            }
            _ => {}
        }
        if self.0.len() == MAX_ENDS {
            let mut number = 0;
            self.0.retain(|_| {
                number += 1;
                number % 2 == 1
            });
        }
        self.0.push_back((end, now));
    }

    /// All below the position is done.
    pub(super) fn reached(&mut self, position: i64) {
        while self.0.front().is_some_and(|(end, _)| *end <= position) {
            self.0.pop_front();
        }
    }

    /// Since when the position has been behind, if it is.
    pub(super) fn behind_since(&self, position: i64) -> Option<Instant> {
        self.0.iter().find(|(end, _)| *end > position).map(|(_, at)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_behind_since_the_end_moved_past_its_position() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut ends = LogEnds::default();
        ends.saw(10, at(0));
        ends.reached(10);
        assert_eq!(ends.behind_since(10), None);
        // An hour without an event is no lag.
        ends.saw(11, at(3_600));
        ends.saw(20, at(3_605));
        assert_eq!(ends.behind_since(10), Some(at(3_600)));
        ends.reached(11);
        assert_eq!(ends.behind_since(11), Some(at(3_605)));
        ends.reached(25);
        assert_eq!(ends.behind_since(25), None);
        // Recreated.
        ends.saw(30, at(3_610));
        ends.saw(3, at(3_620));
        assert_eq!(ends.behind_since(0), Some(at(3_620)));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_keeps_the_oldest() {
        let start = Instant::now();
        let mut ends = LogEnds::default();
        for number in 0..10_000 {
            ends.saw(i64::from(number) + 1, start + RESOLUTION * number);
        }
        assert!(ends.0.len() <= MAX_ENDS);
        assert_eq!(ends.behind_since(0), Some(start));
        let middle = ends.behind_since(5_000).unwrap().duration_since(start);
        let exact = RESOLUTION * 5_000;
        assert!(middle >= exact && middle < exact + Duration::from_secs(60), "{middle:?}");
    }

    #[test]
    fn ends_that_move_all_the_time_are_few() {
        let start = Instant::now();
        let mut ends = LogEnds::default();
        for number in 0..1_000 {
            ends.saw(i64::from(number) + 1, start + Duration::from_millis(1) * number);
        }
        assert!(ends.0.len() <= 11, "{}", ends.0.len());
    }
}
