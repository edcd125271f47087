//! What a log has of each partition, and whether its lines are in the topic's order.

use std::collections::BTreeMap;

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

/// What a log has of each partition of each topic.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    covered: Vec<Covered>,
    numbers: BTreeMap<String, BTreeMap<i32, usize>>,
    /// The number of the one that was asked for last: many lines of one follow each other.
    last: usize,
}

impl Partitions {
    /// What there is of a partition, of which the next line has that offset.
    pub(super) fn get(&mut self, topic: &str, partition: i32, offset: i64) -> Option<&mut Covered> {
        let is_of = |of: &Covered| of.partition == partition && of.topic == topic;
        if !self.covered.get(self.last).is_some_and(is_of) {
            let known = self.numbers.get(topic).and_then(|of_topic| of_topic.get(&partition));
            self.last = known.copied().unwrap_or_else(|| {
                let number = self.covered.len();
                self.covered.push(Covered::new(topic, partition, offset));
                self.numbers.entry(topic.to_owned()).or_default().insert(partition, number);
                number
            });
        }
        self.covered.get_mut(self.last)
    }

    /// By topic and partition.
    pub(super) fn into_sorted(mut self) -> Vec<Covered> {
        self.covered.sort_by(|one, other| (&one.topic, one.partition).cmp(&(&other.topic, other.partition)));
        self.covered
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

    #[test]
    fn each_partition_of_each_topic_is_known_by_itself_whatever_follows_what() {
        let mut partitions = Partitions::default();
        for offset in 0..3 {
            for (topic, partition) in [("b", 1), ("a", 1), ("b", 0), ("b", 0)] {
                assert!(partitions.get(topic, partition, offset).unwrap().add(offset) != Step::OutOfOrder);
            }
        }
        let found = partitions.into_sorted().into_iter();
        let found: Vec<_> =
            found.map(|of| (of.topic, of.partition, of.first_offset, of.last_offset)).collect();
        let of = |topic: &str, partition| (topic.to_owned(), partition, 0, 2);
        assert_eq!(found, [of("a", 1), of("b", 0), of("b", 1)]);
    }
}
