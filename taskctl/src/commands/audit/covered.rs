//! What a log has of a partition, and whether its lines are in the topic's order.

use serde::Serialize;

/// Runs of offsets that are kept of a partition: their memory is bounded, whatever is missing between them.
const MAX_RUNS: usize = 65_536;

/// What a log has of one partition.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Covered {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) lines: u64,
    pub(super) first_offset: i64,
    pub(super) last_offset: i64,
    /// The offsets that have a line, since the topic last started again.
    #[serde(skip)]
    runs: Vec<(i64, i64)>,
}

/// How a line's offset follows those before it in its partition.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// In order.
    Forward,
    /// Another event had that offset, or all before it have later ones: it is another topic of that name, or what is
    /// left of one that was truncated.
    Restart,
    /// Between lines that were there, where none was.
    OutOfOrder,
}

impl Covered {
    pub(super) fn new(topic: &str, partition: i32, offset: i64) -> Self {
        let (topic, runs) = (topic.to_owned(), Vec::new());
        Self { topic, partition, lines: 0, first_offset: offset, last_offset: -1, runs }
    }

    /// Takes the next line.
    pub(super) fn add(&mut self, offset: i64) -> Step {
        self.lines += 1;
        match self.runs.last_mut() {
            Some((_, last)) if offset == *last + 1 => *last = offset,
            Some((_, last)) if offset > *last => self.begin_run(offset),
            None => self.runs.push((offset, offset)),
            Some(_) => {
                let had_one = self.runs.iter().rev().any(|(first, last)| (*first..=*last).contains(&offset));
                if !had_one && self.runs.first().is_some_and(|(first, _)| *first < offset) {
                    return Step::OutOfOrder;
                }
                self.runs = vec![(offset, offset)];
                self.first_offset = offset.min(self.first_offset);
                self.last_offset = offset;
                return Step::Restart;
            }
        }
        self.last_offset = offset;
        Step::Forward
    }

    fn begin_run(&mut self, offset: i64) {
        if self.runs.len() >= MAX_RUNS {
            // The older half becomes one: what fills a gap in it counts as a restart.
            let newer = self.runs.split_off(MAX_RUNS / 2);
            let ends = self.runs.first().zip(self.runs.last()).map(|((first, _), (_, last))| (*first, *last));
            self.runs = ends.into_iter().chain(newer).collect();
        }
        self.runs.push((offset, offset));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_where_every_other_offset_is_missing() {
        let mut covered = Covered::new("t", 0, 0);
        for offset in 0..3 * MAX_RUNS as i64 {
            assert_eq!(covered.add(2 * offset), Step::Forward);
            assert!(covered.runs.len() <= MAX_RUNS);
        }
        let last = covered.last_offset;
        assert_eq!(covered.add(last - 1), Step::OutOfOrder);
        assert_eq!(covered.add(last + 1), Step::Forward);
        assert_eq!(covered.add(0), Step::Restart);
    }
}
